//! The command line: a file per subcommand, each ending in a plain call of the library.
#![forbid(unsafe_code)]

mod bench;
mod bounded;
mod completions;
mod doctor;
mod exec;
mod kill;
mod parse;
mod ps;
mod run;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use coracle::startup;

/// Runs unmodified Linux programs, each in a light vessel of its own.
///
/// The program runs natively; its system calls are served by Coracle's own kernel, never by the host's.
/// It sees the host's files read-only, keeps its writes in memory, and has no network unless you say so.
#[derive(Debug, Parser)]
#[command(name = "coracle", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
First steps:
  coracle run -- python3 -c 'print(\"hello from inside\")'
  coracle run --diff -- make            see what a build would write, without letting it
  coracle doctor                        what this host can do, and how to mend what it cannot

`coracle help COMMAND` explains a command and its options.";

#[derive(Debug, Subcommand)]
enum Command {
    Run(Box<run::RunArgs>),
    Ps(ps::PsArgs),
    Kill(kill::KillArgs),
    Exec(exec::ExecArgs),
    Doctor(doctor::DoctorArgs),
    Bench(bench::BenchArgs),
    Completions(completions::CompletionsArgs),
}

/// Status of Coracle's own failures, bad options included, so that a guest's status is never mistaken for
/// one: 126 and 127 are left to "not executable" and "not found" as in the shell.
const FAILED: u8 = 125;

fn main() -> ExitCode {
    startup::step("exec, dynamic linking, runtime");
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(err) => {
            // Printing can only fail when the terminal is gone; nobody would read about it.
            let _ = err.print();
            return if err.use_stderr() { ExitCode::from(FAILED) } else { ExitCode::SUCCESS };
        }
    };
    match cli.command {
        Command::Run(args) => run::run(*args),
        Command::Ps(args) => ps::run(args),
        Command::Kill(args) => kill::run(args),
        Command::Exec(args) => exec::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Completions(args) => completions::run(args),
    }
}

/// Reports an error the one way all subcommands do.
fn complain(err: &dyn std::error::Error) {
    eprintln!("coracle: {err}");
}
