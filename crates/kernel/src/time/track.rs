//! The arithmetic of a clock that is made of a counter and follows the host's: pure functions of samples, tested over
//! simulated hours (`simulated.rs`).
//!
//! The host's clock is piecewise linear in the counter; where it bends (its discipline by NTP) only it knows. Ours is a
//! line too, which is renewed each time somebody needs it after its horizon. Its rules:
//!
//! 1. It never steps back: a new line starts where the old one has got to, or later.
//! 2. It never lags: at its start it is [`LEAD`] before the host's clock, which covers what can be known of the host's
//!    clock and how far the two can part within the horizon. So whatever the host has timed until T, this clock has
//!    passed T. If it has fallen behind all the same (the host's clock has bent), it leaps forward.
//! 3. If it is ahead by more than that, it runs slower, as much as brings it to where it should be by the end of its
//!    horizon, but at most by [`SLEW_LIMIT`].
//!
//! The horizon grows as long as the host's clock is where it was expected, and shrinks at once when it is not.

use super::NSEC_PER_SEC;

/// How far ahead of the host's clock a line starts, in nanoseconds: readings of the host's clock are a few tens of
/// nanoseconds wide.
pub const LEAD: i64 = 30;
/// One part in so many: the slowest our clock may be made to run.
pub const SLEW_LIMIT: i64 = 2000;
/// Bounds of the horizon, in nanoseconds.
pub const HORIZON: (i64, i64) = (250_000, 32_000_000);
/// A slope is not trusted unless measured over this many nanoseconds …
const BASELINE_MIN: i64 = 500_000;
/// … and old points are let go after this many: the host's clock bends.
const BASELINE_MAX: i64 = 2 * NSEC_PER_SEC;
/// Parts per billion by which the host may be expected to bend without anything being amiss.
const BEND: i64 = 200;
/// Fractional bits of slopes.
const SHIFT: u32 = coracle_abi::vvar::SHIFT;

/// A reading of a clock of the host, between two readings of the counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    pub before: u64,
    pub after: u64,
    pub ns: i64,
}

/// A clock as a line: at `cycles` it showed `ns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    pub cycles: u64,
    pub ns: i64,
    /// Nanoseconds per cycle, with 32 fractional bits.
    pub mult: u64,
}

/// Why a counter is no basis for a clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It was lower than before.
    RanBackwards,
    /// Its speed is not constant.
    ChangedSpeed,
    /// The host's clock was lower than before.
    HostRanBackwards,
}

/// Follows one clock of the host.
#[derive(Clone, Debug)]
pub struct Track {
    /// What is shown now and for how many cycles; none before the first.
    line: Option<(Line, u64)>,
    /// What was shown before the counter was lost sight of.
    floor: i64,
    /// The slope is measured from here …
    base: Point,
    /// … and soon from here,
    middle: Point,
    /// … to here.
    last: Point,
    /// Nanoseconds per cycle.
    slope: u64,
    /// The first slope measured well: what the counter's speed is, give or take the discipline of the host's clock.
    nominal: u64,
    /// In nanoseconds.
    horizon: i64,
}

/// Nanoseconds of so many cycles.
pub fn scale(cycles: u64, mult: u64) -> i64 {
    i64::try_from((u128::from(cycles) * u128::from(mult)) >> SHIFT).unwrap_or(i64::MAX)
}

/// Cycles of so many nanoseconds.
pub fn cycles_of(ns: i64, mult: u64) -> u64 {
    let ns = u128::from(ns.unsigned_abs()) << SHIFT;
    ns.checked_div(u128::from(mult)).and_then(|cycles| u64::try_from(cycles).ok()).unwrap_or(0)
}

impl Line {
    /// What it shows at a reading of the counter; before its start, what it starts with.
    pub fn at(&self, cycles: u64) -> i64 {
        self.ns.saturating_add(scale(cycles.saturating_sub(self.cycles), self.mult))
    }
}

impl Point {
    fn middle(&self) -> u64 {
        self.before + self.after.saturating_sub(self.before) / 2
    }

    fn width(&self) -> u64 {
        self.after.saturating_sub(self.before)
    }
}

impl Track {
    /// Nothing is known yet but where the host's clock stands.
    pub fn new(first: Point) -> Track {
        Track {
            line: None,
            floor: i64::MIN,
            base: first,
            middle: first,
            last: first,
            slope: 0,
            nominal: 0,
            horizon: HORIZON.0,
        }
    }

    /// The line to go by, and how many cycles it may be followed for.
    pub fn line(&self) -> Option<(Line, u64)> {
        self.line
    }

    /// The highest that anybody may have read when the counter stands at `at`.
    pub fn shown(&self, at: u64) -> i64 {
        let shown = self.line.map(|(line, limit)| line.at(at.min(line.cycles.saturating_add(limit))));
        self.floor.max(shown.unwrap_or(i64::MIN))
    }

    /// The host's clock was read again. `Ok(false)`: too early to know the counter's speed.
    pub fn learn(&mut self, point: Point) -> Result<bool, Unfit> {
        if point.before < self.last.after || point.after < point.before {
            return Err(Unfit::RanBackwards);
        }
        if point.ns < self.last.ns {
            return Err(Unfit::HostRanBackwards);
        }
        if self.slope != 0 {
            let elapsed = scale(point.middle().saturating_sub(self.last.middle()), self.slope);
            let error = point.ns.saturating_sub(self.last.ns).saturating_sub(elapsed);
            let width = scale(point.width().saturating_add(self.last.width()), self.slope) / 2;
            let bend = i64::try_from(i128::from(elapsed) * i128::from(BEND) / 1_000_000_000).unwrap_or(i64::MAX);
            if error.abs() <= width.saturating_add(bend).saturating_add(2) {
                self.horizon = self.horizon.saturating_mul(2);
            } else {
                // It has bent: what was before says nothing about the slope now.
                self.base = self.last;
                self.middle = self.last;
                self.horizon = HORIZON.0;
            }
        }
        self.measure(point)
    }

    fn measure(&mut self, point: Point) -> Result<bool, Unfit> {
        self.last = point;
        let cycles = point.middle().saturating_sub(self.base.middle());
        let ns = point.ns.saturating_sub(self.base.ns);
        let widths = point.width().saturating_add(self.base.width());
        if ns >= BASELINE_MIN && widths < cycles / 2000 {
            let slope = (u128::from(ns.unsigned_abs()) << SHIFT) / u128::from(cycles);
            let slope = u64::try_from(slope).unwrap_or(u64::MAX);
            if self.nominal == 0 {
                self.nominal = slope;
            }
            // The host's discipline goes up to a tenth (`adjtimex(2)`, tick).
            let apart = slope.abs_diff(self.nominal);
            if apart > self.nominal / 8 {
                return Err(Unfit::ChangedSpeed);
            }
            self.slope = slope;
            // Two readings of some width, some time apart: so far ahead can they be relied on.
            self.horizon = self.horizon.clamp(HORIZON.0, (ns / 4).clamp(HORIZON.0, HORIZON.1));
        }
        self.horizon = self.horizon.clamp(HORIZON.0, HORIZON.1);
        if ns > BASELINE_MAX {
            self.base = self.middle;
            self.middle = point;
        }
        Ok(self.slope != 0)
    }

    /// A new line from `at` on, which is a reading of the counter after all that was learnt and after the last reading
    /// that anybody could use the old line with. `None`: nothing was learnt yet.
    pub fn renew(&mut self, at: u64) -> Result<Option<(Line, u64)>, Unfit> {
        if at < self.last.after {
            return Err(Unfit::RanBackwards);
        }
        if self.slope == 0 {
            return Ok(None);
        }
        // The host's clock may have been read as early as `before`, and has shown only whole nanoseconds.
        let since = scale(at.saturating_sub(self.last.before), self.slope);
        let target = self.last.ns.saturating_add(since).saturating_add(1 + LEAD);
        let mut line = Line { cycles: at, ns: target, mult: self.slope };
        // One more than what was read: readers are not quite simultaneous with us, and round.
        let shown = self.shown(at).saturating_add(2);
        if shown > target {
            let ahead = shown.saturating_sub(target);
            let share = i128::from(ahead.min(self.horizon / SLEW_LIMIT)) << 32;
            let slower = share / i128::from(self.horizon.max(1));
            line.ns = shown;
            let less = (i128::from(self.slope) * slower) >> 32;
            line.mult = self.slope.saturating_sub(u64::try_from(less).unwrap_or(0));
        }
        let limit = cycles_of(self.horizon, line.mult.max(self.slope));
        self.line = Some((line, limit));
        Ok(self.line)
    }

    /// Begins anew, but will never show less than it has: the counter was lost sight of.
    pub fn restart(&mut self, first: Point) {
        *self = Track { floor: self.shown(u64::MAX), ..Track::new(first) };
    }
}

/// A constant difference between two clocks of the host, known to lie in an interval that readings narrow down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offset(pub i64);

impl Offset {
    /// From a first interval; zero if that is possible.
    pub fn new((low, high): (i64, i64)) -> Offset {
        Offset(if low <= 0 && high >= 0 { 0 } else { low })
    }

    /// Another interval. It changes only if it must: by little towards what it always was, or because the host's
    /// clock was set. Always the lower end, so that what is found out later never sets the clock back.
    pub fn learn(&mut self, (low, high): (i64, i64)) {
        if self.0 < low || self.0 > high {
            self.0 = low;
        }
    }
}
