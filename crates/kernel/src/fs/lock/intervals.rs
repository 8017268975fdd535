//! Ranges of many owners, which may overlap, ordered by their starts: a treap whose nodes know how far the ranges below
//! them reach, and whether all of those are one owner's. Its shape is random, so that nobody can make it deep.

use std::cmp::Ordering;
use std::hash::{BuildHasher, RandomState};

use super::{Owner, Record};

#[derive(Default)]
pub(super) struct Intervals {
    root: Link,
    random: RandomState,
    made: u64,
}

type Link = Option<Box<Node>>;

struct Node {
    record: Record,
    /// No less than those of the nodes below.
    priority: u64,
    /// The greatest end here and below.
    reach: u64,
    /// Whose all ranges here and below are, if they are one's.
    only: Option<Owner>,
    left: Link,
    right: Link,
}

impl Node {
    fn settle(&mut self) {
        self.reach = self.record.end;
        self.only = Some(self.record.owner);
        for child in [&self.left, &self.right].into_iter().flatten() {
            self.reach = self.reach.max(child.reach);
            self.only = self.only.filter(|only| child.only == Some(*only));
        }
    }
}

/// An owner's ranges do not overlap: this names one.
type Key = (u64, Owner);

fn key(record: &Record) -> Key {
    (record.start, record.owner)
}

impl Intervals {
    /// Adds a range, of whose start and owner there is none yet.
    pub(super) fn insert(&mut self, record: Record) {
        self.made += 1;
        let priority = self.random.hash_one(self.made);
        let (left, right) = split(self.root.take(), &key(&record));
        let mut node = Node { record, priority, reach: 0, only: None, left: None, right: None };
        node.settle();
        self.root = join(join(left, Some(Box::new(node))), right);
    }

    pub(super) fn remove(&mut self, record: &Record) {
        let (left, rest) = split(self.root.take(), &key(record));
        self.root = join(left, without_first(rest, &key(record)));
    }

    /// The first range that overlaps `wanted` and is another's.
    pub(super) fn first_of_others(&self, wanted: &Record) -> Option<Record> {
        first(&self.root, wanted)
    }
}

/// What lies before `at`, and the rest.
fn split(link: Link, at: &Key) -> (Link, Link) {
    let Some(mut node) = link else { return (None, None) };
    if key(&node.record) < *at {
        let (left, right) = split(node.right.take(), at);
        node.right = left;
        node.settle();
        (Some(node), right)
    } else {
        let (left, right) = split(node.left.take(), at);
        node.left = right;
        node.settle();
        (left, Some(node))
    }
}

/// All of `left` lies before all of `right`.
fn join(left: Link, right: Link) -> Link {
    match (left, right) {
        (None, link) | (link, None) => link,
        (Some(mut left), Some(mut right)) => {
            if left.priority > right.priority {
                left.right = join(left.right.take(), Some(right));
                left.settle();
                Some(left)
            } else {
                right.left = join(Some(left), right.left.take());
                right.settle();
                Some(right)
            }
        }
    }
}

/// Without the first range, if that is the one.
fn without_first(link: Link, which: &Key) -> Link {
    let mut node = link?;
    if node.left.is_some() {
        node.left = without_first(node.left.take(), which);
        node.settle();
        return Some(node);
    }
    if key(&node.record).cmp(which) == Ordering::Equal { node.right.take() } else { Some(node) }
}

fn first(link: &Link, wanted: &Record) -> Option<Record> {
    let node = link.as_ref()?;
    if node.reach < wanted.start || node.only == Some(wanted.owner) {
        return None;
    }
    first(&node.left, wanted).or_else(|| {
        if node.record.start > wanted.end {
            return None;
        }
        let stands = node.record.owner != wanted.owner && node.record.end >= wanted.start;
        if stands { Some(node.record) } else { first(&node.right, wanted) }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(start: u64, len: u64, owner: u64) -> Record {
        Record { start, end: start + len, exclusive: false, owner: Owner::Posix(owner), pid: 0 }
    }

    proptest! {
        #[test]
        fn it_finds_what_a_search_of_all_finds(
            steps in proptest::collection::vec((0u64..60, 0u64..20, 0u64..4, any::<bool>()), 1..200)
        ) {
            let (mut tree, mut all) = (Intervals::default(), Vec::<Record>::new());
            for (start, len, owner, add) in steps {
                let one = record(start, len, owner);
                let same = |other: &Record| key(other) == key(&one);
                match all.iter().position(same) {
                    Some(at) if !add => {
                        all.swap_remove(at);
                        tree.remove(&one);
                    }
                    None if add => {
                        all.push(one);
                        tree.insert(one);
                    }
                    _ => tree.remove(&record(start, len, 99)),
                }
                let overlaps = |held: &&Record| {
                    held.owner != one.owner && held.start <= one.end && one.start <= held.end
                };
                let expected = all.iter().filter(overlaps).min_by_key(|held| key(held)).copied();
                prop_assert_eq!(tree.first_of_others(&one), expected);
            }
        }
    }

    #[test]
    fn it_stays_flat_whatever_the_order() {
        fn depth(link: &Link) -> usize {
            link.as_ref().map_or(0, |node| 1 + depth(&node.left).max(depth(&node.right)))
        }
        let mut tree = Intervals::default();
        for start in 0..100_000 {
            tree.insert(record(start, 0, start % 3));
        }
        assert!(depth(&tree.root) < 100, "{}", depth(&tree.root));
    }
}
