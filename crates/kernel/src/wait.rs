//! The one way to block.
//!
//! Objects own [`WaitQueue`]s and wake them when something may have changed. Whoever waits enters the queues
//! first and looks second, so that no wake-up is lost. A thread waits through [`Waiter::wait`], which also
//! watches host descriptors; `epoll` enters the same queues with a [`Wake`] of its own.
//!
//! Lock order: an object's own lock, then a queue's lock. `Wake::wake` runs without the queue's lock.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::Thread;
use std::time::{Duration, Instant};

use bitflags::bitflags;
use coracle_platform::waiting::{Waiting, count};
use parking_lot::Mutex;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

bitflags! {
    /// Readiness, with the values of `poll(2)` and `epoll_ctl(2)`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Events: u32 {
        const IN = 0x001;
        const PRI = 0x002;
        const OUT = 0x004;
        const ERR = 0x008;
        const HUP = 0x010;
        const NVAL = 0x020;
        const RDNORM = 0x040;
        const RDBAND = 0x080;
        const WRNORM = 0x100;
        const WRBAND = 0x200;
        const RDHUP = 0x2000;
        /// What is reported whether asked for or not.
        const ALWAYS = Self::ERR.bits() | Self::HUP.bits() | Self::NVAL.bits();
        /// Ready to read, with the synonyms Linux reports alongside.
        const READ = Self::IN.bits() | Self::RDNORM.bits();
        /// Ready to write, likewise.
        const WRITE = Self::OUT.bits() | Self::WRNORM.bits();
    }
}

/// Someone to tell that an object may have changed.
pub trait Wake: Send + Sync {
    /// Must not block, and must not take the lock of the object that calls it.
    fn wake(&self);
}

/// A list of waiters that belongs to an object. Clones share the list.
#[derive(Clone, Default)]
pub struct WaitQueue(Arc<Mutex<Entries>>);

#[derive(Default)]
struct Entries {
    places: Vec<Option<Weak<dyn Wake>>>,
    /// Those that are empty.
    free: Vec<usize>,
}

/// A place in a queue; leaving scope leaves the queue.
pub struct Entry {
    queue: WaitQueue,
    place: usize,
}

/// Room for so many waiters stays when all have left.
const FEW: usize = 16;

impl WaitQueue {
    /// An empty queue.
    pub fn new() -> WaitQueue {
        WaitQueue::default()
    }

    /// Tells everybody in the queue.
    pub fn wake_all(&self) {
        // The usual few waiters need no allocation.
        let mut few: [Option<Arc<dyn Wake>>; 4] = [const { None }; 4];
        let mut more = Vec::new();
        {
            let entries = self.0.lock();
            let mut woken = entries.places.iter().flatten().filter_map(Weak::upgrade);
            for (place, wake) in few.iter_mut().zip(&mut woken) {
                *place = Some(wake);
            }
            more.extend(woken);
        }
        for wake in few.into_iter().flatten().chain(more) {
            wake.wake();
        }
    }

    /// Nobody is in the queue.
    pub fn is_empty(&self) -> bool {
        self.0.lock().places.is_empty()
    }

    /// Enters `wake` until the entry is dropped.
    pub fn enter(&self, wake: &Arc<dyn Wake>) -> Entry {
        let wake = Some(Arc::downgrade(wake));
        let mut entries = self.0.lock();
        let free = entries.free.pop();
        let place = match free.and_then(|place| Some((place, entries.places.get_mut(place)?))) {
            Some((place, slot)) => {
                *slot = wake;
                place
            }
            None => {
                entries.places.push(wake);
                entries.places.len() - 1
            }
        };
        drop(entries);
        Entry { queue: self.clone(), place }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut entries = self.queue.0.lock();
        if let Some(slot) = entries.places.get_mut(self.place) {
            *slot = None;
            entries.free.push(self.place);
        }
        if entries.free.len() == entries.places.len() {
            // Nobody is left.
            entries.places.clear();
            entries.free.clear();
            entries.places.shrink_to(FEW);
            entries.free.shrink_to(FEW);
        }
    }
}

/// Passed to `poll` methods: collects where to wait, if the caller means to.
#[derive(Default)]
pub struct PollTable {
    wake: Option<Arc<dyn Wake>>,
    /// What the waiter cares for; `None`: everything.
    interest: Option<Events>,
    entries: Vec<Entry>,
    host: Vec<(Arc<OwnedFd>, Events)>,
}

impl PollTable {
    /// Only looks; nothing is entered anywhere.
    pub fn check() -> PollTable {
        PollTable::default()
    }

    /// Enters `wake` wherever it is told to watch.
    pub fn register(wake: Arc<dyn Wake>) -> PollTable {
        PollTable { wake: Some(wake), ..PollTable::default() }
    }

    /// As `register`, for a waiter that cares for `interest` only (errors always count).
    pub fn register_for(wake: Arc<dyn Wake>, interest: Events) -> PollTable {
        PollTable { wake: Some(wake), interest: Some(interest | Events::ALWAYS), ..PollTable::default() }
    }

    /// From now on the waiter cares for `interest` only (errors always count).
    pub fn set_interest(&mut self, interest: Events) {
        self.interest = Some(interest | Events::ALWAYS);
    }

    /// As `watch`, for a queue that is told of changes of `events` only.
    pub fn watch_for(&mut self, queue: &WaitQueue, events: Events) {
        if self.interest.is_none_or(|interest| interest.intersects(events)) {
            self.watch(queue);
        }
    }

    /// Changes of this object's state are told through `queue`. Call it before looking at the state.
    pub fn watch(&mut self, queue: &WaitQueue) {
        if let Some(wake) = &self.wake {
            self.entries.push(queue.enter(wake));
        }
    }

    /// This object is ready when the host says so about `fd`.
    pub fn watch_host(&mut self, fd: &Arc<OwnedFd>, events: Events) {
        if self.wake.is_some() {
            let events = self.interest.map_or(events, |interest| events & interest);
            self.host.push((fd.clone(), events));
        }
    }

    /// Whether anybody means to wait.
    pub fn registers(&self) -> bool {
        self.wake.is_some()
    }

    /// The host descriptors that were watched, e.g. for `epoll` to put into a host epoll.
    pub fn host(&self) -> &[(Arc<OwnedFd>, Events)] {
        &self.host
    }

    /// Takes the entries over, e.g. for `epoll` to keep them as long as the item lives.
    pub fn into_parts(self) -> (Vec<Entry>, Vec<(Arc<OwnedFd>, Events)>) {
        (self.entries, self.host)
    }
}

/// What the host says about a descriptor right now.
pub fn host_ready(fd: &OwnedFd, interest: Events) -> Events {
    let mut fds = [PollFd::new(fd, PollFlags::from_bits_truncate(interest.bits() as u16))];
    match poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
        Ok(_) => Events::from_bits_truncate(u32::from(fds[0].revents().bits())),
        Err(_) => Events::empty(),
    }
}

/// When to stop waiting: an instant of the host's monotonic clock.
pub type Deadline = Option<Instant>;

/// `now + timeout`; a timeout too far away to express is none.
pub fn deadline_after(timeout: Duration) -> Deadline {
    Instant::now().checked_add(timeout)
}

/// The sleeping place of one kernel thread.
#[derive(Default)]
pub struct Waiter {
    /// Set before the first wait.
    thread: OnceLock<Thread>,
    /// Set by `wake`, taken by `wait`.
    signaled: AtomicBool,
    /// The thread sleeps in `poll(2)` and must be woken through `event`.
    polling: AtomicBool,
    /// The thread sleeps, one way or the other.
    asleep: AtomicBool,
    event: OnceLock<OwnedFd>,
    eagerness: Eagerness,
}

/// Whether to spin for a wake-up before sleeping: waking a thread on another CPU that sleeps costs tens of
/// microseconds, so two that answer each other quickly better stay awake. Only the waiting thread touches it.
#[derive(Default)]
struct Eagerness {
    /// Short waits in a row.
    short: AtomicU32,
    /// So many are needed before it spins, less [`CONVINCED`]; grows with every spin in vain.
    caution: AtomicU32,
}

/// Spin at most this long.
const SPIN: Duration = Duration::from_micros(50);
/// A sleep shorter than this, waking included, might as well have been a spin.
const SHORT: Duration = Duration::from_micros(150);
/// Somebody else had the CPU: there is none to spare.
const PREEMPTED: Duration = Duration::from_micros(100);
const CONVINCED: u32 = 4;
const MOST_CAUTIOUS: u32 = 1 << 12;

impl Eagerness {
    fn is_eager(&self) -> bool {
        let needed = CONVINCED.saturating_add(self.caution.load(Ordering::Relaxed));
        self.short.load(Ordering::Relaxed) >= needed
    }

    fn slept(&self, time: Duration) {
        let short = if time < SHORT { self.short.load(Ordering::Relaxed).saturating_add(1) } else { 0 };
        self.short.store(short, Ordering::Relaxed);
    }

    fn spun(&self, woken: bool) {
        let caution = self.caution.load(Ordering::Relaxed);
        if woken {
            self.caution.store(caution.saturating_sub(1), Ordering::Relaxed);
        } else {
            self.short.store(0, Ordering::Relaxed);
            let more = caution.saturating_mul(2).clamp(CONVINCED, MOST_CAUTIOUS);
            self.caution.store(more, Ordering::Relaxed);
        }
    }
}

impl Waiter {
    /// The waiter of the calling thread; only that thread may `wait` on it.
    pub fn current() -> Arc<Waiter> {
        let waiter = Waiter::unbound();
        waiter.bind();
        waiter
    }

    /// The waiter of a thread that is yet to come; wakes until then are kept.
    pub fn unbound() -> Arc<Waiter> {
        Arc::default()
    }

    /// Its thread sleeps: the task's state is `S`.
    pub fn asleep(&self) -> bool {
        self.asleep.load(Ordering::Relaxed)
    }

    /// Makes it the waiter of the calling thread, once. A waker sets `signaled` and then looks for the thread;
    /// the thread is set here before `signaled` is first looked at.
    pub fn bind(&self) {
        let _ = self.thread.set(std::thread::current());
        std::sync::atomic::fence(Ordering::SeqCst);
    }

    /// Sleeps until woken, until one of `host` is ready, or until the deadline. May return early.
    pub fn wait(&self, host: &[(Arc<OwnedFd>, Events)], deadline: Deadline) {
        if self.signaled.swap(false, Ordering::SeqCst) {
            return;
        }
        let start = Instant::now();
        let left = deadline.map(|at| at.saturating_duration_since(start));
        // A waker sets `signaled` and then looks at `asleep`: either it sees this or the signal is seen below.
        self.asleep.store(true, Ordering::SeqCst);
        if host.is_empty() {
            if !self.signaled.load(Ordering::SeqCst) {
                match left {
                    None => std::thread::park(),
                    Some(left) => std::thread::park_timeout(left),
                }
            }
        } else {
            self.poll_host(host, left);
        }
        self.asleep.store(false, Ordering::Relaxed);
        self.signaled.store(false, Ordering::SeqCst);
        if deadline.is_none() {
            self.eagerness.slept(start.elapsed());
        }
    }

    /// Before a `wait` without a deadline: spins a little, if that paid off lately and `alone` says that the guest
    /// thread that is served does not spin, too. `true`: woken.
    pub fn spin(&self, waiting: &Waiting, alone: impl FnOnce() -> bool) -> bool {
        if !self.eagerness.is_eager() || !waiting.has_room() || !alone() {
            count(&waiting.counts.wait_slept);
            return false;
        }
        let Some(_spinner) = waiting.spin() else { return false };
        let woken = self.spin_a_while();
        count(if woken { &waiting.counts.wait_spun } else { &waiting.counts.wait_vain });
        self.eagerness.spun(woken);
        woken
    }

    fn spin_a_while(&self) -> bool {
        let start = Instant::now();
        let mut last = start;
        loop {
            for _ in 0..8 {
                if self.signaled.load(Ordering::Acquire) {
                    return self.signaled.swap(false, Ordering::SeqCst);
                }
                std::hint::spin_loop();
            }
            let now = Instant::now();
            if now - last > PREEMPTED || now - start > SPIN {
                return false;
            }
            last = now;
        }
    }

    /// 1. `polling` is set. 2. `signaled` is looked at. 3. the host is polled. A waker sets `signaled` and then
    ///    looks at `polling`: either 2 sees the signal or the waker sees 1 and writes to the event.
    fn poll_host(&self, host: &[(Arc<OwnedFd>, Events)], left: Option<Duration>) {
        let Some(event) = self.event() else { return };
        self.polling.store(true, Ordering::SeqCst);
        if !self.signaled.load(Ordering::SeqCst) {
            let mut fds: Vec<PollFd<'_>> = vec![PollFd::new(event, PollFlags::IN)];
            fds.extend(host.iter().map(|(fd, events)| {
                PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::from_bits_truncate(events.bits() as u16))
            }));
            let timeout = left.map(|left| Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            });
            // A failing poll is an early return; the caller looks again.
            let _ = poll(&mut fds, timeout.as_ref());
        }
        self.polling.store(false, Ordering::SeqCst);
        let _ = rustix::io::read(event, &mut [0; 8]);
    }

    fn event(&self) -> Option<&OwnedFd> {
        if self.event.get().is_none() {
            match eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK) {
                Ok(fd) => _ = self.event.set(fd),
                Err(error) => {
                    log::warn!("no eventfd to wait with: {error}");
                    std::thread::park_timeout(Duration::from_millis(1));
                    return None;
                }
            }
        }
        self.event.get()
    }
}

impl Wake for Waiter {
    fn wake(&self) {
        if self.signaled.swap(true, Ordering::SeqCst) {
            return;
        }
        if self.polling.load(Ordering::SeqCst)
            && let Some(event) = self.event.get()
        {
            let _ = rustix::io::write(event, &1u64.to_ne_bytes());
        }
        if self.asleep.load(Ordering::SeqCst)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wake_before_the_wait_is_not_lost() {
        let waiter = Waiter::current();
        waiter.wake();
        waiter.wait(&[], None);
    }

    #[test]
    fn a_wake_reaches_a_thread_that_polls_the_host() {
        let (reader, _writer) = rustix::pipe::pipe().unwrap();
        let waiter = Waiter::current();
        let queue = WaitQueue::new();
        let wake: Arc<dyn Wake> = waiter.clone();
        let _entry = queue.enter(&wake);
        let remote = queue.clone();
        let other = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            remote.wake_all();
        });
        let start = Instant::now();
        waiter.wait(&[(Arc::new(reader), Events::IN)], deadline_after(Duration::from_secs(20)));
        assert!(start.elapsed() < Duration::from_secs(10));
        other.join().unwrap();
    }

    #[test]
    fn who_sleeps_in_vain_grows_cautious() {
        let eagerness = Eagerness::default();
        assert!(!eagerness.is_eager());
        (0..CONVINCED).for_each(|_| eagerness.slept(Duration::from_micros(20)));
        assert!(eagerness.is_eager());
        eagerness.spun(false);
        assert!(!eagerness.is_eager());
        (0..CONVINCED).for_each(|_| eagerness.slept(Duration::from_micros(20)));
        assert!(!eagerness.is_eager());
        (0..CONVINCED).for_each(|_| eagerness.slept(Duration::from_micros(20)));
        assert!(eagerness.is_eager());
        eagerness.slept(Duration::from_millis(2));
        assert!(!eagerness.is_eager());
        (0..20).for_each(|_| eagerness.spun(false));
        assert_eq!(eagerness.caution.load(Ordering::Relaxed), MOST_CAUTIOUS);
    }

    /// Two threads wake each other in every way the waiter may be waiting: none of the wakes is lost.
    #[test]
    fn wakes_reach_spinners_and_sleepers() {
        let (here, there) = (Waiter::current(), Waiter::unbound());
        let turn = Arc::new(AtomicU32::new(0));
        let waiting = Arc::new(Waiting::default());
        fn await_turn(waiting: &Waiting, waiter: &Waiter, turn: &AtomicU32, mine: u32) {
            while turn.load(Ordering::SeqCst) != mine {
                if !waiter.spin(waiting, || true) {
                    waiter.wait(&[], None);
                }
            }
        }
        let other = {
            let (here, there, turn, waiting) = (here.clone(), there.clone(), turn.clone(), waiting.clone());
            std::thread::spawn(move || {
                there.bind();
                for round in 0..20_000 {
                    await_turn(&waiting, &there, &turn, 2 * round + 1);
                    turn.store(2 * round + 2, Ordering::SeqCst);
                    here.wake();
                }
            })
        };
        for round in 0..20_000 {
            turn.store(2 * round + 1, Ordering::SeqCst);
            there.wake();
            await_turn(&waiting, &here, &turn, 2 * round + 2);
        }
        other.join().unwrap();
    }

    #[test]
    fn leaving_a_queue_leaves_nothing_behind() {
        let queue = WaitQueue::new();
        let wake: Arc<dyn Wake> = Waiter::current();
        for _ in 0..1000 {
            drop(queue.enter(&wake));
        }
        assert!(queue.is_empty());
    }

    #[test]
    fn a_queue_of_many_is_left_by_each_at_once() {
        struct Counts(AtomicU32);
        impl Wake for Counts {
            fn wake(&self) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let (queue, begun) = (WaitQueue::new(), Instant::now());
        let counts = Arc::new(Counts(AtomicU32::new(0)));
        let wake: Arc<dyn Wake> = counts.clone();
        let mut entries: Vec<_> = (0..200_000).map(|_| queue.enter(&wake)).collect();
        queue.wake_all();
        assert_eq!(counts.0.load(Ordering::Relaxed), 200_000);
        // From the front, and others come in their places.
        for _ in 0..100_000 {
            let first = entries.swap_remove(0);
            drop(first);
        }
        entries.extend((0..100_000).map(|_| queue.enter(&wake)));
        queue.wake_all();
        assert_eq!(counts.0.load(Ordering::Relaxed), 400_000);
        drop(entries);
        assert!(queue.is_empty() && begun.elapsed() < Duration::from_secs(20));
        assert!(queue.0.lock().places.capacity() <= FEW);
    }
}
