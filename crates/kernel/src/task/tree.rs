//! The process table: Linux's `tasklist_lock` and pid allocation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Process, Session, Task};
use crate::world::World;
use crate::{Errno, Result};

/// Pids stay below this (`/proc/sys/kernel/pid_max`).
pub const PID_MAX: u32 = 32768;
/// After a wrap allocation starts here (`RESERVED_PIDS` in kernel/pid.c).
const RESERVED: u32 = 300;

/// Every process and thread of a world. Guests choose how many there are: what is asked of all of them is counted.
#[derive(Default)]
pub struct Tree {
    /// Zombies included.
    processes: BTreeMap<u32, Arc<Process>>,
    zombies: usize,
    /// Pids of the members of each process group, and how many processes each session has.
    groups: BTreeMap<u32, BTreeSet<u32>>,
    sessions: BTreeMap<u32, usize>,
    /// Live threads.
    tasks: BTreeMap<u32, Arc<Task>>,
    /// How many of them each real user has.
    users: BTreeMap<u32, usize>,
    /// Numbers that were allocated for tasks that are not in the maps yet.
    coming: BTreeSet<u32>,
    last: u32,
}

impl Tree {
    /// A process that is new here.
    pub(super) fn add(&mut self, process: Arc<Process>) {
        let pid = process.pid;
        let (pgid, sid) = (process.pgid(), process.sid());
        self.groups.entry(pgid).or_default().insert(pid);
        *self.sessions.entry(sid).or_default() += 1;
        self.processes.insert(pid, process);
    }

    /// A zombie that is waited for.
    pub(super) fn remove(&mut self, process: &Process) {
        if self.processes.remove(&process.pid).is_some() {
            self.leave_group(process.pid, process.pgid());
            self.leave_session(process.sid());
            self.zombies = self.zombies.saturating_sub(1);
        }
    }

    /// A process here has become a zombie.
    pub(super) fn bury(&mut self, process: &Process) {
        if let Some(parent) = process.parent() {
            parent.links.lock().children.bury(process);
        }
        self.zombies += 1;
    }

    fn leave_group(&mut self, pid: u32, pgid: u32) {
        if let Some(group) = self.groups.get_mut(&pgid) {
            group.remove(&pid);
            if group.is_empty() {
                self.groups.remove(&pgid);
            }
        }
    }

    fn leave_session(&mut self, sid: u32) {
        if let Some(count) = self.sessions.get_mut(&sid) {
            *count -= 1;
            if *count == 0 {
                self.sessions.remove(&sid);
            }
        }
    }

    /// Moves a process here into another group.
    pub(super) fn set_group(&mut self, process: &Process, pgid: u32) {
        let old = std::mem::replace(&mut process.links.lock().pgid, pgid);
        if self.processes.contains_key(&process.pid) {
            self.leave_group(process.pid, old);
            self.groups.entry(pgid).or_default().insert(process.pid);
        }
    }

    /// Moves a process here into another session.
    pub(super) fn set_session(&mut self, process: &Process, session: Arc<Session>) {
        let sid = session.sid;
        let old = std::mem::replace(&mut process.links.lock().session, session);
        if self.processes.contains_key(&process.pid) {
            *self.sessions.entry(sid).or_default() += 1;
            self.leave_session(old.sid);
        }
    }

    /// A thread that begins.
    pub(super) fn add_task(&mut self, task: Arc<Task>) {
        *self.users.entry(task.cred().uid).or_default() += 1;
        self.tasks.insert(task.tid(), task);
    }

    /// One that has ended.
    pub(super) fn remove_task(&mut self, task: &Task) {
        if self.tasks.remove(&task.tid()).is_some() {
            self.leave_user(task.cred().uid);
        }
    }

    fn leave_user(&mut self, uid: u32) {
        if let Some(count) = self.users.get_mut(&uid) {
            *count -= 1;
            if *count == 0 {
                self.users.remove(&uid);
            }
        }
    }

    /// The real user of a thread changed. One that is not here yet comes with the new one.
    pub(super) fn user_changed(&mut self, task: &Task, old: u32, new: u32) {
        if self.tasks.get(&task.tid()).is_some_and(|known| std::ptr::eq(&**known, task)) {
            self.leave_user(old);
            *self.users.entry(new).or_default() += 1;
        }
    }

    /// Threads of a real user.
    pub(super) fn threads_of(&self, uid: u32) -> usize {
        self.users.get(&uid).copied().unwrap_or(0)
    }

    /// Some thread is alive.
    pub(super) fn has_tasks(&self) -> bool {
        !self.tasks.is_empty()
    }

    /// Forgets all processes, and returns them for dropping.
    pub(super) fn clear(&mut self) -> Vec<Arc<Process>> {
        self.groups.clear();
        self.sessions.clear();
        std::mem::take(&mut self.processes).into_values().collect()
    }

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
        self.thread_count().saturating_add(self.zombies)
    }

    /// Members of a process group, zombies included.
    pub fn group(&self, pgid: u32) -> impl Iterator<Item = &Arc<Process>> {
        self.groups.get(&pgid).into_iter().flatten().filter_map(|pid| self.processes.get(pid))
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
            || self.groups.contains_key(&number)
            || self.sessions.contains_key(&number)
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
