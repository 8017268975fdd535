//! `/sys/fs/cgroup` (Documentation/admin-guide/cgroup-v2.rst): what the sandbox was granted and uses. All
//! processes are in the one group there is.

use std::fmt::Write;

use super::line;
use crate::Result;
use crate::fs::Who;
use crate::fs::proc::{cpu_list, cpu_time, memory};
use crate::fs::synth::{About, Entry, What};

pub static TOP: Entry = Entry { name: "", mode: 0o555, what: What::Dir(&[ENTRIES]) };

const ENTRIES: &[Entry] = &[
    Entry::text("cgroup.controllers", 0o444, |_, _| line("cpuset cpu memory pids")),
    Entry::text("cgroup.events", 0o444, |_, _| line("populated 1\nfrozen 0")),
    Entry::text("cgroup.freeze", 0o644, |_, _| line(0)),
    Entry::text("cgroup.max.depth", 0o644, |_, _| line("max")),
    Entry::text("cgroup.max.descendants", 0o644, |_, _| line("max")),
    Entry::text("cgroup.procs", 0o644, show_processes),
    Entry::text("cgroup.stat", 0o444, |_, _| line("nr_descendants 0\nnr_dying_descendants 0")),
    Entry::text("cgroup.subtree_control", 0o644, |_, _| line("")),
    Entry::text("cgroup.threads", 0o644, show_threads),
    Entry::text("cgroup.type", 0o644, |_, _| line("domain")),
    Entry::text("cpu.max", 0o644, |about, _| {
        line(format_args!("{} 100000", about.world.config.cpus.len() * 100_000))
    }),
    Entry::text("cpu.max.burst", 0o644, |_, _| line(0)),
    Entry::text("cpu.stat", 0o444, show_cpu),
    Entry::text("cpu.weight", 0o644, |_, _| line(100)),
    Entry::text("cpuset.cpus", 0o644, show_cpus),
    Entry::text("cpuset.cpus.effective", 0o444, show_cpus),
    Entry::text("cpuset.mems", 0o644, |_, _| line("0")),
    Entry::text("cpuset.mems.effective", 0o444, |_, _| line("0")),
    Entry::text("memory.current", 0o444, |about, _| line(used(about))),
    Entry::text("memory.events", 0o444, |_, _| line("low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0")),
    Entry::text("memory.high", 0o644, |_, _| line("max")),
    Entry::text("memory.low", 0o644, |_, _| line(0)),
    Entry::text("memory.max", 0o644, |about, _| line(or_max(about.world.config.memory_limit))),
    Entry::text("memory.min", 0o644, |_, _| line(0)),
    Entry::text("memory.oom.group", 0o644, |_, _| line(0)),
    Entry::text("memory.peak", 0o644, |about, _| line(used(about))),
    Entry::text("memory.stat", 0o444, show_memory),
    Entry::text("memory.swap.current", 0o444, |_, _| line(0)),
    Entry::text("memory.swap.max", 0o644, |_, _| line(0)),
    Entry::text("pids.current", 0o444, |about, _| line(about.world.tree.lock().charged())),
    Entry::text("pids.max", 0o644, |about, _| line(or_max(about.world.config.pids_limit.map(u64::from)))),
];

fn or_max(limit: Option<u64>) -> String {
    limit.map_or_else(|| String::from("max"), |limit| limit.to_string())
}

fn used(about: &About) -> u64 {
    let memory = memory(&about.world);
    memory.total.saturating_sub(memory.free)
}

fn show_processes(about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    let living = about.world.processes().into_iter().filter(|process| !process.tasks().is_empty());
    Ok(living.map(|process| format!("{}\n", process.pid)).collect::<String>().into_bytes())
}

fn show_threads(about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    let threads = about.world.processes().into_iter().flat_map(|process| process.tasks());
    Ok(threads.map(|task| format!("{}\n", task.tid())).collect::<String>().into_bytes())
}

fn show_cpus(about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    line(cpu_list(&about.world.config.cpus))
}

fn show_cpu(about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    let (user, system) = cpu_time(&about.world);
    line(format_args!(
        "usage_usec {}\nuser_usec {}\nsystem_usec {}\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0",
        (user + system).as_micros(),
        user.as_micros(),
        system.as_micros()
    ))
}

fn show_memory(about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    let memory = memory(&about.world);
    let mut text = String::new();
    for (name, bytes) in [
        ("anon", memory.anonymous),
        ("file", memory.mapped.saturating_add(memory.shared)),
        ("kernel", memory.page_tables),
        ("kernel_stack", 0),
        ("pagetables", memory.page_tables),
        ("sock", 0),
        ("shmem", memory.shared),
        ("file_mapped", memory.mapped),
        ("file_dirty", 0),
        ("file_writeback", 0),
        ("inactive_anon", memory.shared),
        ("active_anon", memory.anonymous),
        ("inactive_file", 0),
        ("active_file", memory.mapped),
        ("unevictable", 0),
        ("slab", 0),
    ] {
        _ = writeln!(text, "{name} {bytes}");
    }
    Ok(text.into_bytes())
}
