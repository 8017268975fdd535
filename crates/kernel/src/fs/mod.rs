//! File systems: the mount table, path lookup, and the kinds of file systems.

use std::sync::Arc;

/// A node of a file system.
pub trait Inode: Send + Sync + 'static {}

/// A place in the tree of mounts: what a descriptor was opened at.
#[derive(Clone)]
pub struct PathRef {
    pub inode: Arc<dyn Inode>,
}

/// What tasks share with `CLONE_FS`: root, current directory, umask.
#[derive(Default)]
pub struct FsContext {}

impl FsContext {
    /// A copy for `fork`.
    pub fn duplicate(&self) -> FsContext {
        FsContext {}
    }
}
