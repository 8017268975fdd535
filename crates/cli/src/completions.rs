//! `coracle completions`: tab completion for shells.

use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

/// Print a completion script for a shell.
#[derive(Debug, Args)]
#[command(after_help = PLACES)]
pub struct CompletionsArgs {
    /// The shell to write for.
    shell: Shell,
}

const PLACES: &str = "\
Where the script belongs, once for all shells to come:
  coracle completions bash > ~/.local/share/bash-completion/completions/coracle
  coracle completions zsh > ~/.zfunc/_coracle        (a directory of $fpath)
  coracle completions fish > ~/.config/fish/completions/coracle.fish";

pub fn run(args: CompletionsArgs) -> ExitCode {
    clap_complete::generate(args.shell, &mut crate::Cli::command(), "coracle", &mut std::io::stdout());
    ExitCode::SUCCESS
}
