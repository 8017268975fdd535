//! Which numbers are in use, so that the lowest free one is found however many there are: a bit for each, a bit for each
//! word of these that is full, and so on (`find_next_fd()` in fs/file.c has two levels).

/// Levels: enough for 2^30 numbers, of which Linux has no more (`sysctl_nr_open_max`).
const LEVELS: usize = 5;
const BITS: usize = u64::BITS as usize;

/// Numbers in use.
#[derive(Clone, Debug, Default)]
pub(crate) struct Numbers {
    /// In `levels[0]` a bit is set for a number in use; above, for a word below that has all bits set.
    levels: [Vec<u64>; LEVELS],
}

impl Numbers {
    pub(crate) fn set(&mut self, number: usize, used: bool) {
        let mut at = number;
        for level in &mut self.levels {
            let (index, bit) = (at / BITS, 1 << (at % BITS));
            if level.len() <= index {
                level.resize(index + 1, 0);
            }
            let Some(word) = level.get_mut(index) else { return };
            let was_full = *word == u64::MAX;
            *word = if used { *word | bit } else { *word & !bit };
            if was_full == (*word == u64::MAX) {
                return;
            }
            at = index;
        }
    }

    /// The lowest free number that is not below `lowest`.
    pub(crate) fn free(&self, lowest: usize) -> usize {
        let (mut at, mut level) = (lowest, 0);
        // Up, as long as there is none in the rest of the word.
        loop {
            let Some(found) = self.free_in_word(level, at) else {
                if level + 1 == LEVELS {
                    return usize::MAX;
                }
                (at, level) = (at / BITS + 1, level + 1);
                continue;
            };
            at = found;
            break;
        }
        // And down again, to the first in each.
        while level > 0 {
            level -= 1;
            at = self.free_in_word(level, at * BITS).unwrap_or(at * BITS);
        }
        at
    }

    /// The first free place at or behind `at` in the same word.
    fn free_in_word(&self, level: usize, at: usize) -> Option<usize> {
        let word = self.levels.get(level).and_then(|level| level.get(at / BITS)).copied().unwrap_or(0);
        let free = !word & (u64::MAX << (at % BITS));
        (free != 0).then(|| at - at % BITS + free.trailing_zeros() as usize)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_lowest_free_is_found(
            steps in proptest::collection::vec((0usize..5000, any::<bool>(), 0usize..5000), 1..300),
            dense in 0usize..9000,
        ) {
            let (mut numbers, mut all) = (Numbers::default(), BTreeSet::new());
            for number in 0..dense {
                numbers.set(number, true);
                all.insert(number);
            }
            for (number, used, lowest) in steps {
                numbers.set(number, used);
                if used { all.insert(number) } else { all.remove(&number) };
                let expected = (lowest..).find(|number| !all.contains(number)).unwrap();
                prop_assert_eq!(numbers.free(lowest), expected);
            }
        }
    }

    #[test]
    fn a_million_are_no_search() {
        let mut numbers = Numbers::default();
        for number in 0..1_000_000 {
            assert_eq!(numbers.free(0), number);
            numbers.set(number, true);
        }
        for lowest in 0..1_000_000 {
            assert_eq!(numbers.free(lowest), 1_000_000);
        }
        numbers.set(70_000, false);
        assert_eq!((numbers.free(3), numbers.free(70_001)), (70_000, 1_000_000));
    }
}
