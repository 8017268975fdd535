//! Event counters: eventfd(2), fs/eventfd.c.

use std::any::Any;

use parking_lot::Mutex;

use super::glue;
use crate::abi::types::Stat;
use crate::fd::{File, Io};
use crate::mem::{Sink, Source};
use crate::wait::{Events, PollTable, WaitQueue};
use crate::{Errno, Result};

/// A counter that reads as ready while it is not zero.
pub struct EventFd {
    count: Mutex<u64>,
    semaphore: bool,
    readable: WaitQueue,
    writable: WaitQueue,
}

impl EventFd {
    /// `semaphore`: each read takes one.
    pub fn new(initial: u64, semaphore: bool) -> EventFd {
        EventFd { count: Mutex::new(initial), semaphore, readable: WaitQueue::new(), writable: WaitQueue::new() }
    }

    /// Adds to the counter from inside the kernel; stops at the limit (`eventfd_signal`).
    pub fn signal(&self, value: u64) {
        let mut count = self.count.lock();
        *count = count.saturating_add(value);
        drop(count);
        self.readable.wake_all();
    }
}

impl File for EventFd {
    fn read(&self, _io: &Io<'_>, _offset: u64, into: &mut dyn Sink) -> Result<usize> {
        if into.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let mut count = self.count.lock();
        if *count == 0 {
            return Err(Errno::EAGAIN);
        }
        let value = if self.semaphore { 1 } else { *count };
        *count -= value;
        drop(count);
        self.writable.wake_all();
        // It is taken even if it cannot be told (eventfd_read()).
        if into.put(&value.to_ne_bytes())? < 8 {
            return Err(Errno::EFAULT);
        }
        Ok(8)
    }

    fn write(&self, _io: &Io<'_>, _offset: u64, from: &mut dyn Source) -> Result<usize> {
        if from.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let mut bytes = [0; 8];
        if from.take(&mut bytes)? < 8 {
            return Err(Errno::EFAULT);
        }
        let value = u64::from_ne_bytes(bytes);
        if value == u64::MAX {
            return Err(Errno::EINVAL);
        }
        let mut count = self.count.lock();
        match count.checked_add(value).filter(|sum| *sum < u64::MAX) {
            Some(sum) => *count = sum,
            None => return Err(Errno::EAGAIN),
        }
        drop(count);
        self.readable.wake_all();
        Ok(8)
    }

    fn seeks_nowhere(&self) -> bool {
        true
    }

    fn poll(&self, table: &mut PollTable) -> Events {
        table.watch_for(&self.readable, Events::IN | Events::ERR);
        table.watch_for(&self.writable, Events::OUT);
        let count = *self.count.lock();
        let mut ready = Events::empty();
        ready.set(Events::IN, count > 0);
        ready.set(Events::OUT, count < u64::MAX - 1);
        ready.set(Events::ERR, count == u64::MAX);
        ready
    }

    fn stat(&self) -> Result<Stat> {
        Ok(glue::anon_inode_stat())
    }

    fn fdinfo(&self, text: &mut String) {
        text.push_str(&format!(
            "eventfd-count: {:16x}\neventfd-semaphore: {}\n",
            *self.count.lock(),
            u8::from(self.semaphore)
        ));
    }

    fn description(&self) -> String {
        String::from("anon_inode:[eventfd]")
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
