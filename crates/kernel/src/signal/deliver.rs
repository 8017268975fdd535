//! The way back to the guest: what is pending is acted upon (`get_signal()` in kernel/signal.c and
//! `arch_do_signal_or_restart()` in arch/x86/kernel/signal.c).

use std::sync::Arc;

use super::send::force;
use super::state::{set_blocked, take};
use super::{
    DefaultAction, SA_NODEFER, SA_RESETHAND, SA_RESTART, SIG_DFL, SIG_IGN, SigInfo, SigSet, Signal, frame,
};
use crate::abi::linux::{__NR_futex, FUTEX_CMD_MASK, FUTEX_WAIT, FUTEX_WAIT_BITSET};
use crate::abi::types::Sigaction;
use crate::call::Ctx;
use crate::task::exit::is_group_orphaned;
use crate::task::{Task, coredump};
use crate::{Errno, SysResult};

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

/// What a signal that was taken leads to.
enum Act {
    /// A handler is to run.
    Handle(Signal, SigInfo, Sigaction),
    /// The process ends, with a core.
    Core(SigInfo),
    /// A stop or the end has begun.
    Halt,
    Nothing,
}

/// Acts upon everything pending, until the guest may run: default actions (`Process::begin_exit`,
/// `Process::begin_stop`), and at most one frame per signal on the guest's stack.
///
/// Called by the run loop whenever `Task::interrupted()`, after stops, with the guest at rest. `call` is the
/// result of the system call it stands in, possibly one of the `ERESTART*`; `None` if it stands elsewhere
/// (interrupted, faulted, registers set by `rt_sigreturn` or `execve`), when the registers are complete and
/// `cx.thread.freeze` ignores its argument.
pub fn deliver(cx: &mut Ctx<'_>, call: Option<SysResult>) -> Next {
    let task = cx.task.clone();
    let mut standing = call;
    let mut framed = false;
    loop {
        if task.must_exit() {
            return Next::Exit;
        }
        match take_next(&task) {
            None => break,
            Some(Act::Nothing) => {}
            // The run loop stops or ends the task; after a stop it comes back with what is left of the call.
            Some(Act::Core(info)) => {
                coredump::dump(cx, &info, standing);
                return Next::Exit;
            }
            Some(Act::Halt) if task.must_exit() => return Next::Exit,
            Some(Act::Halt) => return if framed { Next::Continue } else { unhandled(standing) },
            Some(Act::Handle(signal, info, action)) => {
                if handle(cx, signal, info, action, standing).is_err() {
                    return Next::Exit;
                }
                // Later frames are built on top of this one; the call is dealt with.
                standing = None;
                framed = true;
            }
        }
    }
    if !framed {
        super::restore_mask_unless(&task, false);
    }
    if framed { Next::Continue } else { unhandled(standing) }
}

/// No handler ran (the end of `arch_do_signal_or_restart()`).
fn unhandled(call: Option<SysResult>) -> Next {
    match call {
        None => Next::Continue,
        Some(Ok(value)) => Next::Return(value),
        Some(Err(Errno::ERESTART_RESTARTBLOCK)) => Next::RestartBlock,
        Some(Err(Errno::ERESTARTSYS | Errno::ERESTARTNOINTR | Errno::ERESTARTNOHAND)) => Next::Restart,
        Some(Err(error)) => Next::Return(error.to_ret()),
    }
}

/// Takes one signal and decides (`get_signal()`).
fn take_next(task: &Arc<Task>) -> Option<Act> {
    let (signal, info) = take(task, SigSet::ALL.minus(task.signals.blocked()))?;
    let dispositions = task.process.signals.dispositions();
    let action = dispositions.get(signal);
    Some(match action.handler {
        SIG_IGN => Act::Nothing,
        SIG_DFL => default_action(task, signal, info),
        _ => {
            if action.flags & SA_RESETHAND != 0 {
                dispositions.set(signal, Sigaction { handler: SIG_DFL, ..action });
            }
            Act::Handle(signal, info, action)
        }
    })
}

fn default_action(task: &Arc<Task>, signal: Signal, info: SigInfo) -> Act {
    match signal.default_action() {
        DefaultAction::Ignore | DefaultAction::Continue => Act::Nothing,
        DefaultAction::Stop => {
            // Nobody could continue an orphaned group; SIGSTOP stops all the same.
            if signal != Signal::SIGSTOP && is_group_orphaned(&task.world, &task.process) {
                return Act::Nothing;
            }
            task.process.begin_stop(signal.number());
            Act::Halt
        }
        DefaultAction::Terminate => {
            task.process.begin_exit(signal.number());
            Act::Halt
        }
        DefaultAction::Core => Act::Core(info),
    }
}

/// Brings the guest to the start of its handler (`handle_signal()`). A frame that cannot be built becomes
/// SIGSEGV, which the loop then takes. An error: the worker is gone.
fn handle(
    cx: &mut Ctx<'_>,
    signal: Signal,
    info: SigInfo,
    action: Sigaction,
    call: Option<SysResult>,
) -> Result<(), coracle_platform::Gone> {
    let task = cx.task.clone();
    finish_call(cx, action, call)?;
    let plan = {
        let own = task.signals.own();
        let mask = own.saved.unwrap_or(task.signals.blocked());
        frame::Plan { signal, info, action, mask, altstack: own.altstack, fault: own.fault, cr2: own.cr2 }
    };
    let altstack = plan.altstack;
    let space = cx.space.clone();
    let regs = cx.thread.freeze(0)?;
    match frame::build(&*space, regs, &plan) {
        Ok(()) => {
            let mut own = task.signals.own();
            own.saved = None;
            own.restart = None;
            if altstack.flags & frame::SS_AUTODISARM != 0 {
                own.altstack = super::AltStack::RESET;
            }
            drop(own);
            let mut blocked = task.signals.blocked().union(SigSet(action.mask));
            if action.flags & SA_NODEFER == 0 {
                blocked = blocked.with(signal);
            }
            set_blocked(&task, blocked);
        }
        // force_sigsegv(): a SIGSEGV handler that cannot be entered is given up.
        Err(_) => {
            force(&task, SigInfo::kernel(Signal::SIGSEGV), signal == Signal::SIGSEGV);
        }
    }
    Ok(())
}

/// Ends the call that the guest stands in, before a handler runs: with its result, with `EINTR`, or set back to
/// the instruction (`handle_signal()`, "Are we from a system call?").
fn finish_call(
    cx: &mut Ctx<'_>,
    action: Sigaction,
    call: Option<SysResult>,
) -> Result<(), coracle_platform::Gone> {
    let Some(result) = call else { return Ok(()) };
    let restartable = action.flags & SA_RESTART != 0;
    let (value, mut restart) = match result {
        Ok(value) => (value, false),
        Err(Errno::ERESTARTNOINTR) => (0, true),
        Err(Errno::ERESTARTSYS) => (Errno::EINTR.to_ret(), restartable),
        Err(Errno::ERESTARTNOHAND | Errno::ERESTART_RESTARTBLOCK) => (Errno::EINTR.to_ret(), false),
        Err(error) => (error.to_ret(), false),
    };
    let number = cx.number;
    let regs = cx.thread.freeze(value)?;
    // The handler of the call may have looked at the registers before.
    regs.rax = value;
    // The platform's own futex waits come without arguments: with a timeout they are not restarted.
    if restart && number == u64::from(__NR_futex) && result == Err(Errno::ERESTARTSYS) {
        let op = regs.rsi & u64::from(FUTEX_CMD_MASK as u32);
        let waits = op == u64::from(FUTEX_WAIT) || op == u64::from(FUTEX_WAIT_BITSET);
        restart = !(waits && regs.r10 != 0);
    }
    if restart {
        regs.rax = number;
        regs.rip = regs.rip.wrapping_sub(2);
    }
    Ok(())
}
