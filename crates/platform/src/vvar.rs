//! The memory of the vvar pages, and of the sealed page behind them, and the counter their clocks are made of.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use coracle_abi::port::SEALED_SIZE;
use coracle_abi::vvar::{VVAR_SIZE, Vvar};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// Pages that the kernel process writes and workers can only read: the descriptor is sealed against writing, and
/// only the mapping made before that can.
pub struct VvarMemory {
    file: OwnedFd,
    memory: NonNull<Vvar>,
}

// SAFETY: the mapping belongs to the value until drop, and consists of atomics.
unsafe impl Send for VvarMemory {}
// SAFETY: as above.
unsafe impl Sync for VvarMemory {}

impl VvarMemory {
    /// Fresh pages, all zero: no clock can be read from them yet.
    pub fn new() -> std::io::Result<Arc<VvarMemory>> {
        let file = memfd_create("coracle-vvar", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&file, LEN as u64)?;
        // SAFETY: a new mapping at an address of the host's choice.
        let memory = unsafe {
            let prot = ProtFlags::READ | ProtFlags::WRITE;
            mmap(std::ptr::null_mut(), LEN, prot, MapFlags::SHARED, &file, 0)?
        };
        let memory = NonNull::new(memory.cast()).ok_or(std::io::ErrorKind::OutOfMemory)?;
        let made = Arc::new(VvarMemory { file, memory });
        fcntl_add_seals(
            &made.file,
            SealFlags::GROW | SealFlags::SHRINK | SealFlags::FUTURE_WRITE | SealFlags::SEAL,
        )?;
        Ok(made)
    }

    /// To be mapped by workers, for reading.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// The pages.
    pub fn page(&self) -> &Vvar {
        // SAFETY: mapped, page-aligned, of the type's size, never shrunk (sealed), and nothing but atomics is in use.
        unsafe { self.memory.as_ref() }
    }

    /// Stores words into the sealed page, from word `index` on.
    pub fn seal(&self, index: usize, words: &[u64]) {
        assert!((index + words.len()) * 8 <= SEALED_SIZE as usize, "within the sealed page");
        for (place, word) in (index..).zip(words) {
            // SAFETY: mapped behind the pages of the vvar, of this size, by the assertion; workers may read it meanwhile.
            let at = unsafe { self.memory.as_ptr().cast::<u8>().add(VVAR_SIZE + place * 8) };
            // SAFETY: aligned, as the page is and the index counts words.
            unsafe { AtomicU64::from_ptr(at.cast()) }.store(*word, Ordering::SeqCst);
        }
    }
}

/// The pages of the vvar, and the sealed page.
const LEN: usize = VVAR_SIZE + SEALED_SIZE as usize;

impl Drop for VvarMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`; references to it borrow `self`.
        let _ = unsafe { munmap(self.memory.as_ptr().cast(), LEN) };
    }
}

/// The time stamp counter, read after everything that the program does before (`rdtsc_ordered()`).
#[inline]
pub fn counter() -> u64 {
    // SAFETY: both are part of x86-64. A process that has turned the counter off for itself (PR_SET_TSC) gets SIGSEGV;
    // this one has not.
    unsafe {
        core::arch::x86_64::_mm_lfence();
        core::arch::x86_64::_rdtsc()
    }
}

/// Whether the processor promises a counter of constant speed that never stops (CPUID 0x80000007, EDX bit 8).
/// Asked once: under a hypervisor that costs microseconds.
pub fn counter_is_invariant() -> bool {
    use core::arch::x86_64::__cpuid;
    static INVARIANT: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *INVARIANT.get_or_init(|| __cpuid(0x8000_0000).eax >= 0x8000_0007 && __cpuid(0x8000_0007).edx & (1 << 8) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_can_only_read() {
        let vvar = VvarMemory::new().unwrap();
        vvar.page().random_generation.store(7, Ordering::Relaxed);
        let map = |prot| {
            // SAFETY: a new mapping at an address of the host's choice.
            unsafe { mmap(std::ptr::null_mut(), VVAR_SIZE, prot, MapFlags::SHARED, vvar.fd(), 0) }
        };
        assert!(map(ProtFlags::READ | ProtFlags::WRITE).is_err());
        let seen = map(ProtFlags::READ).unwrap();
        // SAFETY: just mapped, of this size, and made of atomics.
        let page = unsafe { &*seen.cast::<Vvar>() };
        assert_eq!(page.random_generation.load(Ordering::Relaxed), 7);
        // SAFETY: as mapped above; the attempt to make it writable must fail.
        let again = unsafe { rustix::mm::mprotect(seen, VVAR_SIZE, rustix::mm::MprotectFlags::WRITE) };
        assert!(again.is_err());
        // SAFETY: as mapped above, no longer used.
        unsafe { munmap(seen, VVAR_SIZE).unwrap() };
        assert!(rustix::io::pwrite(vvar.fd(), b"x", 0).is_err());
    }

    #[test]
    fn the_counter_counts() {
        let before = counter();
        assert!(counter() > before);
    }
}
