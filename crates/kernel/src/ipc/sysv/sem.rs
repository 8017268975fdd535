//! Semaphore sets: semop(2), ipc/sem.c.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::now;
use super::registry::{Object, Perm};
use crate::wait::WaitQueue;
use crate::{Errno, Result};

/// Most semaphores in a set (`SEMMSL`), operations in a call (`SEMOPM`), highest value (`SEMVMX`).
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
    /// Told when values change or the set goes.
    pub queue: WaitQueue,
}

#[derive(Clone, Debug, Default)]
pub struct State {
    pub perm: Perm,
    pub semaphores: Vec<Semaphore>,
    pub operation_time: i64,
    pub change_time: i64,
    pub removed: bool,
    /// What to add to each semaphore when a process ends.
    undo: HashMap<u32, Vec<i32>>,
}

/// Why a call must wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocked {
    pub number: usize,
    /// For zero rather than for more.
    pub zero: bool,
}

impl Set {
    pub fn new(perm: Perm, count: usize) -> Set {
        let state =
            State { perm, semaphores: vec![Semaphore::default(); count], change_time: now(), ..State::default() };
        Set { state: Mutex::new(state), queue: WaitQueue::new() }
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
        let mut values: Vec<i32> = state.semaphores.iter().map(|semaphore| semaphore.value).collect();
        let mut adjust = state.undo.get(&pid).cloned().unwrap_or_else(|| vec![0; count]);
        for operation in operations {
            let value = values.get_mut(operation.number).ok_or(Errno::EFBIG)?;
            let next = *value + operation.change;
            let blocked = if operation.change == 0 { *value != 0 } else { next < 0 };
            if blocked {
                let zero = operation.change == 0;
                return match operation.no_wait {
                    true => Err(Errno::EAGAIN),
                    false => Ok(Err(Blocked { number: operation.number, zero })),
                };
            }
            if next > SEMVMX {
                return Err(Errno::ERANGE);
            }
            if operation.undo {
                let adjust = adjust.get_mut(operation.number).ok_or(Errno::EFBIG)?;
                *adjust -= operation.change;
                if !(-SEMVMX - 1..=SEMVMX).contains(adjust) {
                    return Err(Errno::ERANGE);
                }
            }
            *value = next;
        }
        for (semaphore, value) in state.semaphores.iter_mut().zip(values) {
            semaphore.value = value;
        }
        for operation in operations {
            if let Some(semaphore) = state.semaphores.get_mut(operation.number) {
                semaphore.pid = pid;
            }
        }
        if operations.iter().any(|operation| operation.undo) {
            state.undo.insert(pid, adjust);
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

    /// The process has operations here that its end will undo.
    pub fn has_undo(&self, pid: u32) -> bool {
        self.state.lock().undo.contains_key(&pid)
    }

    /// Applies what a process that ends wanted undone; values stay within bounds (exit_sem()).
    pub fn undo(&self, pid: u32) {
        let mut state = self.state.lock();
        let Some(adjust) = state.undo.remove(&pid) else { return };
        for (semaphore, adjust) in state.semaphores.iter_mut().zip(adjust) {
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

impl State {
    /// `SETVAL` and `SETALL` forget adjustments, of one semaphore or of all.
    pub fn forget_undo(&mut self, number: Option<usize>) {
        for adjust in self.undo.values_mut() {
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
    fn perm(&self) -> Perm {
        self.state.lock().perm
    }

    fn set_seq(&self, seq: u32) {
        self.state.lock().perm.seq = seq;
    }
}
