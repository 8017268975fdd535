//! Semaphore sets: semop(2), ipc/sem.c.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use parking_lot::Mutex;

use super::now;
use super::registry::{Object, Perm};
use crate::fs::mem::{Budget, Room};
use crate::wait::WaitQueue;
use crate::{Errno, Result};

/// Most sets (`SEMMNI`), semaphores in a set (`SEMMSL`), operations in a call (`SEMOPM`), highest value (`SEMVMX`).
pub const SEMMNI: usize = 32000;
pub const SEMMSL: i32 = 32000;
pub const SEMOPM: usize = 500;
pub const SEMVMX: i32 = 32767;

/// `struct sembuf`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    pub number: usize,
    pub change: i32,
    /// `IPC_NOWAIT`.
    pub no_wait: bool,
    /// `SEM_UNDO`.
    pub undo: bool,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Semaphore {
    pub value: i32,
    /// Who last changed it.
    pub pid: u32,
    /// Who waits for more, who for zero.
    pub waiting: u32,
    pub waiting_zero: u32,
}

/// One set.
pub struct Set {
    state: Mutex<State>,
    budget: Arc<Budget>,
    _room: Room,
    /// Told when values change or the set goes.
    pub queue: WaitQueue,
}

#[derive(Default)]
pub struct State {
    pub perm: Perm,
    pub semaphores: Vec<Semaphore>,
    pub operation_time: i64,
    pub change_time: i64,
    pub removed: bool,
    /// Of each process whose end changes something.
    undo: HashMap<u32, Undo>,
}

/// What to add to each semaphore when a process ends.
struct Undo {
    adjust: Vec<i32>,
    _room: Room,
}

impl Undo {
    fn new(count: usize, budget: &Arc<Budget>) -> Result<Undo> {
        let room = budget.take((count * size_of::<i32>()) as u64).map_err(|_| Errno::ENOMEM)?;
        Ok(Undo { adjust: vec![0; count], _room: room })
    }
}

/// Why a call must wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocked {
    pub number: usize,
    /// For zero rather than for more.
    pub zero: bool,
}

impl Set {
    /// All sets may have a thousand million semaphores (`SEMMNS`); that is more than there is memory.
    pub fn new(perm: Perm, count: usize, budget: &Arc<Budget>) -> Result<Set> {
        let room = budget.take((count * size_of::<Semaphore>()) as u64)?;
        let state =
            State { perm, semaphores: vec![Semaphore::default(); count], change_time: now(), ..State::default() };
        Ok(Set { state: Mutex::new(state), budget: budget.clone(), _room: room, queue: WaitQueue::new() })
    }

    /// Looks at it.
    pub fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.lock())
    }

    /// Changes it and tells who waits.
    pub fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock();
        state.change_time = now();
        let result = change(&mut state);
        drop(state);
        self.queue.wake_all();
        result
    }

    /// Carries out all operations or none (perform_atomic_semop()). `Err(Blocked)` inside: wait.
    pub fn operate(&self, operations: &[Operation], pid: u32) -> Result<std::result::Result<(), Blocked>> {
        let mut state = self.state.lock();
        if state.removed {
            return Err(Errno::EIDRM);
        }
        let count = state.semaphores.len();
        let State { semaphores, undo, .. } = &mut *state;
        // Only what the operations name is touched: a set may have thousands of others.
        let adjust: &mut [i32] = match operations.iter().any(|operation| operation.undo) {
            true => match undo.entry(pid) {
                Entry::Occupied(undo) => &mut undo.into_mut().adjust,
                Entry::Vacant(place) => &mut place.insert(Undo::new(count, &self.budget)?).adjust,
            },
            false => &mut [],
        };
        let mut done = 0;
        while let Some(operation) = operations.get(done) {
            if let Err(verdict) = operation.carry_out(semaphores, adjust) {
                let carried_out = operations.get(..done).unwrap_or_default();
                carried_out.iter().rev().for_each(|operation| operation.take_back(semaphores, adjust));
                return verdict;
            }
            done += 1;
        }
        for operation in operations {
            if let Some(semaphore) = semaphores.get_mut(operation.number) {
                semaphore.pid = pid;
            }
        }
        state.operation_time = now();
        drop(state);
        self.queue.wake_all();
        Ok(Ok(()))
    }

    /// Counts a waiter in (`by` 1) or out (-1).
    pub fn count_waiter(&self, blocked: Blocked, enters: bool) {
        let mut state = self.state.lock();
        let Some(semaphore) = state.semaphores.get_mut(blocked.number) else { return };
        let counter = if blocked.zero { &mut semaphore.waiting_zero } else { &mut semaphore.waiting };
        *counter = if enters { counter.saturating_add(1) } else { counter.saturating_sub(1) };
    }

    /// Applies what a process that ends wanted undone; values stay within bounds (exit_sem()).
    pub fn undo(&self, pid: u32) {
        let mut state = self.state.lock();
        let Some(undo) = state.undo.remove(&pid) else { return };
        for (semaphore, &adjust) in state.semaphores.iter_mut().zip(&undo.adjust) {
            if adjust != 0 {
                semaphore.value = (semaphore.value + adjust).clamp(0, SEMVMX);
                semaphore.pid = pid;
            }
        }
        state.operation_time = now();
        drop(state);
        self.queue.wake_all();
    }
}

/// What a call comes to when an operation is not carried out.
type Verdict = Result<std::result::Result<(), Blocked>>;

impl Operation {
    fn carry_out(&self, semaphores: &mut [Semaphore], adjust: &mut [i32]) -> std::result::Result<(), Verdict> {
        let semaphore = semaphores.get_mut(self.number).ok_or(Err(Errno::EFBIG))?;
        let next = semaphore.value + self.change;
        if next < 0 || self.change == 0 && semaphore.value != 0 {
            return Err(match self.no_wait {
                true => Err(Errno::EAGAIN),
                false => Ok(Err(Blocked { number: self.number, zero: self.change == 0 })),
            });
        }
        if next > SEMVMX {
            return Err(Err(Errno::ERANGE));
        }
        if self.undo {
            let adjust = adjust.get_mut(self.number).ok_or(Err(Errno::EFBIG))?;
            let undone = *adjust - self.change;
            if !(-SEMVMX - 1..=SEMVMX).contains(&undone) {
                return Err(Err(Errno::ERANGE));
            }
            *adjust = undone;
        }
        semaphore.value = next;
        Ok(())
    }

    fn take_back(&self, semaphores: &mut [Semaphore], adjust: &mut [i32]) {
        if let Some(semaphore) = semaphores.get_mut(self.number) {
            semaphore.value -= self.change;
        }
        if self.undo
            && let Some(adjust) = adjust.get_mut(self.number)
        {
            *adjust += self.change;
        }
    }
}

impl State {
    /// The set goes; returns whose operations would have been undone.
    pub fn remove(&mut self) -> Vec<u32> {
        self.removed = true;
        std::mem::take(&mut self.undo).into_keys().collect()
    }

    /// `SETVAL` and `SETALL` forget adjustments, of one semaphore or of all.
    pub fn forget_undo(&mut self, number: Option<usize>) {
        for Undo { adjust, .. } in self.undo.values_mut() {
            match number {
                Some(number) => {
                    if let Some(adjust) = adjust.get_mut(number) {
                        *adjust = 0;
                    }
                }
                None => adjust.fill(0),
            }
        }
    }
}

impl Object for Set {
    const MOST: usize = SEMMNI;

    fn perm(&self) -> Perm {
        self.state.lock().perm
    }

    fn edit_perm(&self, change: &mut dyn FnMut(&mut Perm)) {
        change(&mut self.state.lock().perm);
    }
}
