//! How a kernel thread waits for its guest: spin or sleep.
//!
//! Spinning on both sides makes a call cost 0.1 us; spinning while both share one processor makes it cost the
//! whole spin. So the kernel spins only while its guest runs on another CPU, and only as long as that paid off
//! lately; otherwise it sleeps at once, on the guest's own CPU, where waking it is cheapest.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use coracle_abi::port::{POSTED, REPLIED, TURN, word};

use super::ports::Port;

/// Spin at most this long for the next request.
const SPIN: Duration = Duration::from_micros(50);
/// Looks for the next request before anything is measured or counted: about what a short call takes in the guest.
const EAGER: u32 = 1000;
/// A spinning thread that sees the clock jump so far had lost its CPU.
const PREEMPTED_US: u64 = 100;
/// A guest spins at most this many `pause`s (about 26 ns each) for a reply.
const GUEST_SPIN: u32 = 2000;
/// After this many spins in vain in a row, sleep instead.
const PATIENCE: u32 = 2;
/// While sleeping, a request this soon after the reply would have been worth a spin.
const HOT: Duration = Duration::from_micros(30);
/// So many such requests in a row, and spinning is tried again.
const CONVINCED: u32 = 8;

/// Waiting policy, for measurements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    #[default]
    Adaptive,
    Spin,
    Sleep,
}

static POLICY: AtomicU32 = AtomicU32::new(0);
/// Kernel threads that spin now. One per processor but one at most: the guests need room.
static SPINNERS: AtomicU32 = AtomicU32::new(0);
static CALIBRATED: AtomicBool = AtomicBool::new(false);
static TICKS_PER_US: AtomicU32 = AtomicU32::new(1000);

/// Chooses the policy for this process.
pub fn set_policy(policy: Policy) {
    POLICY.store(policy as u32, Ordering::Relaxed);
}

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
    /// Spinning pays off, as far as is known.
    hot: bool,
    /// Spins in vain in a row (hot), or requests in a row that a spin would have caught (cold).
    evidence: u32,
    /// Time stamp of the last reply, while sleeping pays off.
    replied: u64,
    /// When a spin last looked at the clock.
    looked: u64,
    /// Involuntary context switches of this thread, as last asked for.
    displaced: Option<i64>,
}

thread_local! {
    /// Where the calling thread has confined itself to; it may serve one guest thread after another.
    static BOUND: Cell<Bound> = const { Cell::new(Bound::Inherited) };
}

impl Default for Pace {
    /// A program begins with many calls: spin.
    fn default() -> Pace {
        Pace { hot: true, evidence: 0, replied: 0, looked: 0, displaced: None }
    }
}

impl Pace {
    /// Just before a reply: says where this thread runs and how long the guest may spin next time.
    pub fn replying(&mut self, port: &Port) {
        port.keep32(word::KERNEL_CPU, current_cpu());
        let spin = match policy() {
            Policy::Sleep => 0,
            _ => GUEST_SPIN,
        };
        port.keep32(word::SPIN, spin);
        if !self.hot {
            self.replied = now();
        }
    }

    /// Waits until the state is `POSTED` or anything else than a reply, or `gone` says so. The state it saw last.
    pub fn wait(&mut self, port: &Port, gone: impl Fn() -> bool) -> u32 {
        let state = port.state().load(Ordering::SeqCst);
        if state & TURN == POSTED || gone() {
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
        match policy() {
            Policy::Spin => return true,
            Policy::Sleep => return false,
            Policy::Adaptive => {}
        }
        if cpus() < 2 || !self.hot || SPINNERS.load(Ordering::Relaxed) + 1 >= cpus() {
            return false;
        }
        let guest = port.get32(word::GUEST_CPU);
        if guest == current_cpu() || !matches!(BOUND.get(), Bound::Apart(_)) {
            bind(Bound::Apart(guest));
        }
        true
    }

    fn spin(&mut self, port: &Port) -> Option<u32> {
        let start = now();
        let long = start.wrapping_sub(std::mem::replace(&mut self.looked, start)) > PREEMPTED_US * ticks_per_us();
        if long && self.was_displaced() {
            (self.hot, self.evidence) = (false, 0);
            return None;
        }
        for _ in 0..EAGER {
            let state = port.state().load(Ordering::SeqCst);
            if state & TURN == POSTED {
                self.evidence = 0;
                return Some(state);
            }
        }
        SPINNERS.fetch_add(1, Ordering::Relaxed);
        let limit = SPIN.as_micros() as u64 * ticks_per_us();
        let won = loop {
            let state = port.state().load(Ordering::SeqCst);
            if state & TURN == POSTED {
                self.evidence = 0;
                break Some(state);
            }
            std::hint::spin_loop();
            let time = now();
            // Somebody else had this CPU meanwhile: there is none to spare.
            let preempted = time.wrapping_sub(self.looked) > PREEMPTED_US * ticks_per_us();
            self.looked = time;
            if preempted || time.wrapping_sub(start) > limit {
                self.evidence += if preempted { PATIENCE } else { 1 };
                if self.evidence >= PATIENCE {
                    (self.hot, self.evidence) = (false, 0);
                }
                break None;
            }
        };
        SPINNERS.fetch_sub(1, Ordering::Relaxed);
        won
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
        self.displaced.replace(usage.ru_nivcsw).is_some_and(|before| before != usage.ru_nivcsw)
    }

    fn sleep(&mut self, port: &Port, gone: impl Fn() -> bool) -> u32 {
        if !self.hot {
            // Waking a thread on the CPU of the waker costs a twentieth of waking one elsewhere.
            bind(Bound::With(port.get32(word::GUEST_CPU)));
        }
        port.atomic(word::KERNEL_SLEEPS).swap(1, Ordering::SeqCst);
        let state = loop {
            let state = port.state().load(Ordering::SeqCst);
            if state & TURN != REPLIED || gone() {
                break state;
            }
            // SAFETY: the word is mapped as long as the port is borrowed.
            unsafe { libc::syscall(libc::SYS_futex, port.state().as_ptr(), libc::FUTEX_WAIT, state, 0, 0, 0) };
        };
        port.atomic(word::KERNEL_SLEEPS).store(0, Ordering::SeqCst);
        if !self.hot {
            let gap = port.get64(word::STAMP).wrapping_sub(self.replied);
            self.evidence = if gap < HOT.as_micros() as u64 * ticks_per_us() { self.evidence + 1 } else { 0 };
            if self.evidence >= CONVINCED {
                (self.hot, self.evidence) = (true, 0);
            }
        }
        state
    }
}

/// Confines the calling thread.
fn bind(bound: Bound) {
    if policy() != Policy::Adaptive || cpus() < 2 || BOUND.get() == bound {
        return;
    }
    let mut set = rustix::thread::CpuSet::new();
    match bound {
        Bound::With(cpu) if (cpu as usize) < rustix::thread::CpuSet::MAX_CPU => set.set(cpu as usize),
        Bound::Apart(apart) => {
            (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| *cpu != apart as usize).for_each(|cpu| set.set(cpu));
        }
        _ => (0..rustix::thread::CpuSet::MAX_CPU).for_each(|cpu| set.set(cpu)),
    }
    if rustix::thread::sched_setaffinity(None, &set).is_ok() {
        BOUND.set(bound);
    }
}

/// CPUs that this process may use, asked before any of its threads confines itself.
fn cpus() -> u32 {
    static CPUS: OnceLock<u32> = OnceLock::new();
    *CPUS.get_or_init(|| rustix::thread::sched_getaffinity(None).map_or(1, |set| set.count()))
}

fn policy() -> Policy {
    match POLICY.load(Ordering::Relaxed) {
        1 => Policy::Spin,
        2 => Policy::Sleep,
        _ => Policy::Adaptive,
    }
}

fn current_cpu() -> u32 {
    static RDPID: OnceLock<bool> = OnceLock::new();
    if !*RDPID.get_or_init(super::has_rdpid) {
        return rustix::thread::sched_getcpu() as u32;
    }
    let value: u64;
    // SAFETY: reads a register that the processor has; its low twelve bits are the CPU number on Linux
    // (arch/x86/include/asm/segment.h, `vdso_read_cpunode()`).
    unsafe { core::arch::asm!("rdpid {}", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value as u32 & 0xfff
}

fn now() -> u64 {
    // SAFETY: RDTSC is available to user space on every host this runs on (the shim uses it too).
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Measured once: a rough figure is enough for bounds.
fn ticks_per_us() -> u64 {
    if !CALIBRATED.swap(true, Ordering::Relaxed) {
        let (start, ticks) = (std::time::Instant::now(), now());
        while start.elapsed() < Duration::from_micros(50) {}
        let rate = (now() - ticks) * 1000 / (start.elapsed().as_nanos() as u64).max(1);
        TICKS_PER_US.store(rate.max(1) as u32, Ordering::Relaxed);
    }
    u64::from(TICKS_PER_US.load(Ordering::Relaxed))
}
