//! Files about the sandbox as a whole (fs/proc/).

use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use super::{About, Entry, cpuinfo, line, load, meminfo};
use crate::Result;
use crate::fs::Who;
use crate::syscalls::system::{RELEASE, VERSION};
use crate::task::usage;

pub const ENTRIES: &[Entry] = &[
    Entry::text("buddyinfo", 0o444, show_buddyinfo),
    Entry::text("cgroups", 0o444, show_cgroups),
    Entry::text("cmdline", 0o444, |_, _| line("")),
    Entry::text("consoles", 0o444, |_, _| Ok(Vec::new())),
    Entry::text("cpuinfo", 0o444, cpuinfo::show),
    // No AF_ALG, no algorithms.
    Entry::text("crypto", 0o444, |_, _| Ok(Vec::new())),
    Entry::text("devices", 0o444, show_devices),
    Entry::text("diskstats", 0o444, |_, _| Ok(Vec::new())),
    Entry::text("execdomains", 0o444, |_, _| line("0-0\tLinux           \t[kernel]")),
    Entry::text("filesystems", 0o444, show_filesystems),
    Entry::text("interrupts", 0o444, show_interrupts),
    Entry::text("loadavg", 0o444, show_loadavg),
    Entry::text("locks", 0o444, |_, _| Ok(Vec::new())),
    Entry::text("meminfo", 0o444, meminfo::show),
    Entry::text("misc", 0o444, |_, _| Ok(Vec::new())),
    Entry::text("modules", 0o444, |_, _| Ok(Vec::new())),
    Entry::text("partitions", 0o444, |_, _| Ok(b"major minor  #blocks  name\n\n".to_vec())),
    Entry::text("softirqs", 0o444, show_softirqs),
    Entry::text("stat", 0o444, show_stat),
    Entry::text("swaps", 0o444, |_, _| line("Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority")),
    Entry::text("uptime", 0o444, show_uptime),
    Entry::text("version", 0o444, show_version),
    Entry::text("vmstat", 0o444, show_vmstat),
    Entry::text("zoneinfo", 0o444, show_zoneinfo),
    Entry::dir("sysvipc", &[super::sysvipc::ENTRIES]),
    Entry::dir(
        "tty",
        &[&[
            Entry::text("drivers", 0o444, show_tty_drivers),
            Entry::text("ldiscs", 0o444, |_, _| line("n_tty       0")),
        ]],
    ),
    Entry::dir("fs", &[]),
    Entry::dir("bus", &[]),
    Entry::dir("driver", &[]),
    Entry::dir("irq", &[]),
];

fn show_cgroups(_about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    let mut text = String::from("#subsys_name\thierarchy\tnum_cgroups\tenabled\n");
    for name in ["cpuset", "cpu", "cpuacct", "memory", "pids"] {
        _ = writeln!(text, "{name}\t0\t1\t1");
    }
    Ok(text.into_bytes())
}

fn show_devices(_about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    Ok(b"Character devices:\n  1 mem\n  5 /dev/tty\n  5 /dev/ptmx\n128 ptm\n136 pts\n\nBlock devices:\n".to_vec())
}

fn show_filesystems(_about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    let kinds =
        ["sysfs", "tmpfs", "proc", "cgroup2", "devtmpfs", "sockfs", "pipefs", "devpts", "overlay", "mqueue"];
    Ok(kinds.iter().map(|kind| format!("nodev\t{kind}\n")).collect::<String>().into_bytes())
}

fn show_interrupts(about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    let heads: String = about.world.config.cpus.iter().map(|cpu| format!("{:<11}", format!("CPU{cpu}"))).collect();
    Ok(format!("           {}\nERR:          0\nMIS:          0\n", heads.trim_end()).into_bytes())
}

fn show_softirqs(about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    let cpus = &about.world.config.cpus;
    let mut text = format!("{:20}", "");
    cpus.iter().for_each(|cpu| _ = write!(text, "{:<11}", format!("CPU{cpu}")));
    text.push('\n');
    for name in ["HI", "TIMER", "NET_TX", "NET_RX", "BLOCK", "IRQ_POLL", "TASKLET", "SCHED", "HRTIMER", "RCU"] {
        _ = write!(text, "{name:>12}:");
        cpus.iter().for_each(|_| text.push_str("          0"));
        text.push('\n');
    }
    Ok(text.into_bytes())
}

fn show_loadavg(about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    let world = &about.world;
    let [one, five, fifteen] = world.proc.load.lock().look(world);
    let (running, all) = load::running(world);
    let last = world.tree.lock().last_pid();
    line(format_args!("{one:.2} {five:.2} {fifteen:.2} {running}/{all} {last}"))
}

/// What the granted CPUs did since the start: user, system and idle time. Guests are not pinned, so what they
/// used is spread over all of them.
fn cpu_times(about: &About) -> (Duration, Duration, Duration) {
    let (user, system) = load::cpu_time(&about.world);
    let count = u32::try_from(about.world.config.cpus.len()).unwrap_or(1).max(1);
    let idle = about.world.uptime().saturating_mul(count).saturating_sub(user + system);
    (user, system, idle)
}

/// Columns: user nice system idle iowait irq softirq steal guest guest_nice, in clock ticks.
fn show_stat(about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    let world = &about.world;
    let (user, system, idle) = cpu_times(about);
    let (user, system, idle) = (usage::ticks(user), usage::ticks(system), usage::ticks(idle));
    let mut text = format!("cpu  {user} 0 {system} {idle} 0 0 0 0 0 0\n");
    let count = i64::try_from(world.config.cpus.len()).unwrap_or(1).max(1);
    for (place, cpu) in world.config.cpus.iter().enumerate() {
        // Remainders go to the first ones, so that the lines add up.
        let share = |all: i64| all / count + i64::from((place as i64) < all % count);
        _ = writeln!(text, "cpu{cpu} {} 0 {} {} 0 0 0 0 0 0", share(user), share(system), share(idle));
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let boot = now.saturating_sub(world.uptime()).as_secs();
    let (running, _) = load::running(world);
    let switches: i64 = world
        .processes()
        .iter()
        .map(|process| usage::of_process(process))
        .fold(0, |sum, used| sum.saturating_add(used.ru_nvcsw).saturating_add(used.ru_nivcsw));
    _ = writeln!(text, "intr 0\nctxt {switches}\nbtime {boot}");
    _ = writeln!(text, "processes {}", world.stats.forks.load(Ordering::Relaxed) + 1);
    _ = writeln!(text, "procs_running {running}\nprocs_blocked 0\nsoftirq 0 0 0 0 0 0 0 0 0 0 0");
    Ok(text.into_bytes())
}

fn show_uptime(about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    let (.., idle) = cpu_times(about);
    let hundredths = |time: Duration| format!("{}.{:02}", time.as_secs(), time.subsec_millis() / 10);
    line(format_args!("{} {}", hundredths(about.world.uptime()), hundredths(idle)))
}

fn show_version(_about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    line(format_args!("Linux version {RELEASE} (coracle@coracle) (rustc) {VERSION}"))
}

fn show_vmstat(about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    let memory = meminfo::memory(&about.world);
    let faults = about
        .world
        .processes()
        .iter()
        .map(|process| usage::of_process(process))
        .fold((0_i64, 0_i64), |(minor, major), used| {
            (minor.saturating_add(used.ru_minflt), major.saturating_add(used.ru_majflt))
        });
    let pages = |bytes: u64| bytes / crate::abi::PAGE_SIZE;
    let mut text = String::new();
    for (name, value) in [
        ("nr_free_pages", pages(memory.free)),
        ("nr_inactive_anon", pages(memory.shared)),
        ("nr_active_anon", pages(memory.anonymous)),
        ("nr_inactive_file", 0),
        ("nr_active_file", pages(memory.mapped)),
        ("nr_anon_pages", pages(memory.anonymous)),
        ("nr_mapped", pages(memory.mapped)),
        ("nr_file_pages", pages(memory.mapped + memory.shared)),
        ("nr_dirty", 0),
        ("nr_writeback", 0),
        ("nr_shmem", pages(memory.shared)),
        ("nr_page_table_pages", pages(memory.page_tables)),
        ("pgpgin", 0),
        ("pgpgout", 0),
        ("pswpin", 0),
        ("pswpout", 0),
        ("pgfault", u64::try_from(faults.0.saturating_add(faults.1)).unwrap_or(0)),
        ("pgmajfault", u64::try_from(faults.1).unwrap_or(0)),
        ("oom_kill", 0),
    ] {
        _ = writeln!(text, "{name} {value}");
    }
    Ok(text.into_bytes())
}

/// One zone with all memory, whose free part lies in as large blocks as there are (frag_show_print() in mm/vmstat.c).
fn show_buddyinfo(about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    const LARGEST: u64 = 10;
    let pages = meminfo::memory(&about.world).free / crate::abi::PAGE_SIZE;
    let mut text = format!("Node 0, zone {:>8} ", "Normal");
    (0..LARGEST).for_each(|order| _ = write!(text, "{:>6} ", pages >> order & 1));
    line(format_args!("{text}{:>6} ", pages >> LARGEST))
}

/// That zone, as far as it is a matter of its size (zoneinfo_show_print() in mm/vmstat.c).
fn show_zoneinfo(about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    let memory = meminfo::memory(&about.world);
    let pages = |bytes: u64| bytes / crate::abi::PAGE_SIZE;
    let mut text = String::from("Node 0, zone   Normal\n  per-node stats\n");
    for (name, bytes) in [
        ("nr_inactive_anon", memory.shared),
        ("nr_active_anon", memory.anonymous),
        ("nr_active_file", memory.mapped),
        ("nr_anon_pages", memory.anonymous),
        ("nr_mapped", memory.mapped),
        ("nr_file_pages", memory.mapped.saturating_add(memory.shared)),
        ("nr_shmem", memory.shared),
    ] {
        _ = writeln!(text, "      {name:<12} {}", pages(bytes));
    }
    _ = writeln!(text, "  pages free     {}", pages(memory.free));
    for (name, value) in [("boost", 0), ("min", 0), ("low", 0), ("high", 0)] {
        _ = writeln!(text, "        {name:<8} {value}");
    }
    for name in ["spanned", "present", "managed"] {
        _ = writeln!(text, "        {name:<8} {}", pages(memory.total));
    }
    text.push_str("        protection: (0, 0, 0, 0, 0)\n  node_unreclaimable:  0\n  start_pfn:           0\n");
    Ok(text.into_bytes())
}

/// `ps` finds the names of terminals here.
fn show_tty_drivers(_about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    let mut text = String::new();
    for (name, path, major, minors, kind) in [
        ("/dev/tty", "/dev/tty", 5, "0", "system:/dev/tty"),
        ("/dev/ptmx", "/dev/ptmx", 5, "2", "system"),
        ("pty_slave", "/dev/pts", 136, "0-1048575", "pty:slave"),
        ("pty_master", "/dev/ptm", 128, "0-1048575", "pty:master"),
    ] {
        _ = writeln!(text, "{name:<20} {path:<12} {major:>3} {minors} {kind}");
    }
    Ok(text.into_bytes())
}
