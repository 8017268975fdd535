//! File systems: nodes, names, mounts, path walks, and the kinds of file systems.
//!
//! [`Inode`] is what a kind of file system implements. [`Dentry`] gives inodes names and parents, [`Mount`]
//! hangs trees into one another, [`walk`] leads from a path to a [`PathRef`]. The calls in
//! [`crate::syscalls`] work on these only.
//!
//! Lock order: [`Vfs::rename`], then the list of mounts, then one dentry's children (parent before child),
//! then a dentry's place, then a file system's own locks. No dentry lock is held across a host call.

pub mod anon;
mod context;
mod dentry;
pub mod dev;
mod dir;
pub mod dnotify;
pub mod host;
mod inode;
pub mod inotify;
pub mod lock;
pub mod mem;
mod mount;
pub mod overlay;
pub mod perm;
pub mod proc;
mod recent;
pub mod standard;
pub mod synth;
pub mod sys;
pub mod text;
pub mod walk;

pub use context::FsContext;
pub use dentry::{Dentry, PathRef};
pub use dir::DirFile;
pub use inode::{FileSystem, Inode, Listed, Made, NewNode, Opening, SetAttr, SetTime, Slot, Target, Who};
pub use mount::{Mount, MountFlags, MountTable};
pub use perm::Access;
pub use standard::mount_standard;
pub use walk::{Last, Resolve, Walk};

use parking_lot::Mutex;

use crate::{Errno, Result};

/// What the file side of one sandbox shares; a field of the [`crate::world::World`].
pub struct Vfs {
    pub mounts: MountTable,
    /// Held while a directory changes its parent, so that ancestry checks hold (`s_vfs_rename_mutex`).
    pub rename: Mutex<()>,
    /// `fcntl` and `flock` locks.
    pub locks: std::sync::Arc<lock::LockTable>,
    /// inotify watches.
    pub watches: std::sync::Arc<inotify::Watches>,
    /// Holds files without names: memfds.
    pub memory: std::sync::Arc<mem::MemFs>,
    /// Programs that run.
    pub texts: std::sync::Arc<text::Texts>,
    /// What files in memory may hold together, and do.
    pub budget: std::sync::Arc<mem::Budget>,
}

impl Vfs {
    /// With `root` mounted at `/`.
    pub fn new(
        root: std::sync::Arc<dyn FileSystem>,
        flags: MountFlags,
        budget: std::sync::Arc<mem::Budget>,
    ) -> Vfs {
        let watches = Default::default();
        Vfs {
            mounts: MountTable::new(root, flags, &watches),
            rename: Mutex::new(()),
            locks: Default::default(),
            watches,
            memory: mem::MemFs::new("tmpfs", make_dev(0, 2), 0o1777, budget.clone()),
            texts: Default::default(),
            budget,
        }
    }
}

/// How often a call is begun anew at least, and for how long: somebody may change the names all the time, and the host
/// may have lost what a descriptor stands for.
const ATTEMPTS: usize = 16;
const PATIENCE: std::time::Duration = std::time::Duration::from_millis(100);

/// Carries something out, and again as long as it says `ESTALE`: what it had found by name was something else by the time
/// that it was used (`retry_estale()`, include/linux/namei.h). Nothing has happened then.
pub fn anew<T>(mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let begin = std::time::Instant::now();
    for round in 1.. {
        match attempt() {
            Err(Errno::ESTALE) if round < ATTEMPTS || begin.elapsed() < PATIENCE => {}
            other => return other,
        }
    }
    Err(Errno::ESTALE)
}

/// The type bits of a mode (`S_IFMT`).
pub const S_IFMT: u32 = 0o170_000;
pub const S_IFSOCK: u32 = 0o140_000;
pub const S_IFLNK: u32 = 0o120_000;
pub const S_IFREG: u32 = 0o100_000;
pub const S_IFBLK: u32 = 0o060_000;
pub const S_IFDIR: u32 = 0o040_000;
pub const S_IFCHR: u32 = 0o020_000;
pub const S_IFIFO: u32 = 0o010_000;

/// The `DT_*` value that `getdents64` reports for a mode.
pub const fn dirent_kind(mode: u32) -> u8 {
    ((mode & S_IFMT) >> 12) as u8
}

/// A device number as Linux encodes it for user space (`new_encode_dev`, include/linux/kdev_t.h).
pub const fn make_dev(major: u32, minor: u32) -> u64 {
    ((minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)) as u64
}

/// Major and minor of an encoded device number.
pub const fn split_dev(dev: u64) -> (u32, u32) {
    let dev = dev as u32;
    ((dev >> 8) & 0xfff, (dev & 0xff) | ((dev >> 12) & 0xfff00))
}

/// The time that file systems stamp with (`current_time()` is as coarse).
pub fn now() -> crate::abi::types::Timespec {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    crate::abi::types::Timespec { tv_sec: now.tv_sec, tv_nsec: now.tv_nsec }
}

/// The new position for `lseek` in a regular file of `size` bytes; `find` answers `SEEK_DATA` and `SEEK_HOLE`.
pub fn seek_regular(
    current: u64,
    offset: i64,
    whence: u32,
    size: u64,
    find: impl Fn(u64, bool) -> Result<u64>,
) -> Result<u64> {
    use crate::abi::linux::{SEEK_CUR, SEEK_DATA, SEEK_END, SEEK_HOLE, SEEK_SET};
    let base = match whence {
        SEEK_SET => 0,
        SEEK_CUR => current,
        SEEK_END => size,
        SEEK_DATA | SEEK_HOLE => {
            let offset = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
            return find(offset, whence == SEEK_HOLE);
        }
        _ => return Err(Errno::EINVAL),
    };
    let at = base.checked_add_signed(offset).ok_or(Errno::EINVAL)?;
    i64::try_from(at).map(|_| at).map_err(|_| if offset > 0 { Errno::EOVERFLOW } else { Errno::EINVAL })
}

#[cfg(test)]
mod tests;
