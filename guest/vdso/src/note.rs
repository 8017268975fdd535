//! The note that Linux's vDSO carries (arch/x86/entry/vdso/vdso-note.S): the kernel's version, filled in when a
//! sandbox starts. glibc up to 2.36 refuses to start on a kernel that it deems too old by it.

core::arch::global_asm!(
    ".pushsection .note.Linux, \"a\", @note",
    ".balign 4",
    ".long 6, 4, 0",
    ".asciz \"Linux\"",
    ".balign 4",
    ".long 0",
    ".popsection",
);
