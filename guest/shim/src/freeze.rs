//! All registers of a thread in the fast path, for the kernel to read and edit, without a signal of the host.
//!
//! The fast path has clobbered nothing that it cannot put back, so the frame that a SIGSYS at this call would
//! have brought can be written down: a `ucontext` with extended state, in the port's output area. From there on
//! all is as in a handler ([`crate::handler`]), and the host's `rt_sigreturn` leads back into the program.
//!
//! Unlike in a handler the interrupt signal is not masked here. Up to the last reply that needs no care: a
//! request follows. Then a thread that goes on with an interrupt outstanding must come back instead:
//!
//! 1. what was asked for before `freeze_leave` is seen there;
//! 2. a signal from `freeze_leave` up to the `syscall` is sent to `freeze_again` (`handler::interrupted`);
//! 3. one that arrives later interrupts the program.

use core::arch::global_asm;

use crate::port::{self, word};
use crate::raw::greg;

/// Offset of the pointer to the extended state.
const FPSTATE: usize = greg(23);
/// Offset of the signal mask.
const SIGMASK: usize = 296;
/// Where the extended state lies behind the `ucontext`.
const STATE: usize = 320;

global_asm!(
    r#"
    .section .text.freeze,"ax"
    .globl freeze, freeze_end, freeze_again, freeze_leave, freeze_left
    .p2align 5
freeze:
    mov %gs:{SELF}, %rdi
    lea {FRAME}(%rdi), %rsi
    movq $7, (%rsi)
    movq $0, 8(%rsi)
    lea {STACK}(%rdi), %rax
    mov %rax, 16(%rsi)
    movq $0, 24(%rsi)
    movq ${STACK_SIZE}, 32(%rsi)
    /* What `save` has put into the port. */
    mov {ARGS}(%rdi), %rax
    mov %rax, {RDI}(%rsi)
    mov {ARGS}+8(%rdi), %rax
    mov %rax, {RSI}(%rsi)
    mov {ARGS}+16(%rdi), %rax
    mov %rax, {RDX}(%rsi)
    mov {ARGS}+24(%rdi), %rax
    mov %rax, {R10}(%rsi)
    mov {ARGS}+32(%rdi), %rax
    mov %rax, {R8}(%rsi)
    mov {ARGS}+40(%rdi), %rax
    mov %rax, {R9}(%rsi)
    movslq {NUMBER}(%rdi), %rax
    mov %rax, {RAX}(%rsi)
    /* What the fast path has left alone. */
    mov %rbx, {RBX}(%rsi)
    mov %rbp, {RBP}(%rsi)
    mov %r12, {R12}(%rsi)
    mov %r13, {R13}(%rsi)
    mov %r14, {R14}(%rsi)
    mov %r15, {R15}(%rsi)
    mov %rsp, {RSP}(%rsi)
    /* The program goes on behind its call, unless an interrupt has redirected it before. */
    mov {RETURN}(%rdi), %rcx
    lea landing(%rip), %rax
    cmp %rax, %rcx
    cmove {HOME}(%rdi), %rcx
    mov %rcx, {RIP}(%rsi)
    mov %rcx, {RCX}(%rsi)
    lea {TOP}(%rdi), %rsp
    mov {FLAGS}(%rdi), %eax
    add $0x7f, %al
    sahf
    pushfq
    pop %rax
    cld
    mov %rax, {EFLAGS}(%rsi)
    mov %rax, {R11}(%rsi)
    movabs ${SEGMENTS}, %rax
    mov %rax, {CS}(%rsi)
    xor %eax, %eax
    mov %rax, {ERR}(%rsi)
    mov %rax, {ERR}+8(%rsi)
    mov %rax, {ERR}+16(%rsi)
    mov %rax, {ERR}+24(%rsi)
    mov %rax, {SIGMASK}(%rsi)
    /* XSAVE leaves the header's reserved part and the software's bytes as they are. */
    lea {STATE}(%rsi), %rbx
    mov %rbx, {FPSTATE}(%rsi)
    .irp at, 464, 472, 480, 488, 496, 504, 512, 520, 528, 536, 544, 552, 560, 568
    mov %rax, \at(%rbx)
    .endr
    mov {XSAVE_FEATURES}(%rdi), %rax
    mov %rax, 472(%rbx)
    mov %rax, %rdx
    shr $32, %rdx
    xsave64 (%rbx)
    /* x87 and SSE count as used, for handlers that edit them (save_xstate_epilog()). */
    orq $3, 512(%rbx)
    mov {XSAVE_SIZE}(%rdi), %eax
    mov %eax, 480(%rbx)
    lea 4(%rax), %ecx
    movl ${MAGIC1}, 464(%rbx)
    mov %ecx, 468(%rbx)
    movl ${MAGIC2}, (%rbx,%rax)
    mov %rdi, %rbx
    call {frozen}
freeze_leave:
    mov {INTERRUPT_ASKED}(%rbx), %eax
    cmp {INTERRUPT_DONE}(%rbx), %eax
    jne freeze_again
    lea {FRAME}(%rbx), %rsp
    mov $15, %eax
    syscall
freeze_left:
    ud2
freeze_again:
    lea {TOP}(%rbx), %rsp
    mov %rbx, %rdi
    lea {FRAME}(%rbx), %rsi
    call {again}
    jmp freeze_leave
freeze_end:
    "#,
    frozen = sym crate::handler::frozen,
    again = sym crate::handler::frozen_again,
    FRAME = const word::STAGE_OUT,
    STACK = const word::STACK,
    STACK_SIZE = const port::PORT_SIZE as usize - word::STACK,
    TOP = const port::PORT_SIZE - 64,
    SEGMENTS = const 0x2b_0000_0000_0033u64,
    MAGIC1 = const 0x4650_5853,
    MAGIC2 = const 0x4650_5845,
    STATE = const STATE,
    FPSTATE = const FPSTATE,
    SIGMASK = const SIGMASK,
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
    RIP = const greg(16),
    EFLAGS = const greg(17),
    CS = const greg(18),
    ERR = const greg(19),
    SELF = const word::SELF,
    ARGS = const word::ARGS,
    NUMBER = const word::NUMBER,
    RETURN = const word::RETURN,
    HOME = const word::HOME,
    FLAGS = const word::FLAGS,
    XSAVE_FEATURES = const word::XSAVE_FEATURES,
    XSAVE_SIZE = const word::XSAVE_SIZE,
    INTERRUPT_ASKED = const word::INTERRUPT_ASKED,
    INTERRUPT_DONE = const word::INTERRUPT_DONE,
    options(att_syntax)
);
