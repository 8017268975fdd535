//! What the guests of one sandbox share. There are no statics: everything is reached through the [`World`].

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use coracle_platform::{LaneCounts, Platform, Waiting};
use parking_lot::{Condvar, Mutex};

use crate::SysResult;
use crate::call::Ctx;
use crate::task::{Pool, Process, Task, Tree};
use crate::time::host::Host;
use crate::time::{Choice, Clocks, Kind, Offsets};

/// Pid of the first program. Pid 1 is the kernel's own init: ordinary programs are not written to be init, whom
/// signals without a handler do not touch.
pub const FIRST_PID: u32 = 2;

/// What a sandbox grants and shows.
#[derive(Clone)]
pub struct WorldConfig {
    pub hostname: String,
    /// Host CPU numbers that guests may run on and see online; sorted, not empty.
    pub cpus: Vec<usize>,
    /// Nice value that the first program begins with: the caller's, as a child of its would.
    pub nice: i32,
    /// Bytes of memory that guests are told they have.
    pub memory: u64,
    /// More resident memory than this, all guests together, ends one of them.
    pub memory_limit: Option<u64>,
    /// How many guests the host has ended for want of memory, where it limits them, too.
    pub host_oom_kills: Option<Arc<dyn Fn() -> u64 + Send + Sync>>,
    /// Most threads at a time; `clone` says `EAGAIN` beyond.
    pub pids_limit: Option<u32>,
    /// Times and memory of the whole run are asked for at its end.
    pub usage_wanted: bool,
    /// How guests tell the time, and what their clocks show beyond the host's.
    pub clock: Choice,
    pub clock_offsets: Offsets,
}

/// Counters for `--stats`.
pub struct Stats {
    /// Calls served by the kernel, by number.
    pub calls: Vec<AtomicU64>,
    /// Calls that are unknown and were logged once.
    pub unknown: Vec<AtomicBool>,
    /// Lanes of threads that are gone.
    pub lanes: Mutex<LaneCounts>,
    /// Processes and threads made since the start (`/proc/stat`, `processes`).
    pub forks: AtomicU64,
    /// Bugs of ours that ended a guest process.
    pub bugs: AtomicU64,
    /// Workers that ended by breaking the protocol.
    pub lies: AtomicU64,
    /// CPU time of threads that are gone.
    pub cpu_nanos: AtomicU64,
    /// Most resident bytes seen: of one process, or of all together where the limit is sampled.
    pub peak_memory: AtomicU64,
    /// Processes ended for want of memory.
    pub oom_kills: AtomicU64,
    /// Those of them that the host has ended.
    pub host_oom_kills: AtomicU64,
}

/// How the run ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// Wait status of the first program.
    pub status: i32,
    /// It was ended for want of memory.
    pub out_of_memory: bool,
}

/// Sees every call that the kernel serves.
pub trait Tracer: Send + Sync {
    /// Before the handler; what it returns comes back in `leave`.
    fn enter(&self, cx: &Ctx<'_>) -> Instant;
    /// After the handler.
    fn leave(&self, cx: &Ctx<'_>, before: Instant, result: &SysResult);
}

/// One sandbox.
pub struct World {
    pub platform: Arc<dyn Platform>,
    /// What waits share, the platform's among them.
    pub waiting: Arc<Waiting>,
    /// Mounts, locks and watches of files.
    pub vfs: crate::fs::Vfs,
    pub config: WorldConfig,
    /// Who exists. See the lock order in [`crate::task`].
    pub tree: Mutex<Tree>,
    /// `sethostname(2)`, `setdomainname(2)`.
    pub hostname: Mutex<Vec<u8>>,
    pub domainname: Mutex<Vec<u8>>,
    /// When the world began, on the host's monotonic clock.
    pub boot: Instant,
    /// The time as guests see it.
    pub clocks: Arc<Clocks>,
    /// Threads of the kernel that serve guest threads.
    pub pool: Pool,
    tracer: OnceLock<Arc<dyn Tracer>>,
    ending: AtomicBool,
    pub(crate) memory_watched: AtomicBool,
    end: Mutex<Option<End>>,
    /// Counts the ends of threads and processes.
    end_turn: Mutex<u64>,
    /// Woken at the end of the first program and of every thread.
    end_changed: Condvar,
    pub stats: Stats,
    /// Names and objects of the socket layer and of System V and POSIX IPC.
    pub ipc: crate::ipc::Ipc,
    /// Watches armed timers.
    pub timers: crate::time::Wheel,
    /// Devices that come and go.
    pub devices: crate::fs::dev::Devices,
    /// What `/proc` keeps.
    pub proc: crate::fs::proc::Shared,
    /// Where cores go.
    pub cores: crate::task::coredump::Settings,
    /// Contended PI futexes.
    pub futexes: crate::futex::pi::PiTable,
}

impl World {
    /// An empty world.
    pub fn new(platform: Arc<dyn Platform>, config: WorldConfig, vfs: crate::fs::Vfs) -> Arc<World> {
        let clocks = Clocks::new(platform.vvar(), Box::new(Host), config.clock, config.clock_offsets);
        Arc::new(World {
            clocks: Arc::new(clocks),
            hostname: Mutex::new(config.hostname.clone().into_bytes()),
            domainname: Mutex::new(b"(none)".to_vec()),
            waiting: platform.waiting(),
            platform,
            vfs,
            config,
            tree: Mutex::default(),
            boot: Instant::now(),
            ipc: crate::ipc::Ipc::default(),
            timers: crate::time::Wheel::default(),
            devices: crate::fs::dev::Devices::default(),
            proc: crate::fs::proc::Shared::default(),
            cores: crate::task::coredump::Settings::default(),
            futexes: crate::futex::pi::PiTable::default(),
            pool: Pool::default(),
            tracer: OnceLock::new(),
            ending: AtomicBool::new(false),
            memory_watched: AtomicBool::new(false),
            end: Mutex::new(None),
            end_turn: Mutex::new(0),
            end_changed: Condvar::new(),
            stats: Stats {
                calls: (0..crate::task::CALLS).map(|_| AtomicU64::new(0)).collect(),
                unknown: (0..512).map(|_| AtomicBool::new(false)).collect(),
                lanes: Mutex::default(),
                forks: AtomicU64::new(0),
                bugs: AtomicU64::new(0),
                lies: AtomicU64::new(0),
                cpu_nanos: AtomicU64::new(0),
                peak_memory: AtomicU64::new(0),
                oom_kills: AtomicU64::new(0),
                host_oom_kills: AtomicU64::new(0),
            },
        })
    }

    /// Whoever watches calls.
    pub fn tracer(&self) -> Option<&Arc<dyn Tracer>> {
        self.tracer.get()
    }

    /// Has calls watched; once, before the first program starts.
    pub fn set_tracer(&self, tracer: Arc<dyn Tracer>) {
        let _ = self.tracer.set(tracer);
    }

    /// Everything is being ended; what is still born dies at once.
    pub fn ending(&self) -> bool {
        self.ending.load(Ordering::SeqCst)
    }

    /// A process has become a zombie. Called with the tree locked.
    pub(crate) fn process_ended(&self, process: &Process, end: End) {
        if process.pid == FIRST_PID {
            *self.end.lock() = Some(end);
        }
        self.thread_gone();
    }

    /// From now on whatever is born dies at once.
    pub(crate) fn begin_end(&self) {
        self.ending.store(true, Ordering::SeqCst);
    }

    /// Waits for the end of the first program; `None` when the time is up.
    pub fn wait_end(&self, timeout: Option<Duration>) -> Option<End> {
        let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        self.wait_until(until, || *self.end.lock())
    }

    /// Looks again whenever a thread or process has ended, until there is an answer or the time is up.
    pub(crate) fn wait_until<T>(&self, until: Option<Instant>, look: impl Fn() -> Option<T>) -> Option<T> {
        loop {
            let turn = *self.end_turn.lock();
            if let Some(answer) = look() {
                return Some(answer);
            }
            let mut now = self.end_turn.lock();
            if *now != turn {
                continue;
            }
            match until {
                None => self.end_changed.wait(&mut now),
                Some(until) if until <= Instant::now() => return None,
                Some(until) => _ = self.end_changed.wait_until(&mut now, until),
            }
        }
    }

    /// A thread is gone for good.
    pub(crate) fn thread_gone(&self) {
        let mut turn = self.end_turn.lock();
        *turn = turn.wrapping_add(1);
        self.end_changed.notify_all();
    }

    /// BOOTTIME, to which start times of processes and `/proc/uptime` refer (`uptime_proc_show()`).
    pub fn uptime(&self) -> Duration {
        Duration::from_nanos(u64::try_from(self.clocks.now(Kind::Boottime)).unwrap_or(0))
    }

    /// The process with this pid, zombies included.
    pub fn process(&self, pid: u32) -> Option<Arc<Process>> {
        self.tree.lock().process(pid).cloned()
    }

    /// The live thread with this tid.
    pub fn task(&self, tid: u32) -> Option<Arc<Task>> {
        self.tree.lock().task(tid).cloned()
    }

    /// Every process, zombies included, by pid.
    pub fn processes(&self) -> Vec<Arc<Process>> {
        self.tree.lock().processes().cloned().collect()
    }

    /// Members of a process group, zombies included.
    pub fn group(&self, pgid: u32) -> Vec<Arc<Process>> {
        self.tree.lock().group(pgid).cloned().collect()
    }
}

/// Random bytes from the host. `EIO`: it gives none.
pub fn random_bytes(into: &mut [u8]) -> crate::Result<()> {
    let mut done = 0;
    while let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => done += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                log::error!("the host gives no random bytes: {error}");
                return Err(crate::Errno::EIO);
            }
        }
    }
    Ok(())
}

/// A random number from the host, for places in memory: without one they are where they are without ASLR.
pub fn random_u64() -> u64 {
    let mut bytes = [0; 8];
    _ = random_bytes(&mut bytes);
    u64::from_ne_bytes(bytes)
}
