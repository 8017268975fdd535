//! What an embedding program and its kernel process say to each other: a line of JSON each, over one socket. First
//! comes the [`crate::Config`]; the end of the embedding side's words means that nobody wants the sandbox any more.

use std::io::{self, BufRead, Write};
use std::os::unix::net::UnixStream;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Error, Outcome};

/// `argv[0]` of a kernel process.
pub const NAME: &str = "coracle-kernel";
/// Its one argument, before the number of the socket's descriptor.
pub const MARK: &str = "--coracle-kernel-socket=";
/// Set in a kernel process, so that one whose code before `main` did not run starts no others.
pub const INSIDE: &str = "CORACLE_KERNEL_PROCESS";

/// To the kernel process.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// As [`crate::control::Handler::kill`].
    Signal(i32),
    /// Go on without me.
    Detach,
}

/// From the kernel process.
#[derive(Debug, Serialize, Deserialize)]
pub enum Report {
    /// The program runs.
    Started,
    Ended(Outcome),
    Failed(Failure),
}

/// An [`Error`] that has travelled.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Failure {
    pub message: String,
    pub exit_code: u8,
    /// For [`Error::Program`].
    pub errno: Option<i32>,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let errno = match &error {
            Error::Program { errno, .. } => Some(*errno),
            _ => None,
        };
        Failure { message: error.to_string(), exit_code: error.exit_code(), errno }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        match failure.errno {
            Some(errno) => Error::Program { errno, reason: failure.message },
            None => Error::KernelProcess { reason: failure.message },
        }
    }
}

pub fn say<M: Serialize>(mut stream: &UnixStream, message: &M) -> io::Result<()> {
    stream.write_all(&line(message)?)
}

/// A message as it travels.
pub fn line<M: Serialize>(message: &M) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

/// The next message; `None` when there are no more.
pub fn hear<M: DeserializeOwned>(from: &mut impl BufRead) -> io::Result<Option<M>> {
    let mut line = Vec::new();
    match from.read_until(b'\n', &mut line)? {
        0 => Ok(None),
        _ => Ok(Some(serde_json::from_slice(&line)?)),
    }
}
