//! System V IPC: sysvipc(7), ipc/util.c. Identifiers and keys belong to the world.
//!
//! Lock order: a table of identifiers, then one object.

pub mod msg;
mod registry;
pub mod sem;
pub mod shm;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

pub use self::registry::{Object, Perm, Registry, Wanted};
use crate::Result;
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
    /// In which sets a process has operations that its end undoes, by address (`sysvsem.undo_list`).
    undo: Mutex<HashMap<u32, HashMap<usize, Weak<sem::Set>>>>,
}

impl Sysv {
    /// [`sem::Set::operate`], of which the end of the process must know.
    pub fn operate(
        &self,
        set: &Arc<sem::Set>,
        operations: &[sem::Operation],
        pid: u32,
    ) -> Result<std::result::Result<(), sem::Blocked>> {
        if operations.iter().any(|operation| operation.undo) {
            let key = Arc::as_ptr(set).addr();
            self.undo.lock().entry(pid).or_default().insert(key, Arc::downgrade(set));
        }
        set.operate(operations, pid)
    }

    /// A process has ended: its semaphore adjustments are undone (exit_sem()).
    pub fn process_exits(&self, process: &Process) {
        let sets = self.undo.lock().remove(&process.pid);
        for set in sets.iter().flat_map(HashMap::values).filter_map(Weak::upgrade) {
            set.undo(process.pid);
        }
    }

    /// The process has a list of semaphore operations to undo.
    pub fn has_undo(&self, process: &Process) -> bool {
        self.undo.lock().contains_key(&process.pid)
    }

    /// `IPC_RMID` of a set: who waits is told, nothing is undone (freeary()).
    pub fn remove_set(&self, set: &Arc<sem::Set>) {
        self.sem.remove(set);
        let undoers = set.change(sem::State::remove);
        let key = Arc::as_ptr(set).addr();
        let mut undo = self.undo.lock();
        for pid in undoers {
            if let Some(sets) = undo.get_mut(&pid) {
                sets.remove(&key);
                if sets.is_empty() {
                    undo.remove(&pid);
                }
            }
        }
    }
}

/// Seconds since 1970, as the `_ds` structures record them.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
