//! Timers as descriptors: timerfd_create(2), fs/timerfd.c.

use std::any::Any;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Alarm, Clock};
use crate::abi::types::Stat;
use crate::fd::{File, Io};
use crate::ipc::glue;
use crate::mem::Sink;
use crate::wait::{Events, PollTable, WaitQueue};
use crate::world::World;
use crate::{Errno, Result};

/// Reads as the number of expiries since the last read.
pub struct TimerFd {
    alarm: Arc<Alarm>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Ran out, and was not read since.
    expired: Mutex<bool>,
    queue: WaitQueue,
}

impl TimerFd {
    /// Not armed yet.
    pub fn new(world: &Arc<World>, clock: Clock) -> TimerFd {
        let shared = Arc::new(Shared::default());
        let told = shared.clone();
        let alarm = Alarm::new(world, clock, move || {
            *told.expired.lock() = true;
            told.queue.wake_all();
        });
        TimerFd { alarm, shared }
    }

    /// `timerfd_settime(2)`; returns what was left.
    pub fn set(&self, value: i64, interval: i64, absolute: bool) -> (i64, i64) {
        let mut expired = self.shared.expired.lock();
        // An expiry on its way waits for the lock, and belongs to the old setting; a spurious one is harmless.
        *expired = false;
        drop(expired);
        self.alarm.set(value, interval, absolute)
    }

    /// `timerfd_gettime(2)`.
    pub fn get(&self) -> (i64, i64) {
        self.alarm.get()
    }
}

impl File for TimerFd {
    fn read(&self, _io: &Io<'_>, _offset: u64, into: &mut dyn Sink) -> Result<usize> {
        if into.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let mut expired = self.shared.expired.lock();
        if !*expired {
            return Err(Errno::EAGAIN);
        }
        *expired = false;
        drop(expired);
        let ticks = u64::try_from(self.alarm.forward()).unwrap_or(0).saturating_add(1);
        if into.put(&ticks.to_ne_bytes())? < 8 { Err(Errno::EFAULT) } else { Ok(8) }
    }

    fn seeks_nowhere(&self) -> bool {
        true
    }

    fn poll(&self, table: &mut PollTable) -> Events {
        table.watch(&self.shared.queue);
        if *self.shared.expired.lock() { Events::READ } else { Events::empty() }
    }

    fn stat(&self) -> Result<Stat> {
        Ok(glue::anon_inode_stat())
    }

    /// `timerfd_show()`. Expirations are counted when they are read.
    fn fdinfo(&self, text: &mut String) {
        let (value, interval) = self.get();
        let split = |time: i64| format!("({}, {})", time / 1_000_000_000, time % 1_000_000_000);
        let clock = match &self.alarm.clock {
            Clock::World(_, kind) => kind.id(),
            // CPU clocks have no timerfd.
            _ => 0,
        };
        text.push_str(&format!(
            "clockid: {clock}\nticks: {}\nsettime flags: 00\nit_value: {}\nit_interval: {}\n",
            u8::from(*self.shared.expired.lock()),
            split(value),
            split(interval)
        ));
    }

    fn description(&self) -> String {
        String::from("anon_inode:[timerfd]")
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
