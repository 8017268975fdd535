//! What a node that was just made on the host gets besides its type and mode: an owner.
//!
//! Its mode is right from the start, because this process has no umask ([`super::HostFs`]). A regular file comes with a
//! descriptor. Linux gives none for anything else that it makes, so the name is opened afterwards, and what is found
//! is changed only if it proves to be what was made.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Gid, OFlags, Uid};
use rustix::time::ClockId;

use super::descriptor::{Own, Seen, look, mode, nanoseconds, open};
use crate::Result;
use crate::fs::{S_IFDIR, S_IFLNK, S_IFMT};

/// An instant by the clock that file systems stamp with.
#[derive(Clone, Copy)]
pub(crate) struct Instant(i128);

impl Instant {
    pub fn now() -> Instant {
        let now = rustix::time::clock_gettime(ClockId::RealtimeCoarse);
        Instant(nanoseconds(now.tv_sec, now.tv_nsec))
    }
}

/// `name` in `directory`, which was made with this type and mode since `then`: a descriptor of it (`O_PATH`), and
/// whether it proves to be that. Somebody else's node of the same kind may have come to its place meanwhile: that has
/// another owner, mode or more names, or is older.
pub(crate) fn find(directory: &OwnedFd, name: &[u8], bits: u32, then: Instant) -> Result<(OwnedFd, Seen, bool)> {
    let fd = open(directory, name, OFlags::PATH)?;
    let seen = look(&fd, b"")?;
    let proven = proves(&seen, bits, then);
    Ok((fd, seen, proven))
}

fn proves(seen: &Seen, bits: u32, then: Instant) -> bool {
    let stat = &seen.stat;
    let kind = bits & S_IFMT;
    // What a link may do does not count, and its mode is always the same. The host may refuse bits, and give others
    // (a set-group-ID directory's).
    let as_asked = kind == S_IFLNK || stat.st_mode & 0o777 & !bits == 0;
    stat.st_mode & S_IFMT == kind
        && as_asked
        && stat.st_uid == rustix::process::geteuid().as_raw()
        && (kind == S_IFDIR || stat.st_nlink == 1)
        && seen.born.is_none_or(|born| born >= then.0)
}

/// Gives the node of `fd`, which was just made by this process, to its owner; `true` if that changed it. Only root can do
/// that; others' nodes stay the caller's. Then the set-ID bits, which go with the old owner
/// (`setattr_should_drop_suidgid()`, fs/attr.c).
pub(crate) fn give(own: &Own, fd: &OwnedFd, seen: &Seen, (uid, gid): (u32, u32), bits: u32) -> Result<bool> {
    if (uid, gid) == (seen.stat.st_uid, seen.stat.st_gid) {
        return Ok(false);
    }
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    if rustix::fs::chownat(fd, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH).is_err() {
        return Ok(false);
    }
    if bits & 0o6000 != 0 && !matches!(bits & S_IFMT, S_IFLNK | S_IFDIR) {
        own.chmod(fd, mode(bits))?;
    }
    Ok(true)
}
