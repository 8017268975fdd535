//! The process table: Linux's `tasklist_lock` and pid allocation.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Process, Task};
use crate::world::World;
use crate::{Errno, Result};

/// Pids stay below this (`/proc/sys/kernel/pid_max`).
pub const PID_MAX: u32 = 32768;
/// After a wrap allocation starts here (`RESERVED_PIDS` in kernel/pid.c).
const RESERVED: u32 = 300;

/// Every process and thread of a world.
#[derive(Default)]
pub struct Tree {
    /// Zombies included.
    pub(super) processes: BTreeMap<u32, Arc<Process>>,
    /// Live threads.
    pub(super) tasks: BTreeMap<u32, Arc<Task>>,
    /// Numbers that were allocated for tasks that are not in the maps yet.
    pub(super) coming: std::collections::BTreeSet<u32>,
    last: u32,
}

impl Tree {
    /// The process with this pid, zombies included.
    pub fn process(&self, pid: u32) -> Option<&Arc<Process>> {
        self.processes.get(&pid)
    }

    /// The live thread with this tid.
    pub fn task(&self, tid: u32) -> Option<&Arc<Task>> {
        self.tasks.get(&tid)
    }

    /// The number that was given out last.
    pub fn last_pid(&self) -> u32 {
        self.last
    }

    /// Every process, zombies included, by pid.
    pub fn processes(&self) -> impl Iterator<Item = &Arc<Process>> {
        self.processes.values()
    }

    /// Number of live threads, and of those that are being made.
    pub fn thread_count(&self) -> usize {
        self.tasks.len() + self.coming.len()
    }

    /// What counts against `--pids`: zombies too, until somebody has waited for them (pids_release()).
    pub fn charged(&self) -> usize {
        let zombies = self.processes.values().filter(|process| process.is_zombie()).count();
        self.thread_count().saturating_add(zombies)
    }

    /// Members of a process group, zombies included.
    pub fn group(&self, pgid: u32) -> impl Iterator<Item = &Arc<Process>> {
        self.processes.values().filter(move |process| process.pgid() == pgid)
    }

    /// A number that names no thread, process, group or session. `EAGAIN` at the limit.
    pub(super) fn allocate(&mut self, limit: Option<u32>) -> Result<u32> {
        if limit.is_some_and(|limit| self.charged() >= limit as usize) {
            return Err(Errno::EAGAIN);
        }
        for _ in 0..PID_MAX {
            self.last = if self.last + 1 >= PID_MAX { RESERVED } else { self.last + 1 };
            if !self.in_use(self.last) {
                self.coming.insert(self.last);
                return Ok(self.last);
            }
        }
        Err(Errno::EAGAIN)
    }

    /// Pid 1 is taken by the kernel's init.
    pub(super) fn reserve_first(&mut self) {
        self.last = self.last.max(1);
    }

    fn in_use(&self, number: u32) -> bool {
        self.tasks.contains_key(&number)
            || self.processes.contains_key(&number)
            || self.coming.contains(&number)
            || self.processes.values().any(|process| process.pgid() == number || process.sid() == number)
    }
}

/// An allocated number; free again when dropped, unless used.
pub(super) struct Number {
    world: Arc<World>,
    number: u32,
}

impl Number {
    pub fn allocate(world: &Arc<World>) -> Result<Number> {
        let number = world.tree.lock().allocate(crate::decisions::pids(world.config.pids_limit))?;
        Ok(Number { world: world.clone(), number })
    }

    pub fn get(&self) -> u32 {
        self.number
    }

    /// The task is in the tables now.
    pub fn used(self, tree: &mut Tree) {
        tree.coming.remove(&self.number);
        // The number stays with the task; only the reservation is over.
        let mut this = self;
        this.number = 0;
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        if self.number != 0 {
            self.world.tree.lock().coming.remove(&self.number);
        }
    }
}
