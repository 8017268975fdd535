//! inotify calls.

use super::path::{AT_FDCWD, AT_SYMLINK_NOFOLLOW, find_at};
use crate::abi::linux::{O_CLOEXEC, O_NONBLOCK, O_RDONLY};
use crate::call::{Addr, Ctx, Fd};
use crate::fd::{FdEntry, OpenFile};
use crate::fs::inotify::{IN_ALL_EVENTS, IN_MASK_ADD, IN_MASK_CREATE, IN_ONESHOT, Inotify};
use crate::fs::{Access, Who};
use crate::{Errno, SysResult};

crate::calls! {
    253 inotify_init inotify_init, 0 Full;
    254 inotify_add_watch inotify_add_watch, 3 Full;
    255 inotify_rm_watch inotify_rm_watch, 2 Full;
    294 inotify_init1 inotify_init1, 1 Full;
}

const IN_ONLYDIR: u32 = 0x0100_0000;
const IN_DONT_FOLLOW: u32 = 0x0200_0000;
const IN_EXCL_UNLINK: u32 = 0x0400_0000;

fn inotify_init(cx: &mut Ctx<'_>) -> SysResult {
    inotify_init1(cx, 0)
}

fn inotify_init1(cx: &mut Ctx<'_>, flags: u32) -> SysResult {
    if flags & !(O_CLOEXEC | O_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    let instance = Inotify::new(&cx.task.world.vfs.watches)?;
    let file = OpenFile::new(instance, O_RDONLY | (flags & O_NONBLOCK));
    let entry = FdEntry { file, close_on_exec: flags & O_CLOEXEC != 0 };
    Ok(cx.task.files().install(entry, 0, cx.task.nofile())? as u64)
}

fn inotify_add_watch(cx: &mut Ctx<'_>, fd: Fd, path: Addr, mask: u32) -> SysResult {
    let known = IN_ALL_EVENTS
        | IN_ONLYDIR
        | IN_DONT_FOLLOW
        | IN_EXCL_UNLINK
        | IN_MASK_CREATE
        | IN_MASK_ADD
        | IN_ONESHOT
        | 0x4000_e000;
    if mask & known == 0 {
        return Err(Errno::EINVAL);
    }
    let file = cx.file(fd)?;
    if mask & IN_MASK_ADD != 0 && mask & IN_MASK_CREATE != 0 {
        return Err(Errno::EINVAL);
    }
    let instance = Inotify::of(&file)?;
    let flags = if mask & IN_DONT_FOLLOW != 0 { AT_SYMLINK_NOFOLLOW } else { 0 };
    let place = find_at(cx, AT_FDCWD, path, flags)?;
    if mask & IN_ONLYDIR != 0 && !place.inode().is_dir() {
        return Err(Errno::ENOTDIR);
    }
    let cred = cx.task.cred();
    place.inode().permission(Who { cred: &cred, task: Some(&cx.task) }, Access::READ)?;
    Ok(instance.watch(place.inode().id()?, mask)? as u64)
}

fn inotify_rm_watch(cx: &mut Ctx<'_>, fd: Fd, wd: i32) -> SysResult {
    let file = cx.file(fd)?;
    Inotify::of(&file)?.unwatch(wd)?;
    Ok(0)
}
