//! Runs a command with a time limit, and gathers everything about a run that hangs before ending it.

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read};
use std::mem;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// A program that prints more than this is cut.
const OUTPUT_LIMIT: usize = 32 << 20;
/// How long output may still arrive from processes that outlive the program.
const ORPHAN_GRACE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Outcome {
    pub end: End,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// Descendants still holding the output open after the program ended.
    pub orphans: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The shell's view: 128 + signal for deaths, which is also what `coracle run` exits with.
    Status(i32),
    /// What every process of the run was doing when the time was up.
    Hang(String),
}

pub(crate) fn run(mut command: Command, timeout: Duration) -> io::Result<Outcome> {
    command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = spawn(&mut command)?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let end = match wait(&mut child, timeout)? {
        Some(status) => End::Status(shell_status(status)),
        None => {
            let report = describe(child.id());
            kill_tree(child.id());
            child.wait()?;
            End::Hang(report)
        }
    };
    let deadline = Instant::now() + ORPHAN_GRACE;
    let (out, err) = (stdout.until(deadline), stderr.until(deadline));
    Ok(Outcome { end, orphans: !(out.1 && err.1), stdout: out.0, stderr: err.0 })
}

/// Starts it. A program that was just written may be open for writing in a process that another test's thread has
/// forked and that has not called exec yet: `ETXTBSY` passes.
fn spawn(command: &mut Command) -> io::Result<Child> {
    for _ in 0..100 {
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                thread::sleep(Duration::from_millis(10));
            }
            other => return other,
        }
    }
    command.spawn()
}

/// A thread that reads a pipe. If an orphan keeps the pipe open for ever, the thread waits for ever.
struct Collector {
    bytes: Arc<Mutex<Vec<u8>>>,
    done: mpsc::Receiver<()>,
}

impl Collector {
    /// What has arrived, and whether that is all.
    fn until(&self, deadline: Instant) -> (Vec<u8>, bool) {
        let left = deadline.saturating_duration_since(Instant::now());
        let whole = self.done.recv_timeout(left).is_ok();
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        (mem::take(&mut *bytes), whole)
    }
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> Collector {
    let (sender, done) = mpsc::channel();
    let bytes = Arc::new(Mutex::new(Vec::new()));
    let shared = Arc::clone(&bytes);
    if let Some(mut pipe) = pipe {
        thread::spawn(move || {
            let mut chunk = vec![0; 64 << 10];
            while let Ok(n @ 1..) = pipe.read(&mut chunk) {
                let mut bytes = shared.lock().unwrap_or_else(PoisonError::into_inner);
                if bytes.len() < OUTPUT_LIMIT {
                    bytes.extend_from_slice(chunk.get(..n).unwrap_or_default());
                }
            }
            let _ = sender.send(());
        });
    }
    Collector { bytes, done }
}

fn wait(child: &mut Child, timeout: Duration) -> io::Result<Option<ExitStatus>> {
    let pid = Pid::from_child(child);
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let millis = i64::try_from(left.as_millis()).unwrap_or(i64::MAX);
        let limit = rustix::event::Timespec { tv_sec: millis / 1000, tv_nsec: (millis % 1000) * 1_000_000 };
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        match poll(&mut fds, Some(&limit)) {
            Ok(0) if left.is_zero() => return Ok(None),
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return child.wait().map(Some),
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn shell_status(status: ExitStatus) -> i32 {
    match (status.code(), status.signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => -1,
    }
}

/// `pid` and its descendants, parents first.
fn family(pid: u32) -> Vec<u32> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else {
            continue;
        };
        if let Some(parent) = parent_of(id) {
            parents.push((id, parent));
        }
    }
    let mut family = vec![pid];
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        family.extend(parents.iter().filter(|&&(_, p)| p == parent).map(|&(id, _)| id));
        next += 1;
    }
    family
}

/// Field 4 of `/proc/PID/stat`, counted after the parenthesis that closes the name (proc(5)).
fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

fn kill_tree(pid: u32) {
    for id in family(pid) {
        if let Some(pid) = i32::try_from(id).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

fn describe(pid: u32) -> String {
    let mut out = String::new();
    for id in family(pid) {
        for task in fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten() {
            let read = |file| {
                fs::read_to_string(task.path().join(file)).map(|t| t.trim_end().to_owned()).unwrap_or_default()
            };
            let status = read("status");
            let state = status.lines().find(|l| l.starts_with("State:")).unwrap_or("State: ?");
            let _ = writeln!(
                out,
                "  {id}/{} {} {state} wchan={} syscall={}",
                task.file_name().to_string_lossy(),
                read("comm"),
                read("wchan"),
                read("syscall"),
            );
        }
    }
    out
}
