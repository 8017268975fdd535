//! `/proc/PID/maps`, `smaps` and `smaps_rollup` (fs/proc/task_mmu.c).

use std::fmt::Write;

use super::{About, access};
use crate::fs::{Who, split_dev};
use crate::mm::{MapEntry, MapName};
use crate::{Errno, Result};

const PROT_READ: u32 = 1;
const PROT_WRITE: u32 = 2;
const PROT_EXEC: u32 = 4;
/// Only for those who may trace the process: `EACCES`. A zombie has none: an empty text.
fn entries(about: &About, who: Who<'_>, resident: bool) -> Result<Vec<MapEntry>> {
    let process = about.live()?;
    access::may_read(who, process).map_err(|_| Errno::EACCES)?;
    let Some(mm) = process.mm() else { return Ok(Vec::new()) };
    let task = who.task.cloned().or_else(|| process.any_task());
    let Some(root) = task.map(|task| task.fs().root()) else { return Ok(Vec::new()) };
    Ok(if resident { mm.maps_resident(&root) } else { mm.maps(&root) })
}

/// `show_map_vma()`: names begin at column 73.
fn head(out: &mut Vec<u8>, entry: &MapEntry) {
    let (major, minor) = split_dev(entry.dev);
    let flag = |bit, letter| if entry.prot & bit != 0 { letter } else { '-' };
    let line = format!(
        "{:08x}-{:08x} {}{}{}{} {:08x} {major:02x}:{minor:02x} {} ",
        entry.start,
        entry.end,
        flag(PROT_READ, 'r'),
        flag(PROT_WRITE, 'w'),
        flag(PROT_EXEC, 'x'),
        if entry.shared { 's' } else { 'p' },
        if matches!(entry.name, MapName::Path(_)) { entry.offset } else { 0 },
        entry.ino,
    );
    let name: &[u8] = match &entry.name {
        MapName::None => b"",
        MapName::Heap => b"[heap]",
        MapName::Stack => b"[stack]",
        MapName::Vvar => b"[vvar]",
        MapName::Vdso => b"[vdso]",
        MapName::Vsyscall => b"[vsyscall]",
        MapName::Path(path) => path,
    };
    if name.is_empty() {
        out.extend_from_slice(line.as_bytes());
    } else {
        out.extend_from_slice(format!("{line:<73}").as_bytes());
        for &byte in name {
            if byte == b'\n' { out.extend_from_slice(b"\\012") } else { out.push(byte) }
        }
    }
    out.push(b'\n');
}

/// `/proc/PID/maps`.
pub fn show(about: &About, who: Who<'_>) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    entries(about, who, false)?.iter().for_each(|entry| head(&mut out, entry));
    Ok(out)
}

/// What `smaps` says of resident memory, in bytes.
#[derive(Default)]
struct Sums {
    resident: u64,
    anonymous: u64,
    file: u64,
    shared_memory: u64,
    writable: u64,
}

impl Sums {
    fn add(&mut self, entry: &MapEntry) {
        self.resident += entry.memory.resident;
        let is_file = matches!(entry.name, MapName::Path(_)) && entry.ino != 0;
        match (is_file, entry.shared) {
            (true, _) if entry.prot & PROT_WRITE == 0 || entry.shared => self.file += entry.memory.resident,
            (false, true) => self.shared_memory += entry.memory.resident,
            _ => self.anonymous += entry.memory.resident,
        }
        if entry.prot & PROT_WRITE != 0 {
            self.writable += entry.memory.resident;
        }
    }
}

/// The host tells what is resident, not who shares it: proportional sizes are those of memory used alone.
fn body(out: &mut String, sums: &Sums, rollup: bool) {
    let clean = sums.resident - sums.writable.min(sums.resident);
    let dirty = sums.writable.min(sums.resident);
    let mut lines = vec![("Rss", sums.resident), ("Pss", sums.resident), ("Pss_Dirty", dirty)];
    if rollup {
        lines.extend([("Pss_Anon", sums.anonymous), ("Pss_File", sums.file), ("Pss_Shmem", sums.shared_memory)]);
    }
    lines.extend([
        ("Shared_Clean", 0),
        ("Shared_Dirty", 0),
        ("Private_Clean", clean),
        ("Private_Dirty", dirty),
        ("Referenced", sums.resident),
        ("Anonymous", sums.anonymous),
        ("KSM", 0),
        ("LazyFree", 0),
        ("AnonHugePages", 0),
        ("ShmemPmdMapped", 0),
        ("FilePmdMapped", 0),
        ("Shared_Hugetlb", 0),
        ("Private_Hugetlb", 0),
        ("Swap", 0),
        ("SwapPss", 0),
        ("Locked", 0),
    ]);
    for (name, bytes) in lines {
        _ = writeln!(out, "{:<16}{:>8} kB", format!("{name}:"), bytes / 1024);
    }
}

fn vm_flags(entry: &MapEntry) -> String {
    let mut flags = String::from("VmFlags: ");
    for (on, name) in [
        (entry.prot & PROT_READ != 0, "rd "),
        (entry.prot & PROT_WRITE != 0, "wr "),
        (entry.prot & PROT_EXEC != 0, "ex "),
        (entry.shared, "sh "),
        (true, "mr mw me "),
        (entry.shared, "ms "),
        (entry.name == MapName::Stack, "gd "),
        (entry.prot & PROT_WRITE != 0 && !entry.shared, "ac "),
    ] {
        if on {
            flags.push_str(name);
        }
    }
    flags.push('\n');
    flags
}

/// `/proc/PID/smaps`.
pub fn show_smaps(about: &About, who: Who<'_>) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for entry in entries(about, who, true)? {
        head(&mut out, &entry);
        let mut text = String::new();
        for (name, bytes) in [("Size", entry.end - entry.start), ("KernelPageSize", 4096), ("MMUPageSize", 4096)] {
            _ = writeln!(text, "{:<16}{:>8} kB", format!("{name}:"), bytes / 1024);
        }
        let mut sums = Sums::default();
        sums.add(&entry);
        body(&mut text, &sums, false);
        text.push_str("THPeligible:           0\n");
        text.push_str(&vm_flags(&entry));
        out.extend_from_slice(text.as_bytes());
    }
    Ok(out)
}

/// `/proc/PID/smaps_rollup`.
pub fn show_rollup(about: &About, who: Who<'_>) -> Result<Vec<u8>> {
    let entries = entries(about, who, true)?;
    if about.live()?.mm().is_none() {
        return Err(Errno::ESRCH);
    }
    let mut sums = Sums::default();
    entries.iter().for_each(|entry| sums.add(entry));
    let start = entries.first().map_or(0, |entry| entry.start);
    let end = entries.last().map_or(0, |entry| entry.end);
    let mut text = format!("{:<73}[rollup]\n", format!("{start:08x}-{end:08x} ---p 00000000 00:00 0 "));
    body(&mut text, &sums, true);
    Ok(text.into_bytes())
}
