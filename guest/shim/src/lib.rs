//! The shim: the code that Coracle maps into every worker. It runs with the guest's rights, and nothing trusts
//! it: a guest that jumps into the middle of it can only do what the host filter lets these instructions do.
//!
//! One read-execute segment without relocations, data or a stack of its own. `entry` is what guest code calls,
//! `handler` receives the host's signals, `boot` is the first process, from which workers are cloned, and `guardian` the process that ends them all.
#![no_std]
#![allow(clippy::missing_safety_doc)]

mod boot;
mod entry;
mod freeze;
mod guardian;
mod handler;
#[path = "../../../crates/abi/src/port.rs"]
#[allow(dead_code)]
mod port;
mod raw;
mod resume;

/// Nothing here panics; if it ever did, the worker dies and is reported as what it is.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    raw::trap()
}
