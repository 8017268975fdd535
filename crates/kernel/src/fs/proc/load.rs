//! CPU time of the sandbox as a whole, and the load averages made from it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::stat::{State, task_state};
use crate::task::usage;
use crate::world::World;

/// CPU time that the guests of a sandbox have used so far, the dead ones included: user, system.
///
/// What a process that was waited for has used is its parent's children's; those that nobody waits for are
/// forgotten, as they are on Linux.
pub fn cpu_time(world: &World) -> (Duration, Duration) {
    let mut sum = (Duration::ZERO, Duration::ZERO);
    for process in world.processes() {
        let (user, system) = usage::times(&process);
        let children = usage::of_children(&process);
        sum.0 += user + usage::duration(children.ru_utime);
        sum.1 += system + usage::duration(children.ru_stime);
    }
    sum
}

/// Threads that run or could run, and all threads.
pub fn running(world: &World) -> (usize, usize) {
    let tasks: Vec<_> = world.processes().iter().flat_map(|process| process.tasks()).collect();
    let running = tasks.iter().filter(|task| task_state(task) == State::Running).count();
    (running, tasks.len())
}

/// Averages over 1, 5 and 15 minutes, brought up to date when somebody looks: between two looks the load is
/// taken to have been what CPU time shows it was. Nothing ticks while nobody looks.
#[derive(Default)]
pub struct Load {
    averages: [f64; 3],
    /// When it was last looked at, and the CPU time by then.
    last: Option<(Instant, Duration)>,
}

const SPANS: [f64; 3] = [60.0, 300.0, 900.0];
/// Looks that come faster than this change nothing (`LOAD_FREQ`).
const SHORTEST: Duration = Duration::from_secs(5);

impl Load {
    /// The averages as of now.
    pub fn look(&mut self, world: &Arc<World>) -> [f64; 3] {
        let now = Instant::now();
        let (user, system) = cpu_time(world);
        self.step(now, user + system, world.boot)
    }

    fn step(&mut self, now: Instant, used: Duration, boot: Instant) -> [f64; 3] {
        let (since, before) = self.last.unwrap_or((boot, Duration::ZERO));
        let span = now.saturating_duration_since(since);
        if span < SHORTEST && self.last.is_some() {
            return self.averages;
        }
        let seconds = span.as_secs_f64();
        if seconds > 0.0 {
            let load = used.saturating_sub(before).as_secs_f64() / seconds;
            for (average, whole) in self.averages.iter_mut().zip(SPANS) {
                let keep = (-seconds / whole).exp();
                *average = *average * keep + load * (1.0 - keep);
            }
        }
        self.last = Some((now, used));
        self.averages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_rise_and_fall() {
        let boot = Instant::now();
        let mut load = Load::default();
        let minute = Duration::from_secs(60);
        // Two CPUs busy for a minute.
        let [one, five, fifteen] = load.step(boot + minute, 2 * minute, boot);
        assert!((one - 1.264).abs() < 0.01 && five < one && fifteen < five);
        // Then nothing.
        let [later, ..] = load.step(boot + 3 * minute, 2 * minute, boot);
        assert!(later < one / 5.0);
    }
}
