//! `coracle exec`: another program in a sandbox that runs.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::process::ExitCode;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, ValueHint};
use coracle::config::{Environment, User};
use coracle::control::{self, ExecRequest, Inherited};

use crate::parse;

/// Run another program in a running sandbox.
///
/// It sees the files and processes of that sandbox and shares its limits. Its exit status becomes this
/// command's, signals that this command gets go to it, and ending this command hangs it up. When the sandbox's first program ends, so does this one.
#[derive(Debug, Args)]
#[command(override_usage = "coracle exec [OPTIONS] ID -- PROG [ARGS]...")]
pub struct ExecArgs {
    /// Which sandbox, by id or its beginning; `coracle ps` lists them.
    id: String,

    /// Start in this directory of the sandbox [default: where its first program started].
    #[arg(long, short = 'C', value_name = "DIR")]
    workdir: Option<OsString>,

    /// Set a variable, or pass on the caller's value of KEY.
    #[arg(long, short = 'e', value_name = "KEY[=VALUE]",
        value_parser = OsStringValueParser::new().try_map(parse::env))]
    env: Vec<(OsString, Option<OsString>)>,

    /// Pass on no variable of the caller's but those that --env names.
    #[arg(long)]
    env_clear: bool,

    /// Who the program believes to be [default: as the sandbox's first program].
    #[arg(long, short = 'u', value_name = "NAME|UID[:GID]", value_parser = parse::user)]
    user: Option<User>,

    /// The program and its arguments.
    #[arg(value_name = "PROG", required = true, trailing_var_arg = true,
        value_hint = ValueHint::CommandWithArguments)]
    argv: Vec<OsString>,
}

pub fn run(args: ExecArgs) -> ExitCode {
    let environment: Environment = crate::run::environment(args.env, args.env_clear);
    let request = ExecRequest {
        argv: args.argv,
        env: environment.resolve(std::env::vars_os()),
        workdir: args.workdir,
        user: args.user,
        inherited: Inherited::here(),
    };
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let ended = control::find(&args.id)
        .and_then(|sandbox| sandbox.exec_foreground(request, [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]));
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(err) => {
            crate::complain(&err);
            ExitCode::from(err.exit_code())
        }
    }
}
