//! One row: alternating pairs of runs, medians, and the lane that the counters show.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use coracle::{Lanes, Outcome};

use super::guest::Guest;
use super::launch::{Finished, Job, Peer, Side, argv};
use super::rows::{Kind, Program, Row};
use super::stats::median;

/// How long the guest measures in one process.
const BUDGET_MS: u64 = 75;
/// No process of a row may take longer.
const LIMIT: Duration = Duration::from_secs(20);
/// Rows whose single run says little take this many times the pairs: whole processes, and round trips, which
/// cost ten times as much when the host happens to put the two sides on different CPUs.
const UNSTEADY_FACTOR: u32 = 3;
/// Peers are for orientation; some take a second for each row.
const PEER_ROUNDS: u32 = 3;

/// A row's figures.
#[derive(Debug, Clone)]
pub struct Measured {
    pub native_ns: f64,
    pub coracle_ns: f64,
    /// Median of the pairs' ratios.
    pub ratio: f64,
    /// How most calls were served, as in `3` or `2+3`; `-` for no calls, `?` when the run told nothing.
    pub lane: String,
    /// Pairs.
    pub samples: usize,
    /// In the order of [`Measurer::peers`]; `None` where it failed.
    pub peers: Vec<(Peer, Option<f64>)>,
}

/// Why a run gave no figure.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("it ended with {status} and said: {said}")]
    Status { status: ExitStatus, said: String },
    #[error("it was not done after {0:?}")]
    TooLong(Duration),
    #[error("its output is not `ROW NS OPS`: {0:?}")]
    Output(String),
    #[error("{} is not installed", .0.display())]
    NotInstalled(PathBuf),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("natively, {0}")]
    Native(Box<Problem>),
    #[error("inside, {0}")]
    Inside(Box<Problem>),
}

impl Problem {
    /// Is it only that the program is not there?
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::NotInstalled(_))
    }
}

/// One run of one side.
struct Sample {
    ns: f64,
    ops: u64,
    lanes: Option<Lanes>,
}

pub struct Measurer {
    guest: Guest,
    peers: Vec<Peer>,
    pairs: u32,
    /// Calls of a guest process that does nothing: start-up and end.
    idle_lanes: Option<Lanes>,
}

impl Measurer {
    pub fn new(guest: Guest, peers: bool, pairs: u32) -> Self {
        let peers = if peers { Peer::installed() } else { Vec::new() };
        let mut measurer = Self { guest, peers, pairs, idle_lanes: None };
        let inside = Side::Coracle(vec!["--json"]);
        // Also warms both sides up.
        measurer.idle_lanes = measurer.sample(&inside, Kind::Inside("nothing")).ok().and_then(|idle| idle.lanes);
        measurer
    }

    pub fn peers(&self) -> &[Peer] {
        &self.peers
    }

    pub fn measure(&self, row: &Row) -> Result<Measured, Problem> {
        let whole = matches!(row.kind, Kind::Whole(_));
        let unsteady = whole || row.name.ends_with("_pingpong");
        let rounds = self.pairs.saturating_mul(if unsteady { UNSTEADY_FACTOR } else { 1 });
        // Whole processes are run without --json: printing is not what is measured.
        let inside = Side::Coracle(if whole { Vec::new() } else { vec!["--json"] });
        let mut pairs: Vec<(f64, f64)> = Vec::new();
        let mut lanes: Option<(Lanes, u64)> = None;
        let mut peers: Vec<(Peer, Vec<f64>)> = self.peers.iter().map(|peer| (*peer, Vec::new())).collect();
        for round in 0..rounds {
            let native = || {
                self.sample(&Side::Native, row.kind).map_err(|why| match why {
                    absent @ Problem::NotInstalled(_) => absent,
                    other => Problem::Native(Box::new(other)),
                })
            };
            let coracle = || self.sample(&inside, row.kind).map_err(|why| Problem::Inside(Box::new(why)));
            // Who goes first alternates, so that neither always finds the caches as the other left them.
            let (native, coracle) = if round % 2 == 0 {
                let native = native()?;
                (native, coracle()?)
            } else {
                let coracle = coracle()?;
                (native()?, coracle)
            };
            pairs.push((native.ns, coracle.ns));
            lanes = coracle.lanes.map(|lanes| (lanes, coracle.ops)).or(lanes);
            for (peer, figures) in &mut peers {
                if round < PEER_ROUNDS {
                    figures.extend(self.sample(&Side::Peer(*peer), row.kind).map(|sample| sample.ns));
                }
            }
        }
        if whole {
            let counted = self.sample(&Side::Coracle(vec!["--json"]), row.kind);
            lanes = counted.ok().and_then(|sample| sample.lanes).map(|lanes| (lanes, 1));
        }
        let of = |pick: fn(&(f64, f64)) -> f64| median(&pairs.iter().map(pick).collect::<Vec<_>>());
        let idle = if whole { None } else { self.idle_lanes };
        Ok(Measured {
            native_ns: of(|pair| pair.0).unwrap_or(0.0),
            coracle_ns: of(|pair| pair.1).unwrap_or(0.0),
            ratio: of(|pair| pair.1 / pair.0).unwrap_or(0.0),
            lane: lanes.map_or_else(|| "?".to_owned(), |(lanes, ops)| lane(lanes, idle.unwrap_or_default(), ops)),
            samples: pairs.len(),
            peers: peers.into_iter().map(|(peer, figures)| (peer, median(&figures))).collect(),
        })
    }

    fn sample(&self, side: &Side, kind: Kind) -> Result<Sample, Problem> {
        match kind {
            Kind::Inside(name) => self.sample_inside(side, name, false),
            Kind::InsideOneCpu(name) => self.sample_inside(side, name, true),
            Kind::Against { native, inside } => {
                let name = if matches!(side, Side::Coracle(_)) { inside } else { native };
                self.sample_inside(side, name, false)
            }
            Kind::Whole(program) => self.sample_whole(side, program),
        }
    }

    fn sample_inside(&self, side: &Side, name: &str, one_cpu: bool) -> Result<Sample, Problem> {
        let mut argv = argv(&self.guest.bench, &[name, &BUDGET_MS.to_string()]);
        argv.push(self.guest.data.clone().into());
        argv.push(self.guest.hello_static.clone().into());
        let finished = side.run(&Job { argv, dir: &self.guest.dir, one_cpu, limit: LIMIT })?;
        let (ns, ops) = parse_line(&finished.stdout, name)?;
        Ok(Sample { ns, ops, lanes: lanes_of(&finished) })
    }

    fn sample_whole(&self, side: &Side, program: Program) -> Result<Sample, Problem> {
        let argv = match program {
            Program::HelloStatic => argv(&self.guest.hello_static, &[]),
            Program::HelloDynamic => argv(&self.guest.hello_dynamic, &[]),
            Program::Python => {
                let python = PathBuf::from("/usr/bin/python3");
                if !python.exists() {
                    return Err(Problem::NotInstalled(python));
                }
                argv(&python, &["-c", "pass"])
            }
        };
        let finished = side.run(&Job { argv, dir: &self.guest.dir, one_cpu: false, limit: LIMIT })?;
        Ok(Sample { ns: finished.wall.as_secs_f64() * 1e9, ops: 1, lanes: lanes_of(&finished) })
    }
}

/// `ROW NS OPS`.
pub fn parse_line(stdout: &str, name: &str) -> Result<(f64, u64), Problem> {
    let parsed = || {
        let mut words = stdout.lines().last()?.split_whitespace();
        let named = words.next()? == name;
        let ns: f64 = words.next()?.parse().ok()?;
        let ops: u64 = words.next()?.parse().ok()?;
        (named && ns > 0.0).then_some((ns, ops))
    };
    parsed().ok_or_else(|| Problem::Output(stdout.to_owned()))
}

/// The counters of a run's `--json` line, which comes last on stderr.
fn lanes_of(finished: &Finished) -> Option<Lanes> {
    let line = finished.stderr.lines().rev().find(|line| line.starts_with('{'))?;
    serde_json::from_str::<Outcome>(line).ok().map(|outcome| outcome.lanes)
}

/// Names every lane that served a fifth or more of the row's own calls, if an operation makes any.
fn lane(total: Lanes, idle: Lanes, ops: u64) -> String {
    let own = [
        ("1", total.identity.saturating_sub(idle.identity)),
        ("2", total.memory.saturating_sub(idle.memory)),
        ("3", total.port.saturating_sub(idle.port)),
        ("4", total.trap.saturating_sub(idle.trap)),
    ];
    let sum: u64 = own.iter().map(|(_, calls)| calls).sum();
    if sum.saturating_mul(10) < ops || sum == 0 {
        return "-".to_owned();
    }
    let main = own.iter().filter(|(_, calls)| calls.saturating_mul(5) >= sum).map(|(name, _)| *name);
    main.collect::<Vec<_>>().join("+")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes(identity: u64, memory: u64, port: u64, trap: u64) -> Lanes {
        Lanes { identity, memory, port, trap }
    }

    #[test]
    fn the_lane_is_what_was_counted() {
        let idle = lanes(0, 10, 20, 30);
        assert_eq!(lane(lanes(1000, 10, 20, 30), idle, 1000), "1");
        assert_eq!(lane(lanes(0, 1010, 1020, 30), idle, 1000), "2+3");
        assert_eq!(lane(lanes(0, 10, 20, 1030), idle, 1000), "4");
        assert_eq!(lane(lanes(0, 12, 25, 33), idle, 1000), "-");
        assert_eq!(lane(lanes(0, 0, 0, 0), idle, 0), "-");
    }

    #[test]
    fn lines_of_the_guest() {
        assert_eq!(parse_line("stat 12.5 99\n", "stat").unwrap(), (12.5, 99));
        assert!(parse_line("stat 12.5 99\n", "getpid").is_err());
        assert!(parse_line("", "stat").is_err());
        assert!(parse_line("stat nan x\n", "stat").is_err());
    }
}
