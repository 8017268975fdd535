//! read(2), write(2) and their kin; lseek(2).

use std::sync::Arc;

use crate::abi::linux::{O_APPEND, O_NONBLOCK, RLIMIT_FSIZE, SEEK_HOLE, SEEK_SET};
use crate::abi::types::Iovec;
use crate::call::{Addr, Ctx, Fd};
use crate::fd::{Io, OpenFile};
use crate::fs::S_IFREG;
use crate::mem::{MAX_RW, Sink, Source, UserMemory, check_range};
use crate::task::Task;
use crate::wait::Events;
use crate::{Errno, Result, SysResult};

crate::calls! {
    0 read read, 3 Full;
    1 write write, 3 Full;
    8 lseek lseek, 3 Full;
    17 pread64 pread, 4 Full;
    18 pwrite64 pwrite, 4 Full;
    19 readv readv, 3 Full;
    20 writev writev, 3 Full;
    295 preadv preadv, 5 Full;
    296 pwritev pwritev, 5 Full;
    327 preadv2 preadv2, 6 Full;
    328 pwritev2 pwritev2, 6 Full;
}

const RWF_DSYNC: u32 = 0x02;
const RWF_SYNC: u32 = 0x04;
const RWF_NOWAIT: u32 = 0x08;
const RWF_APPEND: u32 = 0x10;
const RWF_NOAPPEND: u32 = 0x20;
/// Most that a thread answers by itself of a read that gives random bytes (`port::RANDOM_MAX`).
const RANDOM_MAX: u64 = crate::abi::port::RANDOM_MAX as u64;
const RWF_KNOWN: u32 = 0x01 | RWF_DSYNC | RWF_SYNC | RWF_NOWAIT | RWF_APPEND | RWF_NOAPPEND | 0x80;

/// Guest memory of a call: one range without allocating, or many.
enum Ranges {
    One(u64, usize),
    Many(Vec<Iovec>),
}

impl Ranges {
    fn one(buffer: Addr, count: u64) -> Result<Ranges> {
        if i64::try_from(count).is_err() {
            return Err(Errno::EINVAL);
        }
        check_range(buffer.0, count)?;
        Ok(Ranges::One(buffer.0, (count as usize).min(MAX_RW)))
    }

    fn many(cx: &mut Ctx<'_>, iov: Addr, count: u64) -> Result<Ranges> {
        let count = usize::try_from(count).map_err(|_| Errno::EINVAL)?;
        cx.mem().read_iovec(iov.0, count).map(Ranges::Many)
    }

    fn len(&self) -> usize {
        match self {
            Ranges::One(_, len) => *len,
            Ranges::Many(list) => list.iter().map(|range| range.len as usize).sum(),
        }
    }

    /// What is left behind the first `count` bytes.
    fn skip(&mut self, mut count: usize) {
        match self {
            Ranges::One(base, len) => {
                *base = base.wrapping_add(count as u64);
                *len = len.saturating_sub(count);
            }
            Ranges::Many(list) => {
                for range in list {
                    let part = (range.len as usize).min(count);
                    range.base = range.base.wrapping_add(part as u64);
                    range.len -= part as u64;
                    count -= part;
                }
            }
        }
    }
}

/// Where in the file.
#[derive(Clone, Copy)]
enum At {
    /// The open file's position.
    Position,
    Offset(u64),
}

/// vfs_read() and its accounting.
fn read_with(cx: &mut Ctx<'_>, file: &Arc<OpenFile>, ranges: Ranges, at: At, rwf: u32) -> SysResult {
    let result = read_ranges(cx, file, ranges, at, rwf);
    cx.task.process.io.read(result.unwrap_or(0));
    result
}

/// One try, which does not wait.
fn read_once(cx: &mut Ctx<'_>, file: &OpenFile, ranges: &Ranges, offset: u64, flags: u32) -> Result<usize> {
    let mut mem = UserMemory { thread: &mut *cx.thread, space: &*cx.space };
    let io = Io { task: &cx.task, flags };
    match ranges {
        Ranges::One(base, len) => file.file.read(&io, offset, &mut mem.sink_one(*base, *len)),
        Ranges::Many(list) => file.file.read(&io, offset, &mut mem.sink(list.clone())),
    }
}

fn read_ranges(cx: &mut Ctx<'_>, file: &Arc<OpenFile>, mut ranges: Ranges, at: At, rwf: u32) -> SysResult {
    let events = Events::READ;
    let flags = file.flags() | if rwf & RWF_NOWAIT != 0 { O_NONBLOCK } else { 0 };
    let attempt = |cx: &mut Ctx<'_>, offset: u64| read_once(cx, file, &ranges, offset, flags);
    cx.read_from = None;
    let count = match at {
        At::Offset(offset) => attempt(cx, offset)?,
        At::Position if file.file.seekable() => {
            let mut position = file.position.lock();
            cx.read_from = Some(*position);
            let count = attempt(cx, *position)?;
            *position = position.saturating_add(count as u64);
            count
        }
        At::Position if rwf & RWF_NOWAIT != 0 => attempt(cx, 0)?,
        At::Position => match timed(cx, file, events, |cx| attempt(cx, 0)) {
            Err(Errno::EAGAIN) if flags & O_NONBLOCK == 0 && file.file.timeout_is_end() => 0,
            other => match other? {
                count if file.file.reads_on(count).is_some() => read_on(cx, file, &mut ranges, count, flags),
                count => count,
            },
        },
    };
    if count > 0 {
        crate::fs::inotify::accessed(&cx.task.world.vfs, file);
    }
    Ok(count as u64)
}

/// Goes on with a read that wants more than the `count` bytes it has, until no more come, or a signal does (n_tty_read()).
fn read_on(cx: &mut Ctx<'_>, file: &OpenFile, ranges: &mut Ranges, mut count: usize, flags: u32) -> usize {
    let mut last = count;
    while let (Some(pause), true) = (file.file.reads_on(count), ranges.len() > last) {
        ranges.skip(last);
        let deadline = pause.and_then(crate::wait::deadline_after);
        match cx.retry(file, Events::READ, deadline, |cx| read_once(cx, file, ranges, 0, flags)) {
            Ok(more) if more > 0 => last = more,
            _ => break,
        }
        count += last;
    }
    count
}

/// Bytes that travelled to the guest with a reply met a bad address. Prepares for reading them once more, without
/// staging, so that what fits is counted; `false` if the call is no read. Only files that can be read twice let
/// their bytes travel ([`Sink::fill`]).
pub fn read_again(cx: &mut Ctx<'_>) -> bool {
    const NO_OFFSET: u64 = u64::MAX;
    let at_position = match cx.number {
        0 | 19 => true,
        17 | 295 => false,
        327 => cx.args.get(3) == Some(&NO_OFFSET),
        _ => return false,
    };
    if let (true, Some(from), Ok(file)) = (at_position, cx.read_from.take(), cx.file(Fd(cx.args[0] as i32)))
        && file.file.seekable()
    {
        *file.position.lock() = from;
    }
    true
}

/// A blocking operation, with an end if the file has one (`SO_RCVTIMEO`, `SO_SNDTIMEO`): then `EAGAIN`, and a
/// signal is `EINTR` (sock_intr_errno()).
fn timed<T>(
    cx: &mut Ctx<'_>,
    file: &OpenFile,
    events: Events,
    operation: impl FnMut(&mut Ctx<'_>) -> Result<T>,
) -> Result<T> {
    match file.file.io_timeout(events.contains(Events::OUT)) {
        None => cx.retry(file, events, None, operation),
        Some(timeout) => match cx.retry(file, events, crate::wait::deadline_after(timeout), operation) {
            Err(Errno::ETIMEDOUT) => Err(Errno::EAGAIN),
            Err(Errno::ERESTARTSYS) => Err(Errno::EINTR),
            other => other,
        },
    }
}

/// A source cut short by `RLIMIT_FSIZE`.
struct Limited<'a> {
    source: &'a mut dyn Source,
    left: usize,
}

impl Source for Limited<'_> {
    fn remaining(&self) -> usize {
        self.source.remaining().min(self.left)
    }

    fn take(&mut self, into: &mut [u8]) -> Result<usize> {
        let len = into.len().min(self.left);
        let count = self.source.take(into.get_mut(..len).unwrap_or_default())?;
        self.left -= count;
        Ok(count)
    }
}

/// One write, with `RLIMIT_FSIZE` observed (`generic_write_check_limits()`, fs/read_write.c).
/// Returns the count and, in append mode, the end.
fn write_once(file: &OpenFile, io: &Io<'_>, offset: u64, source: &mut dyn Source) -> Result<(usize, Option<u64>)> {
    let append = io.flags & O_APPEND != 0 && file.file.seekable();
    let limit = io.task.rlimit(RLIMIT_FSIZE);
    if limit != u64::MAX && file.file.seekable() {
        let stat = file.file.stat()?;
        if stat.st_mode & crate::fs::S_IFMT == S_IFREG {
            let start = if append { stat.st_size as u64 } else { offset };
            if start >= limit && source.remaining() > 0 {
                exceeds_file_size(io.task);
                return Err(Errno::EFBIG);
            }
            let left = usize::try_from(limit.saturating_sub(start)).unwrap_or(usize::MAX);
            return unlimited(file, io, offset, append, &mut Limited { source, left });
        }
    }
    unlimited(file, io, offset, append, source)
}

fn unlimited(
    file: &OpenFile,
    io: &Io<'_>,
    offset: u64,
    append: bool,
    source: &mut dyn Source,
) -> Result<(usize, Option<u64>)> {
    match append {
        true => file.file.append(io, source).map(|(count, end)| (count, Some(end))),
        false => file.file.write(io, offset, source).map(|count| (count, None)),
    }
}

/// A write or truncation beyond `RLIMIT_FSIZE`: `SIGXFSZ`.
pub fn exceeds_file_size(task: &Arc<Task>) {
    crate::signal::send_kernel(&task.process, crate::abi::linux::SIGXFSZ as i32);
}

/// vfs_write() and its accounting.
fn write_with(cx: &mut Ctx<'_>, file: &Arc<OpenFile>, ranges: Ranges, at: At, rwf: u32) -> SysResult {
    let result = write_ranges(cx, file, ranges, at, rwf);
    cx.task.process.io.wrote(result.unwrap_or(0));
    result
}

fn write_ranges(cx: &mut Ctx<'_>, file: &Arc<OpenFile>, mut ranges: Ranges, at: At, rwf: u32) -> SysResult {
    let mut flags = file.flags();
    if rwf & RWF_NOWAIT != 0 {
        flags |= O_NONBLOCK;
    }
    if rwf & RWF_APPEND != 0 {
        flags |= O_APPEND;
    }
    if rwf & RWF_NOAPPEND != 0 {
        if flags & O_APPEND != 0 && file.file.append_only() {
            return Err(Errno::EPERM);
        }
        flags &= !O_APPEND;
    }
    let attempt = |cx: &mut Ctx<'_>, ranges: &Ranges, offset: u64| {
        let mut mem = UserMemory { thread: &mut *cx.thread, space: &*cx.space };
        let io = Io { task: &cx.task, flags };
        match ranges {
            Ranges::One(base, len) => write_once(file, &io, offset, &mut mem.source_one(*base, *len)),
            Ranges::Many(list) => write_once(file, &io, offset, &mut mem.source(list.clone())),
        }
    };
    let count = match at {
        At::Offset(offset) => attempt(cx, &ranges, offset)?.0,
        At::Position if file.file.seekable() => {
            let mut position = file.position.lock();
            let (count, end) = attempt(cx, &ranges, *position)?;
            *position = end.unwrap_or(position.saturating_add(count as u64));
            count
        }
        At::Position => {
            let blocking = flags & O_NONBLOCK == 0 && file.file.writes_all();
            let mut done = 0;
            loop {
                let step = match flags & O_NONBLOCK != 0 {
                    true => attempt(cx, &ranges, 0),
                    false => timed(cx, file, Events::WRITE, |cx| attempt(cx, &ranges, 0)),
                };
                match step {
                    Ok((count, _)) => {
                        done += count;
                        ranges.skip(count);
                        if count == 0 || !blocking || ranges.len() == 0 {
                            break done;
                        }
                    }
                    Err(error) if done == 0 => return Err(error),
                    Err(_) => break done,
                }
            }
        }
    };
    if count > 0 {
        after_write(cx, file, rwf)?;
    }
    Ok(count as u64)
}

/// `O_SYNC` and `RWF_SYNC`.
fn after_write(cx: &Ctx<'_>, file: &Arc<OpenFile>, rwf: u32) -> Result<()> {
    if rwf & (RWF_SYNC | RWF_DSYNC) != 0 && file.file.seekable() {
        file.file.sync(rwf & RWF_SYNC == 0)?;
    }
    crate::fs::inotify::modified(&cx.task.world.vfs, file);
    Ok(())
}

fn readable(cx: &Ctx<'_>, fd: Fd) -> Result<Arc<OpenFile>> {
    let file = cx.file(fd)?;
    if file.readable() { Ok(file) } else { Err(Errno::EBADF) }
}

fn writable(cx: &Ctx<'_>, fd: Fd) -> Result<Arc<OpenFile>> {
    let file = cx.file(fd)?;
    if file.writable() { Ok(file) } else { Err(Errno::EBADF) }
}

fn read(cx: &mut Ctx<'_>, fd: Fd, buffer: Addr, count: u64) -> SysResult {
    let file = readable(cx, fd)?;
    let ranges = Ranges::one(buffer, count)?;
    let got = read_with(cx, &file, ranges, At::Position, 0)?;
    if file.file.gives_random() && (1..=RANDOM_MAX).contains(&got) {
        let task = cx.task.clone();
        task.random.lock().has_read(fd.0, &file, &task.files(), &task.control());
    }
    Ok(got)
}

fn write(cx: &mut Ctx<'_>, fd: Fd, buffer: Addr, count: u64) -> SysResult {
    let file = writable(cx, fd)?;
    let ranges = Ranges::one(buffer, count)?;
    write_with(cx, &file, ranges, At::Position, 0)
}

/// `EINVAL` for negative offsets, then `EBADF`, then `ESPIPE` (ksys_pread64()).
fn positioned(cx: &Ctx<'_>, fd: Fd, offset: i64, read: bool) -> Result<(Arc<OpenFile>, At)> {
    let offset = u64::try_from(offset).map_err(|_| Errno::EINVAL)?;
    let file = cx.file(fd)?;
    if file.flags() & crate::abi::linux::O_PATH != 0 {
        return Err(Errno::EBADF);
    }
    if !file.file.seekable() {
        return Err(Errno::ESPIPE);
    }
    let allowed = if read { file.readable() } else { file.writable() };
    if allowed { Ok((file, At::Offset(offset))) } else { Err(Errno::EBADF) }
}

fn pread(cx: &mut Ctx<'_>, fd: Fd, buffer: Addr, count: u64, offset: i64) -> SysResult {
    let (file, at) = positioned(cx, fd, offset, true)?;
    let ranges = Ranges::one(buffer, count)?;
    read_with(cx, &file, ranges, at, 0)
}

fn pwrite(cx: &mut Ctx<'_>, fd: Fd, buffer: Addr, count: u64, offset: i64) -> SysResult {
    let (file, at) = positioned(cx, fd, offset, false)?;
    let ranges = Ranges::one(buffer, count)?;
    write_with(cx, &file, ranges, at, 0)
}

fn readv(cx: &mut Ctx<'_>, fd: Fd, iov: Addr, count: u64) -> SysResult {
    let file = readable(cx, fd)?;
    let ranges = Ranges::many(cx, iov, count)?;
    read_with(cx, &file, ranges, At::Position, 0)
}

fn writev(cx: &mut Ctx<'_>, fd: Fd, iov: Addr, count: u64) -> SysResult {
    let file = writable(cx, fd)?;
    let ranges = Ranges::many(cx, iov, count)?;
    write_with(cx, &file, ranges, At::Position, 0)
}

/// On 64-bit machines the low half of the offset is all of it.
fn preadv(cx: &mut Ctx<'_>, fd: Fd, iov: Addr, count: u64, low: i64, _high: u64) -> SysResult {
    let (file, at) = positioned(cx, fd, low, true)?;
    let ranges = Ranges::many(cx, iov, count)?;
    read_with(cx, &file, ranges, at, 0)
}

fn pwritev(cx: &mut Ctx<'_>, fd: Fd, iov: Addr, count: u64, low: i64, _high: u64) -> SysResult {
    let (file, at) = positioned(cx, fd, low, false)?;
    let ranges = Ranges::many(cx, iov, count)?;
    write_with(cx, &file, ranges, at, 0)
}

fn rwf_checked(flags: u32, writing: bool) -> Result<u32> {
    if flags & !RWF_KNOWN != 0 || (!writing && flags & RWF_APPEND != 0) {
        return Err(Errno::EOPNOTSUPP);
    }
    if flags & RWF_APPEND != 0 && flags & RWF_NOAPPEND != 0 { Err(Errno::EINVAL) } else { Ok(flags) }
}

fn preadv2(cx: &mut Ctx<'_>, fd: Fd, iov: Addr, count: u64, low: i64, _high: u64, flags: u32) -> SysResult {
    let (file, at) = if low == -1 { (readable(cx, fd)?, At::Position) } else { positioned(cx, fd, low, true)? };
    let ranges = Ranges::many(cx, iov, count)?;
    let flags = rwf_checked(flags, false)?;
    read_with(cx, &file, ranges, at, flags)
}

fn pwritev2(cx: &mut Ctx<'_>, fd: Fd, iov: Addr, count: u64, low: i64, _high: u64, flags: u32) -> SysResult {
    let (file, at) = if low == -1 { (writable(cx, fd)?, At::Position) } else { positioned(cx, fd, low, false)? };
    let ranges = Ranges::many(cx, iov, count)?;
    let flags = rwf_checked(flags, true)?;
    write_with(cx, &file, ranges, at, flags)
}

fn lseek(cx: &mut Ctx<'_>, fd: Fd, offset: i64, whence: u32) -> SysResult {
    let file = cx.file(fd)?;
    if file.flags() & crate::abi::linux::O_PATH != 0 {
        return Err(Errno::EBADF);
    }
    if whence > SEEK_HOLE {
        return Err(Errno::EINVAL);
    }
    if file.file.seeks_nowhere() {
        return Ok(0);
    }
    if !file.file.seekable() {
        return Err(Errno::ESPIPE);
    }
    let mut position = file.position.lock();
    if whence == SEEK_SET && offset < 0 {
        return Err(Errno::EINVAL);
    }
    *position = file.file.seek(*position, offset, whence)?;
    Ok(*position)
}

/// Reads into kernel memory at the position or an offset, waiting like `read`; for sendfile and its kin.
pub fn read_bytes(cx: &mut Ctx<'_>, file: &Arc<OpenFile>, offset: Option<u64>, limit: usize) -> Result<Vec<u8>> {
    let flags = file.flags();
    let at = offset.unwrap_or_else(|| *file.position.lock());
    cx.retry(file, Events::READ, None, |cx| {
        let mut sink = crate::mem::VecSink { bytes: Vec::new(), limit };
        file.file.read(&Io { task: &cx.task, flags }, at, &mut sink as &mut dyn Sink)?;
        Ok(sink.bytes)
    })
}

/// Writes from kernel memory, waiting like `write`, until all is taken or something fails after a part.
pub fn write_bytes(cx: &mut Ctx<'_>, file: &Arc<OpenFile>, offset: Option<u64>, bytes: &[u8]) -> Result<usize> {
    let flags = file.flags();
    let mut done = 0;
    while let Some(part) = bytes.get(done..).filter(|part| !part.is_empty()) {
        let at = match offset {
            Some(offset) => offset + done as u64,
            None => *file.position.lock(),
        };
        let step = cx.retry(file, Events::WRITE, None, |cx| {
            write_once(file, &Io { task: &cx.task, flags }, at, &mut crate::mem::SliceSource(part))
        });
        match step {
            Ok((0, _)) => break,
            Ok((count, end)) => {
                done += count;
                if offset.is_none() && file.file.seekable() {
                    *file.position.lock() = end.unwrap_or(at.saturating_add(count as u64));
                }
            }
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    crate::fs::inotify::modified(&cx.task.world.vfs, file);
    Ok(done)
}
