//! A guest without a program, for tests: its calls are made by hand and run on the mock platform.

use std::sync::{Arc, Weak};

use coracle_platform::mock::{MockPlatform, MockSpace, MockThread};
use coracle_platform::{Space, Thread};
use parking_lot::Mutex;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::process::Seed;
use super::{Children, Cred, Links, Process, Sched, Session, Task, TaskSeed};
use crate::abi::types::Rlimit;
use crate::call::{After, Ctx};
use crate::fd::FdTable;
use crate::fs::mem::{Budget, MemFs};
use crate::fs::{FsContext, MountFlags, Vfs};
use crate::mm::AddressSpace;
use crate::signal;
use crate::world::{World, WorldConfig};
use crate::{SysResult, syscalls};

/// Where a [`Guest`] has memory: a megabyte.
pub(crate) const MEMORY: u64 = 0x10_0000;

/// A world with an empty file system.
pub(crate) fn world() -> Arc<World> {
    let config = WorldConfig {
        usage_wanted: true,
        host_oom_kills: None,
        hostname: String::from("test"),
        cpus: vec![0],
        nice: 0,
        memory: 1 << 30,
        memory_limit: None,
        pids_limit: None,
        clock: Default::default(),
        clock_offsets: Default::default(),
    };
    let root = MemFs::new("tmpfs", 77, 0o777, Budget::new(u64::MAX));
    World::new(Arc::new(MockPlatform), config, Vfs::new(root, MountFlags::empty(), Budget::new(u64::MAX)))
}

/// One process with one thread.
pub(crate) struct Guest {
    pub task: Arc<Task>,
    pub space: Arc<MockSpace>,
    thread: MockThread,
}

impl Guest {
    /// In a world of its own.
    pub fn new() -> Guest {
        Guest::in_world(&world(), 2)
    }

    /// In this world, as root.
    pub fn in_world(world: &Arc<World>, pid: u32) -> Guest {
        let space = Arc::new(MockSpace::default());
        space.map(MEMORY, 1 << 20, 3);
        let thread = MockThread::new(space.clone());
        let mm = AddressSpace::new(space.clone());
        let session = Arc::new(Session { sid: pid, terminal: Mutex::default() });
        let process = Arc::new(Process::new(Seed {
            world: world.clone(),
            pid,
            links: Links { parent: Weak::new(), parent_tid: 0, children: Children::default(), pgid: pid, session },
            signals: signal::ProcessSignals::default(),
            rlimits: [Rlimit { cur: 1024, max: 4096 }; 16],
            mm: Some(mm.clone()),
            exit_signal: 17,
            oom_score_adj: 0,
            personality: 0,
            below_subreaper: false,
        }));
        let root = world.vfs.mounts.root();
        let task = Task::new(TaskSeed {
            process: process.clone(),
            tid: pid,
            control: thread.control(),
            mm,
            files: Arc::new(FdTable::default()),
            fs: Arc::new(FsContext::new(root.clone(), root)),
            cred: Arc::new(Cred::new(0, 0, Vec::new())),
            comm: b"test".to_vec(),
            signals: signal::TaskSignals::default(),
            clear_child_tid: 0,
            rseq: None,
            no_new_privs: false,
            sched: Sched {
                policy: 0,
                priority: 0,
                nice: 0,
                reset_on_fork: false,
                affinity: vec![0],
                timer_slack: 50_000,
                io_priority: 0,
            },
        });
        process.tasks.lock().push(task.clone());
        let mut tree = world.tree.lock();
        tree.add(process);
        tree.add_task(task.clone());
        drop(tree);
        Guest { task, space, thread }
    }

    /// Makes a call on the calling thread.
    pub fn call(&mut self, number: u64, args: &[u64]) -> SysResult {
        self.task.waiter.bind();
        let mut all = [0; 6];
        for (place, arg) in all.iter_mut().zip(args) {
            *place = *arg;
        }
        let call = syscalls::find(number).expect("a known call");
        let mut cx = Ctx {
            task: self.task.clone(),
            thread: &mut self.thread,
            space: self.space.clone(),
            number,
            args: all,
            after: After::Return,
            read_from: None,
            noted: None,
        };
        (call.handler)(&mut cx)
    }

    /// What comes after the call `number` with this result, on the way back to the guest.
    pub fn deliver(&mut self, number: u64, call: Option<SysResult>) -> signal::Next {
        let mut cx = Ctx {
            task: self.task.clone(),
            thread: &mut self.thread,
            space: self.space.clone(),
            number,
            args: [0; 6],
            after: After::Return,
            read_from: None,
            noted: None,
        };
        signal::deliver(&mut cx, call)
    }

    /// The registers.
    pub fn regs(&mut self) -> &mut coracle_platform::Regs {
        self.thread.freeze(0).expect("a mock worker lives")
    }

    /// Writes guest memory.
    pub fn put<T: IntoBytes + Immutable + ?Sized>(&self, address: u64, value: &T) {
        assert_eq!(self.space.write(address, value.as_bytes()), size_of_val(value));
    }

    /// Reads guest memory.
    pub fn get<T: FromBytes + IntoBytes>(&self, address: u64) -> T {
        let mut value = T::new_zeroed();
        assert_eq!(self.space.read(address, value.as_mut_bytes()), size_of::<T>());
        value
    }
}
