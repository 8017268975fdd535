//! Readings of the host's clocks.

use coracle_platform::vvar;
use rustix::time::{ClockId, DynamicClockId, clock_getres, clock_gettime, clock_gettime_dynamic};

use super::NSEC_PER_SEC;
use super::track::Point;

/// The clocks that are not CPU clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Realtime,
    Monotonic,
    Raw,
    RealtimeCoarse,
    MonotonicCoarse,
    Boottime,
    /// International Atomic Time: real time without leap seconds.
    Tai,
}

/// A counter and the host's clocks; simulated in tests.
pub trait Source: Send + Sync {
    /// The counter, read after everything before.
    fn cycles(&self) -> u64;
    /// Nanoseconds on a clock.
    fn now(&self, kind: Kind) -> i64;
    /// Resolution of the coarse clocks.
    fn tick(&self) -> i64;
    /// Whether the host itself makes its clocks of this counter: it agrees among processors and never stops.
    fn is_fit(&self) -> bool;
}

/// The real one.
pub struct Host;

impl Source for Host {
    fn cycles(&self) -> u64 {
        vvar::counter()
    }

    fn now(&self, kind: Kind) -> i64 {
        let id = match kind {
            Kind::Realtime => ClockId::Realtime,
            Kind::Monotonic => ClockId::Monotonic,
            Kind::Raw => ClockId::MonotonicRaw,
            Kind::RealtimeCoarse => ClockId::RealtimeCoarse,
            Kind::MonotonicCoarse => ClockId::MonotonicCoarse,
            Kind::Boottime => ClockId::Boottime,
            Kind::Tai => {
                let tai = clock_gettime_dynamic(DynamicClockId::Tai);
                return nanoseconds(tai.unwrap_or_else(|_| clock_gettime(ClockId::Realtime)));
            }
        };
        nanoseconds(clock_gettime(id))
    }

    fn tick(&self) -> i64 {
        nanoseconds(clock_getres(ClockId::MonotonicCoarse)).clamp(1, NSEC_PER_SEC / 2)
    }

    fn is_fit(&self) -> bool {
        // The host has tested it, if it uses it, and gives it up if it proves wrong
        // (Documentation/virt/kvm/x86/timekeeping.rst, kernel/time/clocksource.c).
        match std::fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource") {
            Ok(name) => name.trim() == "tsc" && vvar::counter_is_invariant(),
            // Not to be seen from here.
            Err(_) => vvar::counter_is_invariant(),
        }
    }
}

fn nanoseconds(time: rustix::time::Timespec) -> i64 {
    time.tv_sec.saturating_mul(NSEC_PER_SEC).saturating_add(time.tv_nsec)
}

/// What the host's clocks said at about one moment.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub mono: Point,
    pub raw: Point,
    /// Between which bounds REALTIME - MONOTONIC lies, and BOOTTIME - MONOTONIC.
    pub real: (i64, i64),
    pub boot: (i64, i64),
    /// Seconds of TAI - REALTIME.
    pub tai: i64,
}

impl Sample {
    /// Reads them all.
    pub fn take(source: &dyn Source) -> Sample {
        Sample {
            raw: point(source, Kind::Raw),
            real: difference(source, Kind::Realtime),
            boot: difference(source, Kind::Boottime),
            tai: tai(source),
            // Last, because it is what matters.
            mono: point(source, Kind::Monotonic),
        }
    }
}

/// The narrowest of a few readings: some are interrupted.
fn point(source: &dyn Source, kind: Kind) -> Point {
    let read = || {
        let before = source.cycles();
        let ns = source.now(kind);
        Point { before, after: source.cycles(), ns }
    };
    let mut best = read();
    for _ in 0..2 {
        let next = read();
        if next.after.wrapping_sub(next.before) < best.after.wrapping_sub(best.before) {
            best = next;
        }
    }
    best
}

/// Bounds of a clock's difference from MONOTONIC. The host makes both of one counter, whole nanoseconds apart, so
/// readings of MONOTONIC before and after bound it exactly.
fn difference(source: &dyn Source, kind: Kind) -> (i64, i64) {
    let before = source.now(Kind::Monotonic);
    let other = source.now(kind);
    let after = source.now(Kind::Monotonic);
    (other.saturating_sub(after), other.saturating_sub(before))
}

fn tai(source: &dyn Source) -> i64 {
    let apart = source.now(Kind::Tai).saturating_sub(source.now(Kind::Realtime));
    // Whole seconds, and the readings are no half second apart.
    apart.saturating_add(NSEC_PER_SEC / 2).div_euclid(NSEC_PER_SEC)
}
