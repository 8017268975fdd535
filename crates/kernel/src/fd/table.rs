//! Descriptor tables.

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::OpenFile;
use crate::fs::lock::LockTable;
use crate::{Errno, Result};

/// One descriptor.
#[derive(Clone)]
pub struct FdEntry {
    pub file: Arc<OpenFile>,
    pub close_on_exec: bool,
}

/// The descriptors of a process, or of several that share them (`CLONE_FILES`).
#[derive(Default)]
pub struct FdTable {
    slots: Mutex<Vec<Option<FdEntry>>>,
    /// Owns POSIX record locks here (Linux too takes `files_struct` as their owner).
    locks: OnceLock<(u64, Arc<LockTable>)>,
}

impl Drop for FdTable {
    fn drop(&mut self) {
        if let Some((owner, locks)) = self.locks.get() {
            locks.release_owner(*owner);
        }
    }
}

impl FdTable {
    /// The name under which this table owns record locks; they go when it goes.
    pub fn lock_owner(&self, locks: &Arc<LockTable>) -> u64 {
        self.locks.get_or_init(|| (locks.fresh_owner(), locks.clone())).0
    }

    /// As `lock_owner`, if it ever owned any.
    pub fn known_lock_owner(&self) -> Option<u64> {
        self.locks.get().map(|(owner, _)| *owner)
    }

    /// The open file behind `fd`, or `EBADF`.
    pub fn get(&self, fd: i32) -> Result<Arc<OpenFile>> {
        self.entry(fd).map(|entry| entry.file)
    }

    /// The entry of `fd`, or `EBADF`.
    pub fn entry(&self, fd: i32) -> Result<FdEntry> {
        let slots = self.slots.lock();
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        slots.get(index).and_then(Clone::clone).ok_or(Errno::EBADF)
    }

    /// Installs at the lowest free number not below `lowest`; `EMFILE` at `limit` (`RLIMIT_NOFILE`).
    pub fn install(&self, entry: FdEntry, lowest: usize, limit: usize) -> Result<i32> {
        let mut slots = self.slots.lock();
        let free = (lowest..slots.len()).find(|index| matches!(slots.get(*index), Some(None)));
        let index = free.unwrap_or(slots.len().max(lowest));
        if index >= limit {
            return Err(Errno::EMFILE);
        }
        put(&mut slots, index, entry);
        i32::try_from(index).map_err(|_| Errno::EMFILE)
    }

    /// Installs at exactly `fd` (`dup2`); returns what was there. The caller checked the limit.
    pub fn replace(&self, fd: usize, entry: FdEntry) -> Option<FdEntry> {
        put(&mut self.slots.lock(), fd, entry)
    }

    /// Removes `fd`, or `EBADF`. The caller flushes and drops the entry outside the lock.
    pub fn remove(&self, fd: i32) -> Result<FdEntry> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        self.slots.lock().get_mut(index).and_then(Option::take).ok_or(Errno::EBADF)
    }

    /// Removes every descriptor of which `which` says so; returns them for dropping outside the lock.
    pub fn remove_if(&self, mut which: impl FnMut(i32, &FdEntry) -> bool) -> Vec<FdEntry> {
        let mut slots = self.slots.lock();
        let mut removed = Vec::new();
        for (index, slot) in slots.iter_mut().enumerate() {
            let fd = i32::try_from(index).unwrap_or(i32::MAX);
            if slot.as_ref().is_some_and(|entry| which(fd, entry)) {
                removed.extend(slot.take());
            }
        }
        removed
    }

    /// Sets or clears close-on-exec.
    pub fn set_close_on_exec(&self, fd: i32, on: bool) -> Result<()> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        match self.slots.lock().get_mut(index) {
            Some(Some(entry)) => {
                entry.close_on_exec = on;
                Ok(())
            }
            _ => Err(Errno::EBADF),
        }
    }

    /// One more than the highest number that was ever in use.
    pub fn size(&self) -> usize {
        self.slots.lock().len()
    }

    /// A copy for `fork`: same open files, same flags.
    pub fn duplicate(&self) -> FdTable {
        FdTable { slots: Mutex::new(self.slots.lock().clone()), locks: OnceLock::new() }
    }

    /// Number and entry of every descriptor, in order.
    pub fn list(&self) -> Vec<(i32, FdEntry)> {
        let slots = self.slots.lock();
        let entries = slots.iter().enumerate();
        entries.filter_map(|(index, slot)| Some((i32::try_from(index).ok()?, slot.clone()?))).collect()
    }
}

fn put(slots: &mut Vec<Option<FdEntry>>, index: usize, entry: FdEntry) -> Option<FdEntry> {
    if slots.len() <= index {
        slots.resize_with(index + 1, || None);
    }
    slots.get_mut(index).and_then(|slot| slot.replace(entry))
}
