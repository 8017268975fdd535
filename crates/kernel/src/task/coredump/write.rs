//! Into the file: limits, holes, and the way out (`dump_emit()` and `dump_skip()` in fs/coredump.c).

use std::sync::Arc;

use super::{CoreDump, Task};
use crate::Errno;
use crate::abi::PAGE_SIZE;
use crate::abi::linux::RLIMIT_FSIZE;
use crate::fd::{Io, OpenFile};
use crate::mem::SliceSource;
use crate::wait::Events;

/// No more can be written: a limit is reached, there is no room, or SIGKILL has come.
#[derive(Debug)]
pub struct Stop;

/// Writes a core from its beginning to its end.
pub struct Writer<'a> {
    task: &'a Arc<Task>,
    dump: &'a CoreDump,
    file: &'a OpenFile,
    /// Where the next byte goes.
    at: u64,
    /// Where the last byte that was written ends.
    end: u64,
    /// `RLIMIT_CORE` counts what is written, not what is skipped; what is left of it.
    left: u64,
    /// `RLIMIT_FSIZE` counts both.
    most: u64,
    stopped: bool,
    /// Nothing can be skipped in a pipe, and its other side may take its time.
    piped: bool,
}

impl<'a> Writer<'a> {
    pub fn new(task: &'a Arc<Task>, dump: &'a CoreDump, file: &'a OpenFile, limit: u64) -> Writer<'a> {
        let most = task.rlimit(RLIMIT_FSIZE);
        Writer { task, dump, file, at: 0, end: 0, left: limit, most, stopped: false, piped: false }
    }

    /// Into a pipe, without limits.
    pub fn piped(task: &'a Arc<Task>, dump: &'a CoreDump, file: &'a OpenFile) -> Writer<'a> {
        Writer { most: u64::MAX, piped: true, ..Writer::new(task, dump, file, u64::MAX) }
    }

    /// Waits until the pipe takes more, or nobody reads it any longer.
    fn await_room(&mut self) -> Result<(), Stop> {
        let (dump, file) = (self.dump, self.file);
        let room = self.task.block_until(
            None,
            || dump.cancelled(),
            |table| {
                table.watch(&dump.queue);
                table.set_interest(Events::WRITE);
                let wanted = Events::WRITE | Events::ERR | Events::HUP;
                file.file.poll(table).intersects(wanted).then_some(())
            },
        );
        if room.is_ok() { Ok(()) } else { self.stop() }
    }

    /// What a file would have as a hole (`__dump_skip()`).
    fn fill(&mut self) -> Result<(), Stop> {
        const ZEROS: [u8; 4096] = [0; 4096];
        while self.piped && self.end < self.at {
            let count = usize::try_from(self.at - self.end).unwrap_or(usize::MAX).min(ZEROS.len());
            let to = self.at;
            self.at = self.end;
            self.check()?;
            self.put(ZEROS.get(..count).unwrap_or_default())?;
            self.at = to;
        }
        Ok(())
    }

    /// SIGKILL has not come.
    pub fn check(&mut self) -> Result<(), Stop> {
        if self.dump.cancelled() { self.stop() } else { Ok(()) }
    }

    fn stop(&mut self) -> Result<(), Stop> {
        self.stopped = true;
        Err(Stop)
    }

    /// Writes what the limits allow.
    pub fn emit(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        self.check()?;
        self.fill()?;
        self.put(bytes)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        let most = self.left.min(self.most.saturating_sub(self.at));
        let allowed = usize::try_from(most).unwrap_or(usize::MAX).min(bytes.len());
        let mut rest = bytes.get(..allowed).unwrap_or_default();
        let io = Io { task: self.task, flags: self.file.flags() };
        while !rest.is_empty() {
            let count = match self.file.file.write(&io, self.at, &mut SliceSource(rest)) {
                Ok(count @ 1..) => count,
                Err(Errno::EAGAIN) if self.piped => {
                    self.await_room()?;
                    continue;
                }
                _ => return self.stop(),
            };
            rest = rest.get(count..).unwrap_or_default();
            self.at += count as u64;
            self.left = self.left.saturating_sub(count as u64);
            self.end = self.at;
        }
        if allowed < bytes.len() { self.stop() } else { Ok(()) }
    }

    /// As many of these pages as `RLIMIT_CORE` allows.
    pub fn pages(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        let allowed = usize::try_from(self.left / PAGE_SIZE * PAGE_SIZE).unwrap_or(usize::MAX);
        match bytes.get(..allowed) {
            Some(part) if part.len() < bytes.len() => {
                self.emit(part)?;
                self.stop()
            }
            _ => self.emit(bytes),
        }
    }

    /// A hole.
    pub fn skip(&mut self, len: u64) {
        self.at = self.at.saturating_add(len);
    }

    /// On to the next page.
    pub fn align(&mut self) {
        self.at = self.at.next_multiple_of(PAGE_SIZE);
    }

    /// A hole at the end counts, or the file would look cut off (`do_coredump()`, "cprm.to_skip").
    pub fn finish(&mut self) {
        if self.piped {
            if !self.stopped {
                let _ = self.fill();
            }
        } else if !self.stopped && self.at > self.end && self.at <= self.most {
            let _ = self.file.file.truncate(self.at);
        }
    }
}
