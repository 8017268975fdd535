//! The command line: a file per subcommand, each ending in a plain call of the library.
#![forbid(unsafe_code)]

mod bench;
mod bounded;
mod completions;
mod doctor;
mod exec;
mod json;
mod kill;
mod parse;
mod ps;
mod run;
mod shown;

use std::ffi::OsString;
use std::io::Write;
use std::panic::catch_unwind;
use std::process::ExitCode;

use clap::{Args, FromArgMatches, Parser, Subcommand};
use coracle::shown::Text;
use coracle::{child, startup};

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
    match parse_command(std::env::args_os().collect()) {
        Ok(command) => dispatch(command),
        Err(err) => ExitCode::from(misuse(&err)),
    }
}

coracle::before_main!(AT_ONCE, run_at_once);

/// `coracle run` goes without what Rust's runtime does around `main`, which takes a tenth of a millisecond: it reads
/// `/proc/self/maps` and gives every thread a second stack, to print a line when a stack overflows. Here that is a plain
/// SIGSEGV.
fn run_at_once() {
    if std::env::args_os().nth(1).is_none_or(|word| word != "run") {
        // `exec` hands on what the runtime is about to change.
        child::note_broken_pipes();
        return;
    }
    startup::step("exec, C runtime");
    child::stand_in_for_runtime();
    let run = || match parse_run(std::env::args_os().collect()) {
        Ok(args) => run::run(args),
        Err(err) => misuse(&err),
    };
    let status = catch_unwind(run).unwrap_or(FAILED);
    let _ = std::io::stdout().flush();
    child::exit_at_once(status)
}

/// What clap has to say, a wish for help included; the status to end with.
fn misuse(err: &clap::Error) -> u8 {
    if err.use_stderr() {
        eprintln!("coracle: {}", one_line(err));
        return FAILED;
    }
    // Printing can only fail when the terminal is gone; nobody would read about it.
    let _ = err.print();
    0
}

/// What clap says in paragraphs, in one line: what is wrong and its tip, then where to read on.
fn one_line(err: &clap::Error) -> String {
    let text = err.to_string();
    let parts = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let parts = parts.filter(|line| !line.is_empty() && !line.starts_with("For more information"));
    let said = parts.collect::<Vec<_>>().join(" ").replace(" tip: ", "; ");
    let said = said.strip_prefix("error: ").unwrap_or(&said);
    format!("{said} (`--help` says more)")
}

/// `coracle run` is what start-up time is about: without options there is nothing to parse, and with some only the
/// description of its own options is built, half of the time that the whole tree takes.
fn parse_run(args: Vec<OsString>) -> Result<run::RunArgs, clap::Error> {
    if let Some(plain) = run::RunArgs::plain(&args) {
        return Ok(plain);
    }
    let command = run::RunArgs::augment_args(clap::Command::new("coracle run").bin_name("coracle run"));
    let matches = command.try_get_matches_from(args.into_iter().skip(1))?;
    run::RunArgs::from_arg_matches(&matches)
}

fn parse_command(args: Vec<OsString>) -> Result<Command, clap::Error> {
    if args.get(1).is_some_and(|word| word == "run") {
        return Ok(Command::Run(Box::new(parse_run(args)?)));
    }
    Ok(Cli::try_parse_from(args)?.command)
}

fn dispatch(command: Command) -> ExitCode {
    match command {
        Command::Run(args) => ExitCode::from(run::run(*args)),
        Command::Ps(args) => ps::run(args),
        Command::Kill(args) => kill::run(args),
        Command::Exec(args) => exec::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Completions(args) => completions::run(args),
    }
}

/// Reports an error the one way all subcommands do. It may quote a guest.
fn complain(err: &dyn std::error::Error) {
    eprintln!("coracle: {}", Text(&err.to_string()));
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn the_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn run_is_the_same_with_and_without_the_rest_of_the_tree() {
        let line = "coracle run --memory 64M --trace=syscalls:read -- ls -l";
        let quick = parse_command(words(line)).unwrap();
        let whole = Cli::try_parse_from(words(line)).unwrap().command;
        assert_eq!(format!("{quick:?}"), format!("{whole:?}"));
        for line in ["coracle run ls -l", "coracle run -- ls -l", "coracle run -- -x"] {
            assert!(run::RunArgs::plain(&words(line)).is_some());
            let quick = parse_command(words(line)).unwrap();
            let whole = Cli::try_parse_from(words(line)).unwrap().command;
            assert_eq!(format!("{quick:?}"), format!("{whole:?}"));
        }
        for line in ["coracle run", "coracle run --", "coracle run --json ls", "coracle run -e A=1 ls"] {
            assert!(run::RunArgs::plain(&words(line)).is_none());
        }
        let wrong = words("coracle run --no-such-option");
        let quick = parse_command(wrong.clone()).unwrap_err().to_string();
        assert_eq!(quick, Cli::try_parse_from(wrong).unwrap_err().to_string());
        let help = parse_command(words("coracle run --help")).unwrap_err().to_string();
        assert_eq!(help, Cli::try_parse_from(words("coracle run --help")).unwrap_err().to_string());
    }
}
