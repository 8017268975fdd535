//! Interval timers: setitimer(2), alarm(2), kernel/time/itimer.c.

use std::sync::Arc;

use super::clock::CpuPart;
use super::{Alarm, Clock, Kind};
use crate::signal::{self, Signal};
use crate::task::{Process, Task};

/// Pause after an expiry whose signal was ignored.
const IGNORED_PAUSE: i64 = 10_000_000;

/// By `ITIMER_*`: real, virtual, profiling. Made when first used.
#[derive(Default)]
pub struct Itimers([Option<Arc<Alarm>>; 3]);

/// Which interval timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    Real = 0,
    Virtual = 1,
    Profiling = 2,
}

impl Which {
    /// The signal it sends.
    fn signal(self) -> Signal {
        match self {
            Which::Real => Signal::SIGALRM,
            Which::Virtual => Signal::SIGVTALRM,
            Which::Profiling => Signal::SIGPROF,
        }
    }
}

fn alarm(process: &Arc<Process>, which: Which) -> Arc<Alarm> {
    let mut timers = process.timers.itimers.lock();
    let mut fallback = None;
    let slot = timers.0.get_mut(which as usize).unwrap_or(&mut fallback);
    slot.get_or_insert_with(|| make(process, which)).clone()
}

fn make(process: &Arc<Process>, which: Which) -> Arc<Alarm> {
    let weak = Arc::downgrade(process);
    let clock = match which {
        Which::Real => Clock::World(process.world.clocks.clone(), Kind::Monotonic),
        Which::Virtual => Clock::Process(weak.clone(), CpuPart::User),
        Which::Profiling => Clock::Process(weak.clone(), CpuPart::All),
    };
    Alarm::new(&process.world, clock, move || {
        if let Some(process) = weak.upgrade() {
            expired(&process, which);
        }
    })
}

/// On the wheel's thread.
fn expired(process: &Arc<Process>, which: Which) {
    let signal = which.signal();
    let info = signal::SigInfo::kernel(signal);
    let sent = signal::send_with(process, None, signal, |pending, budget, limit| {
        pending.push(signal, info, budget, limit)
    });
    // An ignored signal is never taken, so the timer must go on by itself.
    if sent != Ok(true) {
        alarm(process, which).skip(IGNORED_PAUSE);
    }
}

/// A signal was taken that an interval timer may have sent: that timer goes on.
pub fn taken(task: &Task, signal: Signal) {
    let which = match signal {
        Signal::SIGALRM => Which::Real,
        Signal::SIGVTALRM => Which::Virtual,
        Signal::SIGPROF => Which::Profiling,
        _ => return,
    };
    let alarm = task.process.timers.itimers.lock().0.get(which as usize).cloned().flatten();
    if let Some(alarm) = alarm {
        alarm.forward();
    }
}

/// Arms (0: disarms) in nanoseconds; returns what was left and the old interval.
pub fn set(process: &Arc<Process>, which: Which, value: i64, interval: i64) -> (i64, i64) {
    alarm(process, which).set(value, interval, false)
}

/// What is left, and the interval.
pub fn get(process: &Arc<Process>, which: Which) -> (i64, i64) {
    let alarm = process.timers.itimers.lock().0.get(which as usize).cloned().flatten();
    alarm.map_or((0, 0), |alarm| alarm.get())
}

/// At the end of the process.
pub fn disarm_all(process: &Process) {
    let alarms = std::mem::take(&mut process.timers.itimers.lock().0);
    for alarm in alarms.into_iter().flatten() {
        alarm.set(0, 0, false);
    }
}
