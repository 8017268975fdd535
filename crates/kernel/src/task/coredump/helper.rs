//! Cores that go to a program's standard input: `core_pattern` with a `|` (core(5), `do_coredump()` and
//! `umh_coredump_setup()` in fs/coredump.c).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{CoreDump, Task, name};
use crate::abi::linux::{O_RDONLY, O_WRONLY, RLIMIT_CORE};
use crate::abi::types::Rlimit;
use crate::fd::OpenFile;
use crate::ipc::pipe;
use crate::shown::Name;
use crate::signal::SigSet;
use crate::task::boot::Spawn;
use crate::task::{Cred, Process};

/// The limit of helpers: none of their own deaths starts another one.
const NO_FURTHER: u64 = 1;

/// `kernel.core_pipe_limit`, and how many dumps to programs are on their way.
#[derive(Default)]
pub struct Pipes {
    pub limit: AtomicU32,
    now: AtomicU32,
}

/// A program that takes a core.
pub struct Helper {
    process: Arc<Process>,
    _turn: Turn,
}

/// One of the dumps that are counted.
struct Turn {
    task: Arc<Task>,
    place: u32,
}

impl Turn {
    fn take(task: &Arc<Task>) -> Turn {
        let place = task.world.cores.pipes.now.fetch_add(1, Ordering::SeqCst).saturating_add(1);
        Turn { task: task.clone(), place }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.task.world.cores.pipes.now.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Starts the program that the pattern names, as root at the top of the tree and without an environment; also returns
/// where the core goes.
pub fn start(task: &Arc<Task>, signal: i32, limit: u64) -> Option<(Helper, Arc<OpenFile>)> {
    let none = |reason: &str| {
        log::warn!("process {} ({}) dumps no core: {reason}", task.pid(), Name(&task.comm()));
        None
    };
    if limit == NO_FURTHER {
        return none("RLIMIT_CORE is set to 1");
    }
    let turn = Turn::take(task);
    let most = task.world.cores.pipes.limit.load(Ordering::SeqCst);
    if most != 0 && turn.place > most {
        return none("over kernel.core_pipe_limit");
    }
    let mut argv = name::words(task, signal, limit);
    match argv.first_mut() {
        None => return none("no program in kernel.core_pattern"),
        // A path from the top, which is where the program starts; PATH is nobody's.
        Some(program) if !program.contains(&b'/') => program.insert(0, b'/'),
        Some(_) => {}
    }
    let (reader, writer) = pipe::pipe(task);
    let files = vec![OpenFile::new(reader, O_RDONLY)];
    let cwd = task.world.vfs.mounts.root();
    let cred = Cred::new(0, 0, Vec::new());
    let ignored = SigSet::EMPTY;
    let spawn = Spawn { argv, env: Vec::new(), cwd, umask: 0o022, ignored, cred, files, own_session: false };
    let limited = |process: &Process| {
        if let Some(core) = process.rlimits.lock().get_mut(RLIMIT_CORE as usize) {
            *core = Rlimit { cur: NO_FURTHER, max: NO_FURTHER };
        }
    };
    match task.world.spawn_with(spawn, limited) {
        Ok(process) => Some((Helper { process, _turn: turn }, OpenFile::new(writer, O_WRONLY))),
        Err(error) => none(&error.to_string()),
    }
}

impl Helper {
    /// With a limit the dying process stays for as long as the program looks at it (`wait_for_dump_helpers()`).
    pub fn wait(self, task: &Task, dump: &CoreDump) {
        if task.world.cores.pipes.limit.load(Ordering::SeqCst) == 0 {
            return;
        }
        let process = self.process;
        let _ = task.block_until(
            None,
            || dump.cancelled(),
            |table| {
                table.watch(&dump.queue);
                table.watch(&process.exit_queue);
                (process.is_zombie() || process.is_reaped()).then_some(())
            },
        );
    }
}
