//! memfs: a file system in the kernel's memory, like tmpfs (mm/shmem.c).
//!
//! Lock order: [`Shared::moves`], then directories' entries (two only under `moves`), then metadata.

mod budget;
mod data;
mod file;
mod node;

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::{FileSystem, Inode, NewNode, S_IFDIR, S_IFREG};
use crate::abi::PAGE_SIZE;
use crate::abi::types::Statfs;
use crate::mem::SliceSource;
use crate::{Errno, Result};

pub use budget::{Budget, Room};
pub use data::Data;
pub use file::MemFile;
pub use node::{MemInode, Meta, downcast};

/// What a node without contents is charged, so that a flood of empty files meets the limit too.
pub const NODE_COST: u64 = 768;

/// The same with the target of a link.
fn cost(target: usize) -> u64 {
    NODE_COST.saturating_add(target as u64)
}

/// A file system in memory.
pub struct MemFs {
    shared: Arc<Shared>,
    root: Arc<MemInode>,
    kind: &'static str,
}

/// What the nodes of one file system share.
pub struct Shared {
    dev: u64,
    next_ino: AtomicU64,
    budget: Arc<Budget>,
    /// Held while names move between directories.
    moves: Mutex<()>,
}

impl MemFs {
    /// An empty file system of `kind` (as `/proc/mounts` shows it), its root with `mode`, owned by user 0.
    pub fn new(kind: &'static str, dev: u64, mode: u32, budget: Arc<Budget>) -> Arc<MemFs> {
        let shared = Arc::new(Shared { dev, next_ino: AtomicU64::new(1), budget, moves: Mutex::new(()) });
        let new = NewNode { mode: S_IFDIR | mode, uid: 0, gid: 0, rdev: 0, target: b"" };
        let root = MemInode::build(&shared, &new);
        Arc::new(MemFs { shared, root, kind })
    }

    /// One file that holds `text`, to be mounted over another; it shares identity and room with this file system.
    pub fn single_file(&self, mode: u32, text: &[u8]) -> Result<Arc<MemFs>> {
        let new = NewNode { mode: S_IFREG | mode, uid: 0, gid: 0, rdev: 0, target: b"" };
        let root = self.shared.new_node(&new)?;
        root.data().ok_or(Errno::EINVAL)?.append(&mut SliceSource(text))?;
        Ok(self.with_root(root))
    }

    /// The same file system seen from another of its nodes, to be mounted elsewhere.
    pub fn with_root(&self, root: Arc<MemInode>) -> Arc<MemFs> {
        Arc::new(MemFs { shared: self.shared.clone(), root, kind: self.kind })
    }

    /// The root as what it is.
    pub fn top(&self) -> &Arc<MemInode> {
        &self.root
    }

    /// A node without a name.
    pub fn orphan(&self, new: &NewNode<'_>) -> Result<Arc<MemInode>> {
        self.shared.new_node(new)
    }

    /// What its nodes share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl FileSystem for MemFs {
    fn root(&self) -> Arc<dyn Inode> {
        self.root.clone()
    }

    fn kind(&self) -> &'static str {
        self.kind
    }

    fn source(&self) -> String {
        self.kind.to_string()
    }

    fn options(&self) -> String {
        match self.shared.budget.state() {
            (u64::MAX, _) => String::new(),
            (limit, _) => format!(",size={}k", limit / 1024),
        }
    }

    fn dev(&self) -> u64 {
        self.shared.dev
    }

    fn statfs(&self) -> Result<Statfs> {
        Ok(self.shared.statfs())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Shared {
    /// For file systems that keep memory nodes without being a `MemFs`.
    pub fn new(dev: u64, first_ino: u64, budget: Arc<Budget>) -> Arc<Shared> {
        Arc::new(Shared { dev, next_ino: AtomicU64::new(first_ino), budget, moves: Mutex::new(()) })
    }

    /// A node; `ENOSPC`.
    pub fn new_node(self: &Arc<Shared>, new: &NewNode<'_>) -> Result<Arc<MemInode>> {
        self.budget.charge(cost(new.target.len()))?;
        Ok(MemInode::build(self, new))
    }

    /// As `new_node`, with the identity of another node that it replaces.
    pub fn stand_in(self: &Arc<Shared>, new: &NewNode<'_>, dev: u64, ino: u64) -> Result<Arc<MemInode>> {
        self.budget.charge(cost(new.target.len()))?;
        Ok(Arc::new(MemInode::raw(self, new, dev, ino)))
    }

    /// A fresh inode number.
    pub fn number(&self) -> u64 {
        self.next_ino.fetch_add(1, Ordering::Relaxed)
    }

    /// `statfs` of a tmpfs with this budget.
    pub fn statfs(&self) -> Statfs {
        let (limit, used) = self.budget.state();
        // Without a limit: what the host can still give is unknown here; show a round large number.
        let total = if limit == u64::MAX { 1 << 42 } else { limit };
        let free = total.saturating_sub(used) / PAGE_SIZE;
        Statfs {
            f_type: 0x0102_1994,
            f_bsize: PAGE_SIZE as i64,
            f_blocks: total / PAGE_SIZE,
            f_bfree: free,
            f_bavail: free,
            f_files: total / PAGE_SIZE,
            f_ffree: free,
            f_namelen: 255,
            f_frsize: PAGE_SIZE as i64,
            ..Statfs::default()
        }
    }
}

#[cfg(test)]
mod tests;
