//! `/proc/PID`: the tables, and the files that are a line or two.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{
    Entry, Names, What, access, fds, limits, line, map_files, maps, memory, namespaces, net, stat, status, subject,
};
use crate::abi::linux::SCHED_IDLE;
use crate::fs::synth::About;
use crate::fs::{PathRef, S_IFDIR, Target, Who};
use crate::task::{Caps, coredump, usage};
use crate::{Errno, Result};

/// `/proc/PID`.
pub static DIR: Entry = Entry { name: "PID", mode: 0o555, what: What::Dir(&[PROCESS, BOTH]) };
/// `/proc/PID/task/TID`.
static TASK_DIR: Entry = Entry { name: "TID", mode: 0o555, what: What::Dir(&[BOTH, THREAD]) };

const PROCESS: &[Entry] = &[
    Entry { name: "task", mode: 0o555, what: What::Varying(&[], TASKS) },
    Entry { name: "map_files", mode: 0o500, what: What::Varying(&[], map_files::LINKS) },
    Entry::dir("net", &[net::ENTRIES]),
    polled("mountstats", 0o400, |about, _| mounts(about, Table::Stats)),
    Entry::control("autogroup", 0o644, |_, _| line("/autogroup-1 nice 0"), |_, _, _| Err(Errno::EPERM)),
    Entry::control("timerslack_ns", 0o666, show_slack, store_slack),
    Entry::text("timens_offsets", 0o644, |about, _| {
        about.live().and_then(|_| line("monotonic           0         0\nboottime            0         0"))
    }),
    Entry::text("timers", 0o444, |about, _| about.live().map(|_| Vec::new())),
    Entry::control("coredump_filter", 0o644, show_dump_filter, store_dump_filter),
];

const THREAD: &[Entry] = &[Entry::text("children", 0o444, show_children)];

/// What processes and threads both have.
const BOTH: &[Entry] = &[
    Entry { name: "fd", mode: 0o500, what: What::Varying(&[], fds::LINKS) },
    Entry { name: "fdinfo", mode: 0o555, what: What::Varying(&[], fds::INFOS) },
    Entry { name: "ns", mode: 0o511, what: What::Dir(&[namespaces::ENTRIES]) },
    Entry::text("environ", 0o400, memory::show_environ),
    Entry::text("auxv", 0o400, memory::show_auxv),
    Entry::text("status", 0o444, status::show),
    Entry::text("personality", 0o400, show_personality),
    Entry::text("limits", 0o444, limits::show),
    Entry::text("sched", 0o644, show_sched),
    Entry::control("comm", 0o644, show_comm, store_comm),
    Entry::text("syscall", 0o400, show_syscall),
    Entry::text("cmdline", 0o444, memory::show_cmdline),
    Entry::text("stat", 0o444, stat::show),
    Entry::text("statm", 0o444, stat::show_statm),
    Entry::text("maps", 0o444, maps::show),
    Entry::text("numa_maps", 0o444, maps::show_numa),
    Entry { name: "mem", mode: 0o600, what: What::Special(memory::open_mem) },
    Entry { name: "cwd", mode: 0o777, what: What::Magic(show_cwd, follow_cwd) },
    Entry { name: "root", mode: 0o777, what: What::Magic(show_root, follow_root) },
    Entry { name: "exe", mode: 0o777, what: What::Magic(show_exe, follow_exe) },
    polled("mounts", 0o444, |about, _| mounts(about, Table::Mounts)),
    polled("mountinfo", 0o444, |about, _| mounts(about, Table::Info)),
    Entry::control("clear_refs", 0o200, |_, _| Err(Errno::EINVAL), store_clear_refs),
    Entry::text("smaps", 0o444, maps::show_smaps),
    Entry::text("smaps_rollup", 0o444, maps::show_rollup),
    Entry { name: "pagemap", mode: 0o400, what: What::Special(map_files::open_page_map) },
    Entry::text("wchan", 0o444, show_wchan),
    Entry::text("stack", 0o400, |_, _| Err(Errno::EPERM)),
    Entry::text("schedstat", 0o444, show_schedstat),
    Entry::text("cpuset", 0o444, |about, _| about.live().and_then(|_| line("/"))),
    Entry::text("cgroup", 0o444, |about, _| about.live().and_then(|_| line("0::/"))),
    Entry::text("oom_score", 0o444, show_oom_score),
    Entry::control("oom_adj", 0o644, show_oom_adj, store_oom_adj),
    Entry::control("oom_score_adj", 0o644, show_oom_score_adj, store_oom_score_adj),
    Entry::control("loginuid", 0o644, |_, _| Ok(b"4294967295".to_vec()), |_, _, _| Err(Errno::EPERM)),
    Entry::text("sessionid", 0o444, |_, _| Ok(b"4294967295".to_vec())),
    Entry::text("io", 0o400, show_io),
    Entry::control("uid_map", 0o644, show_map, |_, _, _| Err(Errno::EPERM)),
    Entry::control("gid_map", 0o644, show_map, |_, _, _| Err(Errno::EPERM)),
    Entry::control("projid_map", 0o644, show_map, |_, _, _| Err(Errno::EPERM)),
    Entry::control("setgroups", 0o644, |_, _| line("allow"), |_, _, _| Err(Errno::EPERM)),
];

/// Opened like any other, but a change can be polled for.
const fn polled(name: &'static str, mode: u32, show: crate::fs::synth::Show) -> Entry {
    Entry { name, mode, what: What::Polled(show) }
}

const TASKS: Names = Names { list: list_tasks, find: find_task, kind: S_IFDIR };

fn list_tasks(about: &About) -> Result<Vec<String>> {
    let process = about.live()?;
    let mut tids: Vec<u32> = process.tasks().iter().map(|task| task.tid()).collect();
    if tids.is_empty() {
        tids.push(process.pid);
    }
    Ok(tids.iter().map(u32::to_string).collect())
}

fn find_task(about: &About, name: &str) -> Result<(About, &'static Entry)> {
    let process = about.live()?;
    let tid = super::number(name).ok_or(Errno::ENOENT)?;
    let task = process.tasks().into_iter().find(|task| task.tid() == tid);
    if task.is_none() && tid != process.pid {
        return Err(Errno::ENOENT);
    }
    Ok((About { task, ..About::process(process) }, &TASK_DIR))
}

fn show_children(about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    let (process, task) = subject(about)?;
    let tid = task.map_or(process.pid, |task| task.tid());
    let mine = process.children().into_iter().filter(|child| child.parent_tid() == tid);
    Ok(mine.map(|child| format!("{} ", child.pid)).collect::<String>().into_bytes())
}

fn show_comm(about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    let mut name = stat::comm(about)?;
    name.push(b'\n');
    Ok(name)
}

/// Only threads of the same process may (`comm_write()`): `EINVAL`.
fn store_comm(about: &About, who: Who<'_>, text: &[u8]) -> Result<()> {
    let task = about.thread()?;
    if who.task.is_none_or(|writer| writer.pid() != task.pid()) {
        return Err(Errno::EINVAL);
    }
    task.set_comm(text);
    Ok(())
}

fn show_personality(about: &About, who: Who<'_>) -> Result<Vec<u8>> {
    let process = about.live()?;
    access::may_read(who, process)?;
    line(format_args!("{:08x}", process.personality.load(Ordering::Relaxed)))
}

/// The lines that programs look for of what `proc_sched_show_task()` (kernel/sched/debug.c) prints.
fn show_sched(about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    let (process, task) = subject(about)?;
    let threads = process.tasks().len();
    let comm = String::from_utf8_lossy(&stat::comm(about)?).into_owned();
    let tid = task.as_ref().map_or(process.pid, |task| task.tid());
    let (user, system) = task.as_ref().map_or_else(Default::default, |task| task.control().cpu_time());
    let sched = task.map(|task| task.sched.lock().clone());
    let (policy, nice) = sched.map_or((0, 0), |sched| (sched.policy, sched.nice));
    let mut text = format!("{comm} ({tid}, #threads: {threads})\n{:-<67}\n", "");
    let runtime = (user + system).as_secs_f64() * 1e3;
    for (name, value) in [
        ("se.exec_start", format!("{:.6}", process.world.uptime().as_secs_f64() * 1e3)),
        ("se.sum_exec_runtime", format!("{runtime:.6}")),
        ("policy", policy.to_string()),
        ("prio", (120 + nice).to_string()),
    ] {
        text.push_str(&format!("{name:<45}:{value:>21}\n"));
    }
    Ok(text.into_bytes())
}

fn show_schedstat(about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    let (_, task) = subject(about)?;
    let (user, system) = task.map_or_else(Default::default, |task| task.control().cpu_time());
    line(format_args!("{} 0 0", (user + system).as_nanos()))
}

/// `proc_pid_syscall()` for a task that does not stand in a call that it could tell of.
fn show_syscall(about: &About, who: Who<'_>) -> Result<Vec<u8>> {
    access::may_read(who, about.live()?)?;
    line("running")
}

/// Without a table of symbols: `0` (`proc_pid_wchan()`). No line feed.
fn show_wchan(about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    about.live().map(|_| b"0".to_vec())
}

fn show_io(about: &About, who: Who<'_>) -> Result<Vec<u8>> {
    let process = about.live()?;
    access::may_read(who, process).map_err(|_| Errno::EACCES)?;
    let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
    let io = &process.io;
    let used = usage::of_process(process);
    let bytes = |blocks: i64| blocks.saturating_mul(512);
    let text = format!(
        "rchar: {}\nwchar: {}\nsyscr: {}\nsyscw: {}\nread_bytes: {}\nwrite_bytes: {}\ncancelled_write_bytes: 0\n",
        count(&io.bytes_read),
        count(&io.bytes_written),
        count(&io.reads),
        count(&io.writes),
        bytes(used.ru_inblock),
        bytes(used.ru_oublock)
    );
    Ok(text.into_bytes())
}

/// A process without memory shows nothing (`proc_coredump_filter_read()`).
fn show_dump_filter(about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    let Some(mm) = about.live()?.mm() else { return Ok(Vec::new()) };
    let filter = mm.image.lock().dump_filter;
    line(format_args!("{filter:08x}"))
}

fn store_dump_filter(about: &About, _who: Who<'_>, text: &[u8]) -> Result<()> {
    let value = parse_any_base(text)?;
    let mm = about.live()?.mm().ok_or(Errno::ESRCH)?;
    mm.image.lock().dump_filter = value & coredump::FILTER;
    Ok(())
}

/// `kstrtouint()` with base 0: `0x` is hexadecimal, a leading zero octal. `ERANGE` for what is too large.
fn parse_any_base(text: &[u8]) -> Result<u32> {
    let text = std::str::from_utf8(text).map_err(|_| Errno::EINVAL)?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_prefix('+').unwrap_or(text);
    let (digits, base) = match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => (text.get(2..).unwrap_or_default(), 16),
        [b'0', _, ..] => (text.get(1..).unwrap_or_default(), 8),
        _ => (text, 10),
    };
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(base)) {
        return Err(Errno::EINVAL);
    }
    u32::from_str_radix(digits, base).map_err(|_| Errno::ERANGE)
}

fn show_map(about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    about.live()?;
    line(format_args!("{:>10} {:>10} {:>10}", 0, 0, u32::MAX))
}

/// The slack of others is for those who may trace them (`timerslack_ns_show()`).
fn show_slack(about: &About, who: Who<'_>) -> Result<Vec<u8>> {
    let task = about.thread()?;
    if who.task.is_none_or(|reader| reader.pid() != task.pid()) && !who.cred.capable(Caps::SYS_NICE) {
        return Err(Errno::EPERM);
    }
    let slack = task.sched.lock().timer_slack;
    line(slack)
}

fn store_slack(about: &About, who: Who<'_>, text: &[u8]) -> Result<()> {
    let value: u64 = parse(text)?;
    let task = about.thread()?;
    if who.task.is_none_or(|writer| writer.pid() != task.pid()) && !who.cred.capable(Caps::SYS_NICE) {
        return Err(Errno::EPERM);
    }
    let mut sched = task.sched.lock();
    let real_time = (1..=2).contains(&sched.policy) || sched.policy == SCHED_IDLE + 1;
    // Zero is the default again; real-time threads have none.
    sched.timer_slack = if real_time {
        0
    } else if value == 0 {
        50_000
    } else {
        value
    };
    Ok(())
}

/// `kstrtoint()`: blanks around are fine, anything else is `EINVAL`.
pub fn parse<T: std::str::FromStr>(text: &[u8]) -> Result<T> {
    std::str::from_utf8(text).ok().and_then(|text| text.trim().parse().ok()).ok_or(Errno::EINVAL)
}

/// One to five (fs/proc/task_mmu.c). Reference bits are the host's business: nothing to clear.
fn store_clear_refs(about: &About, _who: Who<'_>, text: &[u8]) -> Result<()> {
    let kind: i32 = parse(text)?;
    if !(1..=5).contains(&kind) {
        return Err(Errno::EINVAL);
    }
    about.live().map(|_| ())
}

/// `oom_badness()` on a scale of a thousand, as `proc_oom_score()` shows it.
fn show_oom_score(about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    let process = about.live()?;
    let resident = process.mm().map_or(0, |mm| mm.space.usage().resident);
    let total = i128::from(process.world.config.memory.max(1));
    let adjust = i128::from(process.oom_score_adj.load(Ordering::Relaxed));
    let badness = if adjust == -1000 || process.is_zombie() {
        0
    } else {
        let points = i128::from(resident) + adjust * total / 1000;
        (1000 + points * 1000 / total) * 2 / 3
    };
    line(badness.max(0))
}

fn show_oom_score_adj(about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    line(about.live()?.oom_score_adj.load(Ordering::Relaxed))
}

fn store_oom_score_adj(about: &About, who: Who<'_>, text: &[u8]) -> Result<()> {
    let value: i32 = parse(text)?;
    if !(-1000..=1000).contains(&value) {
        return Err(Errno::EINVAL);
    }
    adjust_oom(about, who, value)
}

/// Down only with `CAP_SYS_RESOURCE` (`__set_oom_adj()`): `EACCES`.
fn adjust_oom(about: &About, who: Who<'_>, value: i32) -> Result<()> {
    let process = about.live()?;
    if value < process.oom_score_adj.load(Ordering::Relaxed) && !who.cred.capable(Caps::SYS_RESOURCE) {
        return Err(Errno::EACCES);
    }
    process.oom_score_adj.store(value, Ordering::Relaxed);
    Ok(())
}

/// The old scale: -17 to 15.
fn show_oom_adj(about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    let adjust = about.live()?.oom_score_adj.load(Ordering::Relaxed);
    line(if adjust == 1000 { 15 } else { adjust * 17 / 1000 })
}

fn store_oom_adj(about: &About, who: Who<'_>, text: &[u8]) -> Result<()> {
    let value: i32 = parse(text)?;
    if !(-17..=15).contains(&value) {
        return Err(Errno::EINVAL);
    }
    adjust_oom(about, who, if value == 15 { 1000 } else { value * 1000 / 17 })
}

enum Table {
    Mounts,
    Info,
    Stats,
}

fn mounts(about: &About, table: Table) -> Result<Vec<u8>> {
    // A zombie has no root any more: EINVAL (mounts_open_common, fs/proc_namespace.c).
    let (_, task) = subject(about)?;
    let root = match init_place(about) {
        Some(root) => root,
        None => task.ok_or(Errno::EINVAL)?.fs().root(),
    };
    let mounts = &about.world.vfs.mounts;
    let text = match table {
        Table::Mounts => mounts.text(&root),
        Table::Info => mounts.info_text(&root),
        Table::Stats => stats_text(&mounts.text(&root)),
    };
    Ok(text.into_bytes())
}

/// `device SOURCE mounted on PATH with fstype KIND`.
fn stats_text(mounts: &str) -> String {
    let lines = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (source, path, kind) = (words.next()?, words.next()?, words.next()?);
        Some(format!("device {source} mounted on {path} with fstype {kind}\n"))
    });
    lines.collect()
}

/// The text of a link to a place, as its reader sees the tree.
fn display(place: &PathRef, who: Who<'_>) -> Vec<u8> {
    match who.task {
        Some(task) => place.display(&task.fs().root()),
        None => place.path_from(place).0,
    }
}

type Pick = fn(&About) -> Result<PathRef>;

/// Following a link of another process takes the right to trace it (`proc_pid_get_link()`): `EACCES`.
fn place(about: &About, who: Who<'_>, pick: Pick) -> Result<PathRef> {
    access::may_read(who, about.live()?).map_err(|_| Errno::EACCES)?;
    pick(about)
}

/// Pid 1 is at the top of the tree.
fn init_place(about: &About) -> Option<PathRef> {
    about.process.as_ref().filter(|process| process.is_init()).map(|_| about.world.vfs.mounts.root())
}

fn cwd(about: &About) -> Result<PathRef> {
    if let Some(place) = init_place(about) {
        return Ok(place);
    }
    Ok(about.thread().map_err(|_| Errno::ENOENT)?.fs().cwd())
}

fn root(about: &About) -> Result<PathRef> {
    if let Some(place) = init_place(about) {
        return Ok(place);
    }
    Ok(about.thread().map_err(|_| Errno::ENOENT)?.fs().root())
}

fn exe(about: &About) -> Result<PathRef> {
    let mm = about.live()?.mm().ok_or(Errno::ENOENT)?;
    let file = mm.image.lock().exe_file.clone();
    file.and_then(|file| file.path.clone()).ok_or(Errno::ENOENT)
}

fn show_cwd(about: &About, who: Who<'_>) -> Result<Vec<u8>> {
    place(about, who, cwd).map(|place| display(&place, who))
}

fn follow_cwd(about: &About, who: Who<'_>) -> Result<Target> {
    place(about, who, cwd).map(Target::Place)
}

fn show_root(about: &About, who: Who<'_>) -> Result<Vec<u8>> {
    place(about, who, root).map(|place| display(&place, who))
}

fn follow_root(about: &About, who: Who<'_>) -> Result<Target> {
    place(about, who, root).map(Target::Place)
}

fn show_exe(about: &About, who: Who<'_>) -> Result<Vec<u8>> {
    place(about, who, exe).map(|place| display(&place, who))
}

fn follow_exe(about: &About, who: Who<'_>) -> Result<Target> {
    place(about, who, exe).map(Target::Place)
}
