//! `coracle bench idle`: what a started sandbox costs while its guest does nothing.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use clap::Args;

use super::{BenchError, progress};

/// What a sandbox costs whose program sleeps.
///
/// Memory and CPU time, as the host counts them, of the kernel process and of its workers, beside the same program
/// run natively. `resident` counts pages that are shared with others in full (RSS), `proportional` by share (PSS).
#[derive(Debug, Args)]
pub struct IdleArgs {
    /// Seconds to watch.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
}

/// Most memory beyond the guest's own, and most CPU time in a second at rest.
const MEMORY: u64 = 10 << 20;
const CPU: Duration = Duration::from_micros(100);
/// Long enough for everything that only starting takes.
const SETTLE: Duration = Duration::from_millis(1500);

/// A process that sleeps, ended when dropped.
struct Sleeper(Child);

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What some processes hold and have used.
#[derive(Clone, Copy, Default)]
struct Held {
    resident: u64,
    proportional: u64,
    cpu: Duration,
}

impl std::iter::Sum for Held {
    fn sum<I: Iterator<Item = Held>>(each: I) -> Held {
        each.fold(Held::default(), |sum, one| Held {
            resident: sum.resident + one.resident,
            proportional: sum.proportional + one.proportional,
            cpu: sum.cpu + one.cpu,
        })
    }
}

/// False: it costs more than it should.
pub fn run(args: IdleArgs) -> Result<bool, BenchError> {
    let start = |inside: bool| {
        let mut words = vec!["sleep".to_owned(), (args.seconds + 60).to_string()];
        if inside {
            let own = fs::read_link("/proc/self/exe")?.to_string_lossy().into_owned();
            words.splice(0..0, [own, "run".to_owned(), "--".to_owned()]);
        }
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).spawn().map(Sleeper)
    };
    let failed = |source| BenchError::Idle { what: "cannot start a program that sleeps", source };
    let native = start(false).map_err(failed)?;
    let kernel = start(true).map_err(failed)?;
    progress("idle …");
    sleep(SETTLE);
    let workers = children(kernel.0.id());
    let everyone = [&[kernel.0.id()], &workers[..]].concat();
    let before: Held = everyone.iter().map(|pid| held(*pid)).sum();
    sleep(Duration::from_secs(args.seconds.into()));
    progress("");
    let after: Held = everyone.iter().map(|pid| held(*pid)).sum();
    let (own, guest) = (held(kernel.0.id()), held(native.0.id()));
    if workers.is_empty() || guest.resident == 0 || own.resident == 0 {
        let source = std::io::Error::other("the host does not show their memory (/proc/PID/smaps_rollup)");
        return Err(BenchError::Idle { what: "a sandbox at rest cannot be measured", source });
    }
    let cpu = after.cpu.saturating_sub(before.cpu);
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!("{:<26} {:>13} {:>13}", "", "resident", "proportional");
    let line = |name: &str, held: Held| {
        println!("{name:<26} {:>9.2} MiB {:>9.2} MiB", mib(held.resident), mib(held.proportional));
    };
    line("kernel process", own);
    line(&format!("its workers ({})", workers.len()), workers.iter().map(|pid| held(*pid)).sum());
    line("the program, natively", guest);
    let beyond = after.proportional.saturating_sub(guest.proportional);
    println!("beyond the guest's own     {:>9.2} MiB (goal: under {:.0} MiB)", mib(beyond), mib(MEMORY));
    println!("CPU time in {} s            {:>9.3} ms (goal: none)", args.seconds, cpu.as_secs_f64() * 1e3);
    Ok(beyond < MEMORY && cpu < CPU * args.seconds)
}

/// Children of all threads of a process.
fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

/// Zero for what the host does not say.
fn held(pid: u32) -> Held {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let kilobytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        kilobytes.unwrap_or(0) << 10
    };
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    // Documentation/scheduler/sched-stats.rst: time on a CPU in ns comes first.
    let ran = tasks.filter_map(|task| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
    });
    Held { resident: field("Rss:"), proportional: field("Pss:"), cpu: ran.sum() }
}
