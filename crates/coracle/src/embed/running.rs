//! The handle of a sandbox that an embedding program has started.

use std::io::{self, BufReader, Read};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::UNFIT;
use super::protocol::{Failure, Order, Report, hear, say};
use crate::{Config, Error, Outcome};

/// A sandbox that was started by [`super::SandboxBuilder::spawn`]. Dropping it ends the sandbox; see
/// [`Running::detach`].
#[derive(Debug)]
pub struct Running {
    /// The other ends of pipes that were asked for.
    pub stdin: Option<ChildStdin>,
    pub stdout: Option<ChildStdout>,
    pub stderr: Option<ChildStderr>,
    pid: u32,
    orders: UnixStream,
    end: Arc<End>,
}

/// What a program left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    pub outcome: Outcome,
    /// Empty unless it was a pipe.
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

#[derive(Debug, Default)]
struct End {
    result: Mutex<Option<Result<Outcome, Failure>>>,
    known: Condvar,
}

impl End {
    fn lock(&self) -> MutexGuard<'_, Option<Result<Outcome, Failure>>> {
        self.result.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    /// Describes the sandbox to its new kernel process and waits until the program runs.
    pub(super) fn start(mut child: Child, socket: UnixStream, config: &Config) -> Result<Running, Error> {
        let host = |source| Error::Host { what: "cannot talk to the kernel process", source };
        let pid = child.id();
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let end = Arc::<End>::default();
        let (started, running) = sync_channel(1);
        let told = socket.try_clone().map_err(host)?;
        // From here on the thread below waits for the child, whatever happens.
        let watched = end.clone();
        std::thread::Builder::new()
            .name("coracle-wait".into())
            .stack_size(256 << 10)
            .spawn(move || watch(child, &told, &started, &watched))
            .map_err(host)?;
        let this = Running { stdin, stdout, stderr, pid, orders: socket, end };
        // A process that ends at once says why, or its status does.
        let _ = say(&this.orders, config);
        match running.recv() {
            Ok(()) => Ok(this),
            Err(_) => Err(this.wait().err().unwrap_or_else(|| Error::KernelProcess { reason: UNFIT.to_owned() })),
        }
    }

    /// The kernel process, a pid of the host.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits for the end of the program. By then the kernel process is gone too. Standard input is not closed: take
    /// it, if the program waits for its end.
    pub fn wait(&self) -> Result<Outcome, Error> {
        let known = self.end.known.wait_while(self.end.lock(), |result| result.is_none());
        let result = known.unwrap_or_else(PoisonError::into_inner).clone();
        // `None` cannot be, after this wait.
        result.unwrap_or_else(|| Err(silent("nothing is known"))).map_err(Error::from)
    }

    /// Waits for at most this long; `None` if it still runs then.
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Option<Outcome>, Error> {
        let until = Instant::now() + timeout;
        let mut result = self.end.lock();
        while result.is_none() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            result = self.end.known.wait_timeout(result, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        result.clone().transpose().map_err(Error::from)
    }

    /// How it ended, if it has.
    pub fn try_wait(&self) -> Result<Option<Outcome>, Error> {
        self.end.lock().clone().transpose().map_err(Error::from)
    }

    /// Ends everything in the sandbox.
    pub fn kill(&self) -> io::Result<()> {
        self.signal(9)
    }

    /// Sends the first program a signal; 9 ends everything. One that has ended gets nothing.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        if !(1..=64).contains(&signal) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if self.end.lock().is_some() {
            return Ok(());
        }
        match say(&self.orders, &Order::Signal(signal)) {
            // It has ended meanwhile.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    }

    /// Gives the handle up and lets the sandbox go on.
    pub fn detach(self) -> io::Result<()> {
        say(&self.orders, &Order::Detach)
    }

    /// Closes standard input, reads what comes out of pipes, and waits for the end.
    pub fn wait_with_output(mut self) -> Result<Output, Error> {
        drop(self.stdin.take());
        let (stdout, stderr) = (self.stdout.take(), self.stderr.take());
        let read = |from: Option<&mut dyn Read>| {
            let mut bytes = Vec::new();
            from.map_or(Ok(0), |from| from.read_to_end(&mut bytes)).map(|_| bytes)
        };
        let (out, err) = std::thread::scope(|scope| {
            let errors = scope.spawn(move || {
                let mut stderr = stderr;
                read(stderr.as_mut().map(|stderr| stderr as &mut dyn Read))
            });
            let mut stdout = stdout;
            let out = read(stdout.as_mut().map(|stdout| stdout as &mut dyn Read));
            (out, errors.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into())))
        });
        let host = |source| Error::Host { what: "cannot read the program's output", source };
        let (stdout, stderr) = (out.map_err(host)?, err.map_err(host)?);
        Ok(Output { outcome: self.wait()?, stdout, stderr })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The kernel process hears the end of our words, and ends the sandbox unless it was detached.
        let _ = self.orders.shutdown(Shutdown::Write);
    }
}

fn silent(status: &str) -> Failure {
    let message = format!("the kernel process ended without a word ({status}); {UNFIT}");
    Failure { message, exit_code: 125, errno: None }
}

/// Listens to the kernel process until it is gone, and reaps it.
fn watch(mut child: Child, socket: &UnixStream, started: &SyncSender<()>, end: &End) {
    let mut reports = BufReader::new(socket);
    let mut result = None;
    while let Ok(Some(report)) = hear(&mut reports) {
        match report {
            Report::Started => drop(started.send(())),
            Report::Ended(outcome) => result = Some(Ok(outcome)),
            Report::Failed(failure) => result = Some(Err(failure)),
        }
    }
    let status = child.wait();
    let result = result.unwrap_or_else(|| {
        Err(silent(&status.map_or_else(|error| error.to_string(), |status| status.to_string())))
    });
    *end.lock() = Some(result);
    end.known.notify_all();
    // `started` goes with this thread: a spawn that still waits learns that nothing runs.
}
