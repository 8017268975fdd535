//! The run loop: one kernel thread serves one guest thread, from its first instruction to its end.
//!
//! Instants of one round, to which comments here refer:
//! 1. the guest runs ([`Thread::run`]) until it traps;
//! 2. the trap is carried out: a call by its handler, a fault by a signal;
//! 3. the result is settled: stops, deliveries and the end of the task come here, as on Linux's way back to
//!    user mode (`exit_to_user_mode_loop()`);
//! 4. the guest goes on.
//!
//! A notification ([`Task::notify`]) between 3 and 1 makes the `run` of the next round return at once
//! ([`Trap::Interrupted`]), so nothing is missed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use coracle_platform::{Death, MemoryCall, Resume, Thread, Trap};

use super::{Task, exit};
use crate::abi::linux::__NR_futex;
use crate::call::{After, Ctx};
use crate::shown::Name;
use crate::signal::{self, Next};
use crate::{Errno, SysResult, syscalls};

/// How the guest goes on at instant 4.
enum Go {
    Return(u64),
    Continue,
    Memory(Box<MemoryCall>),
    /// In this thread, which runs the new program of `execve`.
    Program(Box<dyn Thread>),
    /// Not at all.
    Exit,
}

/// Serves one guest thread to its end. `running`: the guest is at work already ([`Thread::start`]).
pub(crate) fn serve(task: Arc<Task>, mut thread: Box<dyn Thread>, running: bool) {
    task.waiter.bind();
    let outcome = catch_unwind(AssertUnwindSafe(|| rounds(&task, &mut thread, running)));
    if let Err(panic) = outcome {
        report_bug(&task, &*panic);
        task.process.begin_exit(crate::abi::linux::SIGKILL as i32);
    }
    // The end must come even if a file's clean-up fails.
    if catch_unwind(AssertUnwindSafe(|| exit::finish(&task, thread))).is_err() {
        log::error!("bug in Coracle: the end of process {} was not clean", task.pid());
    }
}

fn report_bug(task: &Task, panic: &(dyn std::any::Any + Send)) {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    task.world.stats.bugs.fetch_add(1, Ordering::Relaxed);
    log::error!("bug in Coracle: {text}; process {} is ended, please report this", task.pid());
}

/// One program after another. The context lasts as long as a program: making one for every call would cost as much
/// as the call.
fn rounds(task: &Arc<Task>, thread: &mut Box<dyn Thread>, mut running: bool) {
    loop {
        let running = std::mem::take(&mut running);
        if !running {
            task.publish();
            task.publish_answers();
        }
        let space = task.space();
        let mut cx = Ctx {
            task: task.clone(),
            thread: &mut **thread,
            space,
            number: 0,
            args: [0; 6],
            after: After::Return,
            read_from: None,
            noted: None,
        };
        // What was notified before the thread was first run, or during `execve`.
        let go = if !running && task.interrupted() { settle_only(&mut cx) } else { Go::Continue };
        match serve_program(&mut cx, go) {
            None => return,
            // The old thread retires; guest code of the new program has not run yet.
            Some(fresh) => std::mem::replace(thread, fresh).retire(),
        }
    }
}

/// Serves a program until the task is over, or until `execve` yields the thread of the next program.
fn serve_program(cx: &mut Ctx<'_>, mut go: Go) -> Option<Box<dyn Thread>> {
    loop {
        let trap = match go {
            Go::Return(value) => cx.thread.run(Resume::Return(value)),
            Go::Continue => cx.thread.run(Resume::Continue),
            Go::Memory(call) => {
                let trap = cx.thread.run(Resume::Memory(&call));
                cx.noted = None;
                trap
            }
            Go::Program(fresh) => return Some(fresh),
            Go::Exit => return None,
        };
        go = match trap {
            Trap::Syscall { number, args, lane } => {
                cx.task.last_lane.store(lane, Ordering::Relaxed);
                cx.number = number;
                cx.args = args;
                serve_call(cx)
            }
            Trap::Unwritten { number, args } => {
                cx.number = number;
                cx.args = args;
                let result = if syscalls::rw::read_again(cx) { dispatch(cx) } else { Err(Errno::EFAULT) };
                conclude(cx, result)
            }
            Trap::Fault(fault) => {
                signal::force_fault(&cx.task, &fault);
                settle_only(cx)
            }
            Trap::Interrupted { call } => interrupted(cx, call),
            Trap::Died(death) => {
                died(&cx.task, death);
                return None;
            }
        };
    }
}

/// Instant 3 alone, for a thread that stands in no call.
fn settle_only(cx: &mut Ctx<'_>) -> Go {
    (cx.number, cx.args) = (0, [0; 6]);
    settle(cx, None, &mut |_| (None, Go::Continue))
}

/// Instants 2 and 3 for a system call.
fn serve_call(cx: &mut Ctx<'_>) -> Go {
    let result = dispatch(cx);
    conclude(cx, result)
}

fn conclude(cx: &mut Ctx<'_>, result: SysResult) -> Go {
    // The common case: nothing pending, nothing special.
    if matches!(cx.after, After::Return) && is_final(Some(result)) && !cx.task.interrupted() {
        return Go::Return(result.unwrap_or_else(Errno::to_ret));
    }
    match carry_out(cx, result) {
        (_, go) if go.is_last() => go,
        (result, go) if is_final(result) && !cx.task.interrupted() => go,
        (result, _) => settle(cx, result, &mut |cx| {
            let result = dispatch(cx);
            carry_out(cx, result)
        }),
    }
}

impl Go {
    /// This thread runs no more; what is pending is for the new program's, if there is one.
    fn is_last(&self) -> bool {
        matches!(self, Go::Exit | Go::Program(_))
    }
}

/// A result that the guest may see as it is: none of the `ERESTART*`.
fn is_final(result: Option<SysResult>) -> bool {
    !matches!(result, Some(Err(error)) if error.raw() >= Errno::ERESTARTSYS.raw())
}

/// Calls the handler, or says `ENOSYS` and logs it once.
fn dispatch(cx: &mut Ctx<'_>) -> SysResult {
    let index = usize::try_from(cx.number).unwrap_or(usize::MAX);
    // The task's own count is this thread's alone; the world's would be fought over by all.
    if let Some(count) = cx.task.calls.get(index) {
        count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
    let tracer = cx.task.world.tracer().cloned();
    let before = tracer.as_ref().map(|tracer| tracer.enter(cx));
    let result = match syscalls::find(cx.number) {
        Some(call) => match (call.handler)(cx) {
            // Files that are mapped no more may take the room.
            Err(Errno::ENOSPC) if cx.task.world.reclaim() => (call.handler)(cx),
            Err(Errno::ESTALE) => crate::fs::anew(|| (call.handler)(cx)),
            result => result,
        },
        None => unknown(cx),
    };
    if let (Some(tracer), Some(before)) = (tracer, before) {
        tracer.leave(cx, before, &result);
    }
    result
}

fn unknown(cx: &Ctx<'_>) -> SysResult {
    let seen = usize::try_from(cx.number).ok().and_then(|index| cx.task.world.stats.unknown.get(index));
    if seen.is_none_or(|seen| !seen.swap(true, Ordering::Relaxed)) {
        log::info!("system call {} is not known ({})", cx.number, Name(&cx.task.comm()));
    }
    Err(Errno::ENOSYS)
}

/// What the handler's `after` means. Yields the call's result where the guest still stands in the call.
fn carry_out(cx: &mut Ctx<'_>, result: SysResult) -> (Option<SysResult>, Go) {
    match (std::mem::replace(&mut cx.after, After::Return), result) {
        (After::Exit, _) => (None, Go::Exit),
        (_, Err(error)) => (Some(Err(error)), Go::Return(error.to_ret())),
        (After::Return, Ok(value)) => (Some(Ok(value)), Go::Return(value)),
        (After::Continue, Ok(_)) => (None, Go::Continue),
        (After::Exec(fresh), Ok(_)) => (None, Go::Program(fresh.thread)),
        (After::Memory(call), Ok(_)) if cx.task.interrupted() => match cx.thread.memory(&call) {
            Ok(result) => {
                cx.noted = None;
                (Some(result), Go::Return(result.unwrap_or_else(Errno::to_ret)))
            }
            // The next run says how it died.
            Err(_) => (None, Go::Continue),
        },
        (After::Memory(call), Ok(_)) => (None, Go::Memory(Box::new(call))),
    }
}

type Attempt<'f> = dyn FnMut(&mut Ctx<'_>) -> (Option<SysResult>, Go) + 'f;

/// Instant 3. `again` carries the call out once more, for a restart without a handler: the guest has not moved,
/// so it need not be sent back to the instruction.
fn settle(cx: &mut Ctx<'_>, mut call: Option<SysResult>, again: &mut Attempt<'_>) -> Go {
    loop {
        stop_point(&cx.task);
        let next = if cx.task.must_exit() { Next::Exit } else { signal::deliver(cx, call) };
        if cx.task.must_exit() {
            *cx.task.left_call.lock() = call.map(|result| (cx.number, result));
            return Go::Exit;
        }
        if cx.task.stopping() {
            // The delivery began a stop. A frame that was built stays; the call's result was used up by it.
            match next {
                Next::Continue => call = None,
                Next::Return(value) => call = Some(Ok(value)),
                Next::Restart | Next::RestartBlock | Next::Exit => {}
            }
            continue;
        }
        match next {
            Next::Return(value) => return Go::Return(value),
            Next::Continue => return Go::Continue,
            Next::Exit => return Go::Exit,
            Next::RestartBlock => {
                cx.number = u64::from(crate::abi::linux::__NR_restart_syscall);
            }
            Next::Restart => {}
        }
        match again(cx) {
            (_, go) if go.is_last() => return go,
            (result, go) if is_final(result) && !cx.task.interrupted() => return go,
            (result, _) => call = result,
        }
    }
}

/// A thread that was interrupted in guest code, or in a call that the platform executes itself: that one is
/// restarted at its instruction, or says `EINTR`, by the rules of `ERESTARTSYS`. How much is left of a time that a
/// futex wait was given nobody knows, so that wait ends for no reason, as it may (futex(2)), and the caller looks.
fn interrupted(cx: &mut Ctx<'_>, call: Option<u64>) -> Go {
    (cx.number, cx.args) = (call.unwrap_or(0), [0; 6]);
    let mut restart = |cx: &mut Ctx<'_>| {
        if let Ok(regs) = cx.thread.freeze(0)
            && let Some(number) = call
        {
            if number == u64::from(__NR_futex) && syscalls::futex::waits_relatively(regs) {
                regs.rax = 0;
                return (None, Go::Continue);
            }
            regs.rip = regs.rip.wrapping_sub(2);
            regs.rax = number;
        }
        (None, Go::Continue)
    };
    settle(cx, call.map(|_| Err(Errno::ERESTARTSYS)), &mut restart)
}

/// Waits while the process is stopped (`do_signal_stop()`): the last thread to stop tells the parent.
fn stop_point(task: &Arc<Task>) {
    if !task.stopping() || task.must_exit() {
        return;
    }
    super::stop::stopped(task);
}

/// Says once per process what its worker did, and no more often than a reader bears: a hostile program can do it as often
/// as it likes.
fn report_lie(task: &Task, what: std::fmt::Arguments<'_>) {
    const SHOWN: u64 = 10;
    if task.process.exiting() {
        return;
    }
    match task.world.stats.lies.fetch_add(1, Ordering::Relaxed) {
        0..SHOWN => log::warn!("the worker of process {} {what}; it was ended", task.pid()),
        SHOWN => log::warn!("more workers broke the protocol; they are not reported any more"),
        _ => {}
    }
}

/// The worker is gone. What was asked for by us has its status already; else the signal is the guest's fault or
/// the host's.
fn died(task: &Arc<Task>, death: Death) {
    let signal = match death {
        Death::Killed => crate::abi::linux::SIGKILL as i32,
        Death::Signal(signal) => signal,
        Death::Exited(status) => {
            report_lie(task, format_args!("exited by itself with status {status}"));
            crate::abi::linux::SIGKILL as i32
        }
        Death::Lied(what) => {
            report_lie(task, format_args!("broke the protocol: {what}"));
            crate::abi::linux::SIGKILL as i32
        }
    };
    if matches!(death, Death::Signal(_)) && signal == crate::abi::linux::SIGKILL as i32 {
        task.world.blame_memory(&task.process);
    }
    task.worker_gone();
    task.process.begin_exit(signal & 0x7f);
}
