//! Calls that change or test attributes: chmod, chown, utime, truncate, access.

use std::sync::Arc;

use super::path::{
    AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW, Env, find_at, path_text, place_of, resolve_flags,
};
use crate::abi::linux::RLIMIT_FSIZE;
use crate::abi::types::{Timespec, Timeval};
use crate::call::{Addr, Ctx, Fd};
use crate::fs::{
    Access, MountFlags, PathRef, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG, S_IFSOCK, SetAttr, SetTime,
    inotify, perm,
};
use crate::task::{Caps, Cred};
use crate::{Errno, Result, SysResult};

crate::calls! {
    21 access access, 2 Full;
    76 truncate truncate, 2 Full;
    77 ftruncate ftruncate, 2 Full;
    90 chmod chmod, 2 Full;
    91 fchmod fchmod, 2 Full;
    92 chown chown, 3 Full;
    93 fchown fchown, 3 Full;
    94 lchown lchown, 3 Full;
    132 utime utime, 2 Full;
    235 utimes utimes, 2 Full;
    260 fchownat fchownat, 5 Full;
    261 futimesat futimesat, 3 Full;
    268 fchmodat fchmodat, 3 Full;
    269 faccessat faccessat, 3 Full;
    280 utimensat utimensat, 4 Full;
    439 faccessat2 faccessat2, 4 Full;
    452 fchmodat2 fchmodat2, 4 Full;
}

const AT_EACCESS: u32 = 0x200;
const UTIME_NOW: i64 = (1 << 30) - 1;
const UTIME_OMIT: i64 = (1 << 30) - 2;

fn access(cx: &mut Ctx<'_>, path: Addr, mode: u32) -> SysResult {
    faccessat2(cx, Fd(AT_FDCWD), path, mode, 0)
}

fn faccessat(cx: &mut Ctx<'_>, dirfd: Fd, path: Addr, mode: u32) -> SysResult {
    faccessat2(cx, dirfd, path, mode, 0)
}

/// `do_faccessat()`: with the real ids unless `AT_EACCESS`.
fn faccessat2(cx: &mut Ctx<'_>, dirfd: Fd, path: Addr, mode: u32, flags: u32) -> SysResult {
    let access = Access::from_bits(mode).ok_or(Errno::EINVAL)?;
    if flags & !(AT_EACCESS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let text = path_text(cx, path, flags)?;
    let mut env = Env::new(cx, dirfd.0, &text)?;
    if flags & AT_EACCESS == 0 && (env.cred.uid != env.cred.fsuid || env.cred.gid != env.cred.fsgid) {
        let real = real_ids(&env.cred);
        env = env.with_cred(real);
    }
    let place = env.find(&text, resolve_flags(flags))?;
    if access.is_empty() {
        return Ok(0);
    }
    let kind = place.inode().kind();
    if access.contains(Access::EXEC) && kind == S_IFREG && place.mount.flags().contains(MountFlags::NOEXEC) {
        return Err(Errno::EACCES);
    }
    place.inode().permission(env.who(), access)?;
    if access.contains(Access::WRITE) && !matches!(kind, S_IFCHR | S_IFBLK | S_IFIFO | S_IFSOCK) {
        place.mount.writable()?;
    }
    Ok(0)
}

/// `access_override_creds()`.
fn real_ids(cred: &Cred) -> Arc<Cred> {
    let mut real = cred.clone();
    real.fsuid = cred.uid;
    real.fsgid = cred.gid;
    real.effective = if cred.uid == 0 { cred.permitted } else { Caps::empty() };
    Arc::new(real)
}

fn chmod(cx: &mut Ctx<'_>, path: Addr, mode: u32) -> SysResult {
    fchmodat2(cx, Fd(AT_FDCWD), path, mode, 0)
}

fn fchmodat(cx: &mut Ctx<'_>, dirfd: Fd, path: Addr, mode: u32) -> SysResult {
    fchmodat2(cx, dirfd, path, mode, 0)
}

fn fchmodat2(cx: &mut Ctx<'_>, dirfd: Fd, path: Addr, mode: u32, flags: u32) -> SysResult {
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let place = find_at(cx, dirfd.0, path, flags)?;
    set_mode(cx, &place, mode)
}

fn fchmod(cx: &mut Ctx<'_>, fd: Fd, mode: u32) -> SysResult {
    let open = not_path(cx, fd)?;
    let place = place_of(&cx.task, &open);
    set_mode(cx, &place, mode)
}

/// `EBADF` for `O_PATH` descriptors.
fn not_path(cx: &Ctx<'_>, fd: Fd) -> Result<Arc<crate::fd::OpenFile>> {
    let open = cx.file(fd)?;
    if open.flags() & crate::abi::linux::O_PATH != 0 { Err(Errno::EBADF) } else { Ok(open) }
}

fn set_mode(cx: &Ctx<'_>, place: &PathRef, mode: u32) -> SysResult {
    place.mount.writable()?;
    let inode = place.inode();
    if inode.is_link() {
        return Err(Errno::EOPNOTSUPP);
    }
    let seen = inode.access_info()?;
    let (_, uid, gid) = seen;
    let cred = cx.task.cred();
    if !perm::owns(&cred, uid) {
        return Err(Errno::EPERM);
    }
    let mut mode = mode & 0o7777;
    if !cred.in_group(gid) && !cred.capable(Caps::FSETID) {
        mode &= !0o2000;
    }
    inode.set_attr(&SetAttr { mode: Some(mode), seen: Some(seen), ..SetAttr::default() })?;
    inotify::event(&cx.task.world.vfs, place, inotify::IN_ATTRIB);
    Ok(0)
}

fn chown(cx: &mut Ctx<'_>, path: Addr, uid: u32, gid: u32) -> SysResult {
    fchownat(cx, Fd(AT_FDCWD), path, uid, gid, 0)
}

fn lchown(cx: &mut Ctx<'_>, path: Addr, uid: u32, gid: u32) -> SysResult {
    fchownat(cx, Fd(AT_FDCWD), path, uid, gid, AT_SYMLINK_NOFOLLOW)
}

fn fchownat(cx: &mut Ctx<'_>, dirfd: Fd, path: Addr, uid: u32, gid: u32, flags: u32) -> SysResult {
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let place = find_at(cx, dirfd.0, path, flags)?;
    set_owner(cx, &place, uid, gid)
}

fn fchown(cx: &mut Ctx<'_>, fd: Fd, uid: u32, gid: u32) -> SysResult {
    let open = not_path(cx, fd)?;
    let place = place_of(&cx.task, &open);
    set_owner(cx, &place, uid, gid)
}

/// `chown_common()`, `setattr_prepare()`.
fn set_owner(cx: &Ctx<'_>, place: &PathRef, uid: u32, gid: u32) -> SysResult {
    place.mount.writable()?;
    let inode = place.inode();
    let seen = inode.access_info()?;
    let (mode, old_uid, old_gid) = seen;
    let cred = cx.task.cred();
    let (uid, gid) = ((uid != u32::MAX).then_some(uid), (gid != u32::MAX).then_some(gid));
    if !cred.capable(Caps::CHOWN) {
        let owner = cred.fsuid == old_uid;
        if uid.is_some_and(|uid| !owner || uid != old_uid)
            || gid.is_some_and(|gid| !owner || !(cred.in_group(gid) || gid == old_gid))
        {
            return Err(Errno::EPERM);
        }
    }
    // Set-id bits go with the owner (notify_change(), fs/attr.c).
    let mut kept = mode & 0o7777;
    if inode.kind() != S_IFDIR {
        kept &= !0o4000;
        if mode & 0o010 != 0 || (!cred.in_group(old_gid) && !cred.capable(Caps::FSETID)) {
            kept &= !0o2000;
        }
    }
    let mode = (kept != mode & 0o7777 && (uid.is_some() || gid.is_some())).then_some(kept);
    inode.set_attr(&SetAttr { mode, uid, gid, seen: Some(seen), ..SetAttr::default() })?;
    inotify::event(&cx.task.world.vfs, place, inotify::IN_ATTRIB);
    Ok(0)
}

/// Access and modification time; `None` leaves it.
type Times = (Option<SetTime>, Option<SetTime>);

/// `utimes_common()`: `given` is false for a null pointer, which asks for less permission.
fn set_times(cx: &Ctx<'_>, place: &PathRef, (atime, mtime): Times, given: bool) -> SysResult {
    place.mount.writable()?;
    let inode = place.inode();
    let cred = cx.task.cred();
    let both_now = !given || (atime, mtime) == (Some(SetTime::Now), Some(SetTime::Now));
    let seen = inode.access_info()?;
    let (_, uid, _) = seen;
    if both_now {
        if !perm::owns(&cred, uid) {
            let who = crate::fs::Who { cred: &cred, task: Some(&cx.task) };
            inode.permission(who, Access::WRITE)?;
        }
    } else if !perm::owns(&cred, uid) {
        return Err(Errno::EPERM);
    }
    inode.set_attr(&SetAttr { atime, mtime, seen: Some(seen), ..SetAttr::default() })?;
    // One time alone stands for what sets it (fsnotify_change() in include/linux/fsnotify.h).
    let told = match (atime, mtime) {
        (Some(_), None) => inotify::IN_ACCESS,
        (None, Some(_)) => inotify::IN_MODIFY,
        _ => inotify::IN_ATTRIB,
    };
    inotify::event(&cx.task.world.vfs, place, told);
    Ok(0)
}

fn spec(time: Timespec) -> Result<Option<SetTime>> {
    match time.tv_nsec {
        UTIME_NOW => Ok(Some(SetTime::Now)),
        UTIME_OMIT => Ok(None),
        0..=999_999_999 => Ok(Some(SetTime::To(time))),
        _ => Err(Errno::EINVAL),
    }
}

fn utimensat(cx: &mut Ctx<'_>, dirfd: Fd, path: Addr, times: Addr, flags: u32) -> SysResult {
    let mut set = (Some(SetTime::Now), Some(SetTime::Now));
    if let Some(address) = times.non_null() {
        let pair: [Timespec; 2] = [cx.mem().read(address)?, cx.mem().read(times.plus(16))?];
        let [a, m] = pair;
        // Nothing to do, not even a look at the path (do_utimes()).
        if a.tv_nsec == UTIME_OMIT && m.tv_nsec == UTIME_OMIT {
            return Ok(0);
        }
        set = (spec(a)?, spec(m)?);
    }
    let place = if path.0 == 0 && dirfd.0 != AT_FDCWD {
        if flags != 0 {
            return Err(Errno::EINVAL);
        }
        let open = not_path(cx, dirfd)?;
        place_of(&cx.task, &open)
    } else {
        if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
            return Err(Errno::EINVAL);
        }
        find_at(cx, dirfd.0, path, flags)?
    };
    set_times(cx, &place, set, times.0 != 0)
}

fn futimesat(cx: &mut Ctx<'_>, dirfd: Fd, path: Addr, times: Addr) -> SysResult {
    let mut set = (Some(SetTime::Now), Some(SetTime::Now));
    if let Some(address) = times.non_null() {
        let of = |time: Timeval| match time.tv_usec {
            0..=999_999 => Ok(Some(SetTime::To(Timespec { tv_sec: time.tv_sec, tv_nsec: time.tv_usec * 1000 }))),
            _ => Err(Errno::EINVAL),
        };
        let (a, m) = (cx.mem().read(address)?, cx.mem().read(times.plus(16))?);
        set = (of(a)?, of(m)?);
    }
    let place = if path.0 == 0 && dirfd.0 != AT_FDCWD {
        let open = not_path(cx, dirfd)?;
        place_of(&cx.task, &open)
    } else {
        find_at(cx, dirfd.0, path, 0)?
    };
    set_times(cx, &place, set, times.0 != 0)
}

fn utimes(cx: &mut Ctx<'_>, path: Addr, times: Addr) -> SysResult {
    futimesat(cx, Fd(AT_FDCWD), path, times)
}

fn utime(cx: &mut Ctx<'_>, path: Addr, times: Addr) -> SysResult {
    let mut set = (Some(SetTime::Now), Some(SetTime::Now));
    if let Some(address) = times.non_null() {
        let [a, m]: [i64; 2] = [cx.mem().read(address)?, cx.mem().read(times.plus(8))?];
        let of = |tv_sec| Some(SetTime::To(Timespec { tv_sec, tv_nsec: 0 }));
        set = (of(a), of(m));
    }
    let place = find_at(cx, AT_FDCWD, path, 0)?;
    set_times(cx, &place, set, times.0 != 0)
}

fn length(cx: &Ctx<'_>, len: i64) -> Result<u64> {
    let len = u64::try_from(len).map_err(|_| Errno::EINVAL)?;
    let limit = cx.task.rlimit(RLIMIT_FSIZE);
    if len > limit {
        super::rw::exceeds_file_size(&cx.task);
        return Err(Errno::EFBIG);
    }
    Ok(len)
}

/// `vfs_truncate()`.
fn truncate(cx: &mut Ctx<'_>, path: Addr, len: i64) -> SysResult {
    if len < 0 {
        return Err(Errno::EINVAL);
    }
    let place = find_at(cx, AT_FDCWD, path, 0)?;
    let inode = place.inode();
    match inode.kind() {
        S_IFDIR => return Err(Errno::EISDIR),
        S_IFREG => {}
        S_IFLNK => return Err(Errno::ELOOP),
        _ => return Err(Errno::EINVAL),
    }
    place.mount.writable()?;
    let cred = cx.task.cred();
    inode.permission(crate::fs::Who { cred: &cred, task: Some(&cx.task) }, Access::WRITE)?;
    let len = length(cx, len)?;
    cx.task.world.vfs.texts.may_write(inode)?;
    inode.set_attr(&SetAttr { size: Some(len), ..SetAttr::default() })?;
    inotify::event(&cx.task.world.vfs, &place, inotify::IN_MODIFY);
    Ok(0)
}

fn ftruncate(cx: &mut Ctx<'_>, fd: Fd, len: i64) -> SysResult {
    if len < 0 {
        return Err(Errno::EINVAL);
    }
    let open = not_path(cx, fd)?;
    if !open.writable() || open.file.stat()?.st_mode & crate::fs::S_IFMT != S_IFREG {
        return Err(Errno::EINVAL);
    }
    let len = length(cx, len)?;
    open.file.truncate(len)?;
    inotify::modified(&cx.task.world.vfs, &open);
    Ok(0)
}
