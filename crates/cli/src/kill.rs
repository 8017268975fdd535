//! `coracle kill`: end sandboxes, or signal their first process.

use std::process::ExitCode;

use clap::Args;
use coracle::control::{self, ControlError};

use crate::parse;

/// End running sandboxes.
///
/// Without --signal everything in the sandbox is gone at once. With it, the first process of the sandbox gets
/// the signal and does with it what it wants; KILL ends the sandbox.
#[derive(Debug, Args)]
pub struct KillArgs {
    /// Which, by id or its beginning; `coracle ps` lists them.
    #[arg(value_name = "ID", required_unless_present = "all")]
    ids: Vec<String>,

    /// All of yours.
    #[arg(long, conflicts_with = "ids")]
    all: bool,

    /// Send this signal, by name or number.
    #[arg(long, short, value_name = "SIGNAL", value_parser = parse::signal, default_value = "KILL")]
    signal: i32,
}

pub fn run(args: KillArgs) -> ExitCode {
    let chosen: Vec<Result<control::Sandbox, ControlError>> = if args.all {
        match control::list() {
            Ok(sandboxes) => sandboxes.into_iter().map(|(sandbox, _)| Ok(sandbox)).collect(),
            Err(err) => vec![Err(err)],
        }
    } else {
        args.ids.iter().map(|id| control::find(id)).collect()
    };
    let mut good = true;
    for sandbox in chosen {
        if let Err(err) = sandbox.and_then(|sandbox| sandbox.kill(args.signal)) {
            crate::complain(&err);
            good = false;
        }
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
