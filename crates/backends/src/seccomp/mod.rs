//! The `seccomp` platform: a guest address space is a host process that may make almost no host call.
//!
//! | module | what |
//! |---|---|
//! | `filter` | the host calls that the shim's instructions may make |
//! | `zygote` | the first process, from which workers are cloned |
//! | `worker` | one address space: its memory, ports and death |
//! | `thread` | one guest thread: requests, replies, orders |
//! | `ports`, `frame`, `table` | shared memory with a guest: words, registers, the lanes of calls |
//! | `pace` | to spin or to sleep |
//! | `notify` | the calls that need the kernel's consent |
//! | `rewrite` | jumps in place of hot `syscall` instructions |
//! | `vvar` | the vDSO and its data |
//! | `reaper` | learns who has died |

mod filter;
mod frame;
mod memory;
mod notify;
pub mod pace;
mod ports;
mod reaper;
mod rewrite;
mod table;
mod thread;
mod vvar;
mod worker;
mod zygote;

use std::sync::Arc;

use coracle_platform::{ForkError, Platform, PlatformError, Vessel, VvarMemory};
use parking_lot::Mutex;

use notify::Notifier;
use ports::Ports;
use reaper::Reaper;
use thread::SeccompThread;
use worker::Worker;

/// What all workers of a sandbox share on the kernel's side.
pub struct Shared {
    notifier: Arc<Notifier>,
    reaper: Arc<Reaper>,
    has_rdpid: bool,
    /// Features and size of the extended state, where the shim may save it.
    xstate: (u64, u32),
}

impl Shared {
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
    shared: Arc<Shared>,
    zygote: Mutex<SeccompThread>,
    zygote_worker: Arc<Worker>,
}

impl SeccompPlatform {
    /// Starts the zygote. The kernel process must not be process 1 of a pid namespace.
    pub fn new() -> Result<SeccompPlatform, PlatformError> {
        SeccompPlatform::new_and(|| ())
    }

    /// As `new`, and has `meanwhile` done on another thread while the zygote makes itself ready.
    pub fn new_and(meanwhile: impl FnOnce() + Send + 'static) -> Result<SeccompPlatform, PlatformError> {
        let (shared, zygote_worker) = zygote::start(meanwhile)?;
        let zygote = SeccompThread::zygote(shared.clone(), zygote_worker.clone());
        Ok(SeccompPlatform { shared, zygote: Mutex::new(zygote), zygote_worker })
    }
}

impl Platform for SeccompPlatform {
    fn spawn(&self) -> Result<Vessel, PlatformError> {
        let ports = Ports::new().map_err(|source| PlatformError::Host { what: "cannot make ports", source })?;
        let worker = self.zygote.lock().clone_worker(ports).map_err(|error| match error {
            ForkError::Refused(errno) => PlatformError::Host {
                what: "cannot clone a worker",
                source: std::io::Error::from_raw_os_error(errno.raw()),
            },
            ForkError::Gone => {
                PlatformError::Died(self.zygote_worker.death().unwrap_or(coracle_platform::Death::Killed))
            }
        })?;
        let thread = SeccompThread::new(self.shared.clone(), worker.clone(), 0, worker.pid as u32);
        Ok(Vessel { space: worker, thread: Box::new(thread) })
    }

    fn vvar(&self) -> Option<Arc<VvarMemory>> {
        Some(self.zygote_worker.vvar.memory.clone())
    }

    fn name(&self) -> &'static str {
        "seccomp"
    }
}

/// Eight random bytes of the host.
fn random() -> u64 {
    let mut bytes = [0; 8];
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    u64::from_ne_bytes(bytes)
}

/// The processor has `RDPID`.
fn has_rdpid() -> bool {
    core::arch::x86_64::__cpuid_count(7, 0).ecx & (1 << 22) != 0
}
