//! The end of threads and processes (`do_exit()` and `exit_notify()` in kernel/exit.c).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use coracle_platform::Thread;

use super::{Group, Process, Task, Tree, coredump, robust, usage};
use crate::fd::FdTable;
use crate::signal::{self, ChildInfo};
use crate::world::{End, FIRST_PID, World};

const SIGCHLD: i32 = crate::abi::linux::SIGCHLD as i32;
const SIGHUP: i32 = crate::abi::linux::SIGHUP as i32;
const SIGCONT: i32 = crate::abi::linux::SIGCONT as i32;
const CLD_EXITED: i32 = 1;
const CLD_KILLED: i32 = 2;
const CLD_DUMPED: i32 = 3;

/// Ends the calling kernel thread's task. Runs exactly once per task.
pub(super) fn finish(task: &Arc<Task>, mut thread: Box<dyn Thread>) {
    coredump::join(task, &mut *thread);
    let mm = task.mm();
    if !task.worker_is_gone() {
        let _ = robust::release(task, &*mm.space, &mut *thread, mm.has_one_user());
    }
    signal::task_exits(task);
    close_files(task, task.take_files());
    account_thread(task);
    // Whoever is told of the death finds it done (exit_mm() comes before exit_notify()).
    task.mm.lock().leave();
    if leave(task) {
        end_process(task);
    } else {
        task.process.check_stopped();
        let dead = threaded_reparent(task);
        dead.iter().for_each(|(child, signal)| signal::send_kernel(child, *signal));
    }
    thread.retire();
    // Otherwise nobody waits for mere threads, and each would wake the main thread of this process.
    if task.world.ending() {
        task.world.thread_gone();
    }
}

/// Closes every descriptor if this was the last user of the table.
pub(super) fn close_files(task: &Arc<Task>, table: Arc<FdTable>) {
    let files = Arc::as_ptr(&table).addr();
    let Some(table) = Arc::into_inner(table) else { return };
    for entry in table.remove_if(|_, _| true) {
        task.world.vfs.watches.dnotify.flush(&entry.file, files);
        let _ = entry.file.file.flush(task);
    }
}

/// The sandbox ends with this process, and nobody will ask what it has used. (Asking the host takes five to ten calls,
/// while whoever started the sandbox waits.)
fn is_beyond_account(process: &Process) -> bool {
    let world = &process.world;
    process.pid == FIRST_PID && !world.config.usage_wanted
}

/// Adds what the thread used to its process and to the world.
pub(super) fn account_thread(task: &Task) {
    let control = task.control();
    let last = task.process.tasks.lock().len() == 1;
    if !(last && is_beyond_account(&task.process)) {
        let (user, system) = control.cpu_time();
        let nanos = u64::try_from((user + system).as_nanos()).unwrap_or(0);
        task.world.stats.cpu_nanos.fetch_add(nanos, Ordering::Relaxed);
        usage::add_times(&mut task.process.dead_threads.lock(), user, system);
    }
    for (sum, count) in task.world.stats.calls.iter().zip(&task.calls) {
        let count = count.load(Ordering::Relaxed);
        if count > 0 {
            sum.fetch_add(count, Ordering::Relaxed);
        }
    }
    let lanes = control.lanes();
    let mut sum = task.world.stats.lanes.lock();
    sum.lane1 = sum.lane1.saturating_add(lanes.lane1);
    sum.lane2 = sum.lane2.saturating_add(lanes.lane2);
    sum.lane3 = sum.lane3.saturating_add(lanes.lane3);
    sum.lane4 = sum.lane4.saturating_add(lanes.lane4);
    sum.bytes_staged = sum.bytes_staged.saturating_add(lanes.bytes_staged);
}

/// Takes the task out of the tables; `true` if it was the last of its process.
fn leave(task: &Arc<Task>) -> bool {
    let mut tree = task.world.tree.lock();
    let process = &task.process;
    tree.remove_task(task);
    let last = {
        let mut tasks = process.tasks.lock();
        tasks.retain(|other| !Arc::ptr_eq(other, task));
        tasks.is_empty()
    };
    if last {
        // The last thread's code is the process's (`synchronize_group_exit()`).
        process.group.lock().exit.get_or_insert(task.exit_status.load(Ordering::Relaxed));
    }
    process.leave_queue.wake_all();
    last
}

/// Children stay with the process, but those that this thread made hear of its death (`PR_SET_PDEATHSIG`).
fn threaded_reparent(task: &Arc<Task>) -> Vec<(Arc<Process>, i32)> {
    let _tree = task.world.tree.lock();
    let heir = task.process.any_task().map_or(task.process.pid, |other| other.tid());
    let mut told = Vec::new();
    let mine = task.process.links.lock().children.inherit(task.tid(), heir);
    for child in mine {
        child.links.lock().parent_tid = heir;
        told.extend(pdeath_signals(&child));
    }
    told
}

fn pdeath_signals(child: &Arc<Process>) -> Vec<(Arc<Process>, i32)> {
    let signals = child.tasks().into_iter().map(|thread| thread.pdeath_signal.load(Ordering::Relaxed));
    signals.filter(|signal| *signal != 0).map(|signal| (child.clone(), signal)).collect()
}

/// The last thread is gone.
fn end_process(task: &Arc<Task>) {
    let process = &task.process;
    let world = &process.world;
    signal::process_exits(process);
    super::cpu_limit::forget(process);
    super::overdue::forget(process);
    *process.last_words.lock() = Some((task.comm(), task.cred()));
    world.ipc.sysv.process_exits(process);
    if !is_beyond_account(process) {
        usage::settle(process);
    }
    *process.mm.lock() = None;
    if let Some(vfork) = process.vfork.lock().take() {
        vfork.fulfil();
    }
    hang_up(process);
    let mut tree = world.tree.lock();
    forget_parent(&mut tree, process);
    if let Some(parent) = process.parent() {
        tell_orphans(&tree, process, &parent, true);
    }
    become_zombie(process);
    tree.bury(process);
    let status = process.group.lock().status();
    let out_of_memory = process.oom_killed.load(Ordering::SeqCst);
    world.process_ended(process, End { status, out_of_memory });
    if notify_parent(process) {
        reap(&mut tree, process);
    }
    drop(tree);
    process.exit_queue.wake_all();
}

/// `PR_SET_CHILD_SUBREAPER`: those below may have to look for one (`propagate_has_child_subreaper()` in kernel/sys.c).
pub fn set_subreaper(process: &Arc<Process>, on: bool) {
    process.child_subreaper.store(on, Ordering::Relaxed);
    if !on {
        return;
    }
    let _tree = process.world.tree.lock();
    let mut below = process.children();
    while let Some(child) = below.pop() {
        // Below one that knows already, all do.
        if !child.below_subreaper.swap(true, Ordering::Relaxed) {
            below.extend(child.children());
        }
    }
}

fn become_zombie(process: &Process) {
    let mut group = process.group.lock();
    group.zombie = true;
    group.stop = None;
    group.stop_unreported = false;
    process.exiting.store(true, Ordering::SeqCst);
    process.stopping.store(false, Ordering::SeqCst);
}

impl Group {
    /// Wait status of a process that is over.
    pub fn status(&self) -> i32 {
        self.exit.unwrap_or(0)
    }
}

/// `do_notify_parent()`; `true` if the zombie is to go at once. With the tree locked, so that the signal and the
/// zombie appear together.
fn notify_parent(process: &Arc<Process>) -> bool {
    let Some(parent) = process.parent() else { return true };
    // The kernel's own init waits for everything.
    if parent.is_init() {
        return true;
    }
    let signal = process.exit_signal.load(Ordering::Relaxed);
    let policy = signal::child_policy(&parent);
    let reap = signal == SIGCHLD && policy.no_zombies;
    if signal != 0 && !(signal == SIGCHLD && policy.ignored) {
        let (code, status) = decode(process.group.lock().status());
        signal::send_child(&parent, signal, child_info(process, code, status));
    }
    parent.child_queue.wake_all();
    reap
}

/// `si_code` and `si_status` for a wait status.
pub fn decode(status: i32) -> (i32, i32) {
    match status & 0x7f {
        0 => (CLD_EXITED, (status >> 8) & 0xff),
        signal if status & 0x80 != 0 => (CLD_DUMPED, signal),
        signal => (CLD_KILLED, signal),
    }
}

/// A `siginfo` about `process` for its parent.
pub(super) fn child_info(process: &Process, code: i32, status: i32) -> ChildInfo {
    let (user, system) = usage::times(process);
    ChildInfo {
        code,
        pid: process.pid,
        uid: process.last_uid.load(Ordering::Relaxed),
        status,
        utime: usage::ticks(user),
        stime: usage::ticks(system),
    }
}

/// Takes a zombie out of the tables. Whoever found it with the tree locked may do so.
pub(super) fn reap(tree: &mut Tree, process: &Arc<Process>) {
    tree.remove(process);
    if let Some(parent) = process.parent() {
        let removed = parent.links.lock().children.remove(process, process.parent_tid());
        drop(removed);
    }
    // A pidfd of it says ESRCH from now on, and nobody finds it by its group.
    process.reaped.store(true, Ordering::SeqCst);
}

/// `forget_original_parent()`: children go to the nearest subreaper or to init.
fn forget_parent(tree: &mut Tree, father: &Arc<Process>) {
    let children = std::mem::take(&mut father.links.lock().children);
    if children.is_empty() {
        return;
    }
    let Some(reaper) = find_reaper(tree, father) else { return };
    for child in children.iter() {
        {
            let mut links = child.links.lock();
            links.parent = Arc::downgrade(&reaper);
            links.parent_tid = reaper.pid;
        }
        reaper.links.lock().children.add(child.clone(), reaper.pid);
        for (child, signal) in pdeath_signals(child) {
            signal::send_kernel(&child, signal);
        }
        child.exit_signal.store(SIGCHLD, Ordering::Relaxed);
        for thread in child.tasks() {
            thread.publish();
        }
        if child.is_zombie() {
            if notify_parent(child) {
                reap(tree, child);
            }
        } else {
            tell_orphans(tree, child, father, false);
        }
    }
}

fn find_reaper(tree: &Tree, father: &Arc<Process>) -> Option<Arc<Process>> {
    let mut at = father.parent()?;
    if !father.below_subreaper.load(Ordering::Relaxed) {
        // Nobody on the way up can be one.
        return Some(tree.process(1).cloned().unwrap_or(at));
    }
    loop {
        if at.is_init() || (at.child_subreaper.load(Ordering::Relaxed) && !at.exiting()) {
            return Some(at);
        }
        match at.parent() {
            Some(above) => at = above,
            None => return Some(at),
        }
    }
}

/// `kill_orphaned_pgrp()`: a group that loses its last link to its session's other groups, with a stopped
/// member, is hung up. `dies`: `process` itself is ending, and does not count as a link.
fn tell_orphans(tree: &Tree, process: &Arc<Process>, parent: &Arc<Process>, dies: bool) {
    let (pgid, sid) = (process.pgid(), process.sid());
    if parent.pgid() == pgid || parent.sid() != sid {
        return;
    }
    let ignored = dies.then_some(process);
    if !is_orphaned(tree, pgid, sid, ignored) || !tree.group(pgid).any(|member| member.group().stop.is_some()) {
        return;
    }
    let members: Vec<_> = tree.group(pgid).cloned().collect();
    for member in members {
        signal::send_kernel(&member, SIGHUP);
        signal::send_kernel(&member, SIGCONT);
    }
}

/// `will_become_orphaned_pgrp()`.
fn is_orphaned(tree: &Tree, pgid: u32, sid: u32, ignored: Option<&Arc<Process>>) -> bool {
    !tree.group(pgid).any(|member| {
        let counts = ignored.is_none_or(|ignored| !Arc::ptr_eq(ignored, member)) && !member.is_zombie();
        counts
            && member
                .parent()
                .is_some_and(|parent| is_shell(&parent, member) && parent.pgid() != pgid && parent.sid() == sid)
    })
}

/// `parent` can care for a stopped `child`. Init never does, but whoever started the sandbox stands behind the
/// first program: Ctrl-Z works there.
fn is_shell(parent: &Process, child: &Process) -> bool {
    !parent.is_init() || child.pid == crate::world::FIRST_PID
}

/// Is `process`'s group orphaned now (`is_current_pgrp_orphaned()`)? Stops by terminal signals are then ignored,
/// and reads from a terminal in the background fail with `EIO`.
pub fn is_group_orphaned(world: &World, process: &Process) -> bool {
    let (pgid, sid) = (process.pgid(), process.sid());
    is_orphaned(&world.tree.lock(), pgid, sid, None)
}

/// The death of a session leader takes the terminal away from the session (`disassociate_ctty()`).
fn hang_up(process: &Arc<Process>) {
    let session = process.session();
    if session.sid != process.pid {
        return;
    }
    let Some(terminal) = session.terminal.lock().take() else { return };
    for member in process.world.group(terminal.foreground) {
        if !Arc::ptr_eq(&member, process) {
            signal::send_kernel(&member, SIGHUP);
            signal::send_kernel(&member, SIGCONT);
        }
    }
}
