//! `/sys/devices/system/{cpu,node}`: the granted CPUs under the host's numbers, and one node with all memory.

use std::fmt::Write;

use super::caches::{self, Cache};
use super::{granted, line, numbered};
use crate::fs::proc::{Cpu, cpu_list, cpu_mask, cpus, memory};
use crate::fs::synth::{About, Entry, Names, What};
use crate::fs::{S_IFDIR, S_IFLNK, Target, Who};
use crate::{Errno, Result};

pub const CPUS: Entry = Entry { name: "cpu", mode: 0o555, what: What::Varying(&[FILES], CPU_NAMES) };

const FILES: &[Entry] = &[
    Entry::text("isolated", 0o444, |_, _| line("")),
    Entry::text("kernel_max", 0o444, |_, _| line(8191)),
    Entry::text("modalias", 0o444, |_, _| line("cpu:type:x86")),
    Entry::text("offline", 0o444, |_, _| line("")),
    Entry::text("online", 0o444, show_list),
    Entry::text("possible", 0o444, show_list),
    Entry::text("present", 0o444, show_list),
    Entry::dir(
        "smt",
        &[&[
            Entry::text("active", 0o444, |about, _| {
                line(u32::from(cpus(about).iter().any(|cpu| siblings(about, cpu).len() > 1)))
            }),
            Entry::text("control", 0o644, |_, _| line("notsupported")),
        ]],
    ),
    Entry::dir("vulnerabilities", &[]),
];

const CPU_NAMES: Names = Names {
    list: |about| Ok(about.world.config.cpus.iter().map(|cpu| format!("cpu{cpu}")).collect()),
    find: |about, name| Ok((granted(about, numbered(name, "cpu")?)?, &CPU)),
    kind: S_IFDIR,
};

static CPU: Entry = Entry {
    name: "cpuN",
    mode: 0o555,
    what: What::Dir(&[&[
        Entry { name: "cache", mode: 0o555, what: What::Varying(&[], CACHE_NAMES) },
        Entry::dir("node0", &[]),
        Entry::text("online", 0o644, |_, _| line(1)),
        Entry::dir("topology", &[TOPOLOGY]),
        Entry::text("uevent", 0o644, |_, _| line("DRIVER=processor")),
    ]]),
};

/// Files come in pairs: a mask, and the same as a list.
const TOPOLOGY: &[Entry] = &[
    Entry::text("cluster_id", 0o444, |_, _| line(65535)),
    Entry::text("core_cpus", 0o444, |about, _| with(about, |cpu| cpu_mask(&siblings(about, cpu)))),
    Entry::text("core_cpus_list", 0o444, |about, _| with(about, |cpu| cpu_list(&siblings(about, cpu)))),
    Entry::text("core_id", 0o444, |about, _| with(about, |cpu| cpu.field("core id").unwrap_or("0").to_owned())),
    Entry::text("core_siblings", 0o444, |about, _| with(about, |cpu| cpu_mask(&package(about, cpu)))),
    Entry::text("core_siblings_list", 0o444, |about, _| with(about, |cpu| cpu_list(&package(about, cpu)))),
    Entry::text("die_cpus", 0o444, |about, _| with(about, |cpu| cpu_mask(&package(about, cpu)))),
    Entry::text("die_cpus_list", 0o444, |about, _| with(about, |cpu| cpu_list(&package(about, cpu)))),
    Entry::text("die_id", 0o444, |_, _| line(0)),
    Entry::text("package_cpus", 0o444, |about, _| with(about, |cpu| cpu_mask(&package(about, cpu)))),
    Entry::text("package_cpus_list", 0o444, |about, _| with(about, |cpu| cpu_list(&package(about, cpu)))),
    Entry::text("physical_package_id", 0o444, |about, _| {
        with(about, |cpu| cpu.field("physical id").unwrap_or("0").to_owned())
    }),
    Entry::text("thread_siblings", 0o444, |about, _| with(about, |cpu| cpu_mask(&siblings(about, cpu)))),
    Entry::text("thread_siblings_list", 0o444, |about, _| with(about, |cpu| cpu_list(&siblings(about, cpu)))),
];

fn show_list(about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    line(cpu_list(&about.world.config.cpus))
}

fn with(about: &About, tell: impl FnOnce(&Cpu) -> String) -> Result<Vec<u8>> {
    let cpus = cpus(about);
    let cpu = cpus.iter().find(|cpu| cpu.number == about.number).ok_or(Errno::ENODEV)?;
    line(tell(cpu))
}

/// CPUs of the same core, or of the same package, this one included.
fn siblings(about: &About, cpu: &Cpu) -> Vec<usize> {
    sharing(about, cpu, &["physical id", "core id"])
}

fn package(about: &About, cpu: &Cpu) -> Vec<usize> {
    sharing(about, cpu, &["physical id"])
}

fn sharing(about: &About, cpu: &Cpu, fields: &[&str]) -> Vec<usize> {
    // A host that does not tell has a core and a package for each CPU.
    if cpu.field("physical id").is_none() {
        return vec![cpu.number];
    }
    let all = cpus(about);
    let same = all.iter().filter(|other| fields.iter().all(|field| other.field(field) == cpu.field(field)));
    same.map(|other| other.number).collect()
}

const CACHE_NAMES: Names = Names {
    list: |_| Ok((0..caches::caches().len()).map(|index| format!("index{index}")).collect()),
    find: |about, name| {
        let index = numbered(name, "index")?;
        if index >= caches::caches().len() {
            return Err(Errno::ENOENT);
        }
        // The CPU's number stays; the cache's goes into the mode, which directories do not show.
        let entry = CACHES.get(index).ok_or(Errno::ENOENT)?;
        Ok((about.clone(), entry))
    },
    kind: S_IFDIR,
};

/// Files of the cache with this index.
macro_rules! cache_dir {
    ($index:literal) => {
        Entry {
            name: "indexN",
            mode: 0o555,
            what: What::Dir(&[&[
                Entry::text("coherency_line_size", 0o444, |_, _| cache($index, |cache| cache.line.to_string())),
                Entry::text("id", 0o444, |about, _| line(shared_by($index, about).first().copied().unwrap_or(0))),
                Entry::text("level", 0o444, |_, _| cache($index, |cache| cache.level.to_string())),
                Entry::text("number_of_sets", 0o444, |_, _| cache($index, |cache| cache.sets.to_string())),
                Entry::text("physical_line_partition", 0o444, |_, _| line(1)),
                Entry::text("shared_cpu_list", 0o444, |about, _| line(cpu_list(&shared_by($index, about)))),
                Entry::text("shared_cpu_map", 0o444, |about, _| line(cpu_mask(&shared_by($index, about)))),
                Entry::text("size", 0o444, |_, _| cache($index, |cache| format!("{}K", cache.size() / 1024))),
                Entry::text("type", 0o444, |_, _| cache($index, |cache| cache.kind.to_owned())),
                Entry::text("ways_of_associativity", 0o444, |_, _| cache($index, |cache| cache.ways.to_string())),
            ]]),
        }
    };
}

static CACHES: [Entry; 5] = [cache_dir!(0), cache_dir!(1), cache_dir!(2), cache_dir!(3), cache_dir!(4)];

fn cache(index: usize, tell: impl FnOnce(&Cache) -> String) -> Result<Vec<u8>> {
    line(tell(caches::caches().get(index).ok_or(Errno::ENODEV)?))
}

/// Caches used by more threads than a core has are the package's.
fn shared_by(index: usize, about: &About) -> Vec<usize> {
    let all = cpus(about);
    let Some(cpu) = all.iter().find(|cpu| cpu.number == about.number) else { return vec![about.number] };
    let core = siblings(about, cpu);
    match caches::caches().get(index) {
        Some(cache) if cache.shared_by > core.len() && cache.level > 2 => package(about, cpu),
        _ => core,
    }
}

pub const NODES: &[Entry] = &[
    Entry::text("has_cpu", 0o444, |_, _| line(0)),
    Entry::text("has_memory", 0o444, |_, _| line(0)),
    Entry::text("has_normal_memory", 0o444, |_, _| line(0)),
    Entry {
        name: "node0",
        mode: 0o555,
        what: What::Varying(
            &[&[
                Entry::text("cpulist", 0o444, show_list),
                Entry::text("cpumap", 0o444, |about, _| line(cpu_mask(&about.world.config.cpus))),
                Entry::text("distance", 0o444, |_, _| line(10)),
                Entry::text("meminfo", 0o444, show_node_memory),
                Entry::text("numastat", 0o444, |_, _| {
                    line("numa_hit 0\nnuma_miss 0\nnuma_foreign 0\ninterleave_hit 0\nlocal_node 0\nother_node 0")
                }),
                Entry::dir("hugepages", &[super::memory::NODE_HUGE_PAGES]),
            ]],
            NODE_CPUS,
        ),
    },
    Entry::text("online", 0o444, |_, _| line(0)),
    Entry::text("possible", 0o444, |_, _| line(0)),
];

/// A node's CPUs are links to them.
const NODE_CPUS: Names = Names {
    list: CPU_NAMES.list,
    find: |about, name| Ok((granted(about, numbered(name, "cpu")?)?, &NODE_CPU)),
    kind: S_IFLNK,
};

static NODE_CPU: Entry = Entry {
    name: "cpuN",
    mode: 0o777,
    what: What::Link(|about, _| Ok(Target::Text(format!("../../cpu/cpu{}", about.number).into_bytes()))),
};

fn show_node_memory(about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    let memory = memory(&about.world);
    let mut text = String::new();
    for (name, bytes) in [
        ("MemTotal", memory.total),
        ("MemFree", memory.free),
        ("MemUsed", memory.total.saturating_sub(memory.free)),
        ("AnonPages", memory.anonymous),
        ("Mapped", memory.mapped),
        ("Shmem", memory.shared),
    ] {
        _ = writeln!(text, "Node 0 {:<16}{:>8} kB", format!("{name}:"), bytes / 1024);
    }
    Ok(text.into_bytes())
}
