//! The file systems that every sandbox has: `/proc`, `/sys`, `/dev` and what is mounted inside them.

use std::sync::Arc;

use super::mem::{Budget, MemFs};
use super::{FileSystem, Inode, MountFlags, NewNode, Opening, PathRef, S_IFDIR, Who, dev, make_dev, proc, sys};
use crate::abi::linux::O_RDONLY;
use crate::fd::Mapped;
use crate::mem::VecSink;
use crate::task::Cred;
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
        let only = |inode: &dyn Inode| world.vfs.mounts.only(&at.mount, inode);
        let dentry = match at.dentry.child(name, false, false, only) {
            Ok(dentry) => dentry,
            Err(Errno::ENOENT) => {
                let new = NewNode { mode: S_IFDIR | 0o755, uid: 0, gid: 0, rdev: 0, target: b"" };
                at.mount.writable()?;
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

/// The contents of a file, at most `limit` bytes, for whoever sets a sandbox up: no task reads it. Through the host
/// file that a mapping would use.
pub fn contents(place: &PathRef, limit: usize) -> Result<Vec<u8>> {
    let cred = Cred::new(0, 0, Vec::new());
    let who = Who { cred: &cred, task: None };
    let file = place.inode().clone().open(&Opening { who, flags: O_RDONLY, path: place })?;
    let Mapped::File(source) = file.map(0, false)? else { return Err(Errno::EINVAL) };
    let mut sink = VecSink { bytes: Vec::new(), limit };
    super::host::read_at(&source.file, 0, &mut sink)?;
    Ok(sink.bytes)
}
