//! Finding and steering running sandboxes: what `coracle ps`, `kill` and `exec` say to a kernel process.
//!
//! Each sandbox listens on `DIR/ID.sock`, where DIR is `$XDG_RUNTIME_DIR/coracle` or `/tmp/coracle-UID`. A
//! connection carries one request and one response, a line of JSON each; standard streams for `exec` travel
//! with the request. `exec` goes on with more of both: signals one way, the program's stop and end the other. Only the owner's processes and root are answered.

mod server;
mod wire;

use std::ffi::OsString;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use coracle_backends::confine::is_sandbox;
use coracle_platform::inherit;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use signal_hook::consts::SIGTSTP;

use crate::config::User;
use crate::sandbox::relay;

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

/// Answers to status and kill come at once or not at all.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where the sandboxes of this user listen.
fn directory() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| dir.is_absolute() && dir.is_dir()) {
        Some(dir) => dir.join("coracle"),
        None => PathBuf::from(format!("/tmp/coracle-{}", rustix::process::getuid().as_raw())),
    }
}

/// Root's sandboxes are served by other users, each its own. They remove their sockets at the end, which the mode lets
/// them; who cannot be one of them is not listened to ([`connect`]).
const ROOT_MODE: u32 = 0o1733;

/// Makes the directory, or checks that nobody else made it: /tmp is shared.
fn own_directory(dir: &Path) -> io::Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(err) if err.kind() != io::ErrorKind::AlreadyExists => return Err(err),
        _ => {}
    }
    trusted(dir)?;
    if rustix::process::geteuid().is_root() {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::open(dir, flags, Mode::empty())?;
        if rustix::fs::fstat(&opened)?.st_mode & 0o7777 != ROOT_MODE {
            rustix::fs::fchmod(&opened, Mode::from_raw_mode(ROOT_MODE))?;
        }
    }
    Ok(())
}

fn trusted(dir: &Path) -> io::Result<()> {
    let meta = std::fs::symlink_metadata(dir)?;
    let alone = meta.mode() & 0o022 == 0 || (meta.uid() == 0 && meta.mode() & 0o7777 == ROOT_MODE);
    if meta.is_dir() && meta.uid() == rustix::process::getuid().as_raw() && alone {
        Ok(())
    } else {
        Err(io::Error::other("it is not a directory that only you can write"))
    }
}

/// Connects to a socket in there, if it is one of this user's sandboxes'.
fn connect(socket: &Path) -> io::Result<UnixStream> {
    let me = rustix::process::getuid().as_raw();
    let owner = std::fs::symlink_metadata(socket)?.uid();
    let foreign = || io::Error::new(io::ErrorKind::PermissionDenied, "it is somebody else's");
    if owner != me && !(me == 0 && is_sandbox(owner)) {
        return Err(foreign());
    }
    let stream = UnixStream::connect(socket)?;
    // Whoever listens there was this user when it began to.
    if rustix::net::sockopt::socket_peercred(&stream)?.uid.as_raw() == me { Ok(stream) } else { Err(foreign()) }
}

/// A running sandbox.
#[derive(Debug, Clone)]
pub struct Sandbox {
    id: String,
    socket: PathBuf,
}

/// The sandboxes of this user, by id, and what they say of themselves. One that does not answer is left out;
/// what a dead one left behind is removed.
pub fn list() -> Result<Vec<(Sandbox, Status)>, ControlError> {
    let alive = sandboxes_in(&directory())?.into_iter();
    Ok(alive.filter_map(|sandbox| sandbox.status().ok().map(|status| (sandbox, status))).collect())
}

/// The one sandbox whose id begins so.
pub fn find(prefix: &str) -> Result<Sandbox, ControlError> {
    find_in(&directory(), prefix)
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

fn sandboxes_in(dir: &Path) -> Result<Vec<Sandbox>, ControlError> {
    let failed = |source| ControlError::Directory { dir: dir.to_owned(), source };
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(err) => return Err(failed(err)),
    };
    trusted(dir).map_err(failed)?;
    let mut found = Vec::new();
    for entry in entries {
        let socket = entry.map_err(failed)?.path();
        let id = socket.file_name().and_then(|name| name.to_str()?.strip_suffix(".sock").map(str::to_owned));
        let Some(id) = id else { continue };
        match connect(&socket) {
            Err(err) if err.kind() == io::ErrorKind::ConnectionRefused => drop(std::fs::remove_file(&socket)),
            Err(err) if matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {}
            // What else may be wrong is said when it is spoken to.
            _ => found.push(Sandbox { id, socket }),
        }
    }
    found.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(found)
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
            let stream = connect(&self.socket)?;
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
