//! `/sys` (sysfs(5)), as far as programs size themselves by it, and `/sys/fs/cgroup` (cgroups(7), version 2).

mod caches;
mod cgroup;
mod cpu;
mod memory;

use std::sync::Arc;

use super::synth::{About, Entry, Mounted, Rules, What};
use super::{Access, FileSystem, Target, make_dev};
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
    Entry::dir("class", &[CLASSES]),
    Entry::dir("dev", &[&[Entry::dir("block", &[]), Entry::dir("char", &[])]]),
    Entry::dir(
        "devices",
        &[&[
            Entry::dir(
                "system",
                &[&[
                    Entry::dir("clocksource", &[&[Entry::dir("clocksource0", &[CLOCK])]]),
                    cpu::CPUS,
                    memory::MEMORY,
                    Entry::dir("node", &[cpu::NODES]),
                ]],
            ),
            Entry::dir("virtual", &[&[Entry::dir("net", &[&[Entry::dir("lo", &[LO])]])]]),
        ]],
    ),
    Entry::dir("firmware", &[]),
    Entry::dir("fs", &[&[Entry::dir("cgroup", &[])]]),
    Entry::dir("hypervisor", &[]),
    Entry::dir("kernel", &[KERNEL]),
    Entry::dir("module", &[]),
    Entry::dir("power", &[]),
];

/// Devices by what they are. There is only the loopback device.
const CLASSES: &[Entry] = &[
    Entry::dir("block", &[]),
    Entry::dir("hwmon", &[]),
    Entry::dir(
        "net",
        &[&[Entry {
            name: "lo",
            mode: 0o777,
            what: What::Link(|_, _| Ok(Target::Text(b"../../devices/virtual/net/lo".to_vec()))),
        }]],
    ),
    Entry::dir("power_supply", &[]),
    Entry::dir("thermal", &[]),
    Entry::dir("tty", &[]),
];

/// What the clocks go by, whatever the host does to keep them.
const CLOCK: &[Entry] = &[
    Entry::text("available_clocksource", 0o444, |_, _| line("tsc ")),
    Entry::text("current_clocksource", 0o644, |_, _| line("tsc")),
];

const KERNEL: &[Entry] = &[
    Entry::text("address_bits", 0o444, |_, _| line(64)),
    Entry::text("cpu_byteorder", 0o444, |_, _| line("little")),
    Entry::text("fscaps", 0o444, |_, _| line(1)),
    Entry::dir("mm", &[memory::MM]),
    Entry::text("ostype", 0o444, |_, _| line("Linux")),
    Entry::text("profiling", 0o644, |_, _| line(0)),
    Entry::text("rcu_expedited", 0o644, |_, _| line(0)),
    Entry::text("rcu_normal", 0o644, |_, _| line(0)),
    Entry::dir("security", &[]),
    Entry::text("uevent_seqnum", 0o444, |_, _| line(0)),
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
