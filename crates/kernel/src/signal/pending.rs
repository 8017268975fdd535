//! Queues of pending signals (`struct sigpending` of include/linux/signal_types.h).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{SigInfo, SigSet, Signal};
use crate::{Errno, Result};

/// How many signals are queued, counted against `RLIMIT_SIGPENDING`. Shared by the processes of a user.
#[derive(Clone, Debug, Default)]
pub struct Budget(Arc<AtomicU64>);

impl Budget {
    /// One more, unless that exceeds `limit`.
    pub fn charge(&self, limit: u64) -> Option<Charge> {
        let more = |used: u64| (used < limit).then(|| used + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Charge(self.clone()))
    }

    /// Queued now (`SigQ` of /proc/PID/status).
    pub fn used(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One queued signal's share of the budget.
#[derive(Debug)]
pub struct Charge(Budget);

impl Drop for Charge {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A signal with its story. Without an entry a pending signal has only its number.
#[derive(Debug)]
struct Queued {
    info: SigInfo,
    _charge: Option<Charge>,
    /// Identifies a POSIX timer's entry, which it owns for life.
    timer: Option<u64>,
}

/// Signals sent and not yet taken. Senders choose how many there are, so none is searched for.
#[derive(Debug, Default)]
pub struct Pending {
    set: SigSet,
    /// By signal, in order of arrival.
    queue: BTreeMap<(i32, u64), Queued>,
    /// Places of timers' entries.
    timers: HashMap<u64, (i32, u64)>,
    next: u64,
}

impl Pending {
    /// The signals that are pending.
    pub fn set(&self) -> SigSet {
        self.set
    }

    /// Adds a signal as `__send_signal_locked()` does: a standard one that is pending already is dropped; beyond
    /// the limit a real-time one from `sigqueue` fails with `EAGAIN` and others lose their story.
    pub fn push(&mut self, signal: Signal, info: SigInfo, budget: &Budget, limit: u64) -> Result<()> {
        if !signal.is_realtime() && self.set.has(signal) {
            return Ok(());
        }
        // Kernel-made and kill(2) signals may exceed the limit once each.
        let exempt = !signal.is_realtime() && (info.code >= 0);
        let charge = budget.charge(if exempt { u64::MAX } else { limit });
        if charge.is_some() {
            self.enqueue(signal, Queued { info, _charge: charge, timer: None });
        } else if signal.is_realtime() && info.code != super::info::SI_USER {
            return Err(Errno::EAGAIN);
        }
        self.set = self.set.with(signal);
        Ok(())
    }

    /// Adds the one entry of timer `key`; `false` if it is queued already (the timer then counts an overrun).
    pub fn push_timer(&mut self, signal: Signal, info: SigInfo, key: u64) -> bool {
        if self.timers.contains_key(&key) {
            return false;
        }
        let place = self.enqueue(signal, Queued { info, _charge: None, timer: Some(key) });
        self.timers.insert(key, place);
        self.set = self.set.with(signal);
        true
    }

    /// Takes the next signal of `among`: which, its story, and whose timer it was.
    pub fn take(&mut self, among: SigSet) -> Option<(Signal, SigInfo, Option<u64>)> {
        let signal = self.set.intersection(among).next()?;
        let Some(place) = self.first(signal.number()) else {
            self.set = self.set.minus(SigSet::one(signal));
            // collect_signal(): no story left, so it says user 0, process 0.
            return Some((signal, SigInfo::user(signal, 0, 0), None));
        };
        let queued = self.dequeue(place)?;
        if self.first(signal.number()).is_none() {
            self.set = self.set.minus(SigSet::one(signal));
        }
        Some((signal, queued.info, queued.timer))
    }

    fn enqueue(&mut self, signal: Signal, queued: Queued) -> (i32, u64) {
        let place = (signal.number(), self.next);
        self.next += 1;
        self.queue.insert(place, queued);
        place
    }

    fn dequeue(&mut self, place: (i32, u64)) -> Option<Queued> {
        let queued = self.queue.remove(&place)?;
        if let Some(key) = queued.timer {
            self.timers.remove(&key);
        }
        Some(queued)
    }

    /// The first entry of a signal.
    fn first(&self, number: i32) -> Option<(i32, u64)> {
        self.queue.range((number, 0)..=(number, u64::MAX)).next().map(|(place, _)| *place)
    }

    /// Forgets all signals of `set`.
    pub fn flush(&mut self, set: SigSet) {
        if self.set.intersection(set).is_empty() {
            return;
        }
        self.set = self.set.minus(set);
        let keep = self.set;
        self.queue.retain(|(number, _), _| Signal::new(*number).is_ok_and(|signal| keep.has(signal)));
        self.timers.retain(|_, place| self.queue.contains_key(place));
    }

    /// Forgets the entry of timer `key`, as deleting the timer does.
    pub fn flush_timer(&mut self, key: u64) {
        let Some(place) = self.timers.get(&key).copied() else { return };
        let Some(gone) = self.dequeue(place) else { return };
        if self.first(gone.info.signo).is_none()
            && let Ok(signal) = Signal::new(gone.info.signo)
        {
            self.set = self.set.minus(SigSet::one(signal));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::info::{SI_QUEUE, SI_USER};

    fn rt(number: i32) -> Signal {
        Signal::new(number).unwrap()
    }

    fn queued(signal: Signal, value: u64) -> SigInfo {
        SigInfo::queue(signal, SI_QUEUE, 1, 0, value)
    }

    #[test]
    fn standard_signals_merge_and_keep_the_first_story() {
        let (mut pending, budget) = (Pending::default(), Budget::default());
        pending.push(Signal::SIGUSR1, SigInfo::user(Signal::SIGUSR1, 1, 0), &budget, 10).unwrap();
        pending.push(Signal::SIGUSR1, SigInfo::user(Signal::SIGUSR1, 2, 0), &budget, 10).unwrap();
        assert_eq!(budget.used(), 1);
        let (signal, info, _) = pending.take(SigSet::ALL).unwrap();
        assert_eq!((signal, info.pid()), (Signal::SIGUSR1, 1));
        assert!(pending.take(SigSet::ALL).is_none());
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn realtime_signals_queue_lowest_number_first_and_in_order() {
        let (mut pending, budget) = (Pending::default(), Budget::default());
        for (number, value) in [(40, 1), (35, 2), (40, 3), (35, 4)] {
            pending.push(rt(number), queued(rt(number), value), &budget, 10).unwrap();
        }
        let order: Vec<_> =
            std::iter::from_fn(|| pending.take(SigSet::ALL)).map(|(s, i, _)| (s.number(), i.value())).collect();
        assert_eq!(order, [(35, 2), (35, 4), (40, 1), (40, 3)]);
        assert!(pending.set().is_empty());
    }

    #[test]
    fn beyond_the_limit_sigqueue_fails_and_kill_loses_its_story() {
        let (mut pending, budget) = (Pending::default(), Budget::default());
        pending.push(rt(34), queued(rt(34), 1), &budget, 1).unwrap();
        assert_eq!(pending.push(rt(34), queued(rt(34), 2), &budget, 1), Err(Errno::EAGAIN));
        pending.push(rt(36), SigInfo::user(rt(36), 9, 9), &budget, 1).unwrap();
        pending.take(SigSet::one(rt(34)));
        let (_, info, _) = pending.take(SigSet::ALL).unwrap();
        assert_eq!((info.code, info.pid()), (SI_USER, 0));
        // A standard signal from kill() is always told in full.
        pending.push(rt(34), queued(rt(34), 1), &budget, 1).unwrap();
        pending.push(Signal::SIGTERM, SigInfo::user(Signal::SIGTERM, 9, 9), &budget, 1).unwrap();
        let (_, info, _) = pending.take(SigSet::one(Signal::SIGTERM)).unwrap();
        assert_eq!(info.pid(), 9);
    }

    #[test]
    fn a_timer_has_one_entry() {
        let mut pending = Pending::default();
        let info = SigInfo::timer(Signal::SIGALRM, 1, 0, 0);
        assert!(pending.push_timer(Signal::SIGALRM, info, 1));
        assert!(!pending.push_timer(Signal::SIGALRM, info, 1));
        pending.flush_timer(1);
        assert!(pending.set().is_empty());
    }

    #[test]
    fn flushing_forgets_stories_too() {
        let (mut pending, budget) = (Pending::default(), Budget::default());
        pending.push(rt(34), queued(rt(34), 1), &budget, 9).unwrap();
        pending.push(rt(35), queued(rt(35), 1), &budget, 9).unwrap();
        pending.flush(SigSet::one(rt(34)));
        assert_eq!(budget.used(), 1);
        assert_eq!(pending.take(SigSet::ALL).unwrap().0, rt(35));
    }
}
