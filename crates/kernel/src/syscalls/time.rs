//! Clocks and sleeping: clock_gettime(2), nanosleep(2) and their families.

use crate::abi::types::{Timespec, Timeval};
use crate::call::{Addr, Ctx};
use crate::signal::RestartBlock;
use crate::time::clock::{CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_THREAD_CPUTIME_ID};
use crate::time::coarse::start_ticking;
use crate::time::{Clock, Kind, from_ns, to_ns};
use crate::{Errno, SysResult};

crate::calls! {
    35 nanosleep nanosleep, 2 Full;
    96 gettimeofday gettimeofday, 2 Full;
    159 adjtimex adjtimex, 1 Partial("reads only");
    164 settimeofday settimeofday, 2 Refused("the clock is the host's");
    201 time time, 1 Full;
    227 clock_settime clock_settime, 2 Refused("the clock is the host's");
    228 clock_gettime clock_gettime, 2 Full;
    229 clock_getres clock_getres, 2 Full;
    230 clock_nanosleep clock_nanosleep, 4 Full;
    305 clock_adjtime clock_adjtime, 2 Partial("reads only");
}

const TIMER_ABSTIME: u32 = 1;

fn clock_gettime(cx: &mut Ctx<'_>, clock: i32, to: Addr) -> SysResult {
    let clock = Clock::find(&cx.task, clock)?;
    if let Clock::World(clocks, kind) = &clock
        && cx.thread.called_by_vdso()
        && clocks.asked_by_vdso()
        && kind.is_coarse()
    {
        start_ticking(clocks);
    }
    cx.mem().write(to.0, &from_ns(clock.now()))?;
    Ok(0)
}

fn clock_getres(cx: &mut Ctx<'_>, clock: i32, to: Addr) -> SysResult {
    let step = Clock::find(&cx.task, clock)?.resolution();
    if let Some(at) = to.non_null() {
        cx.mem().write(at, &from_ns(step))?;
    }
    Ok(0)
}

fn clock_settime(cx: &mut Ctx<'_>, clock: i32, from: Addr) -> SysResult {
    let clock_found = Clock::find(&cx.task, clock)?;
    // Only real time and the CPU clocks have a clock_set() at all.
    if clock != CLOCK_REALTIME && !clock_found.is_cpu() {
        return Err(Errno::EINVAL);
    }
    let time: Timespec = cx.mem().read(from.0)?;
    if clock == CLOCK_REALTIME {
        to_ns(&time)?;
    }
    Err(Errno::EPERM)
}

fn gettimeofday(cx: &mut Ctx<'_>, to: Addr, zone: Addr) -> SysResult {
    let now = Clock::find(&cx.task, CLOCK_REALTIME)?.now();
    if let Some(at) = to.non_null() {
        let now = from_ns(now);
        cx.mem().write(at, &Timeval { tv_sec: now.tv_sec, tv_usec: now.tv_nsec / 1000 })?;
    }
    if let Some(at) = zone.non_null() {
        cx.mem().write(at, &[0_i32; 2])?;
    }
    Ok(0)
}

fn settimeofday(cx: &mut Ctx<'_>, time: Addr, zone: Addr) -> SysResult {
    if let Some(at) = time.non_null() {
        let time: Timeval = cx.mem().read(at)?;
        if !(0..1_000_000).contains(&time.tv_usec) || time.tv_sec < 0 {
            return Err(Errno::EINVAL);
        }
    }
    if let Some(at) = zone.non_null() {
        let _: [i32; 2] = cx.mem().read(at)?;
    }
    Err(Errno::EPERM)
}

fn time(cx: &mut Ctx<'_>, to: Addr) -> SysResult {
    // The coarse clock's seconds, as the time stamps of files (`ktime_get_real_seconds()`).
    let now = from_ns(cx.task.world.clocks.now(Kind::RealtimeCoarse)).tv_sec;
    if let Some(at) = to.non_null() {
        cx.mem().write(at, &now)?;
    }
    Ok(now as u64)
}

/// Size of `struct timex`, and where its fields lie.
const TIMEX: usize = 208;
/// `TIME_ERROR`: nobody keeps this clock in step, as far as guests are told.
const TIME_ERROR: u64 = 5;

fn adjtimex(cx: &mut Ctx<'_>, buffer: Addr) -> SysResult {
    let mut timex: [u8; TIMEX] = cx.mem().read(buffer.0)?;
    let modes = timex.first_chunk::<4>().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
    // ADJ_OFFSET_SS_READ and nothing at all only read.
    if modes != 0 && modes != 0xa001 {
        return Err(Errno::EPERM);
    }
    let now = from_ns(Clock::find(&cx.task, CLOCK_REALTIME)?.now());
    let fields: [(usize, i64); 9] = [
        (24, 16_000_000), // maxerror
        (32, 16_000_000), // esterror
        (40, 0x40),       // status: STA_UNSYNC
        (48, 2),          // constant
        (56, 1),          // precision
        (64, 32_768_000), // tolerance
        (72, now.tv_sec), // time
        (80, now.tv_nsec / 1000),
        (88, 10_000), // tick
    ];
    timex.get_mut(8..).unwrap_or_default().fill(0);
    for (at, value) in fields {
        if let Some(place) = timex.get_mut(at..at + 8) {
            place.copy_from_slice(&value.to_ne_bytes());
        }
    }
    cx.mem().write(buffer.0, &timex)?;
    Ok(TIME_ERROR)
}

fn clock_adjtime(cx: &mut Ctx<'_>, clock: i32, buffer: Addr) -> SysResult {
    Clock::find(&cx.task, clock)?;
    if clock == CLOCK_REALTIME { adjtimex(cx, buffer) } else { Err(Errno::EOPNOTSUPP) }
}

fn nanosleep(cx: &mut Ctx<'_>, time: Addr, remaining: Addr) -> SysResult {
    let time: Timespec = cx.mem().read(time.0)?;
    sleep_for(cx, CLOCK_MONOTONIC, to_ns(&time)?, remaining)
}

fn clock_nanosleep(cx: &mut Ctx<'_>, clock: i32, flags: u32, time: Addr, remaining: Addr) -> SysResult {
    let found = Clock::find(&cx.task, clock)?;
    found.timed()?;
    let time: Timespec = cx.mem().read(time.0)?;
    let time = to_ns(&time)?;
    // The thread would have to run while it sleeps.
    if clock == CLOCK_THREAD_CPUTIME_ID {
        return Err(Errno::EINVAL);
    }
    if flags & TIMER_ABSTIME == 0 {
        return sleep_for(cx, clock, time, remaining);
    }
    match sleep(cx, &found, time) {
        Err(Errno::ERESTARTSYS) => Err(Errno::ERESTARTNOHAND),
        other => other,
    }
}

fn sleep_for(cx: &mut Ctx<'_>, clock: i32, time: i64, remaining: Addr) -> SysResult {
    // A relative sleep on real time does not care for the clock being set (hrtimer_nanosleep()).
    let clock = if clock == CLOCK_REALTIME { CLOCK_MONOTONIC } else { clock };
    let now = Clock::find(&cx.task, clock)?.now();
    sleep_until(cx, clock, now.saturating_add(time), remaining.0)
}

/// A relative sleep, first or restarted: when it is interrupted, what remains goes to `remaining`.
pub(super) fn sleep_until(cx: &mut Ctx<'_>, clock: i32, deadline: i64, remaining: u64) -> SysResult {
    let found = Clock::find(&cx.task, clock)?;
    match sleep(cx, &found, deadline) {
        Err(Errno::ERESTARTSYS) => {
            let left = deadline.saturating_sub(found.now());
            if left <= 0 {
                return Ok(0);
            }
            if remaining != 0 {
                cx.mem().write(remaining, &from_ns(left))?;
            }
            cx.task.signals.set_restart(RestartBlock::Sleep { clock, deadline, remaining });
            Err(Errno::ERESTART_RESTARTBLOCK)
        }
        other => other,
    }
}

/// Sleeps until `clock` shows `deadline`; `ERESTARTSYS` when a signal comes first.
fn sleep(cx: &Ctx<'_>, clock: &Clock, deadline: i64) -> SysResult {
    loop {
        let left = deadline.saturating_sub(clock.now());
        if left <= 0 {
            return Ok(0);
        }
        match cx.block(clock.look_after(left), |_| None::<u64>) {
            Err(Errno::ETIMEDOUT) => {}
            other => return other,
        }
    }
}
