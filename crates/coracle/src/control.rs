//! Finding and steering running sandboxes: what `coracle ps`, `kill` and `exec` say to a kernel process.
//!
//! Each sandbox listens on `DIR/ID.sock`, where DIR is `$XDG_RUNTIME_DIR/coracle` or `/tmp/coracle-UID`. A
//! connection carries one request and one response, a line of JSON each; standard streams for `exec` travel
//! with the request. `exec` goes on with more of both: signals one way, the program's stop and end the other. Only the owner's processes and root are answered.

mod directory;
mod server;
mod wire;

use std::ffi::OsString;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use coracle_platform::inherit;
use serde::{Deserialize, Serialize};
use signal_hook::consts::SIGTSTP;

use crate::config::User;
use crate::sandbox::relay;

use directory::Directory;
pub(crate) use server::Beside;
pub use server::{Executed, Handler, Place, Server};

/// What a sandbox tells of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Program and arguments of its first process.
    pub argv: Vec<OsString>,
    pub hostname: String,
    /// The kernel process, a pid of the host.
    pub pid: u32,
    /// Seconds since the epoch.
    pub started: u64,
    /// Guest processes alive.
    pub processes: u32,
    /// Bytes that guests hold resident.
    pub memory: u64,
    /// CPU that guests have used.
    pub cpu_ns: u64,
}

/// A program to run in a sandbox that is already running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// Program and arguments.
    pub argv: Vec<OsString>,
    /// `KEY=VALUE` strings.
    pub env: Vec<OsString>,
    /// `None`: where the first process started.
    pub workdir: Option<OsString>,
    /// `None`: as the first process started.
    pub user: Option<User>,
    /// What it inherits besides; by default nothing of the requester's.
    #[serde(default)]
    pub inherited: Inherited,
}

/// What a program inherits of whoever starts it, besides its streams (execve(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inherited {
    pub umask: u32,
    /// Signals that are ignored: signal N is bit N - 1.
    pub ignored: u64,
}

impl Default for Inherited {
    fn default() -> Self {
        Self { umask: 0o022, ignored: 0 }
    }
}

impl Inherited {
    /// What the calling process would hand on. SIGPIPE is ignored by every Rust program, and not handed on for that
    /// (`std::process::Command`).
    pub fn here() -> Self {
        Self { umask: inherit::umask(), ignored: inherit::ignored() }
    }
}

/// What a sandbox says when it will not do something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{reason}")]
pub struct Refused {
    /// One line for a person.
    pub reason: String,
    /// Exit status for a command that reports it: 127 and 126 for programs as in a shell, else 125.
    pub code: u8,
}

impl Refused {
    pub fn new(reason: impl Into<String>) -> Refused {
        Refused { reason: reason.into(), code: FAILED }
    }
}

const FAILED: u8 = 125;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Request {
    Status,
    Kill {
        signal: i32,
    },
    /// Answered with `Started`, after which the requester may send `Signal`s, and at the end with `Ended`.
    Exec(ExecRequest),
    Signal(i32),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Response {
    Status(Status),
    Done,
    Started,
    /// The program that was started has been stopped by a key of its terminal; the command should stop too.
    Stopped,
    Ended {
        code: u8,
    },
    Refused(Refused),
}

/// Why a running sandbox could not be steered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    #[error("there is no sandbox {0}; `coracle ps` lists those that run")]
    NoSuchSandbox(String),
    #[error("{prefix} may mean {}; write more of it", .ids.join(", "))]
    Ambiguous { prefix: String, ids: Vec<String> },
    #[error("sandbox {id} does not answer: {source}")]
    Unreachable { id: String, source: io::Error },
    #[error("sandbox {id}: {refused}")]
    Refused { id: String, refused: Refused },
    #[error("{} cannot be used: {source}", .dir.display())]
    Directory { dir: PathBuf, source: io::Error },
}

impl ControlError {
    /// Exit status for a command line that reports this error.
    pub fn exit_code(&self) -> u8 {
        match self {
            ControlError::Refused { refused, .. } => refused.code,
            _ => FAILED,
        }
    }
}

/// From its name to its first ear a socket takes some microseconds.
const BIRTH: Duration = Duration::from_millis(20);

/// Answers to status and kill come at once or not at all.
const PATIENCE: Duration = Duration::from_secs(2);

/// A running sandbox.
#[derive(Debug, Clone)]
pub struct Sandbox {
    id: String,
    directory: Arc<Directory>,
}

/// The sandboxes of this user, by id, and what they say of themselves. One that does not answer is left out;
/// what a dead one left behind is removed.
pub fn list() -> Result<Vec<(Sandbox, Status)>, ControlError> {
    let alive = sandboxes_in(&Directory::path())?.into_iter();
    Ok(alive.filter_map(|sandbox| sandbox.status().ok().map(|status| (sandbox, status))).collect())
}

/// The one sandbox whose id begins so.
pub fn find(prefix: &str) -> Result<Sandbox, ControlError> {
    find_in(&Directory::path(), prefix)
}

fn find_in(dir: &Path, prefix: &str) -> Result<Sandbox, ControlError> {
    let mut found: Vec<Sandbox> = sandboxes_in(dir)?;
    found.retain(|sandbox| !prefix.is_empty() && sandbox.id.starts_with(prefix));
    match found.len() {
        0 | 1 => found.pop().ok_or_else(|| ControlError::NoSuchSandbox(prefix.to_owned())),
        _ => {
            let ids = found.into_iter().map(|sandbox| sandbox.id).collect();
            Err(ControlError::Ambiguous { prefix: prefix.to_owned(), ids })
        }
    }
}

fn sandboxes_in(path: &Path) -> Result<Vec<Sandbox>, ControlError> {
    let failed = |source| ControlError::Directory { dir: path.to_owned(), source };
    let directory = match Directory::open(path) {
        Ok(directory) => Arc::new(directory),
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(err) => return Err(failed(err)),
    };
    let fails = |id: &String| directory.connect(id).err().map(|error| error.kind());
    let (mut found, mut dead) = (Vec::new(), Vec::new());
    for id in directory.ids().map_err(failed)? {
        match fails(&id) {
            // Nobody listens there: it is dead, or just being born.
            Some(io::ErrorKind::ConnectionRefused) => dead.push(id),
            Some(io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {}
            // What else may be wrong is said when it is spoken to.
            _ => found.push(id),
        }
    }
    if !dead.is_empty() {
        std::thread::sleep(BIRTH);
        for id in dead {
            match fails(&id) {
                Some(io::ErrorKind::ConnectionRefused) => drop(directory.remove(&id)),
                _ => found.push(id),
            }
        }
    }
    found.sort();
    Ok(found.into_iter().map(|id| Sandbox { id, directory: directory.clone() }).collect())
}

impl Sandbox {
    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn status(&self) -> Result<Status, ControlError> {
        match self.ask(&Request::Status, &[], Some(PATIENCE))? {
            Response::Status(status) => Ok(status),
            other => Err(self.odd(&other)),
        }
    }

    /// SIGKILL ends the whole sandbox; any other signal goes to its first process.
    pub fn kill(&self, signal: i32) -> Result<(), ControlError> {
        match self.ask(&Request::Kill { signal }, &[], Some(PATIENCE))? {
            Response::Done => Ok(()),
            other => Err(self.odd(&other)),
        }
    }

    /// Runs a program beside the first process, on these standard streams, until it ends. The answer is its
    /// exit status, or 128 + signal. Ending the calling process hangs it up (SIGHUP).
    pub fn exec(&self, request: ExecRequest, stdio: [BorrowedFd<'_>; 3]) -> Result<u8, ControlError> {
        self.executed(request, stdio, |_| Ok(()))
    }

    /// As [`Sandbox::exec`], and while it runs this process stands for the program: signals that it gets are passed
    /// on, it stops with the program, and the terminal's settings are restored at the end.
    pub fn exec_foreground(&self, request: ExecRequest, stdio: [BorrowedFd<'_>; 3]) -> Result<u8, ControlError> {
        let _terminal = relay::Terminal::save();
        let mut relay = None;
        self.executed(request, stdio, |stream| {
            let stream = stream.try_clone()?;
            relay = Some(relay::forward(move |signal| {
                // What has ended needs no signal.
                let _ = wire::send(&stream, &Request::Signal(signal), &[]);
            }));
            Ok(())
        })
    }

    fn executed(
        &self,
        request: ExecRequest,
        stdio: [BorrowedFd<'_>; 3],
        started: impl FnOnce(&UnixStream) -> io::Result<()>,
    ) -> Result<u8, ControlError> {
        let (stream, response) = self.begin(&Request::Exec(request), &stdio, None)?;
        if !matches!(response, Response::Started) {
            return Err(self.odd(&response));
        }
        let failed = |source| ControlError::Unreachable { id: self.id.clone(), source };
        started(&stream).map_err(failed)?;
        loop {
            match wire::receive(&stream).map_err(failed)?.0 {
                Response::Ended { code } => return Ok(code),
                // The shell that ignores this for its children does not wait for one to stop.
                Response::Stopped if inherit::ignores(SIGTSTP) => {}
                Response::Stopped => relay::stop(),
                other => return Err(self.odd(&other)),
            }
        }
    }

    fn ask(
        &self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
        patience: Option<Duration>,
    ) -> Result<Response, ControlError> {
        self.begin(request, fds, patience).map(|(_, response)| response)
    }

    /// Sends a request; the connection and the first answer.
    fn begin(
        &self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
        patience: Option<Duration>,
    ) -> Result<(UnixStream, Response), ControlError> {
        let asked = || {
            let stream = self.directory.connect(&self.id)?;
            stream.set_write_timeout(Some(PATIENCE))?;
            stream.set_read_timeout(patience)?;
            wire::send(&stream, request, fds)?;
            let (response, _) = wire::receive::<Response>(&stream)?;
            Ok((stream, response))
        };
        match asked() {
            Ok((_, Response::Refused(refused))) => Err(ControlError::Refused { id: self.id.clone(), refused }),
            Ok(answer) => Ok(answer),
            Err(source) => Err(ControlError::Unreachable { id: self.id.clone(), source }),
        }
    }

    fn odd(&self, response: &Response) -> ControlError {
        let source = io::Error::other(format!("unexpected answer {response:?}; is it another version?"));
        ControlError::Unreachable { id: self.id.clone(), source }
    }
}

#[cfg(test)]
mod tests;
