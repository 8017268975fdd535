//! Names of a directory: looked up in both trees, added, lost.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use super::{Entry, Names, Node, downcast};
use crate::fs::Inode;
use crate::{Errno, Result};

impl Node {
    /// `on_way`: a path goes on behind it.
    pub(in super::super) fn find(&self, name: &[u8], on_way: bool) -> Result<Arc<Node>> {
        self.directory()?;
        match self.names.lock().map.get(name) {
            Some(Entry::Node(_, node)) => return Ok(node.clone()),
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
        let mut seen = self.seen.lock();
        if let Some(node) = seen.get(name).and_then(Weak::upgrade)
            && (node.id, node.kind) == (id, kind)
        {
            drop(seen);
            return Ok(node);
        }
        if seen.len() >= 256 && seen.len().is_power_of_two() {
            seen.retain(|_, node| node.strong_count() > 0);
        }
        let node = Node::from_lower(&self.shared, lower, Some((self.this()?, name)))?;
        let old = seen.insert(name.into(), Arc::downgrade(&node));
        drop((seen, old));
        Ok(node)
    }

    /// The node a name led to, as the walk found it, unless the name leads elsewhere by now.
    pub(super) fn expect(&self, name: &[u8], child: &Arc<dyn Inode>) -> Result<Arc<Node>> {
        let child = downcast(child)?;
        match self.names.lock().map.get(name) {
            Some(Entry::Node(_, node)) if Arc::ptr_eq(node, &child) => Ok(child),
            Some(_) => Err(Errno::ENOENT),
            None => Ok(child),
        }
    }

    /// The name leads nowhere from now on.
    pub(super) fn drop_name(&self, name: &[u8], node: &Node) {
        let mut names = self.names.lock();
        match self.lower.is_some() {
            true => _ = names.map.insert(name.into(), Entry::Gone),
            false => _ = names.map.remove(name),
        }
        drop(names);
        // It must not come back when somebody who has it open changes it.
        *node.origin.lock() = None;
    }

    /// Marks an empty directory as removed; `ENOTEMPTY`.
    pub(super) fn bury(&self) -> Result<()> {
        let below = match &self.lower {
            Some(lower) => lower.list()?,
            None => Vec::new(),
        };
        let names = self.names.lock();
        let any = names.map.values().any(|entry| matches!(entry, Entry::Node(..)));
        if any || below.iter().any(|listed| !names.map.contains_key(&listed.name)) {
            return Err(Errno::ENOTEMPTY);
        }
        self.removed.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Puts a node under a name that must be free.
    pub(super) fn add(&self, name: &[u8], node: Arc<Node>) -> Result<()> {
        self.directory()?;
        let taken = |names: &Names| matches!(names.map.get(name), Some(Entry::Node(..)));
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
        names.put(name, node);
        Ok(())
    }
}
