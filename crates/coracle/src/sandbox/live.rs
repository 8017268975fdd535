//! A sandbox while it runs, as seen from outside: what `coracle ps`, `kill` and `exec`, and an embedding program,
//! can ask of it.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use coracle_kernel::abi::linux::{SIGCONT, SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGTSTP, SIGWINCH};
use coracle_kernel::fs::PathRef;
use coracle_kernel::fs::dev::stream::OutputLimit;
use coracle_kernel::fs::dev::terminal;
use coracle_kernel::signal::SigSet;
use coracle_kernel::task::{Cred, Process, Spawn, usage};
use coracle_kernel::world::World;

use super::{Ended, streams, view};
use crate::Error;
use crate::control::{ExecRequest, Executed, Handler, Refused, Status};

/// Signals are 1 to this (`_NSIG`).
const LAST_SIGNAL: i32 = 64;

/// A running sandbox.
pub struct Live {
    pub world: Arc<World>,
    /// The first program.
    pub first: Arc<Process>,
    pub ended: Arc<Ended>,
    pub argv: Vec<OsString>,
    pub started: SystemTime,
    /// Where and as whom the first program started.
    pub cwd: PathRef,
    pub cred: Cred,
    /// `--output-limit`, for all programs together.
    pub output: Option<Arc<OutputLimit>>,
}

impl Live {
    /// Ends everything that runs inside.
    pub fn end(&self) {
        self.ended.killed.store(true, Ordering::SeqCst);
        self.world.signal_all(SIGKILL as i32);
    }

    fn spawn(&self, request: ExecRequest, stdio: [OwnedFd; 3]) -> Result<Arc<Process>, Error> {
        let cred = match &request.user {
            None => self.cred.clone(),
            Some(user) => view::credentials(&self.world, user)?,
        };
        let cwd = match &request.workdir {
            None => self.cwd.clone(),
            Some(path) => view::workdir(&self.world, Path::new(path), &cred)?,
        };
        let files = streams::open(stdio, self.output.clone(), (cred.uid, cred.gid), &self.world)?;
        let spawn = Spawn {
            argv: request.argv.into_iter().map(OsString::into_vec).collect(),
            env: request.env.into_iter().map(OsString::into_vec).collect(),
            cwd,
            umask: request.inherited.umask & 0o777,
            ignored: SigSet(request.inherited.ignored),
            cred,
            files,
            own_session: true,
        };
        self.world.spawn(spawn).map_err(|error| Error::Program { errno: error.errno.raw(), reason: error.reason })
    }
}

impl Handler for Live {
    fn status(&self) -> Status {
        let alive: Vec<_> =
            self.world.processes().into_iter().filter(|one| !one.is_init() && !one.is_zombie()).collect();
        let using = |process: &Arc<Process>| {
            let (user, system) = usage::times(process);
            user.saturating_add(system)
        };
        let gone = Duration::from_nanos(self.world.stats.cpu_nanos.load(Ordering::Relaxed));
        let now: Duration = alive.iter().map(using).fold(Duration::ZERO, Duration::saturating_add);
        let started = self.started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Status {
            argv: self.argv.clone(),
            hostname: OsStr::from_bytes(&self.world.hostname.lock()).to_string_lossy().into_owned(),
            pid: std::process::id(),
            started: started.as_secs(),
            processes: u32::try_from(alive.len()).unwrap_or(u32::MAX),
            memory: self.world.memory_used(),
            cpu_ns: u64::try_from(gone.saturating_add(now).as_nanos()).unwrap_or(u64::MAX),
        }
    }

    fn kill(&self, signal: i32) -> Result<(), Refused> {
        match signal {
            _ if signal == SIGKILL as i32 => self.end(),
            1..=LAST_SIGNAL => self.world.signal_tree(&self.first, signal),
            _ => return Err(Refused::new(format!("there is no signal {signal}"))),
        }
        Ok(())
    }

    fn exec(&self, request: ExecRequest, stdio: [OwnedFd; 3]) -> Result<Arc<dyn Executed>, Refused> {
        let well_formed = request.argv.iter().chain(&request.env).all(|text| !text.as_bytes().contains(&0));
        if request.argv.is_empty() || !well_formed {
            return Err(Refused::new("a program, and no NUL bytes in arguments and variables, are needed"));
        }
        let refused = |error: Error| Refused { reason: error.to_string(), code: error.exit_code() };
        let process = self.spawn(request, stdio).map_err(refused)?;
        Ok(Arc::new(Guest { world: self.world.clone(), process }))
    }
}

/// A program that was started beside the first.
struct Guest {
    world: Arc<World>,
    process: Arc<Process>,
}

impl Executed for Guest {
    fn wait(&self) -> u8 {
        let status = self.world.wait_for(&self.process, None).unwrap_or_default();
        match status & 0x7f {
            0 => (status >> 8).to_le_bytes()[0],
            signal => u8::try_from(128_i32.saturating_add(signal)).unwrap_or(255),
        }
    }

    fn signal(&self, signal: i32) -> bool {
        if !(1..=LAST_SIGNAL).contains(&signal) {
            return false;
        }
        let number = signal.unsigned_abs();
        let from_keys = matches!(number, SIGINT | SIGQUIT | SIGWINCH | SIGTSTP | SIGCONT);
        match from_keys.then(|| terminal::signal_session(&self.process, signal)).flatten() {
            // A job of a shell inside stops alone.
            Some(leader) => number == SIGTSTP && leader,
            None => {
                self.world.signal_tree(&self.process, signal);
                number == SIGTSTP
            }
        }
    }

    fn hang_up(&self) {
        self.world.signal_tree(&self.process, SIGHUP as i32);
    }
}
