//! The layout of an ELF core file, as `elf_core_dump()` (fs/binfmt_elf.c) writes it: header, program headers (notes
//! first, then every mapping), notes, and from the next page on the contents of mappings in the same order.

use crate::PAGE_SIZE;
use crate::header::{EHDR_SIZE, EM_X86_64, PHDR_SIZE, PT_LOAD};

const ET_CORE: u16 = 4;
const PT_NOTE: u32 = 4;
/// More program headers than fit into `e_phnum`: the number is in a section header (elf(5)).
const PN_XNUM: usize = 0xffff;
const SHDR_SIZE: usize = 64;

/// Kinds of notes (include/uapi/linux/elf.h), and the name each comes under.
pub const NT_PRSTATUS: Kind = Kind { name: b"CORE", number: 1 };
/// Floating point registers.
pub const NT_FPREGSET: Kind = Kind { name: b"CORE", number: 2 };
/// What `ps` would say.
pub const NT_PRPSINFO: Kind = Kind { name: b"CORE", number: 3 };
/// The auxiliary vector.
pub const NT_AUXV: Kind = Kind { name: b"CORE", number: 6 };
/// Extended processor state.
pub const NT_X86_XSTATE: Kind = Kind { name: b"LINUX", number: 0x202 };
/// The `siginfo_t` of the deadly signal.
pub const NT_SIGINFO: Kind = Kind { name: b"CORE", number: 0x5349_4749 };
/// Which files are mapped where.
pub const NT_FILE: Kind = Kind { name: b"CORE", number: 0x4649_4c45 };

/// A kind of note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    name: &'static [u8],
    number: u32,
}

impl Kind {
    /// Bytes that a note of this kind takes with a description of `len` bytes.
    pub fn size(self, len: usize) -> u64 {
        (12 + (self.name.len() + 1).next_multiple_of(4) + len.next_multiple_of(4)) as u64
    }

    /// Appends a note.
    pub fn put(self, out: &mut Vec<u8>, description: &[u8]) {
        for word in [self.name.len() as u32 + 1, description.len() as u32, self.number] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(self.name);
        out.push(0);
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend_from_slice(description);
        out.resize(out.len().next_multiple_of(4), 0);
    }
}

/// A mapping, and how much of its beginning is in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoreSegment {
    /// First address.
    pub start: u64,
    /// Address behind the last one.
    pub end: u64,
    /// `PROT_*` bits.
    pub prot: u32,
    /// Bytes in the file, a multiple of the page size.
    pub size: u64,
}

/// Everything before the notes. The contents of the first segment begin at [`data_start`].
pub fn core_headers(notes: u64, segments: &[CoreSegment]) -> Vec<u8> {
    let count = segments.len() + 1;
    let extended = count >= PN_XNUM;
    let mut offset = data_start(notes, segments.len());
    let contents: u64 = segments.iter().map(|segment| segment.size).fold(0, u64::wrapping_add);
    let mut out = Vec::with_capacity(EHDR_SIZE + count * PHDR_SIZE);
    // EI_CLASS, EI_DATA, EI_VERSION, EI_OSABI.
    out.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    out.extend_from_slice(&ET_CORE.to_le_bytes());
    out.extend_from_slice(&EM_X86_64.to_le_bytes());
    out.extend_from_slice(&1_u32.to_le_bytes());
    // e_entry, e_phoff, e_shoff: the one section header stands behind the contents.
    let sections = if extended { offset.wrapping_add(contents) } else { 0 };
    for word in [0, EHDR_SIZE as u64, sections] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend_from_slice(&0_u32.to_le_bytes());
    let (section_size, section_count) = if extended { (SHDR_SIZE as u16, 1) } else { (0, 0) };
    let headers = count.min(PN_XNUM) as u16;
    for half in [EHDR_SIZE as u16, PHDR_SIZE as u16, headers, section_size, section_count, 0] {
        out.extend_from_slice(&half.to_le_bytes());
    }
    let notes_at = (EHDR_SIZE + count * PHDR_SIZE) as u64;
    program_header(&mut out, PT_NOTE, 0, [notes_at, 0, 0, notes, 0, 4]);
    for segment in segments {
        // PF_R is 4 and PF_X is 1: the other way round than PROT_*.
        let flags = (segment.prot & 1) << 2 | segment.prot & 2 | (segment.prot & 4) >> 2;
        let len = segment.end.saturating_sub(segment.start);
        program_header(&mut out, PT_LOAD, flags, [offset, segment.start, 0, segment.size, len, PAGE_SIZE]);
        offset = offset.wrapping_add(segment.size);
    }
    out
}

fn program_header(out: &mut Vec<u8>, kind: u32, flags: u32, words: [u64; 6]) {
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&flags.to_le_bytes());
    words.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
}

/// Offset of the first segment's contents.
pub fn data_start(notes: u64, segments: usize) -> u64 {
    let headers = (EHDR_SIZE + (segments + 1) * PHDR_SIZE) as u64;
    headers.saturating_add(notes).next_multiple_of(PAGE_SIZE)
}

/// What comes behind the contents: the section header that says how many program headers there are, if they are
/// too many for the ELF header (`fill_extnum_info()`).
pub fn core_trailer(segments: usize) -> Vec<u8> {
    let count = segments + 1;
    if count < PN_XNUM {
        return Vec::new();
    }
    let mut out = vec![0; SHDR_SIZE];
    // sh_size is `e_shnum`, sh_info `e_phnum`; sh_link is `e_shstrndx`.
    for (at, value) in [(32, 1_u32), (44, count as u32)] {
        if let Some(place) = out.get_mut(at..at + 4) {
            place.copy_from_slice(&value.to_le_bytes());
        }
    }
    out
}

/// `struct elf_prstatus`: what a thread was doing (include/linux/elfcore.h).
#[derive(Clone, Debug, Default)]
pub struct Prstatus {
    /// The signal that the process dies of.
    pub signal: i32,
    /// Signals pending for the thread.
    pub pending: u64,
    /// Signals that it blocks.
    pub blocked: u64,
    /// Thread, parent, process group, session.
    pub ids: [u32; 4],
    /// Seconds and microseconds: user, system; children's user and system.
    pub times: [(i64, i64); 4],
    /// `struct user_regs_struct`, r15 first.
    pub regs: [u64; 27],
}

impl Prstatus {
    /// Size of the description.
    pub const SIZE: usize = 336;

    /// As it is written.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::SIZE);
        // struct elf_siginfo: si_signo, si_code, si_errno; then pr_cursig, a short.
        for word in [self.signal, 0, 0, self.signal & 0xffff] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&self.pending.to_le_bytes());
        out.extend_from_slice(&self.blocked.to_le_bytes());
        self.ids.iter().for_each(|id| out.extend_from_slice(&id.to_le_bytes()));
        for (seconds, micros) in self.times {
            out.extend_from_slice(&seconds.to_le_bytes());
            out.extend_from_slice(&micros.to_le_bytes());
        }
        self.regs.iter().for_each(|register| out.extend_from_slice(&register.to_le_bytes()));
        // pr_fpvalid, and padding.
        out.extend_from_slice(&1_u64.to_le_bytes());
        out
    }
}

/// `struct elf_prpsinfo`: what `ps` would say of the process.
#[derive(Clone, Debug, Default)]
pub struct Prpsinfo {
    /// Number and letter of the state.
    pub state: (u8, u8),
    /// Nice value.
    pub nice: i8,
    /// `PF_*`.
    pub flags: u64,
    /// Real user and group.
    pub owner: [u32; 2],
    /// Process, parent, process group, session.
    pub ids: [u32; 4],
    /// Name of the thread.
    pub name: Vec<u8>,
    /// The beginning of the arguments, with zero bytes between them.
    pub args: Vec<u8>,
}

impl Prpsinfo {
    /// Most bytes of `args` that are written (`ELF_PRARGSZ`, less the zero byte at the end).
    pub const ARGS: usize = 79;
    const NAME: usize = 15;

    /// As it is written.
    pub fn to_bytes(&self) -> Vec<u8> {
        let (state, letter) = self.state;
        let mut out = vec![state, letter, u8::from(letter == b'Z'), self.nice as u8, 0, 0, 0, 0];
        out.extend_from_slice(&self.flags.to_le_bytes());
        for id in self.owner.iter().chain(&self.ids) {
            out.extend_from_slice(&id.to_le_bytes());
        }
        let name = out.len();
        out.extend(self.name.iter().take(Self::NAME));
        out.resize(name + Self::NAME + 1, 0);
        let args = out.len();
        out.extend(self.args.iter().take(Self::ARGS).map(|byte| if *byte == 0 { b' ' } else { *byte }));
        out.resize(args + Self::ARGS + 1, 0);
        out
    }
}

/// The description of [`NT_FILE`], piece by piece.
#[derive(Debug, Default)]
pub struct FileNote {
    ranges: Vec<u8>,
    names: Vec<u8>,
    count: u64,
}

impl FileNote {
    /// Larger ones are left out (`MAX_FILE_NOTE_SIZE`).
    pub const MOST: usize = 4 << 20;

    /// A mapping of a file from byte `offset` on.
    pub fn add(&mut self, start: u64, end: u64, offset: u64, name: &[u8]) {
        for word in [start, end, offset / PAGE_SIZE] {
            self.ranges.extend_from_slice(&word.to_le_bytes());
        }
        self.names.extend_from_slice(name);
        self.names.push(0);
        self.count += 1;
    }

    /// Bytes so far.
    pub fn size(&self) -> usize {
        16 + self.ranges.len() + self.names.len()
    }

    /// As it is written: number, page size, ranges, names.
    pub fn to_bytes(&self) -> Vec<u8> {
        [&self.count.to_le_bytes()[..], &PAGE_SIZE.to_le_bytes(), &self.ranges, &self.names].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    #[test]
    fn sizes_are_those_of_linux() {
        let status = Prstatus { signal: 11, ids: [7, 1, 7, 7], ..Prstatus::default() };
        let bytes = status.to_bytes();
        // sizeof(struct elf_prstatus), offsetof(pr_pid), offsetof(pr_reg), offsetof(pr_fpvalid)
        assert_eq!(bytes.len(), Prstatus::SIZE);
        assert_eq!((bytes[0], bytes[12], bytes[32], bytes[328]), (11, 11, 7, 1));
        let info = Prpsinfo {
            state: (0, b'R'),
            owner: [1000, 1000],
            name: b"a-name-that-is-too-long".to_vec(),
            args: b"prog\0arg\0".to_vec(),
            ..Prpsinfo::default()
        };
        let bytes = info.to_bytes();
        // sizeof(struct elf_prpsinfo), offsetof(pr_fname), offsetof(pr_psargs)
        assert_eq!(bytes.len(), 136);
        assert_eq!(&bytes[40..56], b"a-name-that-is-\0");
        assert_eq!(&bytes[56..66], b"prog arg \0");
    }

    #[test]
    fn notes_are_aligned() {
        let mut out = Vec::new();
        NT_X86_XSTATE.put(&mut out, &[7; 5]);
        assert_eq!(out.len() as u64, NT_X86_XSTATE.size(5));
        assert_eq!(&out[..12], [6, 0, 0, 0, 5, 0, 0, 0, 2, 2, 0, 0]);
        assert_eq!(&out[12..28], b"LINUX\0\0\0\x07\x07\x07\x07\x07\0\0\0");
    }

    #[test]
    fn headers_lead_to_the_contents() {
        let segments = [
            CoreSegment { start: 0x1000, end: 0x3000, prot: 5, size: 0x1000 },
            CoreSegment { start: 0x7000, end: 0x9000, prot: 3, size: 0x2000 },
        ];
        let bytes = core_headers(100, &segments);
        assert_eq!(bytes.len(), 64 + 3 * 56);
        let header = |index: usize| &bytes[64 + index * 56..64 + (index + 1) * 56];
        assert_eq!((word(header(0), 8), word(header(0), 32)), (bytes.len() as u64, 100));
        // r-x is PF_R | PF_X, rw- is PF_R | PF_W.
        assert_eq!((header(1)[4], header(2)[4]), (5, 6));
        assert_eq!(word(header(1), 8), data_start(100, 2));
        assert_eq!(word(header(2), 8), data_start(100, 2) + 0x1000);
        assert!(core_trailer(2).is_empty());
    }

    #[test]
    fn more_headers_than_the_elf_header_can_say() {
        let segments = vec![CoreSegment { start: 0, end: 4096, prot: 1, size: 0 }; PN_XNUM];
        let bytes = core_headers(0, &segments);
        assert_eq!(&bytes[56..58], [0xff, 0xff]);
        assert_eq!(word(&bytes, 40), data_start(0, segments.len()));
        assert_eq!(&core_trailer(segments.len())[44..48], (PN_XNUM as u32 + 1).to_le_bytes());
    }

    #[test]
    fn files_come_after_their_ranges() {
        let mut note = FileNote::default();
        note.add(0x1000, 0x2000, 0x3000, b"/bin/x");
        let bytes = note.to_bytes();
        assert_eq!(bytes.len(), note.size());
        assert_eq!([0, 8, 16, 24, 32].map(|at| word(&bytes, at)), [1, 4096, 0x1000, 0x2000, 3]);
        assert_eq!(&bytes[40..], b"/bin/x\0");
    }
}
