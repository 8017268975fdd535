//! `/proc/PID/status` (`proc_pid_status()` in fs/proc/array.c).

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{About, access, stat, subject};
use crate::Result;
use crate::abi::linux::RLIMIT_SIGPENDING;
use crate::fs::Who;
use crate::task::{Cred, Process, Task, usage};

/// Signal sets as bit masks; bit 0 is signal 1.
#[derive(Clone, Copy, Debug, Default)]
pub struct Signals {
    pub pending: u64,
    pub shared: u64,
    pub blocked: u64,
    pub ignored: u64,
    pub caught: u64,
    /// Signals queued for the user.
    pub queued: u64,
}

impl Signals {
    /// Those of a thread and its process; nothing once the last thread is gone.
    pub fn of(process: &Process, task: Option<&Arc<Task>>) -> Signals {
        let Some(task) = task else { return Signals::default() };
        let (ignored, caught) = process.signals.ignored_and_caught();
        Signals {
            pending: task.signals.pending_set().0,
            shared: process.signals.pending_set().0,
            blocked: task.signals.blocked().0,
            ignored: ignored.0,
            caught: caught.0,
            queued: process.signals.queued(),
        }
    }
}

/// Blanks in names stay; line feeds and backslashes are escaped (`proc_task_name()`).
fn escaped(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    for &byte in name {
        match byte {
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\\' => out.extend_from_slice(b"\\\\"),
            _ => out.push(byte),
        }
    }
    out
}

/// CPU numbers as words of 32 bits in hex, the highest first (`cpumask_pr_args`).
pub fn cpu_mask(cpus: &[usize]) -> String {
    let words = cpus.iter().max().map_or(1, |last| last / 32 + 1);
    let masks = (0..words)
        .rev()
        .map(|word| cpus.iter().filter(|cpu| **cpu / 32 == word).fold(0_u32, |mask, cpu| mask | 1 << (cpu % 32)));
    let width = if words == 1 { 1 } else { 8 };
    masks.map(|mask| format!("{mask:0width$x}")).collect::<Vec<_>>().join(",")
}

/// Numbers as a list of ranges: `0-3,7` (`cpumask_pr_args` with `%*pbl`).
pub fn cpu_list(cpus: &[usize]) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for &cpu in cpus {
        match ranges.last_mut() {
            Some((_, end)) if *end + 1 == cpu => *end = cpu,
            _ => ranges.push((cpu, cpu)),
        }
    }
    let text = ranges.iter().map(|(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") });
    text.collect::<Vec<_>>().join(",")
}

/// Writing to a `String` cannot fail.
macro_rules! put {
    ($text:expr, $($arg:tt)*) => { _ = writeln!($text, $($arg)*) };
}

/// `/proc/PID/status`.
pub fn show(about: &About, who: Who<'_>) -> Result<Vec<u8>> {
    let (process, task) = subject(about)?;
    let mut out = b"Name:\t".to_vec();
    out.extend_from_slice(&escaped(&stat::comm(about)?));
    let mut text = String::from("\n");
    identity(&mut text, about, &process, task.as_ref());
    if process.mm().is_some() {
        memory(&mut text, &process);
    }
    signals(&mut text, &process, task.as_ref());
    let cred = task.as_ref().map_or_else(|| access::cred(&process), |task| task.cred());
    capabilities(&mut text, &cred, task.as_ref());
    scheduling(&mut text, &process, task.as_ref());
    let _ = who;
    out.extend_from_slice(text.as_bytes());
    Ok(out)
}

fn identity(text: &mut String, about: &About, process: &Arc<Process>, task: Option<&Arc<Task>>) {
    let tid = task.filter(|_| about.task.is_some()).map_or(process.pid, |task| task.tid());
    let cred = task.map_or_else(|| access::cred(process), |task| task.cred());
    if let Some(task) = task {
        put!(text, "Umask:\t{:04o}", task.fs().umask());
    }
    put!(text, "State:\t{}", stat::state(process, task).letter().1);
    put!(text, "Tgid:\t{}\nNgid:\t0\nPid:\t{tid}\nPPid:\t{}\nTracerPid:\t0", process.pid, process.ppid());
    put!(text, "Uid:\t{}\t{}\t{}\t{}", cred.uid, cred.euid, cred.suid, cred.fsuid);
    put!(text, "Gid:\t{}\t{}\t{}\t{}", cred.gid, cred.egid, cred.sgid, cred.fsgid);
    let slots = task.and_then(|task| task.files().list().last().map(|(fd, _)| *fd + 1)).unwrap_or(0);
    // Tables grow in powers of two from 64 on (`NR_OPEN_DEFAULT`).
    let size = if task.is_none() { 0 } else { u32::try_from(slots).unwrap_or(0).next_power_of_two().max(64) };
    put!(text, "FDSize:\t{size}");
    let groups: String = cred.groups.iter().map(|gid| format!("{gid} ")).collect();
    // A list without groups is a single blank.
    put!(text, "Groups:\t{}", if groups.is_empty() { " " } else { &groups });
    put!(text, "NStgid:\t{}\nNSpid:\t{tid}\nNSpgid:\t{}\nNSsid:\t{}", process.pid, process.pgid(), process.sid());
    put!(text, "Kthread:\t0");
}

fn memory(text: &mut String, process: &Arc<Process>) {
    let Some(mm) = process.mm() else { return };
    let used = mm.space.usage();
    let image = mm.image.lock().clone();
    let files = used.resident.saturating_sub(used.resident_anonymous).saturating_sub(used.resident_shared);
    let size = mm.virtual_size(&used);
    let code = stat::code_size(&image);
    let stack = image.stack_size();
    let data = used.resident_anonymous.saturating_sub(stack.min(used.resident_anonymous));
    // Page tables: 8 bytes a resident page, in pages, and the three levels above.
    let tables = (used.resident / 512).next_multiple_of(4096).saturating_add(4 * 4096);
    for (name, bytes) in [
        ("VmPeak", size),
        ("VmSize", size),
        ("VmLck", 0),
        ("VmPin", 0),
        ("VmHWM", used.resident_peak.max(used.resident)),
        ("VmRSS", used.resident),
        ("RssAnon", used.resident_anonymous),
        ("RssFile", files),
        ("RssShmem", used.resident_shared),
        ("VmData", data),
        ("VmStk", stack),
        ("VmExe", code),
        ("VmLib", files.saturating_sub(code)),
        ("VmPTE", tables),
        ("VmSwap", 0),
        ("HugetlbPages", 0),
    ] {
        put!(text, "{name}:\t{:>8} kB", bytes / 1024);
    }
    let dumping = u32::from(process.core().is_some_and(|dump| dump.goes_on()));
    put!(text, "CoreDumping:\t{dumping}\nTHP_enabled:\t1\nuntag_mask:\t0xffffffffffffffff");
}

fn signals(text: &mut String, process: &Arc<Process>, task: Option<&Arc<Task>>) {
    let sets = Signals::of(process, task);
    let limit = process.rlimits.lock().get(RLIMIT_SIGPENDING as usize).map_or(0, |limit| limit.cur);
    put!(text, "Threads:\t{}", process.tasks().len().max(1));
    put!(text, "SigQ:\t{}/{limit}", sets.queued);
    for (name, set) in [
        ("SigPnd", sets.pending),
        ("ShdPnd", sets.shared),
        ("SigBlk", sets.blocked),
        ("SigIgn", sets.ignored),
        ("SigCgt", sets.caught),
    ] {
        put!(text, "{name}:\t{set:016x}");
    }
}

fn capabilities(text: &mut String, cred: &Cred, task: Option<&Arc<Task>>) {
    for (name, set) in [
        ("CapInh", cred.inheritable),
        ("CapPrm", cred.permitted),
        ("CapEff", cred.effective),
        ("CapBnd", cred.bounding),
        ("CapAmb", cred.ambient),
    ] {
        put!(text, "{name}:\t{:016x}", set.bits());
    }
    let no_new_privs = task.is_some_and(|task| task.no_new_privs.load(Ordering::Relaxed));
    put!(text, "NoNewPrivs:\t{}\nSeccomp:\t0\nSeccomp_filters:\t0", u32::from(no_new_privs));
    put!(text, "Speculation_Store_Bypass:\tthread vulnerable\nSpeculationIndirectBranch:\tconditional enabled");
}

fn scheduling(text: &mut String, process: &Arc<Process>, task: Option<&Arc<Task>>) {
    let cpus = task.map_or_else(|| process.world.config.cpus.clone(), |task| task.sched.lock().affinity.clone());
    put!(text, "Cpus_allowed:\t{}\nCpus_allowed_list:\t{}", cpu_mask(&cpus), cpu_list(&cpus));
    put!(text, "Mems_allowed:\t1\nMems_allowed_list:\t0");
    let used = usage::of_process(process);
    put!(text, "voluntary_ctxt_switches:\t{}\nnonvoluntary_ctxt_switches:\t{}", used.ru_nvcsw, used.ru_nivcsw);
}
