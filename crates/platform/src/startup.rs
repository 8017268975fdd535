//! Where the time goes before a guest runs: `step("name")` marks the end of a piece of start-up work.
//!
//! On with `CORACLE_STARTUP_TRACE=1` or [`enable`] (`--trace=startup`); otherwise a step is one relaxed load.
//! Steps are kept until [`finish`], since writing to a terminal in between would be most of what is measured.

use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// Nobody has asked the environment yet.
const UNKNOWN: u8 = 0;
const OFF: u8 = 1;
const ON: u8 = 2;

static STATE: AtomicU8 = AtomicU8::new(UNKNOWN);
static LOG: Mutex<Option<Log>> = Mutex::new(None);

struct Step {
    name: &'static str,
    /// Since process start.
    at: Duration,
}

struct Log {
    /// The first step's instant and how old the process was then.
    first: (Instant, Duration),
    /// Steps not yet printed.
    kept: Vec<Step>,
    /// When the last printed step ended.
    printed: Duration,
    /// Print at once from now on.
    finished: bool,
}

/// Marks that everything up to here, since the step before, was `name`.
#[inline]
pub fn step(name: &'static str) {
    if STATE.load(Ordering::Relaxed) != OFF {
        record(name);
    }
}

/// Turns the trace on whatever the environment says.
pub fn enable() {
    STATE.store(ON, Ordering::Relaxed);
}

/// Is the trace on?
pub fn enabled() -> bool {
    if STATE.load(Ordering::Relaxed) == UNKNOWN {
        let on = std::env::var_os("CORACLE_STARTUP_TRACE").is_some_and(|value| !value.is_empty() && value != "0");
        let known = if on { ON } else { OFF };
        // `enable` may have come first, and wins.
        let _ = STATE.compare_exchange(UNKNOWN, known, Ordering::Relaxed, Ordering::Relaxed);
    }
    STATE.load(Ordering::Relaxed) == ON
}

/// Prints the steps so far; later ones are printed as they come. Call it when the guest runs, and when
/// starting it failed.
pub fn finish() {
    if enabled()
        && let Ok(mut slot) = LOG.lock()
        && let Some(log) = slot.as_mut()
    {
        log.finished = true;
        log.flush();
    }
}

#[cold]
fn record(name: &'static str) {
    if !enabled() {
        return;
    }
    let now = Instant::now();
    let Ok(mut slot) = LOG.lock() else { return };
    let log = slot.get_or_insert_with(|| Log::starting(now));
    let at = log.first.1 + now.saturating_duration_since(log.first.0);
    log.kept.push(Step { name, at });
    if log.finished {
        log.flush();
    }
}

impl Log {
    fn starting(now: Instant) -> Self {
        Self { first: (now, age()), kept: Vec::with_capacity(64), printed: Duration::ZERO, finished: false }
    }

    /// One write, so that lines of several processes do not mix.
    fn flush(&mut self) {
        let mut text = String::new();
        for step in self.kept.drain(..) {
            text.push_str(&line(&step, self.printed));
            self.printed = step.at;
        }
        // A closed stderr is no reason to fail a run.
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
}

fn line(step: &Step, before: Duration) -> String {
    let took = step.at.saturating_sub(before);
    format!("startup {:>9} us  +{:>7} us  {}\n", step.at.as_micros(), took.as_micros(), step.name)
}

/// How long ago this process was born. `/proc/self/stat` knows it in ticks of 10 ms only; a starting process
/// does nothing but run and wait for a CPU, and the host counts both in ns: clock_getres(2) for the first,
/// the second field of `/proc/self/schedstat` (Documentation/scheduler/sched-stats.rst) for the other.
fn age() -> Duration {
    let ran = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let ran = Duration::try_from(ran).unwrap_or_default();
    let waited = std::fs::read_to_string("/proc/self/schedstat").ok();
    let waited = waited.as_ref().and_then(|text| text.split_ascii_whitespace().nth(1)?.parse().ok());
    ran.saturating_add(Duration::from_nanos(waited.unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_show_age_and_step() {
        let step = Step { name: "zygote", at: Duration::from_micros(1500) };
        assert_eq!(line(&step, Duration::from_micros(1200)), "startup      1500 us  +    300 us  zygote\n");
    }

    #[test]
    fn a_process_knows_its_age() {
        assert!(age() > Duration::ZERO);
    }

    #[test]
    fn steps_are_kept_until_finish() {
        enable();
        step("one");
        step("two");
        let kept = LOG.lock().unwrap().as_ref().map(|log| log.kept.len());
        assert_eq!(kept, Some(2));
        finish();
        step("three");
        assert_eq!(LOG.lock().unwrap().as_ref().map(|log| log.kept.len()), Some(0));
    }
}
