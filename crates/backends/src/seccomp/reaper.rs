//! Learns of the death of workers. The kernel process is the parent of them all.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use coracle_platform::Death;
use parking_lot::Mutex;

use super::worker::Worker;

/// Waits for children and tells their workers.
#[derive(Default)]
pub struct Reaper {
    state: Mutex<State>,
    /// It has a thread.
    serving: Mutex<bool>,
}

#[derive(Default)]
struct State {
    workers: HashMap<i32, Weak<Worker>>,
    /// Ended before they were known.
    early: HashMap<i32, Death>,
}

impl Reaper {
    /// Starts the thread that waits for the workers of process group `group`, until the last of them is gone; unless
    /// there is one.
    pub fn start(self: &Arc<Reaper>, group: i32) -> std::io::Result<()> {
        let mut serving = self.serving.lock();
        if *serving {
            return Ok(());
        }
        let own = self.clone();
        let serve = move || {
            while let Some((pid, death)) = next(group) {
                own.record(pid, death);
            }
        };
        std::thread::Builder::new().name("reaper".into()).stack_size(256 << 10).spawn(serve)?;
        *serving = true;
        Ok(())
    }

    /// From now on the death of this worker's process is its own.
    pub fn adopt(&self, worker: &Arc<Worker>) {
        let early = {
            let mut state = self.state.lock();
            state.workers.insert(worker.pid, Arc::downgrade(worker));
            state.early.remove(&worker.pid)
        };
        if let Some(death) = early {
            worker.died(death);
        }
    }

    fn record(&self, pid: i32, death: Death) {
        let worker = {
            let mut state = self.state.lock();
            match state.workers.remove(&pid) {
                Some(worker) => worker.upgrade(),
                None => {
                    state.early.insert(pid, death);
                    None
                }
            }
        };
        if let Some(worker) = worker {
            worker.died(death);
        }
    }
}

/// The next child of this process group that ended; `None` when there are none. A process may serve several sandboxes,
/// each with a reaper of its own; all workers of one are in the group of the first, which began a session and can neither
/// leave it nor be joined.
fn next(group: i32) -> Option<(i32, Death)> {
    loop {
        let mut status = 0;
        // SAFETY: the host writes one integer.
        let pid = unsafe { libc::waitpid(-group, &raw mut status, 0) };
        if pid > 0 {
            let death = if libc::WIFSIGNALED(status) {
                Death::Signal(libc::WTERMSIG(status))
            } else {
                Death::Exited(libc::WEXITSTATUS(status))
            };
            return Some((pid, death));
        }
        if std::io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
            return None;
        }
    }
}
