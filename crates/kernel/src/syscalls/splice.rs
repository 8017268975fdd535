//! Moving bytes between files inside the kernel: sendfile, copy_file_range, splice, tee, vmsplice.

use std::sync::Arc;

use super::rw::{read_bytes, write_bytes};
use crate::abi::linux::{O_APPEND, O_NONBLOCK};
use crate::abi::types::Stat;
use crate::call::{Addr, Ctx, Fd};
use crate::fd::{Io, OpenFile};
use crate::fs::{S_IFDIR, S_IFMT, S_IFREG};
use crate::ipc::pipe::PipeEnd;
use crate::mem::{MAX_RW, Sink, SliceSource, Source, VecSink};
use crate::wait::{Events, PollTable};
use crate::{Errno, Result, SysResult};

crate::calls! {
    40 sendfile sendfile, 4 Full;
    275 splice splice, 6 Full;
    276 tee tee, 4 Full;
    278 vmsplice vmsplice, 4 Full;
    326 copy_file_range copy_file_range, 6 Full;
}

/// Bytes per step.
const STEP: usize = 256 << 10;
const SPLICE_F_NONBLOCK: u32 = 2;
const SPLICE_KNOWN: u32 = 0xf;

fn offset_at(cx: &mut Ctx<'_>, at: Addr) -> Result<Option<u64>> {
    match at.non_null() {
        None => Ok(None),
        Some(address) => {
            let value: i64 = cx.mem().read(address)?;
            u64::try_from(value).map(Some).map_err(|_| Errno::EINVAL)
        }
    }
}

fn store_offset(cx: &mut Ctx<'_>, at: Addr, offset: Option<u64>) -> Result<()> {
    match (at.non_null(), offset) {
        (Some(address), Some(offset)) => cx.mem().write(address, &offset),
        _ => Ok(()),
    }
}

/// Copies `count` bytes; advances the offsets, or the position of `from` where it has no offset. A short
/// write leaves what was not taken unread.
fn copy(
    cx: &mut Ctx<'_>,
    from: &Arc<OpenFile>,
    from_at: &mut Option<u64>,
    to: &Arc<OpenFile>,
    to_at: &mut Option<u64>,
    count: usize,
) -> Result<usize> {
    let mut done = 0;
    while done < count {
        if done > 0 && cx.task.interrupted() {
            break;
        }
        let step = (count - done).min(STEP);
        let bytes = match read_bytes(cx, from, *from_at, step) {
            Ok(bytes) if bytes.is_empty() => break,
            Ok(bytes) => bytes,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        };
        let taken = match write_bytes(cx, to, *to_at, &bytes) {
            Ok(taken) => taken,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        };
        done += taken;
        match from_at {
            Some(offset) => *offset += taken as u64,
            None if from.file.seekable() => *from.position.lock() += taken as u64,
            None => {}
        }
        if let Some(offset) = to_at {
            *offset += taken as u64;
        }
        if taken < bytes.len() {
            break;
        }
    }
    Ok(done)
}

fn sendfile(cx: &mut Ctx<'_>, out: Fd, input: Fd, offset: Addr, count: u64) -> SysResult {
    let mut from_at = offset_at(cx, offset)?;
    let from = cx.file(input)?;
    if !from.readable() {
        return Err(Errno::EBADF);
    }
    if from_at.is_some() && !from.file.seekable() {
        return Err(Errno::ESPIPE);
    }
    let to = cx.file(out)?;
    if !to.writable() {
        return Err(Errno::EBADF);
    }
    if to.flags() & O_APPEND != 0 {
        return Err(Errno::EINVAL);
    }
    // Streams cannot be sent from (splice_direct_to_actor(), fs/splice.c).
    if !from.file.seekable() || from.file.stat()?.st_mode & S_IFMT == S_IFDIR {
        return Err(Errno::EINVAL);
    }
    let count =
        usize::try_from(count).ok().filter(|count| isize::try_from(*count).is_ok()).ok_or(Errno::EINVAL)?;
    let done = copy(cx, &from, &mut from_at, &to, &mut None, count.min(MAX_RW))?;
    store_offset(cx, offset, from_at)?;
    Ok(done as u64)
}

/// generic_file_rw_checks() (fs/read_write.c): what is to give its bytes to what.
pub(super) fn check_files((from, a): (&OpenFile, &Stat), (to, b): (&OpenFile, &Stat)) -> Result<()> {
    if a.st_mode & S_IFMT == S_IFDIR || b.st_mode & S_IFMT == S_IFDIR {
        return Err(Errno::EISDIR);
    }
    if a.st_mode & S_IFMT != S_IFREG || b.st_mode & S_IFMT != S_IFREG {
        return Err(Errno::EINVAL);
    }
    if !from.readable() || !to.writable() || to.flags() & O_APPEND != 0 {
        return Err(Errno::EBADF);
    }
    Ok(())
}

/// fs/read_write.c, `generic_copy_file_checks()`.
fn copy_file_range(
    cx: &mut Ctx<'_>,
    input: Fd,
    in_at: Addr,
    out: Fd,
    out_at: Addr,
    len: u64,
    flags: u32,
) -> SysResult {
    let from = cx.file(input)?;
    let to = cx.file(out)?;
    let mut from_at = offset_at(cx, in_at)?;
    let mut to_at = offset_at(cx, out_at)?;
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let (a, b) = (from.file.stat()?, to.file.stat()?);
    check_files((&from, &a), (&to, &b))?;
    let from_pos = from_at.unwrap_or_else(|| *from.position.lock());
    let to_pos = to_at.unwrap_or_else(|| *to.position.lock());
    if from_pos.checked_add(len).is_none() || to_pos.checked_add(len).is_none() {
        return Err(Errno::EOVERFLOW);
    }
    let len = len.min((a.st_size as u64).saturating_sub(from_pos));
    let same = (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino);
    if same && to_pos + len > from_pos && to_pos < from_pos + len {
        return Err(Errno::EINVAL);
    }
    let len = usize::try_from(len).unwrap_or(MAX_RW).min(MAX_RW);
    let done = copy(cx, &from, &mut from_at, &to, &mut to_at, len)?;
    store_offset(cx, in_at, from_at)?;
    store_offset(cx, out_at, to_at)?;
    Ok(done as u64)
}

/// Waits until `attempt` does not say `EAGAIN`, watching both files.
fn until<T>(
    cx: &mut Ctx<'_>,
    files: [&Arc<OpenFile>; 2],
    nonblocking: bool,
    mut attempt: impl FnMut(&mut Ctx<'_>) -> Result<T>,
) -> Result<T> {
    match attempt(cx) {
        Err(Errno::EAGAIN) if !nonblocking => {}
        other => return other,
    }
    let task = cx.task.clone();
    task.block(None, |table: &mut PollTable| {
        for file in files {
            table.set_interest(Events::READ | Events::WRITE);
            file.file.poll(table);
        }
        match attempt(cx) {
            Err(Errno::EAGAIN) => None,
            other => Some(other),
        }
    })?
}

fn splice(cx: &mut Ctx<'_>, input: Fd, in_at: Addr, out: Fd, out_at: Addr, len: u64, flags: u32) -> SysResult {
    if len == 0 {
        return Ok(0);
    }
    if flags & !SPLICE_KNOWN != 0 {
        return Err(Errno::EINVAL);
    }
    let from = cx.file(input)?;
    let to = cx.file(out)?;
    if !from.readable() || !to.writable() {
        return Err(Errno::EBADF);
    }
    let (source, sink) = (PipeEnd::of(&from), PipeEnd::of(&to));
    if (source.is_some() && in_at.0 != 0) || (sink.is_some() && out_at.0 != 0) {
        return Err(Errno::ESPIPE);
    }
    let len = usize::try_from(len).unwrap_or(MAX_RW).min(MAX_RW);
    let nonblocking = flags & SPLICE_F_NONBLOCK != 0;
    match (source, sink) {
        (Some(source), Some(sink)) => {
            let nonblocking = nonblocking || from.nonblocking() || to.nonblocking();
            let done = until(cx, [&from, &to], nonblocking, |cx| source.transfer(&cx.task, sink, len, true))?;
            Ok(done as u64)
        }
        (Some(source), None) => {
            if to.flags() & O_APPEND != 0 {
                return Err(Errno::EINVAL);
            }
            let mut to_at = offset_at(cx, out_at)?;
            if to_at.is_some() && !to.file.seekable() {
                return Err(Errno::EINVAL);
            }
            let nonblocking = nonblocking || from.nonblocking();
            let lent = until(cx, [&from, &from], nonblocking, |_| source.lend(len.min(STEP)))?;
            let done = write_bytes(cx, &to, to_at, &lent.bytes)?;
            lent.consume(done);
            to_at = to_at.map(|offset| offset + done as u64);
            store_offset(cx, out_at, to_at)?;
            Ok(done as u64)
        }
        (None, Some(sink)) => {
            let mut from_at = offset_at(cx, in_at)?;
            if from_at.is_some() && !from.file.seekable() {
                return Err(Errno::EINVAL);
            }
            let room = until(cx, [&to, &to], nonblocking || to.nonblocking(), |cx| sink.room(&cx.task))?;
            let bytes = take(cx, &from, from_at, len.min(room).min(STEP), nonblocking || from.nonblocking())?;
            sink.append(&bytes);
            match &mut from_at {
                Some(offset) => *offset += bytes.len() as u64,
                None if from.file.seekable() => *from.position.lock() += bytes.len() as u64,
                None => {}
            }
            store_offset(cx, in_at, from_at)?;
            Ok(bytes.len() as u64)
        }
        (None, None) => Err(Errno::EINVAL),
    }
}

fn take(
    cx: &mut Ctx<'_>,
    from: &Arc<OpenFile>,
    at: Option<u64>,
    limit: usize,
    nonblocking: bool,
) -> Result<Vec<u8>> {
    let at = at.unwrap_or_else(|| *from.position.lock());
    let flags = from.flags() | if nonblocking { O_NONBLOCK } else { 0 };
    until(cx, [from, from], nonblocking, |cx| {
        let mut sink = VecSink { bytes: Vec::new(), limit };
        from.file.read(&Io { task: &cx.task, flags }, at, &mut sink)?;
        Ok(sink.bytes)
    })
}

fn tee(cx: &mut Ctx<'_>, input: Fd, out: Fd, len: u64, flags: u32) -> SysResult {
    if flags & !SPLICE_KNOWN != 0 {
        return Err(Errno::EINVAL);
    }
    if len == 0 {
        return Ok(0);
    }
    let from = cx.file(input)?;
    let to = cx.file(out)?;
    if !from.readable() || !to.writable() {
        return Err(Errno::EBADF);
    }
    let (Some(source), Some(sink)) = (PipeEnd::of(&from), PipeEnd::of(&to)) else { return Err(Errno::EINVAL) };
    let len = usize::try_from(len).unwrap_or(MAX_RW);
    let nonblocking = flags & SPLICE_F_NONBLOCK != 0 || from.nonblocking() || to.nonblocking();
    let done = until(cx, [&from, &to], nonblocking, |cx| source.transfer(&cx.task, sink, len, false))?;
    Ok(done as u64)
}

/// Pages are copied, not lent: a guest cannot tell unless it changes them in flight.
fn vmsplice(cx: &mut Ctx<'_>, fd: Fd, iov: Addr, count: u64, flags: u32) -> SysResult {
    if flags & !SPLICE_KNOWN != 0 {
        return Err(Errno::EINVAL);
    }
    let file = cx.file(fd)?;
    let end = PipeEnd::of(&file).ok_or(Errno::EBADF)?;
    let ranges = cx.mem().read_iovec(iov.0, usize::try_from(count).map_err(|_| Errno::EINVAL)?)?;
    let nonblocking = flags & SPLICE_F_NONBLOCK != 0 || file.nonblocking();
    if !end.writes() {
        let total: u64 = ranges.iter().map(|range| range.len).sum();
        let limit = usize::try_from(total).unwrap_or(MAX_RW).min(STEP);
        let lent = until(cx, [&file, &file], nonblocking, |_| end.lend(limit))?;
        let done = cx.mem().sink(ranges).put(&lent.bytes)?;
        lent.consume(done);
        return Ok(done as u64);
    }
    let mut bytes = vec![0; ranges.iter().map(|range| range.len as usize).sum::<usize>().min(STEP)];
    let got = cx.mem().source(ranges).take(&mut bytes)?;
    let bytes = bytes.get(..got).unwrap_or_default();
    if bytes.is_empty() {
        return Ok(0);
    }
    let flags = file.flags() | if nonblocking { O_NONBLOCK } else { 0 };
    let done = until(cx, [&file, &file], nonblocking, |cx| {
        file.file.write(&Io { task: &cx.task, flags }, 0, &mut SliceSource(bytes))
    })?;
    Ok(done as u64)
}
