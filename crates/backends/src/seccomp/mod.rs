//! The `seccomp` platform: a guest address space is a host process that may make almost no host call.
//!
//! | module | what |
//! |---|---|
//! | `filter` | the host calls that the shim's instructions may make |
//! | `launch` | the first worker is executed |
//! | `zygote` | the process from which all others are cloned |
//! | `worker` | one address space: its memory, ports and death |
//! | `thread` | one guest thread: requests, replies, orders |
//! | `ports`, `frame`, `table` | shared memory with a guest: words, registers, the lanes of calls |
//! | `memory`, `pieces` | guest memory by address, one range or many |
//! | `pace` | to spin or to sleep |
//! | `notify` | the calls that need the kernel's consent |
//! | `vvar` | the vDSO and its data |
//! | `rewrite`, `plan` | jumps in place of hot `syscall` instructions |
//! | `texts` | rewritten text that workers share |
//! | `child`, `children` | host processes, from birth to reaping |
//! | `cpus` | the CPUs of a thread, which it sets itself |

mod child;
mod children;
mod cpus;
mod filter;
mod frame;
mod launch;
mod memory;
mod notify;
mod pace;
mod pieces;
mod plan;
mod ports;
mod rewrite;
mod table;
mod texts;
mod thread;
mod vvar;
mod worker;
mod zygote;

use std::sync::{Arc, OnceLock};

use coracle_platform::{Death, ForkError, Platform, PlatformError, Vessel, VvarMemory, Waiting};

pub use child::Held;
use children::Children;
use cpus::CpuSets;
pub use memory::{PAGEMAP_SCAN, PROCMAP_QUERY};
use notify::Notifier;
use texts::Texts;
use thread::SeccompThread;
pub use zygote::Born;
use zygote::Started;

/// What all workers of a sandbox share on the kernel's side.
pub struct Shared {
    notifier: Arc<Notifier>,
    children: Arc<Children>,
    cpus: CpuSets,
    waiting: Arc<Waiting>,
    has_rdpid: bool,
    /// Features and size of the extended state, where the shim may save it.
    xstate: (u64, u32),
    texts: Texts,
}

impl Shared {
    fn new(waiting: Arc<Waiting>, base: u64, memory: &Arc<VvarMemory>) -> std::io::Result<Shared> {
        let texts = Texts::new(base + coracle_blobs::label::FAST_ENTRY);
        let (has_rdpid, xstate) = (has_rdpid(), frame::xstate());
        let children = Arc::new(Children::new()?);
        let notifier = Arc::new(Notifier::new(children.clone()));
        let cpus = CpuSets::new(memory.clone());
        Ok(Shared { notifier, children, cpus, waiting, has_rdpid, xstate, texts })
    }

    /// Starts the thread that learns of the death of workers, unless there is one.
    fn reap(&self) -> std::io::Result<()> {
        self.children.serve(&self.notifier)
    }

    /// A number that nobody can guess, not zero.
    fn cookie(&self) -> u64 {
        loop {
            let cookie = random();
            if cookie != 0 {
                return cookie;
            }
        }
    }
}

/// Workers confined by seccomp.
pub struct SeccompPlatform {
    started: Started,
}

impl SeccompPlatform {
    /// Executes the first worker, and returns before it is ready. The calling thread must last: workers die with it.
    pub fn start() -> Result<SeccompPlatform, PlatformError> {
        SeccompPlatform::start_with(Waiting::default(), None)
    }

    /// As `start`; `born` is done with the first worker's pid before it makes others.
    pub fn start_with(waiting: Waiting, born: Option<Born>) -> Result<SeccompPlatform, PlatformError> {
        Ok(SeccompPlatform { started: zygote::start(Arc::new(waiting), born)? })
    }

    /// Answers the first worker if it waits for that: called now and then, it makes itself ready beside the caller's
    /// own work. Never waits. `true` once it is confined, with little left to do.
    pub fn attend(&self) -> bool {
        self.started.attend()
    }

    /// Starts the thread that learns of the death of workers. The first program does it otherwise.
    pub fn reap(&self) -> Result<(), PlatformError> {
        self.started.reap()
    }

    /// Kills every process that was ever born in the sandbox, at once, and waits until none is left.
    pub fn end(&self) {
        self.started.end();
    }
}

impl Platform for SeccompPlatform {
    fn spawn(&self) -> Result<Vessel, PlatformError> {
        let (worker, dock) = self.started.take().map_err(|error| match error {
            ForkError::Refused(errno) => PlatformError::Host {
                what: "cannot clone a worker",
                source: std::io::Error::from_raw_os_error(errno.raw()),
            },
            ForkError::Gone => PlatformError::Died(Death::Killed),
        })?;
        let thread = SeccompThread::docked(self.started.shared.clone(), worker.clone(), dock);
        Ok(Vessel { space: worker, thread: Box::new(thread) })
    }

    fn waiting(&self) -> Arc<Waiting> {
        self.started.shared.waiting.clone()
    }

    fn vvar(&self) -> Option<Arc<VvarMemory>> {
        Some(self.started.vvar())
    }

    fn failure(&self) -> Option<PlatformError> {
        self.started.failure()
    }

    fn own_memory(&self) -> u64 {
        crate::host_proc::own_memory()
    }

    fn give_back(&self) {
        #[cfg(target_env = "gnu")]
        // SAFETY: malloc_trim(3) takes its own locks, and gives back only pages that hold nothing.
        unsafe {
            libc::malloc_trim(0);
        }
    }

    fn name(&self) -> &'static str {
        "seccomp"
    }

    fn rseq_features(&self) -> Option<(u64, u64)> {
        coracle_platform::probe::rseq_features()
    }
}

/// Eight random bytes of the host.
fn random() -> u64 {
    let mut bytes = [0; 8];
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    u64::from_ne_bytes(bytes)
}

/// The processor has `RDPID`. Asked once: under a hypervisor that costs microseconds.
fn has_rdpid() -> bool {
    static RDPID: OnceLock<bool> = OnceLock::new();
    *RDPID.get_or_init(|| core::arch::x86_64::__cpuid_count(7, 0).ecx & (1 << 22) != 0)
}
