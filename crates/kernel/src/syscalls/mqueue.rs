//! mq_open(3) and its kin: ipc/mqueue.c.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::abi::linux::{O_ACCMODE, O_CREAT, O_EXCL, O_NONBLOCK, O_RDONLY, O_RDWR, O_WRONLY};
use crate::abi::types::Timespec;
use crate::call::{Addr, Ctx, Fd};
use crate::fd::OpenFile;
use crate::fs::{Access, S_IFREG, perm};
use crate::ipc::glue;
use crate::ipc::mqueue::{COOKIE, How, MQ_PRIO_MAX, MqFile, Notify, Queue, Shape};
use crate::ipc::socket::inet::NetlinkSocket;
use crate::signal::Signal;
use crate::task::Caps;
use crate::wait::Deadline;
use crate::{Errno, Result, SysResult};

crate::calls! {
    240 mq_open mq_open, 4 Full;
    241 mq_unlink mq_unlink, 1 Full;
    242 mq_timedsend mq_timedsend, 5 Full;
    243 mq_timedreceive mq_timedreceive, 5 Full;
    244 mq_notify mq_notify, 2 Full;
    245 mq_getsetattr mq_getsetattr, 3 Full;
}

/// Defaults and limits of /proc/sys/fs/mqueue, and the hard ones that the privileged have.
const DEFAULT_MESSAGES: i64 = 10;
const DEFAULT_SIZE: i64 = 8192;
const HARD_MESSAGES: i64 = 65536;
const HARD_SIZE: i64 = 16 << 20;
const SIGEV_SIGNAL: u32 = 0;
const SIGEV_NONE: u32 = 1;
const SIGEV_THREAD: u32 = 2;

fn read_name(cx: &mut Ctx<'_>, at: Addr) -> Result<Vec<u8>> {
    let name = cx.mem().read_path(at.0)?;
    match name.as_slice() {
        [] => Err(Errno::ENOENT),
        name if name.len() > 255 => Err(Errno::ENAMETOOLONG),
        name if name.contains(&b'/') || name == b"." || name == b".." => Err(Errno::EACCES),
        _ => Ok(name),
    }
}

/// mq_attr_ok().
fn read_shape(cx: &mut Ctx<'_>, mode: u32, attr: Addr) -> Result<Shape> {
    let privileged = cx.task.cred().capable(Caps::SYS_RESOURCE);
    let (messages, size) = match attr.non_null() {
        None => (DEFAULT_MESSAGES, DEFAULT_SIZE),
        Some(at) => {
            let [_, messages, size, _]: [i64; 4] = cx.mem().read(at)?;
            (messages, size)
        }
    };
    let (most, longest) = if privileged { (HARD_MESSAGES, HARD_SIZE) } else { (DEFAULT_MESSAGES, DEFAULT_SIZE) };
    if !(1..=most).contains(&messages) || !(1..=longest).contains(&size) {
        return Err(Errno::EINVAL);
    }
    let mode = mode & 0o777 & !cx.task.fs().umask();
    let (max_messages, message_size) = (messages as usize, size as usize);
    Ok(Shape { max_messages, message_size, mode, owner: glue::owner(&cx.task) })
}

fn mq_open(cx: &mut Ctx<'_>, name: Addr, flags: u32, mode: u32, attr: Addr) -> SysResult {
    let name = read_name(cx, name)?;
    let world = cx.task.world.clone();
    let existing = world.ipc.mqueue.map.lock().get(&name).cloned();
    let queue = match existing {
        Some(_) if flags & O_CREAT != 0 && flags & O_EXCL != 0 => return Err(Errno::EEXIST),
        Some(queue) => {
            let access = match flags & O_ACCMODE {
                O_RDONLY => Access::READ,
                O_WRONLY => Access::WRITE,
                O_RDWR => Access::READ | Access::WRITE,
                _ => return Err(Errno::EINVAL),
            };
            let (uid, gid) = queue.shape.owner;
            perm::generic(&cx.task.cred(), S_IFREG | queue.shape.mode, uid, gid, access)?;
            queue
        }
        None if flags & O_CREAT == 0 => return Err(Errno::ENOENT),
        None => {
            world.ipc.mqueue.check_count(&cx.task)?;
            let shape = read_shape(cx, mode, attr)?;
            let new = Arc::new(Queue::new(&cx.task, shape)?);
            world.ipc.mqueue.map.lock().entry(name).or_insert(new).clone()
        }
    };
    // Always close-on-exec.
    glue::install(cx, Arc::new(MqFile(queue)), flags & (O_ACCMODE | O_NONBLOCK), true)
}

fn mq_unlink(cx: &mut Ctx<'_>, name: Addr) -> SysResult {
    let name = read_name(cx, name)?;
    let world = cx.task.world.clone();
    let mut names = world.ipc.mqueue.map.lock();
    let queue = names.get(&name).ok_or(Errno::ENOENT)?;
    // The directory is sticky: owners and the privileged remove names.
    if !perm::owns(&cx.task.cred(), queue.shape.owner.0) {
        return Err(Errno::EACCES);
    }
    names.remove(&name);
    Ok(0)
}

/// The queue behind a descriptor, or `EBADF`.
fn queue_of(file: &OpenFile) -> Result<Arc<Queue>> {
    let file: &MqFile = file.file.as_any().downcast_ref().ok_or(Errno::EBADF)?;
    Ok(file.0.clone())
}

/// An absolute time of the real-time clock.
fn read_deadline(cx: &mut Ctx<'_>, at: Addr) -> Result<Deadline> {
    let Some(at) = at.non_null() else { return Ok(None) };
    let until: Duration = glue::timespec(cx.mem().read::<Timespec>(at)?)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Instant::now().checked_add(until.saturating_sub(now)))
}

fn mq_timedsend(cx: &mut Ctx<'_>, fd: Fd, message: Addr, len: u64, priority: u32, timeout: Addr) -> SysResult {
    if priority >= MQ_PRIO_MAX {
        return Err(Errno::EINVAL);
    }
    let deadline = read_deadline(cx, timeout)?;
    let file = cx.file(fd)?;
    let queue = queue_of(&file)?;
    if !file.writable() {
        return Err(Errno::EBADF);
    }
    if len > queue.shape.message_size as u64 {
        return Err(Errno::EMSGSIZE);
    }
    let mut bytes = vec![0; len as usize];
    cx.mem().read_bytes(message.0, &mut bytes)?;
    let task = cx.task.clone();
    cx.block(deadline, |table| {
        queue.watch(table, true);
        match queue.send(&task, priority, &mut bytes) {
            Err(Errno::EAGAIN) if !file.nonblocking() => None,
            other => Some(other),
        }
    })?
    .map(|()| 0)
}

fn mq_timedreceive(cx: &mut Ctx<'_>, fd: Fd, message: Addr, len: u64, priority: Addr, timeout: Addr) -> SysResult {
    let deadline = read_deadline(cx, timeout)?;
    let file = cx.file(fd)?;
    let queue = queue_of(&file)?;
    if !file.readable() {
        return Err(Errno::EBADF);
    }
    if len < queue.shape.message_size as u64 {
        return Err(Errno::EMSGSIZE);
    }
    let task = cx.task.clone();
    queue.count_receiver(true);
    let received = task.block(deadline, |table| {
        queue.watch(table, false);
        let received = queue.receive(|of, bytes| {
            if cx.mem().write_now(message.0, bytes) < bytes.len() {
                return Err(Errno::EFAULT);
            }
            priority.non_null().map_or(Ok(()), |at| cx.mem().write(at, &of))
        });
        match received {
            Err(Errno::EAGAIN) if !file.nonblocking() => None,
            other => Some(other),
        }
    });
    queue.count_receiver(false);
    received?.map(|len| len as u64)
}

fn mq_notify(cx: &mut Ctx<'_>, fd: Fd, event: Addr) -> SysResult {
    // struct sigevent: value, signal, how.
    let wanted = match event.non_null() {
        None => None,
        Some(at) => {
            let [low, high, number, how]: [u32; 4] = cx.mem().read(at)?;
            let value = u64::from(low) | u64::from(high) << 32;
            Some(match how {
                SIGEV_NONE => How::Nothing,
                SIGEV_SIGNAL => How::Signal(Signal::new(number as i32)?, value),
                SIGEV_THREAD => {
                    let cookie = cx.mem().read::<[u8; COOKIE]>(value)?;
                    How::Socket(NetlinkSocket::of(&*cx.file(Fd(number as i32))?)?, cookie)
                }
                _ => return Err(Errno::EINVAL),
            })
        }
    };
    let file = cx.file(fd)?;
    let queue = queue_of(&file)?;
    let process = &cx.task.process;
    let notify = wanted.map(|how| Notify { process: Arc::downgrade(process), how });
    queue.set_notify(process, notify).map(|()| 0)
}

fn mq_getsetattr(cx: &mut Ctx<'_>, fd: Fd, new: Addr, old: Addr) -> SysResult {
    let flags = match new.non_null() {
        Some(at) => Some(cx.mem().read::<[i64; 4]>(at)?[0]),
        None => None,
    };
    if flags.is_some_and(|flags| flags & !i64::from(O_NONBLOCK) != 0) {
        return Err(Errno::EINVAL);
    }
    let file = cx.file(fd)?;
    let queue = queue_of(&file)?;
    let count = queue.count() as i64;
    let shape = &queue.shape;
    let before = i64::from(file.flags() & O_NONBLOCK);
    if let Some(flags) = flags {
        file.set_flags(O_NONBLOCK, flags as u32)?;
    }
    if let Some(at) = old.non_null() {
        let words = [before, shape.max_messages as i64, shape.message_size as i64, count, 0, 0, 0, 0];
        cx.mem().write(at, &words)?;
    }
    Ok(0)
}
