//! Extended attributes (fs/xattr.c).

use super::path::{AT_FDCWD, AT_SYMLINK_NOFOLLOW, find_at, place_of};
use crate::call::{Addr, Ctx, Fd};
use crate::fs::{Access, PathRef, S_IFDIR, S_IFREG, Who, inotify, perm};
use crate::task::Caps;
use crate::{Errno, Result, SysResult};

crate::calls! {
    188 setxattr setxattr, 5 Full;
    189 lsetxattr lsetxattr, 5 Full;
    190 fsetxattr fsetxattr, 5 Full;
    191 getxattr getxattr, 4 Full;
    192 lgetxattr lgetxattr, 4 Full;
    193 fgetxattr fgetxattr, 4 Full;
    194 listxattr listxattr, 3 Full;
    195 llistxattr llistxattr, 3 Full;
    196 flistxattr flistxattr, 3 Full;
    197 removexattr removexattr, 2 Full;
    198 lremovexattr lremovexattr, 2 Full;
    199 fremovexattr fremovexattr, 2 Full;
}

const SIZE_MAX: u64 = 65536;

fn by_path(cx: &mut Ctx<'_>, path: Addr, follow: bool) -> Result<PathRef> {
    find_at(cx, AT_FDCWD, path, if follow { 0 } else { AT_SYMLINK_NOFOLLOW })
}

fn by_fd(cx: &Ctx<'_>, fd: Fd) -> Result<PathRef> {
    let open = cx.file(fd)?;
    if open.flags() & crate::abi::linux::O_PATH != 0 { Err(Errno::EBADF) } else { Ok(place_of(&cx.task, &open)) }
}

fn name_of(cx: &mut Ctx<'_>, name: Addr) -> Result<Vec<u8>> {
    match cx.mem().read_cstr(name.0, 256)? {
        Some(name) if !name.is_empty() => Ok(name),
        _ => Err(Errno::ERANGE),
    }
}

/// `xattr_permission()`.
fn permit(cx: &Ctx<'_>, place: &PathRef, name: &[u8], write: bool) -> Result<()> {
    if write {
        place.mount.writable()?;
    }
    let cred = cx.task.cred();
    let inode = place.inode();
    let access = if write { Access::WRITE } else { Access::READ };
    if name.starts_with(b"security.") {
        return if write && !cred.capable(Caps::SYS_ADMIN) { Err(Errno::EPERM) } else { Ok(()) };
    }
    if name.starts_with(b"trusted.") {
        let refusal = if write { Errno::EPERM } else { Errno::ENODATA };
        return if cred.capable(Caps::SYS_ADMIN) { Ok(()) } else { Err(refusal) };
    }
    if !name.starts_with(b"user.") {
        return Err(Errno::EOPNOTSUPP);
    }
    if name == b"user." {
        return Err(Errno::EINVAL);
    }
    if !matches!(inode.kind(), S_IFREG | S_IFDIR) {
        return Err(if write { Errno::EPERM } else { Errno::ENODATA });
    }
    let (mode, uid, _) = inode.access_info()?;
    if write && inode.is_dir() && mode & 0o1000 != 0 && !perm::owns(&cred, uid) {
        return Err(Errno::EPERM);
    }
    inode.permission(Who { cred: &cred, task: Some(&cx.task) }, access)
}

fn set(cx: &mut Ctx<'_>, place: &PathRef, name: Addr, value: Addr, size: u64, flags: u32) -> SysResult {
    if flags & !3 != 0 {
        return Err(Errno::EINVAL);
    }
    let name = name_of(cx, name)?;
    if size > SIZE_MAX {
        return Err(Errno::E2BIG);
    }
    let mut bytes = vec![0; size as usize];
    cx.mem().read_bytes(value.0, &mut bytes)?;
    permit(cx, place, &name, true)?;
    place.inode().set_xattr(&name, &bytes, flags)?;
    inotify::event(&cx.task.world.vfs, place, inotify::IN_ATTRIB);
    Ok(0)
}

fn give(cx: &mut Ctx<'_>, bytes: &[u8], buffer: Addr, size: u64) -> SysResult {
    if size > 0 {
        if bytes.len() as u64 > size {
            return Err(Errno::ERANGE);
        }
        cx.mem().write_bytes(buffer.0, bytes)?;
    }
    Ok(bytes.len() as u64)
}

fn get(cx: &mut Ctx<'_>, place: &PathRef, name: Addr, buffer: Addr, size: u64) -> SysResult {
    let name = name_of(cx, name)?;
    permit(cx, place, &name, false)?;
    let value = place.inode().xattr(&name)?;
    give(cx, &value, buffer, size)
}

fn list(cx: &mut Ctx<'_>, place: &PathRef, buffer: Addr, size: u64) -> SysResult {
    let trusted = cx.task.cred().capable(Caps::SYS_ADMIN);
    let mut all = Vec::new();
    for name in place.inode().list_xattr()? {
        if trusted || !name.starts_with(b"trusted.") {
            all.extend_from_slice(&name);
            all.push(0);
        }
    }
    give(cx, &all, buffer, size)
}

fn remove(cx: &mut Ctx<'_>, place: &PathRef, name: Addr) -> SysResult {
    let name = name_of(cx, name)?;
    permit(cx, place, &name, true)?;
    place.inode().remove_xattr(&name)?;
    inotify::event(&cx.task.world.vfs, place, inotify::IN_ATTRIB);
    Ok(0)
}

fn setxattr(cx: &mut Ctx<'_>, path: Addr, name: Addr, value: Addr, size: u64, flags: u32) -> SysResult {
    let place = by_path(cx, path, true)?;
    set(cx, &place, name, value, size, flags)
}

fn lsetxattr(cx: &mut Ctx<'_>, path: Addr, name: Addr, value: Addr, size: u64, flags: u32) -> SysResult {
    let place = by_path(cx, path, false)?;
    set(cx, &place, name, value, size, flags)
}

fn fsetxattr(cx: &mut Ctx<'_>, fd: Fd, name: Addr, value: Addr, size: u64, flags: u32) -> SysResult {
    let place = by_fd(cx, fd)?;
    set(cx, &place, name, value, size, flags)
}

fn getxattr(cx: &mut Ctx<'_>, path: Addr, name: Addr, buffer: Addr, size: u64) -> SysResult {
    let place = by_path(cx, path, true)?;
    get(cx, &place, name, buffer, size)
}

fn lgetxattr(cx: &mut Ctx<'_>, path: Addr, name: Addr, buffer: Addr, size: u64) -> SysResult {
    let place = by_path(cx, path, false)?;
    get(cx, &place, name, buffer, size)
}

fn fgetxattr(cx: &mut Ctx<'_>, fd: Fd, name: Addr, buffer: Addr, size: u64) -> SysResult {
    let place = by_fd(cx, fd)?;
    get(cx, &place, name, buffer, size)
}

fn listxattr(cx: &mut Ctx<'_>, path: Addr, buffer: Addr, size: u64) -> SysResult {
    let place = by_path(cx, path, true)?;
    list(cx, &place, buffer, size)
}

fn llistxattr(cx: &mut Ctx<'_>, path: Addr, buffer: Addr, size: u64) -> SysResult {
    let place = by_path(cx, path, false)?;
    list(cx, &place, buffer, size)
}

fn flistxattr(cx: &mut Ctx<'_>, fd: Fd, buffer: Addr, size: u64) -> SysResult {
    let place = by_fd(cx, fd)?;
    list(cx, &place, buffer, size)
}

fn removexattr(cx: &mut Ctx<'_>, path: Addr, name: Addr) -> SysResult {
    let place = by_path(cx, path, true)?;
    remove(cx, &place, name)
}

fn lremovexattr(cx: &mut Ctx<'_>, path: Addr, name: Addr) -> SysResult {
    let place = by_path(cx, path, false)?;
    remove(cx, &place, name)
}

fn fremovexattr(cx: &mut Ctx<'_>, fd: Fd, name: Addr) -> SysResult {
    let place = by_fd(cx, fd)?;
    remove(cx, &place, name)
}
