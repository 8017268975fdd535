//! What changed: a walk over it, a name at a time. It holds the way down and nothing else, however large and deep a guest
//! has made the tree.

use std::collections::BinaryHeap;
use std::sync::Arc;

use super::OverlayFs;
use super::node::{Entry, Node};
use crate::fs::{Access, Inode};
use crate::{Errno, Result};

/// What happened to a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Added,
    Modified,
    Deleted,
}

/// Names of an overlay that differ from the lower tree's, and the directories on the way: each directory before its
/// contents, its names in the order of their bytes.
pub struct Changes<'a> {
    levels: Vec<Level>,
    path: Vec<u8>,
    skip: &'a [&'a [u8]],
}

/// A directory that the walk is in.
struct Level {
    directory: Arc<Node>,
    /// Made or moved here: everything in it is new at this place.
    added: bool,
    /// Names of the lower directory that are still to come if `added`, the next one last.
    lower: Vec<Box<[u8]>>,
    /// Names that differ and are still to come, the next one last: a part of them.
    changed: Vec<Box<[u8]>>,
    /// Those up to this one have been in `changed`; `None` if all have.
    through: Option<Box<[u8]>>,
    /// So long was the path of this directory.
    path: usize,
}

/// A step of the walk.
pub enum Step {
    /// A name: [`Changes::path`] says where, [`Changes::name`] what it is called.
    Name(Found),
    /// The contents of a directory are through.
    Leave,
}

/// What a name is about.
pub struct Found {
    /// `None` for a directory that is on the way to changes only.
    pub kind: Option<Kind>,
    /// What it names now. If that is a directory, its contents follow, and a [`Step::Leave`].
    pub node: Option<Arc<Node>>,
    /// The directory was moved here and cannot be listed: of its contents only those follow that are new in it.
    pub unlisted: Option<Errno>,
}

impl Found {
    /// It is a directory.
    pub fn is_directory(&self) -> bool {
        self.node.as_ref().is_some_and(|node| node.is_dir())
    }
}

impl OverlayFs {
    /// All changes. `skip` names paths that do not count as changed (the sandbox's own mount points); what is below
    /// them does.
    pub fn changes<'a>(&self, skip: &'a [&'a [u8]]) -> Changes<'a> {
        let top = Level::new(self.root.clone(), 0);
        Changes { levels: vec![top], path: Vec::new(), skip }
    }
}

impl Changes<'_> {
    /// The path of the last step's name, from the overlay's top, with a leading slash.
    pub fn path(&self) -> &[u8] {
        &self.path
    }

    /// Its last component.
    pub fn name(&self) -> &[u8] {
        self.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
    }

    /// The next step.
    pub fn step(&mut self) -> Option<Step> {
        loop {
            let level = self.levels.last_mut()?;
            self.path.truncate(level.path);
            let Some((name, node)) = level.next() else {
                self.levels.pop();
                // The top has nobody to be told of.
                return (!self.levels.is_empty()).then_some(Step::Leave);
            };
            self.path.push(b'/');
            self.path.extend_from_slice(&name);
            if let Some(found) = self.look(&name, node) {
                return Some(Step::Name(found));
            }
        }
    }

    /// What there is to say of a name of the directory that the walk is in.
    fn look(&mut self, name: &[u8], node: Option<Arc<Node>>) -> Option<Found> {
        let level = self.levels.last()?;
        let counts = !self.skip.contains(&self.path.as_slice());
        let Some(node) = node else {
            let there = counts && level.directory.lower.as_ref().is_some_and(|lower| lower.lookup(name).is_ok());
            return there.then_some(Found { kind: Some(Kind::Deleted), node: None, unlisted: None });
        };
        let at_home = !level.added && node.is_at_home(&level.directory, name);
        let kind = match at_home {
            false => Some(Kind::Added),
            true => node.differs().then_some(Kind::Modified),
        };
        let kind = kind.filter(|_| counts);
        let unlisted = if node.is_dir() { self.enter(&node, !at_home).err() } else { None };
        (kind.is_some() || node.is_dir()).then_some(Found { kind, node: Some(node), unlisted })
    }

    fn enter(&mut self, node: &Arc<Node>, added: bool) -> Result<()> {
        let lower = match &node.lower {
            Some(lower) if added && !lower.served(Access::READ | Access::EXEC) => Err(Errno::EACCES),
            Some(lower) if added => lower.list().map(|listed| {
                let mut names: Vec<_> = listed.into_iter().map(|listed| listed.name).collect();
                names.sort_unstable_by(|a, b| b.cmp(a));
                names
            }),
            _ => Ok(Vec::new()),
        };
        let (lower, failed) = match lower {
            Ok(lower) => (lower, Ok(())),
            Err(error) => (Vec::new(), Err(error)),
        };
        self.levels.push(Level { added, lower, ..Level::new(node.clone(), self.path.len()) });
        failed
    }
}

/// A name and what it leads to, if anything.
type Name = (Box<[u8]>, Option<Arc<Node>>);

/// The names of a directory that differ are looked for by parts of this share: what is held is little beside what the
/// directory holds, and it is gone through a few times only.
const PARTS: usize = 16;
const LEAST: usize = 8;

impl Level {
    fn new(directory: Arc<Node>, path: usize) -> Level {
        let mut level =
            Level { directory, added: false, lower: Vec::new(), changed: Vec::new(), through: None, path };
        level.search();
        level
    }

    /// The next name in order, of those that differ from the lower directory's or, if that is new here, of both.
    fn next(&mut self) -> Option<Name> {
        loop {
            if self.changed.is_empty() && self.through.is_some() {
                self.search();
            }
            let changed = match (self.changed.last(), self.lower.last()) {
                (Some(changed), Some(shown)) => {
                    let (first, both) = (changed <= shown, changed == shown);
                    if both {
                        self.lower.pop();
                    }
                    first
                }
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (None, None) => return None,
            };
            if !changed {
                let name = self.lower.pop()?;
                let Ok(node) = self.directory.find(&name, false) else { continue };
                return Some((name, Some(node)));
            }
            let name = self.changed.pop()?;
            let node = match self.directory.names().map.get(&name) {
                Some(Entry::Node { node, .. }) => Some(node.clone()),
                // Where everything is new, what is gone was never there.
                Some(Entry::Gone) if !self.added => None,
                _ => continue,
            };
            return Some((name, node));
        }
    }

    /// Finds the next names that differ.
    fn search(&mut self) {
        let names = self.directory.names();
        let most = LEAST.max(names.map.len() / PARTS);
        let mut first: BinaryHeap<&[u8]> = BinaryHeap::with_capacity(most);
        let through = self.through.take();
        for name in names.map.keys().filter(|name| through.as_ref().is_none_or(|through| *name > through)) {
            if first.len() < most {
                first.push(name);
            } else if let Some(mut last) = first.peek_mut()
                && **name < **last
            {
                *last = name;
            }
        }
        self.through = first.peek().filter(|_| first.len() == most).map(|last| Box::from(*last));
        self.changed = first.into_sorted_vec().into_iter().rev().map(Box::from).collect();
    }
}
