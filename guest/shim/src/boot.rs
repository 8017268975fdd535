//! The first process of a sandbox: a static program without libc whose only segment is the shim. It leaves a guardian
//! behind, throws away what `exec` gave it, reserves the address space above the shim, gives up every right it has,
//! installs handlers and the filter. Then it clones itself. The clone is the zygote, which every later worker is cloned
//! from; the original is the first worker.

use core::arch::asm;
use core::sync::atomic::Ordering::Relaxed;

use crate::guardian;
use crate::handler;
use crate::label;
use crate::port::{
    INTERRUPT_SIGNAL, PORT_COUNT, PORT_SIZE, PORTS_OFFSET, SEALED_OFFSET, SEALED_SIZE, VVAR_BELOW, VVAR_SIZE, word,
};
use crate::raw::{self, Port};

/// The kernel hands over a socket for the filter's listener as descriptor 0, which stays when all others are closed, so
/// that the listener becomes 1: its message says so, and cannot be changed.
const LISTENER: i64 = 1;
/// The ports are this descriptor.
const PORTS_FD: u64 = 3;
/// And the vvar pages with the sealed page behind them, open for reading only, this one.
const VVAR_FD: u64 = 4;
const SIGSYS: u64 = 31;
const EINVAL: i64 = -22;
/// First address that user space may not map (`TASK_SIZE_MAX`).
const USER_END: u64 = 0x7fff_ffff_f000;

/// Entered from `_start` with the stack that `exec` made.
pub unsafe extern "C" fn boot(_stack: u64) -> ! {
    let guardian = guardian::leave();
    let ports = base() + PORTS_OFFSET;
    call(9, [ports, PORT_COUNT * PORT_SIZE, 3, 0x11, PORTS_FD, 0]);
    Port(ports).u64(word::GUARDIAN).store(guardian as u64, Relaxed);
    // SAFETY: the top of port 0's signal stack is mapped and nobody uses it.
    unsafe { raw::switch_stack(ports + PORT_SIZE - 64, ports) };
    raw::trap()
}

/// Goes on from `boot` on the port's stack, so that the old one can go.
pub unsafe extern "C" fn settle(port: Port) -> ! {
    let base = base();
    let end = base + 0x1_0000;
    let ports = base + PORTS_OFFSET;
    let ports_end = ports + PORT_COUNT * PORT_SIZE;
    let sealed = base + SEALED_OFFSET;
    let sealed_end = sealed + SEALED_SIZE;
    // All that `exec` made below the vvar goes, the host's own vDSO with it; ours lies between vvar and shim.
    let vvar = base - VVAR_BELOW;
    call(11, [0x1_0000, vvar - 0x1_0000, 0, 0, 0, 0]);
    call(9, [vvar, VVAR_SIZE, 1, 0x11, VVAR_FD, 0]); // PROT_READ, SHARED|FIXED
    call(9, [sealed, SEALED_SIZE, 1, 0x11, VVAR_FD, VVAR_SIZE]);
    call(436, [1, u64::from(u32::MAX), 0, 0, 0, 0]); // close_range: all but the socket
    // Everything above the shim is taken, so that the host's search for free space (which goes down) stays below.
    for (from, to) in [(end, sealed), (sealed_end, ports), (ports_end, USER_END)] {
        call(11, [from, to - from, 0, 0, 0, 0]);
        call(9, [from, to - from, 0, 0x4032, u64::MAX, 0]); // PROT_NONE, PRIVATE|ANONYMOUS|FIXED|NORESERVE
        call(462, [from, to - from, 0, 0, 0, 0]); // mseal, where the host has it
    }
    call(462, [base, end - base, 0, 0, 0, 0]);
    call(462, [sealed, SEALED_SIZE, 0, 0, 0, 0]);
    relinquish();
    // `exec` may have taken it back. Should the kernel have died before, the guardian has seen that.
    const PR_SET_PDEATHSIG: u64 = 1;
    call(157, [PR_SET_PDEATHSIG, 9, 0, 0, 0, 0]);
    let stack = [port.0 + word::STACK as u64, 0, PORT_SIZE - word::STACK as u64];
    call(131, [stack.as_ptr() as u64, 0, 0, 0, 0, 0]);
    install_handlers();
    // seccomp(SET_MODE_FILTER, NEW_LISTENER | WAIT_KILLABLE_RECV): the program lies staged in the port.
    let program = port.0 + word::STAGE_IN as u64;
    let filter = |flags| call(317, [1, flags, program, 0, 0, 0]);
    // The second flag is known from Linux 5.19 on.
    let listener = match filter(8 | 32) {
        EINVAL => filter(8),
        listener => listener,
    };
    // SAFETY: this thread's port; nothing else runs here.
    unsafe { handler::begin(port, if listener > LISTENER { EINVAL } else { listener }) }
}

/// Gives up rights, for good.
pub fn relinquish() {
    const PR_SET_NO_NEW_PRIVS: u64 = 38;
    call(157, [PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0]);
    // capset(version 3, self): empty sets.
    let header = [0x2008_0522u32, 0];
    let sets = [0u32; 6];
    call(126, [header.as_ptr() as u64, sets.as_ptr() as u64, 0, 0, 0, 0]);
    // RLIMIT_CORE 0: a worker's core would hold a guest's secrets in the host's files.
    let none = [0u64; 2];
    call(302, [0, 4, none.as_ptr() as u64, 0, 0, 0]);
}

/// SIGSYS, faults and the interrupt: on the signal stack, with the interrupt masked except in that of SIGSYS, which
/// changes no mask (see [`crate::resume`]).
fn install_handlers() {
    const FLAGS: u64 = 4 | 0x0800_0000 | 0x0400_0000 | 0x4000_0000; // SIGINFO | ONSTACK | RESTORER | NODEFER
    let action = [label!(signal_entry), FLAGS, label!(restorer), 1u64 << (INTERRUPT_SIGNAL - 1)];
    let trap = [label!(trap_entry), FLAGS, label!(restorer), 0];
    let mut signal = 1;
    while signal < 32 {
        // SEGV, ILL, BUS, FPE, TRAP and the interrupt.
        if (1u64 << signal) & (1 << 11 | 1 << 4 | 1 << 7 | 1 << 8 | 1 << 5 | 1 << INTERRUPT_SIGNAL) != 0 {
            call(13, [signal, action.as_ptr() as u64, 0, 8, 0, 0]);
        }
        signal += 1;
    }
    call(13, [SIGSYS, trap.as_ptr() as u64, 0, 8, 0, 0]);
    // Interrupts stay out until the first guest instruction.
    let mask = 1u64 << (INTERRUPT_SIGNAL - 1);
    call(14, [2, &raw const mask as u64, 0, 8, 0, 0]); // rt_sigprocmask(SIG_SETMASK)
}

fn base() -> u64 {
    label!(_start)
}

/// Any system call. After the filter is in place the host refuses it: no instruction here is on its list.
#[inline(always)]
pub fn call(number: u64, args: [u64; 6]) -> i64 {
    let result: i64;
    // SAFETY: changes only this process, as each caller says.
    unsafe {
        asm!("syscall", inlateout("rax") number as i64 => result, in("rdi") args[0], in("rsi") args[1],
            in("rdx") args[2], in("r10") args[3], in("r8") args[4], in("r9") args[5],
            lateout("rcx") _, lateout("r11") _);
    }
    result
}
