//! The kernel's side of the ports: shared memory that a hostile guest writes to at any time. It is reached
//! through atomics and copies only; nothing is read twice.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use coracle_abi::port::{PORT_COUNT, PORT_SIZE, word};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// All ports of one address space.
pub struct Ports {
    file: OwnedFd,
    memory: NonNull<u8>,
}

const LEN: usize = (PORT_SIZE * PORT_COUNT) as usize;

// SAFETY: the mapping belongs to the value until drop, and all access is by atomics or raw copies.
unsafe impl Send for Ports {}
// SAFETY: as above.
unsafe impl Sync for Ports {}

impl Ports {
    /// Fresh ports, all zero. Memory is used only where it is touched.
    pub fn new() -> std::io::Result<Arc<Ports>> {
        let file = memfd_create("coracle-ports", MemfdFlags::CLOEXEC)?;
        ftruncate(&file, LEN as u64)?;
        let flags = MapFlags::SHARED | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address of the host's choice.
        let memory =
            unsafe { mmap(std::ptr::null_mut(), LEN, ProtFlags::READ | ProtFlags::WRITE, flags, &file, 0)? };
        let memory = NonNull::new(memory.cast()).ok_or(std::io::ErrorKind::OutOfMemory)?;
        Ok(Arc::new(Ports { file, memory }))
    }

    /// The memory file, to be mapped by the worker.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Port number `index`.
    pub fn port(self: &Arc<Ports>, index: usize) -> Port {
        assert!(index < PORT_COUNT as usize, "ports are handed out by the kernel alone");
        // SAFETY: within the mapping, by the assertion.
        let memory = unsafe { self.memory.add(index * PORT_SIZE as usize) };
        Port { memory, _ports: self.clone() }
    }
}

impl Drop for Ports {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`; every `Port` holds an `Arc` of it, so none is left.
        let _ = unsafe { munmap(self.memory.as_ptr().cast(), LEN) };
    }
}

/// One port.
#[derive(Clone)]
pub struct Port {
    /// Its first byte.
    memory: NonNull<u8>,
    /// Keeps it mapped.
    _ports: Arc<Ports>,
}

// SAFETY: as for `Ports`, which it keeps alive.
unsafe impl Send for Port {}
// SAFETY: as above.
unsafe impl Sync for Port {}

impl Port {
    #[inline]
    fn at(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(offset.checked_add(len).is_some_and(|end| end <= PORT_SIZE as usize), "offset within a port");
        // SAFETY: within the mapping, by the assertions here and in `Ports::port`.
        unsafe { self.memory.as_ptr().add(offset) }
    }

    #[inline]
    fn word32(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: mapped and aligned (offsets are constants of the ABI); shared memory is only accessed atomically.
        unsafe { AtomicU32::from_ptr(self.at(offset, 4).cast()) }
    }

    #[inline]
    fn word64(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(self.at(offset, 8).cast()) }
    }

    /// The word that both sides wait on.
    #[inline]
    pub fn state(&self) -> &AtomicU32 {
        self.word32(word::STATE)
    }

    /// Asks for the exchange's cache line in advance: the reply will be stored to it. The guest does not look again for
    /// about as long as a short call takes (see `wait_reply` in the shim), so the line stays.
    #[inline]
    pub fn claim(&self) {
        // SAFETY: a hint; it neither faults nor changes anything. Processors without it do nothing.
        unsafe {
            core::arch::asm!("prefetchw [{}]", in(reg) self.state().as_ptr(), options(nostack, preserves_flags));
        }
    }

    /// Any 32-bit word, for operations other than load and store.
    #[inline]
    pub fn atomic(&self, offset: usize) -> &AtomicU32 {
        self.word32(offset)
    }

    #[inline]
    pub fn get32(&self, offset: usize) -> u32 {
        self.word32(offset).load(Ordering::SeqCst)
    }

    #[inline]
    pub fn set32(&self, offset: usize, value: u32) {
        self.word32(offset).store(value, Ordering::Relaxed);
    }

    /// Stores only what is not there yet: the guest reads such a word in every call, and a store would take the
    /// cache line away from it.
    #[inline]
    pub fn keep32(&self, offset: usize, value: u32) {
        let word = self.word32(offset);
        if word.load(Ordering::Relaxed) != value {
            word.store(value, Ordering::Relaxed);
        }
    }

    #[inline]
    pub fn get64(&self, offset: usize) -> u64 {
        self.word64(offset).load(Ordering::Relaxed)
    }

    #[inline]
    pub fn set64(&self, offset: usize, value: u64) {
        self.word64(offset).store(value, Ordering::Relaxed);
    }

    /// The arguments of a call, 16 bytes at a time, as they are handed on: a load that is wider than the store before
    /// has to wait until that store is in the cache.
    #[inline]
    pub fn args(&self) -> [u64; 6] {
        let mut args = MaybeUninit::<[u64; 6]>::uninit();
        // SAFETY: both are valid for the length, which is written whole. Each byte is read once, whatever the guest does.
        unsafe {
            core::arch::asm!(
                "movups {a}, [{from}]",
                "movups {b}, [{from} + 16]",
                "movups {c}, [{from} + 32]",
                "movups [{into}], {a}",
                "movups [{into} + 16], {b}",
                "movups [{into} + 32], {c}",
                from = in(reg) self.at(word::ARGS, 48),
                into = in(reg) args.as_mut_ptr(),
                a = out(xmm_reg) _, b = out(xmm_reg) _, c = out(xmm_reg) _,
                options(nostack, preserves_flags),
            );
            args.assume_init()
        }
    }

    /// Copies out of the port.
    pub fn read(&self, offset: usize, into: &mut [u8]) {
        // SAFETY: both are valid for the length. A guest may write meanwhile; the copy is then garbage of its
        // own making, and is all that is looked at.
        unsafe { std::ptr::copy_nonoverlapping(self.at(offset, into.len()), into.as_mut_ptr(), into.len()) };
    }

    /// Copies into the port.
    pub fn write(&self, offset: usize, from: &[u8]) {
        // SAFETY: both are valid for the length.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), self.at(offset, from.len()), from.len()) };
    }

    /// A piece of the port for the host or a copy to write into.
    pub fn room(&mut self, offset: usize, len: usize) -> &mut [u8] {
        // SAFETY: valid for the length, and `self` is borrowed. It is given out only as a destination: nobody
        // on this side reads it back, so a guest that writes to it at the same time spoils its own output.
        unsafe { std::slice::from_raw_parts_mut(self.at(offset, len), len) }
    }

    /// Whether `[offset, offset + len)` lies in this port.
    pub fn contains(offset: u64, len: u64) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= PORT_SIZE)
    }
}

/// Wakes whoever sleeps on a word.
pub fn wake_word(futex: &AtomicU32) {
    // SAFETY: the word is mapped as long as it is borrowed.
    unsafe { libc::syscall(libc::SYS_futex, futex.as_ptr(), libc::FUTEX_WAKE, i32::MAX, 0, 0, 0) };
}
