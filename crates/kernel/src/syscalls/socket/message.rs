//! send(2), recv(2) and their relatives.

use std::time::{Duration, Instant};

use super::control::{self, Control};
use super::{Waiting, read_address, write_address};
use crate::abi::net::{MSG_CMSG_CLOEXEC, MSG_DONTWAIT, MSG_NOSIGNAL, MSG_PEEK, MSG_TRUNC, MSG_WAITALL};
use crate::abi::types::{Iovec, Msghdr, Timespec};
use crate::call::{Addr, Ctx, Fd};
use crate::fd::OpenFile;
use crate::ipc::glue;
use crate::ipc::socket::{Incoming, Kind, Outgoing, SocketFile};
use crate::mem::{IOV_MAX, MAX_RW, check_range};
use crate::wait::Events;
use crate::{Errno, Result, SysResult};

/// Only the first message is waited for (include/linux/socket.h).
const MSG_WAITFORONE: u32 = 0x1_0000;
/// Offsets of what `recvmsg` writes back, in `struct msghdr`.
const NAMELEN_AT: u64 = 8;
const CONTROLLEN_AT: u64 = 40;
const FLAGS_AT: u64 = 48;
/// Size of `struct mmsghdr`, and where its `msg_len` is.
const MMSG_SIZE: u64 = 64;
const MMSG_LEN_AT: u64 = 56;

fn one_range(address: Addr, len: u64) -> Result<Vec<Iovec>> {
    let len = len.min(MAX_RW as u64);
    check_range(address.0, len)?;
    Ok(vec![Iovec { base: address.0, len }])
}

pub(super) fn sendto(
    cx: &mut Ctx<'_>,
    fd: Fd,
    buffer: Addr,
    len: u64,
    flags: u32,
    address: Addr,
    address_len: i32,
) -> SysResult {
    let ranges = one_range(buffer, len)?;
    let file = cx.file(fd)?;
    SocketFile::of(&file)?;
    let address = match address.0 {
        0 => None,
        _ => Some(read_address(cx, address, address_len)?),
    };
    send(cx, &file, ranges, address, Control::default(), flags)
}

pub(super) fn sendmsg(cx: &mut Ctx<'_>, fd: Fd, message: Addr, flags: u32) -> SysResult {
    let file = cx.file(fd)?;
    SocketFile::of(&file)?;
    send_one(cx, &file, message.0, flags)
}

fn read_header(cx: &mut Ctx<'_>, at: u64) -> Result<(Msghdr, Vec<Iovec>)> {
    let mut header: Msghdr = cx.mem().read(at)?;
    if header.name == 0 {
        header.namelen = 0;
    }
    if (header.namelen as i32) < 0 {
        return Err(Errno::EINVAL);
    }
    // Longer ones are cut (copy_msghdr_from_user()).
    header.namelen = header.namelen.min(super::MAX_ADDRESS as u32);
    let count = usize::try_from(header.iovlen).ok().filter(|count| *count <= IOV_MAX).ok_or(Errno::EMSGSIZE)?;
    let ranges = cx.mem().read_iovec(header.iov, count)?;
    Ok((header, ranges))
}

fn send_one(cx: &mut Ctx<'_>, file: &OpenFile, at: u64, flags: u32) -> SysResult {
    let (header, ranges) = read_header(cx, at)?;
    let address = match header.namelen {
        0 => None,
        len => Some(read_address(cx, Addr(header.name), len as i32)?),
    };
    let control = control::read(cx, file, header.control, header.controllen)?;
    send(cx, file, ranges, address, control, flags)
}

fn send(
    cx: &mut Ctx<'_>,
    file: &OpenFile,
    ranges: Vec<Iovec>,
    address: Option<Vec<u8>>,
    control: Control,
    flags: u32,
) -> SysResult {
    let socket = SocketFile::of(file)?.socket.clone();
    let wait = Waiting::new(file, &*socket, flags, true);
    let task = cx.task.clone();
    let cred = control.cred.unwrap_or_else(|| glue::ucred(&task));
    let mut mem = cx.mem();
    let mut source = mem.source(ranges);
    let mut message = Outgoing {
        source: &mut source,
        address: address.filter(|address| !address.is_empty()),
        flags,
        files: control.files,
        control: control.other,
        cred,
        task: &task,
    };
    let mut done = 0;
    loop {
        match wait.run(&task, &*socket, Events::OUT, || socket.send(&mut message)) {
            Ok(count) => done += count,
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
        if socket.kind() != Kind::Stream || wait.nonblocking || message.source.remaining() == 0 {
            break;
        }
        // What was sent is reported; a broken pipe shows with the next call.
        message.flags |= MSG_NOSIGNAL;
    }
    Ok(done as u64)
}

/// What was received, but for the bytes.
struct Received {
    len: usize,
    address: Vec<u8>,
    control: Control,
    flags: u32,
}

fn receive(cx: &mut Ctx<'_>, file: &OpenFile, ranges: Vec<Iovec>, flags: u32) -> Result<Received> {
    let socket = SocketFile::of(file)?.socket.clone();
    let wait = Waiting::new(file, &*socket, flags, false);
    let task = cx.task.clone();
    let mut mem = cx.mem();
    let mut sink = mem.sink(ranges);
    let mut message = Incoming::new(&mut sink, flags);
    let stream = socket.kind() == Kind::Stream;
    let goes_on = stream && flags & MSG_WAITALL != 0 && flags & MSG_PEEK == 0;
    let mut done = 0;
    loop {
        match wait.run(&task, &*socket, Events::IN, || socket.recv(&mut message)) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
        if !goes_on || message.stop || message.sink.remaining() == 0 || !message.files.is_empty() {
            break;
        }
    }
    let full = !stream && flags & MSG_TRUNC != 0;
    Ok(Received {
        len: if full { message.full_len } else { done },
        address: std::mem::take(&mut message.address),
        control: Control {
            files: std::mem::take(&mut message.files),
            cred: message.cred.filter(|_| socket.options().pass_cred()),
            other: std::mem::take(&mut message.control),
        },
        flags: message.out_flags,
    })
}

pub(super) fn recvfrom(
    cx: &mut Ctx<'_>,
    fd: Fd,
    buffer: Addr,
    len: u64,
    flags: u32,
    address: Addr,
    address_len: Addr,
) -> SysResult {
    let ranges = one_range(buffer, len)?;
    let file = cx.file(fd)?;
    let received = receive(cx, &file, ranges, flags)?;
    if address.0 != 0 {
        write_address(cx, &received.address, address.0, address_len.0)?;
    }
    Ok(received.len as u64)
}

pub(super) fn recvmsg(cx: &mut Ctx<'_>, fd: Fd, message: Addr, flags: u32) -> SysResult {
    let file = cx.file(fd)?;
    SocketFile::of(&file)?;
    receive_one(cx, &file, message.0, flags)
}

fn receive_one(cx: &mut Ctx<'_>, file: &OpenFile, at: u64, flags: u32) -> SysResult {
    let (header, ranges) = read_header(cx, at)?;
    let received = receive(cx, file, ranges, flags)?;
    let close_on_exec = flags & MSG_CMSG_CLOEXEC != 0;
    let (used, cut) = control::write(cx, received.control, header.control, header.controllen, close_on_exec)?;
    if header.name != 0 {
        let room = (header.namelen as usize).min(received.address.len());
        cx.mem().write_bytes(header.name, received.address.get(..room).unwrap_or_default())?;
        cx.mem().write(at.wrapping_add(NAMELEN_AT), &(received.address.len() as u32))?;
    }
    cx.mem().write(at.wrapping_add(FLAGS_AT), &(received.flags | cut | flags & MSG_CMSG_CLOEXEC))?;
    cx.mem().write(at.wrapping_add(CONTROLLEN_AT), &used)?;
    Ok(received.len as u64)
}

pub(super) fn sendmmsg(cx: &mut Ctx<'_>, fd: Fd, list: Addr, count: u32, flags: u32) -> SysResult {
    let file = cx.file(fd)?;
    SocketFile::of(&file)?;
    let mut done = 0;
    for index in 0..u64::from(count).min(IOV_MAX as u64) {
        let at = list.plus(index * MMSG_SIZE);
        let sent = send_one(cx, &file, at, flags)
            .and_then(|len| cx.mem().write(at.wrapping_add(MMSG_LEN_AT), &(len as u32)));
        match sent {
            Ok(()) => done += 1,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done)
}

/// do_recvmmsg(): the timeout is looked at between messages only.
pub(super) fn recvmmsg(cx: &mut Ctx<'_>, fd: Fd, list: Addr, count: u32, flags: u32, timeout: Addr) -> SysResult {
    let deadline = match timeout.non_null() {
        Some(at) => crate::wait::deadline_after(glue::timespec(cx.mem().read::<Timespec>(at)?)?),
        None => None,
    };
    let file = cx.file(fd)?;
    SocketFile::of(&file)?;
    let (mut done, mut flags) = (0, flags);
    let mut failed = None;
    for index in 0..u64::from(count) {
        let at = list.plus(index * MMSG_SIZE);
        let received = receive_one(cx, &file, at, flags & !MSG_WAITFORONE)
            .and_then(|len| cx.mem().write(at.wrapping_add(MMSG_LEN_AT), &(len as u32)));
        match received {
            Ok(()) => done += 1,
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
        if flags & MSG_WAITFORONE != 0 {
            flags |= MSG_DONTWAIT;
        }
        if deadline.is_some_and(|at| at <= Instant::now()) {
            break;
        }
    }
    if let (Some(at), Some(deadline)) = (timeout.non_null(), deadline) {
        let left: Duration = deadline.saturating_duration_since(Instant::now());
        let seconds = i64::try_from(left.as_secs()).unwrap_or(i64::MAX);
        cx.mem().write(at, &Timespec { tv_sec: seconds, tv_nsec: i64::from(left.subsec_nanos()) })?;
    }
    match failed {
        Some(error) if done == 0 => Err(error),
        _ => Ok(done),
    }
}
