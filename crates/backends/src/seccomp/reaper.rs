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
}

#[derive(Default)]
struct State {
    workers: HashMap<i32, Weak<Worker>>,
    /// Ended before they were known.
    early: HashMap<i32, Death>,
}

impl Reaper {
    /// Serves until there are no children any more: until the zygote is gone too.
    pub fn serve(&self) {
        while let Some((pid, death)) = next() {
            self.record(pid, death);
        }
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

/// The next child that ended; `None` when there are none.
fn next() -> Option<(i32, Death)> {
    loop {
        let mut status = 0;
        // Only this thread's children: a process may serve several sandboxes, each with a reaper of its own.
        // SAFETY: the host writes one integer.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::__WNOTHREAD) };
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
