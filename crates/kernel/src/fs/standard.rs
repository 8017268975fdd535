//! The file systems that every sandbox has: `/proc`, `/sys`, `/dev` and what is mounted inside them.

use std::sync::Arc;

use super::mem::{Budget, MemFs};
use super::{FileSystem, MountFlags, NewNode, PathRef, S_IFDIR, dev, make_dev, proc, sys};
use crate::world::World;
use crate::{Errno, Result};

/// Mounts them all. Missing mount points are made in the root file system. `budget` is what memory files may
/// hold; `/dev/shm` draws on it.
pub fn mount_standard(world: &Arc<World>, budget: &Arc<Budget>) -> Result<()> {
    let strict = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount(world, "/proc", proc::new(world), strict | MountFlags::RELATIME)?;
    mount(world, "/sys", sys::new(world), strict | MountFlags::RELATIME)?;
    mount(world, "/sys/fs/cgroup", sys::new_cgroup(world), strict | MountFlags::RELATIME)?;
    mount(world, "/dev", dev::new()?, MountFlags::NOSUID | MountFlags::NOEXEC)?;
    let shm = MemFs::new("tmpfs", make_dev(0, 67), 0o1777, budget.clone());
    mount(world, "/dev/shm", shm, MountFlags::NOSUID | MountFlags::NODEV)
}

/// Mounts `fs` at an absolute path without links in it, which is made if it is missing.
pub fn mount(world: &Arc<World>, path: &str, fs: Arc<dyn FileSystem>, flags: MountFlags) -> Result<()> {
    let place = directory(world, path)?;
    world.vfs.mounts.mount(fs, &place, flags).map(drop)
}

/// The directory at an absolute path without links in it, made with all its parents if it is missing.
pub fn directory(world: &World, path: &str) -> Result<PathRef> {
    let mut at = world.vfs.mounts.cross(world.vfs.mounts.root());
    for name in path.split('/').filter(|name| !name.is_empty()) {
        let name = name.as_bytes();
        let dentry = match at.dentry.child(name, false, false) {
            Ok((dentry, _)) => dentry,
            Err(Errno::ENOENT) => {
                let new = NewNode { mode: S_IFDIR | 0o755, uid: 0, gid: 0, rdev: 0, target: b"" };
                let inode = at.inode().make(name, &new)?;
                at.dentry.made(name, inode)
            }
            Err(error) => return Err(error),
        };
        at = world.vfs.mounts.cross(PathRef { mount: at.mount, dentry });
        super::walk::directory(&at)?;
    }
    Ok(at)
}
