//! The clocks of a world: one truth for the vDSO, system calls, timers and `/proc`.
//!
//! They are published in the vvar pages as lines over the time stamp counter ([`super::track`]), and the kernel reads
//! them there as guests do. So a program that asks by system call and by vDSO in turn, from any number of threads,
//! sees one clock. Where there is no line (the program has not asked yet, the counter is not fit), all get the host's.
//!
//! Nothing ticks: a line may be followed up to its horizon; whoever finds it exceeded makes a system call, which
//! renews it. Only the coarse clocks, which must be read without the counter, need somebody to keep them going, and
//! that only while they are in heavy use (`coarse.rs`).
//!
//! States, in [`Vvar::seed`]: empty (guests must ask), seeding (somebody measures), ready. Only the vDSO's own call
//! brings it from empty to seeding.
//!
//! Lock order: `state` is a leaf.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use coracle_abi::pvclock;
use coracle_abi::vvar::{Fine, MAP_DROPPABLE, Moment, TRIES, Vvar, mode, seed, word};
use coracle_platform::VvarMemory;
use parking_lot::{Mutex, MutexGuard};

use super::NSEC_PER_SEC;
use super::host::{Kind, Sample, Source};
use super::track::{Line, Offset, Track, Unfit};

/// A counter that has misbehaved so often is not used again.
const PATIENCE: u32 = 3;

/// How guests tell the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// As fast as the host allows.
    #[default]
    Auto,
    /// From the time stamp counter; no difference from `Auto` at present.
    Tsc,
    /// From the pages of the hypervisor clock ABI.
    Pvclock,
    /// From those of the CPU that the reader runs on, as hosts without a stable counter require.
    PvclockPerCpu,
    /// The same, asking for the CPU as processors without `RDPID` do.
    PvclockPerCpuLsl,
    /// By system call.
    Syscall,
}

impl Choice {
    fn mode(self) -> u64 {
        match self {
            Choice::Auto | Choice::Tsc => mode::TSC,
            Choice::Pvclock => mode::PVCLOCK,
            Choice::PvclockPerCpu => mode::PVCLOCK_PER_CPU,
            Choice::PvclockPerCpuLsl => mode::PVCLOCK_PER_CPU_LSL,
            Choice::Syscall => mode::NONE,
        }
    }
}

/// What a world's clocks show beyond the host's, in nanoseconds (as time_namespaces(7) has it): for those restored on
/// another day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    pub monotonic: i64,
    pub boottime: i64,
}

/// The clocks of one world.
pub struct Clocks {
    /// None where the platform has no vDSO: then everything is the host's.
    vvar: Option<Arc<VvarMemory>>,
    source: Box<dyn Source>,
    offsets: Offsets,
    tick: i64,
    /// Virtual CPUs whose slots are kept.
    vcpus: usize,
    pub(super) state: Mutex<State>,
}

/// What the publisher knows.
pub(super) struct State {
    mode: u64,
    mono: Track,
    raw: Track,
    real: Offset,
    boot: Offset,
    tai: i64,
    troubles: u32,
    /// The coarse clocks as last published: MONOTONIC, REALTIME; and whether somebody keeps them going.
    coarse: (i64, i64),
    pub(super) ticking: bool,
}

impl Clocks {
    /// The clocks of a world whose address spaces see these pages.
    pub fn new(
        vvar: Option<Arc<VvarMemory>>,
        source: Box<dyn Source>,
        choice: Choice,
        offsets: Offsets,
    ) -> Clocks {
        let sample = Sample::take(&*source);
        let mode = if vvar.is_some() { choice.mode() } else { mode::NONE };
        let state = State {
            mode,
            mono: Track::new(sample.mono),
            raw: Track::new(sample.raw),
            real: Offset::new(sample.real),
            boot: Offset::new(sample.boot),
            tai: sample.tai,
            troubles: 0,
            coarse: (i64::MIN, i64::MIN),
            ticking: false,
        };
        let tick = source.tick();
        let vcpus = std::thread::available_parallelism().map_or(1, usize::from);
        let clocks = Clocks { vvar, source, offsets, tick, vcpus, state: Mutex::new(state) };
        if let Some(page) = clocks.page() {
            let writing = page.clocks.begin();
            writing.set::<{ word::LIMIT }>(0);
            writing.set::<{ word::MODE }>(mode);
            writing.set::<{ word::TICK }>(tick.unsigned_abs());
            writing.finish();
        }
        clocks.renew_random_generation();
        clocks
    }

    fn page(&self) -> Option<&Vvar> {
        self.vvar.as_deref().map(VvarMemory::page)
    }

    /// Random states that guests made so far are void from now on.
    pub fn renew_random_generation(&self) {
        if let Some(page) = self.page() {
            let last = page.random_generation.load(Ordering::Relaxed);
            let next =
                std::iter::repeat_with(crate::world::random_u64).take(8).find(|next| *next != 0 && *next != last);
            page.random_generation.store(next.unwrap_or(last.wrapping_add(1).max(1)), Ordering::SeqCst);
        }
    }

    /// The child of a fork has copies of random states; it has not run yet. They are void from now on, if the host has
    /// not wiped them. (Before the fork would be too early: other threads of the parent may fill theirs anew meanwhile.)
    pub fn copied_random_states(&self) {
        let wiped = u64::from(MAP_DROPPABLE);
        if self.page().is_some_and(|page| page.random_map.load(Ordering::Relaxed) & wiped == 0) {
            self.renew_random_generation();
        }
    }

    /// Resolution of the coarse clocks in nanoseconds.
    pub fn tick(&self) -> i64 {
        self.tick
    }

    /// Nanoseconds on a clock, as the vDSO would say.
    pub fn now(&self, kind: Kind) -> i64 {
        if let Some(now) = self.published(kind) {
            return now;
        }
        let mut state = self.state.lock();
        // Somebody may have renewed the line meanwhile.
        if let Some(now) = self.published(kind) {
            return now;
        }
        if self.is_ready() {
            self.refresh(&mut state);
            if let Some(now) = self.published(kind) {
                return now;
            }
        }
        self.hosts(&state, kind)
    }

    /// The vDSO could not tell the time: the one call that may start its clocks. Returns whether it could have, and
    /// called for another reason.
    pub fn asked_by_vdso(&self) -> bool {
        if self.published(Kind::Monotonic).is_some() {
            return true;
        }
        let Some(page) = self.page() else { return false };
        let begun =
            page.seed.compare_exchange(seed::EMPTY, seed::SEEDING, Ordering::Acquire, Ordering::Relaxed).is_ok();
        if begun {
            let mut state = self.state.lock();
            self.begin(&mut state);
            let done = state.mode != mode::NONE && state.mono.line().is_some();
            page.seed.store(if done { seed::READY } else { seed::EMPTY }, Ordering::Release);
        }
        false
    }

    fn is_ready(&self) -> bool {
        self.page().is_some_and(|page| page.seed.load(Ordering::Acquire) == seed::READY)
    }

    fn begin(&self, state: &mut MutexGuard<'_, State>) {
        if state.mode != mode::NONE && !self.source.is_fit() {
            log::info!(
                "the time stamp counter is not fit for clocks here; guests ask for the time by system call"
            );
            self.shut(state, mode::NONE);
        }
        if state.mode != mode::NONE {
            self.refresh(state);
        }
    }

    /// What the pages say, read as guests read them.
    fn published(&self, kind: Kind) -> Option<i64> {
        let page = self.page()?;
        let fine = match kind {
            Kind::Realtime => Fine::Realtime,
            Kind::Monotonic => Fine::Monotonic,
            Kind::Boottime => Fine::Boottime,
            Kind::Tai => Fine::Tai,
            Kind::Raw => Fine::Raw,
            Kind::RealtimeCoarse | Kind::MonotonicCoarse => {
                return page.coarse(kind == Kind::RealtimeCoarse, TRIES, || self.source.cycles()).map(nanoseconds);
            }
        };
        page.fine(fine, TRIES, || self.source.cycles()).map(nanoseconds)
    }

    /// For want of a published line (there never was one, or this thread was kept from reading it in time): the
    /// host's, but not less than was shown.
    fn hosts(&self, state: &State, kind: Kind) -> i64 {
        let cycles = self.source.cycles();
        let shown_or_host = |track: &Track, kind| self.source.now(kind).max(track.shown(cycles));
        let mono = || shown_or_host(&state.mono, Kind::Monotonic);
        let led = state.mode != mode::NONE && state.mono.line().is_some();
        match kind {
            Kind::Monotonic => mono().saturating_add(self.offsets.monotonic),
            Kind::Raw => shown_or_host(&state.raw, Kind::Raw).saturating_add(self.offsets.monotonic),
            Kind::Boottime => mono().saturating_add(state.boot.0).saturating_add(self.offsets.boottime),
            Kind::Realtime if led => mono().saturating_add(state.real.0),
            Kind::Tai if led => {
                mono().saturating_add(state.real.0).saturating_add(state.tai.saturating_mul(NSEC_PER_SEC))
            }
            Kind::MonotonicCoarse if led => {
                self.hosts(state, Kind::Monotonic).saturating_sub(self.tick).max(state.coarse.0)
            }
            Kind::RealtimeCoarse if led => {
                self.hosts(state, Kind::Realtime).saturating_sub(self.tick).max(state.coarse.1)
            }
            Kind::MonotonicCoarse => {
                self.source.now(kind).saturating_add(self.offsets.monotonic).max(state.coarse.0)
            }
            Kind::Realtime | Kind::RealtimeCoarse | Kind::Tai => self.source.now(kind),
        }
    }

    /// Looks at the host's clocks and draws new lines.
    pub(super) fn refresh(&self, state: &mut MutexGuard<'_, State>) {
        let Some(page) = self.page() else { return };
        if state.mode == mode::NONE {
            return;
        }
        let sample = Sample::take(&*self.source);
        match state.learn(&sample) {
            Ok(true) => {}
            Ok(false) => return,
            Err(unfit) => return self.distrust(state, unfit, &sample),
        }
        let writing = page.clocks.begin();
        let opening = (state.mode != mode::TSC).then(|| pvclock::shut(self.slots(page)));
        // Later than any reading that the old line was used with.
        let at = self.source.cycles();
        let lines = state.mono.renew(at).and_then(|mono| Ok((mono, state.raw.renew(at)?)));
        let (Some((mono, limit)), Some((raw, raw_limit))) = (match lines {
            Ok(lines) => lines,
            Err(unfit) => {
                writing.set::<{ word::LIMIT }>(0);
                writing.finish();
                return self.distrust(state, unfit, &sample);
            }
        }) else {
            // Shut, as it was: nothing is known about one of them yet.
            writing.set::<{ word::LIMIT }>(0);
            writing.finish();
            return;
        };
        let limit = limit.min(raw_limit);
        let shown = Shown::new(state, mono.ns, raw.ns, &self.offsets);
        let put = |ns: i64| (seconds(ns), nanos(ns) << coracle_abi::vvar::SHIFT);
        writing.set::<{ word::CYCLES }>(at);
        writing.set::<{ word::LIMIT }>(if opening.is_none() { limit } else { 0 });
        writing.set::<{ word::MULT }>(mono.mult);
        let (sec, sub) = put(shown.mono);
        writing.set::<{ word::MONO_SEC }>(sec);
        writing.set::<{ word::MONO_SUB }>(sub);
        let (sec, sub) = put(shown.real);
        writing.set::<{ word::REAL_SEC }>(sec);
        writing.set::<{ word::REAL_SUB }>(sub);
        writing.set::<{ word::TAI_SEC }>(sec.wrapping_add_signed(state.tai));
        let (sec, sub) = put(shown.boot);
        writing.set::<{ word::BOOT_SEC }>(sec);
        writing.set::<{ word::BOOT_SUB }>(sub);
        let (sec, sub) = put(shown.raw);
        writing.set::<{ word::RAW_MULT }>(raw.mult);
        writing.set::<{ word::RAW_SEC }>(sec);
        writing.set::<{ word::RAW_SUB }>(sub);
        writing.set::<{ word::REAL_OFF_SEC }>(seconds(shown.real - shown.mono));
        writing.set::<{ word::REAL_OFF_NSEC }>(nanos(shown.real - shown.mono));
        writing.set::<{ word::BOOT_OFF_SEC }>(seconds(shown.boot - shown.mono));
        writing.set::<{ word::BOOT_OFF_NSEC }>(nanos(shown.boot - shown.mono));
        writing.set::<{ word::TAI_OFF_SEC }>(state.tai as u64);
        if let Some(opening) = opening {
            opening.open(|_| slot(&mono, shown.mono, limit, pvclock::TSC_STABLE));
        }
        if state.ticking {
            self.put_coarse(state, &writing, &shown);
        }
        writing.finish();
    }

    /// The coarse clocks show the host's, so that they are never ahead of the time stamps of its files.
    fn put_coarse(&self, state: &mut State, writing: &super::coarse::Cell<'_>, shown: &Shown) {
        let host = self.source.now(Kind::MonotonicCoarse).saturating_add(self.offsets.monotonic);
        let mono = host.max(shown.mono.saturating_sub(self.tick)).max(state.coarse.0);
        let real = mono.saturating_add(shown.real.saturating_sub(shown.mono));
        state.coarse = (mono, real);
        super::coarse::put(writing, mono, real);
    }

    /// Nobody keeps the coarse clocks going any longer.
    pub(super) fn stop_ticking(&self, state: &mut MutexGuard<'_, State>) {
        state.ticking = false;
        if let Some(page) = self.page() {
            let writing = page.clocks.begin();
            writing.set::<{ word::COARSE_VALID }>(0);
            writing.finish();
        }
    }

    /// The counter has misbehaved: guests ask again, and in the end always.
    fn distrust(&self, state: &mut MutexGuard<'_, State>, unfit: Unfit, sample: &Sample) {
        state.troubles = state.troubles.saturating_add(1);
        let next = if state.troubles >= PATIENCE { mode::NONE } else { state.mode };
        log::warn!(
            "the time stamp counter is not to be trusted ({unfit:?}), trouble {} of {PATIENCE}",
            state.troubles
        );
        self.shut(state, next);
        state.mono.restart(sample.mono);
        state.raw.restart(sample.raw);
    }

    /// No line to go by any more.
    fn shut(&self, state: &mut MutexGuard<'_, State>, next: u64) {
        let Some(page) = self.page() else { return };
        let writing = page.clocks.begin();
        if state.mode != mode::TSC {
            // Unstable for all virtual CPUs at once, and of no use.
            let none = Line { cycles: 0, ns: 0, mult: 0 };
            pvclock::shut(self.slots(page)).open(|_| slot(&none, 0, 0, 0));
        }
        writing.set::<{ word::LIMIT }>(0);
        writing.set::<{ word::COARSE_VALID }>(0);
        writing.set::<{ word::MODE }>(next);
        writing.finish();
        state.mode = next;
        state.ticking = false;
        page.seed.store(seed::EMPTY, Ordering::Release);
    }

    fn slots<'a>(&self, page: &'a Vvar) -> &'a [pvclock::Slot<std::sync::atomic::AtomicU64>] {
        page.vcpus.get(..self.vcpus).unwrap_or(&page.vcpus)
    }
}

impl State {
    fn learn(&mut self, sample: &Sample) -> Result<bool, Unfit> {
        let known = self.mono.learn(sample.mono)? & self.raw.learn(sample.raw)?;
        self.real.learn(sample.real);
        self.boot.learn(sample.boot);
        self.tai = sample.tai;
        Ok(known)
    }
}

/// What the clocks show at the start of new lines.
struct Shown {
    mono: i64,
    real: i64,
    boot: i64,
    raw: i64,
}

impl Shown {
    fn new(state: &State, mono: i64, raw: i64, offsets: &Offsets) -> Shown {
        Shown {
            mono: mono.saturating_add(offsets.monotonic),
            real: mono.saturating_add(state.real.0),
            boot: mono.saturating_add(state.boot.0).saturating_add(offsets.boottime),
            raw: raw.saturating_add(offsets.monotonic),
        }
    }
}

/// A line in the hypervisor's form.
fn slot(line: &Line, ns: i64, limit: u64, flags: u8) -> pvclock::Line {
    let (tsc_to_system_mul, tsc_shift) = pvclock::Line::scale_of(line.mult);
    let system_time = ns as u64;
    pvclock::Line { tsc_timestamp: line.cycles, system_time, tsc_to_system_mul, tsc_shift, flags, limit }
}

pub(super) fn seconds(ns: i64) -> u64 {
    ns.div_euclid(NSEC_PER_SEC) as u64
}

pub(super) fn nanos(ns: i64) -> u64 {
    ns.rem_euclid(NSEC_PER_SEC).unsigned_abs()
}

fn nanoseconds(moment: Moment) -> i64 {
    moment.sec.saturating_mul(NSEC_PER_SEC).saturating_add(i64::from(moment.nsec))
}
