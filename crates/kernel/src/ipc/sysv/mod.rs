//! System V IPC: sysvipc(7), ipc/util.c. Identifiers and keys belong to the world.
//!
//! Lock order: a table of identifiers, then one object.

pub mod msg;
mod registry;
pub mod sem;
pub mod shm;
#[cfg(test)]
mod tests;

use std::time::{SystemTime, UNIX_EPOCH};

pub use self::registry::{Object, Perm, Registry, Wanted};
use crate::task::Process;

/// Commands and flags of include/uapi/linux/ipc.h.
pub const IPC_PRIVATE: i32 = 0;
pub const IPC_CREAT: u32 = 0o1000;
pub const IPC_EXCL: u32 = 0o2000;
pub const IPC_NOWAIT: u32 = 0o4000;
pub const IPC_RMID: u32 = 0;
pub const IPC_SET: u32 = 1;
pub const IPC_STAT: u32 = 2;
pub const IPC_INFO: u32 = 3;
/// glibc sets it on x86-64 too, where it changes nothing.
pub const IPC_64: u32 = 0x100;

/// The objects of one world.
#[derive(Default)]
pub struct Sysv {
    pub shm: Registry<shm::Segment>,
    pub sem: Registry<sem::Set>,
    pub msg: Registry<msg::Queue>,
}

impl Sysv {
    /// A process has ended: its semaphore adjustments are undone (exit_sem()).
    pub fn process_exits(&self, process: &Process) {
        for (_, set) in self.sem.list() {
            set.undo(process.pid);
        }
    }

    /// The process has a list of semaphore operations to undo (`sysvsem.undo_list`).
    pub fn has_undo(&self, process: &Process) -> bool {
        self.sem.list().iter().any(|(_, set)| set.has_undo(process.pid))
    }

    /// Every identifier that is in use, as `ipcs` counts: segments, sets, queues.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.shm.list().len(), self.sem.list().len(), self.msg.list().len())
    }
}

/// Seconds since 1970, as the `_ds` structures record them.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
