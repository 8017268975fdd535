//! Coracle as a library: describe a run with [`Config`], run it, learn how it ended from [`Outcome`].
#![forbid(unsafe_code)]

pub mod config;
pub mod control;
mod outcome;

#[doc(hidden)]
pub use coracle_platform::startup;

pub use config::{Config, ConfigError};
pub use outcome::{Lanes, Outcome, Reason};

/// Why a run could not be started or carried through. (What a guest did to itself is an [`Outcome`].)
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration cannot work; the message names the option and the cure.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// This binary holds no kernel.
    #[error("the kernel is not built into this binary yet")]
    NoKernel,
}

impl Error {
    /// Exit status for a command line that reports this error: 125 for Coracle's own failures, so
    /// that 126 (found but not executable) and 127 (not found) keep their meaning from the shell.
    pub fn exit_code(&self) -> u8 {
        125
    }
}

/// Runs `config.argv` in a sandbox of its own and waits for its end.
pub fn run(config: Config) -> Result<Outcome, Error> {
    config.validate()?;
    Err(Error::NoKernel)
}
