//! Why a file cannot be run: one line that a user can act upon, and the errno that Linux gives.

use std::fmt;

use thiserror::Error;

const ENOEXEC: i32 = 8;
const E2BIG: i32 = 7;
const EIO: i32 = 5;
const ENOMEM: i32 = 12;
const EINVAL: i32 = 22;
const ELIBBAD: i32 = 80;

/// The machine that an ELF file says it is for, named as `uname -m` and compilers name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// `e_machine` in the file's own byte order.
    pub number: u16,
    /// 32-bit file class.
    pub is_32bit: bool,
    /// Big-endian file.
    pub is_big_endian: bool,
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match (self.number, self.is_32bit, self.is_big_endian) {
            (2 | 18, ..) => "sparc",
            (3 | 6, ..) => "i386",
            (4, ..) => "m68k",
            (8, true, true) => "mips",
            (8, true, false) => "mipsel",
            (8, false, true) => "mips64",
            (8, false, false) => "mips64el",
            (15, ..) => "parisc",
            (20, ..) => "powerpc",
            (21, _, true) => "ppc64",
            (21, _, false) => "ppc64le",
            (22, true, _) => "s390",
            (22, false, _) => "s390x",
            (40, ..) => "arm",
            (42, ..) => "sh4",
            (43, ..) => "sparc64",
            (50, ..) => "ia64",
            (62, true, _) => "x32 (x86-64 with 32-bit pointers)",
            (62, ..) => "x86-64",
            (183, ..) => "aarch64",
            (243, true, _) => "riscv32",
            (243, false, _) => "riscv64",
            (247, ..) => "bpf",
            (258, ..) => "loongarch64",
            (number, ..) => return write!(f, "an unknown machine (ELF number {number})"),
        };
        f.write_str(name)
    }
}

/// Why an ELF file cannot be loaded.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ElfError {
    /// No ELF magic.
    #[error("not an ELF file")]
    NotElf,
    /// The file ends inside the ELF header.
    #[error("truncated: the file ends inside its ELF header ({len} of 64 bytes)")]
    Truncated {
        /// Length of the file.
        len: usize,
    },
    /// `e_type` is neither `ET_EXEC` nor `ET_DYN`.
    #[error("not a program: this ELF file is {}", type_name(*.0))]
    Type(u16),
    /// For another machine.
    #[error("built for {0}, this host is x86-64")]
    Machine(Machine),
    /// `e_phentsize` is not that of ELF64.
    #[error("damaged ELF header: program headers of {0} bytes each, must be 56")]
    PhEntSize(u16),
    /// `e_phnum` is 0 or the table is larger than 64 KiB.
    #[error("damaged ELF header: {0} program headers, must be 1 to 1170")]
    PhNum(u16),
    /// The table of program headers cannot be read in full.
    #[error("truncated: the program headers lie beyond the end of the file")]
    PhdrsTruncated,
    /// `PT_INTERP` is shorter than two bytes or longer than `PATH_MAX`.
    #[error("damaged ELF file: the path of its interpreter has {0} bytes, must be 2 to 4096")]
    InterpLength(u64),
    /// `PT_INTERP` lies beyond the end of the file.
    #[error("truncated: the path of its interpreter lies beyond the end of the file")]
    InterpTruncated,
    /// `PT_INTERP` lies at no possible file offset.
    #[error("damaged ELF file: the path of its interpreter lies at an impossible offset")]
    InterpOffset,
    /// `PT_INTERP` does not end in a NUL.
    #[error("damaged ELF file: the path of its interpreter does not end in a NUL")]
    InterpNotTerminated,
    /// The file could not be read.
    #[error("cannot be read (errno {0})")]
    Read(i32),
    /// No `PT_LOAD`.
    #[error("damaged ELF file: nothing in it is to be loaded")]
    NoLoad,
    /// `p_filesz > p_memsz`.
    #[error("damaged ELF file: segment {0} is larger in the file than in memory")]
    SegmentSize(usize),
    /// A segment reaches beyond user space.
    #[error("damaged ELF file: segment {0} reaches beyond user space")]
    SegmentRange(usize),
    /// `p_offset` and `p_vaddr` differ in their offset within a page, or the offset is impossible.
    #[error("damaged ELF file: segment {0} has a file offset that cannot be mapped at its address")]
    SegmentOffset(usize),
    /// The entry point lies outside user space.
    #[error("damaged ELF file: the entry point lies outside user space")]
    Entry,
    /// The place chosen for the image does not hold it.
    #[error("does not fit into the address space")]
    NoRoom,
    /// The file that `PT_INTERP` names has a fault of its own.
    #[error("bad interpreter: {0}")]
    Interpreter(Box<ElfError>),
}

impl ElfError {
    /// The errno of `execve(2)`.
    pub fn errno(&self) -> i32 {
        match self {
            Self::NotElf | Self::Truncated { .. } | Self::Type(_) | Self::Machine(_) => ENOEXEC,
            // load_elf_phdrs() has one answer for all its failures, a failed read among them.
            Self::PhEntSize(_) | Self::PhNum(_) | Self::PhdrsTruncated => ENOEXEC,
            Self::InterpLength(_) | Self::InterpNotTerminated => ENOEXEC,
            Self::InterpTruncated => EIO,
            Self::InterpOffset => EINVAL,
            Self::Read(errno) => *errno,
            Self::NoLoad | Self::SegmentSize(_) | Self::SegmentRange(_) => EINVAL,
            Self::SegmentOffset(_) | Self::Entry => EINVAL,
            Self::NoRoom => ENOMEM,
            Self::Interpreter(inner) => match **inner {
                Self::Truncated { .. } => EIO,
                Self::SegmentSize(_) | Self::SegmentRange(_) => ENOMEM,
                _ if inner.errno() == ENOEXEC => ELIBBAD,
                _ => inner.errno(),
            },
        }
    }

    /// True where Linux notices the fault only when the old program is gone: there `execve` does not return and
    /// the process dies of SIGSEGV. A caller that checks everything first may return [`Self::errno`] instead.
    pub fn is_past_no_return(&self) -> bool {
        match self {
            Self::NoLoad | Self::SegmentSize(_) | Self::SegmentRange(_) => true,
            Self::SegmentOffset(_) | Self::Entry | Self::NoRoom => true,
            Self::Interpreter(inner) => matches!(**inner, Self::Type(_)) || inner.is_past_no_return(),
            _ => false,
        }
    }
}

fn type_name(e_type: u16) -> String {
    match e_type {
        0 => "of no type".into(),
        1 => "an object file, yet to be linked".into(),
        4 => "a core dump".into(),
        other => format!("of unknown type {other}"),
    }
}

/// Why arguments and environment cannot be passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ArgError {
    /// One string is longer than [`crate::MAX_ARG_STRLEN`].
    #[error("an argument or environment string is longer than 128 KiB")]
    StringTooLong,
    /// All strings and pointers together are beyond the limit.
    #[error("arguments and environment are too large together")]
    TooLarge,
    /// A string has a NUL inside.
    #[error("an argument or environment string holds a NUL byte")]
    Nul,
    /// The stack top leaves no room below.
    #[error("no room for the initial stack")]
    NoRoom,
}

impl ArgError {
    /// The errno of `execve(2)`.
    pub fn errno(&self) -> i32 {
        match self {
            Self::StringTooLong | Self::TooLarge => E2BIG,
            Self::Nul => EINVAL,
            Self::NoRoom => ENOMEM,
        }
    }
}
