//! What a run is given: a plain value that the command line, the builder and a bundle all end in, and
//! that travels to the kernel process as JSON. Nothing here touches the host but [`Config::validate`].

mod check;
mod os_text;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use check::ConfigError;

/// One run. [`Config::new`] gives the defaults of `coracle run`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Program and arguments. A program without a slash is searched in the guest's `PATH`, in the view.
    pub argv: Vec<OsString>,
    /// What the guest sees at `/`.
    pub rootfs: Rootfs,
    /// Host files and directories shown elsewhere. Of two at the same place the later covers the earlier.
    pub binds: Vec<Bind>,
    /// Host directories that the guest may change for good, each at its own path. They cover binds to the same place.
    #[serde(with = "os_text::paths")]
    pub write: Vec<PathBuf>,
    /// Where the program starts, in the view. `None`: the caller's directory if the view has it, else `/`.
    #[serde(with = "os_text::maybe_path")]
    pub workdir: Option<PathBuf>,
    /// Environment of the program.
    pub env: Environment,
    /// Whose rights the guest believes to have. `None`: the caller's ids.
    pub user: Option<User>,
    /// What it may use.
    pub limits: Limits,
    /// When it is ended.
    pub timeout: Option<Timeout>,
    /// List on stderr, at the end, what the run wrote.
    pub diff: bool,
    /// Copy what the run wrote into this host directory at the end.
    #[serde(with = "os_text::maybe_path")]
    pub save: Option<PathBuf>,
    /// What these two may take.
    #[serde(default)]
    pub report: Report,
    /// `uname -n`, at most 64 bytes.
    pub hostname: String,
    /// Network.
    pub net: Net,
    /// How workers run guest code.
    pub platform: PlatformChoice,
    /// Walls around the kernel process.
    pub confine: Confine,
    /// How guests tell the time.
    #[serde(default)]
    pub clock: ClockChoice,
    /// How a waiting side of a port waits. Anything but adaptive is for measurements.
    pub wait_policy: WaitPolicy,
    /// What to trace.
    pub trace: Trace,
    /// Print counters on stderr at the end.
    pub stats: bool,
    /// Coracle's own messages on stderr, from this level up.
    pub log: LogLevel,
    /// Print the [`crate::Outcome`] as one line of JSON on stderr at the end.
    pub json: bool,
}

impl Config {
    /// The defaults of `coracle run -- ARGV`.
    pub fn new<I, S>(argv: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<OsString>,
    {
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            rootfs: Rootfs::Host,
            binds: Vec::new(),
            write: Vec::new(),
            workdir: None,
            env: Environment::default(),
            user: None,
            limits: Limits::default(),
            timeout: None,
            diff: false,
            save: None,
            report: Report::default(),
            hostname: DEFAULT_HOSTNAME.to_owned(),
            net: Net::None,
            platform: PlatformChoice::Auto,
            confine: Confine::Auto,
            clock: ClockChoice::Auto,
            wait_policy: WaitPolicy::Adaptive,
            trace: Trace::default(),
            stats: false,
            log: LogLevel::Warn,
            json: false,
        }
    }

    /// Every host path that is shown at a place of its own, in the order in which they are mounted: outer places before
    /// inner ones, so that no directory covers what is shown inside of it.
    pub fn mounts(&self) -> Vec<Bind> {
        let write = self.write.iter().map(|dir| Bind { src: dir.clone(), dst: dir.clone(), read_only: false });
        let mut mounts: Vec<Bind> = self.binds.iter().cloned().chain(write).collect();
        mounts.sort_by_key(|bind| bind.dst.components().count());
        mounts
    }
}

/// Host name of a sandbox that is given none.
pub const DEFAULT_HOSTNAME: &str = "coracle";

/// What the guest sees at `/`. Writes go to memory in every case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rootfs {
    /// The host's own tree, read-only, world-readable files only, homes and `/run` hidden.
    Host,
    /// A directory that holds a root file system.
    Dir(#[serde(with = "os_text::path")] PathBuf),
    /// A tar file (plain or gzip) that holds a root file system.
    Tar(#[serde(with = "os_text::path")] PathBuf),
}

/// A host file or directory shown at a place of the guest's tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// Absolute host path.
    #[serde(with = "os_text::path")]
    pub src: PathBuf,
    /// Absolute guest path; made if it is missing.
    #[serde(with = "os_text::path")]
    pub dst: PathBuf,
    /// Refuse writes with `EROFS`. Otherwise they reach the host.
    pub read_only: bool,
}

/// How the program's environment is made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// Start from nothing instead of [`Environment::PASSED`].
    pub clear: bool,
    /// Variables set on top, in order; a later one wins.
    pub set: Vec<(OsString, OsString)>,
}

impl Environment {
    /// Variables taken over from the caller unless `clear` is set.
    pub const PASSED: [&str; 5] = ["PATH", "HOME", "LANG", "TERM", "TZ"];

    /// `PATH` of a guest whose caller has none.
    pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

    /// The `KEY=VALUE` strings for `execve`, given the caller's variables (`std::env::vars_os()`).
    pub fn resolve(&self, host: impl IntoIterator<Item = (OsString, OsString)>) -> Vec<OsString> {
        let mut vars: Vec<(OsString, OsString)> = Vec::new();
        if !self.clear {
            vars.extend(host.into_iter().filter(|(key, _)| Self::PASSED.iter().any(|passed| key == passed)));
            if !vars.iter().any(|(key, _)| key == "PATH") {
                vars.push(("PATH".into(), Self::DEFAULT_PATH.into()));
            }
        }
        for (key, value) in &self.set {
            match vars.iter_mut().find(|(known, _)| known == key) {
                Some(slot) => slot.1.clone_from(value),
                None => vars.push((key.clone(), value.clone())),
            }
        }
        vars.into_iter()
            .map(|(mut key, value)| {
                key.push(OsStr::new("="));
                key.push(value);
                key
            })
            .collect()
    }
}

/// Whose rights the guest believes to have. Inside only: the host never sees these ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum User {
    /// Numbers. Without a gid: the gid of the uid's entry in the view's `/etc/passwd`, else the uid.
    Id { uid: u32, gid: Option<u32> },
    /// A name in the view's `/etc/passwd`.
    Name(String),
}

/// What a run may use. `None` is no limit of ours.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of memory, guest and its in-memory files together. More ends it as out of memory.
    pub memory: Option<u64>,
    /// CPUs that the guest sees and is bound to.
    pub cpus: Option<u32>,
    /// Processes and threads alive at once; more is `EAGAIN` from `clone`.
    pub pids: Option<u32>,
    /// Bytes that writes into the in-memory tree may hold; more is `ENOSPC`.
    pub disk: Option<u64>,
    /// Bytes on stdout and stderr together; more ends the run.
    pub output: Option<u64>,
}

/// What `diff` and `save` may take after the end; they stop there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Bytes that `diff` prints.
    pub diff: u64,
    /// Bytes that `save` writes. `None`: as many as the run could hold in memory.
    pub save: Option<u64>,
    /// Time that each of them takes.
    pub time: Duration,
}

impl Default for Report {
    fn default() -> Self {
        Self { diff: 16 << 20, save: None, time: Duration::from_secs(300) }
    }
}

/// When a run is ended from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeout {
    /// SIGTERM to every process of the guest after this long.
    pub after: Duration,
    /// SIGKILL this long after that.
    pub grace: Duration,
}

/// Time between SIGTERM and SIGKILL when nothing else is said.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(5);

/// Network of a guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Net {
    /// Nothing but AF_UNIX sockets inside the sandbox.
    #[default]
    None,
    /// The host's network.
    Host,
}

/// How workers run guest code.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlatformChoice {
    /// The best that this host has.
    #[default]
    Auto,
    /// A confined host process.
    Seccomp,
}

/// How the kernel process is confined: by Landlock to the files that it serves, by seccomp to the host calls that it
/// needs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Confine {
    /// As far as this host can; `coracle doctor` and `--log info` say how far that is.
    #[default]
    Auto,
    /// Completely, or the run is refused.
    Required,
    /// Not at all: for debugging and measuring Coracle itself.
    Off,
}

/// How guests tell the time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClockChoice {
    /// As fast as the host allows.
    #[default]
    Auto,
    /// In the vDSO, from the time stamp counter; where that is not fit, by system call.
    Tsc,
    /// In the vDSO, from the hypervisor clock ABI's page of virtual CPU 0.
    Pvclock,
    /// In the vDSO, from the page of the reader's own CPU; for measurements.
    PvclockPerCpu,
    /// The same, with the CPU's number by `lsl` where `rdpid` would do; for measurements.
    PvclockPerCpuLsl,
    /// By system call.
    Syscall,
}

/// How the two sides of a port wait for each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitPolicy {
    /// Spin when the peer runs on another CPU and spinning has paid off lately, else sleep.
    #[default]
    Adaptive,
    /// Always spin first.
    Spin,
    /// Always sleep at once.
    Sleep,
}

/// What to trace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// System calls, one line each on stderr.
    pub syscalls: Option<SyscallFilter>,
    /// Wall time of every start-up step.
    pub startup: bool,
}

/// Which system calls a trace shows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyscallFilter {
    /// Names as in syscalls(2). Empty: all.
    pub names: Vec<String>,
    /// Show everything except `names`.
    pub invert: bool,
}

impl SyscallFilter {
    /// Does the trace show the call of this name?
    pub fn shows(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|listed| listed == name) != self.invert
    }
}

/// Level of Coracle's own messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    Off,
    Error,
    #[default]
    Warn,
    Info,
    Debug,
    Trace,
}

#[cfg(test)]
mod tests;
