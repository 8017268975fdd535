//! File systems: the mount table, path lookup, and the kinds of file systems.

use std::sync::Arc;

/// A node of a file system.
pub trait Inode: Send + Sync + 'static {}

/// A place in the tree of mounts: what a descriptor was opened at.
#[derive(Clone)]
pub struct PathRef {
    pub inode: Arc<dyn Inode>,
}
