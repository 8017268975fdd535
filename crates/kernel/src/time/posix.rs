//! POSIX timers: timer_create(2) and its family, kernel/time/posix-timers.c.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Weak};

use super::{Alarm, Clock};
use crate::abi::linux::RLIMIT_SIGPENDING;
use crate::signal::{self, Charge, SigInfo, Signal};
use crate::task::{Process, Task};
use crate::{Errno, Result};

/// Pause after an expiry whose signal was ignored.
const IGNORED_PAUSE: i64 = 10_000_000;

/// The POSIX timers of a process.
#[derive(Default)]
pub struct PosixTimers {
    timers: BTreeMap<i32, Arc<PosixTimer>>,
    /// `next_posix_timer_id`.
    next: i32,
    next_key: u64,
}

/// What an expiry does.
#[derive(Clone)]
pub enum Notify {
    /// `SIGEV_NONE`.
    Nothing,
    /// `SIGEV_SIGNAL`, and `SIGEV_THREAD`, which libc makes threads of.
    Process { signal: Signal, value: u64 },
    /// `SIGEV_THREAD_ID`.
    Thread { signal: Signal, value: u64, target: Weak<Task> },
}

/// One timer.
pub struct PosixTimer {
    key: u64,
    pub alarm: Arc<Alarm>,
    /// Of the last expiry that was delivered (`timer_getoverrun(2)`).
    overrun: AtomicI32,
    _charge: Option<Charge>,
}

/// Makes a timer; returns its id. `None` for `notify`: SIGALRM with the id as value. `EAGAIN` at the limit of
/// queued signals, of which a timer reserves one.
pub fn create(process: &Arc<Process>, clock: Clock, notify: Option<Notify>) -> Result<i32> {
    let limit = process.rlimits.lock().get(RLIMIT_SIGPENDING as usize).map_or(u64::MAX, |limit| limit.cur);
    let charge = process.signals.budget.charge(limit).ok_or(Errno::EAGAIN)?;
    let mut table = process.timers.posix.lock();
    let id = (0..=table.timers.len())
        .map(|step| table.next.wrapping_add(step as i32) & i32::MAX)
        .find(|id| !table.timers.contains_key(id))
        .ok_or(Errno::EAGAIN)?;
    table.next = id.wrapping_add(1) & i32::MAX;
    let key = table.next_key;
    table.next_key += 1;
    let notify = notify.unwrap_or(Notify::Process { signal: Signal::SIGALRM, value: id as u64 });
    let weak = Arc::downgrade(process);
    let alarm = Alarm::new(&process.world, clock, move || {
        if let Some(process) = weak.upgrade() {
            expired(&process, id, key, &notify);
        }
    });
    let timer = PosixTimer { key, alarm, overrun: AtomicI32::new(0), _charge: Some(charge) };
    table.timers.insert(id, Arc::new(timer));
    Ok(id)
}

/// On the wheel's thread (`posix_timer_event()`).
fn expired(process: &Arc<Process>, id: i32, key: u64, notify: &Notify) {
    let (signal, value, target) = match notify {
        Notify::Nothing => return,
        Notify::Process { signal, value } => (*signal, *value, None),
        Notify::Thread { signal, value, target } => match target.upgrade() {
            // posixtimer_get_target(): the thread must still be alive.
            Some(task) if !task.must_exit() => (*signal, *value, Some(task)),
            _ => return,
        },
    };
    let info = SigInfo::timer(signal, id, 0, value);
    let sent = signal::send_with(process, target.as_ref(), signal, |pending, _, _| {
        pending.push_timer(signal, info, key);
        Ok(())
    });
    if sent != Ok(true)
        && let Ok(timer) = find(process, id)
    {
        timer.alarm.skip(IGNORED_PAUSE);
    }
}

/// A timer's signal is being taken: the timer goes on, and the signal says what was missed. `None` if the timer is
/// gone.
pub fn delivered(task: &Task, key: u64, mut info: SigInfo) -> Option<SigInfo> {
    let timer = find(&task.process, info.timer_id().0).ok().filter(|timer| timer.key == key)?;
    // DELAYTIMER_MAX.
    let overrun = i32::try_from(timer.alarm.forward()).unwrap_or(i32::MAX);
    timer.overrun.store(overrun, Ordering::Relaxed);
    info.set_overrun(overrun);
    Some(info)
}

/// The timer with this id, or `EINVAL`.
pub fn find(process: &Process, id: i32) -> Result<Arc<PosixTimer>> {
    process.timers.posix.lock().timers.get(&id).cloned().ok_or(Errno::EINVAL)
}

/// `timer_settime(2)`; returns what was left.
pub fn set(process: &Process, id: i32, value: i64, interval: i64, absolute: bool) -> Result<(i64, i64)> {
    let timer = find(process, id)?;
    signal::forget_timer(process, timer.key);
    timer.overrun.store(0, Ordering::Relaxed);
    Ok(timer.alarm.set(value, interval, absolute))
}

/// `timer_getoverrun(2)`.
pub fn overrun(process: &Process, id: i32) -> Result<i32> {
    Ok(find(process, id)?.overrun.load(Ordering::Relaxed))
}

/// `timer_delete(2)`.
pub fn delete(process: &Process, id: i32) -> Result<()> {
    let timer = process.timers.posix.lock().timers.remove(&id).ok_or(Errno::EINVAL)?;
    timer.alarm.set(0, 0, false);
    signal::forget_timer(process, timer.key);
    Ok(())
}

/// At `execve` and at the end.
pub fn delete_all(process: &Process) {
    let timers = std::mem::take(&mut process.timers.posix.lock().timers);
    for timer in timers.into_values() {
        timer.alarm.set(0, 0, false);
        signal::forget_timer(process, timer.key);
    }
}
