//! `coracle run`: options to a [`Config`], the run, its status.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, ValueEnum, ValueHint};
use coracle::config::{
    self, ClockChoice, Config, Confine, Environment, Limits, LogLevel, Net, PlatformChoice, Report, Rootfs,
    Timeout, Trace, User, WaitPolicy,
};
use coracle::{Reason, startup};

use crate::json;
use crate::parse::{self, TraceArg};
use crate::shown::Shown;

/// Run a program in a sandbox of its own.
///
/// Without options the program sees the host's files read-only (world-readable ones; homes and /run hidden,
/// but the current directory shown), writes into memory that is gone at the end, and has no network.
///
/// The program's exit status becomes this command's: 128 + N if signal N ended it. 125 says that Coracle
/// itself failed, or had to stop --diff or --save early; 126 that the program cannot be executed, 127 that there is no such
/// program.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, override_usage = "coracle run [OPTIONS] -- PROG [ARGS]...")]
pub struct RunArgs {
    /// Show this directory, or the contents of this tar file, as / instead of the host's tree.
    ///
    /// It is not changed: writes stay in memory, and so does what an archive holds, which counts against --disk and
    /// --memory. Try `docker export ID > root.tar`, then `--rootfs root.tar`.
    #[arg(long, value_name = "DIR|TAR", value_hint = ValueHint::AnyPath, help_heading = FILES)]
    rootfs: Option<PathBuf>,

    #[command(flatten)]
    shown: Shown,

    /// List at the end, on stderr, what the run wrote: A added, M modified, D deleted.
    #[arg(long, help_heading = FILES)]
    diff: bool,

    /// Copy what the run wrote into this new or empty directory at the end.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, help_heading = FILES)]
    save: Option<PathBuf>,

    /// Most bytes that --diff prints; more, and it stops there.
    #[arg(long, value_name = "SIZE", value_parser = parse::size, default_value = "16M", help_heading = LIMITS)]
    diff_limit: u64,

    /// Most bytes that --save writes [default: what the run may hold in memory]; more, and it stops there.
    #[arg(long, value_name = "SIZE", value_parser = parse::size, help_heading = LIMITS)]
    save_limit: Option<u64>,

    /// Most time that --diff takes, and --save; they stop then.
    #[arg(long, value_name = "TIME", value_parser = parse::duration, default_value = "5m", help_heading = LIMITS)]
    report_timeout: Duration,

    /// Start in this directory of the sandbox [default: the current one, if it is visible inside].
    #[arg(long, short = 'C', value_name = "DIR", help_heading = PROCESS)]
    workdir: Option<PathBuf>,

    /// Set a variable, or pass on the caller's value of KEY.
    ///
    /// May be given many times. Of the caller's own variables only PATH, HOME, LANG, TERM and TZ are passed
    /// on unasked.
    #[arg(long, short = 'e', value_name = "KEY[=VALUE]",
        value_parser = OsStringValueParser::new().try_map(parse::env), help_heading = PROCESS)]
    env: Vec<(OsString, Option<OsString>)>,

    /// Pass on no variable of the caller's but those that --env names.
    #[arg(long, help_heading = PROCESS)]
    env_clear: bool,

    /// Who the program believes to be [default: the caller]. 0 is root over its own writes only.
    #[arg(long, short = 'u', value_name = "NAME|UID[:GID]", value_parser = parse::user, help_heading = PROCESS)]
    user: Option<User>,

    /// The name that `hostname` prints inside.
    #[arg(long, value_name = "NAME", default_value = config::DEFAULT_HOSTNAME, help_heading = PROCESS)]
    hostname: String,

    /// Most memory, as in 512M: more ends the run as out of memory.
    ///
    /// The program sees this as the size of its machine's memory. In-memory files count too.
    #[arg(long, short = 'm', value_name = "SIZE", value_parser = parse::size, help_heading = LIMITS)]
    memory: Option<u64>,

    /// Number of CPUs, a whole number: the program sees this many and runs on no more. There are no more than the
    /// host's.
    #[arg(long, value_name = "N", help_heading = LIMITS)]
    cpus: Option<u32>,

    /// Most processes and threads at once: more, and clone fails with EAGAIN.
    #[arg(long, value_name = "N", help_heading = LIMITS)]
    pids: Option<u32>,

    /// Most bytes of files written into memory, as in 1G: more, and writes fail with ENOSPC. An archive of --rootfs
    /// counts.
    #[arg(long, value_name = "SIZE", value_parser = parse::size, help_heading = LIMITS)]
    disk: Option<u64>,

    /// Most bytes on stdout and stderr together, as in 10M: more ends the run.
    #[arg(long, value_name = "SIZE", value_parser = parse::size, help_heading = LIMITS)]
    output_limit: Option<u64>,

    /// End the run after this long, as in 10s: SIGTERM first, SIGKILL after --grace.
    #[arg(long, value_name = "TIME", value_parser = parse::duration, help_heading = LIMITS)]
    timeout: Option<Duration>,

    /// Time that --timeout leaves between SIGTERM and SIGKILL.
    #[arg(long, value_name = "TIME", value_parser = parse::duration, default_value = "5s", help_heading = LIMITS)]
    grace: Duration,

    /// Network: none, or the host's own.
    #[arg(long, value_enum, default_value_t = NetArg::None, help_heading = LIMITS)]
    net: NetArg,

    /// How guest code is run; auto takes the best that this host has.
    #[arg(long, value_enum, default_value_t = PlatformArg::Auto, help_heading = INSIGHT)]
    platform: PlatformArg,

    /// Walls around Coracle's own process: as good as this host has them, or complete or no run at all.
    ///
    /// Landlock keeps it from files, sockets and processes that the run has no need of, a seccomp filter from host
    /// calls that it never makes. `coracle doctor` says what this host has.
    #[arg(long, value_enum, default_value_t = ConfineArg::Auto, help_heading = INSIGHT)]
    confine: ConfineArg,

    /// Show system calls as strace does, or the time of every start-up step, on stderr.
    ///
    /// `syscalls` shows all, `syscalls:openat,read` only these, `syscalls:!futex` all but these. `startup` is
    /// the same as CORACLE_STARTUP_TRACE=1. May be given many times.
    #[arg(long, value_name = "syscalls[:FILTER]|startup", value_parser = parse::trace, help_heading = INSIGHT)]
    trace: Vec<TraceArg>,

    /// Print at the end, on stderr, how many calls took which lane, and more counters.
    #[arg(long, help_heading = INSIGHT)]
    stats: bool,

    /// Print at the end, on stderr, one line of JSON: status, reason, times, peak memory, calls per lane.
    #[arg(long, help_heading = INSIGHT)]
    json: bool,

    /// Coracle's own messages from this level up.
    #[arg(long, value_enum, value_name = "LEVEL", default_value_t = LogArg::Warn, help_heading = INSIGHT)]
    log: LogArg,

    /// How the program tells the time: as fast as the host allows, from the time stamp counter, from the pages of the
    /// hypervisor clock ABI, or by system call.
    #[arg(long, value_enum, default_value_t = ClockArg::Auto, hide_possible_values = true,
        value_name = "auto|tsc|pvclock|syscall", help_heading = PROCESS)]
    clock: ClockArg,

    /// How a waiting side of a port waits; for measurements.
    #[arg(long, value_enum, default_value_t = WaitArg::Adaptive, hide = true)]
    wait_policy: WaitArg,

    /// The program and its arguments. It is searched in the PATH of the sandbox.
    #[arg(value_name = "PROG", required = true, trailing_var_arg = true,
        value_hint = ValueHint::CommandWithArguments)]
    argv: Vec<OsString>,
}

const FILES: &str = "Files";
const PROCESS: &str = "Process";
const LIMITS: &str = "Limits";
const INSIGHT: &str = "Insight";

const EXAMPLES: &str = "\
Examples:
  coracle run -- python3 job.py                           nothing it does outlives it
  coracle run --diff -- ./install.sh                      what would this write?
  coracle run --save out -- make                          keep what it wrote, elsewhere
  coracle run --write . -- make                           let it change the current directory
  coracle run -m 512M --cpus 1 --timeout 10s -- ./a.out   with limits
  coracle run --rootfs alpine.tar -- sh                   another distribution
  coracle run --trace=syscalls:openat -- cat /etc/hostname";

#[derive(Debug, Clone, Copy, ValueEnum)]
enum NetArg {
    /// A network of its own, with a loopback interface and nothing else.
    None,
    /// The host's network.
    Host,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PlatformArg {
    /// The best that this host has.
    Auto,
    /// Confined host processes; works everywhere, needs no rights.
    Seccomp,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ConfineArg {
    /// What this host can enforce.
    Auto,
    /// Everything, or the run is refused.
    Required,
    /// Nothing; for debugging and measuring Coracle itself.
    Off,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogArg {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum WaitArg {
    Adaptive,
    Spin,
    Sleep,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ClockArg {
    Auto,
    Tsc,
    Pvclock,
    /// The hypervisor clock ABI's older reader, for measurements.
    #[value(hide = true)]
    PvclockPerCpu,
    /// The same without `rdpid`.
    #[value(hide = true)]
    PvclockPerCpuLsl,
    Syscall,
}

/// Why options do not make a configuration.
#[derive(Debug, thiserror::Error)]
enum OptionError {
    #[error("{option} {}: {source}", .path.display())]
    Path { option: &'static str, path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Config(#[from] config::ConfigError),
}

/// The status to end with.
pub fn run(args: RunArgs) -> u8 {
    if args.trace.contains(&TraceArg::Startup) {
        startup::enable();
    }
    startup::step("command line parsed");
    let config = match args.into_config() {
        Ok(config) => config,
        Err(err) => {
            crate::complain(&err);
            return crate::FAILED;
        }
    };
    startup::step("configuration checked");
    let json = config.json;
    match if json { coracle::run(config) } else { coracle::run_to_status(&config) } {
        Ok(outcome) => {
            if json {
                eprintln!("{}", json::line(&outcome));
            }
            outcome.exit_code()
        }
        Err(err) => {
            startup::finish();
            crate::complain(&err);
            if json {
                eprintln!("{}", failure(&err));
            }
            err.exit_code()
        }
    }
}

/// The `--json` line of a run that never began: the status that the command has, and what it says.
fn failure(err: &coracle::Error) -> String {
    let reason = match err {
        coracle::Error::Program { .. } => Reason::Exit,
        _ => Reason::Internal,
    };
    let status = err.exit_code();
    json::line(
        &serde_json::json!({ "status": status, "signal": null, "reason": reason, "error": err.to_string() }),
    )
}

impl RunArgs {
    /// A command line without options, as clap would read it; `None` if there are some.
    pub fn plain(args: &[OsString]) -> Option<RunArgs> {
        let argv = match args.get(2)?.as_encoded_bytes() {
            b"--" => args.get(3..)?,
            [b'-', ..] => return None,
            _ => args.get(2..)?,
        };
        if argv.is_empty() {
            return None;
        }
        Some(RunArgs {
            rootfs: None,
            shown: Shown::default(),
            diff: false,
            save: None,
            diff_limit: config::Report::default().diff,
            save_limit: config::Report::default().save,
            report_timeout: config::Report::default().time,
            workdir: None,
            env: Vec::new(),
            env_clear: false,
            user: None,
            hostname: config::DEFAULT_HOSTNAME.into(),
            memory: None,
            cpus: None,
            pids: None,
            disk: None,
            output_limit: None,
            timeout: None,
            grace: config::DEFAULT_GRACE,
            net: NetArg::None,
            platform: PlatformArg::Auto,
            confine: ConfineArg::Auto,
            trace: Vec::new(),
            stats: false,
            json: false,
            log: LogArg::Warn,
            clock: ClockArg::Auto,
            wait_policy: WaitArg::Adaptive,
            argv: argv.to_vec(),
        })
    }

    /// The configuration that the options describe, checked.
    fn into_config(self) -> Result<Config, OptionError> {
        let absolute = |option, path: PathBuf| {
            std::path::absolute(&path).map_err(|source| OptionError::Path { option, path, source })
        };
        let mut config = Config::new(self.argv);
        if let Some(path) = self.rootfs {
            let path = absolute("--rootfs", path)?;
            config.rootfs = if path.is_file() { Rootfs::Tar(path) } else { Rootfs::Dir(path) };
        }
        config.binds = self.shown.bind;
        config.write =
            self.shown.write.into_iter().map(|dir| absolute("--write", dir)).collect::<Result<_, _>>()?;
        config.workdir = self.workdir;
        config.env = environment(self.env, self.env_clear);
        config.user = self.user;
        config.limits = Limits {
            memory: self.memory,
            cpus: self.cpus,
            pids: self.pids,
            disk: self.disk,
            output: self.output_limit,
        };
        config.timeout = self.timeout.map(|after| Timeout { after, grace: self.grace });
        config.diff = self.diff;
        config.save = self.save.map(|dir| absolute("--save", dir)).transpose()?;
        config.report = Report { diff: self.diff_limit, save: self.save_limit, time: self.report_timeout };
        config.hostname = self.hostname;
        config.net = match self.net {
            NetArg::None => Net::None,
            NetArg::Host => Net::Host,
        };
        config.platform = match self.platform {
            PlatformArg::Auto => PlatformChoice::Auto,
            PlatformArg::Seccomp => PlatformChoice::Seccomp,
        };
        config.confine = match self.confine {
            ConfineArg::Auto => Confine::Auto,
            ConfineArg::Required => Confine::Required,
            ConfineArg::Off => Confine::Off,
        };
        config.clock = match self.clock {
            ClockArg::Auto => ClockChoice::Auto,
            ClockArg::Tsc => ClockChoice::Tsc,
            ClockArg::Pvclock => ClockChoice::Pvclock,
            ClockArg::PvclockPerCpu => ClockChoice::PvclockPerCpu,
            ClockArg::PvclockPerCpuLsl => ClockChoice::PvclockPerCpuLsl,
            ClockArg::Syscall => ClockChoice::Syscall,
        };
        config.wait_policy = match self.wait_policy {
            WaitArg::Adaptive => WaitPolicy::Adaptive,
            WaitArg::Spin => WaitPolicy::Spin,
            WaitArg::Sleep => WaitPolicy::Sleep,
        };
        config.trace = traces(self.trace);
        config.stats = self.stats;
        config.json = self.json;
        config.log = match self.log {
            LogArg::Off => LogLevel::Off,
            LogArg::Error => LogLevel::Error,
            LogArg::Warn => LogLevel::Warn,
            LogArg::Info => LogLevel::Info,
            LogArg::Debug => LogLevel::Debug,
            LogArg::Trace => LogLevel::Trace,
        };
        config.validate()?;
        Ok(config)
    }
}

/// `KEY` alone passes the caller's value on; a caller without one passes nothing, as for `docker run -e`.
pub fn environment(vars: Vec<(OsString, Option<OsString>)>, clear: bool) -> Environment {
    let set = vars
        .into_iter()
        .filter_map(|(key, value)| value.or_else(|| std::env::var_os(&key)).map(|value| (key, value)))
        .collect();
    Environment { clear, set }
}

/// Several filters of system calls add up when they name calls; any other mix shows what the last one says.
fn traces(args: Vec<TraceArg>) -> Trace {
    let mut trace = Trace::default();
    for arg in args {
        match (arg, &mut trace.syscalls) {
            (TraceArg::Startup, _) => trace.startup = true,
            (TraceArg::Syscalls(new), Some(old)) if old.invert == new.invert && !old.names.is_empty() => {
                old.names.extend(new.names);
            }
            (TraceArg::Syscalls(new), slot) => *slot = Some(new),
        }
    }
    trace
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use coracle::config::Bind;

    use super::*;

    #[derive(Debug, Parser)]
    struct Alone {
        #[command(flatten)]
        run: RunArgs,
    }

    fn parse(line: &str) -> Config {
        let words = std::iter::once("run").chain(line.split_whitespace());
        Alone::try_parse_from(words).unwrap().run.into_config().unwrap()
    }

    #[test]
    fn a_bare_program_gets_the_defaults() {
        assert_eq!(parse("-- /bin/ls -l"), Config::new(["/bin/ls", "-l"]));
        assert_eq!(parse("/bin/ls -l --json"), Config::new(["/bin/ls", "-l", "--json"]));
        assert_eq!(parse("/bin/ls --json -- x"), Config::new(["/bin/ls", "--json", "--", "x"]));
        assert_eq!(parse("-- --odd"), Config::new(["--odd"]));
    }

    #[test]
    fn every_option_reaches_its_field() {
        let config = parse(
            "--bind /etc:/x:ro --write /tmp --workdir /w --env A=1 --env-clear --user 3:4 --memory 64M \
             --cpus 2 --pids 9 --disk 1G --output-limit 1K --timeout 2s --grace 1s --diff --hostname box \
             --diff-limit 1M --save-limit 2M --report-timeout 3s \
             --net host --platform seccomp --trace=syscalls:read --trace=syscalls:write --trace startup \
             --stats --log debug --json --confine required --clock pvclock --wait-policy spin -- p",
        );
        let mut want = Config::new(["p"]);
        want.binds = vec![Bind { src: "/etc".into(), dst: "/x".into(), read_only: true }];
        want.write = vec!["/tmp".into()];
        want.workdir = Some("/w".into());
        want.env = Environment { clear: true, set: vec![("A".into(), "1".into())] };
        want.user = Some(User::Id { uid: 3, gid: Some(4) });
        want.limits = Limits {
            memory: Some(64 << 20),
            cpus: Some(2),
            pids: Some(9),
            disk: Some(1 << 30),
            output: Some(1024),
        };
        want.timeout = Some(Timeout { after: Duration::from_secs(2), grace: Duration::from_secs(1) });
        want.diff = true;
        want.report = Report { diff: 1 << 20, save: Some(2 << 20), time: Duration::from_secs(3) };
        want.hostname = "box".into();
        want.net = Net::Host;
        want.platform = PlatformChoice::Seccomp;
        want.confine = Confine::Required;
        want.clock = ClockChoice::Pvclock;
        want.wait_policy = WaitPolicy::Spin;
        let names = vec!["read".to_owned(), "write".to_owned()];
        want.trace = Trace { syscalls: Some(config::SyscallFilter { names, invert: false }), startup: true };
        want.stats = true;
        want.log = LogLevel::Debug;
        want.json = true;
        assert_eq!(config, want);
    }

    #[test]
    fn rootfs_is_told_by_its_kind() {
        assert_eq!(parse("--rootfs /etc p").rootfs, Rootfs::Dir("/etc".into()));
        assert_eq!(parse("--rootfs /etc/passwd p").rootfs, Rootfs::Tar("/etc/passwd".into()));
    }

    #[test]
    fn the_command_tree_is_sound() {
        <Alone as clap::CommandFactory>::command().debug_assert();
        <crate::Cli as clap::CommandFactory>::command().debug_assert();
    }
}
