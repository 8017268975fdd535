//! Advisory locks (fs/locks.c): POSIX record locks, open-file-description locks, `flock`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::wait::WaitQueue;
use crate::{Errno, Result};

/// Device and inode number.
type Id = (u64, u64);

/// The end of a lock that reaches to the end of the file, whatever that will be (`OFFSET_MAX`).
pub const TO_END: u64 = i64::MAX as u64;

/// Who holds a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// A descriptor table.
    Posix(u64),
    /// An open file.
    Ofd(u64),
}

/// A lock on the bytes `start..=end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    pub start: u64,
    pub end: u64,
    pub exclusive: bool,
    pub owner: Owner,
    /// What `F_GETLK` reports: the process id, or -1.
    pub pid: i32,
}

#[derive(Default)]
struct State {
    records: HashMap<Id, Vec<Record>>,
    /// Open file and whether exclusive.
    flocks: HashMap<Id, Vec<(u64, bool)>>,
    /// Who waits for whom.
    waits: Vec<(Owner, Owner)>,
}

/// All locks of a sandbox.
#[derive(Default)]
pub struct LockTable {
    state: Mutex<State>,
    /// Told when a lock goes.
    pub freed: WaitQueue,
    next: AtomicU64,
    /// How many inodes have record locks, so that `close` need not take the lock.
    pub locked: AtomicUsize,
}

impl Record {
    fn overlaps(&self, other: &Record) -> bool {
        self.start <= other.end && other.start <= self.end
    }

    fn conflicts(&self, other: &Record) -> bool {
        self.owner != other.owner && self.overlaps(other) && (self.exclusive || other.exclusive)
    }
}

impl LockTable {
    /// A new owner's name.
    pub fn fresh_owner(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The first lock that stands in `wanted`'s way (`F_GETLK`).
    pub fn blocker(&self, id: Id, wanted: &Record) -> Option<Record> {
        let state = self.state.lock();
        state.records.get(&id)?.iter().find(|held| held.conflicts(wanted)).copied()
    }

    /// Takes the lock, replacing what its owner holds there; the blocker's owner otherwise.
    pub fn set(&self, id: Id, wanted: Record) -> Result<(), Owner> {
        let mut state = self.state.lock();
        let list = state.records.entry(id).or_default();
        if let Some(blocker) = list.iter().find(|held| held.conflicts(&wanted)) {
            return Err(blocker.owner);
        }
        cut(list, &wanted);
        merge(list, wanted);
        // A downgrade may let others in.
        self.settle(state);
        Ok(())
    }

    /// Unlocks the owner's part of the range.
    pub fn unset(&self, id: Id, range: Record) {
        let mut state = self.state.lock();
        if let Some(list) = state.records.get_mut(&id) {
            cut(list, &range);
            if list.is_empty() {
                state.records.remove(&id);
            }
        }
        self.settle(state);
    }

    /// The owner closed a descriptor of this inode: its locks there go.
    pub fn release(&self, id: Id, owner: Owner) {
        let range = Record { start: 0, end: TO_END, exclusive: false, owner, pid: 0 };
        self.unset(id, range);
    }

    /// A descriptor table is gone.
    pub fn release_owner(&self, owner: u64) {
        let mut state = self.state.lock();
        for list in state.records.values_mut() {
            list.retain(|held| held.owner != Owner::Posix(owner));
        }
        state.records.retain(|_, list| !list.is_empty());
        self.settle(state);
    }

    /// An open file is gone.
    pub fn release_file(&self, key: u64) {
        let mut state = self.state.lock();
        for list in state.records.values_mut() {
            list.retain(|held| held.owner != Owner::Ofd(key));
        }
        state.records.retain(|_, list| !list.is_empty());
        for list in state.flocks.values_mut() {
            list.retain(|(holder, _)| *holder != key);
        }
        state.flocks.retain(|_, list| !list.is_empty());
        self.settle(state);
    }

    /// `waiter` is about to wait for `holder`; `EDEADLK` if `holder` waits for it, at however many removes.
    pub fn wait_for(&self, waiter: Owner, holder: Owner) -> Result<()> {
        let mut state = self.state.lock();
        state.waits.retain(|(who, _)| *who != waiter);
        let mut at = holder;
        // Linux gives up after ten steps (MAX_DEADLK_ITERATIONS).
        for _ in 0..10 {
            match state.waits.iter().find(|(who, _)| *who == at) {
                Some((_, next)) if *next == waiter => return Err(Errno::EDEADLK),
                Some((_, next)) => at = *next,
                None => break,
            }
        }
        state.waits.push((waiter, holder));
        Ok(())
    }

    /// `waiter` waits no more.
    pub fn stop_waiting(&self, waiter: Owner) {
        self.state.lock().waits.retain(|(who, _)| *who != waiter);
    }

    /// `flock`: takes or converts; `EAGAIN`. A conversion that fails loses the old lock (flock(2)).
    pub fn flock(&self, id: Id, key: u64, exclusive: bool) -> Result<()> {
        let mut state = self.state.lock();
        let list = state.flocks.entry(id).or_default();
        if list.contains(&(key, exclusive)) {
            return Ok(());
        }
        let had = list.len();
        list.retain(|(holder, _)| *holder != key);
        let lost = list.len() < had;
        if list.iter().any(|(_, theirs)| exclusive || *theirs) {
            if lost {
                self.settle(state);
            }
            return Err(Errno::EAGAIN);
        }
        list.push((key, exclusive));
        if lost {
            self.settle(state);
        }
        Ok(())
    }

    /// `flock(LOCK_UN)`.
    pub fn unflock(&self, id: Id, key: u64) {
        let mut state = self.state.lock();
        if let Some(list) = state.flocks.get_mut(&id) {
            list.retain(|(holder, _)| *holder != key);
            if list.is_empty() {
                state.flocks.remove(&id);
            }
        }
        self.settle(state);
    }

    fn settle(&self, state: parking_lot::MutexGuard<'_, State>) {
        self.locked.store(state.records.len(), Ordering::SeqCst);
        drop(state);
        self.freed.wake_all();
    }
}

/// Takes `range` out of what its owner holds.
fn cut(list: &mut Vec<Record>, range: &Record) {
    let mut kept = Vec::with_capacity(list.len() + 1);
    for held in list.drain(..) {
        if held.owner != range.owner || !held.overlaps(range) {
            kept.push(held);
            continue;
        }
        if held.start < range.start {
            kept.push(Record { end: range.start - 1, ..held });
        }
        if held.end > range.end {
            kept.push(Record { start: range.end + 1, ..held });
        }
    }
    *list = kept;
}

/// Adds `new`, joined with its neighbours of the same kind.
fn merge(list: &mut Vec<Record>, mut new: Record) {
    list.retain(|held| {
        let same = held.owner == new.owner && held.exclusive == new.exclusive;
        let touches = held.start <= new.end.saturating_add(1) && new.start <= held.end.saturating_add(1);
        if same && touches {
            new.start = new.start.min(held.start);
            new.end = new.end.max(held.end);
        }
        !(same && touches)
    });
    list.push(new);
    list.sort_unstable_by_key(|held| held.start);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(owner: u64, start: u64, end: u64, exclusive: bool) -> Record {
        Record { start, end, exclusive, owner: Owner::Posix(owner), pid: owner as i32 }
    }

    #[test]
    fn ranges_split_and_join() {
        let table = LockTable::default();
        table.set((1, 1), lock(1, 0, 99, true)).unwrap();
        table.unset((1, 1), lock(1, 40, 59, false));
        assert_eq!(table.set((1, 1), lock(2, 45, 50, true)), Ok(()));
        assert_eq!(table.set((1, 1), lock(2, 39, 39, false)), Err(Owner::Posix(1)));
        assert_eq!(table.blocker((1, 1), &lock(2, 0, TO_END, false)).map(|r| (r.start, r.end)), Some((0, 39)));
        table.release((1, 1), Owner::Posix(2));
        table.set((1, 1), lock(1, 40, 59, true)).unwrap();
        assert_eq!(table.blocker((1, 1), &lock(2, 0, 5, false)).map(|r| (r.start, r.end)), Some((0, 99)));
        table.release_owner(1);
        assert_eq!(table.locked.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn circles_of_waiters_are_seen() {
        let table = LockTable::default();
        let (a, b, c) = (Owner::Posix(1), Owner::Posix(2), Owner::Posix(3));
        table.wait_for(a, b).unwrap();
        table.wait_for(b, c).unwrap();
        assert_eq!(table.wait_for(c, a), Err(Errno::EDEADLK));
        table.stop_waiting(b);
        assert_eq!(table.wait_for(c, a), Ok(()));
    }

    #[test]
    fn flocks_convert() {
        let table = LockTable::default();
        table.flock((1, 1), 1, false).unwrap();
        table.flock((1, 1), 2, false).unwrap();
        assert_eq!(table.flock((1, 1), 1, true), Err(Errno::EAGAIN));
        assert_eq!(table.flock((1, 1), 2, true), Ok(()));
        table.release_file(2);
        assert_eq!(table.flock((1, 1), 3, true), Ok(()));
    }
}
