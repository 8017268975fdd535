//! How a kernel thread waits for its guest: spin or sleep.
//!
//! Spinning on both sides makes a call cost 0.1 us; spinning while both share one processor makes it cost the
//! whole spin. So the kernel spins only while its guest runs on another CPU, and only as long as that paid off
//! lately; otherwise it sleeps at once, on the guest's own CPU, where waking it is cheapest.
//!
//! Sleeping must not be a trap. Three things look like a guest that makes no calls, and are not:
//!
//! 1. A guest that slept takes tens of microseconds to wake up for the reply. That time is not the guest's own
//!    ([`Pace::sleep`]), and a spin outlasts it ([`WAKING`]).
//! 2. Guest and kernel may take turns on one CPU, each waking the other up and giving way to it, while another CPU is
//!    free: the next request is always there already, and nobody ever comes to spin. So a kernel thread that finds
//!    itself on its guest's CPU leaves it ([`Pace::leave`]), and finding a request there counts as evidence.
//! 3. Time that the hypervisor took is not lost to another thread ([`Pace::is_crowded_out`]).

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use coracle_abi::port::{POSTED, REPLIED, TURN, word};
use coracle_platform::Waiting;
use coracle_platform::waiting::{Policy, count, ticks};
use rustix::thread::CpuSet;

use super::ports::{Port, wake_word};

/// Spin at most this long for the next request.
const SPIN: Duration = Duration::from_micros(50);
/// Looks for the next request before anything is measured or counted: about what a short call takes in the guest.
const EAGER: u32 = 1000;
/// Before that it pauses so often (some 26 ns each): no guest comes back sooner from a reply.
const SETTLING: u32 = 2;
/// What a guest that slept may take to wake up, in addition: on a CPU that was halted under a hypervisor 60 us are
/// usual. Without this who slept once would be found sleeping ever after.
const WAKING: Duration = Duration::from_micros(150);
/// Before the first call of a program, which has libraries to look at and the processor to ask. That spin costs nothing
/// if it is in vain, since it says nothing about the next.
const BEGINNING: Duration = Duration::from_micros(400);
/// A spinning thread that sees the clock jump so far had lost its CPU: to the hypervisor, or to another thread.
const PREEMPTED: Duration = Duration::from_micros(100);
/// Losing it to another thread twice within this time means that there is none to spare.
const CONTENDED: Duration = Duration::from_millis(20);
/// A thread that has shared the guest's CPU for so many replies in a row moves away to spin beside it; not more often
/// than this, for elsewhere it may have to wait for a CPU.
const SHARED: u32 = 32;
const SETTLED: Duration = Duration::from_millis(10);
/// A guest spins at most this many `pause`s (about 26 ns each) for a reply, and so few where it spun in vain.
const GUEST_SPIN: u32 = 2000;
const GUEST_SPIN_LEAST: u32 = 60;
/// What a spin that is won saves, in microseconds; saved up, at most so much may be lost by spins in vain. So who is
/// answered soon at one call and late at the next, as two that take turns are, does not spin for ever.
const GAIN: u32 = 10;
const SAVED: u32 = 400;
/// While sleeping, a request this soon after the reply arrived would have been worth a spin.
const HOT: Duration = Duration::from_micros(30);
/// So many such requests in a row, and spinning is tried again; up to so many, where it had hardly begun to pay when
/// it was given up: there may be no processor to spare.
const CONVINCED: u32 = 8;
const RELUCTANT: u32 = 64;
/// So many spins won are more than a beginning.
const PAID: u32 = 64;

/// The guest has not said yet where it runs.
pub const CPU_UNKNOWN: u32 = u32::MAX;

/// Where a kernel thread lets itself run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bound {
    /// Wherever the thread that made this one was.
    Inherited,
    /// On this CPU, the guest's, to sleep there.
    With(u32),
    /// On any but this CPU, to spin beside the guest.
    Apart(u32),
}

/// State of one thread's waiting.
pub struct Pace {
    waiting: Arc<Waiting>,
    has_rdpid: bool,
    /// Spinning pays off, as far as is known.
    hot: bool,
    /// While spinning pays off: microseconds saved up, and spins won.
    saved: u32,
    won: u32,
    /// While it does not: requests in a row that a spin would have caught, and how many it takes to try again.
    evidence: u32,
    needed: u32,
    /// Time stamp of the last reply, while sleeping pays off.
    replied: u64,
    /// When a spin last looked at the clock.
    looked: u64,
    /// Involuntary context switches of this thread, as last asked for.
    switches: Option<i64>,
    /// When it last lost its CPU, and when it last left its guest's.
    displaced: Option<u64>,
    moved: Option<u64>,
    /// Replies in a row that it gave on its guest's CPU.
    shared: u32,
    /// The guest slept when it got the last reply.
    woken: bool,
    /// A program is about to make its first call.
    begins: bool,
    /// How many `pause`s the guest may spin.
    guest_spin: u32,
    /// Time stamp of the present request, while the guest may spin less than it could.
    arrived: u64,
    /// How often to look before giving the next request up; without it there is no end.
    looks: Option<u32>,
}

thread_local! {
    /// Where the calling thread has confined itself to; it may serve one guest thread after another.
    static BOUND: Cell<Bound> = const { Cell::new(Bound::Inherited) };
}

impl Pace {
    /// A program begins with many calls: spin.
    pub fn new(waiting: Arc<Waiting>, has_rdpid: bool) -> Pace {
        Pace {
            waiting,
            has_rdpid,
            hot: true,
            saved: SAVED,
            won: 0,
            evidence: 0,
            needed: CONVINCED,
            replied: 0,
            looked: 0,
            switches: None,
            displaced: None,
            moved: None,
            shared: 0,
            woken: true,
            begins: false,
            guest_spin: GUEST_SPIN,
            arrived: 0,
            looks: None,
        }
    }

    /// The next request is the first of a new program.
    pub fn program_begins(&mut self) {
        self.begins = true;
    }

    /// Right after a reply, which a guest that spins sees already: says where this thread runs and how long the guest
    /// may spin next time, and wakes a guest up that sleeps.
    pub fn replied(&mut self, port: &Port) {
        if !self.hot {
            self.replied = ticks();
        }
        let cpu = self.current_cpu();
        self.shared = if cpu == port.get32(word::GUEST_CPU) { self.shared + 1 } else { 0 };
        if self.shared >= SHARED {
            self.shared = 0;
            self.leave(cpu);
        }
        self.woken = port.get32(word::GUEST_SLEEPS) != 0;
        if self.woken || self.guest_spin != GUEST_SPIN {
            self.adapt_guest_spin();
        }
        self.announce(port);
        // Last, for it may take this thread's CPU.
        if self.woken {
            count(&self.waiting.counts.guest_slept);
            wake_word(port.state());
        }
    }

    /// Says where this thread runs and how long the guest may spin.
    pub fn announce(&self, port: &Port) {
        port.keep32(word::KERNEL_CPU, self.current_cpu());
        let spin = match self.waiting.policy() {
            Policy::Sleep => 0,
            Policy::Spin => GUEST_SPIN,
            Policy::Adaptive => self.guest_spin,
        };
        port.keep32(word::SPIN, spin);
    }

    /// A guest that slept should have done so sooner, or, if the reply came in time, should have spun longer: after
    /// calls that block it spins little, after short ones as long as it takes.
    fn adapt_guest_spin(&mut self) {
        let late = || ticks().wrapping_sub(self.arrived) > self.waiting.ticks_in(SPIN);
        self.guest_spin = match self.woken && (self.guest_spin == GUEST_SPIN || late()) {
            true => (self.guest_spin / 4).max(GUEST_SPIN_LEAST),
            false => (self.guest_spin * 2).min(GUEST_SPIN),
        };
    }

    /// Takes this thread off its guest's CPU, if it spins. Found there with the next request waiting already, as it is
    /// when guest and kernel wake each other up in turns, it would never come to spin.
    #[cold]
    fn leave(&mut self, cpu: u32) {
        let (now, settled) = (ticks(), self.waiting.ticks_in(SETTLED));
        let lately = self.moved.is_some_and(|moved| now.wrapping_sub(moved) < settled);
        if self.hot && !lately && self.waiting.policy() == Policy::Adaptive && self.waiting.has_room() {
            self.moved = Some(now);
            self.bind(Bound::Apart(cpu));
        }
    }

    /// As `wait`, for a request that is due. Ten looks, a second apart, are counted instead of the time, in which this
    /// process may have been stopped.
    pub fn wait_soon(&mut self, port: &Port, gone: impl Fn() -> bool) -> u32 {
        self.looks = Some(10);
        let state = self.wait(port, gone);
        self.looks = None;
        state
    }

    /// Waits until the state is `POSTED` or anything else than a reply, or `gone` says so. The state it saw last.
    pub fn wait(&mut self, port: &Port, gone: impl Fn() -> bool) -> u32 {
        let state = self.await_request(port, gone);
        self.begins = false;
        if self.guest_spin < GUEST_SPIN {
            self.arrived = ticks();
        }
        state
    }

    fn await_request(&mut self, port: &Port, gone: impl Fn() -> bool) -> u32 {
        let state = port.state().load(Ordering::SeqCst);
        if state & TURN == POSTED || gone() {
            if !self.hot {
                // The guest was quick: on the CPU of this thread, which it has displaced.
                self.judge(true);
            }
            return state;
        }
        if self.worth_spinning(port)
            && let Some(state) = self.spin(port)
        {
            return state;
        }
        self.sleep(port, gone)
    }

    fn worth_spinning(&mut self, port: &Port) -> bool {
        match self.waiting.policy() {
            Policy::Spin => return true,
            Policy::Sleep => return false,
            Policy::Adaptive => {}
        }
        if !self.hot || !self.waiting.has_room() {
            return false;
        }
        let guest = port.get32(word::GUEST_CPU);
        if self.woken {
            // Where it runs now is the host's choice. Often that is the very CPU that this thread would move to; and if it
            // is this one, it goes first.
            if guest == self.current_cpu() {
                rustix::thread::sched_yield();
            }
            return true;
        }
        let known = guest != CPU_UNKNOWN;
        if known && (guest == self.current_cpu() || !matches!(BOUND.get(), Bound::Apart(_))) {
            self.bind(Bound::Apart(guest));
        }
        true
    }

    fn spin(&mut self, port: &Port) -> Option<u32> {
        let mut start = ticks();
        let jump = self.waiting.ticks_in(PREEMPTED);
        let long = start.wrapping_sub(std::mem::replace(&mut self.looked, start)) > jump;
        if long && self.is_crowded_out() {
            return None;
        }
        // Looking takes the line from a guest that is about to store the next request, which then has to fetch it again.
        for _ in 0..SETTLING {
            std::hint::spin_loop();
        }
        for _ in 0..EAGER {
            // The line comes with the right to store the reply.
            port.claim();
            let state = port.state().load(Ordering::SeqCst);
            if state & TURN == POSTED {
                self.has_won();
                return Some(state);
            }
        }
        let waiting = self.waiting.clone();
        let spinner = waiting.spin();
        if spinner.is_none() && waiting.policy() == Policy::Adaptive {
            count(&waiting.counts.crowded);
            return None;
        }
        let patience = match (self.begins, self.woken) {
            (true, _) => BEGINNING,
            (false, true) => SPIN + WAKING,
            (false, false) => SPIN,
        };
        let limit = waiting.ticks_in(patience);
        loop {
            let state = port.state().load(Ordering::SeqCst);
            if state & TURN == POSTED {
                port.claim();
                self.has_won();
                return Some(state);
            }
            std::hint::spin_loop();
            let time = ticks();
            let passed = time.wrapping_sub(std::mem::replace(&mut self.looked, time));
            if passed > jump {
                if self.is_crowded_out() {
                    return None;
                }
                // What this thread did not see does not count.
                start = start.wrapping_add(passed);
            } else if time.wrapping_sub(start) > limit {
                count(&waiting.counts.vain);
                let lost = if self.begins { Duration::ZERO } else { patience };
                match self.saved.checked_sub(lost.as_micros() as u32) {
                    Some(rest) => self.saved = rest,
                    None => self.give_up(),
                }
                return None;
            }
        }
    }

    /// Time has passed that this thread did not see. If another thread had its CPU, and not for the first time lately,
    /// there is none to spare, and it gives up to spin.
    fn is_crowded_out(&mut self) -> bool {
        if !self.was_displaced() {
            return false;
        }
        count(&self.waiting.counts.displaced);
        let now = ticks();
        let before = self.displaced.replace(now);
        let contended = before.is_some_and(|before| now.wrapping_sub(before) < self.waiting.ticks_in(CONTENDED));
        if contended {
            self.give_up();
        }
        contended
    }

    #[inline]
    fn has_won(&mut self) {
        self.saved = (self.saved + GAIN).min(SAVED);
        self.won = self.won.saturating_add(1);
    }

    /// From now on this thread sleeps.
    fn give_up(&mut self) {
        count(&self.waiting.counts.given_up);
        self.needed = if self.won < PAID { (self.needed * 2).min(RELUCTANT) } else { CONVINCED };
        (self.hot, self.evidence) = (false, 0);
    }

    /// Somebody else had this CPU since the last time this was asked. The quick looks of `spin` would not notice:
    /// the request is there when this thread runs again.
    fn was_displaced(&mut self) -> bool {
        // SAFETY: all zero is a valid value, to be overwritten.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: writes the structure.
        if unsafe { libc::getrusage(libc::RUSAGE_THREAD, &mut usage) } != 0 {
            return false;
        }
        self.switches.replace(usage.ru_nivcsw).is_some_and(|before| before != usage.ru_nivcsw)
    }

    fn sleep(&mut self, port: &Port, gone: impl Fn() -> bool) -> u32 {
        if !self.hot {
            // Waking a thread on the CPU of the waker costs a twentieth of waking one elsewhere.
            self.bind(Bound::With(port.get32(word::GUEST_CPU)));
            // Whoever is woken there cannot answer while the guest spins.
            port.keep32(word::KERNEL_CPU, self.current_cpu());
        }
        count(&self.waiting.counts.slept);
        port.atomic(word::KERNEL_SLEEPS).swap(1, Ordering::SeqCst);
        let state = loop {
            let state = port.state().load(Ordering::SeqCst);
            if state & TURN != REPLIED || gone() {
                break state;
            }
            let second = libc::timespec { tv_sec: 1, tv_nsec: 0 };
            let limit = match &mut self.looks {
                Some(0) => break state,
                Some(looks) => {
                    *looks -= 1;
                    &raw const second
                }
                None => std::ptr::null(),
            };
            // SAFETY: the word is mapped as long as the port is borrowed; the time lives until the call returns.
            unsafe { libc::syscall(libc::SYS_futex, port.state().as_ptr(), libc::FUTEX_WAIT, state, limit, 0, 0) };
        };
        port.atomic(word::KERNEL_SLEEPS).store(0, Ordering::SeqCst);
        if !self.hot {
            // What the guest took to wake up for the reply does not count, for nobody sleeps where both spin. A stamp
            // from before the reply means that the request was there before this thread slept. (A guest that lies
            // makes its own calls dearer.)
            let posted = port.get64(word::STAMP);
            let hot = self.waiting.ticks_in(HOT) as i64;
            let starts = [self.replied, port.get64(word::WOKEN)];
            self.judge(starts.iter().any(|start| (posted.wrapping_sub(*start) as i64) < hot));
        }
        state
    }

    /// While sleeping: would a spin have caught this request?
    fn judge(&mut self, soon: bool) {
        self.evidence = if soon { self.evidence + 1 } else { 0 };
        if self.evidence >= self.needed {
            // Enough to outlast one guest that wakes up slowly.
            (self.hot, self.saved, self.won) = (true, (SPIN + WAKING).as_micros() as u32, 0);
            count(&self.waiting.counts.taken_up);
        }
    }

    /// Confines the calling thread.
    fn bind(&mut self, bound: Bound) {
        if self.waiting.policy() != Policy::Adaptive || self.waiting.cpus() < 2 || BOUND.get() == bound {
            return;
        }
        let mut set = *self.waiting.allowed();
        match bound {
            Bound::With(cpu) if is_in(cpu, &set) => {
                set.clear();
                set.set(cpu as usize);
            }
            Bound::Apart(cpu) if is_in(cpu, &set) => set.unset(cpu as usize),
            _ => {}
        }
        if rustix::thread::sched_setaffinity(None, &set).is_ok() {
            count(&self.waiting.counts.bound);
            BOUND.set(bound);
            // Who displaced it elsewhere, the guest perhaps, says nothing about this place.
            self.was_displaced();
            self.looked = ticks();
        }
    }

    fn current_cpu(&self) -> u32 {
        if !self.has_rdpid {
            return rustix::thread::sched_getcpu() as u32;
        }
        let value: u64;
        // SAFETY: reads a register that the processor has; its low twelve bits are the CPU number on Linux
        // (arch/x86/include/asm/segment.h, `vdso_read_cpunode()`).
        unsafe { core::arch::asm!("rdpid {}", out(reg) value, options(nomem, nostack, preserves_flags)) };
        value as u32 & 0xfff
    }
}

fn is_in(cpu: u32, set: &CpuSet) -> bool {
    (cpu as usize) < CpuSet::MAX_CPU && set.is_set(cpu as usize)
}
