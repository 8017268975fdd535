//! Kernel threads for guest threads. A thread that has nothing to serve waits a while for the next guest
//! thread, which saves its making.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::{Errno, Result};

/// What a kernel thread does.
pub type Job = Box<dyn FnOnce() + Send>;

/// Idle threads stay this long.
const IDLE: Duration = Duration::from_secs(2);
/// No more than this many wait.
const MAX_IDLE: usize = 16;

/// Threads to run jobs on.
#[derive(Clone, Default)]
pub struct Pool {
    idle: Arc<Mutex<Vec<Arc<Slot>>>>,
}

/// A thread without work and the place for its next job.
struct Slot {
    job: Mutex<Option<Job>>,
    given: AtomicBool,
    thread: OnceLock<Thread>,
}

impl Slot {
    fn give(&self, job: Option<Job>) {
        *self.job.lock() = job;
        self.given.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

/// A thread that is there and waits for its job; without one it goes back.
pub struct Reserved(Option<Arc<Slot>>);

impl Reserved {
    /// Runs `job` on it.
    pub fn run(mut self, job: Job) {
        if let Some(slot) = self.0.take() {
            slot.give(Some(job));
        }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if let Some(slot) = self.0.take() {
            slot.give(None);
        }
    }
}

impl Pool {
    /// A thread for a job that is still being prepared; `EAGAIN` if the host has none.
    pub fn reserve(&self) -> Result<Reserved> {
        if let Some(slot) = self.idle.lock().pop() {
            return Ok(Reserved(Some(slot)));
        }
        let slot =
            Arc::new(Slot { job: Mutex::new(None), given: AtomicBool::new(false), thread: OnceLock::new() });
        let (pool, own) = (self.clone(), slot.clone());
        let thread = std::thread::Builder::new().name("task".into()).spawn(move || pool.work(&own));
        thread.map_err(|_| Errno::EAGAIN)?;
        Ok(Reserved(Some(slot)))
    }

    fn work(&self, slot: &Arc<Slot>) {
        let _ = slot.thread.set(std::thread::current());
        let mut next = take(slot, None);
        while let Next::Job(job) = next {
            if let Some(job) = job {
                job();
            }
            next = self.next(slot);
        }
    }

    /// Waits among the idle for the next job.
    fn next(&self, slot: &Arc<Slot>) -> Next {
        {
            let mut idle = self.idle.lock();
            if idle.len() >= MAX_IDLE {
                return Next::Leave;
            }
            slot.given.store(false, Ordering::SeqCst);
            idle.push(slot.clone());
        }
        if let Next::Job(job) = take(slot, Some(Instant::now() + IDLE)) {
            return Next::Job(job);
        }
        let mut idle = self.idle.lock();
        match idle.iter().position(|other| Arc::ptr_eq(other, slot)) {
            Some(at) => {
                idle.swap_remove(at);
                Next::Leave
            }
            // Reserved in the last moment: the job is on its way.
            None => {
                drop(idle);
                take(slot, None)
            }
        }
    }
}

enum Next {
    /// `None`: the reservation was given back.
    Job(Option<Job>),
    Leave,
}

/// Sleeps until something was given, or until the deadline.
fn take(slot: &Slot, until: Option<Instant>) -> Next {
    loop {
        if slot.given.load(Ordering::SeqCst) {
            return Next::Job(slot.job.lock().take());
        }
        match until.map(|until| until.saturating_duration_since(Instant::now())) {
            None => std::thread::park(),
            Some(left) if left.is_zero() => return Next::Leave,
            Some(left) => std::thread::park_timeout(left),
        }
    }
}
