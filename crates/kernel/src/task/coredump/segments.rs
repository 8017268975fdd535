//! Which mappings go into a core, and how much of them (`dump_vma_snapshot()` and `dump_user_range()` in
//! fs/coredump.c).

use coracle_elf::corefile::CoreSegment;
use coracle_platform::{Space, Touched};

use super::write::{Stop, Writer};
use crate::abi::PAGE_SIZE;
use crate::mm::{AddressSpace, MapEntry, MapName};

const PROT_READ: u32 = 1;
const PROT_WRITE: u32 = 2;
const PROT_EXEC: u32 = 4;

/// Bits of `/proc/PID/coredump_filter` (core(5)).
const ANON_PRIVATE: u32 = 1 << 0;
const ANON_SHARED: u32 = 1 << 1;
const MAPPED_PRIVATE: u32 = 1 << 2;
const MAPPED_SHARED: u32 = 1 << 3;
const ELF_HEADERS: u32 = 1 << 4;
const HUGETLB_PRIVATE: u32 = 1 << 5;
const HUGETLB_SHARED: u32 = 1 << 6;
/// All that Linux knows, DAX among them.
pub const FILTER: u32 = 0x1ff;

/// One mapping of the core.
pub struct Part {
    pub segment: CoreSegment,
    contents: Contents,
}

/// Where the bytes of a segment come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// Pages that were touched; the rest is a hole.
    Touched,
    /// Whatever reading gives.
    Read,
    /// A hole.
    Nothing,
}

/// All mappings; those that do not go into the core have no size.
pub fn plan(mm: &AddressSpace, maps: &[MapEntry], filter: u32) -> Vec<Part> {
    let part = |entry: &MapEntry| {
        let (size, contents) = choose(mm, entry, filter);
        let segment = CoreSegment { start: entry.start, end: entry.end, prot: entry.prot, size };
        Part { segment, contents }
    };
    maps.iter().map(part).collect()
}

/// `vma_dump_size()`.
fn choose(mm: &AddressSpace, entry: &MapEntry, filter: u32) -> (u64, Contents) {
    let whole = entry.end.saturating_sub(entry.start);
    let has = |bit: u32| filter & bit != 0;
    let no = (0, Contents::Nothing);
    let when = |wanted: bool, contents| if wanted { (whole, contents) } else { no };
    let file = entry.host.and_then(|id| mm.mapped_file(id));
    match entry.name {
        MapName::Vdso => return (whole, Contents::Read),
        // Not memory to Linux: pages without a `struct page`.
        MapName::Vvar | MapName::Vsyscall => return (whole, Contents::Nothing),
        _ if entry.memory.dont_dump => return no,
        _ if entry.memory.huge => {
            return when(has(if entry.shared { HUGETLB_SHARED } else { HUGETLB_PRIVATE }), Contents::Read);
        }
        _ => {}
    }
    if entry.shared {
        let linked = file.is_some_and(|(_, links)| links > 0);
        return when(has(if linked { MAPPED_SHARED } else { ANON_SHARED }), Contents::Read);
    }
    // In text of files what was written is our own work: call sites (docs/architecture.md).
    let rewritten = file.is_some() && entry.prot & (PROT_WRITE | PROT_EXEC) == PROT_EXEC;
    if entry.memory.own > 0 && !rewritten && has(ANON_PRIVATE) {
        return (whole, if file.is_some() { Contents::Read } else { Contents::Touched });
    }
    let Some((mode, _)) = file else { return no };
    if has(MAPPED_PRIVATE) {
        return (whole, Contents::Read);
    }
    let header = || mode & 0o111 != 0 || begins_as_elf(mm, entry.start);
    if has(ELF_HEADERS) && entry.offset == 0 && entry.prot & PROT_READ != 0 && header() {
        return (whole.min(PAGE_SIZE), Contents::Read);
    }
    no
}

fn begins_as_elf(mm: &AddressSpace, start: u64) -> bool {
    let mut magic = [0; 4];
    mm.space.peek(start, &mut magic) == magic.len() && magic == *b"\x7fELF"
}

/// So many bytes are read at a time.
const CHUNK: usize = 256 << 10;
const PAGE: usize = PAGE_SIZE as usize;

/// Writes the contents of a segment. Pages of zeros are holes, as are those that cannot be read.
pub fn copy(writer: &mut Writer<'_>, space: &dyn Space, part: &Part) -> Result<(), Stop> {
    let CoreSegment { start, size, .. } = part.segment;
    match part.contents {
        Contents::Nothing => writer.skip(size),
        Contents::Read => read(writer, space, start, size)?,
        Contents::Touched => touched(writer, space, start, size)?,
    }
    Ok(())
}

/// Looking first, for reading would fill untouched memory with pages.
fn touched(writer: &mut Writer<'_>, space: &dyn Space, start: u64, size: u64) -> Result<(), Stop> {
    let end = start.saturating_add(size);
    let mut at = start;
    while at < end {
        writer.check()?;
        match space.touched(at, end) {
            Touched::Run(from, to) if at <= from && from < to && to <= end => {
                writer.skip(from - at);
                read(writer, space, from, to - from)?;
                at = to;
            }
            Touched::NotBefore(until) if at < until && until <= end => {
                writer.skip(until - at);
                at = until;
            }
            Touched::Gone => return Err(Stop),
            _ => return read(writer, space, at, end - at),
        }
    }
    Ok(())
}

fn read(writer: &mut Writer<'_>, space: &dyn Space, start: u64, size: u64) -> Result<(), Stop> {
    let mut buffer = vec![0; CHUNK.min(usize::try_from(size).unwrap_or(CHUNK))];
    let mut done = 0;
    while done < size {
        let want = buffer.len().min(usize::try_from(size - done).unwrap_or(CHUNK));
        let piece = buffer.get_mut(..want).unwrap_or_default();
        let whole = space.peek(start + done, piece) / PAGE * PAGE;
        let piece = piece.get(..whole).unwrap_or_default();
        for (zero, bytes) in runs(piece) {
            if zero { writer.skip(bytes.len() as u64) } else { writer.pages(bytes)? }
        }
        done += whole as u64;
        if whole < want {
            writer.check()?;
            writer.skip(PAGE_SIZE);
            done += PAGE_SIZE;
        }
    }
    Ok(())
}

/// Cuts pages into runs of pages that hold nothing but zeros (`true`) and of others.
fn runs(bytes: &[u8]) -> Vec<(bool, &[u8])> {
    let mut out: Vec<(bool, &[u8])> = Vec::new();
    let mut begin = 0;
    let is_zero = |page: &[u8]| page.iter().all(|byte| *byte == 0);
    let pages: Vec<bool> = bytes.chunks(PAGE).map(is_zero).collect();
    for run in pages.chunk_by(|a, b| a == b) {
        let end = (begin + run.len() * PAGE).min(bytes.len());
        out.push((run.first() == Some(&true), bytes.get(begin..end).unwrap_or_default()));
        begin = end;
    }
    out
}
