//! Working and root directory, umask, reading directories, mounts.

use super::path::{AT_FDCWD, find_at, place_of};
use crate::call::{Addr, Ctx, Fd};
use crate::fs::{Access, PathRef, Who};
use crate::task::Caps;
use crate::{Errno, Result, SysResult};

crate::calls! {
    78 getdents getdents, 3 Full;
    79 getcwd getcwd, 2 Full;
    80 chdir chdir, 1 Full;
    81 fchdir fchdir, 1 Full;
    95 umask umask, 1 Full;
    155 pivot_root denied, 0 Refused("mounts are fixed when a sandbox starts");
    161 chroot chroot, 1 Full;
    165 mount denied, 0 Refused("mounts are fixed when a sandbox starts");
    166 umount2 denied, 0 Refused("mounts are fixed when a sandbox starts");
    217 getdents64 getdents64, 3 Full;
    303 name_to_handle_at no_handles, 0 Refused("files have no handles");
    304 open_by_handle_at denied, 0 Refused("files have no handles");
}

fn denied(_cx: &mut Ctx<'_>) -> SysResult {
    Err(Errno::EPERM)
}

fn no_handles(_cx: &mut Ctx<'_>) -> SysResult {
    Err(Errno::EOPNOTSUPP)
}

fn enterable(cx: &Ctx<'_>, place: &PathRef) -> Result<()> {
    if !place.inode().is_dir() {
        return Err(Errno::ENOTDIR);
    }
    let cred = cx.task.cred();
    place.inode().permission(Who { cred: &cred, task: Some(&cx.task) }, Access::EXEC)
}

fn chdir(cx: &mut Ctx<'_>, path: Addr) -> SysResult {
    let place = find_at(cx, AT_FDCWD, path, 0)?;
    enterable(cx, &place)?;
    cx.task.fs().set_cwd(place);
    Ok(0)
}

fn fchdir(cx: &mut Ctx<'_>, fd: Fd) -> SysResult {
    let open = cx.file(fd)?;
    let place = place_of(&cx.task, &open);
    enterable(cx, &place)?;
    cx.task.fs().set_cwd(place);
    Ok(0)
}

fn chroot(cx: &mut Ctx<'_>, path: Addr) -> SysResult {
    let place = find_at(cx, AT_FDCWD, path, 0)?;
    enterable(cx, &place)?;
    if !cx.task.cred().capable(Caps::SYS_CHROOT) {
        return Err(Errno::EPERM);
    }
    cx.task.fs().set_root(place);
    Ok(0)
}

/// Returns the length with the zero byte (getcwd(2)'s system call).
fn getcwd(cx: &mut Ctx<'_>, buffer: Addr, size: u64) -> SysResult {
    let (root, cwd) = cx.task.fs().places();
    if cwd.dentry.deleted() {
        return Err(Errno::ENOENT);
    }
    let (mut path, reachable) = cwd.path_from(&root);
    if !reachable {
        path.splice(0..0, *b"(unreachable)");
    }
    path.push(0);
    if path.len() >= crate::mem::PATH_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    if path.len() as u64 > size {
        return Err(Errno::ERANGE);
    }
    cx.mem().write_bytes(buffer.0, &path)?;
    Ok(path.len() as u64)
}

fn umask(cx: &mut Ctx<'_>, mask: u32) -> SysResult {
    Ok(u64::from(cx.task.fs().set_umask(mask)))
}

fn getdents(cx: &mut Ctx<'_>, fd: Fd, buffer: Addr, size: u32) -> SysResult {
    entries(cx, fd, buffer, size, false)
}

fn getdents64(cx: &mut Ctx<'_>, fd: Fd, buffer: Addr, size: u32) -> SysResult {
    entries(cx, fd, buffer, size, true)
}

/// Both forms hold inode, next position and record length first; the type stands behind these or at the very
/// end (fs/readdir.c).
fn entries(cx: &mut Ctx<'_>, fd: Fd, buffer: Addr, size: u32, wide: bool) -> SysResult {
    let open = cx.file(fd)?;
    if !open.readable() && open.flags() & crate::abi::linux::O_PATH != 0 {
        return Err(Errno::EBADF);
    }
    if open.path.as_ref().is_some_and(|path| path.inode().is_dir() && path.dentry.deleted()) {
        return Err(Errno::ENOENT);
    }
    let size = (size as usize).min(1 << 20);
    let mut out: Vec<u8> = Vec::with_capacity(size.min(32 << 10));
    let mut too_small = false;
    let mut position = open.position.lock();
    let next = open.file.read_directory(*position, &mut |entry| {
        let head = 8 + 8 + 2 + usize::from(wide);
        let len = (head + entry.name.len() + 1 + usize::from(!wide)).next_multiple_of(8);
        if out.len() + len > size {
            too_small = out.is_empty();
            return false;
        }
        let end = out.len() + len;
        out.extend_from_slice(&entry.ino.to_ne_bytes());
        out.extend_from_slice(&entry.next.to_ne_bytes());
        out.extend_from_slice(&(len as u16).to_ne_bytes());
        if wide {
            out.push(entry.kind);
        }
        out.extend_from_slice(entry.name);
        out.resize(end, 0);
        if !wide && let Some(last) = out.last_mut() {
            *last = entry.kind;
        }
        true
    })?;
    if too_small {
        return Err(Errno::EINVAL);
    }
    cx.mem().write_bytes(buffer.0, &out)?;
    *position = next;
    Ok(out.len() as u64)
}
