//! The application kernel: serves the system calls of guest programs.
//!
//! Read top down: [`task`] runs guest threads and hands their calls to [`call`], whose table leads to the
//! handlers in [`syscalls`], which work on the objects in [`fd`], [`fs`], [`ipc`] and [`signal`]. Below all
//! of them lie [`mem`] (guest memory) and [`wait`] (the one way to block).
//!
//! Nothing here knows how guest code is confined; that is behind [`coracle_platform`].
#![forbid(unsafe_code)]

pub mod call;
pub mod decisions;
pub mod fd;
pub mod fs;
pub mod futex;
pub mod ipc;
pub mod mem;
pub mod mm;
mod random;
pub mod shown;
pub mod signal;
pub mod syscalls;
pub mod task;
pub mod time;
pub mod wait;
pub mod world;

pub use coracle_abi::{self as abi, Errno};

/// What handlers and objects return.
pub type Result<T, E = Errno> = std::result::Result<T, E>;
/// What a system call returns: the value of RAX or an error number.
pub type SysResult = Result<u64>;
