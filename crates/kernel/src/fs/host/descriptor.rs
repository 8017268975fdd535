//! Host calls about one name or one descriptor. A name is a single component, and a link is never followed.
//!
//! A name proves nothing: others change the tree. So whatever has an effect goes through a descriptor that was opened
//! with `O_PATH`, which wakes no FIFO and starts no device, and was looked at afterwards ([`Seen`]).

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::path::DecInt;

use super::errno;
use crate::Result;
use crate::abi::types::Stat;
use crate::fs::{S_IFMT, make_dev};

/// Which node: device, inode number and type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub dev: u64,
    pub ino: u64,
    pub kind: u32,
}

/// What permissions are decided by: mode, owner and group.
pub(super) type Attributes = (u32, u32, u32);

/// What the host says of a node.
pub(crate) struct Seen {
    pub stat: Stat,
    /// When it was made, in nanoseconds since the epoch, where its file system knows.
    pub born: Option<i128>,
}

impl Seen {
    pub fn identity(&self) -> Identity {
        Identity { dev: self.stat.st_dev, ino: self.stat.st_ino, kind: self.stat.st_mode & S_IFMT }
    }

    pub(super) fn attributes(&self) -> Attributes {
        attributes(&self.stat)
    }
}

pub(super) fn attributes(stat: &Stat) -> Attributes {
    (stat.st_mode, stat.st_uid, stat.st_gid)
}

/// A time as nanoseconds since the epoch.
pub(super) fn nanoseconds(seconds: i64, nanoseconds: i64) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds)
}

/// `statx` of `name` in `directory`, or of the descriptor's own node for an empty name.
pub(crate) fn look(directory: impl AsFd, name: &[u8]) -> Result<Seen> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | if name.is_empty() { AtFlags::EMPTY_PATH } else { AtFlags::empty() };
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    let host = rustix::fs::statx(directory, name, flags, wanted).map_err(errno)?;
    let born = host.stx_mask & StatxFlags::BTIME.bits() != 0;
    let stat = Stat {
        st_dev: make_dev(host.stx_dev_major, host.stx_dev_minor),
        st_ino: host.stx_ino,
        st_nlink: u64::from(host.stx_nlink),
        st_mode: u32::from(host.stx_mode),
        st_uid: host.stx_uid,
        st_gid: host.stx_gid,
        st_rdev: make_dev(host.stx_rdev_major, host.stx_rdev_minor),
        st_size: host.stx_size as i64,
        st_blksize: i64::from(host.stx_blksize),
        st_blocks: host.stx_blocks as i64,
        st_atime: host.stx_atime.tv_sec,
        st_atime_nsec: i64::from(host.stx_atime.tv_nsec),
        st_mtime: host.stx_mtime.tv_sec,
        st_mtime_nsec: i64::from(host.stx_mtime.tv_nsec),
        st_ctime: host.stx_ctime.tv_sec,
        st_ctime_nsec: i64::from(host.stx_ctime.tv_nsec),
        ..Stat::default()
    };
    let born = born.then(|| nanoseconds(host.stx_btime.tv_sec, i64::from(host.stx_btime.tv_nsec)));
    Ok(Seen { stat, born })
}

/// The same as a `struct stat`.
pub(crate) fn statx(directory: impl AsFd, name: &[u8]) -> Result<Stat> {
    look(directory, name).map(|seen| seen.stat)
}

/// Opens one component, never following a link or leaving the directory. What may be crossed is a mount: the host's
/// tree is made of mounts, and one that came meanwhile is another node like any other that came.
pub(crate) fn open(directory: &OwnedFd, name: &[u8], flags: OFlags) -> Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(directory, name, flags, Mode::empty(), resolve).map_err(errno)
}

/// `/proc/self/fd`: where each descriptor has a name that leads to its node and nowhere else (proc_pid_fd(5)).
pub(crate) struct Own(OwnedFd);

impl Own {
    pub fn open() -> Result<Own> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open("/proc/self/fd", flags, Mode::empty()).map(Own).map_err(errno)
    }

    /// Opens the node of `fd` once more, with these rights.
    pub fn reopen(&self, fd: &OwnedFd, flags: OFlags) -> Result<OwnedFd> {
        rustix::fs::openat(&self.0, DecInt::from_fd(fd), flags | OFlags::CLOEXEC, Mode::empty()).map_err(errno)
    }

    /// `chmod` of the node of `fd`, for descriptors with which `fchmod` does nothing (`O_PATH`).
    pub fn chmod(&self, fd: &OwnedFd, mode: Mode) -> Result<()> {
        rustix::fs::chmodat(&self.0, DecInt::from_fd(fd), mode, AtFlags::empty()).map_err(errno)
    }

    /// A further name for the node of `fd`.
    pub fn link(&self, fd: &OwnedFd, directory: &OwnedFd, name: &[u8]) -> Result<()> {
        let from = DecInt::from_fd(fd);
        rustix::fs::linkat(&self.0, from, directory, name, AtFlags::SYMLINK_FOLLOW).map_err(errno)
    }
}

/// A path that leads to the node of a descriptor, for calls that know no other way (extended attributes).
pub(super) fn through(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(fd))
}

/// Permission bits for the host.
pub(crate) fn mode(bits: u32) -> Mode {
    Mode::from_raw_mode(bits & 0o7777)
}
