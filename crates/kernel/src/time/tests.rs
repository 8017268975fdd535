//! Timers, by calls on the mock platform.

use std::time::{Duration, Instant};

use super::{from_ns, to_ns};
use crate::abi::linux::{
    __NR_alarm, __NR_clock_nanosleep, __NR_nanosleep, __NR_rt_sigprocmask, __NR_rt_sigtimedwait, __NR_setitimer,
    __NR_timer_create, __NR_timer_delete, __NR_timer_getoverrun, __NR_timer_gettime, __NR_timer_settime,
};
use crate::abi::types::{Itimerspec, Timespec};
use crate::signal::SigInfo;
use crate::task::testing::{Guest, MEMORY};
use crate::{Errno, SysResult};

const MILLISECOND: i64 = 1_000_000;

fn timespec(ns: i64) -> Timespec {
    from_ns(ns)
}

/// Blocks everything, so that signals wait to be taken.
fn guest() -> Guest {
    let mut guest = Guest::new();
    guest.put(MEMORY, &u64::MAX);
    guest.call(__NR_rt_sigprocmask.into(), &[2, MEMORY, 0, 8]).unwrap();
    guest
}

/// Waits up to ten seconds for any signal.
fn take(guest: &mut Guest, patience: i64) -> Result<SigInfo, Errno> {
    guest.put(MEMORY, &u64::MAX);
    guest.put(MEMORY + 64, &timespec(patience));
    guest.call(__NR_rt_sigtimedwait.into(), &[MEMORY, MEMORY + 128, MEMORY + 64, 8])?;
    Ok(guest.get(MEMORY + 128))
}

fn set(guest: &mut Guest, id: u64, value: i64, interval: i64, flags: u64) -> SysResult {
    guest.put(MEMORY, &Itimerspec { it_interval: timespec(interval), it_value: timespec(value) });
    guest.call(__NR_timer_settime.into(), &[id, flags, MEMORY, MEMORY + 256])
}

#[test]
fn times_convert_and_are_checked() {
    assert_eq!(to_ns(&Timespec { tv_sec: 1, tv_nsec: 5 }), Ok(1_000_000_005));
    assert_eq!(to_ns(&Timespec { tv_sec: -1, tv_nsec: 0 }), Err(Errno::EINVAL));
    assert_eq!(to_ns(&Timespec { tv_sec: 0, tv_nsec: 1_000_000_000 }), Err(Errno::EINVAL));
    assert_eq!(to_ns(&Timespec { tv_sec: i64::MAX, tv_nsec: 0 }), Ok(i64::MAX));
    assert_eq!(from_ns(1_500_000_000), Timespec { tv_sec: 1, tv_nsec: 500_000_000 });
}

#[test]
fn sleeping_takes_its_time() {
    let mut guest = guest();
    guest.put(MEMORY, &timespec(5 * MILLISECOND));
    let start = Instant::now();
    assert_eq!(guest.call(__NR_nanosleep.into(), &[MEMORY, 0]), Ok(0));
    assert!(start.elapsed() >= Duration::from_millis(5));
    guest.put(MEMORY, &Timespec { tv_sec: 0, tv_nsec: -1 });
    assert_eq!(guest.call(__NR_nanosleep.into(), &[MEMORY, 0]), Err(Errno::EINVAL));
    guest.put(MEMORY, &timespec(1));
    let mut on = |clock: u64, flags: u64| guest.call(__NR_clock_nanosleep.into(), &[clock, flags, MEMORY, 0]);
    assert_eq!(on(1, 1), Ok(0), "long past");
    assert_eq!(on(3, 0), Err(Errno::EINVAL));
    assert_eq!(on(4, 0), Err(Errno::EOPNOTSUPP));
    assert_eq!(on(77, 0), Err(Errno::EINVAL));
}

#[test]
fn a_posix_timer_has_one_signal_and_counts_the_rest() {
    let mut guest = guest();
    guest.call(__NR_timer_create.into(), &[1, 0, MEMORY + 512]).unwrap();
    let id = u64::from(guest.get::<u32>(MEMORY + 512));
    set(&mut guest, id, MILLISECOND, MILLISECOND, 0).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    let info = take(&mut guest, 10_000 * MILLISECOND).unwrap();
    assert_eq!((info.signo, info.code, info.timer_id().0, info.value()), (14, -2, id as i32, id));
    assert!(info.timer_id().1 >= 10);
    assert_eq!(guest.call(__NR_timer_getoverrun.into(), &[id]), Ok(info.timer_id().1 as u64));
    // Disarmed: what was sent and not taken goes.
    std::thread::sleep(Duration::from_millis(5));
    set(&mut guest, id, 0, 0, 0).unwrap();
    assert_eq!(take(&mut guest, MILLISECOND), Err(Errno::EAGAIN));
    set(&mut guest, id, 1000 * MILLISECOND, 0, 0).unwrap();
    guest.call(__NR_timer_gettime.into(), &[id, MEMORY]).unwrap();
    let left = to_ns(&guest.get::<Itimerspec>(MEMORY).it_value).unwrap();
    assert!(left > 0 && left <= 1000 * MILLISECOND);
    assert_eq!(guest.call(__NR_timer_delete.into(), &[id]), Ok(0));
    assert_eq!(guest.call(__NR_timer_delete.into(), &[id]), Err(Errno::EINVAL));
}

#[test]
fn the_smallest_interval_costs_nothing_until_it_is_taken() {
    let mut guest = guest();
    guest.call(__NR_timer_create.into(), &[1, 0, MEMORY + 512]).unwrap();
    set(&mut guest, 0, 1, 1, 0).unwrap();
    std::thread::sleep(Duration::from_millis(5));
    let info = take(&mut guest, 10_000 * MILLISECOND).unwrap();
    assert!(info.timer_id().1 > 1_000_000);
}

#[test]
fn interval_timers_send_their_signal() {
    let mut guest = guest();
    // it_interval and it_value in microseconds.
    guest.put(MEMORY, &[0_i64, 2000, 0, 2000]);
    assert_eq!(guest.call(__NR_setitimer.into(), &[0, MEMORY, 0]), Ok(0));
    for _ in 0..3 {
        let info = take(&mut guest, 10_000 * MILLISECOND).unwrap();
        assert_eq!((info.signo, info.code), (14, 0x80));
    }
    assert_eq!(guest.call(__NR_setitimer.into(), &[0, 0, 0]), Ok(0));
    assert_eq!(guest.call(__NR_alarm.into(), &[100]), Ok(0));
    assert_eq!(guest.call(__NR_alarm.into(), &[0]), Ok(100));
    assert_eq!(guest.call(__NR_setitimer.into(), &[3, MEMORY, 0]), Err(Errno::EINVAL));
}
