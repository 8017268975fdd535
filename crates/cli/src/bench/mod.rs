//! `coracle bench`: what each crossing costs inside, beside native, measured in the same run.
//!
//! One guest program runs one row per process ([`guest`] builds it), natively and inside in turn ([`launch`]
//! starts both the same way); medians of pairs make the table ([`table`]). The lane of a row is what the
//! counters of the run say, not what the row was meant to take.

mod crossings;
mod guest;
mod idle;
mod launch;
mod machine;
mod measure;
mod rows;
mod stats;
mod table;
mod waiting;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Args, Subcommand, ValueHint};

use measure::{Measured, Measurer};
use rows::Row;

/// Measure what crossings cost here, inside and natively.
///
/// Every row runs natively and inside in turn, several times, and shows the medians. `lane` says how most of
/// the row's calls were served: 1 in the guest, 2 by the host in the guest's own thread, 3 by the kernel
/// through shared memory, 4 by a trap; `-` means that the row makes no calls to speak of. It needs a C
/// compiler, since the guest is compiled against this system's own libc.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub struct BenchArgs {
    #[command(subcommand)]
    experiment: Option<Experiment>,

    /// Run only these rows, as in `--rows getpid,stat`.
    #[arg(long, value_delimiter = ',', value_name = "ROW,…")]
    rows: Vec<String>,

    /// Write the results as JSON: {"machine": {…}, "rows": [{"name", "lane", "native_ns", …}]}.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    json: Option<PathBuf>,

    /// Run everything under bwrap and runsc too, where they are installed.
    #[arg(long)]
    peers: bool,

    /// Pairs of runs for each row.
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pairs: u32,

    /// List the rows and what each measures.
    #[arg(long)]
    list: bool,
}

const EXAMPLES: &str = "\
Examples:
  coracle bench                                   everything, in under two minutes
  coracle bench --rows getpid,null_port,null_trap
  coracle bench --json today.json --peers
  coracle bench waiting                           how waiting sides should wait
  coracle bench crossings --plot crossings.svg    entering and leaving, from a function call to ptrace
  coracle bench idle                              what a sandbox at rest holds";

#[derive(Debug, Subcommand)]
enum Experiment {
    Waiting(waiting::WaitingArgs),
    Crossings(crossings::CrossingsArgs),
    Idle(idle::IdleArgs),
}

/// Why no figures can be given.
#[derive(Debug, thiserror::Error)]
enum BenchError {
    #[error("there is no row {0}; `coracle bench --list` shows them")]
    NoSuchRow(String),
    #[error(transparent)]
    Guest(#[from] guest::GuestError),
    #[error("{what}: {source}")]
    Idle { what: &'static str, source: std::io::Error },
    #[error("cannot write {}: {source}", .path.display())]
    Json { path: PathBuf, source: std::io::Error },
}

pub fn run(args: BenchArgs) -> ExitCode {
    let done = match args.experiment {
        Some(Experiment::Waiting(args)) => waiting::run(args),
        Some(Experiment::Crossings(args)) => crossings::run(args),
        Some(Experiment::Idle(args)) => idle::run(args),
        None if args.list => {
            table::list();
            Ok(true)
        }
        None => rows_of_everything(&args),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(err) => {
            crate::complain(&err);
            ExitCode::from(crate::FAILED)
        }
    }
}

/// Figures of a debug build mislead; say so once.
fn warn_of_debug_build() {
    if cfg!(debug_assertions) {
        eprintln!("coracle: this is a debug build; figures of a release build are what counts");
    }
}

/// Measures and prints. False: some row could not be measured.
fn rows_of_everything(args: &BenchArgs) -> Result<bool, BenchError> {
    let chosen = rows::choose(&args.rows).map_err(BenchError::NoSuchRow)?;
    warn_of_debug_build();
    let started = Instant::now();
    let measurer = Measurer::new(guest::build()?, args.peers, args.pairs);
    let machine = machine::Machine::here();
    println!("{machine}");
    println!("{}", table::header(measurer.peers()));
    let mut results: Vec<(&Row, Measured)> = Vec::new();
    let mut complete = true;
    for row in chosen {
        progress(&format!("{} …", row.name));
        let measured = measurer.measure(row);
        progress("");
        match measured {
            Ok(measured) => {
                println!("{}", table::line(row, &measured));
                results.push((row, measured));
            }
            Err(problem) if problem.is_absence() => println!("{:<22} skipped: {problem}", row.name),
            Err(problem) => {
                complete = false;
                println!("{:<22} failed: {problem}", row.name);
            }
        }
    }
    println!("{}", table::footer(&results, started.elapsed()));
    if let Some(path) = &args.json {
        let text = table::json(&machine, &results);
        std::fs::write(path, text).map_err(|source| BenchError::Json { path: path.clone(), source })?;
    }
    Ok(complete)
}

/// A line that the next one overwrites, for people only.
fn progress(text: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K{text}");
    }
}
