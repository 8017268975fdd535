//! Coracle as a library: run Linux programs in sandboxes of their own.
//!
//! [`Sandbox::builder`] is the way in: it starts a sandbox beside your program and gives you a handle. [`run`] is for
//! programs that do nothing else, as the command `coracle run`: this process becomes the sandbox's kernel.
#![forbid(unsafe_code)]

pub mod config;
pub mod control;
mod embed;
mod logger;
mod outcome;
mod sandbox;

/// The walls around the kernel process tried out in this process: for `coracle doctor` and tests.
#[doc(hidden)]
pub mod confinement {
    pub use coracle_backends::confine::Enforced;
    pub use coracle_backends::confine::probe::{Attempt, attempts, last_call};

    /// Whether this host limits the memory of a sandbox: version and place of the control group, or why not.
    pub fn memory_group() -> Result<(u8, std::path::PathBuf), String> {
        let group = crate::sandbox::cgroup::Group::make(1 << 30)?;
        let (version, parent) = group.parent();
        let parent = parent.to_owned();
        group.end();
        Ok((version, parent))
    }
}
#[doc(hidden)]
pub use coracle_kernel::shown;
#[doc(hidden)]
pub use coracle_platform::{before_main, child, startup};

pub use config::{Config, ConfigError};
pub use embed::{Output, Running, Sandbox, SandboxBuilder, Stream};
pub use outcome::{Lanes, Outcome, Reason};

/// Why a run could not be started or carried through. (What a guest did to itself is an [`Outcome`].)
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration cannot work; the message names the option and the cure.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The platform cannot run guests on this host.
    #[error(transparent)]
    Platform(#[from] coracle_platform::PlatformError),
    /// The program cannot be run; `errno` as `execve` would have said.
    #[error("{reason}")]
    Program { errno: i32, reason: String },
    /// A part of the guest's file tree cannot be shown.
    #[error("cannot show {} inside: {source}", .path.display())]
    View { path: std::path::PathBuf, source: std::io::Error },
    /// `--workdir` leads nowhere.
    #[error("--workdir {}: not a directory of the sandbox: {source}", .path.display())]
    Workdir { path: std::path::PathBuf, source: std::io::Error },
    /// `--rootfs` names a file that is no archive, or one that does not fit.
    #[error("--rootfs {}: {reason}", .path.display())]
    Archive { path: std::path::PathBuf, reason: String },
    /// What the run wrote cannot be taken out.
    #[error("--save {}: {source}", .path.display())]
    Save { path: std::path::PathBuf, source: std::io::Error },
    /// `--diff` or `--save` came to a limit, or the host refused something.
    #[error("{option} stopped at {at}: {why}; the rest is missing")]
    Unfinished { option: &'static str, at: String, why: String },
    /// `--user` names nobody.
    #[error("no user {name:?} in the sandbox's /etc/passwd; give numbers, as in --user 1000:1000")]
    User { name: String },
    /// The kernel process of an embedding program could not do its work.
    #[error("{reason}")]
    KernelProcess { reason: String },
    /// A wall around the kernel process could not be put up.
    #[error("{reason}; --confine off runs without, if you accept that")]
    Confine { reason: String },
    /// `--confine required` on a host that cannot.
    #[error(
        "--confine required: this host has no Landlock, or an old one (all of it needs Linux 6.12; coracle doctor says more)"
    )]
    Unconfined,
    /// The host refused something that should work.
    #[error("{what}: {source}")]
    Host { what: &'static str, source: std::io::Error },
}

impl Error {
    /// Exit status for a command line that reports this error, as a shell's: 127 for a program that is not
    /// there, 126 for one that cannot be executed, 125 for Coracle's own failures.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Program { errno: ENOENT, .. } => 127,
            Error::Program { .. } => 126,
            _ => 125,
        }
    }
}

const ENOENT: i32 = 2;

/// Runs `config.argv` in a sandbox of its own, with this process as its kernel, and waits for its end.
///
/// The process is confined for that, and stays so: it must have one thread, and can do little else afterwards but
/// report and exit. Anything bigger uses [`Sandbox::builder`].
pub fn run(config: Config) -> Result<Outcome, Error> {
    run_here(&config, true)
}

/// As [`run`], for who wants to know how it ended but not what it took: times and memory of the outcome are not
/// asked of the host.
pub fn run_to_status(config: &Config) -> Result<Outcome, Error> {
    run_here(config, false)
}

fn run_here(config: &Config, usage_wanted: bool) -> Result<Outcome, Error> {
    embed::linked();
    config.validate()?;
    // With `json`, whoever reads stderr waits for the line.
    let listener = config.json.then_some(sandbox::Listener { fd: 2, words: json_line });
    sandbox::run(config, listener, usage_wanted, |_| ())
}

fn json_line(outcome: &Outcome) -> Vec<u8> {
    let mut line = serde_json::to_vec(outcome).unwrap_or_default();
    line.push(b'\n');
    line
}
