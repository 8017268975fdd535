//! How the threads of the kernel wait, for guests and for each other: what all waits of a sandbox share.
//!
//! Spinning is worth a processor only while one is to spare, whatever is waited for. So there is one budget for all
//! waits: at most one thread fewer than there are processors spins at a time, because those who are waited for need
//! room.

use std::os::unix::thread::JoinHandleExt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

/// Whether to spin, for measurements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Where that pays.
    #[default]
    Adaptive,
    Spin,
    Sleep,
}

/// Shared by all waits of a sandbox.
pub struct Waiting {
    policy: Policy,
    allowed: CpuSet,
    cpus: u32,
    spinners: AtomicU32,
    /// One instant on two clocks, to learn the counter's speed from; and that, once it is known.
    since: (Instant, u64),
    ticks_per_us: AtomicU32,
    pub counts: Counts,
}

/// How waits ended that did not end at once, for `--stats`. A counter that all threads share costs something, so
/// spins that were won, which is to say most calls, are not in here.
#[derive(Default)]
pub struct Counts {
    /// A kernel thread slept until its guest's next request: after spinning, for want of a processor to spin on, or
    /// because spinning does not pay.
    pub slept: AtomicU64,
    /// A spin for a guest's request in vain.
    pub vain: AtomicU64,
    /// A spinning thread had lost its processor to somebody else.
    pub displaced: AtomicU64,
    /// There was no processor to spare.
    pub crowded: AtomicU64,
    /// Spinning was given up, and taken up again, for a guest thread.
    pub given_up: AtomicU64,
    pub taken_up: AtomicU64,
    /// A kernel thread confined itself to other processors than before.
    pub bound: AtomicU64,
    /// A guest thread slept until the reply.
    pub guest_slept: AtomicU64,
    /// Waits for objects: slept, ended by spinning, and spins in vain.
    pub wait_slept: AtomicU64,
    pub wait_spun: AtomicU64,
    pub wait_vain: AtomicU64,
}

/// One more.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Leave to spin, until it is dropped.
pub struct Spinner<'a>(&'a AtomicU32);

impl Drop for Spinner<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Default for Waiting {
    fn default() -> Waiting {
        Waiting::new(Policy::Adaptive)
    }
}

impl Waiting {
    /// To be made before any thread of this process confines itself to some of its processors.
    pub fn new(policy: Policy) -> Waiting {
        let allowed = sched_getaffinity(None).unwrap_or_default();
        Waiting {
            policy,
            cpus: allowed.count(),
            allowed,
            spinners: AtomicU32::new(0),
            since: (Instant::now(), ticks()),
            ticks_per_us: AtomicU32::new(0),
            counts: Counts::default(),
        }
    }

    #[inline]
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// Processors that this process may use.
    pub fn cpus(&self) -> u32 {
        self.cpus
    }

    /// Which they are.
    pub fn allowed(&self) -> &CpuSet {
        &self.allowed
    }

    /// There is a processor to spin on, as far as one can tell without asking for it.
    #[inline]
    pub fn has_room(&self) -> bool {
        self.spinners.load(Ordering::Relaxed) + 1 < self.cpus
    }

    /// Puts a new thread on another processor than the caller's. Linux leaves it behind who has made it, and it waits
    /// there although another is idle, until the caller sleeps. It is to call [`Waiting::anywhere`] once it runs.
    pub fn place_beside<T>(&self, thread: &JoinHandle<T>) {
        let mut others = self.allowed;
        others.unset(sched_getcpu());
        if others.count() > 0 {
            let size = std::mem::size_of_val(&others);
            // SAFETY: the handle keeps the thread's number valid, ended or not; `CpuSet` has the layout of `cpu_set_t`.
            // It is about speed only: a failure changes nothing.
            unsafe { libc::pthread_setaffinity_np(thread.as_pthread_t(), size, (&raw const others).cast()) };
        }
    }

    /// The calling thread runs on all processors again that this process may use.
    pub fn anywhere(&self) {
        let _ = sched_setaffinity(None, &self.allowed);
    }

    /// Leave to spin, if there is a processor to spare.
    pub fn spin(&self) -> Option<Spinner<'_>> {
        let others = self.spinners.fetch_add(1, Ordering::Relaxed);
        let spinner = Spinner(&self.spinners);
        (others + 1 < self.cpus).then_some(spinner)
    }

    /// Looks for something that is about to happen, as long as waking a sleeping processor up takes a few times over;
    /// `false` if it has not happened yet. What each look costs is up to the caller.
    pub fn look(&self, happened: impl Fn() -> bool) -> bool {
        const LONG: Duration = Duration::from_micros(300);
        let leave = if self.policy == Policy::Sleep { None } else { self.spin() };
        let start = Instant::now();
        loop {
            if happened() {
                return true;
            }
            if leave.is_none() || start.elapsed() > LONG {
                return false;
            }
            std::hint::spin_loop();
        }
    }

    /// A duration in ticks of the time stamp counter. A rough figure, good enough for bounds.
    #[inline]
    pub fn ticks_in(&self, time: Duration) -> u64 {
        let mut rate = self.ticks_per_us.load(Ordering::Relaxed);
        if rate == 0 {
            rate = self.measure();
            self.ticks_per_us.store(rate, Ordering::Relaxed);
        }
        (time.as_micros() as u64).saturating_mul(u64::from(rate))
    }

    /// Usually the sandbox has been starting long enough for this to be known at once.
    fn measure(&self) -> u32 {
        let (start, from) = self.since;
        loop {
            let (elapsed, passed) = (start.elapsed(), ticks().wrapping_sub(from));
            if elapsed >= Duration::from_micros(50) {
                let rate = u128::from(passed) * 1000 / elapsed.as_nanos();
                return u32::try_from(rate).unwrap_or(u32::MAX).max(1);
            }
            std::hint::spin_loop();
        }
    }
}

/// The time stamp counter.
#[inline]
pub fn ticks() -> u64 {
    // SAFETY: RDTSC is available to user space on every host this runs on (the shim uses it too).
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn waiting(cpus: u32) -> Waiting {
        Waiting { cpus, ..Waiting::default() }
    }

    #[test]
    fn one_processor_stays_free() {
        let waiting = waiting(3);
        let (first, second) = (waiting.spin(), waiting.spin());
        assert!(first.is_some() && second.is_some() && !waiting.has_room());
        assert!(waiting.spin().is_none());
        drop(first);
        assert!(waiting.has_room() && waiting.spin().is_some());
    }

    #[test]
    fn nobody_spins_on_the_only_processor() {
        let waiting = waiting(1);
        assert!(!waiting.has_room() && waiting.spin().is_none());
    }

    #[test]
    fn a_thread_is_placed_beside_and_free_again() {
        let waiting = Arc::new(Waiting::default());
        let (own, (go, told)) = (waiting.clone(), std::sync::mpsc::channel());
        let thread = std::thread::spawn(move || {
            told.recv().unwrap();
            let placed = sched_getaffinity(None).unwrap();
            own.anywhere();
            (placed, sched_getaffinity(None).unwrap())
        });
        waiting.place_beside(&thread);
        go.send(()).unwrap();
        let (placed, after) = thread.join().unwrap();
        assert_eq!(placed.count(), if waiting.cpus() > 1 { waiting.cpus() - 1 } else { 1 });
        assert_eq!(after.count(), waiting.cpus());
    }

    #[test]
    fn the_counter_has_a_speed() {
        let waiting = Waiting::default();
        let (start, from) = (Instant::now(), ticks());
        std::thread::sleep(Duration::from_millis(20));
        let passed = ticks().wrapping_sub(from);
        // Both clocks were read one after the other, so the bound is loose.
        assert!(waiting.ticks_in(start.elapsed()) > passed / 2);
    }
}
