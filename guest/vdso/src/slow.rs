//! What the first attempt could not answer: a cell that is being written, clocks that want refreshing, other sources
//! than the plain counter. Bounded attempts, then the system call.

use crate::pvclock::{self, Trouble};
use crate::seq::Word;
use crate::time::{
    CLOCK_BOOTTIME, CLOCK_MONOTONIC_COARSE, CLOCK_MONOTONIC_RAW, CLOCK_REALTIME, CLOCK_REALTIME_COARSE, CLOCK_TAI, Pair,
};
use crate::vvar::{Fine, Look, Moment, TRIES, Words, hypervisors, mode, starts_ticking, word};
use crate::{cpu, page, raw};

/// A clock as the slow path sees it.
#[derive(Clone, Copy)]
struct Kind {
    fine: Fine,
    coarse: bool,
}

impl Kind {
    /// One of those that [`crate::fast`] serves.
    fn of(clock: i32) -> Kind {
        let fine = match clock {
            CLOCK_REALTIME | CLOCK_REALTIME_COARSE => Fine::Realtime,
            CLOCK_MONOTONIC_RAW => Fine::Raw,
            CLOCK_BOOTTIME => Fine::Boottime,
            CLOCK_TAI => Fine::Tai,
            _ => Fine::Monotonic,
        };
        Kind { fine, coarse: matches!(clock, CLOCK_REALTIME_COARSE | CLOCK_MONOTONIC_COARSE) }
    }

    /// A coarse clock as it was last published.
    fn published(self, words: &Words<'_>) -> Moment {
        let (sec, nsec) = match self.fine {
            Fine::Realtime => (words.get::<{ word::COARSE_REAL_SEC }>(), words.get::<{ word::COARSE_REAL_NSEC }>()),
            _ => (words.get::<{ word::COARSE_MONO_SEC }>(), words.get::<{ word::COARSE_MONO_NSEC }>()),
        };
        Moment { sec: sec as i64, nsec: nsec as u32 }
    }

    /// As coarse as it is to be: a tick behind, but never behind what was last published.
    fn coarsened(self, words: &Words<'_>, moment: Moment) -> Moment {
        if !self.coarse {
            return moment;
        }
        let published = self.published(words);
        let behind = moment.before(words.get::<{ word::TICK }>() as u32);
        if behind < published { published } else { behind }
    }
}

/// What an attempt came to.
enum Outcome {
    Done(Moment),
    Again,
    /// The kernel should publish anew.
    Refresh,
    /// There is no source but the system call.
    Call,
}

/// One attempt from whatever source is in use.
fn attempt(kind: Kind, tsc: u64) -> Outcome {
    let take = |words: Words<'_>| match words.get::<{ word::MODE }>() {
        // What is published is the truth, however late who keeps it going: a clock that ran on here would go back.
        mode::TSC | mode::PVCLOCK | mode::PVCLOCK_PER_CPU | mode::PVCLOCK_PER_CPU_LSL
            if kind.coarse && words.get::<{ word::COARSE_VALID }>() != 0 =>
        {
            Outcome::Done(kind.published(&words))
        }
        mode::TSC => from_counter(kind, &words, tsc),
        mode::PVCLOCK => from_pvclock(kind, &words, pvclock::one_page(&page().vcpus, tsc)),
        mode::PVCLOCK_PER_CPU => {
            from_pvclock(kind, &words, pvclock::per_cpu(&page().vcpus, cpu::current, raw::ordered_counter))
        }
        mode::PVCLOCK_PER_CPU_LSL => {
            from_pvclock(kind, &words, pvclock::per_cpu(&page().vcpus, cpu::by_segment, raw::ordered_counter))
        }
        _ => Outcome::Call,
    };
    page().clocks.try_read(take).unwrap_or(Outcome::Again)
}

fn from_counter(kind: Kind, words: &Words<'_>, tsc: u64) -> Outcome {
    if kind.coarse && words.get::<{ word::COARSE_VALID }>() == 0 && starts_ticking(tsc) {
        return Outcome::Refresh;
    }
    match kind.fine.at(words, tsc) {
        Some(moment) => Outcome::Done(kind.coarsened(words, moment)),
        // Published after the counter was read: another reading will do.
        None if (tsc.wrapping_sub(words.get::<{ word::CYCLES }>()) as i64) < 0
            && words.get::<{ word::LIMIT }>() != 0 =>
        {
            Outcome::Again
        }
        None => Outcome::Refresh,
    }
}

fn from_pvclock(kind: Kind, words: &Words<'_>, time: Result<u64, Trouble>) -> Outcome {
    match time {
        Ok(monotonic) => match hypervisors(words, kind.fine, monotonic) {
            Look::Is(moment) => Outcome::Done(kind.coarsened(words, moment)),
            Look::Again | Look::Not => Outcome::Call,
        },
        Err(Trouble::Again) => Outcome::Again,
        Err(Trouble::Stale) => Outcome::Refresh,
        // The publisher is about to change, or has changed, the mode.
        Err(Trouble::Unstable) => Outcome::Again,
    }
}

/// The time, or else what to ask the kernel.
fn read(clock: i32, mut tsc: u64) -> Outcome {
    let kind = Kind::of(clock);
    for _ in 0..TRIES {
        if tsc == 0 {
            tsc = raw::ordered_counter();
        }
        match attempt(kind, tsc) {
            Outcome::Again => {
                <core::sync::atomic::AtomicU64 as Word>::relax();
                tsc = 0;
            }
            outcome => return outcome,
        }
    }
    // A writer that does not come to an end: the kernel's own clock will do.
    Outcome::Call
}

/// `clock_gettime` after a first attempt at this reading of the counter (0: none yet).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vdso_slow_gettime(clock: i32, to: *mut Pair, tsc: u64) -> isize {
    // SAFETY: the caller's pointer.
    unsafe { gettime(clock, to, tsc) }
}

/// Not under the global name: calls of that would go through a table of addresses.
#[inline(never)]
unsafe fn gettime(clock: i32, to: *mut Pair, tsc: u64) -> isize {
    let mut pair = [0; 2];
    match read(clock, tsc) {
        Outcome::Done(moment) => pair = [moment.sec, i64::from(moment.nsec)],
        outcome => {
            // SAFETY: the pointer is good.
            let result = unsafe {
                match outcome {
                    Outcome::Refresh => raw::refresh(clock, &raw mut pair),
                    _ => raw::gettime(clock, &raw mut pair),
                }
            };
            if result != 0 {
                return result;
            }
        }
    }
    // SAFETY: the caller's pointer: a bad one faults whichever way the time came.
    unsafe { to.write(pair) };
    0
}

/// A reading for those who want it in another form. The calls cannot fail: these clocks exist.
#[inline(never)]
fn moment(clock: i32, tsc: u64) -> Moment {
    let mut pair = [0; 2];
    // SAFETY: the pointer is good.
    unsafe { gettime(clock, &raw mut pair, tsc) };
    Moment { sec: pair[0], nsec: pair[1] as u32 }
}

/// The clocks that only the system call knows.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vdso_call_gettime(clock: i32, to: *mut Pair) -> isize {
    // SAFETY: the call checks its pointer.
    unsafe { raw::gettime(clock, to) }
}

/// `gettimeofday` after a first attempt.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vdso_slow_gettimeofday(to: *mut Pair, _zone: usize, tsc: u64) -> isize {
    let moment = moment(CLOCK_REALTIME, tsc);
    // SAFETY: the caller's pointer.
    unsafe { to.write([moment.sec, i64::from(moment.nsec / 1000)]) };
    0
}

/// `time` when nobody keeps the coarse clocks going.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vdso_slow_time(to: *mut i64) -> i64 {
    let now = moment(CLOCK_REALTIME_COARSE, 0).sec;
    if !to.is_null() {
        // SAFETY: the caller's pointer.
        unsafe { to.write(now) };
    }
    now
}

/// Nanoseconds between two values of the coarse clocks.
pub fn tick() -> Option<i64> {
    match page().clocks.read(TRIES, |words| words.get::<{ word::TICK }>()) {
        Some(tick) if tick != 0 => Some(tick as i64),
        _ => None,
    }
}
