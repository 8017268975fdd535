//! The contents of a memory file: sparse pages in the kernel's own memory, moved to a host memfd when the file
//! is mapped or grows large. From then on reads and writes go to the memfd, so they agree with mappings.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::RwLock;
use rustix::fs::{FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags, SeekFrom};
use rustix::io::{pread, pwrite};

use super::budget::{Budget, Hosted, host_error};
use crate::abi::PAGE_SIZE;
use crate::mem::{Sink, Source};
use crate::{Errno, Result};

const PAGE: usize = PAGE_SIZE as usize;
/// From this size on a file lives in a memfd.
const LARGE: u64 = 8 << 20;
/// Most bytes that one step of a write moves; a write up to this size is atomic.
const STEP: usize = 4 << 20;

type Page = Box<[u8; PAGE]>;

/// The contents of one file.
pub struct Data {
    budget: Arc<Budget>,
    state: RwLock<State>,
}

struct State {
    size: u64,
    store: Store,
}

enum Store {
    Pages(BTreeMap<u64, Page>),
    Host(HostStore),
}

struct HostStore {
    hosted: Arc<Hosted>,
    read_only: Option<Arc<OwnedFd>>,
    /// Everything below is known to be allocated.
    dense: u64,
}

impl Data {
    /// An empty file.
    pub fn new(budget: Arc<Budget>) -> Data {
        Data { budget, state: RwLock::new(State { size: 0, store: Store::Pages(BTreeMap::new()) }) }
    }

    /// Its length.
    pub fn size(&self) -> u64 {
        self.state.read().size
    }

    /// Allocated 512-byte blocks.
    pub fn blocks(&self) -> u64 {
        match &self.state.read().store {
            Store::Pages(pages) => pages.len() as u64 * (PAGE_SIZE / 512),
            Store::Host(host) => rustix::fs::fstat(&*host.hosted.file).map_or(0, |stat| stat.st_blocks as u64),
        }
    }

    /// Reads from `offset` on.
    pub fn read(&self, offset: u64, into: &mut dyn Sink) -> Result<usize> {
        let state = self.state.read();
        let mut at = offset;
        let mut done = 0;
        while at < state.size && into.remaining() > 0 {
            let left = usize::try_from(state.size - at).unwrap_or(usize::MAX).min(1 << 20);
            let mut asked = 0;
            let got = into.fill(left, &mut |buffer| {
                asked = buffer.len().min(left);
                let buffer = buffer.get_mut(..asked).unwrap_or_default();
                state.copy_out(at, buffer)?;
                Ok(asked)
            });
            match got {
                Ok(count) => {
                    done += count;
                    at += count as u64;
                    if count < asked || count == 0 {
                        break;
                    }
                }
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// Writes at `offset`.
    pub fn write(&self, offset: u64, from: &mut dyn Source) -> Result<usize> {
        self.write_at(Some(offset), from).map(|(count, _)| count)
    }

    /// Writes at the end; returns the count and the offset behind it.
    pub fn append(&self, from: &mut dyn Source) -> Result<(usize, u64)> {
        self.write_at(None, from)
    }

    fn write_at(&self, offset: Option<u64>, from: &mut dyn Source) -> Result<(usize, u64)> {
        let mut small = [0u8; 4096];
        let mut large = Vec::new();
        let mut done = 0;
        let mut at = offset;
        loop {
            let want = from.remaining().min(STEP);
            let buffer = if want <= small.len() {
                small.get_mut(..want).unwrap_or_default()
            } else {
                large.resize(want, 0);
                large.as_mut_slice()
            };
            let outcome = match from.take(buffer) {
                Ok(0) => Ok((0, 0)),
                Ok(count) => {
                    let mut state = self.state.write();
                    let start = at.unwrap_or(state.size);
                    let bytes = buffer.get(..count).unwrap_or_default();
                    state.copy_in(&self.budget, start, bytes).map(|written| (written, start + written as u64))
                }
                Err(error) => Err(error),
            };
            match outcome {
                Ok((0, _)) => return Ok((done, at.unwrap_or_else(|| self.size()))),
                Ok((count, end)) => {
                    done += count;
                    at = Some(end);
                    if count < want || from.remaining() == 0 {
                        return Ok((done, end));
                    }
                }
                Err(error) if done == 0 => return Err(error),
                Err(_) => return Ok((done, at.unwrap_or(0))),
            }
        }
    }

    /// `ftruncate`.
    pub fn truncate(&self, len: u64) -> Result<()> {
        let mut state = self.state.write();
        state.truncate(&self.budget, len)
    }

    /// `fallocate(2)`: plain, `KEEP_SIZE`, `PUNCH_HOLE`, `ZERO_RANGE`.
    pub fn allocate(&self, mode: u32, offset: u64, len: u64) -> Result<()> {
        use crate::abi::linux::{FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE};
        let end = offset.checked_add(len).filter(|end| i64::try_from(*end).is_ok()).ok_or(Errno::EFBIG)?;
        let keep = mode & FALLOC_FL_KEEP_SIZE != 0;
        let mut state = self.state.write();
        match mode & !FALLOC_FL_KEEP_SIZE {
            0 => state.reserve(&self.budget, offset, end)?,
            FALLOC_FL_PUNCH_HOLE if keep => return state.punch(&self.budget, offset, end),
            FALLOC_FL_ZERO_RANGE => {
                let old = state.size;
                state.punch(&self.budget, offset, end.min(old))?;
                state.reserve(&self.budget, offset, end)?;
            }
            _ => return Err(Errno::EOPNOTSUPP),
        }
        if !keep && end > state.size {
            state.set_size(end)?;
        }
        Ok(())
    }

    /// The next data or hole at or after `offset` (`SEEK_DATA`, `SEEK_HOLE`); `ENXIO` beyond the end.
    pub fn seek_data(&self, offset: u64, hole: bool) -> Result<u64> {
        let state = self.state.read();
        if offset >= state.size {
            return Err(Errno::ENXIO);
        }
        match &state.store {
            Store::Host(host) => {
                let from = if hole { SeekFrom::Hole(offset) } else { SeekFrom::Data(offset) };
                rustix::fs::seek(&*host.hosted.file, from).map_err(host_error)
            }
            Store::Pages(pages) if hole => {
                let mut page = offset / PAGE_SIZE;
                while pages.contains_key(&page) {
                    page += 1;
                }
                Ok((page * PAGE_SIZE).max(offset).min(state.size))
            }
            Store::Pages(pages) => {
                let next = pages.range(offset / PAGE_SIZE..).next().ok_or(Errno::ENXIO)?;
                let at = (next.0 * PAGE_SIZE).max(offset);
                if at < state.size { Ok(at) } else { Err(Errno::ENXIO) }
            }
        }
    }

    /// The file as a host descriptor, for mapping; read-only ones cannot be mapped for writing.
    pub fn host(&self, writable: bool) -> Result<Arc<OwnedFd>> {
        let mut state = self.state.write();
        state.promote(&self.budget)?;
        let Store::Host(host) = &mut state.store else { return Err(Errno::ENODEV) };
        host.hosted.lend();
        if writable {
            host.hosted.watch();
            return Ok(host.hosted.file.clone());
        }
        if let Some(file) = &host.read_only {
            return Ok(file.clone());
        }
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&*host.hosted.file));
        let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(host_error)?;
        Ok(host.read_only.insert(Arc::new(file)).clone())
    }

    /// Has the host keep the seals against writing, if it lives in a memfd: workers make mappings by themselves.
    pub fn seal_host(&self, seals: u32) -> Result<()> {
        let against_writing = SealFlags::WRITE | SealFlags::FUTURE_WRITE;
        let seals = SealFlags::from_bits_truncate(seals) & against_writing;
        match &self.state.read().store {
            Store::Host(host) if !seals.is_empty() => host.hosted.seal(seals),
            _ => Ok(()),
        }
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        if let Store::Pages(pages) = &self.state.get_mut().store {
            self.budget.release(pages.len() as u64 * PAGE_SIZE);
        }
    }
}

/// Pieces of `at..at + len` by page: page number, offset in it, length.
fn pieces(at: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let here = at.checked_add(done as u64)?;
        let offset = (here % PAGE_SIZE) as usize;
        let count = (PAGE - offset).min(len - done);
        done += count;
        (count > 0).then_some((here / PAGE_SIZE, offset, count))
    })
}

impl State {
    /// Fills `into` from `at` on; the caller stays below the size.
    fn copy_out(&self, at: u64, into: &mut [u8]) -> Result<()> {
        match &self.store {
            Store::Pages(pages) => {
                let mut rest = into;
                for (number, offset, count) in pieces(at, rest.len()) {
                    let (part, later) = rest.split_at_mut(count);
                    match pages.get(&number).and_then(|page| page.get(offset..offset + count)) {
                        Some(bytes) => part.copy_from_slice(bytes),
                        None => part.fill(0),
                    }
                    rest = later;
                }
                Ok(())
            }
            Store::Host(host) => {
                let mut done = 0;
                while let Some(part) = into.get_mut(done..).filter(|part| !part.is_empty()) {
                    match pread(&*host.hosted.file, &mut *part, at + done as u64).map_err(host_error)? {
                        0 => {
                            part.fill(0);
                            break;
                        }
                        count => done += count,
                    }
                }
                Ok(())
            }
        }
    }

    /// Stores `bytes` at `at`; returns how many found room.
    fn copy_in(&mut self, budget: &Arc<Budget>, at: u64, bytes: &[u8]) -> Result<usize> {
        let end = at.checked_add(bytes.len() as u64).filter(|end| i64::try_from(*end).is_ok());
        let end = end.ok_or(Errno::EFBIG)?;
        if end > LARGE && matches!(self.store, Store::Pages(_)) {
            // Out of descriptors: pages do as well.
            let _ = self.promote(budget);
        }
        let done = match &mut self.store {
            Store::Pages(pages) => {
                let mut rest = bytes;
                for (number, offset, count) in pieces(at, bytes.len()) {
                    let (part, later) = rest.split_at(count);
                    let page = match pages.entry(number) {
                        std::collections::btree_map::Entry::Occupied(page) => page.into_mut(),
                        std::collections::btree_map::Entry::Vacant(place) => match budget.charge(PAGE_SIZE) {
                            Ok(()) => place.insert(Box::new([0; PAGE])),
                            Err(error) if rest.len() == bytes.len() => return Err(error),
                            Err(_) => break,
                        },
                    };
                    if let Some(place) = page.get_mut(offset..offset + count) {
                        place.copy_from_slice(part);
                    }
                    rest = later;
                }
                bytes.len() - rest.len()
            }
            Store::Host(host) => {
                if at <= host.dense {
                    let growth =
                        end.next_multiple_of(PAGE_SIZE).saturating_sub(host.dense.next_multiple_of(PAGE_SIZE));
                    let done = host.hosted.write_dense(at, bytes, growth)?;
                    host.dense = host.dense.max(at + done as u64);
                    done
                } else {
                    host.hosted.write_sparse(at, bytes)?
                }
            }
        };
        self.size = self.size.max(at + done as u64);
        Ok(done)
    }

    fn set_size(&mut self, size: u64) -> Result<()> {
        if let Store::Host(host) = &self.store {
            rustix::fs::ftruncate(&*host.hosted.file, size).map_err(host_error)?;
        }
        self.size = size;
        Ok(())
    }

    fn truncate(&mut self, budget: &Arc<Budget>, len: u64) -> Result<()> {
        if let Store::Pages(pages) = &mut self.store {
            let dropped = pages.split_off(&len.div_ceil(PAGE_SIZE));
            budget.release(dropped.len() as u64 * PAGE_SIZE);
            // What is grown into later must read as zeros.
            let tail = (len % PAGE_SIZE) as usize;
            if tail > 0
                && let Some(page) = pages.get_mut(&(len / PAGE_SIZE))
            {
                page.get_mut(tail..).unwrap_or_default().fill(0);
            }
        }
        self.set_size(len)?;
        if let Store::Host(host) = &mut self.store {
            host.dense = host.dense.min(len);
            host.hosted.account();
        }
        Ok(())
    }

    fn reserve(&mut self, budget: &Arc<Budget>, from: u64, end: u64) -> Result<()> {
        if end - from > LARGE {
            self.promote(budget)?;
        }
        match &mut self.store {
            Store::Pages(pages) => {
                for number in from / PAGE_SIZE..end.div_ceil(PAGE_SIZE) {
                    if let std::collections::btree_map::Entry::Vacant(place) = pages.entry(number) {
                        budget.charge(PAGE_SIZE)?;
                        place.insert(Box::new([0; PAGE]));
                    }
                }
                Ok(())
            }
            Store::Host(host) => host.hosted.reserve(from, end),
        }
    }

    fn punch(&mut self, budget: &Arc<Budget>, from: u64, end: u64) -> Result<()> {
        if from >= end {
            return Ok(());
        }
        match &mut self.store {
            Store::Pages(pages) => {
                let (first, last) = (from.div_ceil(PAGE_SIZE), end / PAGE_SIZE);
                let whole: Vec<u64> =
                    if first < last { pages.range(first..last).map(|(n, _)| *n).collect() } else { Vec::new() };
                for number in &whole {
                    pages.remove(number);
                }
                budget.release(whole.len() as u64 * PAGE_SIZE);
                for number in [from / PAGE_SIZE, end / PAGE_SIZE] {
                    let start = number * PAGE_SIZE;
                    let a = from.saturating_sub(start).min(PAGE_SIZE) as usize;
                    let b = end.saturating_sub(start).min(PAGE_SIZE) as usize;
                    if let Some(part) = pages.get_mut(&number).and_then(|page| page.get_mut(a..b)) {
                        part.fill(0);
                    }
                }
                Ok(())
            }
            Store::Host(host) => {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                rustix::fs::fallocate(&*host.hosted.file, flags, from, end - from).map_err(host_error)?;
                host.dense = host.dense.min(from);
                host.hosted.account();
                Ok(())
            }
        }
    }

    /// Moves the contents to a memfd.
    fn promote(&mut self, budget: &Arc<Budget>) -> Result<()> {
        let Store::Pages(pages) = &mut self.store else { return Ok(()) };
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create("coracle", flags).map_err(host_error)?;
        rustix::fs::ftruncate(&file, self.size).map_err(host_error)?;
        let mut dense = 0;
        for (number, page) in pages.iter() {
            // A page may be reserved beyond the end; the memfd must not grow by it.
            let at = number * PAGE_SIZE;
            let len = self.size.saturating_sub(at).min(PAGE_SIZE) as usize;
            let bytes = page.get(..len).unwrap_or_default();
            let mut done = 0;
            while let Some(part) = bytes.get(done..).filter(|part| !part.is_empty()) {
                done += pwrite(&file, part, at + done as u64).map_err(host_error)?.max(1);
            }
            if dense == at {
                dense = at + PAGE_SIZE;
            }
        }
        let hosted = Hosted::new(file, budget, pages.len() as u64 * PAGE_SIZE);
        hosted.account();
        self.store = Store::Host(HostStore { hosted, read_only: None, dense: dense.min(self.size) });
        Ok(())
    }
}

#[cfg(test)]
mod tests;
