//! `/sys` (sysfs(5)), as far as programs size themselves by it, and `/sys/fs/cgroup` (cgroups(7), version 2).

mod caches;
mod cgroup;
mod cpu;

use std::sync::Arc;

use super::synth::{About, Entry, Mounted, Rules, What};
use super::{Access, FileSystem, make_dev};
use crate::world::World;
use crate::{Errno, Result};

static RULES: Rules = Rules {
    kind: "sysfs",
    magic: 0x6265_6572,
    dev: make_dev(0, 65),
    volatile: false,
    owner: |_| (0, 0),
    // Nothing here can be set, by whomever.
    permission: |_, _, access| access.contains(Access::WRITE).then_some(Err(Errno::EACCES)),
    block_size: 4096,
};

static CGROUP_RULES: Rules = Rules {
    kind: "cgroup2",
    magic: 0x6367_7270,
    dev: make_dev(0, 68),
    volatile: false,
    owner: |_| (0, 0),
    permission: |_, _, access| access.contains(Access::WRITE).then_some(Err(Errno::EACCES)),
    block_size: 4096,
};

/// The `/sys` of `world`.
pub fn new(world: &Arc<World>) -> Arc<dyn FileSystem> {
    Mounted::new(world, &RULES, &TOP)
}

/// The `/sys/fs/cgroup` of `world`.
pub fn new_cgroup(world: &Arc<World>) -> Arc<dyn FileSystem> {
    Mounted::new(world, &CGROUP_RULES, &cgroup::TOP)
}

static TOP: Entry = Entry { name: "", mode: 0o555, what: What::Dir(&[ENTRIES]) };

const ENTRIES: &[Entry] = &[
    Entry::dir("block", &[]),
    Entry::dir("bus", &[]),
    Entry::dir("class", &[&[Entry::dir("net", &[&[Entry::dir("lo", &[LO])]]), Entry::dir("tty", &[])]]),
    Entry::dir("dev", &[&[Entry::dir("block", &[]), Entry::dir("char", &[])]]),
    Entry::dir("devices", &[&[Entry::dir("system", &[&[cpu::CPUS, Entry::dir("node", &[cpu::NODES])]])]]),
    Entry::dir("firmware", &[]),
    Entry::dir("fs", &[&[Entry::dir("cgroup", &[])]]),
    Entry::dir("hypervisor", &[]),
    Entry::dir(
        "kernel",
        &[&[
            Entry::dir("mm", &[&[Entry::dir("transparent_hugepage", &[HUGE])]]),
            Entry::text("ostype", 0o444, |_, _| line("Linux")),
        ]],
    ),
    Entry::dir("module", &[]),
    Entry::dir("power", &[]),
];

const HUGE: &[Entry] = &[
    Entry::text("enabled", 0o644, |_, _| line("always [madvise] never")),
    Entry::text("defrag", 0o644, |_, _| line("always defer defer+madvise [madvise] never")),
    Entry::text("hpage_pmd_size", 0o444, |_, _| line(2 << 20)),
    Entry::text("shmem_enabled", 0o644, |_, _| line("always within_size advise [never] deny force")),
    Entry::text("use_zero_page", 0o644, |_, _| line(1)),
];

/// The loopback device (Documentation/ABI/testing/sysfs-class-net).
const LO: &[Entry] = &[
    Entry::text("addr_assign_type", 0o444, |_, _| line(0)),
    Entry::text("addr_len", 0o444, |_, _| line(6)),
    Entry::text("address", 0o444, |_, _| line("00:00:00:00:00:00")),
    Entry::text("broadcast", 0o444, |_, _| line("00:00:00:00:00:00")),
    Entry::text("carrier", 0o644, |_, _| line(1)),
    Entry::text("dev_id", 0o444, |_, _| line("0x0")),
    Entry::text("dormant", 0o444, |_, _| line(0)),
    Entry::text("flags", 0o644, |_, _| line("0x9")),
    Entry::text("ifindex", 0o444, |_, _| line(1)),
    Entry::text("iflink", 0o444, |_, _| line(1)),
    Entry::text("link_mode", 0o444, |_, _| line(0)),
    Entry::text("mtu", 0o644, |_, _| line(65536)),
    Entry::text("operstate", 0o444, |_, _| line("unknown")),
    Entry::dir("statistics", &[STATISTICS]),
    Entry::text("tx_queue_len", 0o644, |_, _| line(1000)),
    Entry::text("type", 0o444, |_, _| line(772)),
    Entry::text("uevent", 0o644, |_, _| line("INTERFACE=lo\nIFINDEX=1")),
];

const STATISTICS: &[Entry] = &[
    Entry::text("rx_bytes", 0o444, |_, _| line(0)),
    Entry::text("rx_dropped", 0o444, |_, _| line(0)),
    Entry::text("rx_errors", 0o444, |_, _| line(0)),
    Entry::text("rx_packets", 0o444, |_, _| line(0)),
    Entry::text("tx_bytes", 0o444, |_, _| line(0)),
    Entry::text("tx_dropped", 0o444, |_, _| line(0)),
    Entry::text("tx_errors", 0o444, |_, _| line(0)),
    Entry::text("tx_packets", 0o444, |_, _| line(0)),
];

/// Text with a line feed.
fn line(text: impl std::fmt::Display) -> Result<Vec<u8>> {
    Ok(format!("{text}\n").into_bytes())
}

/// A number as sysfs takes it behind a fixed name: `cpu7`.
fn numbered(name: &str, prefix: &str) -> Result<usize> {
    let digits = name.strip_prefix(prefix).ok_or(Errno::ENOENT)?;
    let number: usize = digits.parse().map_err(|_| Errno::ENOENT)?;
    if number.to_string() == digits { Ok(number) } else { Err(Errno::ENOENT) }
}

/// One CPU of the granted ones.
fn granted(about: &About, number: usize) -> Result<About> {
    if about.world.config.cpus.contains(&number) {
        Ok(About { number, ..about.clone() })
    } else {
        Err(Errno::ENOENT)
    }
}
