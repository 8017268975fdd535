//! The bytes in a pipe: page-sized buffers in order, as fs/pipe.c keeps them.

use std::collections::VecDeque;

use crate::mem::{Sink, Source};
use crate::{Errno, Result};

/// Size of one buffer, and the longest write that is atomic (`PIPE_BUF`).
pub const PAGE: usize = 4096;
/// Buffers of a new pipe (`PIPE_DEF_BUFFERS`).
pub const DEFAULT_BUFFERS: usize = 16;

/// Emptied pages kept for the next write.
const SPARES: usize = 2;

struct Buffer {
    page: Box<[u8; PAGE]>,
    start: usize,
    len: usize,
    /// One write in `O_DIRECT` mode: read as a unit, its rest discarded.
    packet: bool,
}

impl Buffer {
    fn bytes(&self) -> &[u8] {
        self.page.get(self.start..self.start + self.len).unwrap_or_default()
    }
}

/// Buffers of a pipe, oldest first.
pub struct Ring {
    buffers: VecDeque<Buffer>,
    spare: Vec<Box<[u8; PAGE]>>,
    slots: usize,
}

impl Default for Ring {
    fn default() -> Ring {
        Ring { buffers: VecDeque::new(), spare: Vec::new(), slots: DEFAULT_BUFFERS }
    }
}

impl Ring {
    pub fn is_empty(&self) -> bool {
        self.buffers.is_empty()
    }

    /// No buffer is free; a small write may still fit into the last one.
    pub fn is_full(&self) -> bool {
        self.buffers.len() >= self.slots
    }

    /// Buffers that hold something.
    pub fn used(&self) -> usize {
        self.buffers.len()
    }

    /// Bytes inside (`FIONREAD`).
    pub fn len(&self) -> usize {
        self.buffers.iter().map(|buffer| buffer.len).sum()
    }

    /// Capacity in bytes (`F_GETPIPE_SZ`).
    pub fn capacity(&self) -> usize {
        self.slots * PAGE
    }

    /// Bytes that fit without merging.
    pub fn room(&self) -> usize {
        self.slots.saturating_sub(self.buffers.len()) * PAGE
    }

    /// Changes the number of buffers; `EBUSY` if more are in use.
    pub fn resize(&mut self, slots: usize) -> Result<()> {
        if slots < self.buffers.len() {
            return Err(Errno::EBUSY);
        }
        self.slots = slots;
        Ok(())
    }

    /// Takes from `source` what fits; `EAGAIN` if nothing does. A write of at most one page goes in whole or
    /// not at all.
    pub fn write(&mut self, source: &mut dyn Source, packet: bool) -> Result<usize> {
        let mut done = 0;
        // The odd bytes go behind the last write, if they fit there whole (pipe_write()).
        let odd = source.remaining() % PAGE;
        if odd != 0 {
            match self.merge(source, odd) {
                Ok(count) => done = count,
                Err(error) => return Err(error),
            }
        }
        while source.remaining() > 0 {
            if self.is_full() {
                return if done == 0 { Err(Errno::EAGAIN) } else { Ok(done) };
            }
            let mut page = self.spare.pop().unwrap_or_else(|| Box::new([0; PAGE]));
            let want = source.remaining().min(PAGE);
            let copied = source.take(page.get_mut(..want).unwrap_or_default());
            match copied {
                Ok(copied) if copied == want => {}
                other => {
                    self.keep(page);
                    return if done > 0 { Ok(done) } else { Err(other.err().unwrap_or(Errno::EFAULT)) };
                }
            }
            self.buffers.push_back(Buffer { page, start: 0, len: want, packet });
            done += want;
        }
        Ok(done)
    }

    fn merge(&mut self, source: &mut dyn Source, odd: usize) -> Result<usize> {
        let Some(last) = self.buffers.back_mut() else { return Ok(0) };
        let end = last.start + last.len;
        if last.packet || end + odd > PAGE {
            return Ok(0);
        }
        let Some(place) = last.page.get_mut(end..end + odd) else { return Ok(0) };
        if source.take(place)? < odd {
            return Err(Errno::EFAULT);
        }
        last.len += odd;
        Ok(odd)
    }

    /// Gives to `sink`; only what it took is consumed, and a buffer that did not fit where it should not at all
    /// (pipe_read() in fs/pipe.c). `None` if there is nothing.
    pub fn read(&mut self, sink: &mut dyn Sink) -> Option<Result<usize>> {
        if self.buffers.is_empty() {
            return None;
        }
        let mut done = 0;
        while sink.remaining() > 0 {
            let Some(first) = self.buffers.front_mut() else { break };
            let want = first.len.min(sink.remaining());
            let taken = match sink.put_whole(first.bytes().get(..want).unwrap_or_default()) {
                Ok(taken) => taken,
                Err(error) => return Some(if done > 0 { Ok(done) } else { Err(error) }),
            };
            done += taken;
            let packet = first.packet;
            first.start += taken;
            first.len -= taken;
            if taken < want {
                break;
            }
            if first.len == 0 || packet {
                self.drop_first();
            }
            if packet {
                break;
            }
        }
        Some(Ok(done))
    }

    /// Copies up to `max` bytes to the end of `to` without consuming them (`tee`); obeys `to`'s capacity.
    pub fn copy_to(&self, to: &mut Ring, max: usize) -> usize {
        let mut done = 0;
        for buffer in &self.buffers {
            if done >= max || to.is_full() {
                break;
            }
            let part = buffer.bytes();
            let part = part.get(..part.len().min(max - done)).unwrap_or_default();
            to.push(part, buffer.packet);
            done += part.len();
        }
        done
    }

    /// Moves up to `max` bytes to the end of `to` (`splice`); obeys `to`'s capacity.
    pub fn move_to(&mut self, to: &mut Ring, max: usize) -> usize {
        let mut done = 0;
        while done < max && !to.is_full() {
            let Some(first) = self.buffers.front_mut() else { break };
            if first.len <= max - done {
                done += first.len;
                to.buffers.extend(self.buffers.pop_front());
            } else {
                let part = max - done;
                to.push(first.bytes().get(..part).unwrap_or_default(), first.packet);
                first.start += part;
                first.len -= part;
                done += part;
            }
        }
        done
    }

    /// Appends bytes that exist already, past the capacity if need be (`splice` from a file: the room was
    /// looked at before the file was read).
    pub fn append(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (head, tail) = bytes.split_at(bytes.len().min(PAGE));
            self.push(head, false);
            bytes = tail;
        }
    }

    /// Copies out up to `max` bytes, over the borders of packets (splice_from_pipe_feed() in fs/splice.c).
    pub fn peek(&self, max: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for buffer in &self.buffers {
            let left = max.saturating_sub(bytes.len());
            bytes.extend_from_slice(buffer.bytes().get(..buffer.len.min(left)).unwrap_or_default());
        }
        bytes
    }

    /// Drops the first `count` bytes.
    pub fn consume(&mut self, mut count: usize) {
        while count > 0
            && let Some(first) = self.buffers.front_mut()
        {
            let part = first.len.min(count);
            first.start += part;
            first.len -= part;
            count -= part;
            if first.len == 0 {
                self.drop_first();
            }
        }
    }

    fn push(&mut self, bytes: &[u8], packet: bool) {
        let mut page = self.spare.pop().unwrap_or_else(|| Box::new([0; PAGE]));
        let len = bytes.len().min(PAGE);
        if let (Some(place), Some(bytes)) = (page.get_mut(..len), bytes.get(..len)) {
            place.copy_from_slice(bytes);
        }
        self.buffers.push_back(Buffer { page, start: 0, len, packet });
    }

    fn drop_first(&mut self) {
        if let Some(buffer) = self.buffers.pop_front() {
            self.keep(buffer.page);
        }
    }

    fn keep(&mut self, page: Box<[u8; PAGE]>) {
        if self.spare.len() < SPARES {
            self.spare.push(page);
        }
    }
}
