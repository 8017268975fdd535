//! The first program of a sandbox, and its end.

use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use coracle_elf::ArgSpace;
use coracle_platform::{PlatformError, Space, Thread, Vessel, startup};
use parking_lot::Mutex;

use super::exec::{self, ExecError, Request};
use super::pool::Job;
use super::process::Seed;
use super::tree::Number;
use super::{Children, Cred, Links, Process, Rlimits, Sched, Session, Task, TaskSeed, load, run};
use crate::abi::linux::{
    RLIM_NLIMITS, RLIMIT_CORE, RLIMIT_CPU, RLIMIT_DATA, RLIMIT_FSIZE, RLIMIT_MEMLOCK, RLIMIT_MSGQUEUE,
    RLIMIT_NICE, RLIMIT_NOFILE, RLIMIT_NPROC, RLIMIT_RTPRIO, RLIMIT_SIGPENDING, RLIMIT_STACK, SIGCHLD, SIGKILL,
};
use crate::abi::types::Rlimit;
use crate::fd::{FdEntry, FdTable, OpenFile};
use crate::fs::dev::terminal;
use crate::fs::{FsContext, PathRef, Resolve};
use crate::mm::AddressSpace;
use crate::shown::Name;
use crate::signal::{self, SigSet};
use crate::world::World;
use crate::{Errno, Result};

/// A program to start from outside.
pub struct Spawn {
    /// Program and arguments. A program without a slash is searched in the `PATH` of `env`.
    pub argv: Vec<Vec<u8>>,
    /// `KEY=VALUE` strings.
    pub env: Vec<Vec<u8>>,
    pub cwd: PathRef,
    pub umask: u32,
    /// Signals that it ignores, as execve(2) hands them on.
    pub ignored: SigSet,
    pub cred: Cred,
    /// Descriptors 0, 1, 2, …
    pub files: Vec<Arc<OpenFile>>,
    /// It leads a session of its own, controlled by the terminal among its descriptors. Else it belongs to pid 1's
    /// session, as if a shell had started it.
    pub own_session: bool,
}

/// The limits that the sandbox was started with. Address space is not limited, because reservations would
/// count, and descriptors are the usual number, because the kernel raises its own.
fn inherited_rlimits() -> Rlimits {
    use rustix::process::{Resource, getrlimit};
    let mut limits = [Rlimit { cur: u64::MAX, max: u64::MAX }; RLIM_NLIMITS as usize];
    for (which, resource) in [
        (RLIMIT_CPU, Resource::Cpu),
        (RLIMIT_FSIZE, Resource::Fsize),
        (RLIMIT_DATA, Resource::Data),
        (RLIMIT_STACK, Resource::Stack),
        (RLIMIT_CORE, Resource::Core),
        (RLIMIT_NPROC, Resource::Nproc),
        (RLIMIT_NOFILE, Resource::Nofile),
        (RLIMIT_MEMLOCK, Resource::Memlock),
        (RLIMIT_SIGPENDING, Resource::Sigpending),
        (RLIMIT_MSGQUEUE, Resource::Msgqueue),
        (RLIMIT_NICE, Resource::Nice),
        (RLIMIT_RTPRIO, Resource::Rtprio),
    ] {
        if let Some(limit) = limits.get_mut(which as usize) {
            let host = getrlimit(resource);
            *limit = Rlimit { cur: host.current.unwrap_or(u64::MAX), max: host.maximum.unwrap_or(u64::MAX) };
        }
    }
    if let Some(files) = limits.get_mut(RLIMIT_NOFILE as usize) {
        files.max = files.max.min(1 << 20);
        files.cur = files.max.min(1024);
    }
    limits
}

fn no_worker(error: &PlatformError) -> ExecError {
    ExecError { errno: Errno::EAGAIN, reason: format!("no worker can be started: {error}") }
}

/// A program that was found, and the process that it will run in.
pub struct Prepared {
    number: Number,
    space: Arc<dyn Space>,
    thread: Box<dyn Thread>,
    task: Arc<Task>,
    program: load::Program,
}

impl Prepared {
    /// Makes the process. It runs as long as the job that is returned does.
    pub fn load(self) -> Result<(Arc<Process>, Job), ExecError> {
        let Prepared { number, space, mut thread, task, program } = self;
        let (world, init) = (task.world.clone(), task.world.init());
        let mm = match load::build(&task, &program, &space, &mut *thread) {
            Ok(mm) => mm,
            Err(error) => {
                thread.retire();
                return Err(world.platform.failure().map_or(error, |failure| no_worker(&failure)));
            }
        };
        startup::step("program mapped, stack built");
        exec::become_first(&task, &program, mm);
        let process = task.process.clone();
        {
            let mut tree = world.tree.lock();
            tree.add(process.clone());
            init.links.lock().children.add(process.clone(), 1);
            process.tasks.lock().push(task.clone());
            tree.add_task(task.clone());
            number.used(&mut tree);
        }
        world.stats.forks.fetch_add(1, Ordering::Relaxed);
        world.start_memory_watch();
        Ok((process, Box::new(move || run::serve(task, thread, false))))
    }
}

impl Process {
    /// Pid 1: the kernel's own. It has no threads; whatever becomes its child is waited for at once.
    fn init(world: &Arc<World>) -> Arc<Process> {
        let session = Arc::new(Session { sid: 1, terminal: Mutex::new(None) });
        Arc::new(Process::new(Seed {
            world: world.clone(),
            pid: 1,
            links: Links { parent: Weak::new(), parent_tid: 0, children: Children::default(), pgid: 1, session },
            signals: signal::ProcessSignals::default(),
            rlimits: inherited_rlimits(),
            mm: None,
            exit_signal: SIGCHLD as i32,
            oom_score_adj: 0,
            personality: 0,
            below_subreaper: false,
        }))
    }
}

impl World {
    /// Pid 1, made at first use.
    pub fn init(self: &Arc<World>) -> Arc<Process> {
        if let Some(init) = self.process(1) {
            return init;
        }
        let init = Process::init(self);
        let mut tree = self.tree.lock();
        if let Some(init) = tree.process(1) {
            return init.clone();
        }
        tree.add(init.clone());
        tree.reserve_first();
        init
    }

    /// Starts a program as a child of pid 1. The first one has pid 2, and the sandbox ends with it.
    pub fn spawn(self: &Arc<World>, spawn: Spawn) -> Result<Arc<Process>, ExecError> {
        self.spawn_with(spawn, |_| {})
    }

    /// As `spawn`, after something was done to the process.
    pub(crate) fn spawn_with(
        self: &Arc<World>,
        spawn: Spawn,
        change: impl FnOnce(&Process),
    ) -> Result<Arc<Process>, ExecError> {
        let server = self.pool.reserve()?;
        let (process, job) = self.prepare(spawn)?.load()?;
        change(&process);
        server.run(job);
        Ok(process)
    }

    /// Finds a program, to be loaded by and by.
    pub fn prepare(self: &Arc<World>, spawn: Spawn) -> Result<Prepared, ExecError> {
        let init = self.init();
        let number = Number::allocate(self)?;
        let Vessel { space, thread } = self.platform.spawn().map_err(|error| no_worker(&error))?;
        let task = self.make_task(&init, &spawn, number.get(), thread.control(), AddressSpace::new(space.clone()));
        match task.find_in_path(spawn) {
            Ok(program) => Ok(Prepared { number, space, thread, task, program }),
            Err(error) => {
                thread.retire();
                Err(error)
            }
        }
    }

    fn make_task(
        self: &Arc<World>,
        init: &Arc<Process>,
        spawn: &Spawn,
        pid: u32,
        control: Arc<dyn coracle_platform::ThreadControl>,
        mm: Arc<AddressSpace>,
    ) -> Arc<Task> {
        let session = if spawn.own_session {
            let terminal = Mutex::new(terminal::among(self, &spawn.files, pid));
            Arc::new(Session { sid: pid, terminal })
        } else {
            init.session()
        };
        let process = Arc::new(Process::new(Seed {
            world: self.clone(),
            pid,
            // The group is its own.
            links: Links {
                parent: Arc::downgrade(init),
                parent_tid: 1,
                children: Children::default(),
                pgid: pid,
                session,
            },
            signals: signal::ProcessSignals::ignoring(spawn.ignored),
            rlimits: *init.rlimits.lock(),
            mm: Some(mm.clone()),
            exit_signal: SIGCHLD as i32,
            oom_score_adj: 0,
            personality: 0,
            below_subreaper: false,
        }));
        let files = FdTable::default();
        for (fd, file) in spawn.files.iter().enumerate() {
            files.replace(fd, FdEntry { file: file.clone(), close_on_exec: false });
        }
        let fs = FsContext::new(self.vfs.mounts.root(), spawn.cwd.clone());
        fs.set_umask(spawn.umask);
        Task::new(TaskSeed {
            process,
            tid: pid,
            control,
            mm,
            files: Arc::new(files),
            fs: Arc::new(fs),
            cred: Arc::new(spawn.cred.clone()),
            comm: b"coracle".to_vec(),
            signals: signal::TaskSignals::default(),
            clear_child_tid: 0,
            rseq: None,
            no_new_privs: false,
            sched: Sched::new(&self.config),
        })
    }

    /// Waits until `process` is over; its wait status. `None` when the time is up.
    pub fn wait_for(&self, process: &Process, timeout: Option<Duration>) -> Option<i32> {
        let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        self.wait_until(until, || {
            let group = process.group();
            group.zombie.then(|| group.status())
        })
    }

    /// Sends a signal to every process, as `kill(-1)` from outside.
    pub fn signal_all(&self, signal: i32) {
        for process in self.processes().iter().filter(|process| !process.is_init()) {
            if signal == SIGKILL as i32 {
                process.begin_exit(signal);
            } else {
                signal::send_kernel(process, signal);
            }
        }
    }

    /// Sends a signal to a process and all its descendants.
    pub fn signal_tree(&self, root: &Arc<Process>, signal: i32) {
        let mut list = vec![root.clone()];
        let mut at = 0;
        while let Some(process) = list.get(at).cloned() {
            list.extend(process.children());
            at += 1;
        }
        list.iter().for_each(|process| signal::send_kernel(process, signal));
    }

    /// Ends everything and waits until all is gone, or until the timeout; `false` then.
    pub fn shut_down(&self, timeout: Duration) -> bool {
        self.begin_end();
        let until = Instant::now().checked_add(timeout);
        loop {
            self.signal_all(SIGKILL as i32);
            // A thread that was being born meanwhile is told in the next round.
            let round = Instant::now().checked_add(Duration::from_millis(50));
            let gone = self.wait_until(round, || (!self.tree.lock().has_tasks()).then_some(()));
            if gone.is_some() {
                break;
            }
            if until.is_none_or(|until| until <= Instant::now()) {
                for process in self.processes() {
                    if let Some(mm) = process.mm() {
                        mm.space.kill();
                    }
                }
                return false;
            }
        }
        // Worlds are held by their processes.
        let processes = self.tree.lock().clear();
        drop(processes);
        true
    }
}

impl Task {
    /// `execvpe(3)`: the first entry of PATH where the program can be run; `EACCES` is remembered.
    fn find_in_path(self: &Arc<Task>, spawn: Spawn) -> Result<load::Program, ExecError> {
        let Spawn { argv, env, cwd, .. } = spawn;
        let name = argv.first().cloned().unwrap_or_default();
        let limit = self.rlimit(RLIMIT_STACK);
        ArgSpace::new(argv.len(), env.len(), limit)
            .map_err(|error| ExecError::new(Errno::from_raw(error.errno()), &name, &error))?;
        let request = |path: Vec<u8>| Request {
            base: cwd.clone(),
            filename: path.clone(),
            path,
            how: Resolve::FOLLOW,
            inaccessible: false,
            argv: argv.clone(),
            envp: env.clone(),
        };
        if name.contains(&b'/') {
            return exec::find(self, request(name));
        }
        if name.is_empty() {
            return Err(ExecError::new(Errno::ENOENT, b"(empty)", &"no such program"));
        }
        let path = env.iter().find_map(|entry| entry.strip_prefix(b"PATH=")).unwrap_or(b"/bin:/usr/bin");
        let mut refused = None;
        for directory in path.split(|byte| *byte == b':') {
            let full = if directory.is_empty() { name.clone() } else { [directory, b"/", &name].concat() };
            match exec::find(self, request(full)) {
                Err(error) if matches!(error.errno, Errno::ENOENT | Errno::ENOTDIR) && !error.is_interpreter() => {
                }
                Err(error) if error.errno == Errno::EACCES => refused = Some(error),
                other => return other,
            }
        }
        Err(refused.unwrap_or_else(|| {
            let place = format!("no such program in PATH ({})", Name(path));
            ExecError::new(Errno::ENOENT, &name, &place)
        }))
    }
}

impl Sched {
    /// Ordinary scheduling on every CPU that is granted.
    pub(crate) fn new(config: &crate::world::WorldConfig) -> Sched {
        Sched {
            policy: 0,
            priority: 0,
            nice: config.nice,
            reset_on_fork: false,
            affinity: config.cpus.clone(),
            timer_slack: 50_000,
            io_priority: 0,
        }
    }
}
