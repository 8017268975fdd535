//! How much of something a sandbox has, where Linux counts it per user: what guests make costs memory of the kernel
//! process, and being root inside is no right to more of it.

use std::sync::atomic::{AtomicU64, Ordering};

/// A count with a limit that is given when more is taken.
#[derive(Debug, Default)]
pub struct Quota(AtomicU64);

impl Quota {
    /// Takes `amount` if there are no more than `limit` then.
    pub fn take(&self, amount: u64, limit: u64) -> bool {
        let more = |used: u64| used.checked_add(amount).filter(|sum| *sum <= limit);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// Takes `amount` whatever there is.
    pub fn take_anyway(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// Gives `amount` back.
    pub fn give(&self, amount: u64) {
        self.0.fetch_sub(amount, Ordering::Relaxed);
    }

    /// What is in use.
    pub fn used(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_limit() {
        let quota = Quota::default();
        assert!(quota.take(3, 4) && !quota.take(2, 4) && quota.take(1, 4));
        quota.take_anyway(5);
        assert!(!quota.take(u64::MAX, u64::MAX));
        quota.give(9);
        assert_eq!(quota.used(), 0);
    }
}
