//! `/proc/sys` (sysctl). As inside a user namespace, what is not the sandbox's own can be read, and writing is
//! refused to everybody.

use std::sync::atomic::Ordering;

use super::{Access, Entry, Node, line, shared, sysctl_net};
use crate::abi::linux::NGROUPS_MAX;
use crate::fs::Who;
use crate::fs::inotify;
use crate::fs::synth::About;
use crate::ipc::epoll::max_watches;
use crate::ipc::pipe;
use crate::syscalls::system::{RELEASE, VERSION, names_changed};
use crate::task::{CAP_LAST, Caps, PID_MAX, coredump};
use crate::{Errno, Result};

pub const TOP: &[Entry] = &[Entry::dir("sys", &[SYS])];

const SYS: &[Entry] = &[
    Entry::dir("abi", &[&[fixed("vsyscall32", |_, _| line(1))]]),
    Entry::dir("debug", &[&[fixed("exception-trace", |_, _| line(1))]]),
    Entry::dir("dev", &[&[Entry::dir("tty", &[&[fixed("legacy_tiocsti", |_, _| line(0))]])]]),
    Entry::dir("fs", &[FS]),
    Entry::dir("kernel", &[KERNEL]),
    Entry::dir("net", &[sysctl_net::NET]),
    Entry::dir("user", &[USER]),
    Entry::dir("vm", &[VM]),
];

/// Readable by all, and in Linux writable by root.
const fn fixed(name: &'static str, show: crate::fs::synth::Show) -> Entry {
    Entry::text(name, 0o644, show)
}

const KERNEL: &[Entry] = &[
    Entry::text("arch", 0o444, |_, _| line("x86_64")),
    fixed("auto_msgmni", |_, _| line(0)),
    Entry::text("cap_last_cap", 0o444, |_, _| line(CAP_LAST)),
    Entry::control("core_pattern", 0o644, show_core_pattern, store_core_pattern),
    Entry::control("core_pipe_limit", 0o644, show_core_pipe_limit, store_core_pipe_limit),
    Entry::control("core_uses_pid", 0o644, show_core_uses_pid, store_core_uses_pid),
    fixed("ctrl-alt-del", |_, _| line(0)),
    fixed("dmesg_restrict", |_, _| line(1)),
    Entry::control("domainname", 0o644, show_domain, store_domain),
    Entry::control("hostname", 0o644, show_host, store_host),
    fixed("hung_task_timeout_secs", |_, _| line(120)),
    fixed("io_uring_disabled", |_, _| line(2)),
    fixed("io_uring_group", |_, _| line(-1)),
    Entry::dir("keys", &[&[fixed("maxkeys", |_, _| line(200)), fixed("maxbytes", |_, _| line(20_000))]]),
    fixed("kptr_restrict", |_, _| line(1)),
    Entry::text("msg_next_id", 0o444, |_, _| line(-1)),
    fixed("msgmax", |_, _| line(8192)),
    fixed("msgmnb", |_, _| line(16384)),
    fixed("msgmni", |_, _| line(32000)),
    Entry::text("ngroups_max", 0o444, |_, _| line(NGROUPS_MAX)),
    Entry::text("nmi_watchdog", 0o444, |_, _| line(0)),
    fixed("ns_last_pid", |about, _| line(about.world.tree.lock().last_pid())),
    fixed("numa_balancing", |_, _| line(0)),
    Entry::text("osrelease", 0o444, |_, _| line(RELEASE)),
    Entry::text("ostype", 0o444, |_, _| line("Linux")),
    fixed("overflowgid", |_, _| line(65534)),
    fixed("overflowuid", |_, _| line(65534)),
    fixed("panic", |_, _| line(0)),
    fixed("panic_on_oops", |_, _| line(0)),
    fixed("panic_on_warn", |_, _| line(0)),
    fixed("perf_event_max_sample_rate", |_, _| line(100000)),
    fixed("perf_event_max_stack", |_, _| line(127)),
    fixed("perf_event_mlock_kb", |_, _| line(516)),
    fixed("perf_event_paranoid", |_, _| line(4)),
    fixed("pid_max", |_, _| line(PID_MAX)),
    fixed("print-fatal-signals", |_, _| line(0)),
    fixed("printk", |_, _| line("4\t4\t1\t7")),
    fixed("printk_delay", |_, _| line(0)),
    fixed("printk_devkmsg", |_, _| line("ratelimit")),
    fixed("printk_ratelimit", |_, _| line(5)),
    fixed("printk_ratelimit_burst", |_, _| line(10)),
    Entry::dir("pty", &[PTY]),
    Entry::dir("random", &[RANDOM]),
    fixed("randomize_va_space", |_, _| line(2)),
    fixed("sched_autogroup_enabled", |_, _| line(0)),
    fixed("sched_cfs_bandwidth_slice_us", |_, _| line(5000)),
    fixed("sched_rr_timeslice_ms", |_, _| line(100)),
    fixed("sched_rt_period_us", |_, _| line(1_000_000)),
    fixed("sched_rt_runtime_us", |_, _| line(950_000)),
    Entry::dir(
        "seccomp",
        &[&[Entry::text("actions_avail", 0o444, |_, _| {
            line("kill_process kill_thread trap errno user_notif trace log allow")
        })]],
    ),
    fixed("sem", |_, _| line("32000\t1024000000\t500\t32000")),
    Entry::text("sem_next_id", 0o444, |_, _| line(-1)),
    Entry::text("shm_next_id", 0o444, |_, _| line(-1)),
    fixed("shm_rmid_forced", |_, _| line(0)),
    fixed("shmall", |_, _| line(18_446_744_073_692_774_399_u64)),
    fixed("shmmax", |_, _| line(18_446_744_073_692_774_399_u64)),
    fixed("shmmni", |_, _| line(4096)),
    fixed("soft_watchdog", |_, _| line(0)),
    fixed("sysctl_writes_strict", |_, _| line(1)),
    fixed("tainted", |_, _| line(0)),
    fixed("task_delayacct", |_, _| line(0)),
    fixed("threads-max", |about, _| line(threads_max(about))),
    fixed("timer_migration", |_, _| line(1)),
    fixed("unprivileged_bpf_disabled", |_, _| line(2)),
    Entry::text("version", 0o444, |_, _| line(VERSION)),
    fixed("watchdog", |_, _| line(0)),
    fixed("watchdog_thresh", |_, _| line(10)),
    Entry::dir("yama", &[&[fixed("ptrace_scope", |_, _| line(0))]]),
];

const PTY: &[Entry] = &[
    fixed("max", |_, _| line(4096)),
    Entry::text("nr", 0o444, |_, _| line(0)),
    fixed("reserve", |_, _| line(1024)),
];

const RANDOM: &[Entry] = &[
    Entry::text("boot_id", 0o444, |about, _| line(about.world.proc.boot_id())),
    Entry::text("entropy_avail", 0o444, |_, _| line(256)),
    Entry::text("poolsize", 0o444, |_, _| line(256)),
    fixed("urandom_min_reseed_secs", |_, _| line(60)),
    Entry::text("uuid", 0o444, |_, _| line(shared::uuid())),
    fixed("write_wakeup_threshold", |_, _| line(256)),
];

const FS: &[Entry] = &[
    fixed("aio-max-nr", |_, _| line(65536)),
    Entry::text("aio-nr", 0o444, |_, _| line(0)),
    Entry::dir("binfmt_misc", &[]),
    fixed("dentry-negative", |_, _| line(0)),
    Entry::text("dentry-state", 0o444, |_, _| line("0\t0\t45\t0\t0\t0")),
    fixed("dir-notify-enable", |_, _| line(1)),
    Entry::dir("epoll", &[&[fixed("max_user_watches", |about, _| line(max_watches(about.world.config.memory)))]]),
    fixed("file-max", |_, _| line(i64::MAX)),
    Entry::text("file-nr", 0o444, show_file_nr),
    Entry::text("inode-nr", 0o444, |_, _| line("0\t0")),
    Entry::text("inode-state", 0o444, |_, _| line("0\t0\t0\t0\t0\t0\t0")),
    Entry::dir("inotify", &[INOTIFY]),
    fixed("lease-break-time", |_, _| line(45)),
    fixed("leases-enable", |_, _| line(1)),
    fixed("mount-max", |_, _| line(100000)),
    Entry::dir("mqueue", &[MQUEUE]),
    fixed("nr_open", |_, _| line(1_048_576)),
    fixed("overflowgid", |_, _| line(65534)),
    fixed("overflowuid", |_, _| line(65534)),
    fixed("pipe-max-size", |_, _| line(1_048_576)),
    fixed("pipe-user-pages-hard", |_, _| line(0)),
    fixed("pipe-user-pages-soft", |_, _| line(pipe::USER_PAGES)),
    fixed("protected_fifos", |_, _| line(0)),
    fixed("protected_hardlinks", |_, _| line(0)),
    fixed("protected_regular", |_, _| line(0)),
    fixed("protected_symlinks", |_, _| line(0)),
    fixed("suid_dumpable", |_, _| line(0)),
];

const INOTIFY: &[Entry] = &[
    fixed("max_queued_events", |_, _| line(16384)),
    fixed("max_user_instances", |_, _| line(inotify::MAX_INSTANCES)),
    fixed("max_user_watches", |_, _| line(inotify::MAX_WATCHES)),
];

const MQUEUE: &[Entry] = &[
    fixed("msg_default", |_, _| line(10)),
    fixed("msg_max", |_, _| line(10)),
    fixed("msgsize_default", |_, _| line(8192)),
    fixed("msgsize_max", |_, _| line(8192)),
    fixed("queues_max", |_, _| line(256)),
];

const VM: &[Entry] = &[
    fixed("admin_reserve_kbytes", |_, _| line(8192)),
    fixed("compact_unevictable_allowed", |_, _| line(1)),
    fixed("compaction_proactiveness", |_, _| line(20)),
    fixed("dirty_background_bytes", |_, _| line(0)),
    fixed("dirty_background_ratio", |_, _| line(10)),
    fixed("dirty_bytes", |_, _| line(0)),
    fixed("dirty_expire_centisecs", |_, _| line(3000)),
    fixed("dirty_ratio", |_, _| line(20)),
    fixed("dirty_writeback_centisecs", |_, _| line(500)),
    fixed("dirtytime_expire_seconds", |_, _| line(43200)),
    Entry::control("drop_caches", 0o200, |_, _| line(0), |_, _, _| Err(Errno::EACCES)),
    fixed("extfrag_threshold", |_, _| line(500)),
    fixed("hugetlb_shm_group", |_, _| line(0)),
    fixed("laptop_mode", |_, _| line(0)),
    fixed("legacy_va_layout", |_, _| line(0)),
    fixed("lowmem_reserve_ratio", |_, _| line("256\t256\t32\t0\t0")),
    fixed("max_map_count", |_, _| line(65530)),
    fixed("memfd_noexec", |_, _| line(0)),
    fixed("min_free_kbytes", |_, _| line(0)),
    fixed("mmap_min_addr", |_, _| line(65536)),
    Entry::text("mmap_rnd_bits", 0o600, |_, _| line(28)),
    fixed("nr_hugepages", |_, _| line(0)),
    fixed("nr_hugepages_mempolicy", |_, _| line(0)),
    fixed("nr_overcommit_hugepages", |_, _| line(0)),
    fixed("oom_dump_tasks", |_, _| line(1)),
    fixed("oom_kill_allocating_task", |_, _| line(0)),
    fixed("overcommit_kbytes", |_, _| line(0)),
    fixed("overcommit_memory", |_, _| line(0)),
    fixed("overcommit_ratio", |_, _| line(50)),
    fixed("page-cluster", |_, _| line(3)),
    fixed("page_lock_unfairness", |_, _| line(5)),
    fixed("panic_on_oom", |_, _| line(0)),
    fixed("percpu_pagelist_high_fraction", |_, _| line(0)),
    fixed("stat_interval", |_, _| line(1)),
    fixed("swappiness", |_, _| line(60)),
    fixed("unprivileged_userfaultfd", |_, _| line(0)),
    fixed("user_reserve_kbytes", |about, _| line((about.world.config.memory / 1024 / 32).min(131_072))),
    fixed("vfs_cache_pressure", |_, _| line(100)),
    fixed("watermark_boost_factor", |_, _| line(15000)),
    fixed("watermark_scale_factor", |_, _| line(10)),
    fixed("zone_reclaim_mode", |_, _| line(0)),
];

const USER: &[Entry] = &[
    fixed("max_cgroup_namespaces", |_, _| line(0)),
    fixed("max_inotify_instances", |_, _| line(inotify::MAX_INSTANCES)),
    fixed("max_inotify_watches", |_, _| line(inotify::MAX_WATCHES)),
    fixed("max_ipc_namespaces", |_, _| line(0)),
    fixed("max_mnt_namespaces", |_, _| line(0)),
    fixed("max_net_namespaces", |_, _| line(0)),
    fixed("max_pid_namespaces", |_, _| line(0)),
    fixed("max_time_namespaces", |_, _| line(0)),
    fixed("max_user_namespaces", |_, _| line(0)),
    fixed("max_uts_namespaces", |_, _| line(0)),
];

/// What Linux would choose for this much memory (`set_max_threads()`), or what `--pids` grants.
fn threads_max(about: &About) -> u64 {
    let config = &about.world.config;
    let by_memory = (config.memory / (8 * 16384)).clamp(20, u64::from(i32::MAX as u32));
    config.pids_limit.map_or(by_memory, |limit| by_memory.min(u64::from(limit)))
}

fn show_file_nr(about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    let tasks = about.world.processes().into_iter().filter_map(|process| process.any_task());
    let open: usize = tasks.map(|task| task.files().list().len()).sum();
    line(format_args!("{open}\t0\t{}", i64::MAX))
}

fn show_host(about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    let mut name = about.world.hostname.lock().clone();
    name.push(b'\n');
    Ok(name)
}

fn show_domain(about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    let mut name = about.world.domainname.lock().clone();
    name.push(b'\n');
    Ok(name)
}

/// Up to a line feed or a zero byte, at most 64 bytes (`proc_do_uts_string()`).
fn uts_name(text: &[u8]) -> Vec<u8> {
    let end = text.iter().position(|byte| matches!(byte, 0 | b'\n')).unwrap_or(text.len()).min(64);
    text.get(..end).unwrap_or_default().to_vec()
}

fn may_name(who: Who<'_>) -> Result<()> {
    if who.cred.capable(Caps::SYS_ADMIN) { Ok(()) } else { Err(Errno::EPERM) }
}

fn store_host(about: &About, who: Who<'_>, text: &[u8]) -> Result<()> {
    may_name(who)?;
    *about.world.hostname.lock() = uts_name(text);
    names_changed(&about.world);
    Ok(())
}

fn store_domain(about: &About, who: Who<'_>, text: &[u8]) -> Result<()> {
    may_name(who)?;
    *about.world.domainname.lock() = uts_name(text);
    names_changed(&about.world);
    Ok(())
}

fn show_core_pattern(about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    let mut pattern = about.world.cores.pattern.lock().clone();
    pattern.push(b'\n');
    Ok(pattern)
}

/// Up to a line feed or a zero byte (`proc_dostring()`).
fn store_core_pattern(about: &About, _who: Who<'_>, text: &[u8]) -> Result<()> {
    let end = text.iter().position(|byte| matches!(byte, 0 | b'\n')).unwrap_or(text.len());
    let pattern = text.get(..end.min(coredump::PATTERN_MAX)).unwrap_or_default();
    *about.world.cores.pattern.lock() = pattern.to_vec();
    Ok(())
}

fn show_core_pipe_limit(about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    line(about.world.cores.pipes.limit.load(Ordering::Relaxed))
}

fn store_core_pipe_limit(about: &About, _who: Who<'_>, text: &[u8]) -> Result<()> {
    about.world.cores.pipes.limit.store(super::pid::parse(text)?, Ordering::Relaxed);
    Ok(())
}

fn show_core_uses_pid(about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    line(u32::from(about.world.cores.uses_pid.load(Ordering::Relaxed)))
}

fn store_core_uses_pid(about: &About, _who: Who<'_>, text: &[u8]) -> Result<()> {
    let value: i32 = super::pid::parse(text)?;
    about.world.cores.uses_pid.store(value != 0, Ordering::Relaxed);
    Ok(())
}

/// `proc_sys_permission()`: no capability helps against missing permission bits, and what cannot be set here is
/// not writable.
pub fn permission(node: &Node, who: Who<'_>, access: Access) -> Option<Result<()>> {
    if !access.contains(Access::WRITE) {
        return None;
    }
    let settable = matches!(
        node.entry.name,
        "hostname" | "domainname" | "core_pattern" | "core_pipe_limit" | "core_uses_pid"
    );
    Some(if settable && who.cred.fsuid == 0 { Ok(()) } else { Err(Errno::EACCES) })
}
