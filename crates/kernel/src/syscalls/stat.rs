//! stat(2), statx(2), statfs(2).

use super::path::{AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW, find_at, place_of};
use crate::abi::types::{Stat, Statfs, Statx, StatxTimestamp};
use crate::call::{Addr, Ctx, Fd};
use crate::fs::{PathRef, split_dev};
use crate::{Errno, Result, SysResult};

crate::calls! {
    4 stat stat, 2 Full;
    5 fstat fstat, 2 Full;
    6 lstat lstat, 2 Full;
    137 statfs statfs, 2 Full;
    138 fstatfs fstatfs, 2 Full;
    262 newfstatat newfstatat, 4 Full;
    332 statx statx, 5 Full;
}

const AT_NO_AUTOMOUNT: u32 = 0x800;
const AT_STATX_SYNC_TYPE: u32 = 0x6000;
const STATX_BASIC_STATS: u32 = 0x7ff;
const STATX_MNT_ID: u32 = 0x1000;
const STATX_RESERVED: u32 = 0x8000_0000;
const STATX_ATTR_MOUNT_ROOT: u64 = 0x2000;
/// `ST_VALID`.
const ST_VALID: i64 = 0x20;

fn stat(cx: &mut Ctx<'_>, path: Addr, out: Addr) -> SysResult {
    newfstatat(cx, Fd(AT_FDCWD), path, out, 0)
}

fn lstat(cx: &mut Ctx<'_>, path: Addr, out: Addr) -> SysResult {
    newfstatat(cx, Fd(AT_FDCWD), path, out, AT_SYMLINK_NOFOLLOW)
}

fn fstat(cx: &mut Ctx<'_>, fd: Fd, out: Addr) -> SysResult {
    let stat = cx.file(fd)?.file.stat()?;
    cx.mem().write(out.0, &stat)?;
    Ok(0)
}

fn newfstatat(cx: &mut Ctx<'_>, dirfd: Fd, path: Addr, out: Addr, flags: u32) -> SysResult {
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | AT_STATX_SYNC_TYPE) != 0 {
        return Err(Errno::EINVAL);
    }
    let stat = stat_at(cx, dirfd, path, flags)?.0;
    cx.mem().write(out.0, &stat)?;
    Ok(0)
}

/// The attributes, and the place unless it is an open file's own.
fn stat_at(cx: &mut Ctx<'_>, dirfd: Fd, path: Addr, flags: u32) -> Result<(Stat, Option<PathRef>)> {
    // glibc's fstat is newfstatat(fd, "", AT_EMPTY_PATH): no walk for it.
    if flags & AT_EMPTY_PATH != 0 && dirfd.0 >= 0 && (path.0 == 0 || cx.mem().read::<u8>(path.0)? == 0) {
        let open = cx.file(dirfd)?;
        return Ok((open.file.stat()?, open.path.clone()));
    }
    let place = find_at(cx, dirfd.0, path, flags)?;
    Ok((place.inode().stat()?, Some(place)))
}

fn statx(cx: &mut Ctx<'_>, dirfd: Fd, path: Addr, flags: u32, mask: u32, out: Addr) -> SysResult {
    let known = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | AT_STATX_SYNC_TYPE;
    if mask & STATX_RESERVED != 0 || flags & !known != 0 || flags & AT_STATX_SYNC_TYPE == AT_STATX_SYNC_TYPE {
        return Err(Errno::EINVAL);
    }
    let (stat, place) = stat_at(cx, dirfd, path, flags)?;
    let mut value = from_stat(&stat);
    if let Some(place) = place {
        value.mask |= STATX_MNT_ID;
        value.mnt_id = place.mount.id;
        value.attributes_mask |= STATX_ATTR_MOUNT_ROOT;
        if std::sync::Arc::ptr_eq(&place.mount.root, &place.dentry) {
            value.attributes |= STATX_ATTR_MOUNT_ROOT;
        }
    }
    cx.mem().write(out.0, &value)?;
    Ok(0)
}

fn from_stat(stat: &Stat) -> Statx {
    let time = |tv_sec: i64, nsec: i64| StatxTimestamp { tv_sec, tv_nsec: nsec as u32, pad0: 0 };
    let (rdev_major, rdev_minor) = split_dev(stat.st_rdev);
    let (dev_major, dev_minor) = split_dev(stat.st_dev);
    Statx {
        mask: STATX_BASIC_STATS,
        blksize: stat.st_blksize as u32,
        nlink: stat.st_nlink as u32,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mode: stat.st_mode as u16,
        ino: stat.st_ino,
        size: stat.st_size as u64,
        blocks: stat.st_blocks as u64,
        atime: time(stat.st_atime, stat.st_atime_nsec),
        ctime: time(stat.st_ctime, stat.st_ctime_nsec),
        mtime: time(stat.st_mtime, stat.st_mtime_nsec),
        rdev_major,
        rdev_minor,
        dev_major,
        dev_minor,
        ..Statx::default()
    }
}

fn statfs(cx: &mut Ctx<'_>, path: Addr, out: Addr) -> SysResult {
    let place = find_at(cx, AT_FDCWD, path, 0)?;
    report(cx, &place, out)
}

fn fstatfs(cx: &mut Ctx<'_>, fd: Fd, out: Addr) -> SysResult {
    let open = cx.file(fd)?;
    let place = place_of(&cx.task, &open);
    report(cx, &place, out)
}

fn report(cx: &mut Ctx<'_>, place: &PathRef, out: Addr) -> SysResult {
    let mut value: Statfs = place.mount.fs.statfs()?;
    value.f_flags = i64::from(place.mount.flags().bits()) | ST_VALID;
    cx.mem().write(out.0, &value)?;
    Ok(0)
}
