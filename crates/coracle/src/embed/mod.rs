//! Sandboxes inside a program of yours: [`Sandbox::builder`] describes one, [`SandboxBuilder::spawn`] starts it,
//! [`Running`] is the handle.
//!
//! Each sandbox has a kernel process of its own. It is your program's executable again, taken over before `main`, so
//! nothing else has to be installed. Where the executable is not one that this crate is linked into (a plug-in of an
//! interpreter, say), name a `coracle` binary by [`SandboxBuilder::kernel_path`] or `CORACLE_KERNEL`.
//!
//! Programs may have threads and run sandboxes at the same time. `spawn` and `wait` block: in a program on tokio call
//! them in `spawn_blocking`.

mod kernel;
mod protocol;
mod running;
mod spawner;

use std::ffi::OsString;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::config::{Bind, ClockChoice, Config, DEFAULT_GRACE, Rootfs, Timeout, User};
use crate::{Error, startup};

pub(crate) use kernel::linked;
pub use running::{Output, Running};

/// Makes [`SandboxBuilder`]s.
///
/// ```
/// use coracle::{Reason, Sandbox, Stream};
///
/// # fn main() -> Result<(), coracle::Error> {
/// let output = Sandbox::builder()
///     .program("sh")
///     .args(["-c", "echo from inside; exit 3"])
///     .stdout(Stream::Pipe)
///     .spawn()?
///     .wait_with_output()?;
/// assert_eq!(output.stdout, b"from inside\n");
/// assert_eq!(output.outcome.status, Some(3));
/// assert_eq!(output.outcome.reason, Reason::Exit);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Sandbox;

impl Sandbox {
    /// A sandbox with the defaults of `coracle run`.
    pub fn builder() -> SandboxBuilder {
        SandboxBuilder::from(Config::new(Vec::<OsString>::new()))
    }
}

/// One of a program's standard streams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Stream {
    /// The embedding program's own.
    #[default]
    Inherit,
    /// `/dev/null`.
    Null,
    /// A pipe; its other end is in [`Running`].
    Pipe,
}

impl Stream {
    fn stdio(self) -> Stdio {
        match self {
            Stream::Inherit => Stdio::inherit(),
            Stream::Null => Stdio::null(),
            Stream::Pipe => Stdio::piped(),
        }
    }
}

/// Describes a sandbox. What is not set is as for `coracle run`.
#[derive(Debug, Clone)]
pub struct SandboxBuilder {
    config: Config,
    program: Option<OsString>,
    streams: [Stream; 3],
    kernel_path: Option<PathBuf>,
    die_with_parent: bool,
}

impl From<Config> for SandboxBuilder {
    /// From a complete description; its `argv` is kept, and more arguments are added to it.
    fn from(config: Config) -> Self {
        Self { config, program: None, streams: Default::default(), kernel_path: None, die_with_parent: true }
    }
}

impl SandboxBuilder {
    /// The program; without a slash it is searched in the `PATH` of the sandbox.
    pub fn program(&mut self, program: impl Into<OsString>) -> &mut Self {
        self.program = Some(program.into());
        self
    }

    /// One more argument.
    pub fn arg(&mut self, arg: impl Into<OsString>) -> &mut Self {
        self.config.argv.push(arg.into());
        self
    }

    /// More arguments.
    pub fn args(&mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> &mut Self {
        self.config.argv.extend(args.into_iter().map(Into::into));
        self
    }

    /// What is seen at `/`.
    pub fn rootfs(&mut self, rootfs: Rootfs) -> &mut Self {
        self.config.rootfs = rootfs;
        self
    }

    /// Shows a host file or directory inside.
    pub fn bind(&mut self, src: impl Into<PathBuf>, dst: impl Into<PathBuf>, read_only: bool) -> &mut Self {
        self.config.binds.push(Bind { src: src.into(), dst: dst.into(), read_only });
        self
    }

    /// Where the program starts.
    pub fn workdir(&mut self, dir: impl AsRef<Path>) -> &mut Self {
        self.config.workdir = Some(dir.as_ref().to_owned());
        self
    }

    /// Sets a variable.
    pub fn env(&mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> &mut Self {
        self.config.env.set.push((key.into(), value.into()));
        self
    }

    /// Passes no variable of this process on.
    pub fn env_clear(&mut self) -> &mut Self {
        self.config.env.clear = true;
        self
    }

    /// Who the program believes to be.
    pub fn user(&mut self, user: User) -> &mut Self {
        self.config.user = Some(user);
        self
    }

    /// Most bytes of memory.
    pub fn memory(&mut self, bytes: u64) -> &mut Self {
        self.config.limits.memory = Some(bytes);
        self
    }

    /// Number of CPUs.
    pub fn cpus(&mut self, cpus: u32) -> &mut Self {
        self.config.limits.cpus = Some(cpus);
        self
    }

    /// Most processes and threads.
    pub fn pids(&mut self, pids: u32) -> &mut Self {
        self.config.limits.pids = Some(pids);
        self
    }

    /// SIGTERM after this long, SIGKILL [`DEFAULT_GRACE`] later.
    pub fn timeout(&mut self, after: Duration) -> &mut Self {
        self.config.timeout = Some(Timeout { after, grace: DEFAULT_GRACE });
        self
    }

    /// How the program tells the time.
    pub fn clock(&mut self, clock: ClockChoice) -> &mut Self {
        self.config.clock = clock;
        self
    }

    /// Everything else that can be described.
    pub fn config(&mut self) -> &mut Config {
        &mut self.config
    }

    /// Standard input.
    pub fn stdin(&mut self, stream: Stream) -> &mut Self {
        self.streams[0] = stream;
        self
    }

    /// Standard output.
    pub fn stdout(&mut self, stream: Stream) -> &mut Self {
        self.streams[1] = stream;
        self
    }

    /// Standard error; Coracle's own messages go there too.
    pub fn stderr(&mut self, stream: Stream) -> &mut Self {
        self.streams[2] = stream;
        self
    }

    /// A `coracle` binary to be the kernel process, instead of this program's executable [default: `CORACLE_KERNEL`
    /// of the environment].
    pub fn kernel_path(&mut self, path: impl Into<PathBuf>) -> &mut Self {
        self.kernel_path = Some(path.into());
        self
    }

    /// Whether the host kills the kernel process when this one dies, however it dies [default: yes]. Without it,
    /// sandboxes still end when their handles are gone, unless they were detached.
    pub fn die_with_parent(&mut self, mortal: bool) -> &mut Self {
        self.die_with_parent = mortal;
        self
    }

    /// Starts the program. Returns when it runs.
    pub fn spawn(&self) -> Result<Running, Error> {
        linked();
        let mut config = self.config.clone();
        config.argv.splice(0..0, self.program.clone());
        config.validate()?;
        if std::env::var_os(protocol::INSIDE).is_some() {
            return Err(Error::KernelProcess { reason: UNFIT.to_owned() });
        }
        let host = |source| Error::Host { what: "cannot start a kernel process", source };
        let (here, there) = UnixStream::pair().map_err(host)?;
        let [stdin, stdout, stderr] = self.streams.map(Stream::stdio);
        let path = self.kernel_path.clone().or_else(|| std::env::var_os("CORACLE_KERNEL").map(PathBuf::from));
        let mut command = Command::new(path.unwrap_or_else(|| PathBuf::from("/proc/self/exe")));
        command.stdin(stdin).stdout(stdout).stderr(stderr).env(protocol::INSIDE, "1");
        let child = spawner::spawn(command, there, self.die_with_parent).map_err(host)?;
        startup::step("kernel process started");
        Running::start(child, here, &config)
    }
}

/// Said where the kernel process is not one.
const UNFIT: &str =
    "this executable cannot be its own kernel process; name a coracle binary by kernel_path or CORACLE_KERNEL";
