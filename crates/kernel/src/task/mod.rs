//! Guest threads and processes.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::fd::FdTable;
use crate::wait::{Deadline, PollTable, Waiter, Wake};
use crate::world::World;
use crate::{Errno, Result};

/// One guest thread.
pub struct Task {
    pub world: Arc<World>,
    pub tid: u32,
    /// Sleeping place of the kernel thread that serves this task.
    pub waiter: Arc<Waiter>,
    files: Mutex<Arc<FdTable>>,
}

impl Task {
    /// The descriptor table.
    pub fn files(&self) -> Arc<FdTable> {
        self.files.lock().clone()
    }

    /// A signal that this task would act upon is pending, or it is to stop or exit.
    pub fn interrupted(&self) -> bool {
        false
    }

    /// Waits until `attempt` yields something. `attempt` watches its queues in the table first and looks second.
    /// `ERESTARTSYS` when interrupted, `ETIMEDOUT` at the deadline.
    pub fn block<T>(&self, deadline: Deadline, mut attempt: impl FnMut(&mut PollTable) -> Option<T>) -> Result<T> {
        if let Some(done) = attempt(&mut PollTable::check()) {
            return Ok(done);
        }
        loop {
            let wake: Arc<dyn Wake> = self.waiter.clone();
            let mut table = PollTable::register(wake);
            if let Some(done) = attempt(&mut table) {
                return Ok(done);
            }
            if self.interrupted() {
                return Err(Errno::ERESTARTSYS);
            }
            if deadline.is_some_and(|at| at <= std::time::Instant::now()) {
                return Err(Errno::ETIMEDOUT);
            }
            self.waiter.wait(table.host(), deadline);
        }
    }
}
