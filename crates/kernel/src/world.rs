//! What the guests of one sandbox share. There are no statics: everything is reached through the [`World`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, Instant};

use coracle_platform::{LaneCounts, Platform};
use parking_lot::Mutex;

use crate::task::{Process, Task, Tree};

/// What a sandbox grants and shows.
#[derive(Clone, Debug)]
pub struct WorldConfig {
    pub hostname: String,
    /// Host CPU numbers that guests may run on and see online; sorted, not empty.
    pub cpus: Vec<usize>,
    /// Bytes of memory that guests are told they have.
    pub memory: u64,
    /// More resident memory than this, all guests together, ends one of them.
    pub memory_limit: Option<u64>,
    /// Most threads at a time; `clone` says `EAGAIN` beyond.
    pub pids_limit: Option<u32>,
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
}

/// One sandbox.
pub struct World {
    pub platform: Arc<dyn Platform>,
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
    pub stats: Stats,
    /// Names and objects of the socket layer and of System V and POSIX IPC.
    pub ipc: crate::ipc::Ipc,
}

impl World {
    /// An empty world.
    pub fn new(platform: Arc<dyn Platform>, config: WorldConfig, vfs: crate::fs::Vfs) -> Arc<World> {
        Arc::new(World {
            hostname: Mutex::new(config.hostname.clone().into_bytes()),
            domainname: Mutex::new(b"(none)".to_vec()),
            platform,
            vfs,
            config,
            tree: Mutex::default(),
            boot: Instant::now(),
            ipc: crate::ipc::Ipc::default(),
            stats: Stats {
                calls: (0..512).map(|_| AtomicU64::new(0)).collect(),
                unknown: (0..512).map(|_| AtomicBool::new(false)).collect(),
                lanes: Mutex::default(),
                forks: AtomicU64::new(0),
            },
        })
    }

    /// Time since the world began.
    pub fn uptime(&self) -> Duration {
        self.boot.elapsed()
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
