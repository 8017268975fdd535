//! ChaCha20 (RFC 8439; 64 bits of counter and no nonce, as in Linux's arch/x86/entry/vdso/vgetrandom-chacha.S), two
//! blocks at a time, with what every x86-64 processor has. Everything happens in registers, which are cleared at the
//! end: nothing of the key is left on the stack.

/// Writes `pairs` (at least one) pairs of blocks of the key's stream to `to`, from block number `counter` on, and
/// returns the number of the next block. The key may lie in what is overwritten.
///
/// # Safety
///
/// `to` takes `pairs` times 128 bytes, and `key` points to 32.
#[inline(always)]
pub unsafe fn blocks(to: *mut u8, key: *const u8, pairs: usize, counter: u64) -> u64 {
    let next;
    // SAFETY: the caller's. By name, for the address of a function that is not in this crate comes from a table.
    unsafe {
        core::arch::asm!("call vdso_chacha20", in("rdi") to, in("rsi") key, in("rdx") pairs, in("rcx") counter,
            lateout("rax") next, clobber_abi("C"));
    }
    next
}

/// Leaves nothing of keys and random bytes in vector registers. Go's runtime, for one, calls without saving the one that
/// it keeps zero (X15 of its internal ABI), which Linux's function does not use.
#[inline(always)]
pub fn wipe_registers() {
    // SAFETY: clears registers that a function may change.
    unsafe {
        core::arch::asm!(
            ".irp row, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
            "pxor %xmm\\row, %xmm\\row",
            ".endr",
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
            out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
            options(att_syntax, nomem, nostack, preserves_flags),
        );
    }
}

core::arch::global_asm!(
    // Rotates words of two rows to the left.
    ".macro chacha_turn first, second, left, right",
    "    movdqa \\first, %xmm8",
    "    movdqa \\second, %xmm9",
    "    pslld $\\left, \\first",
    "    pslld $\\left, \\second",
    "    psrld $\\right, %xmm8",
    "    psrld $\\right, %xmm9",
    "    por %xmm8, \\first",
    "    por %xmm9, \\second",
    ".endm",
    // A quarter round on all columns of both blocks: rows 0 to 3, and 4 to 7.
    ".macro chacha_quarters",
    "    paddd %xmm1, %xmm0",
    "    paddd %xmm5, %xmm4",
    "    pxor %xmm0, %xmm3",
    "    pxor %xmm4, %xmm7",
    "    pshuflw $0xb1, %xmm3, %xmm3",
    "    pshuflw $0xb1, %xmm7, %xmm7",
    "    pshufhw $0xb1, %xmm3, %xmm3",
    "    pshufhw $0xb1, %xmm7, %xmm7",
    "    paddd %xmm3, %xmm2",
    "    paddd %xmm7, %xmm6",
    "    pxor %xmm2, %xmm1",
    "    pxor %xmm6, %xmm5",
    "    chacha_turn %xmm1, %xmm5, 12, 20",
    "    paddd %xmm1, %xmm0",
    "    paddd %xmm5, %xmm4",
    "    pxor %xmm0, %xmm3",
    "    pxor %xmm4, %xmm7",
    "    chacha_turn %xmm3, %xmm7, 8, 24",
    "    paddd %xmm3, %xmm2",
    "    paddd %xmm7, %xmm6",
    "    pxor %xmm2, %xmm1",
    "    pxor %xmm6, %xmm5",
    "    chacha_turn %xmm1, %xmm5, 7, 25",
    ".endm",
    // Turns rows so that diagonals become columns, or back.
    ".macro chacha_diagonals one, three",
    "    pshufd $\\one, %xmm1, %xmm1",
    "    pshufd $\\one, %xmm5, %xmm5",
    "    pshufd $0x4e, %xmm2, %xmm2",
    "    pshufd $0x4e, %xmm6, %xmm6",
    "    pshufd $\\three, %xmm3, %xmm3",
    "    pshufd $\\three, %xmm7, %xmm7",
    ".endm",
    ".section .rodata.chacha, \"a\", @progbits",
    "    .p2align 4",
    ".Lchacha_constants:",
    "    .ascii \"expand 32-byte k\"",
    ".text",
    "    .globl vdso_chacha20",
    "    .hidden vdso_chacha20",
    "    .type vdso_chacha20, @function",
    "    .p2align 6, 0xcc",
    "vdso_chacha20:",
    "    .cfi_startproc",
    "    movdqu (%rsi), %xmm11",
    "    movdqu 16(%rsi), %xmm12",
    "    movdqa .Lchacha_constants(%rip), %xmm10",
    "    movq %rcx, %xmm13",
    "    mov $1, %eax",
    "    movq %rax, %xmm15",
    "2:  movdqa %xmm13, %xmm14",
    "    paddq %xmm15, %xmm14",
    "    movdqa %xmm10, %xmm0",
    "    movdqa %xmm11, %xmm1",
    "    movdqa %xmm12, %xmm2",
    "    movdqa %xmm13, %xmm3",
    "    movdqa %xmm10, %xmm4",
    "    movdqa %xmm11, %xmm5",
    "    movdqa %xmm12, %xmm6",
    "    movdqa %xmm14, %xmm7",
    "    mov $10, %eax",
    "3:  chacha_quarters",
    "    chacha_diagonals 0x39, 0x93",
    "    chacha_quarters",
    "    chacha_diagonals 0x93, 0x39",
    "    dec %eax",
    "    jnz 3b",
    "    paddd %xmm10, %xmm0",
    "    paddd %xmm11, %xmm1",
    "    paddd %xmm12, %xmm2",
    "    paddd %xmm13, %xmm3",
    "    paddd %xmm10, %xmm4",
    "    paddd %xmm11, %xmm5",
    "    paddd %xmm12, %xmm6",
    "    paddd %xmm14, %xmm7",
    "    movdqu %xmm0, (%rdi)",
    "    movdqu %xmm1, 16(%rdi)",
    "    movdqu %xmm2, 32(%rdi)",
    "    movdqu %xmm3, 48(%rdi)",
    "    movdqu %xmm4, 64(%rdi)",
    "    movdqu %xmm5, 80(%rdi)",
    "    movdqu %xmm6, 96(%rdi)",
    "    movdqu %xmm7, 112(%rdi)",
    "    movdqa %xmm14, %xmm13",
    "    paddq %xmm15, %xmm13",
    "    add $128, %rdi",
    "    dec %rdx",
    "    jnz 2b",
    "    movq %xmm13, %rax",
    "    .irp row, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12",
    "    pxor %xmm\\row, %xmm\\row",
    "    .endr",
    "    ret",
    "    .cfi_endproc",
    "    .size vdso_chacha20, . - vdso_chacha20",
    ".purgem chacha_turn",
    ".purgem chacha_quarters",
    ".purgem chacha_diagonals",
    options(att_syntax),
);
