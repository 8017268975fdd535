//! Clocks and timers. One thread of the kernel ([`Wheel`]) watches what is armed; an [`Alarm`] is what interval
//! timers, POSIX timers and timerfd are made of.

mod alarm;
pub mod clock;
pub mod clocks;
pub mod coarse;
pub mod host;
pub mod itimer;
pub mod posix;
#[cfg(test)]
mod simulated;
#[cfg(test)]
mod tests;
mod timerfd;
mod track;
mod wheel;

use std::sync::atomic::{AtomicI64, Ordering};

use parking_lot::Mutex;

pub use alarm::Alarm;
pub use clock::{Clock, CpuPart};
pub use clocks::{Choice, Clocks, Offsets};
pub use host::Kind;
pub use timerfd::TimerFd;
pub use wheel::Wheel;

use crate::abi::types::{Itimerspec, Timespec};
use crate::{Errno, Result};

pub const NSEC_PER_SEC: i64 = 1_000_000_000;

/// Interval timers and POSIX timers of one process. Neither survives `fork`; POSIX timers do not survive `execve`.
#[derive(Default)]
pub struct ProcessTimers {
    itimers: Mutex<itimer::Itimers>,
    posix: Mutex<posix::PosixTimers>,
    /// What the process's CPU clocks have shown: by [`CpuPart`].
    shown: [AtomicI64; 2],
}

impl ProcessTimers {
    /// A CPU clock's sum is gathered thread by thread, of which some end meanwhile: it must not go back for that.
    fn never_back(&self, part: CpuPart, sum: i64) -> i64 {
        let [all, user] = &self.shown;
        let shown = if part == CpuPart::All { all } else { user };
        shown.fetch_max(sum, Ordering::Relaxed).max(sum)
    }
}

/// Nanoseconds of a `timespec`, as far as they can be expressed (`ktime_set()`); `EINVAL` if it is malformed.
pub fn to_ns(time: &Timespec) -> Result<i64> {
    if time.tv_sec < 0 || !(0..NSEC_PER_SEC).contains(&time.tv_nsec) {
        return Err(Errno::EINVAL);
    }
    Ok(time.tv_sec.saturating_mul(NSEC_PER_SEC).saturating_add(time.tv_nsec))
}

/// A `timespec` of nanoseconds.
pub fn from_ns(ns: i64) -> Timespec {
    Timespec { tv_sec: ns.div_euclid(NSEC_PER_SEC), tv_nsec: ns.rem_euclid(NSEC_PER_SEC) }
}

/// Value and interval in nanoseconds, or `EINVAL`.
pub fn itimerspec_ns(spec: &Itimerspec) -> Result<(i64, i64)> {
    Ok((to_ns(&spec.it_value)?, to_ns(&spec.it_interval)?))
}

/// And back.
pub fn to_itimerspec((value, interval): (i64, i64)) -> Itimerspec {
    Itimerspec { it_interval: from_ns(interval), it_value: from_ns(value) }
}
