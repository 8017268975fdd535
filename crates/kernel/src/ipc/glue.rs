//! What IPC needs from the rest of the kernel, in one place: credentials, limits, signals, descriptors.

use std::sync::Arc;
use std::time::Duration;

use crate::abi::types::{Stat, Timespec};
use crate::call::{Addr, Ctx};
use crate::fd::{FdEntry, File, OpenFile};
use crate::fs::{Access, Inode, Last, NewNode, PathRef, Resolve, S_IFCHR, S_IFSOCK, Walk, Who};
use crate::signal::{self, SigSet, Signal};
use crate::task::{Caps, Task};
use crate::{Errno, Result, SysResult};

/// `struct ucred`: who sent something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ucred {
    pub pid: u32,
    pub uid: u32,
    pub gid: u32,
}

/// The caller as `SCM_CREDENTIALS` and `SO_PEERCRED` show it.
pub fn ucred(task: &Arc<Task>) -> Ucred {
    let cred = task.cred();
    Ucred { pid: task.pid(), uid: cred.euid, gid: cred.egid }
}

/// The caller's effective user and group, which own what it creates.
pub fn owner(task: &Arc<Task>) -> (u32, u32) {
    let who = ucred(task);
    (who.uid, who.gid)
}

/// The caller may go beyond resource limits.
pub fn privileged(task: &Arc<Task>) -> bool {
    task.cred().capable(Caps::SYS_RESOURCE)
}

/// A write found nobody to read: `SIGPIPE` to the writer.
pub fn broken_pipe(task: &Arc<Task>) {
    signal::send_self(task, Signal::SIGPIPE);
}

/// Puts a new open file into the caller's table; returns the descriptor.
pub fn install(cx: &Ctx<'_>, file: Arc<dyn File>, flags: u32, close_on_exec: bool) -> Result<u64> {
    install_open(cx, OpenFile::new(file, flags), close_on_exec)
}

/// As `install`, for an open file that exists.
pub fn install_open(cx: &Ctx<'_>, file: Arc<OpenFile>, close_on_exec: bool) -> Result<u64> {
    let fd = cx.task.files().install(FdEntry { file, close_on_exec }, 0, cx.task.nofile())?;
    Ok(fd as u64)
}

/// `fstat` of something that lives in a file system without names.
pub fn anonymous_stat(mode: u32, dev: u64, ino: u64, (uid, gid): (u32, u32), time: std::time::SystemTime) -> Stat {
    let since = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    let nanos = i64::from(since.subsec_nanos());
    Stat {
        st_dev: dev,
        st_ino: ino,
        st_nlink: 1,
        st_mode: mode,
        st_uid: uid,
        st_gid: gid,
        st_blksize: 4096,
        st_atime: seconds,
        st_atime_nsec: nanos,
        st_mtime: seconds,
        st_mtime_nsec: nanos,
        st_ctime: seconds,
        st_ctime_nsec: nanos,
        ..Stat::default()
    }
}

/// `fstat` of a file that an inode stands for.
pub fn inode_stat(inode: &Arc<dyn Inode>) -> Result<Stat> {
    inode.stat()
}

/// `fstat` of eventfd, epoll and their like: they share one inode (fs/anon_inodes.c).
pub fn anon_inode_stat() -> Stat {
    Stat { st_dev: 15, st_ino: 1056, st_nlink: 1, st_mode: 0o600, st_blksize: 4096, ..Stat::default() }
}

/// `set_user_sigmask()` (kernel/signal.c): for the duration of the call the mask is what `mask` points to.
pub fn set_user_sigmask(cx: &mut Ctx<'_>, mask: u64, size: u64) -> Result<()> {
    if mask == 0 {
        return Ok(());
    }
    if size != 8 {
        return Err(Errno::EINVAL);
    }
    let set: u64 = cx.mem().read(mask)?;
    signal::set_temporary_mask(&cx.task, SigSet(set));
    Ok(())
}

/// `restore_saved_sigmask_unless()`: if a signal ends the call, its delivery restores the mask.
pub fn restore_saved_sigmask_unless(cx: &mut Ctx<'_>, interrupted: bool) {
    signal::restore_mask_unless(&cx.task, interrupted);
}

/// A signal ended `poll`: how it goes on if no handler runs.
pub fn restart_poll(cx: &mut Ctx<'_>, fds: u64, count: u32, deadline: crate::wait::Deadline) -> Errno {
    cx.task.signals.set_restart(signal::RestartBlock::Poll { fds, count, deadline });
    Errno::ERESTART_RESTARTBLOCK
}

impl Ucred {
    /// `struct ucred`.
    pub fn to_bytes(self) -> Vec<u8> {
        [self.pid, self.uid, self.gid].iter().flat_map(|word| word.to_ne_bytes()).collect()
    }
}

/// Makes the node of a socket that binds to `path`; `EEXIST` (unix_bind_bsd()).
pub fn make_socket_node(task: &Arc<Task>, path: &[u8]) -> Result<Arc<dyn Inode>> {
    let (world, fs, cred) = (task.world.clone(), task.fs(), task.cred());
    let (root, base) = fs.places();
    let who = Who { cred: &cred, task: Some(task) };
    let walked =
        Walk { vfs: &world.vfs, who, root: &root, base: &base }.walk(path, Resolve::PARENT | Resolve::MAYBE)?;
    let name = match &walked.last {
        Last::Name(_) if walked.slash => return Err(Errno::ENOENT),
        Last::Name(name) => name,
        _ => return Err(Errno::EEXIST),
    };
    let parent = walked.parent.inode();
    if parent.lookup(name).is_ok() {
        return Err(Errno::EEXIST);
    }
    walked.parent.mount.writable()?;
    parent.permission(who, Access::WRITE | Access::EXEC)?;
    let mode = S_IFSOCK | 0o777 & !fs.umask();
    let new = NewNode { mode, uid: cred.fsuid, gid: cred.fsgid, rdev: 0, target: &[] };
    let inode = parent.make(name, &new)?;
    walked.parent.dentry.made(name, inode.clone());
    Ok(inode)
}

/// The node of the socket at `path`, which the caller may write to; `ECONNREFUSED` if it is none
/// (unix_find_bsd()).
pub fn socket_node(task: &Arc<Task>, path: &[u8]) -> Result<Arc<dyn Inode>> {
    let (world, fs, cred) = (task.world.clone(), task.fs(), task.cred());
    let (root, base) = fs.places();
    let who = Who { cred: &cred, task: Some(task) };
    let place = Walk { vfs: &world.vfs, who, root: &root, base: &base }.find(path, Resolve::FOLLOW)?;
    let inode = place.inode().clone();
    inode.permission(who, Access::WRITE)?;
    if inode.kind() == S_IFSOCK { Ok(inode) } else { Err(Errno::ECONNREFUSED) }
}

/// Puts two new open files into the caller's table and their numbers at `fds`; all or nothing.
pub fn install_pair(cx: &mut Ctx<'_>, fds: Addr, files: [Arc<OpenFile>; 2], close_on_exec: bool) -> SysResult {
    let [first, second] = files;
    let one = install_open(cx, first, close_on_exec)? as i32;
    let two = match install_open(cx, second, close_on_exec) {
        Ok(fd) => fd as i32,
        Err(error) => {
            let _ = cx.task.files().remove(one);
            return Err(error);
        }
    };
    let written = cx.mem().write(fds.0, &[one, two]);
    if written.is_err() {
        let _ = cx.task.files().remove(one);
        let _ = cx.task.files().remove(two);
    }
    written.map(|()| 0)
}

/// A relative time, or `EINVAL` if it is negative or not normal (timespec64_valid()).
pub fn timespec(time: Timespec) -> Result<Duration> {
    let nanos = u32::try_from(time.tv_nsec).ok().filter(|nanos| *nanos < 1_000_000_000).ok_or(Errno::EINVAL)?;
    let seconds = u64::try_from(time.tv_sec).map_err(|_| Errno::EINVAL)?;
    Ok(Duration::new(seconds, nanos))
}

/// Runs `work` in `/dev/pts`, as nobody in particular; nothing happens where there is none.
fn in_pts(world: &crate::world::World, work: impl FnOnce(&PathRef)) {
    let root = world.vfs.mounts.root();
    let cred = crate::task::Cred::new(0, 0, Vec::new());
    let walk = Walk { vfs: &world.vfs, who: Who { cred: &cred, task: None }, root: &root, base: &root };
    if let Ok(place) = walk.find(b"/dev/pts", Resolve::FOLLOW) {
        work(&place);
    }
}

/// Makes `/dev/pts/N`, owned by the caller and the group of terminals (devpts_pty_new()).
pub fn make_pts_node(task: &Arc<Task>, number: u32, rdev: u64) -> Result<Option<Arc<dyn Inode>>> {
    let uid = task.cred().fsuid;
    let mut made = Ok(None);
    in_pts(&task.world, |place| {
        let name = number.to_string().into_bytes();
        let new = NewNode { mode: S_IFCHR | 0o620, uid, gid: 5, rdev, target: &[] };
        made = place.inode().make(&name, &new).map(|inode| {
            place.dentry.made(&name, inode.clone());
            Some(inode)
        });
    });
    made
}

/// Removes `/dev/pts/N`.
pub fn remove_pts_node(world: &crate::world::World, number: u32) {
    in_pts(world, |place| {
        let name = number.to_string().into_bytes();
        if let Ok(child) = place.inode().lookup(&name)
            && place.inode().unlink(&name, &child).is_ok()
        {
            place.dentry.removed(&name);
        }
    });
}
