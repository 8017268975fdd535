//! Reading and checking an ELF file, in the order of `load_elf_binary()` in Linux's `fs/binfmt_elf.c`.

use zerocopy::FromBytes;

use crate::error::{ElfError, Machine};
use crate::header::{
    EHDR_SIZE, ELFCLASS32, ELFDATA2MSB, ELFMAG, EM_X86_64, ET_DYN, ET_EXEC, Ehdr, PF_R, PF_W, PF_X, PHDR_SIZE,
    PT_GNU_STACK, PT_INTERP, PT_LOAD, Phdr,
};
use crate::read::{ReadAt, ReadFailure, read_exact};
use crate::{PAGE_SIZE, PROT_EXEC, PROT_READ, PROT_WRITE, TASK_SIZE, page_align, page_offset, page_start};

const MAX_PHDRS_SIZE: usize = 65536;
const PATH_MAX: u64 = 4096;

/// Where the addresses in the file are meant to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `ET_EXEC`: at the addresses that the file names.
    Exec,
    /// `ET_DYN`: anywhere.
    Dyn,
}

/// What an image asks of the address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// Exactly here, page-aligned.
    Fixed {
        /// First address.
        start: u64,
        /// First address after.
        end: u64,
    },
    /// Anywhere that has room.
    Anywhere {
        /// Bytes, a multiple of the page size, holes included.
        size: u64,
        /// What the base must be a multiple of: at least a page, a power of two, perhaps absurdly large.
        align: u64,
    },
}

impl Placement {
    /// A base inside `start..end`, picked by `random` among all that are possible.
    pub fn pick(&self, start: u64, end: u64, random: u64) -> Option<u64> {
        match *self {
            Self::Fixed { start: fixed, end: fixed_end } => (start <= fixed && fixed_end <= end).then_some(fixed),
            Self::Anywhere { size, align } => {
                let first = start.checked_next_multiple_of(align)?;
                let slots = end.checked_sub(size)?.checked_sub(first)?.checked_div(align)?;
                let slot = random.checked_rem(slots.checked_add(1)?)?;
                first.checked_add(slot.checked_mul(align)?)
            }
        }
    }
}

/// One checked `PT_LOAD`: all sums of its fields stay within user space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Address, before any bias.
    pub vaddr: u64,
    /// Bytes in memory.
    pub memsz: u64,
    /// Bytes from the file, at most `memsz`.
    pub filesz: u64,
    /// Where in the file.
    pub offset: u64,
    /// `PROT_*` bits.
    pub prot: u32,
}

/// A checked ELF file, ready to be planned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Fixed or position-independent.
    pub kind: Kind,
    /// `e_entry`, before any bias.
    pub entry: u64,
    /// `e_phoff`.
    pub phoff: u64,
    /// `e_phnum`, for `AT_PHNUM`.
    pub phnum: u16,
    /// The `PT_LOAD`s, in file order; never empty.
    pub segments: Vec<Segment>,
    /// The path in `PT_INTERP`, without its NUL. An empty one is the current directory, hence EACCES.
    pub interp: Option<Vec<u8>>,
    /// `PT_GNU_STACK` asks for an executable stack. Without one, x86-64 has it not executable.
    pub exec_stack: bool,
    /// Largest sane `p_align` of the `PT_LOAD`s, at least a page.
    pub align: u64,
}

impl Image {
    /// Reads a program. `head` is the start of the file, ideally a page of it (all of it if it is shorter than
    /// 64 bytes); what lies elsewhere is asked of `file`.
    pub fn parse(head: &[u8], file: &(impl ReadAt + ?Sized)) -> Result<Self, ElfError> {
        let ehdr = ehdr(head)?;
        let phdrs = phdrs(&ehdr, head, file)?;
        let interp = interp(&phdrs, head, file)?;
        Self::from_headers(&ehdr, &phdrs, interp)
    }

    /// Reads the file that a program's `PT_INTERP` names. Its own `PT_INTERP`, if any, means nothing.
    pub fn parse_interpreter(head: &[u8], file: &(impl ReadAt + ?Sized)) -> Result<Self, ElfError> {
        let image = || {
            if head.len() < EHDR_SIZE {
                return Err(ElfError::Truncated { len: head.len() });
            }
            let ehdr = ehdr(head)?;
            let phdrs = phdrs(&ehdr, head, file)?;
            Self::from_headers(&ehdr, &phdrs, None)
        };
        image().map_err(|error| ElfError::Interpreter(Box::new(error)))
    }

    fn from_headers(ehdr: &Ehdr, phdrs: &[Phdr], interp: Option<Vec<u8>>) -> Result<Self, ElfError> {
        let mut segments = Vec::new();
        for (index, phdr) in phdrs.iter().enumerate().filter(|(_, phdr)| phdr.p_type == PT_LOAD) {
            segments.push(segment(index, phdr)?);
        }
        if segments.is_empty() {
            return Err(ElfError::NoLoad);
        }
        // The last one decides: Linux's loop does not stop at the first.
        let stack = phdrs.iter().rev().find(|phdr| phdr.p_type == PT_GNU_STACK);
        let kind = if ehdr.e_type == ET_EXEC { Kind::Exec } else { Kind::Dyn };
        let entry = ehdr.e_entry.get();
        if entry >= TASK_SIZE {
            return Err(ElfError::Entry);
        }
        Ok(Self {
            kind,
            entry,
            phoff: ehdr.e_phoff.get(),
            phnum: ehdr.e_phnum.get(),
            segments,
            interp,
            exec_stack: stack.is_some_and(|phdr| phdr.p_flags.get() & PF_X != 0),
            align: alignment(phdrs),
        })
    }

    /// Lowest page and end of the highest page, before any bias (`total_mapping_size()`).
    pub(crate) fn extent(&self) -> (u64, u64) {
        let start = self.segments.iter().map(|segment| page_start(segment.vaddr)).min();
        let end =
            self.segments.iter().map(|segment| page_align(segment.vaddr.saturating_add(segment.memsz))).max();
        (start.unwrap_or(0), end.unwrap_or(0))
    }

    /// What to reserve before [`Self::plan`].
    pub fn placement(&self) -> Placement {
        let (start, end) = self.extent();
        match self.kind {
            Kind::Exec => Placement::Fixed { start, end },
            Kind::Dyn => Placement::Anywhere { size: end.saturating_sub(start), align: self.align },
        }
    }

    /// True if a segment takes bytes from beyond a file of `len` bytes. Linux maps such a file and lets the
    /// program die of SIGBUS; a caller that can talk to its user says so before.
    pub fn is_truncated(&self, len: u64) -> bool {
        let end = |segment: &Segment| segment.offset.saturating_add(segment.filesz);
        self.segments.iter().any(|segment| segment.filesz > 0 && end(segment) > len)
    }
}

/// The header, from a buffer that Linux pads with zeros where the file is shorter (`prepare_binprm()`).
fn ehdr(head: &[u8]) -> Result<Ehdr, ElfError> {
    if !head.starts_with(ELFMAG) {
        return Err(ElfError::NotElf);
    }
    let Ok((ehdr, _)) = Ehdr::read_from_prefix(head) else {
        return Err(ElfError::Truncated { len: head.len() });
    };
    // Linux looks at neither class nor byte order, only at what follows from them; here they make the message.
    let [_, _, _, _, class, data, ..] = ehdr.e_ident;
    let is_big_endian = data == ELFDATA2MSB;
    let number = ehdr.e_machine.get();
    let machine = Machine {
        number: if is_big_endian { number.swap_bytes() } else { number },
        is_32bit: class == ELFCLASS32,
        is_big_endian,
    };
    if number != EM_X86_64 {
        return Err(ElfError::Machine(machine));
    }
    let e_type = ehdr.e_type.get();
    if e_type != ET_EXEC && e_type != ET_DYN {
        return Err(ElfError::Type(e_type));
    }
    let phentsize = ehdr.e_phentsize.get();
    if usize::from(phentsize) != PHDR_SIZE {
        return Err(if machine.is_32bit { ElfError::Machine(machine) } else { ElfError::PhEntSize(phentsize) });
    }
    Ok(ehdr)
}

/// `load_elf_phdrs()`.
fn phdrs(ehdr: &Ehdr, head: &[u8], file: &(impl ReadAt + ?Sized)) -> Result<Vec<Phdr>, ElfError> {
    let phnum = ehdr.e_phnum.get();
    let size = usize::from(phnum).saturating_mul(PHDR_SIZE);
    if size == 0 || size > MAX_PHDRS_SIZE {
        return Err(ElfError::PhNum(phnum));
    }
    let bytes = read_exact(head, file, ehdr.e_phoff.get(), size).map_err(|_| ElfError::PhdrsTruncated)?;
    Ok(bytes.chunks_exact(PHDR_SIZE).filter_map(|chunk| Phdr::read_from_bytes(chunk).ok()).collect())
}

/// The path in the first `PT_INTERP`.
fn interp(phdrs: &[Phdr], head: &[u8], file: &(impl ReadAt + ?Sized)) -> Result<Option<Vec<u8>>, ElfError> {
    let Some(phdr) = phdrs.iter().find(|phdr| phdr.p_type == PT_INTERP) else {
        return Ok(None);
    };
    let size = phdr.p_filesz.get();
    if !(2..=PATH_MAX).contains(&size) {
        return Err(ElfError::InterpLength(size));
    }
    let len = usize::try_from(size).map_err(|_| ElfError::InterpLength(size))?;
    let bytes = read_exact(head, file, phdr.p_offset.get(), len).map_err(|failure| match failure {
        ReadFailure::Short => ElfError::InterpTruncated,
        ReadFailure::Offset => ElfError::InterpOffset,
        ReadFailure::Errno(errno) => ElfError::Read(errno),
    })?;
    if bytes.last() != Some(&0) {
        return Err(ElfError::InterpNotTerminated);
    }
    // A C string: what follows the first NUL is not part of it.
    Ok(Some(bytes.into_iter().take_while(|byte| *byte != 0).collect()))
}

fn segment(index: usize, phdr: &Phdr) -> Result<Segment, ElfError> {
    let (vaddr, memsz, filesz, offset) =
        (phdr.p_vaddr.get(), phdr.p_memsz.get(), phdr.p_filesz.get(), phdr.p_offset.get());
    if vaddr >= TASK_SIZE || memsz > TASK_SIZE.saturating_sub(vaddr) {
        return Err(ElfError::SegmentRange(index));
    }
    if filesz > memsz {
        return Err(ElfError::SegmentSize(index));
    }
    // Only a file mapping needs a fitting offset; what is all zeros may say anything (elf_load()).
    let mapped_end = offset.checked_add(page_align(filesz)).filter(|end| i64::try_from(*end).is_ok());
    if filesz > 0 && (page_offset(vaddr) != page_offset(offset) || mapped_end.is_none()) {
        return Err(ElfError::SegmentOffset(index));
    }
    let bit = |flag, prot| {
        if phdr.p_flags.get() & flag == 0 { 0 } else { prot }
    };
    let prot = bit(PF_R, PROT_READ) | bit(PF_W, PROT_WRITE) | bit(PF_X, PROT_EXEC);
    Ok(Segment { vaddr, memsz, filesz, offset, prot })
}

/// `maximum_alignment()`: what is not a power of two does not count.
fn alignment(phdrs: &[Phdr]) -> u64 {
    let loads = phdrs.iter().filter(|phdr| phdr.p_type == PT_LOAD);
    loads.map(|phdr| phdr.p_align.get()).filter(|align| align.is_power_of_two()).max().unwrap_or(0).max(PAGE_SIZE)
}
