//! A process: what Linux calls a thread group, with its `signal_struct`.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::{Children, Rlimits, Task};
use crate::abi::types::Rusage;
use crate::mm::AddressSpace;
use crate::signal;
use crate::wait::WaitQueue;
use crate::world::World;

/// A process group member's session (credentials(7)).
pub struct Session {
    pub sid: u32,
    /// The controlling terminal, once there is one.
    pub terminal: Mutex<Option<Terminal>>,
}

/// What a session knows of its controlling terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terminal {
    /// Device number, for `/proc/PID/stat` and `/dev/tty`.
    pub rdev: u64,
    /// The foreground process group.
    pub foreground: u32,
}

/// Where a process stands among the others. Changed only with the tree locked.
pub struct Links {
    /// Empty for pid 1 and for what has lost its parent at the end of the world.
    pub parent: Weak<Process>,
    /// The thread that made it: `PR_SET_PDEATHSIG` and `__WNOTHREAD` look at threads.
    pub parent_tid: u32,
    pub children: Children,
    pub pgid: u32,
    pub session: Arc<Session>,
}

/// How far the life of a process has come, and job control.
#[derive(Clone, Copy, Debug, Default)]
pub struct Group {
    /// Wait status of the whole group, once its end has begun (`SIGNAL_GROUP_EXIT`).
    pub exit: Option<i32>,
    /// The last thread is gone; waits to be waited for.
    pub zombie: bool,
    /// Threads are to stop because of this signal.
    pub stop: Option<i32>,
    /// All threads have stopped, and it has not been reported to a waiting parent yet (`WUNTRACED`).
    pub stop_unreported: bool,
    /// Continued since, not reported yet (`WCONTINUED`).
    pub continue_unreported: bool,
    /// Threads that have stopped.
    pub stopped_threads: u32,
    /// All of them have.
    pub stop_complete: bool,
}

/// A process.
pub struct Process {
    pub world: Arc<World>,
    pub pid: u32,
    /// Since the world began; field 22 of `/proc/PID/stat`.
    pub start_time: Duration,
    /// Live threads, the leader first while it lives.
    pub(super) tasks: Mutex<Vec<Arc<Task>>>,
    pub(super) links: Mutex<Links>,
    pub(super) group: Mutex<Group>,
    /// Copies of `group.exit` and `group.stop` for a look without the lock.
    pub(super) exiting: AtomicBool,
    pub(super) stopping: AtomicBool,
    /// A zombie no more: it has been waited for.
    pub(super) reaped: AtomicBool,
    /// Ended for want of memory.
    pub oom_killed: AtomicBool,
    /// A core dump that has begun.
    pub(super) core: Mutex<Option<Arc<super::coredump::CoreDump>>>,
    /// Woken when a thread of it has ended: `execve` waits for the others.
    pub(super) leave_queue: WaitQueue,
    /// Real user id, for the `siginfo` of its end.
    pub(super) last_uid: AtomicU32,
    /// Name and credentials that a zombie shows.
    pub(super) last_words: Mutex<Option<(Vec<u8>, Arc<super::Cred>)>>,
    /// Woken when threads may go on after a stop.
    pub(super) stop_queue: WaitQueue,
    /// Woken when a child changes state: `wait4` of this process sleeps here.
    pub child_queue: WaitQueue,
    /// Woken when this process becomes a zombie or is reaped: pidfds.
    pub exit_queue: WaitQueue,
    /// Pending signals of the group and the dispositions.
    pub signals: signal::ProcessSignals,
    /// Interval timers and POSIX timers.
    pub timers: signal::ProcessTimers,
    pub rlimits: Mutex<Rlimits>,
    /// Watches `RLIMIT_CPU` where there is such a limit.
    pub(super) cpu_alarm: Mutex<Option<Arc<crate::time::Alarm>>>,
    /// Watches that it ends once it was told to.
    pub(super) overdue: Mutex<Option<Arc<crate::time::Alarm>>>,
    /// `None` for pid 1 and for zombies.
    pub(super) mm: Mutex<Option<Arc<AddressSpace>>>,
    /// Sent to the parent at the end; 0 for none. 17 is SIGCHLD.
    pub exit_signal: AtomicI32,
    /// Its number among the children of its parent. Changed only with the tree locked.
    pub(super) birth: AtomicU64,
    /// `PR_SET_CHILD_SUBREAPER`.
    pub child_subreaper: AtomicBool,
    /// Somebody above is one, or was (`has_child_subreaper`).
    pub(super) below_subreaper: AtomicBool,
    /// Has called execve since it was forked (setpgid of a parent then fails with EACCES).
    pub did_exec: AtomicBool,
    pub oom_score_adj: AtomicI32,
    /// personality(2).
    pub personality: AtomicU32,
    /// What its calls have moved (`/proc/PID/io`).
    pub io: Moved,
    /// What threads that are gone have used.
    pub(super) dead_threads: Mutex<Rusage>,
    /// What children that were waited for have used (`RUSAGE_CHILDREN`).
    pub(super) dead_children: Mutex<Rusage>,
    /// The parent sleeps in vfork until this is fulfilled.
    pub(super) vfork: Mutex<Option<Arc<super::Vfork>>>,
}

/// Bytes and calls of `read` and `write` and their kin (`task_io_accounting`, include/linux/task_io_accounting.h).
#[derive(Default)]
pub struct Moved {
    pub bytes_read: AtomicU64,
    pub bytes_written: AtomicU64,
    pub reads: AtomicU64,
    pub writes: AtomicU64,
}

impl Moved {
    /// A call that read as many bytes (`add_rchar()`, `inc_syscr()`).
    pub fn read(&self, bytes: u64) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.bytes_read.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A call that wrote as many bytes.
    pub fn wrote(&self, bytes: u64) {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.bytes_written.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// What a process is made from.
pub(super) struct Seed {
    pub world: Arc<World>,
    pub pid: u32,
    pub links: Links,
    pub signals: signal::ProcessSignals,
    pub rlimits: Rlimits,
    pub mm: Option<Arc<AddressSpace>>,
    pub exit_signal: i32,
    pub oom_score_adj: i32,
    pub personality: u32,
    pub below_subreaper: bool,
}

impl Process {
    /// A process without threads yet, not in the table yet.
    pub(super) fn new(seed: Seed) -> Process {
        Process {
            start_time: seed.world.uptime(),
            world: seed.world,
            pid: seed.pid,
            tasks: Mutex::default(),
            links: Mutex::new(seed.links),
            group: Mutex::default(),
            exiting: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            reaped: AtomicBool::new(false),
            oom_killed: AtomicBool::new(false),
            core: Mutex::default(),
            leave_queue: WaitQueue::new(),
            last_uid: AtomicU32::new(0),
            last_words: Mutex::default(),
            stop_queue: WaitQueue::new(),
            child_queue: WaitQueue::new(),
            exit_queue: WaitQueue::new(),
            signals: seed.signals,
            timers: signal::ProcessTimers::default(),
            rlimits: Mutex::new(seed.rlimits),
            cpu_alarm: Mutex::default(),
            overdue: Mutex::default(),
            mm: Mutex::new(seed.mm),
            exit_signal: AtomicI32::new(seed.exit_signal),
            birth: AtomicU64::new(0),
            child_subreaper: AtomicBool::new(false),
            below_subreaper: AtomicBool::new(seed.below_subreaper),
            did_exec: AtomicBool::new(false),
            oom_score_adj: AtomicI32::new(seed.oom_score_adj),
            personality: AtomicU32::new(seed.personality),
            io: Moved::default(),
            dead_threads: Mutex::default(),
            dead_children: Mutex::default(),
            vfork: Mutex::default(),
        }
    }

    /// The kernel's own pid 1, which has no threads and waits for orphans.
    pub fn is_init(&self) -> bool {
        self.pid == 1
    }

    /// Has been waited for: its pid may be another's by now.
    pub fn is_reaped(&self) -> bool {
        self.reaped.load(Ordering::SeqCst)
    }

    /// Real user of the thread that last changed it, or ended.
    pub fn last_uid(&self) -> u32 {
        self.last_uid.load(Ordering::Relaxed)
    }

    /// Live threads.
    pub fn tasks(&self) -> Vec<Arc<Task>> {
        self.tasks.lock().clone()
    }

    /// The thread-group leader, or another live thread if the leader has gone.
    pub fn any_task(&self) -> Option<Arc<Task>> {
        self.tasks.lock().first().cloned()
    }

    /// The parent; `None` for pid 1.
    pub fn parent(&self) -> Option<Arc<Process>> {
        self.links.lock().parent.upgrade()
    }

    /// Pid of the parent, 0 for none.
    pub fn ppid(&self) -> u32 {
        self.parent().map_or(0, |parent| parent.pid)
    }

    /// Children, zombies included.
    pub fn children(&self) -> Vec<Arc<Process>> {
        self.links.lock().children.iter().cloned().collect()
    }

    /// The thread that made it, or that has taken its place.
    pub fn parent_tid(&self) -> u32 {
        self.links.lock().parent_tid
    }

    /// Name and credentials of the last thread, once the process is over.
    pub fn last_words(&self) -> Option<(Vec<u8>, Arc<super::Cred>)> {
        self.last_words.lock().clone()
    }

    /// Process group.
    pub fn pgid(&self) -> u32 {
        self.links.lock().pgid
    }

    /// Session.
    pub fn session(&self) -> Arc<Session> {
        self.links.lock().session.clone()
    }

    /// Session id.
    pub fn sid(&self) -> u32 {
        self.links.lock().session.sid
    }

    /// The address space; `None` for pid 1 and for zombies.
    pub fn mm(&self) -> Option<Arc<AddressSpace>> {
        self.mm.lock().clone()
    }

    /// A copy of the group's state.
    pub fn group(&self) -> Group {
        *self.group.lock()
    }

    /// The end of the whole group has begun.
    pub fn exiting(&self) -> bool {
        self.exiting.load(Ordering::SeqCst)
    }

    /// Is a zombie: every thread is gone.
    pub fn is_zombie(&self) -> bool {
        self.group.lock().zombie
    }

    /// Ends every thread of the process with this wait status (exit_group(2), fatal signals). The first
    /// status wins. Threads end when they next come by.
    pub fn begin_exit(&self, wait_status: i32) {
        {
            let mut group = self.group.lock();
            if group.zombie {
                return;
            }
            if group.exit.is_some() {
                let killed = wait_status == crate::abi::linux::SIGKILL as i32;
                let writer = if killed { self.cancel_core(&mut group.exit) } else { None };
                drop(group);
                if let Some(writer) = writer {
                    writer.wake_all();
                }
                // It may have begun to end without being watched: a thread that was alone.
                super::overdue::watch(self, wait_status);
                return;
            }
            self.mark_exit(&mut group, wait_status);
        }
        self.tell_exit(wait_status);
    }

    /// The end begins, with `group` locked; [`Process::tell_exit`] is to follow without.
    pub(super) fn mark_exit(&self, group: &mut Group, wait_status: i32) {
        group.exit = Some(wait_status);
        group.stop = None;
        self.exiting.store(true, Ordering::SeqCst);
        self.stopping.store(false, Ordering::SeqCst);
    }

    /// Has every thread look at what has begun, and watches that they end.
    pub(super) fn tell_exit(&self, wait_status: i32) {
        self.notify_all();
        self.stop_queue.wake_all();
        super::overdue::watch(self, wait_status);
    }

    /// Makes every thread look whether there is something for it to do.
    pub fn notify_all(&self) {
        for task in self.tasks() {
            task.notify();
        }
    }
}
