//! Resource limits, resource usage, priorities.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::abi::linux::{RLIM_NLIMITS, RLIMIT_AS, RLIMIT_CPU, RLIMIT_NICE, RLIMIT_NOFILE};
use crate::abi::types::{Rlimit, Tms};
use crate::call::{Addr, Ctx};
use crate::task::{Caps, Cred, Process, Task, cpu_limit, usage};
use crate::{Errno, Result, SysResult};

crate::calls! {
    97 getrlimit getrlimit, 2 Full;
    98 getrusage getrusage, 2 Full;
    100 times times, 1 Full;
    140 getpriority getpriority, 2 Full;
    141 setpriority setpriority, 3 Partial("recorded, and reported back");
    160 setrlimit setrlimit, 2 Full;
    251 ioprio_set ioprio_set, 3 Partial("recorded, and reported back");
    252 ioprio_get ioprio_get, 2 Full;
    302 prlimit64 prlimit64, 4 Full;
}

/// `sysctl_nr_open`: no limit of descriptors is higher.
const NR_OPEN: u64 = 1 << 20;

fn get(process: &Process, which: u32) -> Result<Rlimit> {
    process.rlimits.lock().get(which as usize).copied().ok_or(Errno::EINVAL)
}

/// `do_prlimit()`.
fn set(cx: &Ctx<'_>, process: &Arc<Process>, which: u32, new: Rlimit) -> Result<Rlimit> {
    if which >= RLIM_NLIMITS || new.cur > new.max {
        return Err(Errno::EINVAL);
    }
    if which == RLIMIT_NOFILE && new.max > NR_OPEN {
        return Err(Errno::EPERM);
    }
    let privileged = cx.task.cred().capable(Caps::SYS_RESOURCE);
    let mut limits = process.rlimits.lock();
    let place = limits.get_mut(which as usize).ok_or(Errno::EINVAL)?;
    if new.max > place.max && !privileged {
        return Err(Errno::EPERM);
    }
    let old = std::mem::replace(place, new);
    drop(limits);
    if which == RLIMIT_CPU && new != old {
        cpu_limit::watch(process);
    }
    if which == RLIMIT_AS && (new.cur == u64::MAX) != (old.cur == u64::MAX) {
        // From now on memory calls come to the kernel, or no longer do.
        for task in process.tasks() {
            task.publish_answers();
        }
    }
    Ok(old)
}

fn getrlimit(cx: &mut Ctx<'_>, which: u32, to: u64) -> SysResult {
    let limit = get(&cx.task.process, which)?;
    cx.mem().write(to, &limit)?;
    Ok(0)
}

fn setrlimit(cx: &mut Ctx<'_>, which: u32, from: u64) -> SysResult {
    let limit = cx.mem().read(from)?;
    set(cx, &cx.task.process, which, limit)?;
    Ok(0)
}

fn prlimit64(cx: &mut Ctx<'_>, pid: i32, which: u32, new: Addr, old: Addr) -> SysResult {
    let new: Option<Rlimit> = new.non_null().map(|new| cx.mem().read(new)).transpose()?;
    let world = &cx.task.world;
    let (process, cred) = match pid {
        0 => (cx.task.process.clone(), cx.task.cred()),
        // The kernel's own, without a thread.
        1 => (world.init(), Arc::new(Cred::new(0, 0, Vec::new()))),
        pid => world.task(pid as u32).map(|task| (task.process.clone(), task.cred())).ok_or(Errno::ESRCH)?,
    };
    if pid != 0 {
        may_limit(&cx.task, &cred)?;
    }
    let before = match new {
        Some(new) => set(cx, &process, which, new)?,
        None => get(&process, which)?,
    };
    if let Some(old) = old.non_null() {
        cx.mem().write(old, &before)?;
    }
    Ok(0)
}

/// `check_prlimit_permission()`.
fn may_limit(task: &Task, theirs: &Cred) -> Result<()> {
    let mine = task.cred();
    let same = [theirs.uid, theirs.euid, theirs.suid].iter().all(|uid| *uid == mine.uid)
        && [theirs.gid, theirs.egid, theirs.sgid].iter().all(|gid| *gid == mine.gid);
    if same || mine.capable(Caps::SYS_RESOURCE) { Ok(()) } else { Err(Errno::EPERM) }
}

fn getrusage(cx: &mut Ctx<'_>, who: i32, to: u64) -> SysResult {
    let process = &cx.task.process;
    let used = match who {
        0 => usage::of_process(process),
        -1 => usage::of_children(process),
        1 => usage::of_task(&cx.task),
        -2 => {
            let mut both = usage::of_process(process);
            usage::add(&mut both, &usage::of_children(process));
            both
        }
        _ => return Err(Errno::EINVAL),
    };
    cx.mem().write(to, &used)?;
    Ok(0)
}

fn times(cx: &mut Ctx<'_>, to: Addr) -> SysResult {
    let process = cx.task.process.clone();
    if let Some(to) = to.non_null() {
        let (user, system) = usage::times(&process);
        let children = usage::of_children(&process);
        let times = Tms {
            tms_utime: usage::ticks(user),
            tms_stime: usage::ticks(system),
            tms_cutime: usage::ticks(usage::duration(children.ru_utime)),
            tms_cstime: usage::ticks(usage::duration(children.ru_stime)),
        };
        cx.mem().write(to, &times)?;
    }
    Ok(usage::ticks(cx.task.world.uptime()).unsigned_abs())
}

const PRIO_PROCESS: u32 = 0;
const PRIO_PGRP: u32 = 1;
const PRIO_USER: u32 = 2;

/// Visits the threads that `which` and `who` name. The caller itself needs no search.
fn for_threads(cx: &Ctx<'_>, which: u32, who: i32, mut visit: impl FnMut(&Arc<Task>)) -> Result<()> {
    if which == PRIO_PROCESS && who == 0 {
        visit(&cx.task);
        return Ok(());
    }
    let tree = cx.task.world.tree.lock();
    let found: Vec<Arc<Task>> = match which {
        PRIO_PROCESS => tree.task(who as u32).cloned().into_iter().collect(),
        PRIO_PGRP => {
            let pgid = if who == 0 { cx.task.process.pgid() } else { who as u32 };
            tree.group(pgid).flat_map(|process| process.tasks()).collect()
        }
        PRIO_USER => {
            let uid = if who == 0 { cx.task.cred().uid } else { who as u32 };
            let all = tree.processes().flat_map(|process| process.tasks());
            all.filter(|task| task.cred().uid == uid).collect()
        }
        _ => return Err(Errno::EINVAL),
    };
    drop(tree);
    found.iter().for_each(visit);
    Ok(())
}

/// The raw call answers 20 less the nice value, so that it is never negative.
fn getpriority(cx: &mut Ctx<'_>, which: u32, who: i32) -> SysResult {
    let mut best = None;
    for_threads(cx, which, who, |task| best = best.max(Some(20 - task.nice.load(Ordering::Relaxed))))?;
    // Pid 1 is the kernel's own, without a thread.
    let best = best.or(((which, who) == (PRIO_PROCESS, 1)).then_some(20)).ok_or(Errno::ESRCH)?;
    Ok(best.unsigned_abs().into())
}

fn setpriority(cx: &mut Ctx<'_>, which: u32, who: i32, nice: i32) -> SysResult {
    if which > PRIO_USER {
        return Err(Errno::EINVAL);
    }
    let nice = nice.clamp(-20, 19);
    let mut result = Err(Errno::ESRCH);
    for_threads(cx, which, who, |target| match set_nice(&cx.task, target, nice) {
        Ok(()) if result == Err(Errno::ESRCH) => result = Ok(0),
        Ok(()) => {}
        Err(errno) => result = Err(errno),
    })?;
    result
}

/// `set_one_prio()`.
pub(super) fn set_nice(caller: &Task, target: &Task, nice: i32) -> Result<()> {
    let (mine, theirs) = (caller.cred(), target.cred());
    let privileged = mine.capable(Caps::SYS_NICE);
    if theirs.uid != mine.euid && theirs.euid != mine.euid && !privileged {
        return Err(Errno::EPERM);
    }
    // RLIMIT_NICE runs from 1 (nice 19) to 40 (nice -20).
    let allowed = u64::try_from(20 - nice).unwrap_or(0) <= target.rlimit(RLIMIT_NICE);
    let mut sched = target.sched.lock();
    if nice < sched.nice && !allowed && !privileged {
        return Err(Errno::EACCES);
    }
    sched.nice = nice;
    target.nice.store(nice, Ordering::Relaxed);
    Ok(())
}

const IOPRIO_WHO_PROCESS: u32 = 1;

fn ioprio_set(cx: &mut Ctx<'_>, which: u32, who: i32, priority: u32) -> SysResult {
    let (class, level) = (priority >> 13, priority & 0x1fff);
    match class {
        // Real time.
        1 if !cx.task.cred().capable(Caps::SYS_ADMIN) => return Err(Errno::EPERM),
        1 | 2 if level >= 8 => return Err(Errno::EINVAL),
        0 if level != 0 => return Err(Errno::EINVAL),
        0..=3 => {}
        _ => return Err(Errno::EINVAL),
    }
    let which = which.checked_sub(IOPRIO_WHO_PROCESS).ok_or(Errno::EINVAL)?;
    let mut result = Err(Errno::ESRCH);
    for_threads(cx, which, who, |task| {
        task.sched.lock().io_priority = priority;
        result = Ok(0);
    })?;
    result
}

fn ioprio_get(cx: &mut Ctx<'_>, which: u32, who: i32) -> SysResult {
    let which = which.checked_sub(IOPRIO_WHO_PROCESS).ok_or(Errno::EINVAL)?;
    let mut first = None;
    for_threads(cx, which, who, |task| _ = first.get_or_insert_with(|| task.sched.lock().io_priority))?;
    Ok(u64::from(first.ok_or(Errno::ESRCH)?))
}
