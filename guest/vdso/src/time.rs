//! `clock_getres`; the other functions of the clocks begin in [`crate::fast`].

use crate::{alias, raw, slow};

/// `struct timespec` and `struct timeval`.
pub type Pair = [i64; 2];

pub const CLOCK_REALTIME: i32 = 0;
pub const CLOCK_MONOTONIC: i32 = 1;
pub const CLOCK_MONOTONIC_RAW: i32 = 4;
pub const CLOCK_REALTIME_COARSE: i32 = 5;
pub const CLOCK_MONOTONIC_COARSE: i32 = 6;
pub const CLOCK_BOOTTIME: i32 = 7;
pub const CLOCK_TAI: i32 = 11;

alias!("clock_getres", "__vdso_clock_getres");

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
        // SAFETY: the caller's pointer: it faults if it is bad, as Linux's vDSO does.
        unsafe { to.write([0, nsec]) };
    }
    0
}
