//! Signals: dispositions, masks, queues, and delivery into guest frames.
//!
//! [`send`] puts a signal into a queue ([`pending`]) and finds the thread to take it; [`deliver`] runs on that
//! thread's way back to the guest and builds the handler's frame ([`frame`], [`xstate`]).

mod actions;
mod deliver;
pub(crate) mod frame;
pub mod info;
mod pending;
mod send;
mod set;
mod signalfd;
mod state;
#[cfg(test)]
mod tests;
mod xstate;

pub use actions::{
    Dispositions, SA_KNOWN, SA_NOCLDSTOP, SA_NOCLDWAIT, SA_NODEFER, SA_ONSTACK, SA_RESETHAND, SA_RESTART,
    SA_RESTORER, SA_SIGINFO, SIG_DFL, SIG_IGN,
};
pub use deliver::{Next, deliver};
pub use info::SigInfo;
pub use pending::{Budget, Charge, Pending};
pub(crate) use send::send_with;
pub use send::{
    ChildInfo, ChildPolicy, check_permission, child_policy, exec, force_fault, process_exits, send_child,
    send_kernel, send_self, send_to_group, send_to_process, send_to_task, task_exits,
};
pub use set::{DefaultAction, NSIG, SIGSET_SIZE, SigSet, Signal};
pub use signalfd::SignalFd;
pub use state::{
    AltStack, ProcessSignals, SS_DISABLE, TaskSignals, pending, pending_for, restore_mask_unless, set_action,
    set_blocked, set_temporary_mask,
};
pub(crate) use state::{await_signals, forget_timer, resumed, take};

pub use crate::time::ProcessTimers;
use crate::{Errno, Result};
pub use xstate::core_xstate;

/// How a call goes on through `restart_syscall(2)` after it was interrupted and no handler ran
/// (`struct restart_block`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartBlock {
    /// `nanosleep` and relative `clock_nanosleep`: clock, deadline of that clock in ns, where the rest goes.
    Sleep { clock: i32, deadline: i64, remaining: u64 },
    /// `poll(fds, count, timeout)` with its deadline.
    Poll { fds: u64, count: u32, deadline: crate::wait::Deadline },
    /// `futex(FUTEX_WAIT)`: word, value, bit set, operation, deadline in ns of the clock that `op` names.
    Futex { address: u64, value: u32, bits: u32, op: u32, deadline: i64 },
}

/// For calls that take a `sigsetsize`: `EINVAL` unless it is 8.
pub fn check_sigset_size(size: usize) -> Result<()> {
    if size == SIGSET_SIZE { Ok(()) } else { Err(Errno::EINVAL) }
}

/// `rt_sigreturn(2)`: the registers, the mask and the alternate stack come from the frame. A bad frame is SIGSEGV.
pub(crate) fn sigreturn(cx: &mut crate::call::Ctx<'_>) -> Result<()> {
    let task = cx.task.clone();
    let space = cx.space.clone();
    let regs = cx.thread.freeze(0).map_err(|_| Errno::EFAULT)?;
    match frame::restore(&*space, regs) {
        Ok(restored) => {
            let sp = regs.rsp;
            set_blocked(&task, restored.mask);
            // restore_altstack() says nothing of what it does not like.
            let _ = change_altstack(&task, sp, &restored.altstack);
        }
        Err(_) => send::force(&task, SigInfo::kernel(Signal::SIGSEGV), false),
    }
    Ok(())
}

/// `do_sigaltstack()` with a new stack; the stack pointer decides whether the old one is in use.
pub(crate) fn change_altstack(
    task: &crate::task::Task,
    sp: u64,
    new: &crate::abi::types::SigAltStack,
) -> Result<()> {
    let mut own = task.signals.own();
    if own.altstack.is_active(sp) {
        return Err(Errno::EPERM);
    }
    let mode = new.flags & !frame::SS_AUTODISARM;
    if mode != SS_DISABLE && mode != frame::SS_ONSTACK && mode != 0 {
        return Err(Errno::EINVAL);
    }
    let (stack, size) = if mode == SS_DISABLE { (0, 0) } else { (new.sp, new.size) };
    // MINSIGSTKSZ.
    if mode != SS_DISABLE && size < 2048 {
        return Err(Errno::ENOMEM);
    }
    own.altstack = AltStack { sp: stack, size, flags: new.flags };
    Ok(())
}
