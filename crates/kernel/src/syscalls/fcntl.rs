//! fcntl(2) and flock(2).

use std::sync::Arc;

use crate::abi::linux::{
    F_ADD_SEALS, F_DUPFD, F_DUPFD_CLOEXEC, F_GET_SEALS, F_GETFD, F_GETFL, F_GETLEASE, F_GETLK, F_GETOWN,
    F_GETOWN_EX, F_GETPIPE_SZ, F_GETSIG, F_NOTIFY, F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW, F_RDLCK, F_SETFD,
    F_SETFL, F_SETLEASE, F_SETLK, F_SETLKW, F_SETOWN, F_SETOWN_EX, F_SETPIPE_SZ, F_SETSIG, F_UNLCK, F_WRLCK,
    FASYNC, FD_CLOEXEC, LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN, O_APPEND, O_DIRECT, O_NOATIME, O_NONBLOCK, O_PATH,
    SEEK_CUR, SEEK_END, SEEK_SET,
};
use crate::call::{Addr, Ctx, Fd};
use crate::fd::{FdEntry, OpenFile};
use crate::fs::dnotify;
use crate::fs::lock::{Owner, Record, Refused, TO_END};
use crate::fs::mem::MemFile;
use crate::fs::perm;
use crate::ipc::pipe::PipeEnd;
use crate::{Errno, Result, SysResult};

crate::calls! {
    72 fcntl fcntl, 3 Partial("leases are refused");
    73 flock flock, 2 Full;
}

fn fcntl(cx: &mut Ctx<'_>, fd: Fd, command: u32, argument: u64) -> SysResult {
    let file = cx.file(fd)?;
    let path_only = file.flags() & O_PATH != 0;
    if path_only && !matches!(command, F_DUPFD | F_DUPFD_CLOEXEC | F_GETFD | F_SETFD | F_GETFL) {
        return Err(Errno::EBADF);
    }
    match command {
        F_DUPFD | F_DUPFD_CLOEXEC => {
            let lowest = usize::try_from(argument).map_err(|_| Errno::EINVAL)?;
            if lowest >= cx.task.nofile() {
                return Err(Errno::EINVAL);
            }
            let entry = FdEntry { file, close_on_exec: command == F_DUPFD_CLOEXEC };
            Ok(cx.task.files().install(entry, lowest, cx.task.nofile())? as u64)
        }
        F_GETFD => Ok(u64::from(cx.task.files().entry(fd.0)?.close_on_exec)),
        F_SETFD => {
            cx.task.files().set_close_on_exec(fd.0, argument & u64::from(FD_CLOEXEC) != 0)?;
            Ok(0)
        }
        F_GETFL => Ok(u64::from(file.flags())),
        F_SETFL => set_flags(cx, fd, &file, argument as u32),
        F_GETLK | F_OFD_GETLK => get_lock(cx, &file, command == F_OFD_GETLK, Addr(argument)),
        F_SETLK | F_SETLKW | F_OFD_SETLK | F_OFD_SETLKW => set_lock(cx, fd, &file, command, Addr(argument)),
        F_GETOWN => Ok(i64::from(file.owner().get()) as u64),
        F_SETOWN => file.owner().set(&cx.task, argument as i32).map(|()| 0),
        F_GETOWN_EX => {
            let (kind, id) = file.owner().get_kind();
            cx.mem().write(argument, &[kind, id])?;
            Ok(0)
        }
        F_SETOWN_EX => {
            let [kind, id]: [i32; 2] = cx.mem().read(argument)?;
            file.owner().set_kind(&cx.task, kind, id).map(|()| 0)
        }
        F_GETSIG => Ok(file.owner().signal() as u64),
        F_SETSIG => file.owner().set_signal(argument).map(|()| 0),
        F_GETPIPE_SZ => Ok(PipeEnd::of(&file).ok_or(Errno::EBADF)?.size() as u64),
        F_SETPIPE_SZ => PipeEnd::of(&file).ok_or(Errno::EBADF)?.set_size(&cx.task, argument),
        F_GET_SEALS => Ok(u64::from(mem_file(&file)?.seals())),
        F_ADD_SEALS => {
            mem_file(&file)?.add_seals(argument as u32)?;
            Ok(0)
        }
        F_NOTIFY => notify(cx, fd, &file, argument as u32),
        F_GETLEASE => Ok(u64::from(F_UNLCK)),
        F_SETLEASE => Err(Errno::EINVAL),
        _ => Err(Errno::EINVAL),
    }
}

/// fcntl_dirnotify().
fn notify(cx: &Ctx<'_>, fd: Fd, file: &OpenFile, argument: u32) -> SysResult {
    const DN_MULTISHOT: u32 = 0x8000_0000;
    let files = Arc::as_ptr(&cx.task.files()).addr();
    let watches = &cx.task.world.vfs.watches;
    if argument & !DN_MULTISHOT == 0 {
        watches.dnotify.flush(file, files);
        return Ok(0);
    }
    let node = file.path.as_ref().map(|place| place.inode()).filter(|node| node.is_dir()).ok_or(Errno::ENOTDIR)?;
    file.owner().set_if_none(&cx.task, false, cx.task.pid());
    dnotify::Table::ask(watches, file, node.id()?, files, fd.0, argument)?;
    Ok(0)
}

fn mem_file(file: &OpenFile) -> Result<&MemFile> {
    file.file.as_any().downcast_ref().ok_or(Errno::EINVAL)
}

/// `setfl()`.
fn set_flags(cx: &Ctx<'_>, fd: Fd, file: &OpenFile, value: u32) -> SysResult {
    const CHANGEABLE: u32 = O_APPEND | O_NONBLOCK | O_DIRECT | O_NOATIME;
    if value & O_NOATIME != 0 && file.flags() & O_NOATIME == 0 {
        let uid = file.file.stat()?.st_uid;
        if !perm::owns(&cx.task.cred(), uid) {
            return Err(Errno::EPERM);
        }
    }
    if (value ^ file.flags()) & FASYNC != 0 {
        file.set_async(&cx.task, fd.0, value & FASYNC != 0);
    }
    file.set_flags(CHANGEABLE, value)?;
    Ok(0)
}

/// `struct flock` of x86-64: type, whence, start, length, pid.
struct Flock {
    kind: u32,
    whence: u32,
    start: i64,
    len: i64,
    pid: i32,
}

fn read_flock(cx: &mut Ctx<'_>, at: Addr) -> Result<Flock> {
    let raw: [u64; 4] = cx.mem().read(at.0)?;
    let [head, start, len, pid] = raw;
    Ok(Flock {
        kind: u32::from(head as u16),
        whence: u32::from((head >> 16) as u16),
        start: start as i64,
        len: len as i64,
        pid: pid as i32,
    })
}

/// `flock64_to_posix_lock()`: the range, first and last byte.
fn range(file: &OpenFile, lock: &Flock) -> Result<(u64, u64)> {
    let base = match lock.whence {
        SEEK_SET => 0,
        SEEK_CUR => *file.position.lock() as i64,
        SEEK_END => file.file.stat()?.st_size,
        _ => return Err(Errno::EINVAL),
    };
    let start = base.checked_add(lock.start).ok_or(Errno::EOVERFLOW)?;
    let (first, last) = match lock.len {
        0 => (start, i64::MAX),
        len if len > 0 => (start, start.checked_add(len - 1).ok_or(Errno::EOVERFLOW)?),
        len => (start.checked_add(len).ok_or(Errno::EINVAL)?, start - 1),
    };
    let first = u64::try_from(first).map_err(|_| Errno::EINVAL)?;
    u64::try_from(last).map(|last| (first, last)).map_err(|_| Errno::EINVAL)
}

fn id_of(file: &OpenFile) -> Result<(u64, u64)> {
    let stat = file.file.stat()?;
    Ok((stat.st_dev, stat.st_ino))
}

fn owner_of(cx: &Ctx<'_>, file: &OpenFile, ofd: bool) -> (Owner, i32) {
    match ofd {
        true => (Owner::Ofd(file.key), -1),
        false => {
            let owner = cx.task.files().lock_owner(&cx.task.world.vfs.locks);
            (Owner::Posix(owner), cx.task.pid() as i32)
        }
    }
}

fn get_lock(cx: &mut Ctx<'_>, file: &Arc<OpenFile>, ofd: bool, at: Addr) -> SysResult {
    let lock = read_flock(cx, at)?;
    if !matches!(lock.kind, F_RDLCK | F_WRLCK) || (ofd && lock.pid != 0) {
        return Err(Errno::EINVAL);
    }
    let (start, end) = range(file, &lock)?;
    let (owner, pid) = owner_of(cx, file, ofd);
    let wanted = Record { start, end, exclusive: lock.kind == F_WRLCK, owner, pid };
    match cx.task.world.vfs.locks.blocker(id_of(file)?, &wanted) {
        None => cx.mem().write(at.0, &(F_UNLCK as u16))?,
        Some(held) => {
            let kind = if held.exclusive { F_WRLCK } else { F_RDLCK };
            let len = if held.end == TO_END { 0 } else { held.end - held.start + 1 };
            let raw: [u64; 4] = [u64::from(kind), held.start, len, u64::from(held.pid as u32)];
            cx.mem().write(at.0, &raw)?;
        }
    }
    Ok(0)
}

fn set_lock(cx: &mut Ctx<'_>, fd: Fd, file: &Arc<OpenFile>, command: u32, at: Addr) -> SysResult {
    let ofd = matches!(command, F_OFD_SETLK | F_OFD_SETLKW);
    let waits = matches!(command, F_SETLKW | F_OFD_SETLKW);
    let lock = read_flock(cx, at)?;
    let (start, end) = range(file, &lock)?;
    if ofd && lock.pid != 0 {
        return Err(Errno::EINVAL);
    }
    match lock.kind {
        F_RDLCK if !file.readable() => return Err(Errno::EBADF),
        F_WRLCK if !file.writable() => return Err(Errno::EBADF),
        F_RDLCK | F_WRLCK | F_UNLCK => {}
        _ => return Err(Errno::EINVAL),
    }
    let id = id_of(file)?;
    let (owner, pid) = owner_of(cx, file, ofd);
    let locks = cx.task.world.vfs.locks.clone();
    let wanted = Record { start, end, exclusive: lock.kind == F_WRLCK, owner, pid };
    if lock.kind == F_UNLCK {
        return locks.unset(id, wanted).map(|()| 0);
    }
    match locks.set(id, wanted) {
        Ok(()) => {}
        Err(Refused::Full) => return Err(Errno::ENOLCK),
        Err(Refused::By(_)) if !waits => return Err(Errno::EAGAIN),
        Err(Refused::By(_)) => {
            let outcome = cx.task.block(None, |table| {
                locks.watch(id, table);
                match locks.set(id, wanted) {
                    Ok(()) => Some(Ok(())),
                    Err(Refused::Full) => Some(Err(Errno::ENOLCK)),
                    // Only POSIX locks look for circles (posix_locks_deadlock()).
                    Err(Refused::By(holder)) if !ofd => locks.wait_for(owner, holder).err().map(Err),
                    Err(Refused::By(_)) => None,
                }
            });
            locks.stop_waiting(id, Some(owner));
            outcome??;
        }
    }
    if ofd {
        file.holds_locks(id, &locks);
    } else if !cx.task.files().get(fd.0).is_ok_and(|now| Arc::ptr_eq(&now, file)) {
        // A close that came in between must not leave the lock behind (fcntl_setlk(), fs/locks.c).
        locks.release(id, owner);
        return Err(Errno::EBADF);
    }
    Ok(0)
}

fn flock(cx: &mut Ctx<'_>, fd: Fd, operation: u32) -> SysResult {
    let exclusive = match operation & !LOCK_NB {
        LOCK_SH => Some(false),
        LOCK_EX => Some(true),
        LOCK_UN => None,
        _ => return Err(Errno::EINVAL),
    };
    let file = cx.file(fd)?;
    if file.flags() & O_PATH != 0 {
        return Err(Errno::EBADF);
    }
    let id = id_of(&file)?;
    let locks = cx.task.world.vfs.locks.clone();
    let Some(exclusive) = exclusive else {
        locks.unflock(id, file.key);
        return Ok(0);
    };
    match locks.flock(id, file.key, exclusive) {
        Err(Errno::EAGAIN) if operation & LOCK_NB == 0 => {
            let outcome = cx.task.block(None, |table| {
                locks.watch(id, table);
                locks.flock(id, file.key, exclusive).ok()
            });
            locks.stop_waiting(id, None);
            outcome?;
        }
        other => other?,
    }
    file.holds_locks(id, &locks);
    Ok(0)
}
