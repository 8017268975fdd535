//! Timers: setitimer(2), timer_create(2), timerfd_create(2) and their families.

use std::sync::Arc;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::abi::linux::{O_CLOEXEC, O_NONBLOCK, O_RDWR};
use crate::abi::types::{Itimerspec, Itimerval, Timeval};
use crate::call::{Addr, Ctx, Fd};
use crate::fd::OpenFile;
use crate::ipc::glue;
use crate::signal::Signal;
use crate::task::Task;
use crate::time::itimer::{self, Which};
use crate::time::posix::{self, Notify};
use crate::time::{Clock, NSEC_PER_SEC, TimerFd, itimerspec_ns, to_itimerspec};
use crate::{Errno, Result, SysResult};

crate::calls! {
    36 getitimer getitimer, 2 Full;
    37 alarm alarm, 1 Full;
    38 setitimer setitimer, 3 Full;
    222 timer_create timer_create, 3 Full;
    223 timer_settime timer_settime, 4 Full;
    224 timer_gettime timer_gettime, 2 Full;
    225 timer_getoverrun timer_getoverrun, 1 Full;
    226 timer_delete timer_delete, 1 Full;
    283 timerfd_create timerfd_create, 2 Full;
    286 timerfd_settime timerfd_settime, 4 Full;
    287 timerfd_gettime timerfd_gettime, 2 Full;
}

const TIMER_ABSTIME: u32 = 1;
const TFD_TIMER_CANCEL_ON_SET: u32 = 2;

/// `struct sigevent`, as far as the kernel reads it.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct Sigevent {
    value: u64,
    signo: i32,
    notify: i32,
    tid: i32,
    pad: [i32; 11],
}

fn which(number: i32) -> Result<Which> {
    match number {
        0 => Ok(Which::Real),
        1 => Ok(Which::Virtual),
        2 => Ok(Which::Profiling),
        _ => Err(Errno::EINVAL),
    }
}

/// `timeval_valid()` and conversion.
fn timeval_ns(time: &Timeval) -> Result<i64> {
    if time.tv_sec < 0 || !(0..1_000_000).contains(&time.tv_usec) {
        return Err(Errno::EINVAL);
    }
    Ok(time.tv_sec.saturating_mul(NSEC_PER_SEC).saturating_add(time.tv_usec * 1000))
}

/// What is left is never shown as nothing while the timer runs.
fn to_itimerval((value, interval): (i64, i64)) -> Itimerval {
    let timeval = |ns: i64| Timeval { tv_sec: ns / NSEC_PER_SEC, tv_usec: ns % NSEC_PER_SEC / 1000 };
    let value = if value > 0 { value.max(1000) } else { 0 };
    Itimerval { it_interval: timeval(interval), it_value: timeval(value) }
}

fn getitimer(cx: &mut Ctx<'_>, number: i32, to: Addr) -> SysResult {
    let now = itimer::get(&cx.task.process, which(number)?);
    cx.mem().write(to.0, &to_itimerval(now))?;
    Ok(0)
}

fn setitimer(cx: &mut Ctx<'_>, number: i32, new: Addr, old: Addr) -> SysResult {
    // A null pointer disarms, as it always did.
    let new: Itimerval = match new.non_null() {
        Some(at) => cx.mem().read(at)?,
        None => Itimerval::default(),
    };
    let (value, interval) = (timeval_ns(&new.it_value)?, timeval_ns(&new.it_interval)?);
    let before = itimer::set(&cx.task.process, which(number)?, value, interval);
    if let Some(at) = old.non_null() {
        cx.mem().write(at, &to_itimerval(before))?;
    }
    Ok(0)
}

fn alarm(cx: &mut Ctx<'_>, seconds: u32) -> SysResult {
    let value = i64::from(seconds).saturating_mul(NSEC_PER_SEC);
    let (left, _) = itimer::set(&cx.task.process, Which::Real, value, 0);
    // Rounded to the nearest second, but not to nothing (alarm_setitimer()).
    let (whole, part) = (left / NSEC_PER_SEC, left % NSEC_PER_SEC);
    let up = (whole == 0 && part > 0) || part >= NSEC_PER_SEC / 2;
    Ok((whole + i64::from(up)) as u64)
}

/// `good_sigevent()` and `do_timer_create()`.
fn notify_of(task: &Arc<Task>, event: &Sigevent) -> Result<Notify> {
    const SIGEV_SIGNAL: i32 = 0;
    const SIGEV_NONE: i32 = 1;
    const SIGEV_THREAD: i32 = 2;
    const SIGEV_THREAD_ID: i32 = 4;
    let value = event.value;
    match event.notify {
        SIGEV_NONE => Ok(Notify::Nothing),
        SIGEV_SIGNAL | SIGEV_THREAD => Ok(Notify::Process { signal: Signal::new(event.signo)?, value }),
        SIGEV_THREAD_ID => {
            let tid = u32::try_from(event.tid).map_err(|_| Errno::EINVAL)?;
            let target = task.world.task(tid).filter(|target| target.pid() == task.pid()).ok_or(Errno::EINVAL)?;
            Ok(Notify::Thread { signal: Signal::new(event.signo)?, value, target: Arc::downgrade(&target) })
        }
        _ => Err(Errno::EINVAL),
    }
}

/// A clock that timers can be set on. Alarm clocks wake a machine that sleeps: `EPERM` without the right.
fn timer_clock(task: &Arc<Task>, id: i32) -> Result<Clock> {
    let clock = Clock::find(task, id)?;
    clock.timed()?;
    if matches!(id, 8 | 9) { Err(Errno::EPERM) } else { Ok(clock) }
}

fn timer_create(cx: &mut Ctx<'_>, clock: i32, event: Addr, id: Addr) -> SysResult {
    let event: Option<Sigevent> = event.non_null().map(|at| cx.mem().read(at)).transpose()?;
    let task = cx.task.clone();
    let clock = timer_clock(&task, clock)?;
    let notify = event.map(|event| notify_of(&task, &event)).transpose()?;
    let number = posix::create(&task.process, clock, notify)?;
    if let Err(error) = cx.mem().write(id.0, &number) {
        let _ = posix::delete(&task.process, number);
        return Err(error);
    }
    Ok(0)
}

fn timer_settime(cx: &mut Ctx<'_>, id: i32, flags: u32, new: Addr, old: Addr) -> SysResult {
    let new: Itimerspec = cx.mem().read(new.non_null().ok_or(Errno::EINVAL)?)?;
    let (value, interval) = itimerspec_ns(&new)?;
    let before = posix::set(&cx.task.process, id, value, interval, flags & TIMER_ABSTIME != 0)?;
    if let Some(at) = old.non_null() {
        cx.mem().write(at, &to_itimerspec(before))?;
    }
    Ok(0)
}

fn timer_gettime(cx: &mut Ctx<'_>, id: i32, to: Addr) -> SysResult {
    let now = posix::find(&cx.task.process, id)?.alarm.get();
    cx.mem().write(to.0, &to_itimerspec(now))?;
    Ok(0)
}

fn timer_getoverrun(cx: &mut Ctx<'_>, id: i32) -> SysResult {
    Ok(posix::overrun(&cx.task.process, id)? as u64)
}

fn timer_delete(cx: &mut Ctx<'_>, id: i32) -> SysResult {
    posix::delete(&cx.task.process, id)?;
    Ok(0)
}

fn timerfd_create(cx: &mut Ctx<'_>, clock: i32, flags: u32) -> SysResult {
    if flags & !(O_CLOEXEC | O_NONBLOCK) != 0 || !matches!(clock, 0 | 1 | 7 | 8 | 9) {
        return Err(Errno::EINVAL);
    }
    let clock = timer_clock(&cx.task, clock)?;
    let file = Arc::new(TimerFd::new(&cx.task.world, clock));
    glue::install(cx, file, O_RDWR | flags & O_NONBLOCK, flags & O_CLOEXEC != 0)
}

fn timerfd(open: &OpenFile) -> Result<&TimerFd> {
    open.file.as_any().downcast_ref::<TimerFd>().ok_or(Errno::EINVAL)
}

fn timerfd_settime(cx: &mut Ctx<'_>, fd: Fd, flags: u32, new: Addr, old: Addr) -> SysResult {
    let new: Itimerspec = cx.mem().read(new.0)?;
    let spec = itimerspec_ns(&new);
    // The clock is never set here, so there is nothing to cancel on.
    if flags & !(TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET) != 0 {
        return Err(Errno::EINVAL);
    }
    let (value, interval) = spec?;
    let open = cx.file(fd)?;
    let before = timerfd(&open)?.set(value, interval, flags & TIMER_ABSTIME != 0);
    if let Some(at) = old.non_null() {
        cx.mem().write(at, &to_itimerspec(before))?;
    }
    Ok(0)
}

fn timerfd_gettime(cx: &mut Ctx<'_>, fd: Fd, to: Addr) -> SysResult {
    let open = cx.file(fd)?;
    let now = timerfd(&open)?.get();
    cx.mem().write(to.0, &to_itimerspec(now))?;
    Ok(0)
}
