//! `/proc/PID/stat` and `statm` (`do_task_stat()` and `proc_pid_statm()` in fs/proc/array.c).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{About, access, subject};
use crate::Result;
use crate::abi::PAGE_SIZE;
use crate::abi::linux::RLIMIT_RSS;
use crate::abi::types::Rusage;
use crate::fs::Who;
use crate::mm::Image;
use crate::task::{Process, Sched, Task, usage};

const PF_FORKNOEXEC: u32 = 0x40;
const PF_RANDOMIZE: u32 = 0x0040_0000;

/// What `ps` shows in its STAT column (`task_state_array`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Running,
    Sleeping,
    Stopped,
    Zombie,
}

impl State {
    /// `R` and so on, and the word in `status`.
    pub fn letter(self) -> (char, &'static str) {
        match self {
            State::Running => ('R', "R (running)"),
            State::Sleeping => ('S', "S (sleeping)"),
            State::Stopped => ('T', "T (stopped)"),
            State::Zombie => ('Z', "Z (zombie)"),
        }
    }
}

/// How a thread is doing.
pub fn task_state(task: &Task) -> State {
    let asleep = task.waiter.asleep();
    if asleep && task.process.group().stop.is_some() {
        State::Stopped
    } else if asleep || task.control().asleep() {
        State::Sleeping
    } else {
        State::Running
    }
}

/// How the thread told of is doing, or the process for its first thread. Pid 1 has no thread and waits.
pub fn state(process: &Process, task: Option<&Arc<Task>>) -> State {
    match task {
        Some(task) => task_state(task),
        None if process.is_zombie() => State::Zombie,
        None => State::Sleeping,
    }
}

/// The name that `ps` shows.
pub fn comm(about: &About) -> Result<Vec<u8>> {
    let (process, task) = subject(about)?;
    Ok(match task {
        Some(task) => task.comm(),
        None => process.last_words().map_or_else(|| b"init".to_vec(), |last| last.0),
    })
}

/// Times and faults of what is told: of one thread, or of the whole process.
fn used(about: &About, process: &Process, task: Option<&Arc<Task>>) -> Rusage {
    match (about.task.is_some(), task) {
        (true, Some(task)) => usage::of_task(task),
        _ => usage::of_process(process),
    }
}

fn ticks(time: crate::abi::types::Timeval) -> i64 {
    usage::ticks(usage::duration(time))
}

/// Field 18: 20 is nice 0; real-time priorities are negative.
fn priority(sched: &Sched) -> i32 {
    match sched.policy {
        1 | 2 => -1 - sched.priority,
        _ => 20 + sched.nice,
    }
}

/// `/proc/PID/stat`.
pub fn show(about: &About, who: Who<'_>) -> Result<Vec<u8>> {
    let (process, task) = subject(about)?;
    let permitted = access::may_read(who, &process).is_ok();
    let group = process.group();
    let session = process.session();
    let terminal = *session.terminal.lock();
    // Device numbers here are 16 bits with the minor split around the major (new_encode_dev).
    let (tty, foreground) = terminal.map_or((0, -1), |tty| (tty.rdev as i64, i64::from(tty.foreground)));
    let used_by_self = used(about, &process, task.as_ref());
    let children = usage::of_children(&process);
    let sched = task.as_ref().map_or_else(Sched::default, |task| task.sched.lock().clone());
    let signals = super::status::Signals::of(&process, task.as_ref());
    let mm = process.mm();
    let mut space = mm.as_ref().map(|mm| mm.space.usage()).unwrap_or_default();
    space.virtual_size = mm.as_ref().map_or(0, |mm| mm.virtual_size(&space));
    let image = mm.as_ref().map(|mm| mm.image.lock().clone()).filter(|_| permitted).unwrap_or_default();
    let flags = PF_RANDOMIZE | if process.did_exec.load(Ordering::Relaxed) { 0 } else { PF_FORKNOEXEC };
    let (code, stack) = match (&mm, permitted) {
        (Some(_), true) => (image.code, image.start_stack),
        (Some(_), false) => ((1, 1), 0),
        (None, _) => ((0, 0), 0),
    };
    let start = task.as_ref().map_or(process.start_time, |task| task.start_time.max(process.start_time));
    let mut text = Vec::with_capacity(400);
    let tid = task.as_ref().filter(|_| about.task.is_some()).map_or(process.pid, |task| task.tid());
    text.extend_from_slice(format!("{tid} (").as_bytes());
    text.extend_from_slice(&comm(about)?);
    let rss_limit = process.rlimits.lock().get(RLIMIT_RSS as usize).map_or(u64::MAX, |limit| limit.cur);
    let state = state(&process, task.as_ref());
    let waits = u32::from(permitted && state == State::Sleeping);
    let fields = format!(
        ") {} {} {} {} {tty} {foreground} {flags} {} {} {} {} {} {} {} {} {} {} {} 0 {} {} {} {rss_limit} {} {} \
         {stack} 0 0 {} {} {} {} {waits} 0 0 {} {} {} {} 0 0 0 {} {} {} {} {} {} {} {}\n",
        state.letter().0,
        process.ppid(),
        process.pgid(),
        session.sid,
        used_by_self.ru_minflt,
        children.ru_minflt,
        used_by_self.ru_majflt,
        children.ru_majflt,
        ticks(used_by_self.ru_utime),
        ticks(used_by_self.ru_stime),
        ticks(children.ru_utime),
        ticks(children.ru_stime),
        priority(&sched),
        sched.nice,
        process.tasks().len().max(1),
        usage::ticks(start),
        space.virtual_size,
        space.resident / PAGE_SIZE,
        code.0,
        code.1,
        (signals.pending | signals.shared) & 0x7fff_ffff,
        signals.blocked & 0x7fff_ffff,
        signals.ignored & 0x7fff_ffff,
        signals.caught & 0x7fff_ffff,
        if about.task.is_some() && tid != process.pid { -1 } else { process.exit_signal.load(Ordering::Relaxed) },
        task.as_ref().map_or(0, |task| task.control().last_cpu()),
        if (1..=2).contains(&sched.policy) { sched.priority } else { 0 },
        sched.policy,
        image.data.0,
        image.data.1,
        image.start_brk,
        image.args.0,
        image.args.1,
        image.env.0,
        image.env.1,
        if permitted && group.zombie { group.status() } else { 0 },
    );
    text.extend_from_slice(fields.as_bytes());
    Ok(text)
}

/// Sizes in pages: all, resident, shared, code, 0, data and stack, 0.
pub fn show_statm(about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    let process = about.live()?;
    let Some(mm) = process.mm() else { return super::line("0 0 0 0 0 0 0") };
    let used = mm.space.usage();
    let image = mm.image.lock().clone();
    let file_backed = used.resident.saturating_sub(used.resident_anonymous);
    let pages = |bytes: u64| bytes / PAGE_SIZE;
    super::line(format_args!(
        "{} {} {} {} 0 {} 0",
        pages(mm.virtual_size(&used)),
        pages(used.resident),
        pages(file_backed),
        pages(code_size(&image)),
        pages(
            used.resident_anonymous
                .max(image.brk.saturating_sub(image.start_brk))
                .saturating_add(image.stack_size())
        ),
    ))
}

/// `VmExe`: the program's code, in whole pages.
pub fn code_size(image: &Image) -> u64 {
    let (start, end) = image.code;
    crate::abi::page_ceil(end).unwrap_or(end).saturating_sub(crate::abi::page_floor(start))
}
