//! What `execve` must decide before and while it builds a new program, and what is left of a dead one, as pure
//! functions.
//!
//! - [`Image`] reads and checks an ELF file; [`Image::plan`] says which mappings make it a program.
//! - [`Script`] reads a `#!` line.
//! - [`ArgSpace`] counts argument and environment strings against Linux's limits.
//! - [`InitialStack`] lays out what a new program finds on its stack.
//! - [`corefile`] lays out the file that a dying program leaves behind.
//!
//! Nothing here touches memory, files or processes: the caller hands in bytes (through [`ReadAt`]) and carries
//! out the [`Op`]s. The rules are those of Linux's `fs/binfmt_elf.c`, `fs/binfmt_script.c` and `fs/exec.c`;
//! the tests compare with the host's kernel.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod args;
pub mod corefile;
mod error;
mod header;
mod image;
mod plan;
mod read;
mod script;
mod stack;

pub use args::{ARG_MAX, ArgSpace, MAX_ARG_STRLEN};
pub use error::{ArgError, ElfError, Machine};
pub use image::{Image, Kind, Placement, Segment};
pub use plan::{LoadPlan, Op, ProgramPlan};
pub use read::ReadAt;
pub use script::{NotScript, Script};
pub use stack::{AuxInputs, InitialStack, StackInputs};

/// Size of a page, and the smallest alignment of a mapping.
pub const PAGE_SIZE: u64 = 4096;
/// First address that no program may use (`TASK_SIZE_MAX` with four-level page tables).
pub const TASK_SIZE: u64 = 0x7fff_ffff_f000;
/// How much of a file Linux looks at to find out what it is (`include/uapi/linux/binfmts.h`).
pub const BINPRM_BUF_SIZE: usize = 256;
/// How many interpreters may follow one another, counted by the caller: the next one is ELOOP
/// (`fs/exec.c`, `exec_binprm`).
pub const MAX_INTERPRETERS: usize = 5;

/// `PROT_READ`.
pub const PROT_READ: u32 = 1;
/// `PROT_WRITE`.
pub const PROT_WRITE: u32 = 2;
/// `PROT_EXEC`.
pub const PROT_EXEC: u32 = 4;

/// Start of the page that `addr` lies in (`ELF_PAGESTART`).
const fn page_start(addr: u64) -> u64 {
    addr & !(PAGE_SIZE - 1)
}

/// Offset of `addr` in its page (`ELF_PAGEOFFSET`).
const fn page_offset(addr: u64) -> u64 {
    addr & (PAGE_SIZE - 1)
}

/// `addr` rounded up to a page; saturates at the last page of the address space.
const fn page_align(addr: u64) -> u64 {
    page_start(addr.saturating_add(PAGE_SIZE - 1))
}
