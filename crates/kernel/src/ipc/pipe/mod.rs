//! Pipes and FIFOs (pipe(7), fifo(7), fs/pipe.c).
//!
//! Lock order: of two pipes the one at the lower address first, then their wait queues.

mod fifo;
mod ring;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;

use self::ring::{DEFAULT_BUFFERS, PAGE, Ring};
use crate::abi::ioctl::FIONREAD;
use crate::abi::linux::{O_DIRECT, O_NONBLOCK, S_IFIFO};
use crate::abi::types::Stat;
use crate::call::Ctx;
use crate::fd::fasync::Request;
use crate::fd::{Band, Fasync, File, Io, OpenFile};
use crate::fs::Inode;
use crate::ipc::glue;
use crate::ipc::quota::Quota;
use crate::mem::{Sink, Source};
use crate::task::Task;
use crate::wait::{Events, PollTable, WaitQueue};
use crate::{Errno, Result, SysResult};

pub use self::fifo::Fifo;

/// Largest pipe that an ordinary user may ask for (`/proc/sys/fs/pipe-max-size`).
pub const MAX_SIZE: usize = 1 << 20;
/// Buffers that all pipes of a sandbox may have together (`/proc/sys/fs/pipe-user-pages-soft`): new ones are small
/// beyond, and none grows.
pub const USER_PAGES: u64 = 16384;
/// Buffers of a small one (`PIPE_MIN_DEF_BUFFERS`).
const FEW: usize = 2;
/// The device number that pipes show in `fstat`.
const PIPEFS_DEV: u64 = 14;

/// What both ends share.
#[derive(Default)]
struct Pipe {
    state: Mutex<State>,
    /// Wait here for bytes, or for the last writer to leave.
    readable: WaitQueue,
    /// Wait here for room, or for the last reader to leave.
    writable: WaitQueue,
    /// Told by signal of the same.
    async_readers: Fasync,
    async_writers: Fasync,
    /// Wait here, in `open` of a FIFO, for the other side.
    partner: WaitQueue,
    /// What was taken of the sandbox's buffers, and where it goes back.
    account: Mutex<Option<(Arc<Quota>, u64)>>,
}

impl Pipe {
    /// Counts its buffers: `slots` now. More than before are refused beyond [`USER_PAGES`].
    fn account(&self, quota: &Arc<Quota>, slots: u64) -> Result<()> {
        let mut account = self.account.lock();
        let before = account.as_ref().map_or(0, |(_, before)| *before);
        match slots.checked_sub(before) {
            Some(more) if more > 0 && !quota.take(more, USER_PAGES) => return Err(Errno::EPERM),
            Some(_) => {}
            None => quota.give(before - slots),
        }
        *account = Some((quota.clone(), slots));
        Ok(())
    }

    fn give_back(&self) {
        if let Some((quota, slots)) = self.account.lock().take() {
            quota.give(slots);
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[derive(Default)]
struct State {
    ring: Ring,
    readers: u32,
    writers: u32,
    /// How often each side was opened; `open` of a FIFO waits for a change (`wait_for_partner()`).
    readers_ever: u64,
    writers_ever: u64,
    /// A splice is giving the first bytes away: nobody else may read before it has ended.
    lent: bool,
}

impl Pipe {
    /// Counts an end in; says so to whoever waits in `open`.
    fn join(&self, read: bool, write: bool) {
        let mut state = self.state.lock();
        if read {
            state.readers += 1;
            state.readers_ever += 1;
        }
        if write {
            state.writers += 1;
            state.writers_ever += 1;
        }
        drop(state);
        self.partner.wake_all();
    }

    fn leave(&self, read: bool, write: bool) {
        let mut state = self.state.lock();
        state.readers -= u32::from(read).min(state.readers);
        state.writers -= u32::from(write).min(state.writers);
        let (readers, writers) = (state.readers, state.writers);
        if readers == 0 && writers == 0 {
            // A FIFO that nobody holds open forgets its bytes and its size.
            state.ring = Ring::default();
            self.give_back();
        }
        drop(state);
        if writers == 0 {
            self.readable.wake_all();
        }
        if readers == 0 {
            self.writable.wake_all();
        }
        if (readers == 0) != (writers == 0) {
            self.async_readers.kill(Band::In);
            self.async_writers.kill(Band::Out);
        }
    }
}

/// One end of a pipe, or an open FIFO, which may be both ends.
pub struct PipeEnd {
    pipe: Arc<Pipe>,
    reads: bool,
    writes: bool,
    identity: Identity,
    /// `writers_ever` when a FIFO was opened without a writer: no `POLLHUP` until one came and went.
    writers_then: Option<u64>,
}

#[derive(Clone)]
enum Identity {
    /// Made by `pipe(2)`: inode, owner, time.
    Anonymous(u64, (u32, u32), SystemTime),
    /// In a file system.
    Named(Arc<dyn Inode>),
}

impl PipeEnd {
    fn new(pipe: Arc<Pipe>, reads: bool, writes: bool, identity: Identity) -> PipeEnd {
        pipe.join(reads, writes);
        PipeEnd { pipe, reads, writes, identity, writers_then: None }
    }

    /// The pipe behind an open file, if it is one.
    pub fn of(file: &OpenFile) -> Option<&PipeEnd> {
        file.file.as_any().downcast_ref()
    }

    /// `F_GETPIPE_SZ`.
    pub fn size(&self) -> usize {
        self.pipe.state.lock().ring.capacity()
    }

    /// `F_SETPIPE_SZ`; returns the size in force (pipe_set_size()).
    pub fn set_size(&self, task: &Arc<Task>, size: u64) -> SysResult {
        let size = usize::try_from(size).map_err(|_| Errno::EINVAL)?;
        if size > 1 << 31 {
            return Err(Errno::EINVAL);
        }
        let size = size.max(PAGE).checked_next_power_of_two().ok_or(Errno::EINVAL)?;
        let mut state = self.pipe.state.lock();
        if size > state.ring.capacity() && size > MAX_SIZE && !glue::privileged(task) {
            return Err(Errno::EPERM);
        }
        if size / PAGE < state.ring.used() {
            return Err(Errno::EBUSY);
        }
        self.pipe.account(&task.world.ipc.pipe_pages, (size / PAGE) as u64)?;
        state.ring.resize(size / PAGE)?;
        let roomy = !state.ring.is_full();
        drop(state);
        if roomy {
            self.pipe.writable.wake_all();
        }
        Ok(size as u64)
    }

    /// Opened for reading.
    pub fn reads(&self) -> bool {
        self.reads
    }

    /// Opened for writing.
    pub fn writes(&self) -> bool {
        self.writes
    }

    /// Both are ends of the same pipe.
    pub fn same_pipe(&self, other: &PipeEnd) -> bool {
        Arc::ptr_eq(&self.pipe, &other.pipe)
    }

    /// Bytes that may be put in with `append` now; `EAGAIN` if none, `EPIPE` (and `SIGPIPE`) without readers.
    pub fn room(&self, task: &Arc<Task>) -> Result<usize> {
        let state = self.pipe.state.lock();
        if state.readers == 0 {
            drop(state);
            glue::broken_pipe(task);
            return Err(Errno::EPIPE);
        }
        match state.ring.room() {
            0 => Err(Errno::EAGAIN),
            room => Ok(room),
        }
    }

    /// Puts bytes in that `splice` or `vmsplice` took from elsewhere, after looking at `room`.
    pub fn append(&self, bytes: &[u8]) {
        self.pipe.state.lock().ring.append(bytes);
        self.pipe.readable.wake_all();
        self.pipe.async_readers.kill(Band::In);
    }

    /// Up to `limit` bytes for `splice` or `vmsplice` to give away; none at the end of the file, `EAGAIN` if there is
    /// nothing yet or another one is at it.
    pub fn lend(&self, limit: usize) -> Result<Lent<'_>> {
        let mut state = self.pipe.state.lock();
        if state.lent || (state.ring.is_empty() && state.writers > 0) {
            return Err(Errno::EAGAIN);
        }
        state.lent = true;
        Ok(Lent { pipe: &self.pipe, bytes: state.ring.peek(limit) })
    }

    /// `splice` (`consume`) or `tee` of up to `len` bytes from this pipe into `to`. Zero at the end of the
    /// file; `EAGAIN` if there is nothing to move or no room.
    pub fn transfer(&self, task: &Arc<Task>, to: &PipeEnd, len: usize, consume: bool) -> Result<usize> {
        if self.same_pipe(to) {
            return Err(Errno::EINVAL);
        }
        let (mut from_state, mut to_state);
        if Arc::as_ptr(&self.pipe) < Arc::as_ptr(&to.pipe) {
            from_state = self.pipe.state.lock();
            to_state = to.pipe.state.lock();
        } else {
            to_state = to.pipe.state.lock();
            from_state = self.pipe.state.lock();
        }
        if to_state.readers == 0 {
            drop((from_state, to_state));
            glue::broken_pipe(task);
            return Err(Errno::EPIPE);
        }
        if from_state.lent {
            return Err(Errno::EAGAIN);
        }
        if from_state.ring.is_empty() {
            return if from_state.writers == 0 { Ok(0) } else { Err(Errno::EAGAIN) };
        }
        let done = match consume {
            true => from_state.ring.move_to(&mut to_state.ring, len),
            false => from_state.ring.copy_to(&mut to_state.ring, len),
        };
        drop((from_state, to_state));
        if done == 0 {
            return Err(Errno::EAGAIN);
        }
        to.pipe.readable.wake_all();
        to.pipe.async_readers.kill(Band::In);
        if consume {
            self.pipe.writable.wake_all();
            self.pipe.async_writers.kill(Band::Out);
        }
        Ok(done)
    }
}

/// The first bytes of a pipe while they are given away. They stay in the pipe, and nobody else reads, until it is
/// known how many were accepted: Linux holds the pipe's mutex for as long (splice_to_socket(), fs/splice.c).
pub struct Lent<'a> {
    pipe: &'a Pipe,
    pub bytes: Vec<u8>,
}

impl Lent<'_> {
    /// So many were accepted.
    pub fn consume(&self, count: usize) {
        let mut state = self.pipe.state.lock();
        let was_full = state.ring.is_full();
        state.ring.consume(count);
        let wake = was_full && !state.ring.is_full();
        drop(state);
        if wake {
            self.pipe.writable.wake_all();
        }
        self.pipe.async_writers.kill(Band::Out);
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.pipe.state.lock().lent = false;
        self.pipe.readable.wake_all();
    }
}

impl Drop for PipeEnd {
    fn drop(&mut self) {
        self.pipe.leave(self.reads, self.writes);
    }
}

impl File for PipeEnd {
    fn read(&self, _io: &Io<'_>, _offset: u64, sink: &mut dyn Sink) -> Result<usize> {
        if sink.remaining() == 0 {
            return Ok(0);
        }
        let mut state = self.pipe.state.lock();
        if state.lent {
            return Err(Errno::EAGAIN);
        }
        let was_full = state.ring.is_full();
        match state.ring.read(sink) {
            Some(result) => {
                let wake = was_full && !state.ring.is_full();
                drop(state);
                if wake {
                    self.pipe.writable.wake_all();
                }
                self.pipe.async_writers.kill(Band::Out);
                result
            }
            None if state.writers == 0 => Ok(0),
            None => Err(Errno::EAGAIN),
        }
    }

    fn write(&self, io: &Io<'_>, _offset: u64, source: &mut dyn Source) -> Result<usize> {
        if source.remaining() == 0 {
            return Ok(0);
        }
        let mut state = self.pipe.state.lock();
        if state.readers == 0 {
            drop(state);
            glue::broken_pipe(io.task);
            return Err(Errno::EPIPE);
        }
        let result = state.ring.write(source, io.flags & O_DIRECT != 0);
        drop(state);
        if result.is_ok() {
            self.pipe.readable.wake_all();
            self.pipe.async_readers.kill(Band::In);
        }
        result
    }

    fn writes_all(&self) -> bool {
        true
    }

    /// pipe_poll().
    fn poll(&self, table: &mut PollTable) -> Events {
        if self.reads {
            table.watch_for(&self.pipe.readable, Events::READ | Events::HUP);
        }
        if self.writes {
            table.watch_for(&self.pipe.writable, Events::WRITE | Events::ERR);
        }
        let state = self.pipe.state.lock();
        let mut ready = Events::empty();
        if self.reads {
            if !state.ring.is_empty() && !state.lent {
                ready |= Events::READ;
            }
            if state.writers == 0 && self.writers_then != Some(state.writers_ever) {
                ready |= Events::HUP;
            }
        }
        if self.writes {
            if !state.ring.is_full() {
                ready |= Events::WRITE;
            }
            if state.readers == 0 {
                ready |= Events::ERR;
            }
        }
        ready
    }

    fn stat(&self) -> Result<Stat> {
        match &self.identity {
            Identity::Anonymous(ino, owner, time) => {
                Ok(glue::anonymous_stat(S_IFIFO | 0o600, PIPEFS_DEV, *ino, *owner, *time))
            }
            Identity::Named(inode) => glue::inode_stat(inode),
        }
    }

    fn ioctl(&self, cx: &mut Ctx<'_>, command: u32, argument: u64) -> SysResult {
        match command {
            FIONREAD => {
                let len = self.pipe.state.lock().ring.len();
                cx.mem().write(argument, &i32::try_from(len).unwrap_or(i32::MAX))?;
                Ok(0)
            }
            _ => Err(Errno::ENOTTY),
        }
    }

    /// pipe_fasync().
    fn fasync(&self, request: &Request<'_>) -> bool {
        if self.reads {
            self.pipe.async_readers.apply(request);
        }
        if self.writes {
            self.pipe.async_writers.apply(request);
        }
        true
    }

    fn inode(&self) -> Option<Arc<dyn Inode>> {
        match &self.identity {
            Identity::Anonymous(..) => None,
            Identity::Named(inode) => Some(inode.clone()),
        }
    }

    /// Either end, or both: what the pipe's owner may do through `/proc/self/fd` (fifo_open() without its waits).
    fn reopen(self: Arc<Self>, flags: u32, _within: bool) -> Result<Arc<dyn File>> {
        use crate::abi::linux::{O_ACCMODE, O_RDONLY, O_WRONLY};
        let access = flags & O_ACCMODE;
        let (reads, writes) = (access != O_WRONLY, access != O_RDONLY);
        Ok(Arc::new(PipeEnd::new(self.pipe.clone(), reads, writes, self.identity.clone())))
    }

    fn description(&self) -> String {
        match &self.identity {
            Identity::Anonymous(ino, ..) => format!("pipe:[{ino}]"),
            Identity::Named(_) => String::new(),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The two ends of a new pipe: for reading, for writing.
pub fn pipe(task: &Arc<Task>) -> (Arc<PipeEnd>, Arc<PipeEnd>) {
    let pipe = Arc::new(Pipe::default());
    // alloc_pipe_info(): a sandbox that has many pipes gets small ones.
    let quota = &task.world.ipc.pipe_pages;
    if pipe.account(quota, DEFAULT_BUFFERS as u64).is_err() {
        let _ = pipe.state.lock().ring.resize(FEW);
        quota.take_anyway(FEW as u64);
        *pipe.account.lock() = Some((quota.clone(), FEW as u64));
    }
    let (ino, owner, now) = (task.world.ipc.next_ino(), glue::owner(task), SystemTime::now());
    let reader = PipeEnd::new(pipe.clone(), true, false, Identity::Anonymous(ino, owner, now));
    let writer = PipeEnd::new(pipe, false, true, Identity::Anonymous(ino, owner, now));
    (Arc::new(reader), Arc::new(writer))
}

/// Open-file flags that `pipe2` accepts besides `O_CLOEXEC`.
pub const PIPE2_FLAGS: u32 = O_NONBLOCK | O_DIRECT;
