//! A platform without guests: memory is a map of pages, and traps come from a script. The kernel's own
//! tests run on it in milliseconds.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coracle_abi::{Errno, PAGE_SIZE, page_ceil, page_floor};
use parking_lot::Mutex;

use crate::*;

/// Makes [`MockSpace`]s.
#[derive(Default)]
pub struct MockPlatform;

/// Bytes and `PROT_*` bits.
type Page = (Box<[u8]>, u32);

/// Guest memory as a map from page address to bytes and protection.
#[derive(Default)]
pub struct MockSpace {
    pages: Mutex<BTreeMap<u64, Page>>,
    killed: AtomicBool,
}

/// A thread that plays a script of traps and records what it was answered.
pub struct MockThread {
    space: Arc<MockSpace>,
    control: Arc<MockControl>,
    /// Traps still to come.
    pub script: VecDeque<Trap>,
    /// Results that the kernel gave, in order.
    pub results: Arc<Mutex<Vec<u64>>>,
    regs: Regs,
    /// Stands in a call that was not frozen yet.
    in_call: bool,
    room: Vec<u8>,
    room_at: u64,
}

/// Records interrupts and identities.
#[derive(Default)]
pub struct MockControl {
    pub interrupts: Mutex<u32>,
    pub identity: Mutex<Identity>,
}

const PROT_READ: u32 = 1;
const PROT_WRITE: u32 = 2;

impl MockSpace {
    /// Maps zeroed pages.
    pub fn map(&self, address: u64, len: u64, prot: u32) {
        let mut pages = self.pages.lock();
        let mut at = page_floor(address);
        while at < address.saturating_add(len) {
            pages.insert(at, (vec![0; PAGE_SIZE as usize].into(), prot));
            at += PAGE_SIZE;
        }
    }

    fn walk(&self, address: u64, len: usize, need: u32, mut each: impl FnMut(usize, &mut [u8])) -> usize {
        let mut pages = self.pages.lock();
        let mut done = 0;
        while done < len {
            let at = address.wrapping_add(done as u64);
            let Some((bytes, prot)) = pages.get_mut(&page_floor(at)) else { break };
            if *prot & need != need {
                break;
            }
            let offset = (at % PAGE_SIZE) as usize;
            let count = (len - done).min(PAGE_SIZE as usize - offset);
            each(done, &mut bytes[offset..offset + count]);
            done += count;
        }
        done
    }
}

impl Platform for MockPlatform {
    fn spawn(&self) -> Result<Vessel, PlatformError> {
        let space = Arc::new(MockSpace::default());
        let thread = Box::new(MockThread::new(space.clone()));
        Ok(Vessel { space, thread })
    }

    fn name(&self) -> &'static str {
        "mock"
    }
}

impl Space for MockSpace {
    fn read(&self, address: u64, into: &mut [u8]) -> usize {
        self.walk(address, into.len(), PROT_READ, |at, page| into[at..at + page.len()].copy_from_slice(page))
    }

    fn write(&self, address: u64, from: &[u8]) -> usize {
        self.walk(address, from.len(), PROT_WRITE, |at, page| page.copy_from_slice(&from[at..at + page.len()]))
    }

    fn poke(&self, address: u64, from: &[u8]) -> usize {
        self.walk(address, from.len(), 0, |at, page| page.copy_from_slice(&from[at..at + page.len()]))
    }

    fn peek(&self, address: u64, into: &mut [u8]) -> usize {
        self.walk(address, into.len(), 0, |at, page| into[at..at + page.len()].copy_from_slice(page))
    }

    fn layout(&self) -> Layout {
        Layout { bottom: 0x10000, top: 0x7e00_0000_0000 }
    }

    fn mappings(&self) -> Vec<Mapping> {
        let pages = self.pages.lock();
        pages
            .iter()
            .map(|(start, (_, prot))| Mapping {
                start: *start,
                end: start + PAGE_SIZE,
                prot: *prot,
                shared: false,
                offset: 0,
                dev: 0,
                ino: 0,
                special: None,
                memory: MapMemory { resident: PAGE_SIZE, own: PAGE_SIZE, ..MapMemory::default() },
            })
            .collect()
    }

    fn usage(&self) -> Usage {
        Usage::default()
    }

    fn forget_file(&self, _key: u64) {}

    fn kill(&self) {
        self.killed.store(true, Ordering::SeqCst);
    }
}

impl MockThread {
    /// A thread with an empty script in `space`.
    pub fn new(space: Arc<MockSpace>) -> MockThread {
        MockThread {
            space,
            control: Arc::default(),
            script: VecDeque::new(),
            results: Arc::default(),
            regs: Regs::default(),
            in_call: false,
            room: Vec::new(),
            room_at: 0,
        }
    }
}

impl Thread for MockThread {
    fn run(&mut self, resume: Resume<'_>) -> Trap {
        match resume {
            Resume::Return(value) => self.results.lock().push(value),
            Resume::Memory(call) => {
                let result = self.memory(call).unwrap_or(Ok(0));
                self.results.lock().push(result.unwrap_or_else(Errno::to_ret));
            }
            Resume::Continue => {}
        }
        if self.space.killed.load(Ordering::SeqCst) {
            return Trap::Died(Death::Killed);
        }
        let trap = self.script.pop_front().unwrap_or(Trap::Died(Death::Exited(0)));
        self.in_call = matches!(trap, Trap::Syscall { .. });
        trap
    }

    fn freeze(&mut self, result: u64) -> Result<&mut Regs, Gone> {
        if std::mem::take(&mut self.in_call) {
            self.regs.rax = result;
        }
        Ok(&mut self.regs)
    }

    fn staged(&self, _address: u64, _into: &mut [u8]) -> bool {
        false
    }

    fn staged_prefix(&self, _address: u64, _into: &mut [u8]) -> usize {
        0
    }

    fn stage_out(&mut self, _address: u64, _from: &[u8]) -> bool {
        false
    }

    fn stage_room(&mut self, address: u64, len: usize) -> Option<&mut [u8]> {
        if len > 65536 {
            return None;
        }
        self.room = vec![0; len];
        self.room_at = address;
        Some(&mut self.room)
    }

    fn stage_commit(&mut self, len: usize) {
        let bytes = self.room.get(..len).unwrap_or_default();
        self.space.write(self.room_at, bytes);
    }

    fn memory(&mut self, call: &MemoryCall) -> Result<Result<u64, Errno>, Gone> {
        Ok(match *call {
            MemoryCall::MapAnonymous { address, len, prot, .. }
            | MemoryCall::MapFile { address, len, prot, .. } => {
                self.space.map(address, len, prot);
                Ok(address)
            }
            MemoryCall::Unmap { address, len } => match page_ceil(address.saturating_add(len)) {
                Some(end) => {
                    self.space.pages.lock().retain(|at, _| *at < address || *at >= end);
                    Ok(0)
                }
                None => Err(Errno::EINVAL),
            },
            _ => Ok(0),
        })
    }

    fn spawn_thread(&mut self, edit: &mut dyn FnMut(&mut Regs)) -> Result<Box<dyn Thread>, ForkError> {
        let mut thread = MockThread::new(self.space.clone());
        thread.regs = self.regs.clone();
        edit(&mut thread.regs);
        Ok(Box::new(thread))
    }

    fn fork(&mut self, edit: &mut dyn FnMut(&mut Regs)) -> Result<Vessel, ForkError> {
        let copy = MockSpace::default();
        *copy.pages.lock() = self.space.pages.lock().clone();
        let space = Arc::new(copy);
        let mut thread = MockThread::new(space.clone());
        thread.regs = self.regs.clone();
        edit(&mut thread.regs);
        Ok(Vessel { space, thread: Box::new(thread) })
    }

    fn compare_exchange(&mut self, address: u64, old: u32, new: u32) -> Result<Result<u32, Errno>, Gone> {
        let mut bytes = [0; 4];
        if self.space.read(address, &mut bytes) < 4 {
            return Ok(Err(Errno::EFAULT));
        }
        let found = u32::from_ne_bytes(bytes);
        if found == old && self.space.write(address, &new.to_ne_bytes()) < 4 {
            return Ok(Err(Errno::EFAULT));
        }
        Ok(Ok(found))
    }

    fn futex_wake(&mut self, _address: u64, _count: u32) -> Result<u64, Gone> {
        Ok(0)
    }

    fn farewell(&mut self, _rseq: Option<(u64, u32, u32, u32)>, cleared: Option<u64>) -> Result<(), Gone> {
        if let Some(address) = cleared {
            self.space.write(address, &0u32.to_ne_bytes());
        }
        Ok(())
    }

    fn control(&self) -> Arc<dyn ThreadControl> {
        self.control.clone()
    }

    fn retire(self: Box<Self>) {}
}

impl ThreadControl for MockControl {
    fn interrupt(&self) {
        *self.interrupts.lock() += 1;
    }

    fn publish(&self, identity: &Identity) {
        *self.identity.lock() = *identity;
    }

    fn cpu_time(&self) -> (Duration, Duration) {
        Default::default()
    }

    fn set_affinity(&self, _cpus: &[usize]) -> Result<(), Errno> {
        Ok(())
    }

    fn last_cpu(&self) -> usize {
        0
    }

    fn lanes(&self) -> LaneCounts {
        LaneCounts::default()
    }
}
