//! Resource usage: `getrusage(2)`, `times(2)`, `wait4(2)`.

use std::time::Duration;

use super::{Process, Task};
use crate::abi::types::{Rusage, Timeval};
use crate::mm::AddressSpace;

/// `USER_HZ`.
const TICKS_PER_SECOND: u128 = 100;

/// A duration in clock ticks.
pub fn ticks(time: Duration) -> i64 {
    i64::try_from(time.as_nanos() * TICKS_PER_SECOND / 1_000_000_000).unwrap_or(i64::MAX)
}

/// A duration as a `timeval`.
pub fn timeval(time: Duration) -> Timeval {
    Timeval { tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX), tv_usec: i64::from(time.subsec_micros()) }
}

/// And back.
pub fn duration(time: Timeval) -> Duration {
    Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0))
        + Duration::from_micros(u64::try_from(time.tv_usec).unwrap_or(0))
}

/// Adds CPU time to a usage.
pub(super) fn add_times(to: &mut Rusage, user: Duration, system: Duration) {
    to.ru_utime = timeval(duration(to.ru_utime).saturating_add(user));
    to.ru_stime = timeval(duration(to.ru_stime).saturating_add(system));
}

/// Adds all of `other`; of the peaks the larger one counts.
pub fn add(to: &mut Rusage, other: &Rusage) {
    add_times(to, duration(other.ru_utime), duration(other.ru_stime));
    to.ru_maxrss = to.ru_maxrss.max(other.ru_maxrss);
    to.ru_minflt = to.ru_minflt.saturating_add(other.ru_minflt);
    to.ru_majflt = to.ru_majflt.saturating_add(other.ru_majflt);
    to.ru_inblock = to.ru_inblock.saturating_add(other.ru_inblock);
    to.ru_oublock = to.ru_oublock.saturating_add(other.ru_oublock);
    to.ru_nvcsw = to.ru_nvcsw.saturating_add(other.ru_nvcsw);
    to.ru_nivcsw = to.ru_nivcsw.saturating_add(other.ru_nivcsw);
}

/// What a process itself has used (`RUSAGE_SELF`).
pub fn of_process(process: &Process) -> Rusage {
    let mut sum = *process.dead_threads.lock();
    for task in process.tasks() {
        let (user, system) = task.control().cpu_time();
        add_times(&mut sum, user, system);
    }
    if let Some(mm) = process.mm() {
        add_space(&mut sum, &mm.space.usage());
    }
    sum
}

/// What one thread has used (`RUSAGE_THREAD`); the peak is that of the process.
pub fn of_task(task: &Task) -> Rusage {
    let (user, system) = task.control().cpu_time();
    let mut sum = Rusage::default();
    add_times(&mut sum, user, system);
    sum.ru_maxrss = of_process(&task.process).ru_maxrss;
    sum
}

/// What children that were waited for have used (`RUSAGE_CHILDREN`).
pub fn of_children(process: &Process) -> Rusage {
    *process.dead_children.lock()
}

/// User and system time of a process.
pub fn times(process: &Process) -> (Duration, Duration) {
    let mut sum = *process.dead_threads.lock();
    for task in process.tasks() {
        let (user, system) = task.control().cpu_time();
        add_times(&mut sum, user, system);
    }
    (duration(sum.ru_utime), duration(sum.ru_stime))
}

fn add_space(to: &mut Rusage, used: &coracle_platform::Usage) {
    let count = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    to.ru_maxrss = to.ru_maxrss.max(count(used.resident_peak / 1024));
    to.ru_minflt = to.ru_minflt.saturating_add(count(used.minor_faults));
    to.ru_majflt = to.ru_majflt.saturating_add(count(used.major_faults));
    to.ru_nvcsw = to.ru_nvcsw.saturating_add(count(used.voluntary_switches));
    to.ru_nivcsw = to.ru_nivcsw.saturating_add(count(used.involuntary_switches));
}

/// The address space is about to go: what it used is kept with the process.
pub(super) fn settle(process: &Process) {
    if let Some(mm) = process.mm() {
        settle_space(process, &mm);
    }
}

/// Likewise, where the address space is given up by `execve`.
pub(super) fn settle_space(process: &Process, mm: &AddressSpace) {
    let used = mm.space.usage();
    process.world.stats.peak_memory.fetch_max(used.resident_peak, std::sync::atomic::Ordering::Relaxed);
    add_space(&mut process.dead_threads.lock(), &used);
}

/// A zombie is waited for: its usage is its parent's children's now.
pub(super) fn inherit(parent: &Process, child: &Process) {
    let mut used = of_process(child);
    add(&mut used, &of_children(child));
    add(&mut parent.dead_children.lock(), &used);
}
