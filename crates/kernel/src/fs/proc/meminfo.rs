//! `/proc/meminfo`, and the numbers behind it, which `sysinfo(2)` and the cgroup files tell, too.

use std::collections::HashSet;
use std::fmt::Write;
use std::sync::Arc;

use super::About;
use crate::Result;
use crate::fs::Who;
use crate::world::World;

/// Memory of a sandbox, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    pub total: u64,
    pub free: u64,
    pub available: u64,
    /// Anonymous memory of the guests.
    pub anonymous: u64,
    /// Shared memory and files kept in memory.
    pub shared: u64,
    /// Pages of host files that the guests have mapped, each counted once for the largest user.
    pub mapped: u64,
    /// Address space that has been handed out.
    pub committed: u64,
    pub page_tables: u64,
}

/// What is used now.
pub fn memory(world: &Arc<World>) -> Memory {
    let mut sum = Memory { total: world.config.memory, ..Memory::default() };
    let mut seen = HashSet::new();
    for process in world.processes() {
        let Some(mm) = process.mm() else { continue };
        // Processes that share an address space (vfork) count once.
        if !seen.insert(Arc::as_ptr(&mm) as usize) {
            continue;
        }
        let used = mm.space.usage();
        let files = used.resident.saturating_sub(used.resident_anonymous).saturating_sub(used.resident_shared);
        sum.anonymous = sum.anonymous.saturating_add(used.resident_anonymous);
        sum.shared = sum.shared.saturating_add(used.resident_shared);
        sum.mapped = sum.mapped.max(files);
        sum.committed = sum.committed.saturating_add(used.resident_anonymous);
        sum.page_tables = sum.page_tables.saturating_add((used.resident / 512).next_multiple_of(4096));
    }
    // What is mapped of files in memory is among both.
    sum.shared = sum.shared.max(world.vfs.budget.state().1);
    let fixed = sum.anonymous.saturating_add(sum.shared).saturating_add(sum.page_tables);
    sum.available = sum.total.saturating_sub(fixed);
    sum.free = sum.available.saturating_sub(sum.mapped);
    sum
}

/// `/proc/meminfo` (fs/proc/meminfo.c).
pub fn show(about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    let memory = memory(&about.world);
    let cached = memory.shared.saturating_add(memory.mapped);
    let mut text = String::new();
    for (name, bytes) in [
        ("MemTotal", memory.total),
        ("MemFree", memory.free),
        ("MemAvailable", memory.available),
        ("Buffers", 0),
        ("Cached", cached),
        ("SwapCached", 0),
        ("Active", memory.anonymous.saturating_add(memory.mapped)),
        ("Inactive", memory.shared),
        ("Active(anon)", memory.anonymous),
        ("Inactive(anon)", memory.shared),
        ("Active(file)", memory.mapped),
        ("Inactive(file)", 0),
        ("Unevictable", 0),
        ("Mlocked", 0),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Dirty", 0),
        ("Writeback", 0),
        ("AnonPages", memory.anonymous),
        ("Mapped", memory.mapped),
        ("Shmem", memory.shared),
        ("KReclaimable", 0),
        ("Slab", 0),
        ("SReclaimable", 0),
        ("SUnreclaim", 0),
        ("KernelStack", 0),
        ("PageTables", memory.page_tables),
        ("SecPageTables", 0),
        ("NFS_Unstable", 0),
        ("Bounce", 0),
        ("WritebackTmp", 0),
        ("CommitLimit", memory.total / 2),
        ("Committed_AS", memory.committed.saturating_add(memory.shared)),
        ("VmallocTotal", 34_359_738_367 << 10),
        ("VmallocUsed", 0),
        ("VmallocChunk", 0),
        ("Percpu", 0),
        ("AnonHugePages", 0),
        ("ShmemHugePages", 0),
        ("ShmemPmdMapped", 0),
        ("FileHugePages", 0),
        ("FilePmdMapped", 0),
    ] {
        _ = writeln!(text, "{:<16}{:>8} kB", format!("{name}:"), bytes / 1024);
    }
    for name in ["HugePages_Total", "HugePages_Free", "HugePages_Rsvd", "HugePages_Surp"] {
        _ = writeln!(text, "{:<16}{:>8}", format!("{name}:"), 0);
    }
    text.push_str("Hugepagesize:       2048 kB\nHugetlb:               0 kB\n");
    _ = writeln!(text, "{:<16}{:>8} kB", "DirectMap4k:", memory.total / 1024);
    Ok(text.into_bytes())
}
