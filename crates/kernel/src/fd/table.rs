//! Descriptor tables.

use std::sync::{Arc, OnceLock, Weak};

use coracle_platform::{RANDOM_FILES, ThreadControl};
use parking_lot::Mutex;

use super::OpenFile;
use super::numbers::Numbers;
use crate::fs::lock::LockTable;
use crate::{Errno, Result};

/// One descriptor.
#[derive(Clone)]
pub struct FdEntry {
    pub file: Arc<OpenFile>,
    pub close_on_exec: bool,
}

/// A thread knows that reads of `fd` give random bytes, and answers them itself.
struct Lent {
    fd: i32,
    to: Weak<dyn ThreadControl>,
    /// Which of the thread's places.
    place: usize,
}

impl Lent {
    fn is_to(&self, control: &Arc<dyn ThreadControl>) -> bool {
        std::ptr::addr_eq(self.to.as_ptr(), Arc::as_ptr(control))
    }

    fn take_back(&self) {
        if let Some(control) = self.to.upgrade() {
            control.random_file(self.place, None);
        }
    }
}

/// What the table's lock protects. `lent` speaks of descriptors that are in use: whatever empties or replaces a slot
/// takes it back first.
#[derive(Default)]
struct Slots {
    entries: Vec<Option<FdEntry>>,
    used: Numbers,
    lent: Vec<Lent>,
}

impl Slots {
    fn put(&mut self, index: usize, entry: FdEntry) -> Option<FdEntry> {
        self.take_back(index);
        if self.entries.len() <= index {
            self.entries.resize_with(index + 1, || None);
        }
        self.used.set(index, true);
        self.entries.get_mut(index).and_then(|slot| slot.replace(entry))
    }

    fn remove(&mut self, index: usize) -> Option<FdEntry> {
        self.take_back(index);
        let entry = self.entries.get_mut(index).and_then(Option::take);
        if entry.is_some() {
            self.used.set(index, false);
        }
        entry
    }

    /// No thread answers reads of this descriptor itself any more.
    fn take_back(&mut self, index: usize) {
        if self.lent.is_empty() {
            return;
        }
        self.lent.retain(|lent| {
            let other = usize::try_from(lent.fd) != Ok(index);
            if !other {
                lent.take_back();
            }
            other
        });
    }
}

/// The descriptors of a process, or of several that share them (`CLONE_FILES`).
///
/// Lock order: a table, then what [`ThreadControl`] locks.
#[derive(Default)]
pub struct FdTable {
    slots: Mutex<Slots>,
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
        slots.entries.get(index).and_then(Clone::clone).ok_or(Errno::EBADF)
    }

    /// Installs at the lowest free number not below `lowest`; `EMFILE` at `limit` (`RLIMIT_NOFILE`).
    pub fn install(&self, entry: FdEntry, lowest: usize, limit: usize) -> Result<i32> {
        let mut slots = self.slots.lock();
        let index = slots.used.free(lowest);
        if index >= limit {
            return Err(Errno::EMFILE);
        }
        slots.put(index, entry);
        i32::try_from(index).map_err(|_| Errno::EMFILE)
    }

    /// Installs at exactly `fd` (`dup2`); returns what was there. The caller checked the limit.
    pub fn replace(&self, fd: usize, entry: FdEntry) -> Option<FdEntry> {
        self.slots.lock().put(fd, entry)
    }

    /// Removes `fd`, or `EBADF`. The caller flushes and drops the entry outside the lock.
    pub fn remove(&self, fd: i32) -> Result<FdEntry> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        self.slots.lock().remove(index).ok_or(Errno::EBADF)
    }

    /// Removes every descriptor of which `which` says so; returns them for dropping outside the lock.
    pub fn remove_if(&self, mut which: impl FnMut(i32, &FdEntry) -> bool) -> Vec<FdEntry> {
        let mut slots = self.slots.lock();
        let mut removed = Vec::new();
        for index in 0..slots.entries.len() {
            let fd = i32::try_from(index).unwrap_or(i32::MAX);
            if matches!(slots.entries.get(index), Some(Some(entry)) if which(fd, entry)) {
                removed.extend(slots.remove(index));
            }
        }
        removed
    }

    /// Sets or clears close-on-exec.
    pub fn set_close_on_exec(&self, fd: i32, on: bool) -> Result<()> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        match self.slots.lock().entries.get_mut(index) {
            Some(Some(entry)) => {
                entry.close_on_exec = on;
                Ok(())
            }
            _ => Err(Errno::EBADF),
        }
    }

    /// One more than the highest number that was ever in use.
    pub fn size(&self) -> usize {
        self.slots.lock().entries.len()
    }

    /// A copy for `fork`: same open files, same flags.
    pub fn duplicate(&self) -> FdTable {
        let slots = self.slots.lock();
        let (entries, used) = (slots.entries.clone(), slots.used.clone());
        drop(slots);
        FdTable { slots: Mutex::new(Slots { entries, used, lent: Vec::new() }), locks: OnceLock::new() }
    }

    /// From now on the thread answers short reads of `fd` with random bytes that it was given, as long as the descriptor
    /// is `file`: whoever closes or replaces it takes this back before anybody hears that it is done.
    pub fn lend(&self, fd: i32, file: &Arc<OpenFile>, control: &Arc<dyn ThreadControl>) {
        let (Ok(index), Ok(number)) = (usize::try_from(fd), u32::try_from(fd)) else { return };
        let mut slots = self.slots.lock();
        if !matches!(slots.entries.get(index), Some(Some(entry)) if Arc::ptr_eq(&entry.file, file)) {
            return;
        }
        slots.lent.retain(|lent| lent.to.strong_count() > 0);
        let own = || slots.lent.iter().enumerate().filter(|(_, lent)| lent.is_to(control));
        if let Some((_, lent)) = own().find(|(_, lent)| lent.fd == fd) {
            // The thread's short cuts were off in between.
            control.random_file(lent.place, Some(number));
            return;
        }
        let free = (0..RANDOM_FILES).find(|place| own().all(|(_, lent)| lent.place != *place));
        // Else the place that it has had for longest.
        let oldest = own().next().map(|(at, lent)| (at, lent.place));
        let place = match (free, oldest) {
            (Some(place), _) => place,
            (None, Some((at, place))) => {
                slots.lent.remove(at);
                place
            }
            (None, None) => return,
        };
        control.random_file(place, Some(number));
        slots.lent.push(Lent { fd, to: Arc::downgrade(control), place });
    }

    /// The thread uses another table from now on.
    pub fn part_with(&self, control: &Arc<dyn ThreadControl>) {
        self.slots.lock().lent.retain(|lent| {
            let other = !lent.is_to(control);
            if !other {
                lent.take_back();
            }
            other
        });
    }

    /// Number and entry of every descriptor, in order.
    pub fn list(&self) -> Vec<(i32, FdEntry)> {
        let slots = self.slots.lock();
        let entries = slots.entries.iter().enumerate();
        entries.filter_map(|(index, slot)| Some((i32::try_from(index).ok()?, slot.clone()?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use coracle_platform::{Identity, LaneCounts};

    use super::*;
    use crate::abi::types::Stat;
    use crate::fd::File;

    /// What a thread was told.
    #[derive(Default)]
    struct Told(Mutex<[Option<u32>; RANDOM_FILES]>);

    impl ThreadControl for Told {
        fn interrupt(&self) {}
        fn publish(&self, _identity: &Identity) {}
        fn random_file(&self, place: usize, fd: Option<u32>) {
            self.0.lock()[place] = fd;
        }
        fn cpu_time(&self) -> (Duration, Duration) {
            Default::default()
        }
        fn set_affinity(&self, _cpus: &[usize]) -> Result<()> {
            Ok(())
        }
        fn last_cpu(&self) -> usize {
            0
        }
        fn lanes(&self) -> LaneCounts {
            LaneCounts::default()
        }
    }

    struct Nothing;

    impl File for Nothing {
        fn stat(&self) -> Result<Stat> {
            Err(Errno::EIO)
        }
        fn as_any(&self) -> &dyn std::any::Any {
            self
        }
    }

    fn thread() -> (Arc<Told>, Arc<dyn ThreadControl>) {
        let told = Arc::<Told>::default();
        (told.clone(), told)
    }

    fn table(files: usize) -> (FdTable, Vec<Arc<OpenFile>>) {
        let table = FdTable::default();
        let files: Vec<_> = (0..files).map(|_| OpenFile::new(Arc::new(Nothing), 0)).collect();
        for (fd, file) in files.iter().enumerate() {
            table.replace(fd, FdEntry { file: file.clone(), close_on_exec: fd % 2 == 1 });
        }
        (table, files)
    }

    #[test]
    fn whatever_changes_a_descriptor_takes_it_back_from_all_threads() {
        type Change = fn(&FdTable, &Arc<OpenFile>);
        let changes: [(&str, Change); 4] = [
            ("close", |table, _| drop(table.remove(1))),
            ("close_range", |table, _| drop(table.remove_if(|fd, _| fd >= 1))),
            ("dup2", |table, file| {
                drop(table.replace(1, FdEntry { file: file.clone(), close_on_exec: false }));
            }),
            ("exec", |table, _| drop(table.remove_if(|_, entry| entry.close_on_exec))),
        ];
        for (name, change) in changes {
            let (table, files) = table(2);
            let threads = [thread(), thread()];
            for (told, control) in &threads {
                table.lend(1, &files[1], control);
                table.lend(0, &files[0], control);
                let mut fds = *told.0.lock();
                fds.sort();
                assert_eq!(fds, [Some(0), Some(1)], "{name}");
            }
            change(&table, &files[0]);
            for (told, _) in &threads {
                let mut left = *told.0.lock();
                left.sort();
                assert_eq!(left, [None, Some(0)], "{name}");
            }
        }
    }

    #[test]
    fn a_descriptor_that_is_another_file_by_now_is_not_lent() {
        let (table, files) = table(3);
        let (told, control) = thread();
        drop(table.replace(1, FdEntry { file: files[2].clone(), close_on_exec: false }));
        table.lend(1, &files[1], &control);
        drop(table.remove(0));
        table.lend(0, &files[0], &control);
        table.lend(-1, &files[0], &control);
        assert_eq!(*told.0.lock(), [None; RANDOM_FILES]);
    }

    #[test]
    fn who_leaves_a_table_leaves_what_it_lent() {
        let (table, files) = table(2);
        let ((told, control), (other, staying)) = (thread(), thread());
        table.lend(0, &files[0], &control);
        table.lend(0, &files[0], &staying);
        table.part_with(&control);
        assert_eq!(*told.0.lock(), [None; RANDOM_FILES]);
        assert!(other.0.lock().contains(&Some(0)));
        // A copy for a child lends nothing.
        let copy = table.duplicate();
        drop(copy.remove(0));
        assert!(other.0.lock().contains(&Some(0)));
    }

    #[test]
    fn a_thread_that_reads_more_files_than_it_has_places_keeps_the_last() {
        let (table, files) = table(5);
        let (told, control) = thread();
        for (fd, file) in files.iter().enumerate() {
            table.lend(fd as i32, file, &control);
            table.lend(fd as i32, file, &control);
        }
        let mut fds = *told.0.lock();
        fds.sort();
        assert_eq!(fds, [Some(3), Some(4)]);
        assert_eq!(table.slots.lock().lent.len(), RANDOM_FILES);
        drop((told, control));
        let (_, next) = thread();
        table.lend(0, &files[0], &next);
        assert_eq!(table.slots.lock().lent.len(), 1, "nothing is kept for threads that are gone");
    }
}
