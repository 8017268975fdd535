//! The guardian: a process of each sandbox that outlives the kernel process for a moment, and takes everything along that
//! was ever born in the sandbox.
//!
//! All workers are in one process group, which none can leave: no rule of their filter allows that. The guardian is in it,
//! too, as a clone of the first process made before that maps ports, so that it shares no memory with any worker. When
//! the kernel process is gone it kills the group, itself included. The host carries that out in one step, which no `clone`
//! falls into (copy_process() and kill_pgrp() exclude each other by `tasklist_lock`).

use crate::boot::{call, relinquish};
use crate::label;

const SIGTERM: u64 = 15;
const SIGKILL: u64 = 9;
const GETPPID: u64 = 110;
const KILL: u64 = 62;
const EXIT_GROUP: u64 = 231;
const RT_SIGTIMEDWAIT: u64 = 128;

/// Clones it; returns its number, or an error.
pub fn leave() -> i64 {
    const CLONE_PARENT: u64 = 0x8000;
    const SIGCHLD: u64 = 17;
    match call(56, [CLONE_PARENT | SIGCHLD, 0, 0, 0, 0, 0]) {
        0 => guard(),
        number => number,
    }
}

/// The number of the kernel process.
fn kernel() -> i64 {
    // SAFETY: eight bytes of the shim's text.
    unsafe { (label!(kernel_number) as *const i64).read() }
}

fn guard() -> ! {
    const PR_SET_PDEATHSIG: u64 = 1;
    const PR_SET_NAME: u64 = 15;
    let (all, name) = (u64::MAX, *b"coracle-guard\0\0\0");
    call(157, [PR_SET_NAME, name.as_ptr() as u64, 0, 0, 0, 0]);
    call(14, [2, &raw const all as u64, 0, 8, 0, 0]); // rt_sigprocmask(SIG_SETMASK)
    call(157, [PR_SET_PDEATHSIG, SIGTERM, 0, 0, 0, 0]);
    call(436, [0, u64::from(u32::MAX), 0, 0, 0, 0]); // close_range
    relinquish();
    confine();
    let death = 1u64 << (SIGTERM - 1);
    // Whoever else sends the signal does not change who the parent is.
    while call(GETPPID, [0; 6]) == kernel() {
        call(RT_SIGTIMEDWAIT, [&raw const death as u64, 0, 0, 8, 0, 0]);
    }
    loop {
        call(KILL, [0, SIGKILL, 0, 0, 0, 0]);
        call(EXIT_GROUP, [1, 0, 0, 0, 0, 0]);
    }
}

/// From here on it can wait, look for its parent, kill its own group and end. On a host without seccomp there are no
/// workers to guard.
fn confine() {
    const ARCH: u64 = 4;
    const AUDIT_ARCH_X86_64: u64 = 0xc000_003e;
    const KILL_PROCESS: u64 = 0x8000_0000;
    const ALLOW: u64 = 0x7fff_0000;
    const LOAD: u64 = 0x20;
    const RETURN: u64 = 0x06;
    /// Jumps over `yes` or `no` instructions.
    const fn equal(value: u64, yes: u64, no: u64) -> u64 {
        0x15 | yes << 16 | no << 24 | value << 32
    }
    const fn load(offset: u64) -> u64 {
        LOAD | offset << 32
    }
    const fn low(argument: u64) -> u64 {
        16 + 8 * argument
    }
    let program = [
        load(ARCH),
        equal(AUDIT_ARCH_X86_64, 0, 10),
        load(0),
        equal(RT_SIGTIMEDWAIT, 7, 0),
        equal(GETPPID, 6, 0),
        equal(EXIT_GROUP, 5, 0),
        equal(KILL, 0, 5),
        load(low(0)),
        equal(0, 0, 3),
        load(low(1)),
        equal(SIGKILL, 0, 1),
        RETURN | ALLOW << 32,
        RETURN | KILL_PROCESS << 32,
    ];
    let filter = [program.len() as u64, program.as_ptr() as u64];
    call(317, [1, 0, filter.as_ptr() as u64, 0, 0, 0]);
}
