//! Data that one writer changes while others read it, without a lock and without a wait.
//!
//! The writer makes the sequence number odd, writes, and makes it even again. A reader reads the number, the data and
//! the number again: if it was odd or has changed, what was read may be a mixture, and is thrown away. The payload
//! consists of relaxed atomic words, so that a mixture is all that can come of a race (H. Boehm, "Can seqlocks get
//! along with programming language memory models?", 2012).
//!
//! Readers never wait: an attempt fails, and so do bounded many. A writer that dies in the middle leaves the number
//! odd, hence the cell shut, until another writer has written all of it.
//!
//! Generic over the words, so that guest, kernel and the model checker (`tests/models.rs`) run this one code.

use core::sync::atomic::{AtomicU64, Ordering, compiler_fence, fence};

/// An atomic 64-bit word.
pub trait Word {
    fn load(&self, order: Ordering) -> u64;
    fn store(&self, value: u64, order: Ordering);
    /// A fence for words of this kind.
    fn fence(order: Ordering);
    /// Between two attempts.
    fn relax();
}

impl Word for AtomicU64 {
    #[inline(always)]
    fn load(&self, order: Ordering) -> u64 {
        AtomicU64::load(self, order)
    }

    #[inline(always)]
    fn store(&self, value: u64, order: Ordering) {
        AtomicU64::store(self, value, order);
    }

    #[inline(always)]
    fn fence(order: Ordering) {
        fence(order);
    }

    #[inline(always)]
    fn relax() {
        // Keeps the loop a loop; the bound is counted in attempts.
        compiler_fence(Ordering::SeqCst);
        core::hint::spin_loop();
    }
}

/// `N` words behind a sequence number. All zero is a valid cell.
#[repr(C)]
pub struct SeqCell<A, const N: usize> {
    sequence: A,
    words: [A; N],
}

/// The words of a cell as a reader sees them: to be believed only if the attempt succeeds.
pub struct Reading<'a, A, const N: usize>(&'a [A; N]);

/// A cell that is being written. Readers are shut out until [`Writing::finish`]; if it never comes (the writer died,
/// or dropped this), until the next writer finishes.
#[must_use = "a cell that is not finished stays shut"]
pub struct Writing<'a, A: Word, const N: usize> {
    cell: &'a SeqCell<A, N>,
    odd: u64,
}

impl<A: Word, const N: usize> SeqCell<A, N> {
    /// A cell of these words.
    pub const fn new(sequence: A, words: [A; N]) -> SeqCell<A, N> {
        SeqCell { sequence, words }
    }

    /// One attempt. `take` may see a mixture and must put up with it; its result counts only if this returns it.
    #[inline(always)]
    pub fn try_read<T>(&self, take: impl FnOnce(Reading<'_, A, N>) -> T) -> Option<T> {
        let before = self.sequence.load(Ordering::Acquire);
        let taken = take(Reading(&self.words));
        // The loads of the data stay before the second load of the number.
        A::fence(Ordering::Acquire);
        let after = self.sequence.load(Ordering::Relaxed);
        if before & 1 == 0 && before == after { Some(taken) } else { None }
    }

    /// At most `tries` attempts.
    #[inline]
    pub fn read<T>(&self, tries: u32, mut take: impl FnMut(Reading<'_, A, N>) -> T) -> Option<T> {
        for _ in 0..tries {
            if let Some(taken) = self.try_read(&mut take) {
                return Some(taken);
            }
            A::relax();
        }
        None
    }

    /// Shuts readers out. One writer at a time: whoever owns the cell sees to that. On return the odd number is
    /// visible to all, before anything that this thread does next, so that a counter read from now on is later than
    /// any counter a successful reader of the old data has read before it looked at the number.
    pub fn begin(&self) -> Writing<'_, A, N> {
        // Odd already: the last writer died. Its number was never accepted by anybody and can be taken over.
        let odd = self.sequence.load(Ordering::Relaxed) | 1;
        self.sequence.store(odd, Ordering::Relaxed);
        A::fence(Ordering::SeqCst);
        Writing { cell: self, odd }
    }

    /// Goes on with a cell that was shut by [`SeqCell::begin`] and not finished.
    pub fn resume(&self) -> Writing<'_, A, N> {
        Writing { cell: self, odd: self.sequence.load(Ordering::Relaxed) | 1 }
    }
}

impl<A: Word, const N: usize> Reading<'_, A, N> {
    /// A word.
    #[inline(always)]
    pub fn get<const I: usize>(&self) -> u64 {
        const { assert!(I < N) };
        self.0[I].load(Ordering::Relaxed)
    }
}

impl<A: Word, const N: usize> Writing<'_, A, N> {
    /// Replaces a word.
    pub fn set<const I: usize>(&self, value: u64) {
        const { assert!(I < N) };
        self.cell.words[I].store(value, Ordering::Relaxed);
    }

    /// A word as it is: what the last writer left.
    pub fn get<const I: usize>(&self) -> u64 {
        const { assert!(I < N) };
        self.cell.words[I].load(Ordering::Relaxed)
    }

    /// Lets readers in again.
    pub fn finish(self) {
        self.cell.sequence.store(self.odd.wrapping_add(1), Ordering::Release);
    }
}
