//! `coracle completions`: tab completion for shells.

use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

/// Print a completion script for a shell.
///
/// For bash, once for all shells to come:
///     coracle completions bash > ~/.local/share/bash-completion/completions/coracle
/// For zsh, into a directory of $fpath:
///     coracle completions zsh > ~/.zfunc/_coracle
/// For fish:
///     coracle completions fish > ~/.config/fish/completions/coracle.fish
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct CompletionsArgs {
    /// The shell to write for.
    shell: Shell,
}

pub fn run(args: CompletionsArgs) -> ExitCode {
    clap_complete::generate(args.shell, &mut crate::Cli::command(), "coracle", &mut std::io::stdout());
    ExitCode::SUCCESS
}
