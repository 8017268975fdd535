//! Signals: dispositions, masks, queues, and delivery into guest frames.

use std::sync::Arc;

use crate::SysResult;
use crate::call::Ctx;
use crate::task::{Process, Task};

/// Signals of one thread: pending queue, mask, alternate stack.
#[derive(Default)]
pub struct TaskSignals {}

/// Signals of one process: shared pending queue, dispositions (an `Arc` shared by `CLONE_SIGHAND`).
#[derive(Default)]
pub struct ProcessSignals {}

/// Interval timers and POSIX timers of one process. They do not survive `execve` (POSIX timers) nor `fork`.
#[derive(Default)]
pub struct ProcessTimers {}

impl TaskSignals {
    /// For a new thread or process made by `parent` with these `CLONE_*` flags: the mask is inherited,
    /// nothing is pending; the alternate stack goes unless the memory is copied or it is a vfork
    /// (`sas_ss_reset()` in kernel/fork.c for `CLONE_VM` without `CLONE_VFORK`).
    pub fn cloned(_parent: &TaskSignals, _flags: u64) -> TaskSignals {
        TaskSignals::default()
    }
}

impl ProcessSignals {
    /// For a new process with these `CLONE_*` flags: dispositions are shared (`CLONE_SIGHAND`), reset
    /// (`CLONE_CLEAR_SIGHAND`) or copied; nothing is pending.
    pub fn cloned(_parent: &ProcessSignals, _flags: u64) -> ProcessSignals {
        ProcessSignals::default()
    }
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
pub fn child_policy(_parent: &Process) -> ChildPolicy {
    ChildPolicy::default()
}

/// A signal that `task` would act upon is pending (not blocked, not ignored).
pub fn pending(_task: &Task) -> bool {
    false
}

/// Sends a signal made by the kernel itself, without sender (`SEND_SIG_PRIV`), to the process.
pub fn send_kernel(_process: &Arc<Process>, _signal: i32) {}

/// Tells `parent` that its child has ended, stopped or continued: `signal` (SIGCHLD or another exit signal)
/// with si_code `CLD_*`, pid, uid, status (exit code or signal), user and system time in clock ticks.
pub fn send_child(_parent: &Arc<Process>, _signal: i32, _info: ChildInfo) {}

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

/// Forces the signal of a processor exception upon the task (`force_sig_fault()`): a blocked or ignored one
/// is made deadly.
pub fn force_fault(task: &Task, fault: &coracle_platform::Fault) {
    task.process.begin_exit(fault.signal);
}

/// `execve`: handled signals go back to their default, dispositions are no longer shared, the alternate
/// stack goes, POSIX timers are deleted. Called by the task's own thread when it is the only one.
pub fn exec(_task: &Task) {}

/// The task is over: whatever of the group's signals it was to take is for others now
/// (`exit_signals()`, `retarget_shared_pending()`).
pub fn task_exits(_task: &Task) {}

/// The process is over: its timers go.
pub fn process_exits(_process: &Arc<Process>) {}

/// How guest code goes on after [`deliver`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// With this result of the call it stands in.
    Return(u64),
    /// With the registers as they were frozen and edited.
    Continue,
    /// The same call is carried out once more, with the same arguments: a restart without a handler.
    Restart,
    /// The call goes on as `restart_syscall(2)`.
    RestartBlock,
    /// The process's end has begun.
    Exit,
}

/// Acts upon everything pending, until the guest may run: default actions (`Process::begin_exit`,
/// `Process::begin_stop`), and at most one frame per signal on the guest's stack.
///
/// Called by the run loop whenever `Task::interrupted()`, after stops, with the guest at rest. `call` is the
/// result of the system call it stands in, possibly one of the `ERESTART*`; `None` if it stands elsewhere
/// (interrupted, faulted, registers set by `rt_sigreturn` or `execve`), when the registers are complete and
/// `cx.thread.freeze` ignores its argument.
pub fn deliver(cx: &mut Ctx<'_>, call: Option<SysResult>) -> Next {
    if cx.task.must_exit() {
        return Next::Exit;
    }
    match call {
        None => Next::Continue,
        Some(Ok(value)) => Next::Return(value),
        Some(Err(error)) if error.raw() >= 512 => Next::Restart,
        Some(Err(error)) => Next::Return(error.to_ret()),
    }
}
