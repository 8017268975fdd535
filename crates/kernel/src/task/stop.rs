//! Job-control stops (`do_signal_stop()` and `do_notify_parent_cldstop()` in kernel/signal.c).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Process, Task, exit};
use crate::signal;

const CLD_STOPPED: i32 = 5;
const CLD_CONTINUED: i32 = 6;
const SIGCONT: i32 = crate::abi::linux::SIGCONT as i32;

impl Process {
    /// Has every thread stop because of `signal` (job control). Threads stop when they next come by; the last
    /// one tells the parent.
    pub fn begin_stop(&self, signal: i32) {
        {
            let mut group = self.group.lock();
            if group.exit.is_some() || group.zombie || group.stop.is_some() {
                return;
            }
            group.stop = Some(signal);
            group.stop_complete = false;
            group.continue_unreported = false;
            self.stopping.store(true, Ordering::SeqCst);
        }
        self.notify_all();
    }

    /// Lets a stopped process go on (SIGCONT, SIGKILL) and tells the parent; `true` if it had stopped.
    /// Called without the tree's lock.
    pub fn resume(&self) -> bool {
        let had_stopped = {
            let mut group = self.group.lock();
            if group.stop.take().is_none() {
                return false;
            }
            self.stopping.store(false, Ordering::SeqCst);
            group.stop_unreported = false;
            let complete = std::mem::take(&mut group.stop_complete);
            group.continue_unreported = complete;
            complete
        };
        self.stop_queue.wake_all();
        if had_stopped {
            tell(self, CLD_CONTINUED, SIGCONT);
        }
        had_stopped
    }

    /// If every live thread has stopped now, the stop is complete: the parent is told.
    pub(super) fn check_stopped(&self) {
        let threads = self.tasks.lock().len();
        let signal = {
            let mut group = self.group.lock();
            let Some(signal) = group.stop else { return };
            if group.stop_complete || threads == 0 || (group.stopped_threads as usize) < threads {
                return;
            }
            group.stop_complete = true;
            group.stop_unreported = true;
            signal
        };
        tell(self, CLD_STOPPED, signal);
    }
}

fn tell(process: &Process, code: i32, status: i32) {
    let Some(parent) = process.parent() else { return };
    let policy = signal::child_policy(&parent);
    if !policy.ignored && !policy.no_stops {
        let info = exit::child_info(process, code, status);
        signal::send_child(&parent, crate::abi::linux::SIGCHLD as i32, info);
    }
    parent.child_queue.wake_all();
}

/// The calling thread stops until the process goes on or ends.
pub(super) fn stopped(task: &Arc<Task>) {
    let process = &task.process;
    {
        let mut group = process.group.lock();
        if group.stop.is_none() {
            return;
        }
        group.stopped_threads += 1;
    }
    process.check_stopped();
    let _ = task.block_killable(None, |table| {
        table.watch(&process.stop_queue);
        (!task.stopping()).then_some(())
    });
    {
        let mut group = process.group.lock();
        group.stopped_threads = group.stopped_threads.saturating_sub(1);
    }
    signal::resumed(task);
}
