//! Sending and delivery, by calls on the mock platform.

use super::{Next, SA_RESTART, SA_RESTORER, SA_SIGINFO, SIG_IGN, SigSet, Signal};
use crate::abi::linux::{
    __NR_kill, __NR_rt_sigaction, __NR_rt_sigpending, __NR_rt_sigprocmask, __NR_rt_sigqueueinfo,
    __NR_rt_sigreturn, __NR_rt_sigtimedwait, __NR_sigaltstack, __NR_tgkill, SIG_BLOCK, SIG_SETMASK,
};
use crate::abi::types::{SigAltStack, Sigaction, Timespec};
use crate::signal::SigInfo;
use crate::task::testing::{Guest, MEMORY};
use crate::{Errno, SysResult};

const HANDLER: u64 = 0x40_0000;
const READ: u64 = 0;

fn act(guest: &mut Guest, signal: i32, handler: u64, flags: u64) -> SysResult {
    guest.put(MEMORY, &Sigaction { handler, flags: flags | SA_RESTORER, restorer: 0x41_0000, mask: 0 });
    guest.call(__NR_rt_sigaction.into(), &[signal as u64, MEMORY, 0, 8])
}

fn kill(guest: &mut Guest, signal: i32) {
    let pid = u64::from(guest.task.pid());
    guest.call(__NR_kill.into(), &[pid, signal as u64]).unwrap();
}

fn mask(guest: &mut Guest, how: u32, set: SigSet) {
    guest.put(MEMORY, &set.0);
    guest.call(__NR_rt_sigprocmask.into(), &[how.into(), MEMORY, 0, 8]).unwrap();
}

/// A guest in the middle of a program.
fn guest() -> Guest {
    let mut guest = Guest::new();
    let regs = guest.regs();
    (regs.rip, regs.rsp, regs.rbx) = (0x1234, MEMORY + 0x8_0000, 77);
    guest
}

#[test]
fn a_handler_runs_and_returns() {
    let mut guest = guest();
    act(&mut guest, 10, HANDLER, SA_SIGINFO).unwrap();
    kill(&mut guest, 10);
    assert!(guest.task.interrupted());
    assert_eq!(guest.deliver(READ, Some(Ok(5))), Next::Continue);
    assert!(guest.task.signals.blocked().has(Signal::SIGUSR1));
    let info = guest.regs().rsi;
    assert_eq!(guest.get::<SigInfo>(info).pid(), guest.task.pid());
    let regs = guest.regs();
    assert_eq!((regs.rip, regs.rdi), (HANDLER, 10));
    regs.rsp += 8;
    regs.rbx = 0;
    guest.call(__NR_rt_sigreturn.into(), &[]).unwrap();
    let regs = guest.regs();
    assert_eq!((regs.rip, regs.rax, regs.rbx, regs.rsp), (0x1234, 5, 77, MEMORY + 0x8_0000));
    assert_eq!(guest.task.signals.blocked(), SigSet::EMPTY);
}

#[test]
fn interrupted_calls_restart_by_the_rules() {
    let again = (0x1234 - 2, READ);
    let fails = (0x1234, Errno::EINTR.to_ret());
    for (error, flags, expected) in [
        (Errno::ERESTARTSYS, SA_RESTART, again),
        (Errno::ERESTARTSYS, 0, fails),
        (Errno::ERESTARTNOINTR, 0, again),
        (Errno::ERESTARTNOHAND, SA_RESTART, fails),
        (Errno::ERESTART_RESTARTBLOCK, SA_RESTART, fails),
        (Errno::EIO, SA_RESTART, (0x1234, Errno::EIO.to_ret())),
    ] {
        let mut guest = guest();
        act(&mut guest, 10, HANDLER, flags).unwrap();
        kill(&mut guest, 10);
        assert_eq!(guest.deliver(READ, Some(Err(error))), Next::Continue);
        guest.regs().rsp += 8;
        guest.call(__NR_rt_sigreturn.into(), &[]).unwrap();
        let regs = guest.regs();
        assert_eq!((regs.rip, regs.rax), expected, "{error} {flags:#x}");
    }
}

#[test]
fn without_a_handler_calls_go_on() {
    let mut guest = guest();
    assert_eq!(guest.deliver(READ, Some(Err(Errno::ERESTARTSYS))), Next::Restart);
    assert_eq!(guest.deliver(READ, Some(Err(Errno::ERESTART_RESTARTBLOCK))), Next::RestartBlock);
    assert_eq!(guest.deliver(READ, Some(Ok(3))), Next::Return(3));
    assert_eq!(guest.deliver(READ, None), Next::Continue);
}

#[test]
fn several_signals_are_delivered_at_once() {
    let mut guest = guest();
    act(&mut guest, 10, HANDLER, 0).unwrap();
    act(&mut guest, 12, HANDLER + 1, 0).unwrap();
    kill(&mut guest, 10);
    kill(&mut guest, 12);
    assert_eq!(guest.deliver(READ, Some(Ok(0))), Next::Continue);
    // The last frame built runs first and returns into the other handler.
    assert_eq!(guest.regs().rip, HANDLER + 1);
    guest.regs().rsp += 8;
    guest.call(__NR_rt_sigreturn.into(), &[]).unwrap();
    assert_eq!(guest.regs().rip, HANDLER);
}

#[test]
fn ignored_signals_are_forgotten_unless_blocked() {
    let mut guest = guest();
    act(&mut guest, 10, SIG_IGN, 0).unwrap();
    kill(&mut guest, 10);
    kill(&mut guest, 17);
    assert!(!guest.task.interrupted());
    mask(&mut guest, SIG_BLOCK, SigSet::of(&[Signal::SIGUSR1, Signal::SIGKILL]));
    kill(&mut guest, 10);
    guest.call(__NR_rt_sigpending.into(), &[MEMORY, 8]).unwrap();
    assert_eq!(guest.get::<u64>(MEMORY), SigSet::one(Signal::SIGUSR1).0);
    assert_eq!(guest.task.signals.blocked(), SigSet::one(Signal::SIGUSR1));
    // Ignoring it once more forgets it.
    act(&mut guest, 10, SIG_IGN, 0).unwrap();
    assert!(guest.task.process.signals.pending_set().is_empty());
}

#[test]
fn default_actions_end_and_stop() {
    let mut guest = guest();
    kill(&mut guest, 15);
    assert!(guest.task.process.exiting());
    assert_eq!(guest.task.process.group().exit, Some(15));
    assert_eq!(guest.deliver(READ, Some(Ok(0))), Next::Exit);

    let mut guest = self::guest();
    // Nobody could continue this group: it has no parent.
    kill(&mut guest, 20);
    assert_eq!(guest.deliver(READ, Some(Ok(0))), Next::Return(0));
    assert!(!guest.task.stopping());
    kill(&mut guest, 19);
    guest.deliver(READ, Some(Ok(0)));
    assert!(guest.task.stopping());
    kill(&mut guest, 18);
    assert!(!guest.task.stopping());
}

#[test]
fn stops_and_continuations_undo_each_other() {
    let mut guest = guest();
    mask(&mut guest, SIG_BLOCK, SigSet::of(&[Signal::SIGTSTP, Signal::SIGCONT]));
    kill(&mut guest, 20);
    kill(&mut guest, 18);
    assert_eq!(guest.task.process.signals.pending_set(), SigSet::one(Signal::SIGCONT));
    kill(&mut guest, 20);
    assert_eq!(guest.task.process.signals.pending_set(), SigSet::one(Signal::SIGTSTP));
}

#[test]
fn a_frame_without_a_place_is_deadly() {
    let mut guest = guest();
    act(&mut guest, 10, HANDLER, 0).unwrap();
    guest.regs().rsp = 0x100;
    kill(&mut guest, 10);
    assert_eq!(guest.deliver(READ, Some(Ok(0))), Next::Exit);
    assert_eq!(guest.task.process.group().exit.map(|status| status & 0x7f), Some(11));
}

#[test]
fn sigtimedwait_takes_what_is_blocked() {
    let mut guest = guest();
    mask(&mut guest, SIG_SETMASK, SigSet::one(Signal::SIGUSR1));
    let wait = |guest: &mut Guest, nanos: i64| {
        guest.put(MEMORY, &SigSet::one(Signal::SIGUSR1).0);
        guest.put(MEMORY + 64, &Timespec { tv_sec: 0, tv_nsec: nanos });
        guest.call(__NR_rt_sigtimedwait.into(), &[MEMORY, MEMORY + 128, MEMORY + 64, 8])
    };
    assert_eq!(wait(&mut guest, 0), Err(Errno::EAGAIN));
    assert_eq!(wait(&mut guest, 1_000_000), Err(Errno::EAGAIN));
    assert_eq!(wait(&mut guest, -1), Err(Errno::EINVAL));
    kill(&mut guest, 10);
    assert_eq!(wait(&mut guest, 0), Ok(10));
    assert_eq!(guest.get::<SigInfo>(MEMORY + 128).signo, 10);
    assert!(!guest.task.interrupted());
}

#[test]
fn errors_come_in_the_kernel_s_order() {
    let mut guest = guest();
    let own = u64::from(guest.task.pid());
    let mut call = |number: u32, args: &[u64]| guest.call(number.into(), args);
    assert_eq!(call(__NR_kill, &[9999, 99]), Err(Errno::ESRCH));
    assert_eq!(call(__NR_kill, &[own, 65]), Err(Errno::EINVAL));
    assert_eq!(call(__NR_kill, &[own, 0]), Ok(0));
    assert_eq!(call(__NR_kill, &[i32::MIN as u64, 0]), Err(Errno::ESRCH));
    assert_eq!(call(__NR_tgkill, &[0, own, 10]), Err(Errno::EINVAL));
    assert_eq!(call(__NR_tgkill, &[own + 1, own, 10]), Err(Errno::ESRCH));
    assert_eq!(call(__NR_rt_sigaction, &[9, MEMORY, 0, 8]), Err(Errno::EINVAL));
    assert_eq!(call(__NR_rt_sigaction, &[99, 8, 0, 8]), Err(Errno::EFAULT));
    assert_eq!(call(__NR_rt_sigaction, &[10, 0, 0, 4]), Err(Errno::EINVAL));
    assert_eq!(call(__NR_rt_sigprocmask, &[7, 0, MEMORY, 8]), Ok(0));
    assert_eq!(call(__NR_rt_sigprocmask, &[7, MEMORY, 0, 8]), Err(Errno::EINVAL));
    assert_eq!(call(__NR_rt_sigqueueinfo, &[own, 10, 8]), Err(Errno::EFAULT));
}

#[test]
fn an_alternate_stack_in_use_cannot_be_changed() {
    let mut guest = guest();
    let stack = |sp: u64, size: u64, flags: i32| SigAltStack { sp, flags, pad0: 0, size };
    guest.put(MEMORY, &stack(MEMORY + 0x1000, 0x4000, 0));
    assert_eq!(guest.call(__NR_sigaltstack.into(), &[MEMORY, 0]), Ok(0));
    guest.regs().rsp = MEMORY + 0x2000;
    assert_eq!(guest.call(__NR_sigaltstack.into(), &[MEMORY, 0]), Err(Errno::EPERM));
    guest.call(__NR_sigaltstack.into(), &[0, MEMORY + 64]).unwrap();
    assert_eq!(guest.get::<SigAltStack>(MEMORY + 64).flags, super::frame::SS_ONSTACK);
    guest.regs().rsp = MEMORY + 0x9000;
    guest.put(MEMORY, &stack(0, 100, 0));
    assert_eq!(guest.call(__NR_sigaltstack.into(), &[MEMORY, 0]), Err(Errno::ENOMEM));
    guest.put(MEMORY, &stack(0, 0x4000, 7));
    assert_eq!(guest.call(__NR_sigaltstack.into(), &[MEMORY, 0]), Err(Errno::EINVAL));
}
