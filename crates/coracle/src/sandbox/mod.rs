//! A sandbox in this process: the kernel, its world, and the end of the run.
//!
//! `view` builds what the guest sees as files, `streams` takes over standard input and output, `attendant` looks after what
//! comes from outside: `relay` passes terminal signals on, `live` answers those who ask.

mod archive;
mod attendant;
pub(crate) mod cgroup;
mod confine;
mod live;
pub(crate) mod relay;
mod report;
mod streams;
mod trace;
mod view;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use coracle_backends::confine::Right;
use coracle_backends::seccomp::{Born, SeccompPlatform};
use coracle_kernel::abi::linux::{SIGKILL, SIGTERM};
use coracle_kernel::signal::SigSet;
use coracle_kernel::task::{Cred, ExecError, Job, Spawn};
use coracle_kernel::time::{Choice, Offsets};
use coracle_kernel::world::{World, WorldConfig};
use coracle_platform::waiting::Policy;
use coracle_platform::{Waiting, inherit};
use rustix::fs::Mode;

use attendant::Attendant;
use cgroup::Group;

use crate::config::{ClockChoice, Config, PlatformChoice, WaitPolicy};
use crate::control::Place;
use crate::{Error, Lanes, Outcome, Reason, logger, startup};

pub use confine::Listener;
pub use live::Live;

/// How long everything may take to be gone at the end.
const SHUT_DOWN: Duration = Duration::from_secs(5);

/// Runs `config.argv` with this process as its kernel. `started` is told when the program runs; `listener` of an end
/// that leaves no time for an [`Outcome`].
///
/// `usage_wanted`: the outcome's times and memory will be looked at.
pub fn run(
    config: &Config,
    listener: Option<Listener>,
    usage_wanted: bool,
    started: impl FnOnce(&Arc<Live>),
) -> Result<Outcome, Error> {
    let start = Instant::now();
    // Before this process sets anything of its own.
    let ignored = SigSet(inherit::ignored());
    logger::install(config.log);
    raise_descriptor_limit();
    let cpus = bind_cpus(config);
    let waiting = Waiting::new(match config.wait_policy {
        WaitPolicy::Adaptive => Policy::Adaptive,
        WaitPolicy::Spin => Policy::Spin,
        WaitPolicy::Sleep => Policy::Sleep,
    });
    startup::step("limits of this process set");
    let root = rustix::process::geteuid().is_root();
    let mut place = Place::prepare().inspect_err(attendant::unreachable).ok();
    if root {
        place =
            place.and_then(|mut place| place.listen().inspect_err(attendant::unreachable).map(|()| place).ok());
    }
    let group = config.limits.memory.and_then(group).map(Arc::new);
    let _ending = cgroup::Ending(group.clone());
    let mut own = Vec::new();
    own.extend(place.as_ref().map(|place| (place.directory(), Right::Sockets)));
    own.extend(group.as_ref().map(|group| (group.parent().1.to_owned(), Right::Groups)));
    let network = matches!(config.net, crate::config::Net::Host).then(first_port);
    // Who calls is asked before root becomes somebody else.
    let caller = caller();
    confine::enter(config, own, |user| {
        if let Some(place) = &place {
            let _ = place.hand_over(user).inspect_err(|error| log::info!("the control socket will stay: {error}"));
        }
    })?;
    // The program has the caller's. This process has none any more: what it makes on the host is what the guest asked for.
    let umask = rustix::process::umask(Mode::empty()).bits();
    startup::step("kernel process confined to its files");
    let nice = rustix::process::getpriority_process(None).unwrap_or(0);
    // The first worker makes itself ready beside all that follows, and is answered between two steps.
    let seccomp = Arc::new(match config.platform {
        PlatformChoice::Auto | PlatformChoice::Seccomp => {
            SeccompPlatform::start_with(waiting, group.clone().map(born))?
        }
    });
    let platform = seccomp.clone();
    startup::step("platform on its way");
    let mut attendant = Attendant::new(seccomp.clone(), place);
    let mut view = view::build(config)?;
    startup::step("root of the view built");
    attendant.look()?;
    let world = World::new(seccomp, world_config(config, cpus, nice, usage_wanted, group.clone()), view.vfs);
    if let Some(first_port) = network {
        world.ipc.use_host_network(first_port);
    }
    let cred = match &config.user {
        None => caller,
        Some(user) => view::credentials(&world, user)?,
    };
    let mut parts = view::BuiltParts { upper: &mut view.upper, budget: &view.budget };
    view::mount_all(&world, config, &cred, &mut parts)?;
    attendant.look()?;
    startup::step("other file systems mounted");
    if let Some(filter) = &config.trace.syscalls {
        world.set_tracer(Arc::new(trace::Strace::new(filter.clone())));
    }
    let ended = Arc::new(Ended::default());
    let output = config.limits.output.map(|bytes| streams::limit(bytes, &world, &ended));
    let files = streams::inherit(output.clone(), (cred.uid, cred.gid), &world)?;
    let environment = config.env.resolve(std::env::vars_os());
    startup::step("standard streams taken over");
    let cwd = view::working_directory(&world, config, &cred)?;
    let terminal = relay::Terminal::save();
    startup::step("environment and directory found");
    attendant.look()?;
    let prepared = world
        .prepare(Spawn {
            argv: config.argv.iter().map(|arg| arg.as_bytes().to_vec()).collect(),
            env: environment.into_iter().map(OsString::into_vec).collect(),
            cwd: cwd.clone(),
            umask,
            ignored,
            cred: cred.clone(),
            files,
            own_session: false,
        })
        .map_err(program_error)?;
    startup::step("program found and read");
    attendant.look()?;
    confine::decide(config)?;
    confine::close(config, listener)?;
    startup::step("kernel process confined to its host calls");
    let server = attendant.wait()?;
    startup::step("attendant ready");
    let (process, job) = prepared.load().map_err(program_error)?;
    let _ = attendant.target.set((Arc::downgrade(&world), Arc::downgrade(&process)));
    let live = Arc::new(Live {
        world: world.clone(),
        first: process,
        ended: ended.clone(),
        argv: config.argv.clone(),
        started: SystemTime::now(),
        cwd,
        cred,
        output,
    });
    let _ = attendant.handler.set(live.clone());
    startup::step("program runs");
    startup::finish();
    started(&live);
    serve_first(config, &world, job)?;
    let end = wait(config, &world, &ended);
    startup::step("program ended");
    let usage = tally(&world);
    world.shut_down(SHUT_DOWN);
    drop(server);
    drop(terminal);
    if config.stats {
        print_stats(&world);
    }
    let reported = report::report(&view.upper, config);
    platform.end();
    reported?;
    startup::step("all is over");
    // This process has nothing left to do but to end. That takes all the rest with it, at once: memory and descriptors.
    std::mem::forget((world, live));
    Ok(outcome(end, &ended, usage, start))
}

/// The group that holds the workers to their memory, where one can be had.
fn group(limit: u64) -> Option<Group> {
    let why = |why: &String| log::info!("--memory works by sampling, and can be overshot for a moment: {why}");
    Group::make(limit).inspect_err(why).ok()
}

/// Puts the workers into it.
fn born(group: Arc<Group>) -> Born {
    Box::new(move |pid| {
        if let Err(error) = group.take_in(pid) {
            log::info!("--memory works by sampling, and can be overshot for a moment: {error}");
        }
    })
}

fn program_error(error: ExecError) -> Error {
    Error::Program { errno: error.errno.raw(), reason: error.reason }
}

/// Serves the first thread of the first program. On this thread, which has nothing else to do until its end: no thread
/// is made for it and none is woken by it. Unless there is a timeout to wait for.
fn serve_first(config: &Config, world: &Arc<World>, job: Job) -> Result<(), Error> {
    if config.timeout.is_none() {
        job();
        return Ok(());
    }
    let server = world.pool.reserve().map_err(|errno| Error::Host {
        what: "cannot start a thread",
        source: std::io::Error::from_raw_os_error(errno.raw()),
    })?;
    server.run(job);
    Ok(())
}

/// Why the run was ended from outside, if it was.
#[derive(Default)]
pub(crate) struct Ended {
    timeout: AtomicBool,
    pub(crate) output: AtomicBool,
    pub(crate) killed: AtomicBool,
}

/// Waits for the first program; TERM and then KILL when the time is up.
fn wait(config: &Config, world: &Arc<World>, ended: &Ended) -> coracle_kernel::world::End {
    if let Some(timeout) = config.timeout {
        if let Some(end) = world.wait_end(Some(timeout.after)) {
            return end;
        }
        ended.timeout.store(true, Ordering::SeqCst);
        log::warn!("the time is up ({:?}); SIGTERM, and SIGKILL in {:?}", timeout.after, timeout.grace);
        world.signal_all(SIGTERM as i32);
        if let Some(end) = world.wait_end(Some(timeout.grace)) {
            return end;
        }
        world.signal_all(SIGKILL as i32);
    }
    world.wait_end(None).unwrap_or_default()
}

/// What the run used.
struct Tally {
    cpu: Duration,
    peak: u64,
    lanes: Lanes,
}

fn tally(world: &World) -> Tally {
    let lanes = *world.stats.lanes.lock();
    Tally {
        cpu: Duration::from_nanos(world.stats.cpu_nanos.load(Ordering::Relaxed)),
        peak: world.stats.peak_memory.load(Ordering::Relaxed),
        lanes: Lanes { identity: lanes.lane1, memory: lanes.lane2, port: lanes.lane3, trap: lanes.lane4 },
    }
}

fn outcome(end: coracle_kernel::world::End, ended: &Ended, tally: Tally, start: Instant) -> Outcome {
    let signal = end.status & 0x7f;
    let exited = signal == 0;
    let reason = if end.out_of_memory {
        Reason::OutOfMemory
    } else if ended.timeout.load(Ordering::SeqCst) {
        Reason::Timeout
    } else if ended.killed.load(Ordering::SeqCst) || ended.output.load(Ordering::SeqCst) {
        Reason::Killed
    } else if exited {
        Reason::Exit
    } else {
        Reason::Signal
    };
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    Outcome {
        status: exited.then_some((end.status >> 8) & 0xff),
        signal: (!exited).then_some(signal),
        reason,
        wall_ns: nanos(start.elapsed()),
        cpu_ns: nanos(tally.cpu),
        peak_memory: tally.peak,
        lanes: tally.lanes,
    }
}

/// Without `--user` the guest believes to be whoever called.
fn caller() -> Cred {
    let groups = rustix::process::getgroups().unwrap_or_default();
    let groups = groups.into_iter().map(rustix::process::Gid::as_raw).collect();
    Cred::new(rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw(), groups)
}

fn world_config(
    config: &Config,
    cpus: Vec<usize>,
    nice: i32,
    usage_wanted: bool,
    group: Option<Arc<Group>>,
) -> WorldConfig {
    WorldConfig {
        usage_wanted,
        hostname: config.hostname.clone(),
        cpus,
        nice,
        memory: granted_memory(config),
        memory_limit: config.limits.memory,
        host_oom_kills: group.map(|group| Arc::new(move || group.killed()) as Arc<dyn Fn() -> u64 + Send + Sync>),
        pids_limit: config.limits.pids,
        clock: match config.clock {
            ClockChoice::Auto => Choice::Auto,
            ClockChoice::Tsc => Choice::Tsc,
            ClockChoice::Pvclock => Choice::Pvclock,
            ClockChoice::PvclockPerCpu => Choice::PvclockPerCpu,
            ClockChoice::PvclockPerCpuLsl => Choice::PvclockPerCpuLsl,
            ClockChoice::Syscall => Choice::Syscall,
        },
        clock_offsets: Offsets::default(),
    }
}

/// The CPUs that guests get. With `--cpus`, this thread is bound to them, and so is everything that it starts:
/// workers and the kernel's threads. They are the ones after the CPU that the host has just chosen for us.
fn bind_cpus(config: &Config) -> Vec<usize> {
    let mut cpus: Vec<usize> = match rustix::thread::sched_getaffinity(None) {
        Ok(set) => (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect(),
        Err(_) => vec![0],
    };
    if let Some(granted) = config.limits.cpus {
        let there = cpus.len();
        if granted as usize > there {
            log::warn!("--cpus {granted}: only {there} can be had here, so the program sees {there}");
        }
        let here = rustix::thread::sched_getcpu();
        let at = cpus.iter().position(|cpu| *cpu == here).unwrap_or(0);
        cpus.rotate_left(at);
        cpus.truncate(granted.max(1) as usize);
        cpus.sort_unstable();
        let mut set = rustix::thread::CpuSet::new();
        cpus.iter().for_each(|cpu| set.set(*cpu));
        if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
            log::warn!("--cpus is shown to the guest but not enforced: {error}");
        }
    }
    cpus
}

/// The first port of the host's network that needs no privilege, where the host says so.
fn first_port() -> Option<u32> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").ok()?;
    text.trim().parse().ok()
}

/// Bytes of memory that guests are told they have. Files in memory can hold no more either.
fn granted_memory(config: &Config) -> u64 {
    let info = rustix::system::sysinfo();
    let host = (info.totalram as u64).saturating_mul(u64::from(info.mem_unit));
    config.limits.memory.map_or(host, |limit| limit.min(host))
}

/// Guests' files cost descriptors of this process.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}

/// The counters of `--stats`, on stderr.
fn print_stats(world: &World) {
    let lanes = *world.stats.lanes.lock();
    eprintln!(
        "calls by lane: 1 (port) {}, 2 (host, own memory) {}, 3 (kernel) {}, 4 (trap) {}; {} bytes staged",
        lanes.lane1, lanes.lane2, lanes.lane3, lanes.lane4, lanes.bytes_staged
    );
    let counts = &world.waiting.counts;
    let figure = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    eprintln!(
        "waits for guests: slept {}, spun in vain {}, lost the CPU {}, no CPU to spare {}; spinning given up {}, taken \
         up {}; bound to CPUs {}; guests slept {}",
        figure(&counts.slept),
        figure(&counts.vain),
        figure(&counts.displaced),
        figure(&counts.crowded),
        figure(&counts.given_up),
        figure(&counts.taken_up),
        figure(&counts.bound),
        figure(&counts.guest_slept),
    );
    eprintln!(
        "waits for objects: slept {}, ended by spinning {}, spun in vain {}",
        figure(&counts.wait_slept),
        figure(&counts.wait_spun),
        figure(&counts.wait_vain)
    );
    let mut calls: Vec<_> = world
        .stats
        .calls
        .iter()
        .enumerate()
        .map(|(number, count)| (count.load(Ordering::Relaxed), number as u64))
        .filter(|(count, _)| *count > 0)
        .collect();
    calls.sort_unstable_by(|a, b| b.cmp(a));
    for (count, number) in calls {
        let name = coracle_kernel::syscalls::find(number).map_or("(unknown)", |call| call.name);
        eprintln!("{count:>10}  {name}");
    }
}

/// Bytes of an OS string.
fn bytes(text: &OsStr) -> &[u8] {
    text.as_bytes()
}
