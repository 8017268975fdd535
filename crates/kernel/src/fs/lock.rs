//! Advisory locks (fs/locks.c): POSIX record locks, open-file-description locks, `flock`.
//!
//! A guest chooses how many there are, so nothing is searched: an owner's records are found by where they begin, others'
//! records in the way by [`Intervals`], the files of an owner by the owner.

mod intervals;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use self::intervals::Intervals;
use crate::wait::{PollTable, WaitQueue};
use crate::{Errno, Result};

/// Device and inode number.
type Id = (u64, u64);

/// The end of a lock that reaches to the end of the file, whatever that will be (`OFFSET_MAX`).
pub const TO_END: u64 = i64::MAX as u64;

/// Record locks of a sandbox at most; `ENOLCK` beyond. Linux says so when it has no memory for one.
pub const MOST: usize = 1 << 18;

/// Who holds a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

/// Why a lock is not to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// This one stands in the way.
    By(Owner),
    /// There are [`MOST`].
    Full,
}

#[derive(Default)]
struct State {
    files: HashMap<Id, Records>,
    /// On which files an owner has records.
    owners: HashMap<Owner, HashSet<Id>>,
    /// Records of all files.
    count: usize,
    flocks: HashMap<Id, Flocks>,
    /// Who waits for whom.
    waits: HashMap<Owner, Owner>,
    /// Told when a lock of the file goes; there while somebody waits.
    queues: HashMap<Id, WaitQueue>,
}

/// The record locks of one file.
#[derive(Default)]
struct Records {
    /// By owner and start; an owner's do not overlap.
    owned: HashMap<Owner, BTreeMap<u64, Record>>,
    exclusive: Intervals,
    shared: Intervals,
}

/// Who has a file by `flock`: open files.
#[derive(Default)]
struct Flocks {
    /// And whether exclusively: then there is one.
    holders: HashMap<u64, bool>,
}

/// All locks of a sandbox.
#[derive(Default)]
pub struct LockTable {
    state: Mutex<State>,
    next: AtomicU64,
    /// How many inodes have record locks, so that `close` need not take the lock.
    pub locked: AtomicUsize,
}

impl Records {
    /// The first record that stands in the way of `wanted`.
    fn blocker(&self, wanted: &Record) -> Option<Record> {
        let exclusive = self.exclusive.first_of_others(wanted);
        let shared = if wanted.exclusive { self.shared.first_of_others(wanted) } else { None };
        [exclusive, shared].into_iter().flatten().min_by_key(|record| record.start)
    }

    fn intervals(&mut self, record: &Record) -> &mut Intervals {
        if record.exclusive { &mut self.exclusive } else { &mut self.shared }
    }

    fn add(&mut self, record: Record) {
        self.owned.entry(record.owner).or_default().insert(record.start, record);
        self.intervals(&record).insert(record);
    }

    fn remove(&mut self, record: &Record) {
        if let Some(own) = self.owned.get_mut(&record.owner) {
            own.remove(&record.start);
            if own.is_empty() {
                self.owned.remove(&record.owner);
            }
        }
        self.intervals(record).remove(record);
    }

    /// The owner's records that overlap `range`, or touch it if `touching`.
    fn own(&self, range: &Record, touching: bool) -> Vec<Record> {
        let Some(own) = self.owned.get(&range.owner) else { return Vec::new() };
        let more = u64::from(touching);
        let (from, to) = (range.start.saturating_sub(more), range.end.saturating_add(more));
        // At most one of those that begin before reaches that far.
        let before = own.range(..from).next_back().filter(|(_, record)| record.end >= from);
        before.into_iter().chain(own.range(from..=to)).map(|(_, record)| *record).collect()
    }

    /// Takes `range` out of what its owner holds.
    fn cut(&mut self, range: &Record) {
        for held in self.own(range, false) {
            self.remove(&held);
            if held.start < range.start {
                self.add(Record { end: range.start - 1, ..held });
            }
            if held.end > range.end {
                self.add(Record { start: range.end + 1, ..held });
            }
        }
    }

    /// Adds `new`, joined with its neighbours of the same kind.
    fn merge(&mut self, mut new: Record) {
        for held in self.own(&new, true) {
            if held.exclusive == new.exclusive {
                new.start = new.start.min(held.start);
                new.end = new.end.max(held.end);
                self.remove(&held);
            }
        }
        self.add(new);
    }

    fn count(&self, owner: &Owner) -> usize {
        self.owned.get(owner).map_or(0, BTreeMap::len)
    }
}

impl Flocks {
    /// Nobody but `key` stands in the way.
    fn is_free(&self, key: u64, exclusive: bool) -> bool {
        let others = self.holders.len() - usize::from(self.holders.contains_key(&key));
        others == 0 || !exclusive && !self.holders.values().next().is_some_and(|exclusive| *exclusive)
    }
}

impl State {
    /// Changes what `owner` holds of a file; returns whom to tell.
    fn change<T>(&mut self, id: Id, owner: Owner, change: impl FnOnce(&mut Records) -> T) -> T {
        let records = self.files.entry(id).or_default();
        let before = records.count(&owner);
        let done = change(records);
        let after = records.count(&owner);
        if records.owned.is_empty() {
            self.files.remove(&id);
        }
        self.count = self.count + after - before;
        if after > 0 {
            self.owners.entry(owner).or_default().insert(id);
        } else if let Some(files) = self.owners.get_mut(&owner) {
            files.remove(&id);
            if files.is_empty() {
                self.owners.remove(&owner);
            }
        }
        done
    }

    /// Forgets all records of an owner; the files.
    fn forget(&mut self, owner: Owner) -> Vec<Id> {
        let files: Vec<Id> = self.owners.get(&owner).into_iter().flatten().copied().collect();
        for id in &files {
            self.change(*id, owner, |records| records.cut(&Record { start: 0, end: TO_END, ..nothing(owner) }));
        }
        files
    }
}

/// A record of no length.
fn nothing(owner: Owner) -> Record {
    Record { start: 0, end: 0, exclusive: false, owner, pid: 0 }
}

impl LockTable {
    /// A new owner's name.
    pub fn fresh_owner(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The first lock that stands in `wanted`'s way (`F_GETLK`).
    pub fn blocker(&self, id: Id, wanted: &Record) -> Option<Record> {
        self.state.lock().files.get(&id)?.blocker(wanted)
    }

    /// Takes the lock, replacing what its owner holds there.
    pub fn set(&self, id: Id, wanted: Record) -> Result<(), Refused> {
        let mut state = self.state.lock();
        if let Some(blocker) = state.files.get(&id).and_then(|records| records.blocker(&wanted)) {
            return Err(Refused::By(blocker.owner));
        }
        // One record can become three.
        if state.count + 2 > MOST {
            return Err(Refused::Full);
        }
        state.change(id, wanted.owner, |records| {
            records.cut(&wanted);
            records.merge(wanted);
        });
        // A downgrade may let others in.
        self.settle(state, &[id]);
        Ok(())
    }

    /// Unlocks the owner's part of the range; `ENOLCK` if that would make one record two, and there are [`MOST`].
    pub fn unset(&self, id: Id, range: Record) -> Result<()> {
        let mut state = self.state.lock();
        if !state.owners.get(&range.owner).is_some_and(|files| files.contains(&id)) {
            return Ok(());
        }
        if state.count + 1 > MOST && (range.start, range.end) != (0, TO_END) {
            return Err(Errno::ENOLCK);
        }
        state.change(id, range.owner, |records| records.cut(&range));
        self.settle(state, &[id]);
        Ok(())
    }

    /// The owner closed a descriptor of this inode: its locks there go.
    pub fn release(&self, id: Id, owner: Owner) {
        let _ = self.unset(id, Record { end: TO_END, ..nothing(owner) });
    }

    /// A descriptor table is gone.
    pub fn release_owner(&self, owner: u64) {
        let mut state = self.state.lock();
        let files = state.forget(Owner::Posix(owner));
        self.settle(state, &files);
    }

    /// An open file of the inode is gone.
    pub fn release_file(&self, id: Id, key: u64) {
        let mut state = self.state.lock();
        let files = state.forget(Owner::Ofd(key));
        unlock(&mut state, id, key);
        self.settle(state, &[&files[..], &[id]].concat());
    }

    /// `waiter` is about to wait for `holder`; `EDEADLK` if `holder` waits for it, at however many removes.
    pub fn wait_for(&self, waiter: Owner, holder: Owner) -> Result<()> {
        let mut state = self.state.lock();
        let mut at = holder;
        // Linux gives up after ten steps (MAX_DEADLK_ITERATIONS).
        for _ in 0..10 {
            match state.waits.get(&at).filter(|_| at != waiter) {
                Some(next) if *next == waiter => {
                    state.waits.remove(&waiter);
                    return Err(Errno::EDEADLK);
                }
                Some(next) => at = *next,
                None => break,
            }
        }
        state.waits.insert(waiter, holder);
        Ok(())
    }

    /// Locks of the file that go are told; [`LockTable::stop_waiting`] is to follow.
    pub fn watch(&self, id: Id, table: &mut PollTable) {
        if table.registers() {
            table.watch(self.state.lock().queues.entry(id).or_default());
        }
    }

    /// `waiter`, if it was looked for in circles, waits for the file no more.
    pub fn stop_waiting(&self, id: Id, waiter: Option<Owner>) {
        let mut state = self.state.lock();
        waiter.and_then(|waiter| state.waits.remove(&waiter));
        if state.queues.get(&id).is_some_and(WaitQueue::is_empty) {
            state.queues.remove(&id);
        }
    }

    /// `flock`: takes or converts; `EAGAIN`. A conversion that fails loses the old lock (flock(2)).
    pub fn flock(&self, id: Id, key: u64, exclusive: bool) -> Result<()> {
        let mut state = self.state.lock();
        let flocks = state.flocks.entry(id).or_default();
        let had = flocks.holders.get(&key).copied();
        if had == Some(exclusive) {
            return Ok(());
        }
        let free = flocks.is_free(key, exclusive);
        match free {
            true => _ = flocks.holders.insert(key, exclusive),
            false => unlock(&mut state, id, key),
        }
        if had.is_some() {
            self.settle(state, &[id]);
        }
        if free { Ok(()) } else { Err(Errno::EAGAIN) }
    }

    /// `flock(LOCK_UN)`.
    pub fn unflock(&self, id: Id, key: u64) {
        let mut state = self.state.lock();
        unlock(&mut state, id, key);
        self.settle(state, &[id]);
    }

    /// Something changed for those who wait for these files.
    fn settle(&self, state: parking_lot::MutexGuard<'_, State>, files: &[Id]) {
        self.locked.store(state.files.len(), Ordering::SeqCst);
        let queues: Vec<WaitQueue> = match state.queues.is_empty() {
            true => Vec::new(),
            false => files.iter().filter_map(|id| state.queues.get(id).cloned()).collect(),
        };
        drop(state);
        queues.iter().for_each(WaitQueue::wake_all);
    }
}

fn unlock(state: &mut State, id: Id, key: u64) {
    if let Some(flocks) = state.flocks.get_mut(&id) {
        flocks.holders.remove(&key);
        if flocks.holders.is_empty() {
            state.flocks.remove(&id);
        }
    }
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
        table.unset((1, 1), lock(1, 40, 59, false)).unwrap();
        assert_eq!(table.set((1, 1), lock(2, 45, 50, true)), Ok(()));
        assert_eq!(table.set((1, 1), lock(2, 39, 39, false)), Err(Refused::By(Owner::Posix(1))));
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
        table.stop_waiting((1, 1), Some(b));
        assert_eq!(table.wait_for(c, a), Ok(()));
    }

    #[test]
    fn flocks_convert() {
        let table = LockTable::default();
        table.flock((1, 1), 1, false).unwrap();
        table.flock((1, 1), 2, false).unwrap();
        assert_eq!(table.flock((1, 1), 1, true), Err(Errno::EAGAIN));
        assert_eq!(table.flock((1, 1), 2, true), Ok(()));
        table.release_file((1, 1), 2);
        assert_eq!(table.flock((1, 1), 3, true), Ok(()));
    }

    /// As searches these would take hours.
    #[test]
    fn many_locks_and_the_bound() {
        let (table, begun) = (LockTable::default(), std::time::Instant::now());
        for at in 0..80_000 {
            table.set((1, 1), lock(1, at * 10, at * 10 + 4, at % 2 == 0)).unwrap();
            table.set((at, 2), lock(1, 0, 9, true)).unwrap();
            table.set((2, 1), lock(at, at, at + 40_000, false)).unwrap();
        }
        for at in 0..40_000 {
            assert_eq!(table.blocker((1, 1), &lock(2, at * 10 + 5, at * 10 + 9, true)), None);
            assert_eq!(table.blocker((1, 1), &lock(1, 0, TO_END, true)), None);
            table.unset((1, 1), lock(1, at * 10, at * 10 + 9, false)).unwrap();
        }
        for at in 0..80_000 {
            assert!(matches!(table.set((2, 1), lock(200_000, at, at, true)), Err(Refused::By(_))));
        }
        table.release_owner(1);
        (0..80_000).for_each(|owner| table.release_owner(owner));
        assert_eq!((table.locked.load(Ordering::SeqCst), table.state.lock().count), (0, 0));
        assert!(begun.elapsed().as_secs() < 60, "{:?}", begun.elapsed());

        let full =
            (0..).find_map(|at| table.set((1, 1), lock(1, at * 2, at * 2, true)).err().map(|error| (at, error)));
        assert_eq!(full, Some((MOST as u64 - 1, Refused::Full)));
        assert_eq!(table.set((3, 3), lock(2, 0, 0, true)), Err(Refused::Full));
        assert_eq!(table.unset((1, 1), lock(1, 0, 10, false)), Ok(()));
        assert_eq!(table.set((3, 3), lock(2, 0, 0, true)), Ok(()));
        table.release((1, 1), Owner::Posix(1));
        assert_eq!(table.state.lock().count, 1);
    }

    #[test]
    fn a_file_is_free_when_its_holder_goes() {
        let table = LockTable::default();
        table.flock((1, 1), 1, true).unwrap();
        let ofd = |start| Record { owner: Owner::Ofd(1), ..lock(0, start, start, true) };
        table.set((1, 1), ofd(5)).unwrap();
        table.set((2, 2), ofd(6)).unwrap();
        table.release_file((1, 1), 1);
        assert_eq!((table.locked.load(Ordering::SeqCst), table.flock((1, 1), 2, true)), (0, Ok(())));
    }
}
