//! The filter of every worker thread: which host calls the shim's instructions may make.
//!
//! A rule names the exact instruction (seccomp sees the address behind it), the call, and what its arguments
//! may be. All else is trapped (SIGSYS) and becomes a guest's system call. This file is the complete list of
//! what a hostile guest can ask of the host.

use coracle_abi::port::{
    CPU_SET_SIZE, INTERRUPT_SIGNAL, NOTIFY_CALL, PORT_COUNT, PORT_SIZE, PORTS_OFFSET, SEALED_OFFSET, SEALED_SIZE,
};
use coracle_blobs::label;

pub use crate::bpf::Instruction;
use crate::bpf::{
    ALLOW, AND_K, ARCH, AUDIT_ARCH_X86_64, IP_HIGH, IP_LOW, JEQ, JGE, NOTIFY, NUMBER, Program, TRAP, high, low,
};

/// The program for a shim at `base`.
pub fn build(base: u64) -> Vec<Instruction> {
    let mut p = Program { code: Vec::new(), base: (base >> 32) as u32 };
    p.load(ARCH);
    p.need_equal(AUDIT_ARCH_X86_64);
    p.load(IP_HIGH);
    p.need_equal(p.base);
    p.load(IP_LOW);

    // Waiting for each other, on words of the ports only.
    for site in [label::FUTEX_WAIT_FAST, label::FUTEX_WAKE_FAST, label::FUTEX_HANDLER] {
        p.when(site as u32, |p| {
            p.load(NUMBER);
            p.need_equal(libc::SYS_futex as u32);
            p.load(high(0));
            p.need_equal(p.base);
            p.load(low(1));
            p.need_below(2); // FUTEX_WAIT, FUTEX_WAKE
            p.finish(ALLOW);
        });
    }
    p.when(label::SIGRETURN_AFTER as u32, |p| single(p, libc::SYS_rt_sigreturn));
    p.when(label::FREEZE_LEFT as u32, |p| single(p, libc::SYS_rt_sigreturn));
    // A trap that becomes a request: SIG_BLOCK of the interrupt, which stands in the shim's text.
    p.when(label::MASK_AFTER as u32, |p| {
        p.load(NUMBER);
        p.need_equal(libc::SYS_rt_sigprocmask as u32);
        let values =
            [(0, libc::SIG_BLOCK as u32, 0), (1, label::INTERRUPT_MASK as u32, p.base), (2, 0, 0), (3, 8, 0)];
        for (argument, low_half, high_half) in values {
            p.load(low(argument));
            p.need_equal(low_half);
            p.load(high(argument));
            p.need_equal(high_half);
        }
        p.finish(ALLOW);
    });
    p.when(label::EXIT_AFTER as u32, |p| single(p, libc::SYS_exit));
    p.when(label::CLOSE_AFTER as u32, |p| single(p, libc::SYS_close));
    p.when(label::DEATHSIG_AFTER as u32, |p| {
        p.load(NUMBER);
        p.need_equal(libc::SYS_prctl as u32);
        for (argument, value) in [(0, libc::PR_SET_PDEATHSIG as u32), (1, libc::SIGKILL as u32)] {
            p.load(low(argument));
            p.need_equal(value);
        }
        p.finish(ALLOW);
    });
    // The first worker sends the listener of this filter away. The message lies in the shim's text; descriptor 0 is a
    // socket then and never again.
    p.when(label::SEND_AFTER as u32, |p| {
        p.load(NUMBER);
        p.need_equal(libc::SYS_sendmsg as u32);
        for (argument, low_half, high_half) in [(0, 0, 0), (1, label::LISTENER_MESSAGE as u32, p.base), (2, 0, 0)]
        {
            p.load(low(argument));
            p.need_equal(low_half);
            p.load(high(argument));
            p.need_equal(high_half);
        }
        p.finish(ALLOW);
    });
    // A new address space takes its ports: one mapping, all arguments fixed but the descriptor.
    p.when(label::PORTS_AFTER as u32, |p| {
        p.load(NUMBER);
        p.need_equal(libc::SYS_mmap as u32);
        let fixed = (libc::MAP_SHARED | libc::MAP_FIXED) as u32;
        let values = [PORTS_OFFSET as u32, (PORT_SIZE * PORT_COUNT) as u32, 3, fixed];
        for (argument, value) in (0..).zip(values) {
            p.load(low(argument));
            p.need_equal(value);
            p.load(high(argument));
            p.need_equal(if argument == 0 { p.base } else { 0 });
        }
        p.finish(ALLOW);
    });
    // What only the kernel may decide: it compares with what it has ordered (notify.rs).
    for (site, number) in [
        (label::NOTIFY_AFTER, NOTIFY_CALL),
        (label::HELLO_AFTER, NOTIFY_CALL),
        (label::CLONE_AFTER, libc::SYS_clone as u32),
    ] {
        p.when(site as u32, |p| {
            p.load(NUMBER);
            p.need_equal(number);
            p.finish(NOTIFY);
        });
    }
    // Calls on the guest's own memory: lane 2, and orders of the kernel.
    p.emit(JEQ, 3, 0, label::LANE2_AFTER as u32);
    p.emit(JEQ, 2, 0, label::ORDER_FAST as u32);
    p.emit(JEQ, 1, 0, label::ORDER_AFTER as u32);
    p.finish(TRAP);
    own_memory(&mut p);
    p.code
}

fn single(p: &mut Program, number: libc::c_long) {
    p.load(NUMBER);
    p.need_equal(number as u32);
    p.finish(ALLOW);
}

/// Calls that can affect only the caller's own address space or thread.
fn own_memory(p: &mut Program) {
    p.load(NUMBER);
    p.when(libc::SYS_futex as u32, |p| {
        p.need_guest(0);
        p.load(low(1));
        p.emit(AND_K, 0, 0, !(libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME) as u32);
        // WAIT, WAKE, WAIT_BITSET, WAKE_BITSET
        for operation in [0, 1, 9, 10] {
            p.when(operation, |p| p.finish(ALLOW));
        }
        // REQUEUE, CMP_REQUEUE, WAKE_OP: two words
        p.need_one_of(&[3, 4, 5]);
        p.need_guest(4);
        p.finish(ALLOW);
    });
    p.when(libc::SYS_mmap as u32, |p| {
        p.load(high(3));
        p.need_equal(0);
        p.load(low(3));
        p.need_clear((libc::MAP_HUGETLB | libc::MAP_LOCKED | libc::MAP_GROWSDOWN) as u32);
        p.when_set((libc::MAP_FIXED | libc::MAP_FIXED_NOREPLACE) as u32, |p| {
            p.need_range(0, 1);
            p.finish(ALLOW);
        });
        p.finish(ALLOW);
    });
    for number in [libc::SYS_munmap, libc::SYS_mprotect, libc::SYS_msync] {
        p.when(number as u32, |p| {
            p.need_range(0, 1);
            p.finish(ALLOW);
        });
    }
    p.when(libc::SYS_mincore as u32, |p| {
        p.need_range(0, 1);
        p.need_guest(2);
        p.finish(ALLOW);
    });
    p.when(libc::SYS_madvise as u32, |p| {
        p.need_range(0, 1);
        p.load(high(2));
        p.need_equal(0);
        p.load(low(2));
        p.need_below(26); // not the poisoning ones
        p.emit(JEQ, 0, 1, libc::MADV_MERGEABLE as u32); // merged pages are a side channel
        p.finish(TRAP);
        p.finish(ALLOW);
    });
    p.when(libc::SYS_mremap as u32, |p| {
        p.need_range(0, 1);
        p.need_range(0, 2);
        p.load(low(3));
        p.when_set(libc::MREMAP_FIXED as u32, |p| {
            p.need_range(4, 2);
            p.finish(ALLOW);
        });
        p.finish(ALLOW);
    });
    p.when(libc::SYS_clock_gettime as u32, |p| {
        p.load(low(0));
        // REALTIME, MONOTONIC, THREAD_CPUTIME, RAW, both COARSE, BOOTTIME, TAI
        p.need_one_of(&[0, 1, 3, 4, 5, 6, 7, 11]);
        p.finish(ALLOW);
    });
    p.when(libc::SYS_membarrier as u32, |p| {
        p.load(low(0));
        // The private forms: they interrupt only this process's threads.
        p.need_one_of(&[8, 16, 32, 64, 128, 256]);
        p.finish(ALLOW);
    });
    // The CPUs of the thread itself, by a set that lies in the sealed page.
    p.when(libc::SYS_sched_setaffinity as u32, |p| {
        p.load(low(0));
        p.need_equal(0);
        p.load(low(1));
        p.need_equal(CPU_SET_SIZE as u32);
        p.load(high(2));
        p.need_equal(p.base);
        p.load(low(2));
        p.emit(JGE, 1, 0, SEALED_OFFSET as u32);
        p.finish(TRAP);
        p.need_below((SEALED_OFFSET + SEALED_SIZE) as u32 - CPU_SET_SIZE as u32 + 1);
        p.finish(ALLOW);
    });
    p.when(libc::SYS_rseq as u32, |p| {
        p.need_guest(0);
        p.finish(ALLOW);
    });
    p.allow(libc::SYS_gettimeofday as u32);
    p.allow(libc::SYS_time as u32);
    p.allow(libc::SYS_sched_yield as u32);
    p.allow(libc::SYS_getcpu as u32);
    p.allow(libc::SYS_close as u32);
    p.finish(TRAP);
}

/// The signal that interrupts guest code is never a guest's to choose.
const _: () = assert!(INTERRUPT_SIGNAL > 0 && INTERRUPT_SIGNAL < 32);
