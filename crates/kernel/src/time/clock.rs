//! Clocks: the world's, and the CPU clocks of guest processes and threads (kernel/time/posix-timers.c and
//! posix-cpu-timers.c).

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rustix::time::{DynamicClockId, clock_gettime_dynamic};

use super::clocks::Clocks;
use super::host::Kind;
use crate::task::{Process, Task, usage};
use crate::{Errno, Result};

pub const CLOCK_REALTIME: i32 = 0;
pub const CLOCK_MONOTONIC: i32 = 1;
pub const CLOCK_PROCESS_CPUTIME_ID: i32 = 2;
pub const CLOCK_THREAD_CPUTIME_ID: i32 = 3;

/// What of its CPU time a CPU clock counts (`CPUCLOCK_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuPart {
    /// User and system time.
    All,
    /// User time only.
    User,
}

/// Something to read the time from.
#[derive(Clone)]
pub enum Clock {
    World(Arc<Clocks>, Kind),
    Process(Weak<Process>, CpuPart),
    Thread(Weak<Task>, CpuPart),
}

/// The kind with this number, `EINVAL` where the host has none such.
fn kind(id: i32) -> Option<Kind> {
    // Hosts without a real-time clock device do not have the alarm clocks; where they are, they show the same time.
    let exists = |id: DynamicClockId<'_>| clock_gettime_dynamic(id).is_ok();
    Some(match id {
        0 => Kind::Realtime,
        1 => Kind::Monotonic,
        4 => Kind::Raw,
        5 => Kind::RealtimeCoarse,
        6 => Kind::MonotonicCoarse,
        7 => Kind::Boottime,
        8 if exists(DynamicClockId::RealtimeAlarm) => Kind::Realtime,
        9 if exists(DynamicClockId::BoottimeAlarm) => Kind::Boottime,
        11 => Kind::Tai,
        _ => return None,
    })
}

impl Kind {
    /// Its `CLOCK_*` number.
    pub fn id(self) -> i32 {
        match self {
            Kind::Realtime => 0,
            Kind::Monotonic => 1,
            Kind::Raw => 4,
            Kind::RealtimeCoarse => 5,
            Kind::MonotonicCoarse => 6,
            Kind::Boottime => 7,
            Kind::Tai => 11,
        }
    }

    /// A coarse clock.
    pub fn is_coarse(self) -> bool {
        matches!(self, Kind::RealtimeCoarse | Kind::MonotonicCoarse)
    }
}

impl Clock {
    /// The clock that `id` names for this task; `EINVAL` if there is none.
    pub fn find(task: &Arc<Task>, id: i32) -> Result<Clock> {
        match id {
            CLOCK_PROCESS_CPUTIME_ID => Ok(Clock::Process(Arc::downgrade(&task.process), CpuPart::All)),
            CLOCK_THREAD_CPUTIME_ID => Ok(Clock::Thread(Arc::downgrade(task), CpuPart::All)),
            0.. => kind(id).map(|kind| Clock::World(task.world.clocks.clone(), kind)).ok_or(Errno::EINVAL),
            _ => Clock::dynamic(task, id),
        }
    }

    /// `MAKE_PROCESS_CPUCLOCK()` and its like (include/linux/posix-timers_types.h): bits 0 and 1 the kind, bit 2
    /// "of a thread", the rest the inverted pid.
    fn dynamic(task: &Arc<Task>, id: i32) -> Result<Clock> {
        let part = match id & 3 {
            0 | 2 => CpuPart::All,
            1 => CpuPart::User,
            // A clock device's descriptor; there are none.
            _ => return Err(Errno::EINVAL),
        };
        let pid = u32::try_from(!(id >> 3)).map_err(|_| Errno::EINVAL)?;
        if id & 4 != 0 {
            let thread = if pid == 0 { Some(task.clone()) } else { task.world.task(pid) };
            let thread = thread.filter(|thread| Arc::ptr_eq(&thread.process, &task.process));
            return thread.map(|thread| Clock::Thread(Arc::downgrade(&thread), part)).ok_or(Errno::EINVAL);
        }
        let process = if pid == 0 || pid == task.tid() {
            Some(task.process.clone())
        } else {
            task.world.process(pid).filter(|process| !process.is_init())
        };
        process.map(|process| Clock::Process(Arc::downgrade(&process), part)).ok_or(Errno::EINVAL)
    }

    /// The time on it, in nanoseconds. The clock of what is gone stands still at its end: zero is left to say.
    pub fn now(&self) -> i64 {
        let cpu = |(user, system): (Duration, Duration), part: CpuPart| match part {
            CpuPart::All => ns(user.saturating_add(system)),
            CpuPart::User => ns(user),
        };
        match self {
            Clock::World(clocks, kind) => clocks.now(*kind),
            Clock::Process(process, part) => {
                let now =
                    |process: Arc<Process>| process.timers.never_back(*part, cpu(usage::times(&process), *part));
                process.upgrade().map_or(0, now)
            }
            Clock::Thread(thread, part) => {
                thread.upgrade().map_or(0, |thread| cpu(thread.control().cpu_time(), *part))
            }
        }
    }

    /// Its resolution in nanoseconds.
    pub fn resolution(&self) -> i64 {
        match self {
            Clock::World(clocks, kind) if kind.is_coarse() => clocks.tick(),
            _ => 1,
        }
    }

    /// Measures CPU time rather than time.
    pub fn is_cpu(&self) -> bool {
        !matches!(self, Clock::World(..))
    }

    /// Can be waited for, and have timers: `EOPNOTSUPP` for coarse and raw clocks.
    pub fn timed(&self) -> Result<()> {
        match self {
            Clock::World(_, Kind::Raw | Kind::RealtimeCoarse | Kind::MonotonicCoarse) => Err(Errno::EOPNOTSUPP),
            _ => Ok(()),
        }
    }

    /// When to look at it again for a deadline `left` nanoseconds ahead on it. CPU clocks advance at most as fast
    /// as there are CPUs, and are asked again at bounded intervals.
    pub fn look_after(&self, left: i64) -> Option<Instant> {
        /// A scheduler tick, and as rare as one who waits for CPU time will bear.
        const TICK: i64 = 4_000_000;
        const RARE: i64 = 100_000_000;
        let wait = match self {
            Clock::World(..) => left.max(0),
            Clock::Thread(..) => left.clamp(TICK, RARE),
            Clock::Process(process, _) => {
                let threads = process.upgrade().map_or(1, |process| process.tasks().len().max(1));
                (left / i64::try_from(threads).unwrap_or(1)).clamp(TICK, RARE)
            }
        };
        Instant::now().checked_add(Duration::from_nanos(u64::try_from(wait).unwrap_or(0)))
    }
}

fn ns(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}
