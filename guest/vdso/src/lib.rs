//! The vDSO: functions of Linux's vDSO on x86-64 (vdso(7)), in an image of its own that every worker has mapped,
//! directly above the vvar pages.
//!
//! It runs with the guest's rights and reads what the kernel publishes in the vvar; what it cannot answer becomes
//! a system call. Pointers are the caller's: a bad one faults, as Linux's vDSO does.
#![no_std]
#![allow(clippy::missing_safety_doc)]

mod chacha;
mod cpu;
mod fast;
mod note;
#[path = "../../../crates/abi/src/port.rs"]
#[allow(dead_code)]
mod port;
#[path = "../../../crates/abi/src/pvclock.rs"]
#[allow(dead_code)]
mod pvclock;
mod random;
mod raw;
#[path = "../../../crates/abi/src/seq.rs"]
#[allow(dead_code)]
mod seq;
mod slow;
mod time;
#[path = "../../../crates/abi/src/vvar.rs"]
#[allow(dead_code)]
mod vvar;

/// What the kernel publishes.
#[inline(always)]
fn page() -> &'static vvar::Vvar {
    let at = address!("vvar_start");
    // SAFETY: the pages lie below the image, readable, and consist of atomics. A guest that takes them away faults.
    unsafe { &*(at as *const vvar::Vvar) }
}

/// Nothing here panics; if it ever did, the guest dies.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    raw::trap()
}
