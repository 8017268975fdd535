//! What others may do to a guest thread while it runs.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use std::time::Duration;

use coracle_abi::Errno;
use coracle_abi::port::{
    AFFINITY_MAX, INTERRUPT_SIGNAL, NO_FILE, POSTED, RANDOM_FILES, RANDOM_MAX, RANDOM_SIZE, TURN, word,
};
use coracle_platform::{Answers, Identity, LaneCounts, ThreadControl};
use parking_lot::Mutex;
use rustix::fs::OFlags;

use super::super::cpus::{CpuBits, CpuSets};
use super::super::ports::{Port, wake_word};
use super::super::table;
use super::super::worker::Worker;
use crate::host_proc;

/// The host's clock tick at its shortest (`CONFIG_HZ_1000`) to longest; times below are not split by sampling.
const TICK: Duration = Duration::from_millis(10);

/// What others may do to the thread.
pub struct Control {
    worker: Arc<Worker>,
    port: Port,
    tid: AtomicU32,
    /// CPU time that the host thread had used for others before.
    before: Duration,
    /// CPU time of the host thread when it was last looked at, in nanoseconds.
    seen: AtomicU64,
    /// The port is still this guest thread's.
    live: Mutex<bool>,
    /// CPUs that the thread is to confine itself to before it goes on.
    cpus: Mutex<Option<CpuBits>>,
    /// There are some.
    moves: AtomicBool,
}

impl Control {
    pub(super) fn new(worker: Arc<Worker>, port: Port, tid: u32, before: Duration) -> Arc<Control> {
        let (seen, live) = (AtomicU64::new(before.as_nanos() as u64), Mutex::new(true));
        let (cpus, moves) = (Mutex::default(), AtomicBool::new(false));
        Arc::new(Control { worker, port, tid: AtomicU32::new(tid), before, seen, live, cpus, moves })
    }

    /// The CPUs that the thread is to confine itself to, if there is something new.
    pub(super) fn take_cpus(&self) -> Option<CpuBits> {
        if !self.moves.load(Ordering::Acquire) {
            return None;
        }
        self.moves.store(false, Ordering::Release);
        self.cpus.lock().take()
    }

    /// The guest thread is over; its port may become another's. Returns what CPU time its host thread has used.
    pub(super) fn end(&self) -> Duration {
        *self.live.lock() = false;
        Duration::from_nanos(self.seen.load(Ordering::Relaxed))
    }

    /// The host's number of the thread.
    pub(super) fn tid(&self) -> u32 {
        self.tid.load(Ordering::Relaxed)
    }

    /// One of the host's files about the thread, in one read: they are short.
    fn text(&self, name: &str) -> String {
        let mut bytes = [0; 1024];
        let name = format!("task/{}/{name}", self.tid());
        let file = self.worker.hold().and_then(|held| host_proc::open(&held, &name, OFlags::RDONLY));
        let len = file.and_then(|mut file| file.read(&mut bytes).ok()).unwrap_or(0);
        String::from_utf8_lossy(&bytes[..len]).into_owned()
    }

    /// Time on a CPU (Documentation/scheduler/sched-stats.rst), where the host counts it.
    fn run_time(&self) -> Option<Duration> {
        let total = self.text("schedstat").split_whitespace().next()?.parse().ok()?;
        self.seen.store(total, Ordering::Relaxed);
        Some(Duration::from_nanos(total).saturating_sub(self.before))
    }

    pub(super) fn signal(&self) {
        if let Some(held) = self.worker.hold() {
            held.signal_thread(self.tid(), INTERRUPT_SIGNAL);
        }
    }
}

impl ThreadControl for Control {
    fn interrupt(&self) {
        self.port.atomic(word::INTERRUPT_ASKED).fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if self.port.state().load(Ordering::SeqCst) & TURN != POSTED {
            self.signal();
        }
    }

    /// The state word is the guest's to scribble on. So whoever serves the thread looks again, whatever it says; a
    /// thread that it calls running has let an interrupt pass for a long time.
    fn insist(&self) {
        if !*self.live.lock() {
            return;
        }
        wake_word(self.port.state());
        if self.port.state().load(Ordering::SeqCst) & TURN != POSTED {
            self.worker.lied("did not stop when it was to end");
        }
    }

    fn publish(&self, identity: &Identity) {
        let live = self.live.lock();
        if !*live {
            return;
        }
        for (offset, value) in [
            (word::PID, identity.pid),
            (word::TID, identity.tid),
            (word::PPID, identity.ppid),
            (word::UID, identity.uid),
            (word::EUID, identity.euid),
            (word::GID, identity.gid),
            (word::EGID, identity.egid),
        ] {
            self.port.set32(offset, value);
        }
        table::fill(&self.port, self.worker.base, identity.short_cuts, self.worker.vvar.host_time());
        if !self.before.is_zero() {
            table::no_thread_clock(&self.port, self.worker.base);
        }
    }

    /// As in a `SeqCell`: the shim takes the version, copies, and asks the kernel if the version has changed.
    fn publish_answers(&self, answers: &Answers) {
        let live = self.live.lock();
        if !*live {
            return;
        }
        let changing = self.port.get32(word::VERSION) | 1;
        self.port.set32(word::VERSION, changing);
        fence(Ordering::SeqCst);
        self.port.write(word::UNAME, &answers.uname);
        self.port.set32(word::HAS_UNAME, 1);
        let len = if answers.affinity.len() <= AFFINITY_MAX { answers.affinity.len() } else { 0 };
        self.port.write(word::AFFINITY, answers.affinity.get(..len).unwrap_or_default());
        self.port.set32(word::AFFINITY_LEN, len as u32);
        fence(Ordering::SeqCst);
        self.port.set32(word::VERSION, changing.wrapping_add(1));
        table::maps_memory(&self.port, self.worker.base, answers.maps_memory);
    }

    fn wants_random(&self) -> bool {
        let left = self.port.get64(word::RANDOM_LEFT);
        left < RANDOM_MAX as u64 && table::gives_random(&self.port, self.worker.base)
    }

    fn give_random(&self, bytes: &[u8; RANDOM_SIZE]) {
        let live = self.live.lock();
        if *live {
            self.port.write(word::RANDOM, bytes);
            self.port.set64(word::RANDOM_LEFT, bytes.len() as u64);
        }
    }

    /// A read that has looked at the word began before this did. Others see it no later than whatever this kernel thread
    /// stores next, its reply included: stores become visible in their order (Intel SDM volume 3, 9.2).
    fn random_file(&self, place: usize, fd: Option<u32>) {
        let live = self.live.lock();
        if *live && place < RANDOM_FILES {
            self.port.set32(word::RANDOM_FILE + place * 4, fd.unwrap_or(NO_FILE));
            let files = (0..RANDOM_FILES).map(|place| self.port.get32(word::RANDOM_FILE + place * 4));
            let any = files.into_iter().any(|file| file != NO_FILE);
            table::random_reads(&self.port, self.worker.base, any);
        }
    }

    fn cpu_time(&self) -> (Duration, Duration) {
        let total = self.run_time();
        // What the host samples says nothing below its tick.
        if let Some(total) = total.filter(|total| *total < TICK) {
            return (total, Duration::ZERO);
        }
        let text = self.text("stat");
        let fields: Vec<&str> =
            text.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
        let ticks = |index: usize| fields.get(index).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        let (user, system) = (ticks(11), ticks(12));
        // The sum is known to the nanosecond, its parts only as samples (cputime_adjust() in kernel/sched/cputime.c).
        let Some(total) = total else {
            return (Duration::from_millis(user * 10), Duration::from_millis(system * 10));
        };
        let share = if user + system == 0 { 1.0 } else { user as f64 / (user + system) as f64 };
        let user = total.mul_f64(share).min(total);
        (user, total - user)
    }

    /// It waits for a futex of the guest's. Nothing else that the platform executes sleeps; a thread on its way into
    /// life, in an order or waiting for the kernel's answer is at work.
    fn asleep(&self) -> bool {
        if self.port.state().load(Ordering::SeqCst) & TURN == POSTED {
            return false;
        }
        // proc_pid_syscall(5): the number, six arguments, SP and PC of a thread that sleeps.
        let text = self.text("syscall");
        let mut fields = text.split_whitespace();
        let number = fields.next().and_then(|number| number.parse::<i64>().ok());
        let word = fields.next().and_then(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok());
        let in_shim = |address: u64| address >> 32 == self.worker.base >> 32;
        number == Some(libc::SYS_futex) && word.is_some_and(|word| !in_shim(word))
    }

    fn set_affinity(&self, cpus: &[usize]) -> Result<(), Errno> {
        let live = self.live.lock();
        if !*live {
            return Err(Errno::ESRCH);
        }
        self.worker.own_affinity.store(true, Ordering::SeqCst);
        *self.cpus.lock() = Some(CpuSets::bits(cpus));
        self.moves.store(true, Ordering::Release);
        drop(live);
        self.interrupt();
        Ok(())
    }

    fn last_cpu(&self) -> usize {
        self.port.get32(word::GUEST_CPU) as usize
    }

    fn lanes(&self) -> LaneCounts {
        let count = |offset| self.port.get64(offset);
        LaneCounts {
            lane1: count(word::LANE1),
            lane2: count(word::LANE2),
            lane3: count(word::LANE3),
            lane4: count(word::LANE4),
            bytes_staged: count(word::STAGED),
        }
    }
}
