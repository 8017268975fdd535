//! Memory that is written once and can only be read from then on.
//!
//! What was decided before a guest ran, and is never to change, lies in a static: its address is in the code, so there is no
//! pointer to it that could be turned elsewhere, and its pages are made read-only and sealed (`mseal`, Linux 6.10). Who
//! can write to a process's memory through a fault in it cannot write there.

use std::cell::UnsafeCell;
use std::io;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU32, Ordering};

/// A value in pages of its own. To be used as a `static`.
#[repr(C, align(4096))]
pub struct Sealed<T> {
    /// [`EMPTY`], [`WRITING`] or [`SET`]; it is sealed together with the value.
    state: AtomicU32,
    value: UnsafeCell<MaybeUninit<T>>,
}

const EMPTY: u32 = 0;
const WRITING: u32 = 1;
const SET: u32 = 2;

// SAFETY: the value is written once, by whoever has changed `state` from EMPTY, and read only after that is over.
unsafe impl<T: Copy + Send + Sync> Sync for Sealed<T> {}

impl<T: Copy + Send + Sync> Sealed<T> {
    /// Nothing yet.
    pub const fn new() -> Sealed<T> {
        Sealed { state: AtomicU32::new(EMPTY), value: UnsafeCell::new(MaybeUninit::uninit()) }
    }

    /// The value, once there is one.
    #[inline]
    pub fn get(&'static self) -> Option<&'static T> {
        // SAFETY: written before the state said so, and never again.
        (self.state.load(Ordering::Acquire) == SET).then(|| unsafe { (*self.value.get()).assume_init_ref() })
    }

    /// Stores the value for good. `AlreadyExists` if there is one.
    pub fn seal(&'static self, value: T) -> io::Result<()> {
        // A load first: exchanging is a store, for which the page may be read-only by now.
        if self.state.load(Ordering::Acquire) != EMPTY
            || self.state.compare_exchange(EMPTY, WRITING, Ordering::Acquire, Ordering::Relaxed).is_err()
        {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        // SAFETY: nobody reads before the state says so, and nobody else writes.
        unsafe { (*self.value.get()).write(value) };
        self.state.store(SET, Ordering::Release);
        let (at, len) = (std::ptr::from_ref(self).cast_mut(), size_of::<Sealed<T>>());
        // SAFETY: whole pages that nothing else is in, by the alignment, and that nobody writes to any more.
        if unsafe { libc::mprotect(at.cast(), len, libc::PROT_READ) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: forbids changes of these pages' protection and place. Older hosts do not know the call.
        unsafe { libc::syscall(SYS_MSEAL, at, len, 0) };
        Ok(())
    }
}

impl<T: Copy + Send + Sync> Default for Sealed<T> {
    fn default() -> Self {
        Sealed::new()
    }
}

/// mseal(2).
const SYS_MSEAL: libc::c_long = 462;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_stays() {
        static PLACE: Sealed<[u64; 700]> = Sealed::new();
        assert!(PLACE.get().is_none());
        PLACE.seal([7; 700]).unwrap();
        assert_eq!(PLACE.get(), Some(&[7; 700]));
        assert_eq!(PLACE.seal([8; 700]).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        let at = std::ptr::from_ref(PLACE.get().unwrap()) as usize;
        let (page, len) = (at & !4095, size_of::<Sealed<[u64; 700]>>());
        assert_eq!(len, 8192);
        // A host call that writes there fails, as a store would be a fault.
        let zeros = rustix::pipe::pipe().unwrap();
        rustix::io::write(&zeros.1, &[0; 8]).unwrap();
        // SAFETY: an address and a length that the host checks.
        let read = unsafe { libc::read(std::os::fd::AsRawFd::as_raw_fd(&zeros.0), at as *mut _, 8) };
        assert_eq!((read, io::Error::last_os_error().raw_os_error()), (-1, Some(libc::EFAULT)));
        // SAFETY: the attempt must fail where the host has mseal; else the page is writable again, and unused.
        let undone = unsafe { libc::mprotect(page as *mut _, len, libc::PROT_READ | libc::PROT_WRITE) };
        // SAFETY: asks about an address that is not mapped.
        let known = unsafe { libc::syscall(SYS_MSEAL, 0, 0, 0) } == 0;
        assert_eq!(undone, if known { -1 } else { 0 });
        assert_eq!(PLACE.get().unwrap()[699], 7);
    }
}
