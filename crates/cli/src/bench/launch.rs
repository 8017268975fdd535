//! Starting a program natively, inside or under a peer, all in the same way, and waiting for its end for a
//! bounded time.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use coracle::config::Environment;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::measure::Problem;

/// Who runs the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Side {
    Native,
    /// `coracle run` with these options.
    Coracle(Vec<&'static str>),
    Peer(Peer),
}

/// Other sandboxes to compare with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    Bwrap,
    Runsc,
}

impl Peer {
    pub fn name(self) -> &'static str {
        match self {
            Self::Bwrap => "bwrap",
            Self::Runsc => "runsc",
        }
    }

    /// Those that are installed.
    pub fn installed() -> Vec<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let has = |peer: &Self| std::env::split_paths(&path).any(|dir| dir.join(peer.name()).is_file());
        [Self::Bwrap, Self::Runsc].into_iter().filter(has).collect()
    }

    /// The command words before the program: what comes nearest to `coracle run`'s default view.
    fn words(self) -> Vec<&'static str> {
        match self {
            Self::Bwrap => vec![
                "bwrap",
                "--ro-bind",
                "/",
                "/",
                "--dev",
                "/dev",
                "--proc",
                "/proc",
                "--tmpfs",
                "/tmp",
                "--unshare-all",
                "--die-with-parent",
                "--",
            ],
            Self::Runsc if rustix::process::getuid().is_root() => {
                vec!["runsc", "--network=none", "--ignore-cgroups", "do"]
            }
            Self::Runsc => vec!["runsc", "--rootless", "--network=none", "--ignore-cgroups", "do"],
        }
    }
}

/// A program to run and how.
#[derive(Debug, Clone)]
pub struct Job<'a> {
    pub argv: Vec<OsString>,
    pub dir: &'a Path,
    /// Bind the program, and whatever runs it, to one CPU.
    pub one_cpu: bool,
    /// Kill it after this long.
    pub limit: Duration,
}

/// A job that came to its end.
#[derive(Debug)]
pub struct Finished {
    /// From before the spawn to after the wait.
    pub wall: Duration,
    pub stdout: String,
    pub stderr: String,
}

/// A job that has been started.
pub struct Running {
    child: Child,
    started: Instant,
    deadline: Instant,
    limit: Duration,
    stdout: File,
    stderr: File,
}

impl Side {
    fn command(&self, job: &Job<'_>) -> Command {
        let mut words: Vec<OsString> = match self {
            Self::Native => Vec::new(),
            Self::Coracle(options) => {
                let mut words = vec!["/proc/self/exe", "run"];
                words.extend(options);
                words.push("--");
                words.into_iter().map(OsString::from).collect()
            }
            Self::Peer(peer) => peer.words().into_iter().map(OsString::from).collect(),
        };
        words.extend(job.argv.iter().cloned());
        let mut words = words.into_iter();
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).current_dir(job.dir).stdin(Stdio::null());
        // The environment that `coracle run` passes on, for all sides.
        command.env_clear();
        command
            .envs(std::env::vars_os().filter(|(key, _)| Environment::PASSED.iter().any(|passed| key == passed)));
        command
    }

    /// Starts a job; its output goes to memory, so nobody needs to drain a pipe while time is measured.
    pub fn start(&self, job: &Job<'_>) -> Result<Running, Problem> {
        let sink = || memfd_create("bench-output", MemfdFlags::CLOEXEC).map(File::from);
        let (stdout, stderr) = (sink().map_err(io::Error::from)?, sink().map_err(io::Error::from)?);
        let mut command = self.command(job);
        command.stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
        let (child, started) = if job.one_cpu { spawn_on_one_cpu(&mut command)? } else { spawn(&mut command)? };
        let deadline = started + job.limit;
        Ok(Running { child, started, deadline, limit: job.limit, stdout, stderr })
    }

    /// Runs a job to its end.
    pub fn run(&self, job: &Job<'_>) -> Result<Finished, Problem> {
        self.start(job)?.finish()
    }
}

fn spawn(command: &mut Command) -> io::Result<(Child, Instant)> {
    let started = Instant::now();
    Ok((command.spawn()?, started))
}

/// Binds this thread for the moment of the spawn: a child inherits the affinity of the thread that made it.
fn spawn_on_one_cpu(command: &mut Command) -> io::Result<(Child, Instant)> {
    let all = sched_getaffinity(None)?;
    let first = (0..CpuSet::MAX_CPU).find(|cpu| all.is_set(*cpu)).unwrap_or(0);
    let mut one = CpuSet::new();
    one.set(first);
    sched_setaffinity(None, &one)?;
    let spawned = spawn(command);
    sched_setaffinity(None, &all)?;
    spawned
}

impl Running {
    /// Waits for the end, at most until the deadline. Only success is an answer.
    pub fn finish(mut self) -> Result<Finished, Problem> {
        let status = crate::bounded::wait(&mut self.child, self.deadline)?;
        let wall = self.started.elapsed();
        let stdout = text_of(&mut self.stdout)?;
        let stderr = text_of(&mut self.stderr)?;
        match status {
            Some(status) if status.success() => Ok(Finished { wall, stdout, stderr }),
            Some(status) => Err(Problem::Status { status, said: last_line(&stderr) }),
            None => Err(Problem::TooLong(self.limit)),
        }
    }
}

fn text_of(file: &mut File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The last line that is not machine-readable.
fn last_line(text: &str) -> String {
    let line = text.lines().rev().find(|line| !line.is_empty() && !line.starts_with('{'));
    line.unwrap_or("nothing").to_owned()
}

/// A program given by its path and arguments.
pub fn argv(program: &Path, args: &[&str]) -> Vec<OsString> {
    let args = args.iter().map(OsString::from);
    std::iter::once(PathBuf::from(program).into_os_string()).chain(args).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration) -> Result<Finished, Problem> {
        let argv = argv(Path::new("/bin/sh"), &["-c", script]);
        Side::Native.run(&Job { argv, dir: Path::new("/"), one_cpu: false, limit })
    }

    #[test]
    fn output_and_status_are_kept_apart() {
        let finished = shell("echo out; echo err >&2", Duration::from_secs(10)).unwrap();
        assert_eq!((finished.stdout.as_str(), finished.stderr.as_str()), ("out\n", "err\n"));
        let problem = shell("echo why >&2; exit 3", Duration::from_secs(10)).unwrap_err().to_string();
        assert!(problem.contains("exit status: 3") && problem.contains("why"), "{problem}");
    }

    #[test]
    fn what_takes_too_long_is_ended() {
        let begun = Instant::now();
        assert!(matches!(shell("exec sleep 60", Duration::from_millis(50)), Err(Problem::TooLong(_))));
        assert!(begun.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn one_cpu_is_for_the_child_only() {
        let before = sched_getaffinity(None).unwrap();
        let argv = argv(Path::new("/bin/sh"), &["-c", "nproc"]);
        let job = Job { argv, dir: Path::new("/"), one_cpu: true, limit: Duration::from_secs(10) };
        assert_eq!(Side::Native.run(&job).unwrap().stdout, "1\n");
        assert_eq!(sched_getaffinity(None).unwrap(), before);
    }
}
