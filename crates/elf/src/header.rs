//! The two structures of an ELF64 file that matter to a loader, `elf(5)`.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

pub(crate) const ELFMAG: &[u8] = b"\x7fELF";
pub(crate) const ELFCLASS32: u8 = 1;
pub(crate) const ELFDATA2MSB: u8 = 2;
pub(crate) const ET_EXEC: u16 = 2;
pub(crate) const ET_DYN: u16 = 3;
pub(crate) const EM_X86_64: u16 = 62;
pub(crate) const PT_LOAD: u32 = 1;
pub(crate) const PT_INTERP: u32 = 3;
pub(crate) const PT_GNU_STACK: u32 = 0x6474_e551;
pub(crate) const PF_X: u32 = 1;
pub(crate) const PF_W: u32 = 2;
pub(crate) const PF_R: u32 = 4;

/// `Elf64_Ehdr`.
#[derive(Debug, Clone, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Ehdr {
    pub(crate) e_ident: [u8; 16],
    pub(crate) e_type: U16,
    pub(crate) e_machine: U16,
    pub(crate) e_version: U32,
    pub(crate) e_entry: U64,
    pub(crate) e_phoff: U64,
    pub(crate) e_shoff: U64,
    pub(crate) e_flags: U32,
    pub(crate) e_ehsize: U16,
    pub(crate) e_phentsize: U16,
    pub(crate) e_phnum: U16,
    pub(crate) e_shentsize: U16,
    pub(crate) e_shnum: U16,
    pub(crate) e_shstrndx: U16,
}

/// `Elf64_Phdr`.
#[derive(Debug, Clone, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Phdr {
    pub(crate) p_type: U32,
    pub(crate) p_flags: U32,
    pub(crate) p_offset: U64,
    pub(crate) p_vaddr: U64,
    pub(crate) p_paddr: U64,
    pub(crate) p_filesz: U64,
    pub(crate) p_memsz: U64,
    pub(crate) p_align: U64,
}

pub(crate) const EHDR_SIZE: usize = size_of::<Ehdr>();
pub(crate) const PHDR_SIZE: usize = size_of::<Phdr>();
const _: () = assert!(EHDR_SIZE == 64 && PHDR_SIZE == 56);
