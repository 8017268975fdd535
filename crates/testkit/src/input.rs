//! Deterministic input: the same bytes on every machine, in every run, with no file in the repository.

use std::fmt::Write as _;

/// What an input file holds. Sizes are in KiB and rounded up to a whole line where there are lines.
#[derive(Clone, Debug)]
pub enum Content {
    /// Exactly these bytes.
    Exact(Vec<u8>),
    /// Lines of lower-case words, with repetitions, as prose has.
    Text(usize),
    /// Bytes that do not compress.
    Bytes(usize),
    /// Lines `id,name,department,amount`.
    Csv(usize),
    /// One signed number on each line.
    Numbers(usize),
}

impl Content {
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Content::Exact(bytes) => bytes.clone(),
            Content::Text(kib) => lines(*kib, |rng, line| {
                for i in 0..4 + rng.below(9) {
                    let space = if i == 0 { "" } else { " " };
                    let _ = write!(line, "{space}{}", rng.word());
                }
            }),
            Content::Csv(kib) => {
                let mut id = 0;
                lines(*kib, |rng, line| {
                    id += 1;
                    let (name, department) = (rng.word(), rng.below(12));
                    let _ = write!(line, "{id},{name},dep{department},{}", rng.below(100_000));
                })
            }
            Content::Numbers(kib) => lines(*kib, |rng, line| {
                let _ = write!(line, "{}", i64::from(rng.below(2_000_000)) - 1_000_000);
            }),
            Content::Bytes(kib) => {
                let mut rng = Rng::new(0xb17e5);
                (0..kib * 1024).map(|_| rng.below(256) as u8).collect()
            }
        }
    }
}

impl From<&str> for Content {
    fn from(text: &str) -> Self {
        Content::Exact(text.as_bytes().to_vec())
    }
}

fn lines(kib: usize, mut one: impl FnMut(&mut Rng, &mut String)) -> Vec<u8> {
    let mut rng = Rng::new(0x0c0ac1e);
    let mut all = String::with_capacity(kib * 1024 + 256);
    while all.len() < kib * 1024 {
        one(&mut rng, &mut all);
        all.push('\n');
    }
    all.into_bytes()
}

/// A 64-bit linear congruential generator (Knuth's MMIX constants); the high half is what is used.
struct Rng(u64);

impl Rng {
    fn new(seed: u64) -> Self {
        Rng(seed)
    }

    fn below(&mut self, n: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % u64::from(n)) as u32
    }

    /// One of some 800 words; low numbers are drawn more often, so that counts differ.
    fn word(&mut self) -> String {
        const HEAD: [&str; 20] = [
            "al", "be", "cor", "den", "el", "far", "gan", "hul", "is", "ker", "lo", "mar", "nor", "or", "pel",
            "quo", "ra", "sun", "tor", "vel",
        ];
        const TAIL: [&str; 8] = ["a", "ex", "ian", "o", "ack", "ine", "um", "th"];
        let (i, j) = (self.below(20), self.below(20));
        let head = HEAD.get(i.min(j) as usize).copied().unwrap_or("x");
        let tail = TAIL.get(self.below(8) as usize).copied().unwrap_or("y");
        match self.below(3) {
            0 => format!("{head}{tail}"),
            1 => format!("{head}{head}{tail}"),
            _ => head.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_the_same_every_time_and_large_enough() {
        for content in [Content::Text(100), Content::Bytes(100), Content::Csv(100), Content::Numbers(100)] {
            let bytes = content.bytes();
            assert!(bytes.len() >= 100 * 1024, "{content:?}");
            assert_eq!(bytes, content.bytes(), "{content:?}");
        }
    }
}
