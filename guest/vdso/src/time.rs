//! The clocks: one attempt without a stack frame; whatever goes wrong goes to [`crate::slow`].

use crate::vvar::{Fine, Moment, word};
use crate::{alias, page, raw, slow};

const CLOCK_REALTIME: i32 = 0;
const CLOCK_MONOTONIC: i32 = 1;
const CLOCK_MONOTONIC_RAW: i32 = 4;
const CLOCK_REALTIME_COARSE: i32 = 5;
const CLOCK_MONOTONIC_COARSE: i32 = 6;
const CLOCK_BOOTTIME: i32 = 7;
const CLOCK_TAI: i32 = 11;

/// `struct timespec` and `struct timeval`.
pub type Pair = [i64; 2];

alias!("clock_gettime", "__vdso_clock_gettime");
alias!("gettimeofday", "__vdso_gettimeofday");
alias!("time", "__vdso_time");
alias!("clock_getres", "__vdso_clock_getres");

/// One attempt to read a clock; the counter's reading comes with a failure.
#[inline(always)]
fn attempt(clock: Fine) -> Result<Moment, u64> {
    let tsc = raw::ordered_counter();
    page().clocks.try_read(|words| clock.at(&words, tsc)).flatten().ok_or(tsc)
}

/// One attempt to read what somebody keeps going.
#[inline(always)]
fn coarse(real: bool) -> Option<Moment> {
    let take = |words: crate::vvar::Words<'_>| {
        let valid = words.get::<{ word::COARSE_VALID }>() != 0;
        let (sec, nsec) = if real {
            (words.get::<{ word::COARSE_REAL_SEC }>(), words.get::<{ word::COARSE_REAL_NSEC }>())
        } else {
            (words.get::<{ word::COARSE_MONO_SEC }>(), words.get::<{ word::COARSE_MONO_NSEC }>())
        };
        valid.then_some(Moment { sec: sec as i64, nsec: nsec as u32 })
    };
    page().clocks.try_read(take).flatten()
}

#[inline(always)]
unsafe fn put(to: *mut Pair, moment: Moment) -> isize {
    // SAFETY: the caller's pointer: it faults if it is bad, as Linux's vDSO does.
    unsafe { to.write([moment.sec, i64::from(moment.nsec)]) };
    0
}

/// clock_gettime(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __vdso_clock_gettime(clock: i32, to: *mut Pair) -> isize {
    let read = match clock {
        CLOCK_MONOTONIC => attempt(Fine::Monotonic),
        CLOCK_REALTIME => attempt(Fine::Realtime),
        // SAFETY: as here.
        _ => return unsafe { others(clock, to) },
    };
    // SAFETY: the caller's pointer.
    unsafe {
        match read {
            Ok(moment) => put(to, moment),
            Err(tsc) => slow::gettime(clock, to, tsc),
        }
    }
}

/// The clocks that are asked for less often.
#[inline(never)]
unsafe fn others(clock: i32, to: *mut Pair) -> isize {
    let read = match clock {
        CLOCK_MONOTONIC_COARSE => coarse(false).ok_or(0),
        CLOCK_REALTIME_COARSE => coarse(true).ok_or(0),
        CLOCK_BOOTTIME => attempt(Fine::Boottime),
        CLOCK_TAI => attempt(Fine::Tai),
        CLOCK_MONOTONIC_RAW => attempt(Fine::Raw),
        // SAFETY: the call checks its pointer.
        _ => return unsafe { raw::gettime(clock, to) },
    };
    // SAFETY: the caller's pointer.
    unsafe {
        match read {
            Ok(moment) => put(to, moment),
            Err(tsc) => slow::gettime(clock, to, tsc),
        }
    }
}

/// gettimeofday(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __vdso_gettimeofday(to: *mut Pair, zone: *mut [i32; 2]) -> isize {
    if !zone.is_null() {
        // SAFETY: the caller's pointer. Nobody sets a time zone here (settimeofday(2) is refused).
        unsafe { zone.write([0, 0]) };
    }
    if to.is_null() {
        return 0;
    }
    match attempt(Fine::Realtime) {
        // SAFETY: the caller's pointer.
        Ok(moment) => unsafe {
            to.write([moment.sec, i64::from(moment.nsec / 1000)]);
            0
        },
        // SAFETY: as above.
        Err(tsc) => unsafe { slow::gettimeofday(to, tsc) },
    }
}

/// time(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __vdso_time(to: *mut i64) -> i64 {
    let now = match coarse(true) {
        Some(moment) => moment.sec,
        // SAFETY: as here.
        None => return unsafe { slow::time(to) },
    };
    if !to.is_null() {
        // SAFETY: the caller's pointer.
        unsafe { to.write(now) };
    }
    now
}

/// clock_getres(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __vdso_clock_getres(clock: i32, to: *mut Pair) -> isize {
    let nsec = match clock {
        CLOCK_REALTIME | CLOCK_MONOTONIC | CLOCK_MONOTONIC_RAW | CLOCK_BOOTTIME | CLOCK_TAI => Some(1),
        CLOCK_REALTIME_COARSE | CLOCK_MONOTONIC_COARSE => slow::tick(),
        _ => None,
    };
    let Some(nsec) = nsec else {
        // SAFETY: the call checks its pointer.
        return unsafe { raw::getres(clock, to) };
    };
    if !to.is_null() {
        // SAFETY: the caller's pointer.
        unsafe { to.write([0, nsec]) };
    }
    0
}
