//! System calls from the vDSO, and names for addresses.

use core::arch::asm;

use crate::port::REFRESH_CALL;
use crate::time::Pair;
use crate::vvar::Vvar;

/// Takes an address relative to RIP: no relocation.
#[macro_export]
macro_rules! address {
    ($name:literal) => {{
        let address: usize;
        // SAFETY: computes an address, touches nothing.
        unsafe {
            core::arch::asm!(concat!("lea ", $name, "(%rip), {}"), out(reg) address,
                options(att_syntax, pure, nomem, nostack, preserves_flags));
        }
        address
    }};
}

/// A weak name for a function, as Linux's vDSO has them beside the `__vdso_` ones.
#[macro_export]
macro_rules! alias {
    ($weak:literal, $strong:literal) => {
        core::arch::global_asm!(concat!(".weak ", $weak, "\n.set ", $weak, ", ", $strong));
    };
}

/// A system call by way of the shim: its fast path takes RCX for the place where the program goes on, and makes
/// the call by the `syscall` before that place when it cannot do otherwise.
#[inline(always)]
pub unsafe fn call(number: usize, first: usize, second: usize, third: usize) -> isize {
    let result: isize;
    // SAFETY: the caller's. The fast path preserves all but RAX, RCX and R11, as a system call does.
    unsafe {
        asm!(
            ".hidden vvar_start",
            "lea 2f(%rip), %rcx",
            "jmp *vvar_start+{entry}(%rip)",
            "syscall",
            "2:",
            entry = const core::mem::offset_of!(Vvar, fast_entry),
            inlateout("rax") number as isize => result,
            in("rdi") first, in("rsi") second, in("rdx") third,
            out("rcx") _, out("r11") _,
            options(att_syntax, nostack),
        );
    }
    result
}

/// clock_gettime(2), the system call.
#[inline(always)]
pub unsafe fn gettime(clock: i32, to: *mut Pair) -> isize {
    // SAFETY: the call checks its pointer.
    unsafe { call(228, clock as usize, to as usize, 0) }
}

/// clock_getres(2), the system call.
#[inline(always)]
pub unsafe fn getres(clock: i32, to: *mut Pair) -> isize {
    // SAFETY: the call checks its pointer.
    unsafe { call(229, clock as usize, to as usize, 0) }
}

/// clock_gettime(2) at the one instruction at which the kernel brings the vvar up to date. The number is none of
/// Linux's, so that the shim hands it to the kernel whatever lane clock_gettime has; the kernel knows it only there.
#[inline(never)]
#[cold]
pub unsafe fn refresh(clock: i32, to: *mut Pair) -> isize {
    const ENOSYS: isize = -38;
    let result: isize;
    // SAFETY: the call checks its pointer.
    unsafe {
        asm!(
            "mov ${number}, %eax",
            "syscall",
            number = const REFRESH_CALL, out("rax") result, in("rdi") clock, in("rsi") to,
            out("rcx") _, out("r11") _, options(att_syntax, nostack),
        );
    }
    // The program has moved the image away from where the kernel knows it.
    // SAFETY: as above.
    if result == ENOSYS { unsafe { gettime(clock, to) } } else { result }
}

/// The time stamp counter, read after all that the program did before (Intel SDM volume 2, RDTSC).
#[inline(always)]
pub fn ordered_counter() -> u64 {
    let (low, high): (u64, u64);
    // SAFETY: reads a register.
    unsafe { asm!("lfence", "rdtsc", out("rax") low, out("rdx") high, options(nostack, preserves_flags)) };
    high << 32 | low
}

pub fn trap() -> ! {
    // SAFETY: ends the guest.
    unsafe { asm!("ud2", options(noreturn, nomem, nostack)) }
}
