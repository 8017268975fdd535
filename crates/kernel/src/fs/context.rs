//! Root directory, working directory and umask: what `CLONE_FS` shares.

use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::RwLock;

use super::PathRef;

/// `struct fs_struct`.
pub struct FsContext {
    /// Root, then working directory.
    places: RwLock<(PathRef, PathRef)>,
    umask: AtomicU32,
}

impl FsContext {
    /// With the given root and working directory and umask 022.
    pub fn new(root: PathRef, cwd: PathRef) -> FsContext {
        FsContext { places: RwLock::new((root, cwd)), umask: AtomicU32::new(0o022) }
    }

    /// A copy, for `fork` and `unshare(CLONE_FS)`.
    pub fn duplicate(&self) -> FsContext {
        FsContext { places: RwLock::new(self.places.read().clone()), umask: AtomicU32::new(self.umask()) }
    }

    /// The root directory.
    pub fn root(&self) -> PathRef {
        self.places.read().0.clone()
    }

    /// The working directory.
    pub fn cwd(&self) -> PathRef {
        self.places.read().1.clone()
    }

    /// Both at one instant.
    pub fn places(&self) -> (PathRef, PathRef) {
        self.places.read().clone()
    }

    /// `chroot`.
    pub fn set_root(&self, root: PathRef) {
        self.places.write().0 = root;
    }

    /// `chdir`.
    pub fn set_cwd(&self, cwd: PathRef) {
        self.places.write().1 = cwd;
    }

    /// The umask.
    pub fn umask(&self) -> u32 {
        self.umask.load(Ordering::Relaxed)
    }

    /// Sets the umask; returns the old one.
    pub fn set_umask(&self, mask: u32) -> u32 {
        self.umask.swap(mask & 0o777, Ordering::Relaxed)
    }
}
