//! Guest threads and processes.
//!
//! Lock order, outermost first: `World::tree` (who exists, parents, groups, sessions; Linux's tasklist_lock);
//! `Process::links`; `Process::tasks`; `Process::group`; the locks inside `signal`; everything else here is a
//! leaf. Wait queues are woken with no lock but the tree's held.

mod boot;
mod children;
pub mod clone;
pub mod coredump;
pub mod cpu_limit;
mod cred;
pub mod exec;
pub mod exit;
mod group;
mod load;
mod memory_watch;
mod overdue;
pub mod pidfd;
mod pool;
mod process;
mod robust;
mod run;
mod stop;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod tree;
pub mod usage;
pub mod wait;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use coracle_platform::{Answers, Identity, Space, ThreadControl};
use parking_lot::Mutex;

pub use boot::{Prepared, Spawn};
pub use children::Children;
pub use cred::{CAP_LAST, Caps, Cred};
pub use exec::ExecError;
pub use group::{new_session, set_group};
pub use pool::{Job, Pool};
pub use process::{Group, Links, Process, Session, Terminal};
pub use tree::{PID_MAX, Tree};

use crate::abi::linux::{RLIM_NLIMITS, RLIMIT_AS, RLIMIT_NOFILE};
use crate::abi::types::Rlimit;
use crate::fd::FdTable;
use crate::fs::FsContext;
use crate::mm::{self, AddressSpace};
use crate::random::Supply;
use crate::signal;
use crate::syscalls::{sched, system};
use crate::wait::{Deadline, PollTable, WaitQueue, Waiter, Wake};
use crate::world::World;
use crate::{Errno, Result};

/// Numbers of calls that are counted.
pub const CALLS: usize = 512;

/// Resource limits, by `RLIMIT_*`.
pub type Rlimits = [Rlimit; RLIM_NLIMITS as usize];

/// One guest thread.
pub struct Task {
    pub world: Arc<World>,
    pub process: Arc<Process>,
    /// Changes only when this thread becomes the leader in `execve`.
    tid: AtomicU32,
    /// Since the world began.
    pub start_time: Duration,
    /// Sleeping place of the kernel thread that serves this task.
    pub waiter: Arc<Waiter>,
    control: Mutex<Arc<dyn ThreadControl>>,
    mm: Mutex<mm::User>,
    files: Mutex<Arc<FdTable>>,
    fs: Mutex<Arc<FsContext>>,
    cred: Mutex<Arc<Cred>>,
    /// Name, without the zero byte, at most 15 bytes.
    comm: Mutex<Vec<u8>>,
    /// Pending signals of this thread, its mask and alternate stack.
    pub signals: signal::TaskSignals,
    /// `set_tid_address(2)`.
    pub clear_child_tid: AtomicU64,
    /// `set_robust_list(2)`: address of the head.
    pub robust_list: AtomicU64,
    /// Where a futex call was last sent back to be made in the host.
    pub futex_site: AtomicU64,
    /// What the host was told of the thread's rseq area: address, length, signature.
    pub rseq: Mutex<Option<(u64, u32, u32)>>,
    /// Random bytes for its short calls.
    pub random: Mutex<Supply>,
    /// `PR_SET_PDEATHSIG`.
    pub pdeath_signal: AtomicI32,
    /// `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privs: AtomicBool,
    /// This thread alone is to end: another one calls `execve`.
    dying: AtomicBool,
    /// The platform reported its death: nothing more can be asked of it.
    worker_gone: AtomicBool,
    /// Wait status of this thread's own exit(2).
    exit_status: AtomicI32,
    /// Number and result of the call that it stood in when it was told to end, for a core.
    left_call: Mutex<Option<(u64, crate::SysResult)>>,
    /// Calls served, by number; only the serving thread counts.
    pub calls: Vec<AtomicU64>,
    /// Lane of the call being served.
    pub last_lane: AtomicU8,
    /// Scheduling parameters; recorded, and reported back.
    pub sched: Mutex<Sched>,
    /// `sched.nice` once more, to be read without the lock; stored under it.
    pub nice: AtomicI32,
}

/// What `sched_*` and `setpriority` record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sched {
    pub policy: u32,
    pub priority: i32,
    pub nice: i32,
    pub reset_on_fork: bool,
    /// Host CPU numbers, sorted.
    pub affinity: Vec<usize>,
    pub timer_slack: u64,
    pub io_priority: u32,
}

/// A parent that sleeps in `vfork` until its child has called `execve` or ended.
#[derive(Default)]
pub struct Vfork {
    done: AtomicBool,
    queue: WaitQueue,
}

impl Vfork {
    fn fulfil(&self) {
        self.done.store(true, Ordering::SeqCst);
        self.queue.wake_all();
    }
}

/// What a task is made from.
pub(crate) struct TaskSeed {
    pub process: Arc<Process>,
    pub tid: u32,
    pub control: Arc<dyn ThreadControl>,
    pub mm: Arc<AddressSpace>,
    pub files: Arc<FdTable>,
    pub fs: Arc<FsContext>,
    pub cred: Arc<Cred>,
    pub comm: Vec<u8>,
    pub signals: signal::TaskSignals,
    pub clear_child_tid: u64,
    pub rseq: Option<(u64, u32, u32)>,
    pub no_new_privs: bool,
    pub sched: Sched,
}

impl Task {
    /// A task that is in no table yet.
    pub(crate) fn new(seed: TaskSeed) -> Arc<Task> {
        let world = seed.process.world.clone();
        seed.process.last_uid.store(seed.cred.uid, Ordering::Relaxed);
        Arc::new(Task {
            start_time: world.uptime(),
            world,
            process: seed.process,
            tid: AtomicU32::new(seed.tid),
            waiter: Waiter::unbound(),
            control: Mutex::new(seed.control),
            mm: Mutex::new(mm::User::of(seed.mm)),
            files: Mutex::new(seed.files),
            fs: Mutex::new(seed.fs),
            cred: Mutex::new(seed.cred),
            comm: Mutex::new(seed.comm),
            signals: seed.signals,
            clear_child_tid: AtomicU64::new(seed.clear_child_tid),
            robust_list: AtomicU64::new(0),
            rseq: Mutex::new(seed.rseq),
            random: Mutex::default(),
            futex_site: AtomicU64::new(0),
            pdeath_signal: AtomicI32::new(0),
            no_new_privs: AtomicBool::new(seed.no_new_privs),
            dying: AtomicBool::new(false),
            worker_gone: AtomicBool::new(false),
            exit_status: AtomicI32::new(0),
            left_call: Mutex::default(),
            calls: (0..CALLS).map(|_| AtomicU64::new(0)).collect(),
            last_lane: AtomicU8::new(0),
            nice: AtomicI32::new(seed.sched.nice),
            sched: Mutex::new(seed.sched),
        })
    }

    /// The address space it runs in.
    pub fn mm(&self) -> Arc<AddressSpace> {
        self.mm.lock().mm.clone()
    }

    /// The platform's side of that.
    pub fn space(&self) -> Arc<dyn Space> {
        self.mm.lock().mm.space.clone()
    }

    /// What `exit(2)` of this thread alone was given, as a wait status.
    pub fn set_exit_status(&self, status: i32) {
        self.exit_status.store(status, Ordering::Relaxed);
    }

    /// The process is to stop (job control).
    pub fn stopping(&self) -> bool {
        self.process.stopping.load(Ordering::SeqCst)
    }

    pub(crate) fn worker_gone(&self) {
        self.worker_gone.store(true, Ordering::SeqCst);
    }

    fn worker_is_gone(&self) -> bool {
        self.worker_gone.load(Ordering::SeqCst)
    }

    /// Gives the table up, for closing it.
    fn take_files(&self) -> Arc<FdTable> {
        std::mem::take(&mut *self.files.lock())
    }

    /// A table of its own for a task that shared one (`unshare_files()`).
    pub fn unshare_files(&self) {
        let mut files = self.files.lock();
        if Arc::strong_count(&files) > 1 {
            let own = Arc::new(files.duplicate());
            let shared = std::mem::replace(&mut *files, own);
            drop(files);
            shared.part_with(&self.control());
        }
    }

    /// Likewise root, current directory and umask.
    pub fn unshare_fs(&self) {
        let mut fs = self.fs.lock();
        if Arc::strong_count(&fs) > 1 {
            let own = fs.duplicate();
            *fs = Arc::new(own);
        }
    }

    /// Thread id.
    pub fn tid(&self) -> u32 {
        self.tid.load(Ordering::SeqCst)
    }

    /// Process id (thread group id).
    pub fn pid(&self) -> u32 {
        self.process.pid
    }

    /// The descriptor table.
    pub fn files(&self) -> Arc<FdTable> {
        self.files.lock().clone()
    }

    /// Root, current directory, umask, mounts.
    pub fn fs(&self) -> Arc<FsContext> {
        self.fs.lock().clone()
    }

    /// Credentials as of now.
    pub fn cred(&self) -> Arc<Cred> {
        self.cred.lock().clone()
    }

    /// Replaces the credentials; only the task's own thread does. Whoever becomes another, or gains capabilities,
    /// may know what the new owner must not read, and is not dumped (`commit_creds()`).
    pub fn set_cred(&self, cred: Cred) {
        let old = self.cred();
        let same = (old.euid, old.egid, old.fsuid, old.fsgid) == (cred.euid, cred.egid, cred.fsuid, cred.fsgid);
        if !same || !old.permitted.contains(cred.permitted) {
            self.mm().image.lock().dumpable = 0;
            self.pdeath_signal.store(0, Ordering::Relaxed);
        }
        self.process.last_uid.store(cred.uid, Ordering::Relaxed);
        let uid = cred.uid;
        {
            let mut tree = self.world.tree.lock();
            *self.cred.lock() = Arc::new(cred);
            tree.user_changed(self, old.uid, uid);
        }
        self.publish();
    }

    /// The name shown by `ps`.
    pub fn comm(&self) -> Vec<u8> {
        self.comm.lock().clone()
    }

    /// Sets the name: up to 15 bytes, up to a zero byte.
    pub fn set_comm(&self, name: &[u8]) {
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len()).min(15);
        *self.comm.lock() = name.get(..end).unwrap_or_default().to_vec();
    }

    /// The platform's side of this thread.
    pub fn control(&self) -> Arc<dyn ThreadControl> {
        self.control.lock().clone()
    }

    /// A soft resource limit.
    pub fn rlimit(&self, which: u32) -> u64 {
        self.process.rlimits.lock().get(which as usize).map_or(u64::MAX, |limit| limit.cur)
    }

    /// `RLIMIT_NOFILE`, as a limit for [`FdTable::install`].
    pub fn nofile(&self) -> usize {
        usize::try_from(self.rlimit(RLIMIT_NOFILE)).unwrap_or(usize::MAX)
    }

    /// Tells the platform what identity calls answer.
    pub fn publish(&self) {
        let cred = self.cred();
        self.control().publish(&Identity {
            pid: self.pid(),
            tid: self.tid(),
            ppid: self.process.ppid(),
            uid: cred.uid,
            euid: cred.euid,
            gid: cred.gid,
            egid: cred.egid,
            short_cuts: true,
        });
        if self.counts_memory() {
            // The thread's short cuts are all of them again.
            self.publish_answers();
        }
    }

    /// How much memory it maps is limited.
    fn counts_memory(&self) -> bool {
        self.rlimit(RLIMIT_AS) != u64::MAX
    }

    /// Likewise, what `uname` and `sched_getaffinity` answer. `control` stays locked meanwhile, so that of two who
    /// publish the later one has looked later.
    pub fn publish_answers(&self) {
        let control = self.control.lock();
        control.publish_answers(&Answers {
            uname: system::new_utsname(&self.world),
            affinity: sched::affinity_mask(self),
            maps_memory: !self.counts_memory(),
        });
    }

    /// Has this task look for something to do: it wakes from any wait and leaves guest code.
    pub fn notify(&self) {
        self.waiter.wake();
        self.control().interrupt();
    }

    /// The task is to end, whatever else is pending.
    pub fn must_exit(&self) -> bool {
        self.dying.load(Ordering::SeqCst) || self.process.exiting()
    }

    /// A signal that this task would act upon is pending, or it is to stop or exit.
    pub fn interrupted(&self) -> bool {
        self.must_exit() || self.process.stopping.load(Ordering::SeqCst) || signal::pending(self)
    }

    /// Its guest thread last ran on the CPU of this, its kernel thread: it does not run now.
    fn shares_cpu(&self) -> bool {
        self.control().last_cpu() == rustix::thread::sched_getcpu()
    }

    /// Waits until `attempt` yields something. `attempt` watches its queues in the table first and looks second.
    /// `ERESTARTSYS` when interrupted, `ETIMEDOUT` at the deadline.
    pub fn block<T>(&self, deadline: Deadline, attempt: impl FnMut(&mut PollTable) -> Option<T>) -> Result<T> {
        self.block_until(deadline, || self.interrupted(), attempt)
    }

    /// As `block`, but nothing except the task's end interrupts (`TASK_KILLABLE`).
    pub fn block_killable<T>(
        &self,
        deadline: Deadline,
        attempt: impl FnMut(&mut PollTable) -> Option<T>,
    ) -> Result<T> {
        self.block_until(deadline, || self.must_exit(), attempt)
    }

    /// As `block`, interrupted when `interrupted` says so; it is asked after every [`Task::notify`].
    pub fn block_until<T>(
        &self,
        deadline: Deadline,
        interrupted: impl Fn() -> bool,
        mut attempt: impl FnMut(&mut PollTable) -> Option<T>,
    ) -> Result<T> {
        if let Some(done) = attempt(&mut PollTable::check()) {
            return Ok(done);
        }
        loop {
            let wake: Arc<dyn Wake> = self.waiter.clone();
            let mut table = PollTable::register(wake);
            if let Some(done) = attempt(&mut table) {
                return Ok(done);
            }
            if interrupted() {
                return Err(Errno::ERESTARTSYS);
            }
            if deadline.is_some_and(|at| at <= std::time::Instant::now()) {
                return Err(Errno::ETIMEDOUT);
            }
            let sleeps = table.host().is_empty() && deadline.is_none();
            if !(sleeps && self.waiter.spin(&self.world.waiting, || self.shares_cpu())) {
                self.waiter.wait(table.host(), deadline);
            }
        }
    }
}
