//! `coracle bench waiting`: is adaptive waiting near the better of always spinning and never spinning, with
//! fewer guests than CPUs, as many, and more?

use std::time::Duration;

use clap::Args;

use super::launch::{Job, Side, argv};
use super::measure::{Problem, parse_line};
use super::stats::median;
use super::{BenchError, guest, progress, stats};

/// Compare the ways in which the two sides of a port can wait for each other.
///
/// 1, 2 and 4 guests, as threads of one sandbox and as sandboxes of their own, bound to no CPU, make calls that
/// only the kernel can answer: back to back, and mixed with computing. The figures are wall time per call of all
/// guests together; the last column says how adaptive waiting stands to the better of the other two.
#[derive(Debug, Args)]
pub struct WaitingArgs {
    /// How often each case is measured.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,

    /// Milliseconds of each measurement.
    #[arg(long, value_name = "MS", default_value_t = 250, value_parser = clap::value_parser!(u32).range(10..=60_000))]
    span: u32,
}

const POLICIES: [&str; 3] = ["adaptive", "spin", "sleep"];
const LOADS: [&str; 2] = ["waiting-calls", "waiting-mixed"];
const GUESTS: [u32; 3] = [1, 2, 4];

/// Adaptive may be this many times slower than the better of the others.
const MARGIN: f64 = 1.10;

/// What a guest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Guests {
    Threads,
    Sandboxes,
}

/// False: adaptive waiting was out of its margin somewhere.
pub fn run(args: WaitingArgs) -> Result<bool, BenchError> {
    super::warn_of_debug_build();
    let guest = guest::build()?;
    println!(
        "{:<10} {:<10} {:>6} {:>12} {:>12} {:>12}  adaptive to the better",
        "load", "guests", "number", POLICIES[0], POLICIES[1], POLICIES[2]
    );
    let mut good = true;
    for load in LOADS {
        for kind in [Guests::Threads, Guests::Sandboxes] {
            for number in GUESTS {
                if (kind, number) == (Guests::Sandboxes, 1) {
                    continue; // The same as one thread.
                }
                let name = load.trim_start_matches("waiting-");
                let what = format!("{name:<10} {:<10} {number:>6}", kind.name());
                progress(&format!("{what} …"));
                let figures = case(&guest, &args, load, kind, number);
                progress("");
                match figures {
                    Ok(figures) => {
                        let (verdict, within) = judge(figures);
                        let [adaptive, spin, sleep] = figures.map(stats::nanos);
                        println!("{what} {adaptive:>12} {spin:>12} {sleep:>12}  {verdict}");
                        good &= within;
                    }
                    Err(problem) => {
                        println!("{what} failed: {problem}");
                        good = false;
                    }
                }
            }
        }
    }
    Ok(good)
}

/// Medians of ns per call, in the order of [`POLICIES`]. Policies alternate within each round.
fn case(
    guest: &guest::Guest,
    args: &WaitingArgs,
    load: &str,
    kind: Guests,
    number: u32,
) -> Result<[f64; 3], Problem> {
    let mut figures: [Vec<f64>; 3] = Default::default();
    for _ in 0..args.rounds {
        for (policy, taken) in POLICIES.iter().zip(&mut figures) {
            taken.push(once(guest, args.span, load, kind, number, policy)?);
        }
    }
    Ok(figures.map(|taken| median(&taken).unwrap_or(f64::NAN)))
}

/// ns of wall time per call, all guests together.
fn once(
    guest: &guest::Guest,
    span: u32,
    load: &str,
    kind: Guests,
    number: u32,
    policy: &'static str,
) -> Result<f64, Problem> {
    let (sandboxes, threads) = match kind {
        Guests::Threads => (1, number),
        Guests::Sandboxes => (number, 1),
    };
    let side = Side::Coracle(vec!["--wait-policy", policy]);
    let argv = argv(&guest.bench, &[load, &threads.to_string(), &span.to_string()]);
    let limit = Duration::from_millis(u64::from(span)).saturating_mul(10) + Duration::from_secs(10);
    let job = Job { argv, dir: &guest.dir, one_cpu: false, limit };
    let running: Vec<_> = (0..sandboxes).map(|_| side.start(&job)).collect::<Result<_, _>>()?;
    // All are waited for before any failure is told, so that none is left behind.
    let finished: Vec<_> = running.into_iter().map(|one| one.finish()).collect();
    let mut calls_per_ns = 0.0;
    for one in finished {
        let (ns, _) = parse_line(&one?.stdout, load)?;
        calls_per_ns += 1.0 / ns;
    }
    Ok(1.0 / calls_per_ns)
}

fn judge([adaptive, spin, sleep]: [f64; 3]) -> (String, bool) {
    let ratio = adaptive / spin.min(sleep);
    let within = ratio <= MARGIN;
    (format!("{} {}", stats::ratio(ratio), if within { "" } else { "! over 1.10x" }).trim_end().to_owned(), within)
}

impl Guests {
    fn name(self) -> &'static str {
        match self {
            Self::Threads => "threads",
            Self::Sandboxes => "sandboxes",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_margin_is_a_tenth() {
        assert!(judge([109.0, 100.0, 500.0]).1);
        assert!(!judge([111.0, 500.0, 100.0]).1);
        assert!(!judge([f64::NAN, 1.0, 1.0]).1);
    }
}
