//! Memory in `/sys`: its blocks (`/sys/devices/system/memory`), and what the host does with it that is not the
//! sandbox's to see or set (`/sys/kernel/mm`).

use super::{line, numbered};
use crate::fs::synth::{About, Entry, Names, Show, What};
use crate::fs::{S_IFDIR, Target};
use crate::{Errno, Result};

/// Bytes of a block.
const BLOCK: u64 = 128 << 20;

pub const MEMORY: Entry = Entry { name: "memory", mode: 0o555, what: What::Varying(&[FILES], NAMES) };

const FILES: &[Entry] = &[
    Entry::text("auto_online_blocks", 0o644, |_, _| line("offline")),
    Entry::text("block_size_bytes", 0o444, |_, _| line(format_args!("{BLOCK:x}"))),
];

const NAMES: Names = Names { list, find, kind: S_IFDIR };

fn blocks(about: &About) -> u64 {
    about.world.config.memory.div_ceil(BLOCK)
}

fn list(about: &About) -> Result<Vec<String>> {
    Ok((0..blocks(about)).map(|block| format!("memory{block}")).collect())
}

fn find(about: &About, name: &str) -> Result<(About, &'static Entry)> {
    let number = numbered(name, "memory")?;
    if number as u64 >= blocks(about) {
        return Err(Errno::ENOENT);
    }
    Ok((About { number, ..about.clone() }, &BLOCK_DIR))
}

static BLOCK_DIR: Entry = Entry {
    name: "memoryN",
    mode: 0o555,
    what: What::Dir(&[&[
        Entry {
            name: "node0",
            mode: 0o777,
            what: What::Link(|_, _| Ok(Target::Text(b"../../node/node0".to_vec()))),
        },
        Entry::text("online", 0o644, |_, _| line(1)),
        Entry::text("phys_device", 0o444, |_, _| line(0)),
        Entry::text("phys_index", 0o444, |about, _| line(format_args!("{:08x}", about.number))),
        Entry::text("removable", 0o444, |_, _| line(0)),
        Entry::text("state", 0o644, |_, _| line("online")),
        Entry::text("valid_zones", 0o444, |_, _| line("none")),
    ]]),
};

const fn zero(name: &'static str) -> Entry {
    Entry::text(name, 0o644, |_, _| line(0))
}

const fn setting(name: &'static str, show: Show) -> Entry {
    Entry::text(name, 0o644, show)
}

/// Huge pages that are set aside: none.
pub const HUGE_PAGES: &[Entry] = &[Entry::dir(
    "hugepages-2048kB",
    &[&[
        zero("free_hugepages"),
        zero("nr_hugepages"),
        zero("nr_hugepages_mempolicy"),
        zero("nr_overcommit_hugepages"),
        zero("resv_hugepages"),
        zero("surplus_hugepages"),
    ]],
)];

/// Those of a node.
pub const NODE_HUGE_PAGES: &[Entry] = &[Entry::dir(
    "hugepages-2048kB",
    &[&[zero("free_hugepages"), zero("nr_hugepages"), zero("surplus_hugepages")]],
)];

/// `/sys/kernel/mm`.
pub const MM: &[Entry] = &[
    Entry::dir("hugepages", &[HUGE_PAGES]),
    Entry::dir("ksm", &[KSM]),
    Entry::dir("numa", &[&[setting("demotion_enabled", |_, _| line(false))]]),
    Entry::dir("swap", &[&[setting("vma_ra_enabled", |_, _| line(true))]]),
    Entry::dir("transparent_hugepage", &[TRANSPARENT]),
];

/// Pages of equal contents are not merged.
const KSM: &[Entry] = &[
    zero("full_scans"),
    setting("max_page_sharing", |_, _| line(256)),
    setting("merge_across_nodes", |_, _| line(1)),
    zero("pages_shared"),
    zero("pages_sharing"),
    setting("pages_to_scan", |_, _| line(100)),
    zero("pages_unshared"),
    zero("pages_volatile"),
    zero("run"),
    setting("sleep_millisecs", |_, _| line(20)),
    zero("use_zero_pages"),
];

const TRANSPARENT: &[Entry] = &[
    setting("enabled", |_, _| line("always [madvise] never")),
    setting("defrag", |_, _| line("always defer defer+madvise [madvise] never")),
    Entry::text("hpage_pmd_size", 0o444, |_, _| line(2 << 20)),
    Entry::dir(
        "khugepaged",
        &[&[
            setting("alloc_sleep_millisecs", |_, _| line(60000)),
            setting("defrag", |_, _| line(1)),
            zero("full_scans"),
            setting("max_ptes_none", |_, _| line(511)),
            setting("max_ptes_shared", |_, _| line(256)),
            setting("max_ptes_swap", |_, _| line(64)),
            zero("pages_collapsed"),
            setting("pages_to_scan", |_, _| line(4096)),
            setting("scan_sleep_millisecs", |_, _| line(10000)),
        ]],
    ),
    setting("shmem_enabled", |_, _| line("always within_size advise [never] deny force")),
    setting("use_zero_page", |_, _| line(1)),
];
