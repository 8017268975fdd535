//! Names of a directory: looked up in both trees, added, lost.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use super::{Entry, Names, Node, downcast};
use crate::fs::Inode;
use crate::{Errno, Result};

/// A table of names that has room for more than this, and few in it, is made smaller.
const ROOMY: usize = 64;

impl Names {
    /// Puts a node under the name and returns what it replaces, to be dropped after unlocking. `lower`: if nothing is known
    /// of the name here, the lower directory has it.
    pub(super) fn put(&mut self, name: &[u8], node: Arc<Node>, lower: bool) -> Option<Entry> {
        self.next += 1;
        let hides = self.hides(name).unwrap_or(lower);
        self.map.insert(name.into(), Entry::Node { order: self.next, node, hides })
    }

    /// Takes the name away, and returns what it led to, to be dropped after unlocking. A name that the lower directory does
    /// not have leaves nothing behind.
    pub(super) fn take(&mut self, name: &[u8]) -> Option<Entry> {
        if self.hides(name).unwrap_or(true) {
            return self.map.insert(name.into(), Entry::Gone);
        }
        let old = self.map.remove(name);
        if self.map.capacity() > ROOMY && self.map.len() < self.map.capacity() / 8 {
            self.map.shrink_to_fit();
        }
        old
    }

    fn hides(&self, name: &[u8]) -> Option<bool> {
        self.map.get(name).map(|entry| match entry {
            Entry::Node { hides, .. } => *hides,
            Entry::Gone => true,
        })
    }
}

impl Node {
    /// `on_way`: a path goes on behind it.
    pub(in super::super) fn find(&self, name: &[u8], on_way: bool) -> Result<Arc<Node>> {
        self.directory()?;
        match self.names.lock().map.get(name) {
            Some(Entry::Node { node, .. }) => return Ok(node.clone()),
            Some(Entry::Gone) => return Err(Errno::ENOENT),
            None => {}
        }
        let lower = self.lower.as_ref().ok_or(Errno::ENOENT)?;
        let lower = if on_way { lower.lookup_on_way(name) } else { lower.lookup(name) }?;
        let linked = self.shared.linked.lock();
        if !linked.is_empty()
            && let Some(node) = lower.id().ok().and_then(|id| linked.get(&id)).filter(|n| n.kind == lower.kind())
        {
            return Ok(node.clone());
        }
        drop(linked);
        let (id, kind) = (lower.id()?, lower.kind());
        let this = self.this()?;
        let mut seen = self.seen.lock();
        // Dropped after the lock: the last hold on a node takes it.
        let other = seen.get(name).and_then(Weak::upgrade);
        if let Some(node) = &other
            && (node.id, node.kind) == (id, kind)
        {
            let node = node.clone();
            drop(seen);
            return Ok(node);
        }
        let node = Node::from_lower(&self.shared, lower, id, kind, Some((this, name)));
        seen.insert(name.into(), Arc::downgrade(&node));
        drop(seen);
        Ok(node)
    }

    /// The node that was seen under this name is in use no more.
    pub(super) fn unsee(&self, name: &[u8]) {
        let mut seen = self.seen.lock();
        if seen.get(name).is_some_and(|node| node.strong_count() == 0) {
            seen.remove(name);
            if seen.capacity() > ROOMY && seen.len() < seen.capacity() / 8 {
                seen.shrink_to_fit();
            }
        }
    }

    /// The node a name led to, as the walk found it, unless the name leads elsewhere by now.
    pub(super) fn expect(&self, name: &[u8], child: &Arc<dyn Inode>) -> Result<Arc<Node>> {
        let child = downcast(child)?;
        match self.names.lock().map.get(name) {
            Some(Entry::Node { node, .. }) if Arc::ptr_eq(node, &child) => Ok(child),
            Some(_) => Err(Errno::ENOENT),
            None => Ok(child),
        }
    }

    /// The name leads nowhere from now on.
    pub(super) fn drop_name(&self, name: &[u8], node: &Node) {
        let old = self.names.lock().take(name);
        drop(old);
        node.leave_origin();
    }

    /// Marks an empty directory as removed; `ENOTEMPTY`.
    pub(super) fn bury(&self) -> Result<()> {
        let below = match &self.lower {
            Some(lower) => lower.list()?,
            None => Vec::new(),
        };
        let names = self.names.lock();
        let any = names.map.values().any(|entry| matches!(entry, Entry::Node { .. }));
        if any || below.iter().any(|listed| !names.map.contains_key(&listed.name)) {
            return Err(Errno::ENOTEMPTY);
        }
        self.removed.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Puts a node under a name that must be free.
    pub(super) fn add(&self, name: &[u8], node: Arc<Node>) -> Result<()> {
        self.directory()?;
        let taken = |names: &Names| matches!(names.map.get(name), Some(Entry::Node { .. }));
        let hides = matches!(self.names.lock().map.get(name), Some(Entry::Gone));
        if !hides && let Some(lower) = &self.lower {
            match lower.lookup(name) {
                Err(Errno::ENOENT) => {}
                Ok(_) => return Err(Errno::EEXIST),
                Err(error) => return Err(error),
            }
        }
        let mut names = self.names.lock();
        if self.removed.load(Ordering::SeqCst) {
            return Err(Errno::ENOENT);
        }
        if taken(&names) {
            return Err(Errno::EEXIST);
        }
        let hidden = names.put(name, node, false);
        drop((names, hidden));
        Ok(())
    }
}

#[cfg(test)]
impl Node {
    /// Unchanged children that are in use.
    pub(in super::super) fn seen_count(&self) -> usize {
        self.seen.lock().len()
    }
}
