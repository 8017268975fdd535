//! Sending signals, and how a signal finds the thread that takes it (kernel/signal.c).
//!
//! Nothing here locks the tree: the ends of processes are told with it locked.

use std::sync::Arc;

use coracle_platform::Fault;

use super::state::{retarget, set_blocked};
use super::{
    Budget, DefaultAction, Pending, SA_NOCLDSTOP, SA_NOCLDWAIT, SIG_DFL, SIG_IGN, SigInfo, SigSet, Signal,
};
use crate::abi::linux::RLIMIT_SIGPENDING;
use crate::abi::types::Sigaction;
use crate::task::{Process, Task};
use crate::{Errno, Result};

/// Sends to the process as a whole; some thread that does not block the signal takes it.
pub fn send_to_process(process: &Arc<Process>, signal: Signal, info: SigInfo) -> Result<()> {
    send_with(process, None, signal, |pending, budget, limit| pending.push(signal, info, budget, limit))
        .map(|_| ())
}

/// Sends to this very thread.
pub fn send_to_task(task: &Arc<Task>, signal: Signal, info: SigInfo) -> Result<()> {
    let enqueue = |pending: &mut Pending, budget: &Budget, limit: u64| pending.push(signal, info, budget, limit);
    send_with(&task.process, Some(task), signal, enqueue).map(|_| ())
}

/// Sends to every member of a process group, as a terminal does. The tree must not be locked.
pub fn send_to_group(world: &crate::world::World, pgid: u32, signal: Signal, info: SigInfo) {
    for member in world.group(pgid) {
        let _ = send_to_process(&member, signal, info);
    }
}

/// Sends a signal made by the kernel itself, without sender (`SEND_SIG_PRIV`), to the process.
pub fn send_kernel(process: &Arc<Process>, signal: i32) {
    if let Ok(signal) = Signal::new(signal) {
        let _ = send_to_process(process, signal, SigInfo::kernel(signal));
    }
}

/// Likewise to a thread, as `send_sig(sig, current, 0)` does for `SIGPIPE` and `SIGXFSZ`: it looks as if the
/// thread had sent it itself.
pub fn send_self(task: &Arc<Task>, signal: Signal) {
    let _ = send_to_task(task, signal, SigInfo::user(signal, task.pid(), task.cred().uid));
}

/// The contents of a `siginfo` for SIGCHLD.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChildInfo {
    /// `CLD_EXITED`, `CLD_KILLED`, `CLD_DUMPED`, `CLD_STOPPED`, `CLD_CONTINUED`.
    pub code: i32,
    pub pid: u32,
    pub uid: u32,
    pub status: i32,
    /// Clock ticks of 10 ms.
    pub utime: i64,
    pub stime: i64,
}

/// Tells `parent` that its child has ended, stopped or continued: `signal` (SIGCHLD or another exit signal)
/// with si_code `CLD_*`, pid, uid, status (exit code or signal), user and system time in clock ticks.
pub fn send_child(parent: &Arc<Process>, signal: i32, child: ChildInfo) {
    let Ok(signal) = Signal::new(signal) else { return };
    let ChildInfo { code, pid, uid, status, utime, stime } = child;
    let info = SigInfo::child(signal, code, pid, uid, status, utime, stime);
    let _ = send_to_process(parent, signal, info);
}

/// How a child's end is told, and what becomes of the zombie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChildPolicy {
    /// SIGCHLD is ignored: nobody will wait, and no signal is sent.
    pub ignored: bool,
    /// `SA_NOCLDWAIT` (or ignored): children leave no zombies.
    pub no_zombies: bool,
    /// `SA_NOCLDSTOP`: stops and continuations of children are not told.
    pub no_stops: bool,
}

/// The disposition of SIGCHLD in `parent`.
pub fn child_policy(parent: &Process) -> ChildPolicy {
    let action = parent.signals.dispositions().get(Signal::SIGCHLD);
    let ignored = action.handler == SIG_IGN;
    ChildPolicy {
        ignored,
        no_zombies: ignored || action.flags & SA_NOCLDWAIT != 0,
        no_stops: action.flags & SA_NOCLDSTOP != 0,
    }
}

/// Forces the signal of a processor exception upon the task (`force_sig_fault()`): a blocked or ignored one
/// is made deadly.
pub fn force_fault(task: &Arc<Task>, fault: &Fault) {
    let Ok(signal) = Signal::new(fault.signal) else {
        task.process.begin_exit(fault.signal & 0x7f);
        return;
    };
    {
        let mut own = task.signals.own();
        own.fault = Some(*fault);
        // X86_TRAP_PF
        if fault.trap_number == 14 {
            own.cr2 = fault.address;
        }
    }
    force(task, SigInfo::fault(signal, fault.code, fault.address), false);
}

/// `force_sig_info_to_task()`: a handler is reset if the signal is blocked or ignored, or with `fatal` anyway.
pub(super) fn force(task: &Arc<Task>, info: SigInfo, fatal: bool) {
    let Ok(signal) = Signal::new(info.signo) else { return };
    let dispositions = task.process.signals.dispositions();
    let blocked = task.signals.blocked();
    if fatal || blocked.has(signal) || dispositions.get(signal).handler == SIG_IGN {
        dispositions.set(signal, Sigaction { handler: SIG_DFL, ..dispositions.get(signal) });
        set_blocked(task, blocked.minus(SigSet::one(signal)));
    }
    let signals = &task.process.signals;
    let _shared = signals.shared();
    let mut own = task.signals.own();
    // Past the limit too: the story of a fault must not get lost.
    let _ = own.pending.push(signal, info, &signals.budget, u64::MAX);
    task.signals.publish(&own);
}

/// `execve`: handled signals go back to their default, dispositions are no longer shared, the alternate
/// stack goes, POSIX timers are deleted. Called by the task's own thread when it is the only one.
pub fn exec(task: &Arc<Task>) {
    task.process.signals.reset_dispositions();
    let mut own = task.signals.own();
    own.altstack = super::AltStack { flags: own.altstack.flags, ..super::AltStack::default() };
    own.restart = None;
    drop(own);
    crate::time::posix::delete_all(&task.process);
}

/// The task is over: whatever of the group's signals it was to take is for others now
/// (`exit_signals()`, `retarget_shared_pending()`).
pub fn task_exits(task: &Task) {
    let orphans = {
        let shared = task.process.signals.shared();
        let mut own = task.signals.own();
        own.exiting = true;
        own.pending.flush(SigSet::ALL);
        task.signals.publish(&own);
        shared.set().minus(task.signals.blocked())
    };
    retarget(task, orphans);
    crate::futex::pi::owner_gone(&task.world);
}

/// The process is over: its timers go.
pub fn process_exits(process: &Arc<Process>) {
    crate::time::posix::delete_all(process);
    crate::time::itimer::disarm_all(process);
}

/// The one way in, for process and thread signals alike (`__send_signal_locked()`). `enqueue` puts the signal
/// into the queue chosen. `false`: it was ignored.
pub(crate) fn send_with(
    process: &Arc<Process>,
    target: Option<&Arc<Task>>,
    signal: Signal,
    enqueue: impl FnOnce(&mut Pending, &Budget, u64) -> Result<()>,
) -> Result<bool> {
    if process.is_init() || (process.exiting() && signal != Signal::SIGKILL) {
        return Ok(false);
    }
    let threads = process.tasks();
    let sent = enter(process, target, signal, &threads, enqueue);
    if signal == Signal::SIGCONT {
        process.resume();
    }
    if !sent? {
        return Ok(false);
    }
    wake_taker(process, target, signal, &threads);
    process.signals.arrived.wake_all();
    Ok(true)
}

/// Puts the signal into its queue, unless it is ignored.
fn enter(
    process: &Arc<Process>,
    target: Option<&Arc<Task>>,
    signal: Signal,
    threads: &[Arc<Task>],
    enqueue: impl FnOnce(&mut Pending, &Budget, u64) -> Result<()>,
) -> Result<bool> {
    let signals = &process.signals;
    let limit = process.rlimits.lock().get(RLIMIT_SIGPENDING as usize).map_or(u64::MAX, |limit| limit.cur);
    let mut shared = signals.shared();
    // prepare_signal(): stop signals and SIGCONT undo each other at once, whatever is blocked.
    let undone = match signal {
        Signal::SIGCONT => SigSet::STOP,
        _ if SigSet::STOP.has(signal) => SigSet::one(Signal::SIGCONT),
        _ => SigSet::EMPTY,
    };
    if !undone.is_empty()
        && let Some(any) = threads.first()
    {
        super::state::flush(any, threads, &mut shared, undone);
    }
    if is_ignored(process, target, signal, threads) {
        return Ok(false);
    }
    match target {
        Some(task) => {
            let mut own = task.signals.own();
            enqueue(&mut own.pending, &signals.budget, limit)?;
            task.signals.publish(&own);
        }
        None => {
            enqueue(&mut shared, &signals.budget, limit)?;
            signals.publish(&shared);
        }
    }
    Ok(true)
}

/// `sig_ignored()`: a blocked signal is never ignored, its disposition may change before it is unblocked.
fn is_ignored(process: &Process, target: Option<&Arc<Task>>, signal: Signal, threads: &[Arc<Task>]) -> bool {
    let asked = target.or(threads.first());
    let blocked =
        asked.is_some_and(|task| task.signals.blocked().has(signal) || task.signals.own().awaited.has(signal));
    !blocked && process.signals.dispositions().ignores(signal)
}

/// `complete_signal()`: finds a thread to take it and wakes it; a deadly one begins the exit at once.
fn wake_taker(process: &Arc<Process>, target: Option<&Arc<Task>>, signal: Signal, threads: &[Arc<Task>]) {
    // A stopped process takes nothing but SIGKILL until it goes on.
    let deaf = signal != Signal::SIGKILL && process.group().stop.is_some();
    let wants = |task: &&Arc<Task>| !deaf && task.signals.wants(signal);
    let chosen = match target {
        Some(task) => Some(task).filter(wants),
        None => threads.iter().find(wants),
    };
    let Some(chosen) = chosen else {
        // A thread that was born since the list was made sees the signal before it first runs; see to it that
        // one which looked just before does too.
        if !deaf && target.is_none() {
            let new = process.tasks().into_iter().find(|task| task.signals.wants(signal));
            if let Some(task) = new {
                task.signals.choose();
                task.notify();
            }
        }
        return;
    };
    let awaited = chosen.signals.own().awaited.has(signal);
    let handler = process.signals.dispositions().get(signal).handler;
    // Dumping core is the taker's own business.
    if !awaited && handler == SIG_DFL && signal.default_action() == DefaultAction::Terminate {
        process.begin_exit(signal.number());
    }
    if target.is_none() {
        chosen.signals.choose();
    }
    chosen.notify();
}

/// `check_kill_permission()`: may `task` send `signal` (`None`: probe) to `target`?
pub fn check_permission(task: &Task, target: &Process, signal: Option<Signal>) -> Result<()> {
    if Arc::ptr_eq(&task.process.world, &target.world) && task.process.pid == target.pid {
        return Ok(());
    }
    let own = task.cred();
    let allowed = match target.any_task() {
        Some(other) => own.may_signal(&other.cred()),
        // A zombie, or the kernel's init: judged by its last real user.
        None => own.capable(crate::task::Caps::KILL) || [own.uid, own.euid].contains(&target.last_uid()),
    };
    if allowed || (signal == Some(Signal::SIGCONT) && task.process.sid() == target.sid()) {
        Ok(())
    } else {
        Err(Errno::EPERM)
    }
}
