//! Calls on descriptors: close, dup, sync, ioctl, fallocate, memfd_create.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::abi::linux::{
    FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_INSERT_RANGE, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE,
    FALLOC_FL_UNSHARE_RANGE, FALLOC_FL_ZERO_RANGE, FASYNC, O_APPEND, O_CLOEXEC, O_NONBLOCK, O_PATH, O_RDWR,
    RLIMIT_FSIZE,
};
use crate::call::{Addr, Ctx, Fd};
use crate::fd::{FdEntry, FdTable, OpenFile};
use crate::fs::lock::Owner;
use crate::fs::mem::MemFile;
use crate::fs::{NewNode, S_IFDIR, S_IFIFO, S_IFMT, S_IFREG};
use crate::ipc::socket::SocketFile;
use crate::task::Task;
use crate::{Errno, Result, SysResult};

crate::calls! {
    3 close close, 1 Full;
    16 ioctl ioctl, 3 Full;
    32 dup dup, 1 Full;
    33 dup2 dup2, 2 Full;
    74 fsync fsync, 1 Full;
    75 fdatasync fdatasync, 1 Full;
    162 sync sync, 0 Full;
    187 readahead readahead, 3 Full;
    221 fadvise64 fadvise64, 4 Full;
    277 sync_file_range sync_file_range, 4 Full;
    285 fallocate fallocate, 4 Full;
    292 dup3 dup3, 3 Full;
    306 syncfs syncfs, 1 Full;
    319 memfd_create memfd_create, 2 Full;
    436 close_range close_range, 3 Full;
}

/// What `close` does with an entry that left the table `files` (`filp_close()`, fs/open.c).
pub fn close_entry(task: &Arc<Task>, files: &FdTable, entry: FdEntry) -> Result<()> {
    let vfs = &task.world.vfs;
    // POSIX record locks go with any descriptor of the file (fcntl_locking(2)).
    if vfs.locks.locked.load(Ordering::SeqCst) > 0
        && entry.file.flags() & O_PATH == 0
        && let Some(owner) = files.known_lock_owner()
        && let Ok(stat) = entry.file.file.stat()
    {
        vfs.locks.release((stat.st_dev, stat.st_ino), Owner::Posix(owner));
    }
    vfs.watches.dnotify.flush(&entry.file, std::ptr::from_ref(files).addr());
    entry.file.file.flush(task)
}

fn close(cx: &mut Ctx<'_>, fd: Fd) -> SysResult {
    let files = cx.task.files();
    let entry = files.remove(fd.0)?;
    close_entry(&cx.task, &files, entry)?;
    Ok(0)
}

const CLOSE_RANGE_UNSHARE: u32 = 2;
const CLOSE_RANGE_CLOEXEC: u32 = 4;

fn close_range(cx: &mut Ctx<'_>, first: u32, last: u32, flags: u32) -> SysResult {
    if flags & !(CLOSE_RANGE_UNSHARE | CLOSE_RANGE_CLOEXEC) != 0 || last < first {
        return Err(Errno::EINVAL);
    }
    if flags & CLOSE_RANGE_UNSHARE != 0 {
        cx.task.unshare_files();
    }
    let files = cx.task.files();
    let within = |fd: i32| u32::try_from(fd).is_ok_and(|fd| (first..=last).contains(&fd));
    if flags & CLOSE_RANGE_CLOEXEC != 0 {
        for (fd, _) in files.list() {
            if within(fd) {
                let _ = files.set_close_on_exec(fd, true);
            }
        }
        return Ok(0);
    }
    for entry in files.remove_if(|fd, _| within(fd)) {
        let _ = close_entry(&cx.task, &files, entry);
    }
    Ok(0)
}

fn dup(cx: &mut Ctx<'_>, fd: Fd) -> SysResult {
    let file = cx.file(fd)?;
    let new = cx.task.files().install(FdEntry { file, close_on_exec: false }, 0, cx.task.nofile())?;
    Ok(new as u64)
}

fn dup2(cx: &mut Ctx<'_>, old: Fd, new: Fd) -> SysResult {
    if old == new {
        cx.file(old)?;
        return Ok(new.0 as u64);
    }
    replace(cx, old, new, false)
}

fn dup3(cx: &mut Ctx<'_>, old: Fd, new: Fd, flags: u32) -> SysResult {
    if flags & !O_CLOEXEC != 0 || old == new {
        return Err(Errno::EINVAL);
    }
    replace(cx, old, new, flags & O_CLOEXEC != 0)
}

fn replace(cx: &mut Ctx<'_>, old: Fd, new: Fd, close_on_exec: bool) -> SysResult {
    let index = usize::try_from(new.0).map_err(|_| Errno::EBADF)?;
    if index >= cx.task.nofile() {
        return Err(Errno::EBADF);
    }
    let file = cx.file(old)?;
    let files = cx.task.files();
    if let Some(previous) = files.replace(index, FdEntry { file, close_on_exec }) {
        // Errors of this close are lost (dup2(2)).
        let _ = close_entry(&cx.task, &files, previous);
    }
    Ok(new.0 as u64)
}

/// `EBADF` for `O_PATH` descriptors too.
fn real_file(cx: &Ctx<'_>, fd: Fd) -> Result<Arc<OpenFile>> {
    let file = cx.file(fd)?;
    if file.flags() & O_PATH != 0 { Err(Errno::EBADF) } else { Ok(file) }
}

fn fsync(cx: &mut Ctx<'_>, fd: Fd) -> SysResult {
    real_file(cx, fd)?.file.sync(false).map(|()| 0)
}

fn fdatasync(cx: &mut Ctx<'_>, fd: Fd) -> SysResult {
    real_file(cx, fd)?.file.sync(true).map(|()| 0)
}

fn sync(cx: &mut Ctx<'_>) -> SysResult {
    for mount in cx.task.world.vfs.mounts.list() {
        let _ = mount.fs.sync();
    }
    Ok(0)
}

fn syncfs(cx: &mut Ctx<'_>, fd: Fd) -> SysResult {
    let file = real_file(cx, fd)?;
    super::path::place_of(&cx.task, &file).mount.fs.sync()?;
    Ok(0)
}

fn sync_file_range(cx: &mut Ctx<'_>, fd: Fd, offset: i64, len: i64, flags: u32) -> SysResult {
    let file = real_file(cx, fd)?;
    if flags & !7 != 0 || offset < 0 || len < 0 || offset.checked_add(len).is_none() {
        return Err(Errno::EINVAL);
    }
    if !file.file.seekable() {
        return Err(Errno::ESPIPE);
    }
    Ok(0)
}

fn readahead(cx: &mut Ctx<'_>, fd: Fd, _offset: i64, _count: u64) -> SysResult {
    let file = real_file(cx, fd)?;
    if !file.readable() {
        return Err(Errno::EBADF);
    }
    if file.file.stat()?.st_mode & S_IFMT == S_IFREG { Ok(0) } else { Err(Errno::EINVAL) }
}

/// Advice is taken note of by nobody; its arguments are checked (mm/fadvise.c).
fn fadvise64(cx: &mut Ctx<'_>, fd: Fd, _offset: i64, len: i64, advice: u32) -> SysResult {
    let file = real_file(cx, fd)?;
    if file.file.stat()?.st_mode & S_IFMT == S_IFIFO {
        return Err(Errno::ESPIPE);
    }
    if len < 0 || advice > 5 { Err(Errno::EINVAL) } else { Ok(0) }
}

/// `vfs_fallocate()`.
fn fallocate(cx: &mut Ctx<'_>, fd: Fd, mode: u32, offset: i64, len: i64) -> SysResult {
    let file = real_file(cx, fd)?;
    if offset < 0 || len <= 0 {
        return Err(Errno::EINVAL);
    }
    const KNOWN: u32 = FALLOC_FL_KEEP_SIZE
        | FALLOC_FL_PUNCH_HOLE
        | FALLOC_FL_COLLAPSE_RANGE
        | FALLOC_FL_ZERO_RANGE
        | FALLOC_FL_INSERT_RANGE
        | FALLOC_FL_UNSHARE_RANGE;
    let kinds =
        mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_ZERO_RANGE | FALLOC_FL_INSERT_RANGE);
    if mode & !KNOWN != 0
        || kinds.count_ones() > 1
        || (mode & FALLOC_FL_PUNCH_HOLE != 0 && mode & FALLOC_FL_KEEP_SIZE == 0)
    {
        return Err(Errno::EOPNOTSUPP);
    }
    if !file.writable() {
        return Err(Errno::EBADF);
    }
    if mode != 0 && mode != FALLOC_FL_KEEP_SIZE && file.flags() & O_APPEND != 0 && kinds != 0 {
        return Err(Errno::EPERM);
    }
    match file.file.stat()?.st_mode & S_IFMT {
        S_IFIFO => return Err(Errno::ESPIPE),
        S_IFDIR => return Err(Errno::EISDIR),
        S_IFREG => {}
        _ => return Err(Errno::ENODEV),
    }
    let end = offset.checked_add(len).ok_or(Errno::EFBIG)?;
    if mode & FALLOC_FL_KEEP_SIZE == 0 && end as u64 > cx.task.rlimit(RLIMIT_FSIZE) {
        super::rw::exceeds_file_size(&cx.task);
        return Err(Errno::EFBIG);
    }
    file.file.allocate(mode, offset as u64, len as u64)?;
    crate::fs::inotify::modified(&cx.task.world.vfs, &file);
    Ok(0)
}

const MFD_CLOEXEC: u32 = 1;
const MFD_ALLOW_SEALING: u32 = 2;
const MFD_NOEXEC_SEAL: u32 = 8;
const MFD_EXEC: u32 = 16;
const F_SEAL_EXEC: u32 = 0x20;

/// mm/memfd.c. Huge pages are not offered: `EINVAL`, as without hugetlbfs.
fn memfd_create(cx: &mut Ctx<'_>, name: Addr, flags: u32) -> SysResult {
    if flags & !(MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL | MFD_EXEC) != 0
        || flags & (MFD_NOEXEC_SEAL | MFD_EXEC) == MFD_NOEXEC_SEAL | MFD_EXEC
    {
        return Err(Errno::EINVAL);
    }
    let name = cx.mem().read_cstr(name.0, 250)?.ok_or(Errno::EINVAL)?;
    let cred = cx.task.cred();
    let mode = if flags & MFD_NOEXEC_SEAL != 0 { 0o666 } else { 0o777 };
    let new = NewNode { mode: S_IFREG | mode, uid: cred.fsuid, gid: cred.fsgid, rdev: 0, target: b"" };
    let vfs = &cx.task.world.vfs;
    let node = vfs.memory.orphan(&new)?;
    node.edit_meta(|meta| meta.nlink = 0);
    if flags & MFD_NOEXEC_SEAL != 0 {
        node.seals.store(F_SEAL_EXEC, Ordering::SeqCst);
    } else if flags & MFD_ALLOW_SEALING != 0 {
        node.seals.store(0, Ordering::SeqCst);
    }
    let shown = [b"/memfd:".as_slice(), &name, b" (deleted)"].concat();
    let place = vfs.mounts.nowhere(node.clone(), &shown);
    let flags_kept = O_RDWR | super::path::O_LARGEFILE;
    let file = OpenFile::with_path(Arc::new(MemFile::new(node, flags_kept)), flags_kept, Some(place));
    let entry = FdEntry { file, close_on_exec: flags & MFD_CLOEXEC != 0 };
    Ok(cx.task.files().install(entry, 0, cx.task.nofile())? as u64)
}

const FIONREAD: u32 = 0x541b;
const FIONBIO: u32 = 0x5421;
const FIONCLEX: u32 = 0x5450;
const FIOCLEX: u32 = 0x5451;
const FIOASYNC: u32 = 0x5452;
const FIOQSIZE: u32 = 0x5460;
/// Of sockets (sock_ioctl(), net/socket.c).
const FIOSETOWN: u32 = 0x8901;
const SIOCSPGRP: u32 = 0x8902;
const FIOGETOWN: u32 = 0x8903;
const SIOCGPGRP: u32 = 0x8904;
const FIGETBSZ: u32 = 2;
const FICLONE: u32 = 0x4004_9409;
const FICLONERANGE: u32 = 0x4020_940d;

/// ioctl_ficlone(2) where no file system shares extents: the checks of vfs_clone_file_range() (fs/remap_range.c) in
/// their order, then the answer of one without `remap_file_range`.
fn clone_range(cx: &mut Ctx<'_>, to: &OpenFile, source: Fd) -> SysResult {
    let from = real_file(cx, source)?;
    let (a, b) = (from.file.stat()?, to.file.stat()?);
    if a.st_dev != b.st_dev {
        return Err(Errno::EXDEV);
    }
    super::splice::check_files((&from, &a), (to, &b))?;
    Err(Errno::EOPNOTSUPP)
}

/// `do_vfs_ioctl()`, then the file's own.
fn ioctl(cx: &mut Ctx<'_>, fd: Fd, command: u32, argument: u64) -> SysResult {
    let file = real_file(cx, fd)?;
    match command {
        FIOCLEX | FIONCLEX => {
            cx.task.files().set_close_on_exec(fd.0, command == FIOCLEX)?;
            return Ok(0);
        }
        FIONBIO => {
            let on: i32 = cx.mem().read(argument)?;
            file.set_flags(O_NONBLOCK, if on != 0 { O_NONBLOCK } else { 0 })?;
            return Ok(0);
        }
        FIOASYNC => {
            let on: i32 = cx.mem().read(argument)?;
            let changes = (on != 0) != (file.flags() & FASYNC != 0);
            if changes && !file.set_async(&cx.task, fd.0, on != 0) {
                return Err(Errno::ENOTTY);
            }
            return Ok(0);
        }
        FIOSETOWN | SIOCSPGRP if SocketFile::of(&file).is_ok() => {
            let who: i32 = cx.mem().read(argument)?;
            return file.owner().set(&cx.task, who).map(|()| 0);
        }
        FIOGETOWN | SIOCGPGRP if SocketFile::of(&file).is_ok() => {
            cx.mem().write(argument, &file.owner().get())?;
            return Ok(0);
        }
        FICLONE => return clone_range(cx, &file, Fd(argument as i32)),
        FICLONERANGE => {
            // struct file_clone_range: the source comes first.
            let range: [i64; 4] = cx.mem().read(argument)?;
            let source = range.first().copied().unwrap_or(-1);
            return clone_range(cx, &file, Fd(source as i32));
        }
        FIONREAD | FIOQSIZE | FIGETBSZ => {}
        _ => return file.file.ioctl(cx, command, argument),
    }
    let stat = file.file.stat()?;
    let regular = stat.st_mode & S_IFMT == S_IFREG;
    match command {
        FIONREAD if regular => {
            let left = stat.st_size - *file.position.lock() as i64;
            cx.mem().write(argument, &(left as i32))?;
            Ok(0)
        }
        FIOQSIZE if regular || stat.st_mode & S_IFMT == S_IFDIR => {
            cx.mem().write(argument, &stat.st_size)?;
            Ok(0)
        }
        FIGETBSZ if file.path.is_some() => {
            cx.mem().write(argument, &(stat.st_blksize as i32))?;
            Ok(0)
        }
        _ => file.file.ioctl(cx, command, argument),
    }
}
