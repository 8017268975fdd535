//! Where a trapped call enters, and how one that the fast path can serve gets there without the host's
//! `rt_sigreturn`, which is a quarter of what a trap costs.
//!
//! SIGSYS changes no signal mask, so there is none to put back, and all else that `rt_sigreturn` would do is loading
//! registers. The price is that the interrupt signal is not masked here, as it is in the other handlers:
//!
//! 1. A trap that becomes a request masks it first ([`mask_call`](crate::raw::mask_call)), and leaves by
//!    `rt_sigreturn`, which unmasks it. One that came before is served by the request, which is a stopping point.
//! 2. A trap that goes on in the fast path treats one that came before `trap_leave`, which is seen there, as if it
//!    had come at `fast_entry` (`trap_late`).
//! 3. One from `trap_leave` up to `trap_jump` is sent to `trap_late` (`handler::interrupted`): the frame is still
//!    whole, since the stack pointer is loaded last.
//! 4. One at `trap_jump` finds all registers as they are at `fast_entry`.

use core::arch::global_asm;

use crate::port::{self, word};
use crate::raw::greg;

global_asm!(
    r#"
    .section .text.resume,"ax"
    .globl trap_entry, trap_leave, trap_jump, trap_late, trap_end
    .p2align 5
trap_entry:
    mov %rdx, %rbx
    mov %rsp, %rcx
    sub $8, %rsp
    call {trap}
    test %eax, %eax
    jnz 1f
    mov %rbx, %rsp
    jmp restorer
1:  mov %rsp, %r12
    and $-{PORT_SIZE}, %r12
trap_leave:
    mov {INTERRUPT_ASKED}(%r12), %eax
    cmp {INTERRUPT_DONE}(%r12), %eax
    jne trap_late
trap_go:
    mov %rbx, %rsp
    mov {FPSTATE}(%rsp), %rcx
    mov {XSAVE_FEATURES}(%r12), %eax
    mov {XSAVE_FEATURES}+4(%r12), %edx
    xrstor64 (%rcx)
    pushq {EFLAGS}(%rsp)
    popfq
    mov {R8}(%rsp), %r8
    mov {R9}(%rsp), %r9
    mov {R10}(%rsp), %r10
    mov {R11}(%rsp), %r11
    mov {R12}(%rsp), %r12
    mov {R13}(%rsp), %r13
    mov {R14}(%rsp), %r14
    mov {R15}(%rsp), %r15
    mov {RDI}(%rsp), %rdi
    mov {RSI}(%rsp), %rsi
    mov {RBP}(%rsp), %rbp
    mov {RBX}(%rsp), %rbx
    mov {RDX}(%rsp), %rdx
    mov {RAX}(%rsp), %rax
    mov {RCX}(%rsp), %rcx
    mov {RSP}(%rsp), %rsp
trap_jump:
    jmp fast_entry
trap_late:
    mov %rbx, %rsp
    mov %r12, %rdi
    mov %rbx, %rsi
    call {late}
    jmp trap_go

    /* fn() -> i64: masks the interrupt. */
    .globl mask_call, mask_after, interrupt_mask
mask_call:
    xor %edi, %edi
    lea interrupt_mask(%rip), %rsi
    xor %edx, %edx
    mov $8, %r10d
    mov $14, %eax
    syscall
mask_after:
    ret
trap_end:
    .p2align 3
interrupt_mask:
    .quad {MASK}
    "#,
    trap = sym crate::handler::trap,
    late = sym crate::handler::late,
    MASK = const 1u64 << (port::INTERRUPT_SIGNAL - 1),
    PORT_SIZE = const port::PORT_SIZE,
    FPSTATE = const greg(23),
    R8 = const greg(0),
    R9 = const greg(1),
    R10 = const greg(2),
    R11 = const greg(3),
    R12 = const greg(4),
    R13 = const greg(5),
    R14 = const greg(6),
    R15 = const greg(7),
    RDI = const greg(8),
    RSI = const greg(9),
    RBP = const greg(10),
    RBX = const greg(11),
    RDX = const greg(12),
    RAX = const greg(13),
    RCX = const greg(14),
    RSP = const greg(15),
    EFLAGS = const greg(17),
    XSAVE_FEATURES = const word::XSAVE_FEATURES,
    INTERRUPT_ASKED = const word::INTERRUPT_ASKED,
    INTERRUPT_DONE = const word::INTERRUPT_DONE,
    options(att_syntax)
);
