//! `/proc/PID/maps`, `smaps`, `smaps_rollup` and `numa_maps` (fs/proc/task_mmu.c).

use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use std::sync::Arc;

use coracle_platform::{MapMemory, Shares};

use super::{About, access};
use crate::abi::PAGE_SIZE;
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

/// What `smaps` says of memory, in bytes.
#[derive(Default)]
struct Sums {
    resident: u64,
    shares: Shares,
    /// Of the proportional size: anonymous, of files, of shared memory.
    parts: [u64; 3],
}

impl Sums {
    fn add(&mut self, entry: &MapEntry, users: &Users) {
        let memory = &entry.memory;
        let shares = match entry.host.and_then(|host| users.get(&host)) {
            Some(users) => of_file(memory, entry.shared, (*users).max(1)),
            None => memory.shares,
        };
        let own = shares.anonymous.min(shares.proportional);
        let [anonymous, file, shared] = &mut self.parts;
        if entry.host.is_some() {
            *anonymous += own;
            *file += shares.proportional - own;
        } else if entry.shared {
            *shared += shares.proportional;
        } else {
            *anonymous += shares.proportional;
        }
        self.resident += memory.resident;
        let (sum, add) = (&mut self.shares, shares);
        for (sum, add) in [
            (&mut sum.proportional, add.proportional),
            (&mut sum.proportional_dirty, add.proportional_dirty),
            (&mut sum.shared_clean, add.shared_clean),
            (&mut sum.shared_dirty, add.shared_dirty),
            (&mut sum.private_clean, add.private_clean),
            (&mut sum.private_dirty, add.private_dirty),
            (&mut sum.referenced, add.referenced),
            (&mut sum.anonymous, add.anonymous),
            (&mut sum.lazily_freed, add.lazily_freed),
            (&mut sum.huge, add.huge),
            (&mut sum.swap, add.swap),
            (&mut sum.swap_proportional, add.swap_proportional),
            (&mut sum.locked, add.locked),
        ] {
            *sum = sum.saturating_add(add);
        }
    }
}

/// How many address spaces of the sandbox have mapped a file, by what the host knows it.
type Users = HashMap<(u64, u64), u64>;

fn users(about: &About) -> Users {
    let mut users = Users::new();
    let mut seen = HashSet::new();
    for mm in about.world.processes().into_iter().filter_map(|process| process.mm()) {
        if seen.insert(Arc::as_ptr(&mm) as usize) {
            mm.mapped_files().into_iter().for_each(|file| *users.entry(file).or_insert(0) += 1);
        }
    }
    users
}

/// The host's own figures for pages of a file would tell of programs outside, so those that are the file's still are
/// divided by the users inside. What was written to privately is anonymous, and taken for the process's own.
fn of_file(memory: &MapMemory, shared: bool, users: u64) -> Shares {
    let shares = memory.shares;
    let own = shares.anonymous.min(memory.resident);
    let file = memory.resident - own;
    // Copies of text in memory count as dirty with the host.
    let dirty =
        if shared { (shares.shared_dirty + shares.private_dirty).saturating_sub(own).min(file) } else { 0 };
    let clean = file - dirty;
    let (shared_clean, shared_dirty) = if users > 1 { (clean, dirty) } else { (0, 0) };
    Shares {
        proportional: own + file / users,
        proportional_dirty: own + dirty / users,
        shared_clean,
        shared_dirty,
        private_clean: clean - shared_clean,
        private_dirty: own + dirty - shared_dirty,
        swap_proportional: shares.swap,
        ..shares
    }
}

fn body(out: &mut String, sums: &Sums, rollup: bool) {
    let Sums { resident, shares, parts: [anonymous, file, shared] } = sums;
    let mut lines =
        vec![("Rss", *resident), ("Pss", shares.proportional), ("Pss_Dirty", shares.proportional_dirty)];
    if rollup {
        lines.extend([("Pss_Anon", *anonymous), ("Pss_File", *file), ("Pss_Shmem", *shared)]);
    }
    lines.extend([
        ("Shared_Clean", shares.shared_clean),
        ("Shared_Dirty", shares.shared_dirty),
        ("Private_Clean", shares.private_clean),
        ("Private_Dirty", shares.private_dirty),
        ("Referenced", shares.referenced),
        ("Anonymous", shares.anonymous),
        ("KSM", 0),
        ("LazyFree", shares.lazily_freed),
        ("AnonHugePages", shares.huge),
        ("ShmemPmdMapped", 0),
        ("FilePmdMapped", 0),
        ("Shared_Hugetlb", 0),
        ("Private_Hugetlb", 0),
        ("Swap", shares.swap),
        ("SwapPss", shares.swap_proportional),
        ("Locked", shares.locked),
    ]);
    for (name, bytes) in lines {
        _ = writeln!(out, "{:<16}{:>8} kB", format!("{name}:"), bytes / 1024);
    }
}

/// `/proc/PID/numa_maps` (show_numa_map() in fs/proc/task_mmu.c): there is one node.
pub fn show_numa(about: &About, who: Who<'_>) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for entry in entries(about, who, true)? {
        let pages = |bytes: u64| bytes / PAGE_SIZE;
        out.extend_from_slice(format!("{:08x} default", entry.start).as_bytes());
        match &entry.name {
            MapName::Heap => out.extend_from_slice(b" heap"),
            MapName::Stack => out.extend_from_slice(b" stack"),
            MapName::Path(path) => {
                out.extend_from_slice(b" file=");
                for &byte in path.iter() {
                    match byte {
                        b'\n' | b'\t' | b'=' => out.extend_from_slice(format!("\\{byte:03o}").as_bytes()),
                        _ => out.push(byte),
                    }
                }
            }
            _ => {}
        }
        let (all, shares) = (pages(entry.memory.resident), entry.memory.shares);
        let anonymous = pages(shares.anonymous);
        let dirty = pages(shares.shared_dirty.saturating_add(shares.private_dirty));
        let mut text = String::new();
        if all > 0 {
            for (name, count) in [("anon", anonymous), ("dirty", dirty)] {
                if count > 0 {
                    _ = write!(text, " {name}={count}");
                }
            }
            if all != anonymous && all != dirty {
                _ = write!(text, " mapped={all}");
            }
            _ = write!(text, " N0={all} kernelpagesize_kB=4");
        }
        text.push('\n');
        out.extend_from_slice(text.as_bytes());
    }
    Ok(out)
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
    let users = users(about);
    for entry in entries(about, who, true)? {
        head(&mut out, &entry);
        let mut text = String::new();
        for (name, bytes) in [("Size", entry.end - entry.start), ("KernelPageSize", 4096), ("MMUPageSize", 4096)] {
            _ = writeln!(text, "{:<16}{:>8} kB", format!("{name}:"), bytes / 1024);
        }
        let mut sums = Sums::default();
        sums.add(&entry, &users);
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
    let users = users(about);
    entries.iter().for_each(|entry| sums.add(entry, &users));
    let start = entries.first().map_or(0, |entry| entry.start);
    let end = entries.last().map_or(0, |entry| entry.end);
    let mut text = format!("{:<73}[rollup]\n", format!("{start:08x}-{end:08x} ---p 00000000 00:00 0 "));
    body(&mut text, &sums, true);
    Ok(text.into_bytes())
}
