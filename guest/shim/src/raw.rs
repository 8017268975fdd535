//! Words of the port, the frame of a signal, and the handful of instructions that Rust has no name for.

use core::arch::asm;
use core::sync::atomic::{AtomicU32, AtomicU64};

/// The port of the running thread, by its address.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Port(pub u64);

impl Port {
    /// The port in whose signal stack `address` lies.
    pub fn around(address: u64) -> Port {
        Port(address & !(crate::port::PORT_SIZE - 1))
    }

    /// The first of this address space.
    pub fn first(self) -> Port {
        Port((self.0 & !(crate::port::SHIM_ALIGN - 1)) + crate::port::PORTS_OFFSET)
    }

    pub fn u32(self, offset: usize) -> &'static AtomicU32 {
        // SAFETY: ports are mapped as long as their thread lives, words are aligned, and all access is atomic.
        unsafe { &*((self.0 as usize + offset) as *const AtomicU32) }
    }

    pub fn u64(self, offset: usize) -> &'static AtomicU64 {
        // SAFETY: as above.
        unsafe { &*((self.0 as usize + offset) as *const AtomicU64) }
    }
}

/// Indices into the general registers of a signal frame (`uc_mcontext.gregs`).
pub mod reg {
    pub const R8: usize = 0;
    pub const R9: usize = 1;
    pub const R10: usize = 2;
    pub const RDI: usize = 8;
    pub const RSI: usize = 9;
    pub const R12: usize = 4;
    pub const RBX: usize = 11;
    pub const RDX: usize = 12;
    pub const RAX: usize = 13;
    pub const RCX: usize = 14;
    pub const RSP: usize = 15;
    pub const RIP: usize = 16;
    pub const EFLAGS: usize = 17;
}

/// Offset of a general register in a `ucontext` (arch/x86/include/uapi/asm/sigcontext.h).
pub const fn greg(index: usize) -> usize {
    40 + index * 8
}

/// A `ucontext` that the host has put on the signal stack.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Frame(pub u64);

impl Frame {
    fn slot(self, register: usize) -> *mut u64 {
        (self.0 as usize + greg(register)) as *mut u64
    }

    /// Where the extended state lies; 0 if there is none.
    pub fn extended_state(self) -> u64 {
        self.get(23)
    }

    pub fn get(self, register: usize) -> u64 {
        // SAFETY: the host has just written this frame to the signal stack, which stays mapped.
        unsafe { self.slot(register).read() }
    }

    pub fn set(self, register: usize, value: u64) {
        // SAFETY: as above; only the running thread uses its frame.
        unsafe { self.slot(register).write(value) }
    }
}

/// Names an address of `entry` without a relocation.
#[macro_export]
macro_rules! label {
    ($name:ident) => {{
        let address: u64;
        // SAFETY: takes an address relative to RIP, touches nothing.
        unsafe {
            core::arch::asm!(concat!("lea ", stringify!($name), "(%rip), {}"), out(reg) address,
                options(att_syntax, nomem, nostack, preserves_flags));
        }
        address
    }};
}

pub fn read_fs() -> u64 {
    let base: u64;
    // SAFETY: reads a register.
    unsafe { asm!("rdfsbase {}", out(reg) base, options(nomem, nostack, preserves_flags)) };
    base
}

pub fn read_gs() -> u64 {
    let base: u64;
    // SAFETY: reads a register.
    unsafe { asm!("rdgsbase {}", out(reg) base, options(nomem, nostack, preserves_flags)) };
    base
}

pub fn write_fs(base: u64) {
    // SAFETY: this code uses no thread-local storage.
    unsafe { asm!("wrfsbase {}", in(reg) base, options(nomem, nostack, preserves_flags)) };
}

pub fn write_gs(base: u64) {
    // SAFETY: handlers do not address memory through GS.
    unsafe { asm!("wrgsbase {}", in(reg) base, options(nomem, nostack, preserves_flags)) };
}

/// The CPU this runs on; only where the processor has RDPID.
pub fn current_cpu() -> u32 {
    let value: u64;
    // SAFETY: reads a register (its low twelve bits are the CPU number on Linux).
    unsafe { asm!("rdpid {}", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value as u32 & 0xfff
}

pub fn time_stamp() -> u64 {
    // SAFETY: RDTSC is available to user space.
    unsafe { core::arch::x86_64::_rdtsc() }
}

pub fn pause() {
    core::hint::spin_loop();
}

pub fn trap() -> ! {
    // SAFETY: ends the worker.
    unsafe { asm!("ud2", options(noreturn, nomem, nostack)) }
}

/// Goes on in `entry` as a new address space does, on the stack of the running thread's port.
pub unsafe fn go_to_first_orders() -> ! {
    // SAFETY: the code there expects a stack pointer into a port and nothing else.
    unsafe { asm!("jmp first_orders", options(noreturn)) }
}

/// Calls a function of `entry` by its name: a plain `extern` would go through a table of addresses, which would
/// have to be relocated.
macro_rules! entry {
    ($(#[$meta:meta])* $name:ident($($arg:ident: $register:tt),*)) => {
        $(#[$meta])*
        pub unsafe fn $name($($arg: u64),*) -> i64 {
            let result: i64;
            // SAFETY: the caller's; the function follows the C convention.
            unsafe {
                asm!(concat!("call ", stringify!($name)), $(in($register) $arg,)* lateout("rax") result,
                    clobber_abi("C"));
            }
            result
        }
    };
}

entry! {
    /// `futex` on a word of the port.
    port_futex(word: "rdi", operation: "rsi", value: "rdx")
}
entry! {
    /// The call at `order` (number, six arguments).
    order_call(order: "rdi")
}
entry! {
    /// Sends the listener of the filter to the kernel.
    send_listener()
}
entry! {
    /// Asks the kernel for a descriptor.
    notify_call(cookie: "rdi")
}
entry! {
    /// `clone` as the port orders.
    clone_call(port: "rdi")
}
entry! {
    /// Masks the interrupt signal.
    mask_call()
}
entry! {
    /// Ends the host thread.
    exit_call(status: "rdi")
}
entry! {
    /// Compare and exchange of a guest word.
    guarded_exchange(word: "rdi", old: "rsi", new: "rdx")
}
entry! {
    /// Stores zero to a guest word.
    guarded_clear(word: "rdi")
}
entry! {
    /// Goes on in `settle` on another stack.
    switch_stack(stack: "rdi", port: "rsi")
}
