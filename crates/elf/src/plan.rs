//! From a checked image and a base to the mappings that make it a program.

use std::ops::Range;

use crate::error::ElfError;
use crate::image::{Image, Kind, Segment};
use crate::{PROT_EXEC, PROT_READ, PROT_WRITE, TASK_SIZE, page_align, page_start};

/// One step, to be carried out in the order given: later steps replace what earlier ones put there, as
/// `MAP_FIXED` does. Addresses and lengths of the two kinds of mapping are page-aligned and lengths never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// `mmap(addr, len, prot, MAP_PRIVATE | MAP_FIXED, file, offset)`.
    MapFile {
        /// Where.
        addr: u64,
        /// Bytes.
        len: u64,
        /// `PROT_*` bits.
        prot: u32,
        /// Page-aligned offset in the file.
        offset: u64,
    },
    /// Clear memory: the rest of a page that a file mapping ends in. It was mapped writable; a page that is not
    /// keeps what the file has there (`elf_load()` ignores that failure).
    Zero {
        /// Where.
        addr: u64,
        /// Bytes, less than a page.
        len: u64,
    },
    /// `mmap(addr, len, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED)`.
    MapAnon {
        /// Where.
        addr: u64,
        /// Bytes.
        len: u64,
        /// `PROT_*` bits.
        prot: u32,
    },
}

impl Op {
    /// The addresses that the step changes.
    pub fn range(&self) -> Range<u64> {
        let (Self::MapFile { addr, len, .. } | Self::Zero { addr, len } | Self::MapAnon { addr, len, .. }) = *self;
        addr..addr.saturating_add(len)
    }
}

/// How to load one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadPlan {
    /// The steps.
    pub ops: Vec<Op>,
    /// Everything between the first and the last page, holes included; all steps lie inside.
    pub span: Range<u64>,
    /// What was added to the file's addresses, modulo 2^64. 0 for `ET_EXEC`. `AT_BASE` if this is the interpreter.
    pub bias: u64,
    /// Where to start (`AT_ENTRY` of a program).
    pub entry: u64,
    /// `AT_PHDR`: where the program headers are in memory. Linux gives the bias if no segment holds them.
    pub phdr: u64,
    /// `AT_PHNUM`.
    pub phnum: u16,
    /// End of the image, page-aligned: where the heap may start. See [`ProgramPlan::brk_moves`].
    pub brk: u64,
    /// From the start of the lowest to the end of the highest executable segment (`/proc/PID/stat`).
    pub code: Range<u64>,
    /// From the start of the highest segment to the end of the highest bytes from the file (`/proc/PID/stat`).
    pub data: Range<u64>,
}

impl LoadPlan {
    /// True if a step touches `range`.
    pub fn overlaps(&self, range: &Range<u64>) -> bool {
        self.ops.iter().map(Op::range).any(|op| op.start < range.end && range.start < op.end)
    }
}

impl Image {
    /// Plans the image at `base`, its lowest page (see [`crate::Placement::pick`]); rounded down to the alignment
    /// that the image wants. An `ET_EXEC` image has its own addresses and does not look at `base`.
    pub fn plan(&self, base: u64) -> Result<LoadPlan, ElfError> {
        let (low, high) = self.extent();
        let bias = match self.kind {
            Kind::Exec => 0,
            Kind::Dyn => (base & !self.align.saturating_sub(1)).wrapping_sub(low),
        };
        let start = low.wrapping_add(bias);
        let span = start..start.checked_add(high.saturating_sub(low)).ok_or(ElfError::NoRoom)?;
        if span.end > TASK_SIZE {
            return Err(ElfError::NoRoom);
        }
        let entry = self.entry.wrapping_add(bias);
        if entry >= TASK_SIZE {
            return Err(ElfError::Entry);
        }
        let mut ops = Vec::with_capacity(self.segments.len().saturating_mul(2));
        for segment in &self.segments {
            segment.push_ops(bias, &mut ops);
        }
        Ok(LoadPlan {
            ops,
            bias,
            entry,
            phdr: self.phdr_vaddr().wrapping_add(bias),
            phnum: self.phnum,
            brk: span.end,
            code: self.code(bias),
            data: self.data(bias),
            span,
        })
    }

    /// The last segment that holds the program headers; `PT_PHDR` means nothing to Linux.
    fn phdr_vaddr(&self) -> u64 {
        let holds =
            |segment: &&Segment| self.phoff.checked_sub(segment.offset).is_some_and(|at| at < segment.filesz);
        let found = self.segments.iter().rev().find(holds);
        found.map_or(0, |segment| self.phoff.wrapping_sub(segment.offset).wrapping_add(segment.vaddr))
    }

    fn code(&self, bias: u64) -> Range<u64> {
        let exec = || self.segments.iter().filter(|segment| segment.prot & PROT_EXEC != 0);
        let start = exec().map(|segment| segment.vaddr).min().unwrap_or(0);
        let end = exec().map(Segment::file_end).max().unwrap_or(0);
        start.wrapping_add(bias)..end.wrapping_add(bias)
    }

    fn data(&self, bias: u64) -> Range<u64> {
        let start = self.segments.iter().map(|segment| segment.vaddr).max().unwrap_or(0);
        let end = self.segments.iter().map(Segment::file_end).max().unwrap_or(0);
        start.wrapping_add(bias)..end.wrapping_add(bias)
    }
}

impl Segment {
    fn file_end(&self) -> u64 {
        self.vaddr.saturating_add(self.filesz)
    }

    /// `elf_load()`. The image's span was checked, so no sum of a biased address leaves user space.
    fn push_ops(&self, bias: u64, ops: &mut Vec<Op>) {
        let vaddr = self.vaddr.wrapping_add(bias);
        let first = page_start(vaddr);
        let mut zero_start = first;
        if self.filesz > 0 {
            let file_end = vaddr.saturating_add(self.filesz);
            zero_start = page_align(file_end);
            let len = zero_start.saturating_sub(first);
            ops.push(Op::MapFile { addr: first, len, prot: self.prot, offset: page_start(self.offset) });
            let tail = zero_start.saturating_sub(file_end);
            if self.memsz > self.filesz && tail > 0 && self.prot & PROT_WRITE != 0 {
                ops.push(Op::Zero { addr: file_end, len: tail });
            }
        }
        let zero_end = page_align(vaddr.saturating_add(self.memsz));
        if self.memsz > self.filesz && zero_end > zero_start {
            // vm_brk_flags() knows no other protection than that of a heap.
            let prot = PROT_READ | PROT_WRITE | (self.prot & PROT_EXEC);
            ops.push(Op::MapAnon { addr: zero_start, len: zero_end.saturating_sub(zero_start), prot });
        }
    }
}

/// A program with the interpreter that starts it, if it has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramPlan {
    /// The program.
    pub exe: LoadPlan,
    /// What `PT_INTERP` names.
    pub interp: Option<LoadPlan>,
    /// The program wants an executable stack.
    pub exec_stack: bool,
    /// A static PIE: its image lies among the mappings, so Linux moves the heap to `ELF_ET_DYN_BASE` when it
    /// randomises addresses.
    pub brk_moves: bool,
}

impl ProgramPlan {
    /// Plans a program at `base` and its interpreter (the image and its own base) together. They must not
    /// overlap: the caller reserved a gap for each.
    pub fn new(exe: &Image, base: u64, interp: Option<(&Image, u64)>) -> Result<Self, ElfError> {
        let plan = exe.plan(base)?;
        let loader = interp.map(|(image, base)| image.plan(base)).transpose();
        let loader = loader.map_err(|error| ElfError::Interpreter(Box::new(error)))?;
        if loader.as_ref().is_some_and(|loader| loader.ops.iter().any(|op| plan.overlaps(&op.range()))) {
            return Err(ElfError::NoRoom);
        }
        let brk_moves = exe.kind == Kind::Dyn && loader.is_none();
        Ok(Self { exe: plan, interp: loader, exec_stack: exe.exec_stack, brk_moves })
    }

    /// First instruction: the interpreter's if there is one.
    pub fn start(&self) -> u64 {
        self.interp.as_ref().map_or(self.exe.entry, |interp| interp.entry)
    }

    /// `AT_BASE`.
    pub fn at_base(&self) -> u64 {
        self.interp.as_ref().map_or(0, |interp| interp.bias)
    }
}
