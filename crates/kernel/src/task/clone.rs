//! `clone` in all its forms (`kernel_clone()` and `copy_process()` in kernel/fork.c).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use coracle_platform::{ForkError, Regs, Thread};

use super::process::Seed;
use super::tree::Number;
use super::{Children, Links, Process, Sched, Task, TaskSeed, Vfork, pidfd};
use crate::abi::linux::{
    CLONE_CHILD_CLEARTID, CLONE_CHILD_SETTID, CLONE_DETACHED, CLONE_FILES, CLONE_FS, CLONE_NEWCGROUP,
    CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWTIME, CLONE_NEWUSER, CLONE_NEWUTS,
    CLONE_PARENT, CLONE_PARENT_SETTID, CLONE_PIDFD, CLONE_SETTLS, CLONE_SIGHAND, CLONE_THREAD, CLONE_VFORK,
    CLONE_VM, RLIMIT_NPROC,
};
use crate::call::Ctx;
use crate::mm::AddressSpace;
use crate::signal;
use crate::task::Caps;
use crate::{Errno, Result, SysResult};

/// What all forms of `clone` come down to (`struct kernel_clone_args`).
#[derive(Clone, Copy, Debug, Default)]
pub struct CloneArgs {
    /// `CLONE_*`, without the exit signal.
    pub flags: u64,
    pub exit_signal: i32,
    /// The child's first stack pointer; 0 for the parent's.
    pub stack: u64,
    pub tls: u64,
    pub pidfd: u64,
    pub child_tid: u64,
    pub parent_tid: u64,
}

const NAMESPACES: u64 = (CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET) as u64
    | (CLONE_NEWCGROUP | CLONE_NEWUSER | CLONE_NEWTIME) as u64;

/// What may be combined, in the order of `copy_process()`.
fn check_flags(args: &CloneArgs, process: &Process) -> Result<()> {
    let has = |flag: u32| args.flags & u64::from(flag) != 0;
    let bad = (has(CLONE_NEWNS) && has(CLONE_FS))
        || (has(CLONE_NEWUSER) && has(CLONE_FS))
        || (has(CLONE_THREAD) && !has(CLONE_SIGHAND))
        || (has(CLONE_SIGHAND) && !has(CLONE_VM))
        || (has(CLONE_PARENT) && process.is_init())
        || (has(CLONE_THREAD) && (has(CLONE_NEWUSER) || has(CLONE_NEWPID)))
        || (has(CLONE_PIDFD) && has(CLONE_DETACHED));
    if bad { Err(Errno::EINVAL) } else { Ok(()) }
}

/// `RLIMIT_NPROC` counts the threads of the real user.
fn check_rlimit(task: &Task) -> Result<()> {
    let limit = task.rlimit(RLIMIT_NPROC);
    let cred = task.cred();
    if limit >= u64::from(super::PID_MAX) || cred.uid == 0 || cred.capable(Caps::SYS_RESOURCE | Caps::SYS_ADMIN) {
        return Ok(());
    }
    if task.world.tree.lock().threads_of(cred.uid) as u64 >= limit { Err(Errno::EAGAIN) } else { Ok(()) }
}

/// A descriptor that goes again unless the clone succeeds.
struct NewPidFd<'a> {
    task: &'a Task,
    fd: Option<i32>,
    file: Arc<pidfd::PidFd>,
}

impl<'a> NewPidFd<'a> {
    fn install(cx: &Ctx<'_>, task: &'a Task, address: u64) -> Result<NewPidFd<'a>> {
        let (file, open) = pidfd::PidFd::coming();
        let entry = crate::fd::FdEntry { file: open, close_on_exec: true };
        let fd = task.files().install(entry, 0, task.nofile())?;
        let guard = NewPidFd { task, fd: Some(fd), file };
        if cx.space.write(address, &fd.to_ne_bytes()) < 4 {
            return Err(Errno::EFAULT);
        }
        Ok(guard)
    }
}

impl Drop for NewPidFd<'_> {
    fn drop(&mut self) {
        if let Some(fd) = self.fd {
            drop(self.task.files().remove(fd));
        }
    }
}

/// Makes a thread or a process; returns its tid.
pub fn clone(cx: &mut Ctx<'_>, args: &CloneArgs) -> SysResult {
    let task = cx.task.clone();
    let has = |flag: u32| args.flags & u64::from(flag) != 0;
    check_flags(args, &task.process)?;
    // A fork that a signal came before starts over, so that the signal is handled once (kernel/fork.c).
    if task.interrupted() {
        return Err(Errno::ERESTARTNOINTR);
    }
    check_rlimit(&task)?;
    let number = Number::allocate(&task.world)?;
    // As where user namespaces are turned off: no sandbox inside the sandbox.
    if args.flags & NAMESPACES != 0 {
        return Err(Errno::EPERM);
    }
    let pidfd = if has(CLONE_PIDFD) { Some(NewPidFd::install(cx, &task, args.pidfd)?) } else { None };
    let server = task.world.pool.reserve()?;
    let (mut thread, mm) = copy_thread(cx, args)?;
    let child = copy_task(&task, args, &number, &*thread, mm);
    let vfork = has(CLONE_VFORK).then(|| {
        let vfork = Arc::new(Vfork::default());
        *child.process.vfork.lock() = Some(vfork.clone());
        vfork
    });
    enter(&task, &child, args, number);
    if has(CLONE_PARENT_SETTID) {
        cx.space.write(args.parent_tid, &child.tid().to_ne_bytes());
    }
    if has(CLONE_CHILD_SETTID) {
        child.mm().space.write(args.child_tid, &child.tid().to_ne_bytes());
    }
    if let Some(mut pidfd) = pidfd {
        pidfd.fd = None;
        pidfd.file.set(&child.process);
    }
    if !has(CLONE_THREAD) {
        super::cpu_limit::watch(&child.process);
    }
    let tid = child.tid();
    task.world.stats.forks.fetch_add(1, Ordering::Relaxed);
    child.publish();
    child.publish_answers();
    // A notification that comes from here on interrupts the thread; an earlier one is its kernel thread's to see.
    let running = !child.interrupted() && thread.start();
    server.run(Box::new(move || super::run::serve(child, thread, running)));
    if let Some(vfork) = vfork {
        // Nothing but the caller's own end interrupts this wait.
        let _ = task.block_killable(None, |table| {
            table.watch(&vfork.queue);
            vfork.done.load(Ordering::SeqCst).then_some(())
        });
    }
    Ok(u64::from(tid))
}

/// The host's part: a thread of this worker, or a copy of the worker.
fn copy_thread(cx: &mut Ctx<'_>, args: &CloneArgs) -> Result<(Box<dyn Thread>, Arc<AddressSpace>)> {
    let has = |flag: u32| args.flags & u64::from(flag) != 0;
    let mut edit = |regs: &mut Regs| {
        regs.rax = 0;
        if args.stack != 0 {
            regs.rsp = args.stack;
        }
        if has(CLONE_SETTLS) {
            regs.fs_base = args.tls;
        }
    };
    // A register file that is at hand is what the child starts from.
    cx.thread.freeze(0).map_err(|_| Errno::EAGAIN)?;
    let mm = cx.task.mm();
    let refused = |error: ForkError| match error {
        ForkError::Gone => Errno::EAGAIN,
        ForkError::Refused(errno) => errno,
    };
    if has(CLONE_VM) {
        let thread = cx.thread.spawn_thread(&mut edit).map_err(refused)?;
        Ok((thread, mm))
    } else {
        let vessel = cx.thread.fork(&mut edit).map_err(refused)?;
        cx.task.world.clocks.copied_random_states();
        Ok((vessel.thread, mm.forked(vessel.space)))
    }
}

/// The kernel's part: what is shared by `Arc`, what is copied.
fn copy_task(
    task: &Arc<Task>,
    args: &CloneArgs,
    number: &Number,
    thread: &dyn Thread,
    mm: Arc<AddressSpace>,
) -> Arc<Task> {
    let has = |flag: u32| args.flags & u64::from(flag) != 0;
    let process =
        if has(CLONE_THREAD) { task.process.clone() } else { copy_process(task, args, number.get(), mm.clone()) };
    let files = if has(CLONE_FILES) { task.files() } else { Arc::new(task.files().duplicate()) };
    let fs = if has(CLONE_FS) { task.fs() } else { Arc::new(task.fs().duplicate()) };
    Task::new(TaskSeed {
        process,
        tid: number.get(),
        control: thread.control(),
        mm,
        files,
        fs,
        cred: task.cred(),
        comm: task.comm(),
        signals: signal::TaskSignals::cloned(&task.signals, args.flags),
        clear_child_tid: if has(CLONE_CHILD_CLEARTID) { args.child_tid } else { 0 },
        // The host does the same (`rseq_fork()`).
        rseq: if has(CLONE_VM) { None } else { *task.rseq.lock() },
        no_new_privs: task.no_new_privs.load(Ordering::Relaxed),
        sched: copy_sched(&task.sched.lock()),
    })
}

/// `sched_fork()`.
fn copy_sched(parent: &Sched) -> Sched {
    let mut sched = parent.clone();
    if sched.reset_on_fork {
        sched.reset_on_fork = false;
        sched.policy = 0;
        sched.priority = 0;
        sched.nice = sched.nice.max(0);
    }
    sched
}

fn copy_process(task: &Arc<Task>, args: &CloneArgs, pid: u32, mm: Arc<AddressSpace>) -> Arc<Process> {
    let has = |flag: u32| args.flags & u64::from(flag) != 0;
    let old = &task.process;
    let links = old.links.lock();
    let (pgid, session) = (links.pgid, links.session.clone());
    let (parent, parent_tid, exit_signal) = if has(CLONE_PARENT) {
        (links.parent.clone(), links.parent_tid, old.exit_signal.load(Ordering::Relaxed))
    } else {
        (Arc::downgrade(old), task.tid(), args.exit_signal)
    };
    drop(links);
    Arc::new(Process::new(Seed {
        world: task.world.clone(),
        pid,
        links: Links { parent, parent_tid, children: Children::default(), pgid, session },
        signals: signal::ProcessSignals::cloned(&old.signals, args.flags),
        rlimits: *old.rlimits.lock(),
        mm: Some(mm),
        exit_signal,
        oom_score_adj: old.oom_score_adj.load(Ordering::Relaxed),
        personality: old.personality.load(Ordering::Relaxed),
        // Known once it has its parent.
        below_subreaper: false,
    }))
}

/// Makes the child known. From here on it can be found and signalled.
fn enter(task: &Arc<Task>, child: &Arc<Task>, args: &CloneArgs, number: Number) {
    let mut tree = task.world.tree.lock();
    let process = &child.process;
    if args.flags & u64::from(CLONE_THREAD) == 0 {
        // The group may have been changed by a parent since it was copied.
        if args.flags & u64::from(CLONE_PARENT) == 0 {
            let (pgid, session) = (task.process.pgid(), task.process.session());
            let mut links = process.links.lock();
            links.pgid = pgid;
            links.session = session;
        }
        let heads = |of: &AtomicBool| of.load(Ordering::Relaxed);
        if process.parent().is_some_and(|above| heads(&above.below_subreaper) || heads(&above.child_subreaper)) {
            process.below_subreaper.store(true, Ordering::Relaxed);
        }
        tree.add(process.clone());
        if let Some(parent) = process.parent() {
            parent.links.lock().children.add(process.clone(), process.parent_tid());
        }
    }
    process.tasks.lock().push(child.clone());
    tree.add_task(child.clone());
    number.used(&mut tree);
    drop(tree);
    if task.world.ending() {
        process.begin_exit(crate::abi::linux::SIGKILL as i32);
    }
}
