//! Signals: sigaction(2), sigprocmask(2), kill(2) and their families.

use std::sync::Arc;

use crate::abi::linux::{O_CLOEXEC, O_NONBLOCK, O_RDWR, SIG_BLOCK, SIG_SETMASK, SIG_UNBLOCK};
use crate::abi::types::{SigAltStack, Sigaction, Timespec};
use crate::call::{Addr, After, Ctx};
use crate::ipc::glue;
use crate::signal::info::SI_TKILL;
use crate::signal::{
    self, RestartBlock, SA_KNOWN, SIGSET_SIZE, SigInfo, SigSet, Signal, SignalFd, check_permission,
    check_sigset_size, send_to_process, send_to_task,
};
use crate::task::{Process, Task};
use crate::wait::deadline_after;
use crate::{Errno, Result, SysResult};

crate::calls! {
    13 rt_sigaction rt_sigaction, 4 Full;
    14 rt_sigprocmask rt_sigprocmask, 4 Full;
    15 rt_sigreturn rt_sigreturn, 0 Full;
    34 pause pause, 0 Full;
    62 kill kill, 2 Full;
    127 rt_sigpending rt_sigpending, 2 Full;
    128 rt_sigtimedwait rt_sigtimedwait, 4 Full;
    129 rt_sigqueueinfo rt_sigqueueinfo, 3 Full;
    130 rt_sigsuspend rt_sigsuspend, 2 Full;
    131 sigaltstack sigaltstack, 2 Full;
    200 tkill tkill, 2 Full;
    219 restart_syscall restart_syscall, 0 Full;
    234 tgkill tgkill, 3 Full;
    282 signalfd signalfd, 3 Full;
    289 signalfd4 signalfd4, 4 Full;
    297 rt_tgsigqueueinfo rt_tgsigqueueinfo, 4 Full;
}

fn rt_sigaction(cx: &mut Ctx<'_>, number: i32, new: Addr, old: Addr, size: usize) -> SysResult {
    check_sigset_size(size)?;
    let new: Option<Sigaction> = new.non_null().map(|at| cx.mem().read(at)).transpose()?;
    let signal = Signal::new(number)?;
    if new.is_some() && signal.is_unblockable() {
        return Err(Errno::EINVAL);
    }
    let before = match new {
        Some(action) => {
            let flags = action.flags & SA_KNOWN;
            let mask = SigSet(action.mask).blockable().0;
            signal::set_action(&cx.task, signal, Sigaction { flags, mask, ..action })
        }
        None => cx.task.process.signals.dispositions().get(signal),
    };
    if let Some(at) = old.non_null() {
        cx.mem().write(at, &before)?;
    }
    Ok(0)
}

fn rt_sigprocmask(cx: &mut Ctx<'_>, how: u32, set: Addr, old: Addr, size: usize) -> SysResult {
    check_sigset_size(size)?;
    let before = cx.task.signals.blocked();
    if let Some(at) = set.non_null() {
        let set = SigSet(cx.mem().read(at)?);
        let mask = match how {
            SIG_BLOCK => before.union(set.blockable()),
            SIG_UNBLOCK => before.minus(set),
            SIG_SETMASK => set.blockable(),
            _ => return Err(Errno::EINVAL),
        };
        signal::set_blocked(&cx.task, mask);
    }
    if let Some(at) = old.non_null() {
        cx.mem().write(at, &before.0)?;
    }
    Ok(0)
}

fn rt_sigreturn(cx: &mut Ctx<'_>) -> SysResult {
    signal::sigreturn(cx)?;
    cx.after = After::Continue;
    Ok(0)
}

/// Sleeps until a signal ends it; a handler makes that `EINTR`.
fn sleep_for_signal(cx: &Ctx<'_>) -> SysResult {
    match cx.block(None, |_| None::<u64>) {
        Err(Errno::ERESTARTSYS) => Err(Errno::ERESTARTNOHAND),
        other => other,
    }
}

fn pause(cx: &mut Ctx<'_>) -> SysResult {
    sleep_for_signal(cx)
}

fn rt_sigsuspend(cx: &mut Ctx<'_>, set: Addr, size: usize) -> SysResult {
    check_sigset_size(size)?;
    let set = SigSet(cx.mem().read(set.0)?);
    signal::set_temporary_mask(&cx.task, set);
    sleep_for_signal(cx)
}

fn rt_sigpending(cx: &mut Ctx<'_>, set: Addr, size: usize) -> SysResult {
    if size > SIGSET_SIZE {
        return Err(Errno::EINVAL);
    }
    let pending = signal::pending_for(&cx.task).intersection(cx.task.signals.blocked());
    let bytes = pending.0.to_ne_bytes();
    cx.mem().write_bytes(set.0, bytes.get(..size).unwrap_or(&bytes))?;
    Ok(0)
}

fn rt_sigtimedwait(cx: &mut Ctx<'_>, set: Addr, info: Addr, timeout: Addr, size: usize) -> SysResult {
    check_sigset_size(size)?;
    let set = SigSet(cx.mem().read(set.0)?).blockable();
    let timeout: Option<Timespec> = timeout.non_null().map(|at| cx.mem().read(at)).transpose()?;
    let timeout = timeout.map(glue::timespec).transpose()?;
    let deadline = timeout.and_then(deadline_after);
    let task = cx.task.clone();
    let taken = match signal::take(&task, set) {
        Some(taken) => taken,
        None if timeout.is_some_and(|time| time.is_zero()) => return Err(Errno::EAGAIN),
        None => signal::await_signals(&task, set, || match task.block(deadline, |_| signal::take(&task, set)) {
            Err(Errno::ETIMEDOUT) => Err(Errno::EAGAIN),
            Err(_) => Err(Errno::EINTR),
            taken => taken,
        })?,
    };
    if let Some(at) = info.non_null() {
        cx.mem().write(at, &taken.1)?;
    }
    Ok(taken.0.number() as u64)
}

fn sigaltstack(cx: &mut Ctx<'_>, new: Addr, old: Addr) -> SysResult {
    let new: Option<SigAltStack> = new.non_null().map(|at| cx.mem().read(at)).transpose()?;
    let before = cx.task.signals.altstack();
    // Without a stack set nobody runs on it, and the registers need not be fetched.
    let sp = if before.size == 0 { 0 } else { cx.thread.freeze(0).map_err(|_| Errno::EFAULT)?.rsp };
    if let Some(new) = new {
        signal::change_altstack(&cx.task, sp, &new)?;
    }
    if let Some(at) = old.non_null() {
        let autodisarm = before.flags & signal::frame::SS_AUTODISARM;
        let state = before.to_guest(before.state(sp) | autodisarm);
        cx.mem().write(at, &state)?;
    }
    Ok(0)
}

/// The process that a pid of kill(2) names: that of any of its threads.
fn find_process(task: &Task, pid: i32) -> Result<Arc<Process>> {
    let pid = u32::try_from(pid).map_err(|_| Errno::ESRCH)?;
    let process = task.world.process(pid).or_else(|| task.world.task(pid).map(|task| task.process.clone()));
    process.ok_or(Errno::ESRCH)
}

/// `group_send_sig_info()` with its checks.
fn send_checked(task: &Task, process: &Arc<Process>, number: i32, info: &SigInfo) -> Result<()> {
    let signal = Signal::or_probe(number)?;
    if info.from_user() {
        check_permission(task, process, signal)?;
    }
    match signal {
        Some(signal) => send_to_process(process, signal, *info),
        None => Ok(()),
    }
}

/// A `siginfo` by `make`; any signal does where only the probe 0 or a bad number is sent.
fn info_of(task: &Task, number: i32, make: fn(Signal, u32, u32) -> SigInfo) -> SigInfo {
    make(Signal::new(number).unwrap_or(Signal::SIGHUP), task.pid(), task.cred().uid)
}

fn kill(cx: &mut Ctx<'_>, pid: i32, number: i32) -> SysResult {
    let task = cx.task.clone();
    let info = info_of(&task, number, SigInfo::user);
    match pid {
        1.. => send_checked(&task, &find_process(&task, pid)?, number, &info)?,
        -1 => kill_all(&task, number, &info)?,
        0 => kill_group(&task, task.process.pgid(), number, &info)?,
        _ => {
            let pgid = pid.checked_neg().and_then(|pgid| u32::try_from(pgid).ok()).ok_or(Errno::ESRCH)?;
            kill_group(&task, pgid, number, &info)?;
        }
    }
    Ok(0)
}

/// `__kill_pgrp_info()`: success if one could be signalled.
fn kill_group(task: &Task, pgid: u32, number: i32, info: &SigInfo) -> Result<()> {
    let mut result = Err(Errno::ESRCH);
    for member in task.world.group(pgid) {
        let sent = send_checked(task, &member, number, info);
        if result.is_err() {
            result = sent;
        }
    }
    result
}

/// Everything but init and the caller's own process.
fn kill_all(task: &Task, number: i32, info: &SigInfo) -> Result<()> {
    let mut result = Err(Errno::ESRCH);
    for process in task.world.processes() {
        if process.is_init() || process.pid == task.pid() {
            continue;
        }
        match send_checked(task, &process, number, info) {
            Err(Errno::EPERM) if result == Err(Errno::ESRCH) => result = Ok(()),
            Err(Errno::EPERM) => {}
            other => result = other,
        }
    }
    result
}

/// `do_send_specific()`.
fn send_thread(task: &Task, tgid: Option<i32>, tid: i32, number: i32, info: &SigInfo) -> SysResult {
    let tid = u32::try_from(tid).map_err(|_| Errno::ESRCH)?;
    let target = task.world.task(tid).ok_or(Errno::ESRCH)?;
    if tgid.is_some_and(|tgid| u32::try_from(tgid) != Ok(target.pid())) {
        return Err(Errno::ESRCH);
    }
    let signal = Signal::or_probe(number)?;
    if info.from_user() {
        check_permission(task, &target.process, signal)?;
    }
    if let Some(signal) = signal {
        send_to_task(&target, signal, *info)?;
    }
    Ok(0)
}

fn tkill(cx: &mut Ctx<'_>, tid: i32, number: i32) -> SysResult {
    if tid <= 0 {
        return Err(Errno::EINVAL);
    }
    send_thread(&cx.task, None, tid, number, &info_of(&cx.task, number, SigInfo::tkill))
}

fn tgkill(cx: &mut Ctx<'_>, tgid: i32, tid: i32, number: i32) -> SysResult {
    if tid <= 0 || tgid <= 0 {
        return Err(Errno::EINVAL);
    }
    send_thread(&cx.task, Some(tgid), tid, number, &info_of(&cx.task, number, SigInfo::tkill))
}

/// `copy_siginfo_from_user()`; only to oneself may one say that the kernel or tkill sent it.
fn read_info(cx: &mut Ctx<'_>, at: Addr, number: i32, own: bool) -> Result<SigInfo> {
    let mut info: SigInfo = cx.mem().read(at.0)?;
    info.signo = number;
    if (info.code >= 0 || info.code == SI_TKILL) && !own {
        return Err(Errno::EPERM);
    }
    Ok(info)
}

fn rt_sigqueueinfo(cx: &mut Ctx<'_>, pid: i32, number: i32, info: Addr) -> SysResult {
    let own = u32::try_from(pid) == Ok(cx.task.pid());
    let info = read_info(cx, info, number, own)?;
    send_checked(&cx.task, &find_process(&cx.task, pid)?, number, &info)?;
    Ok(0)
}

fn rt_tgsigqueueinfo(cx: &mut Ctx<'_>, tgid: i32, tid: i32, number: i32, info: Addr) -> SysResult {
    let info = {
        let own = u32::try_from(tid) == Ok(cx.task.tid());
        // The order of the kernel: the copy first, then the numbers, then the code.
        let mut raw: SigInfo = cx.mem().read(info.0)?;
        raw.signo = number;
        if tid <= 0 || tgid <= 0 {
            return Err(Errno::EINVAL);
        }
        if (raw.code >= 0 || raw.code == SI_TKILL) && !own {
            return Err(Errno::EPERM);
        }
        raw
    };
    send_thread(&cx.task, Some(tgid), tid, number, &info)
}

fn signalfd(cx: &mut Ctx<'_>, fd: i32, set: Addr, size: usize) -> SysResult {
    signalfd4(cx, fd, set, size, 0)
}

fn signalfd4(cx: &mut Ctx<'_>, fd: i32, set: Addr, size: usize, flags: u32) -> SysResult {
    check_sigset_size(size)?;
    let set = SigSet(cx.mem().read(set.0)?);
    if flags & !(O_CLOEXEC | O_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    if fd == -1 {
        let file = Arc::new(SignalFd::new(set, &cx.task.process));
        return glue::install(cx, file, O_RDWR | flags & O_NONBLOCK, flags & O_CLOEXEC != 0);
    }
    let open = cx.task.files().get(fd)?;
    open.file.as_any().downcast_ref::<SignalFd>().ok_or(Errno::EINVAL)?.set_mask(set);
    Ok(fd as u64)
}

fn restart_syscall(cx: &mut Ctx<'_>) -> SysResult {
    match cx.task.signals.take_restart() {
        // do_no_restart_syscall().
        None => Err(Errno::EINTR),
        Some(RestartBlock::Sleep { clock, deadline, remaining }) => {
            super::time::sleep_until(cx, clock, deadline, remaining)
        }
        Some(RestartBlock::Poll { fds, count, deadline }) => super::poll::restart(cx, fds, count, deadline),
        Some(RestartBlock::Futex { address, value, bits, op, deadline }) => {
            super::futex::wait_until(cx, address, value, bits, op, Some(deadline))
        }
    }
}
