//! What files in memory may take (`--disk`), and the charge of those that are memory files of the host: guests map them,
//! and a mapping grows them without asking.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, SealFlags, SeekFrom};

use crate::abi::PAGE_SIZE;
use crate::{Errno, Result, decisions};

/// So far a file may grow beyond the limit before that is seen.
const STEP: u64 = 4 << 20;

/// Bytes that a file system may hold.
pub struct Budget {
    limit: u64,
    used: AtomicU64,
    /// The part of it that is in files of the host, not in this process's own memory.
    hosted: AtomicU64,
    /// Files that guests may write to by mappings.
    watched: Mutex<Vec<Weak<Hosted>>>,
}

impl Budget {
    /// At most `limit` bytes; `u64::MAX` for no limit.
    pub fn new(limit: u64) -> Arc<Budget> {
        Arc::new(Budget { limit, used: AtomicU64::new(0), hosted: AtomicU64::new(0), watched: Mutex::default() })
    }

    /// Takes `bytes`, or `ENOSPC`.
    pub fn charge(&self, bytes: u64) -> Result<()> {
        let take = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.limit());
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).map(drop).map_err(|_| Errno::ENOSPC)
    }

    fn limit(&self) -> u64 {
        decisions::disk(self.limit)
    }

    /// Gives `bytes` back.
    pub fn release(&self, bytes: u64) {
        subtract(&self.used, bytes);
    }

    /// Takes `bytes` for as long as the returned value lives.
    pub fn take(self: &Arc<Budget>, bytes: u64) -> Result<Room> {
        self.charge(bytes)?;
        Ok(Room { budget: self.clone(), bytes })
    }

    /// Limit and use.
    pub fn state(&self) -> (u64, u64) {
        (self.limit(), self.used.load(Ordering::Relaxed))
    }

    /// The part of the use that is in files of the host.
    pub fn hosted(&self) -> u64 {
        self.hosted.load(Ordering::Relaxed)
    }

    /// Looks at all files that guests may have grown by mappings. Who grew, by the host's device and inode numbers.
    pub fn recount(&self) -> Vec<(u64, u64)> {
        let files: Vec<Arc<Hosted>> = {
            let mut watched = self.watched.lock();
            watched.retain(|file| file.strong_count() > 0);
            watched.iter().filter_map(Weak::upgrade).collect()
        };
        files.iter().filter_map(|file| file.account()).collect()
    }
}

/// Bytes taken from a budget, given back when dropped.
pub struct Room {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.budget.release(self.bytes);
    }
}

fn subtract(counter: &AtomicU64, bytes: u64) {
    let _ = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| Some(now.saturating_sub(bytes)));
}

/// A file in memory that is the host's, with its charge.
pub struct Hosted {
    pub file: Arc<OwnedFd>,
    /// Workers have descriptors of it.
    lent: AtomicBool,
    budget: Arc<Budget>,
    /// Held while the charge is made or the file written to.
    charge: Mutex<Charge>,
}

#[derive(Default)]
struct Charge {
    bytes: u64,
    watched: bool,
}

pub fn host_error(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error())
}

impl Hosted {
    /// `bytes` have been charged for its contents, which were in pages of this process before.
    pub fn new(file: OwnedFd, budget: &Arc<Budget>, bytes: u64) -> Arc<Hosted> {
        budget.hosted.fetch_add(bytes, Ordering::Relaxed);
        let charge = Mutex::new(Charge { bytes, watched: false });
        Arc::new(Hosted { file: Arc::new(file), lent: AtomicBool::new(false), budget: budget.clone(), charge })
    }

    /// From now on workers may have it.
    pub fn lend(&self) {
        self.lent.store(true, Ordering::Relaxed);
    }

    /// From now on guests may write to it by mappings.
    pub fn watch(self: &Arc<Hosted>) {
        let watched = std::mem::replace(&mut self.charge.lock().watched, true);
        if !watched {
            let mut all = self.budget.watched.lock();
            // Those that are gone take room only until there is none left.
            if all.len() == all.capacity() {
                all.retain(|file| file.strong_count() > 0);
            }
            all.push(Arc::downgrade(self));
        }
    }

    /// Makes the charge agree with what the host has allocated. The file's identity if that is more now.
    pub fn account(&self) -> Option<(u64, u64)> {
        self.settle(&mut self.charge.lock())
    }

    fn settle(&self, charge: &mut Charge) -> Option<(u64, u64)> {
        let stat = rustix::fs::fstat(&*self.file).ok()?;
        let actual = (stat.st_blocks as u64).saturating_mul(512);
        let before = std::mem::replace(&mut charge.bytes, actual);
        if let Some(more) = actual.checked_sub(before) {
            // It is in use already, whatever the limit says.
            self.budget.used.fetch_add(more, Ordering::Relaxed);
            self.budget.hosted.fetch_add(more, Ordering::Relaxed);
        } else {
            self.budget.release(before - actual);
            subtract(&self.budget.hosted, before - actual);
        }
        (actual > before).then_some((stat.st_dev, stat.st_ino))
    }

    /// Takes `bytes` more for what is to be between `at` and `end`, or no more than that really needs: what is written
    /// over, or was reserved, costs nothing.
    fn take(&self, charge: &mut Charge, bytes: u64, at: u64, end: u64) -> Result<()> {
        if self.budget.charge(bytes).is_err() {
            return self.grow(charge, at / PAGE_SIZE * PAGE_SIZE, end.next_multiple_of(PAGE_SIZE));
        }
        charge.bytes += bytes;
        self.budget.hosted.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Allocates what is missing between these, in steps, and looks after each whether there was room. The host tells
    /// of reserved pages as of holes, so only what it counts then says what they were.
    fn grow(&self, charge: &mut Charge, from: u64, end: u64) -> Result<()> {
        let limit = self.budget.limit;
        if end - from > limit {
            return Err(Errno::ENOSPC);
        }
        let mut at = from;
        while at < end {
            let next = (at + STEP).min(end);
            let holes = self.holes(at, next);
            let change = |flags| {
                let mut holes = holes.iter();
                holes.try_for_each(|(from, end)| rustix::fs::fallocate(&*self.file, flags, *from, end - from))
            };
            let done = change(FallocateFlags::KEEP_SIZE).map_err(host_error);
            self.settle(charge);
            if done.is_err() || !holes.is_empty() && self.budget.state().1 > limit {
                // There are zeros, whatever they were.
                _ = change(FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE);
                self.settle(charge);
                return done.and(Err(Errno::ENOSPC));
            }
            at = next;
        }
        Ok(())
    }

    /// Where between these there are no data.
    fn holes(&self, from: u64, end: u64) -> Vec<(u64, u64)> {
        let (mut at, mut holes) = (from, Vec::new());
        while at < end {
            // Behind the last data there is none (`ENXIO`).
            let data = rustix::fs::seek(&*self.file, SeekFrom::Data(at)).unwrap_or(end).clamp(at, end);
            if data > at {
                holes.push((at, data));
            }
            at = match rustix::fs::seek(&*self.file, SeekFrom::Hole(data)) {
                Ok(hole) if data < end => hole.max(data + 1),
                _ => end,
            };
        }
        holes
    }

    /// Seals that it has already are no error.
    pub fn seal(&self, seals: SealFlags) -> Result<()> {
        let there = rustix::fs::fcntl_get_seals(&*self.file).map_err(host_error)?;
        if there.contains(seals) {
            return Ok(());
        }
        rustix::fs::fcntl_add_seals(&*self.file, seals).map_err(host_error)
    }

    /// Writes where everything below is allocated already, so that `growth` bytes more will be.
    pub fn write_dense(&self, at: u64, bytes: &[u8], growth: u64) -> Result<usize> {
        let mut charge = self.charge.lock();
        if growth > 0 {
            self.take(&mut charge, growth, at, at.saturating_add(bytes.len() as u64))?;
        }
        self.write(at, bytes)
    }

    /// Writes anywhere.
    pub fn write_sparse(&self, at: u64, bytes: &[u8]) -> Result<usize> {
        let mut charge = self.charge.lock();
        let end = at.saturating_add(bytes.len() as u64);
        let most = end.next_multiple_of(PAGE_SIZE) - at / PAGE_SIZE * PAGE_SIZE;
        self.take(&mut charge, most, at, end)?;
        let done = self.write(at, bytes);
        self.settle(&mut charge);
        done
    }

    /// Allocates what is not yet.
    pub fn reserve(&self, from: u64, end: u64) -> Result<()> {
        let mut charge = self.charge.lock();
        // Never more than fits: the host would try.
        self.take(&mut charge, end.next_multiple_of(PAGE_SIZE) - from / PAGE_SIZE * PAGE_SIZE, from, end)?;
        let done = rustix::fs::fallocate(&*self.file, FallocateFlags::KEEP_SIZE, from, end - from);
        self.settle(&mut charge);
        done.map_err(host_error)
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<usize> {
        let mut done = 0;
        while let Some(part) = bytes.get(done..).filter(|part| !part.is_empty()) {
            match rustix::io::pwrite(&*self.file, part, at + done as u64).map_err(host_error) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }
}

impl Drop for Hosted {
    fn drop(&mut self) {
        let bytes = self.charge.get_mut().bytes;
        self.budget.release(bytes);
        subtract(&self.budget.hosted, bytes);
        if *self.lent.get_mut() {
            // Nothing that the guest did by the rules shows it any more. A worker that has kept a descriptor keeps no
            // memory with it.
            let _ = rustix::fs::ftruncate(&*self.file, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::mem::Data;
    use crate::mem::SliceSource;

    #[test]
    fn holes_that_are_filled_meet_the_limit_and_what_is_there_does_not() {
        let budget = Budget::new(8 * PAGE_SIZE);
        let data = Data::new(budget.clone());
        let page = [7; PAGE_SIZE as usize];
        data.truncate(100 * PAGE_SIZE).unwrap();
        data.host(true).unwrap();
        for at in (10..26).step_by(2) {
            assert_eq!(data.write(at * PAGE_SIZE, &mut SliceSource(&page)), Ok(page.len()));
        }
        for at in [11, 30] {
            assert_eq!(data.write(at * PAGE_SIZE, &mut SliceSource(&page)), Err(Errno::ENOSPC));
        }
        assert_eq!(data.write(24 * PAGE_SIZE, &mut SliceSource(&page)), Ok(page.len()));
        assert_eq!((budget.state().1, budget.hosted()), (8 * PAGE_SIZE, 8 * PAGE_SIZE));
        drop(data);
        assert_eq!((budget.state().1, budget.hosted()), (0, 0));
    }

    #[test]
    fn no_more_is_reserved_than_fits_however_long_the_file() {
        let budget = Budget::new(16 << 20);
        let data = Data::new(budget.clone());
        data.truncate(1 << 50).unwrap();
        assert_eq!(data.allocate(0, 0, 1 << 40), Err(Errno::ENOSPC));
        assert_eq!(data.allocate(0, 1 << 30, 12 << 20), Ok(()));
        assert_eq!((data.allocate(0, 1 << 30, 12 << 20), budget.state().1), (Ok(()), 12 << 20));
        assert_eq!(data.allocate(0, 1 << 35, 12 << 20), Err(Errno::ENOSPC));
    }

    #[test]
    fn what_grows_without_asking_is_found() {
        let budget = Budget::new(4 * PAGE_SIZE);
        let data = Data::new(budget.clone());
        data.truncate(100 * PAGE_SIZE).unwrap();
        let file = data.host(true).unwrap();
        assert_eq!(budget.recount(), []);
        for at in 0..6 {
            rustix::io::pwrite(&*file, b"x", at * PAGE_SIZE).unwrap();
        }
        assert_eq!((budget.recount().len(), budget.state().1), (1, 6 * PAGE_SIZE));
        assert_eq!(budget.recount(), []);
        drop((file, data));
        assert_eq!(budget.state().1, 0);
    }

    #[test]
    fn who_keeps_a_descriptor_of_what_is_gone_keeps_no_memory() {
        let budget = Budget::new(u64::MAX);
        let data = Data::new(budget.clone());
        data.write(0, &mut SliceSource(&[1; 100_000])).unwrap();
        let kept = [true, false].map(|writable| data.host(writable).unwrap());
        assert!(rustix::fs::fstat(&*kept[0]).unwrap().st_blocks > 0);
        drop(data);
        for file in kept {
            assert_eq!(rustix::fs::fstat(&*file).unwrap().st_blocks, 0);
        }
    }
}
