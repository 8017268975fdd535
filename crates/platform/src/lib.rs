//! The waist of Coracle: what the kernel may ask of whatever runs guest code.
//!
//! Two small traits, one each way. A [`Platform`] makes address spaces ([`Space`]) with threads in them
//! ([`Thread`]); a thread runs guest code until it needs the kernel and says so with one neutral enum,
//! [`Trap`]. The kernel answers with a [`Resume`]. Nothing here knows how guest code is confined.

pub mod child;
pub mod inherit;
pub mod mock;
pub mod probe;
mod regs;
pub mod sealed;
pub mod startup;
pub mod vvar;
pub mod waiting;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use coracle_abi::Errno;

pub use coracle_abi::port::{RANDOM_FILES, RANDOM_SIZE};
pub use regs::Regs;
pub use vvar::VvarMemory;
pub use waiting::Waiting;

/// Why a platform could not do what was asked, in words for the person who runs Coracle.
#[derive(Debug, thiserror::Error)]
pub enum PlatformError {
    /// {feature} is missing on this host: {hint}
    #[error("{feature} is missing on this host: {hint}")]
    Missing { feature: &'static str, hint: &'static str },
    /// {what}: {source}
    #[error("{what}: {source}")]
    Host { what: &'static str, source: std::io::Error },
    /// The worker ended before it was ready.
    #[error("the worker process ended before it was ready: {0:?}")]
    Died(Death),
}

/// Makes clean address spaces. One value serves one sandbox.
pub trait Platform: Send + Sync {
    /// A clean address space with one thread in it, which has run no guest code yet.
    fn spawn(&self) -> Result<Vessel, PlatformError>;

    /// Why an address space that `spawn` has made never came to life, if that is known. Told once.
    fn failure(&self) -> Option<PlatformError> {
        None
    }

    /// The name the user chose it by.
    fn name(&self) -> &'static str;

    /// `AT_RSEQ_FEATURE_SIZE` and `AT_RSEQ_ALIGN` of the areas that [`Thread::rseq`] takes, if it takes any.
    fn rseq_features(&self) -> Option<(u64, u64)> {
        None
    }

    /// What the waits of this sandbox's kernel threads share.
    fn waiting(&self) -> Arc<Waiting> {
        Arc::default()
    }

    /// Bytes that this process has in memory for itself; zero where the platform cannot say.
    fn own_memory(&self) -> u64 {
        0
    }

    /// Gives the host back what this process has freed.
    fn give_back(&self) {}

    /// The pages that the vDSO of every address space reads, where there is a vDSO.
    fn vvar(&self) -> Option<Arc<VvarMemory>> {
        None
    }
}

/// A new address space and its first (or only) thread.
pub struct Vessel {
    pub space: Arc<dyn Space>,
    pub thread: Box<dyn Thread>,
}

/// One guest address space.
pub trait Space: Send + Sync {
    /// Copies out of guest memory; returns how many bytes could be read before the first bad one.
    fn read(&self, address: u64, into: &mut [u8]) -> usize;

    /// Copies into guest memory, obeying its protections; returns how many bytes could be written.
    fn write(&self, address: u64, from: &[u8]) -> usize;

    /// Reads several pieces, at the price of one where the platform can; returns how many bytes could be read before
    /// the first bad one.
    fn read_pieces(&self, pieces: &mut [(u64, &mut [u8])]) -> usize {
        let mut done = 0;
        for (address, into) in pieces {
            let count = self.read(*address, into);
            done += count;
            if count < into.len() {
                break;
            }
        }
        done
    }

    /// As `read_pieces`, the other way; in order, for pieces may overlap.
    fn write_pieces(&self, pieces: &[(u64, &[u8])]) -> usize {
        let mut done = 0;
        for (address, from) in pieces {
            let count = self.write(*address, from);
            done += count;
            if count < from.len() {
                break;
            }
        }
        done
    }

    /// As `write`, but ignoring page protections, as a debugger does (`PTRACE_POKEDATA`).
    fn poke(&self, address: u64, from: &[u8]) -> usize;

    /// As `read`, but ignoring page protections.
    fn peek(&self, address: u64, into: &mut [u8]) -> usize {
        self.read(address, into)
    }

    /// The next pages from `start` on, and before `end`, that hold something, without touching any.
    fn touched(&self, _start: u64, _end: u64) -> Touched {
        Touched::Unknown
    }

    /// Entries of `/proc/PID/pagemap` from this page on, without frame numbers and what tells of other processes. Zeros
    /// where nothing is known.
    fn page_map(&self, _page: u64, into: &mut [u64]) {
        into.fill(0);
    }

    /// Where guest code may be mapped.
    fn layout(&self) -> Layout;

    /// The guest's mappings in address order, without anything that belongs to the platform.
    fn mappings(&self) -> Vec<Mapping>;

    /// As `mappings`, with what is said of memory, where the platform can tell. Costly.
    fn mappings_resident(&self) -> Vec<Mapping> {
        self.mappings()
    }

    /// What this address space has used so far.
    fn usage(&self) -> Usage;

    /// The vDSO and its data as a new address space has them, above [`Layout::top`]; a program gets them moved.
    fn vdso(&self) -> Option<Vdso> {
        None
    }

    /// From now on what the program maps of files has exactly their bytes, also where it is to be executed: the program
    /// may read them rather than run them. Address spaces that are copied from this one do the same.
    fn map_exactly(&self) {}

    /// A file that was mapped under `key` is closed: the platform need not keep it at hand any longer.
    fn forget_file(&self, key: u64);

    /// Ends every thread in it. Their `run` returns [`Trap::Died`].
    fn kill(&self);
}

/// Bounds for placing things in an address space.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Lowest address that may be mapped (`vm.mmap_min_addr`).
    pub bottom: u64,
    /// First address above what the guest may use.
    pub top: u64,
}

/// Where the vDSO's data and, directly above, its image lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vdso {
    pub vvar: u64,
    pub image: u64,
    pub end: u64,
}

/// A mapping that Linux has a name for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    Vvar,
    Vdso,
    /// The host's page of three system calls at fixed addresses, above everything.
    Vsyscall,
}

/// One line of `/proc/PID/maps` as the host sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    pub start: u64,
    pub end: u64,
    /// `PROT_*` bits.
    pub prot: u32,
    pub shared: bool,
    pub offset: u64,
    /// Host device and inode; zero for anonymous memory.
    pub dev: u64,
    pub ino: u64,
    pub special: Option<Special>,
    /// Where the platform was asked for it; else all zero.
    pub memory: MapMemory,
}

/// What a mapping holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MapMemory {
    /// Bytes resident.
    pub resident: u64,
    /// Bytes that are its own: private memory that was written to, swapped out or not.
    pub own: u64,
    /// `MADV_DONTDUMP`.
    pub dont_dump: bool,
    /// Made of huge pages (`MAP_HUGETLB`).
    pub huge: bool,
    pub shares: Shares,
}

/// Resident and swapped memory of a mapping, in bytes, by who uses it and how (proc_pid_smaps(5)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shares {
    /// Each page divided by the number of its users.
    pub proportional: u64,
    pub proportional_dirty: u64,
    pub shared_clean: u64,
    pub shared_dirty: u64,
    pub private_clean: u64,
    pub private_dirty: u64,
    pub referenced: u64,
    pub anonymous: u64,
    /// `MADV_FREE`.
    pub lazily_freed: u64,
    /// Anonymous, in transparent huge pages.
    pub huge: u64,
    pub swap: u64,
    pub swap_proportional: u64,
    pub locked: u64,
}

/// Where memory was touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touched {
    /// Here, start and end, and not before.
    Run(u64, u64),
    /// Not before this address; as far as was looked.
    NotBefore(u64),
    /// The address space is no more.
    Gone,
    /// The platform cannot tell.
    Unknown,
}

/// Resources used by an address space.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub user: Duration,
    pub system: Duration,
    /// Resident bytes now, and at their peak.
    pub resident: u64,
    pub resident_peak: u64,
    /// Of `resident`, bytes that are anonymous or shared memory.
    pub resident_anonymous: u64,
    pub resident_shared: u64,
    /// Bytes of mapped guest address space.
    pub virtual_size: u64,
    pub minor_faults: u64,
    pub major_faults: u64,
    pub voluntary_switches: u64,
    pub involuntary_switches: u64,
}

/// One guest thread, in the hands of the kernel thread that serves it.
///
/// Between two calls of [`Thread::run`] the guest is stopped. Every method that talks to the worker can
/// find it gone; the next `run` then returns [`Trap::Died`].
pub trait Thread: Send {
    /// Lets guest code run until it next needs the kernel.
    fn run(&mut self, resume: Resume<'_>) -> Trap;

    /// Brings the complete register file into reach and returns it for reading and editing. If the guest
    /// stands in a system call, `result` is what RAX holds from now on (the call is over), RIP is the
    /// address after the `syscall` instruction. Ignored otherwise, and when the call was frozen before.
    fn freeze(&mut self, result: u64) -> Result<&mut Regs, Gone>;

    /// Copies input bytes that came along with the call; `false` if they did not.
    fn staged(&self, address: u64, into: &mut [u8]) -> bool;

    /// Copies as many bytes from `address` on as came along with the call; zero if none did.
    fn staged_prefix(&self, address: u64, into: &mut [u8]) -> usize;

    /// Takes output bytes along with the reply; `false` if they do not fit or cannot travel so. A bad
    /// address turns the call's result into `EFAULT` at the very end.
    fn stage_out(&mut self, address: u64, from: &[u8]) -> bool;

    /// Room for output bytes of the call, to be filled in place; `address..address + len` is where
    /// they will go. `None` if it does not fit. Committed by [`Thread::stage_commit`].
    fn stage_room(&mut self, address: u64, len: usize) -> Option<&mut [u8]>;

    /// The first `len` bytes of the last room are output.
    fn stage_commit(&mut self, len: usize);

    /// Has the guest thread carry out a memory call for the kernel; the result is the host's.
    fn memory(&mut self, call: &MemoryCall) -> Result<Result<u64, Errno>, Gone>;

    /// Carries out memory calls in order, until one fails: what the beginning of a program needs, at a stroke.
    /// The files are not kept at hand afterwards.
    fn load(&mut self, calls: &[MemoryCall]) -> Result<Result<(), Errno>, Gone> {
        for call in calls {
            if let Err(errno) = self.memory(call)? {
                return Ok(Err(errno));
            }
        }
        Ok(Ok(()))
    }

    /// A new thread in the same address space. It starts with a copy of this thread's registers
    /// (as left by `freeze`) after `edit` has changed them.
    fn spawn_thread(&mut self, edit: &mut dyn FnMut(&mut Regs)) -> Result<Box<dyn Thread>, ForkError>;

    /// A copy of the address space with one thread, which starts as in `spawn_thread`.
    fn fork(&mut self, edit: &mut dyn FnMut(&mut Regs)) -> Result<Vessel, ForkError>;

    /// Atomic operations on a guest word: stores `new` if the word equals `old`; returns what was there.
    fn compare_exchange(&mut self, address: u64, old: u32, new: u32) -> Result<Result<u32, Errno>, Gone>;

    /// Wakes up to `count` waiters of the futex word at `address`, shared or private; how many were woken.
    fn futex_wake(&mut self, address: u64, count: u32) -> Result<u64, Gone>;

    /// Registers or unregisters the thread's restartable sequences with the host (rseq(2)); `ENOSYS` where the
    /// platform does not.
    fn rseq(&mut self, _area: u64, _len: u32, _flags: u32, _signature: u32) -> Result<Result<u64, Errno>, Gone> {
        Ok(Err(Errno::ENOSYS))
    }

    /// The system call that the thread stands in is the vDSO's own: made at the one instruction of it that asks for
    /// fresh clocks.
    fn called_by_vdso(&self) -> bool {
        false
    }

    /// A new thread goes on at once, while its kernel thread is still on the way; `false` where it must wait for
    /// that one's first [`Thread::run`], which is with [`Resume::Continue`] in either case.
    fn start(&mut self) -> bool {
        false
    }

    /// The guest thread's last act: its restartable sequences (area, length, flags, signature) are unregistered;
    /// then the word at `cleared` becomes 0 and a shared waiter of it is woken (`mm_release()`). Only
    /// [`Thread::retire`] may follow.
    fn farewell(&mut self, rseq: Option<(u64, u32, u32, u32)>, cleared: Option<u64>) -> Result<(), Gone>;

    /// What other kernel threads may do to this one.
    fn control(&self) -> Arc<dyn ThreadControl>;

    /// The guest thread is over. Its host thread ends or is kept for reuse; the address space goes with
    /// its last thread.
    fn retire(self: Box<Self>);
}

/// The side of a guest thread that others may use.
pub trait ThreadControl: Send + Sync {
    /// Makes the thread stop soon: its `run` returns [`Trap::Interrupted`] or the call that it had just
    /// made. Does nothing to a thread that is stopped already.
    fn interrupt(&self);

    /// It was to stop long ago in order to end, and has not. A thread that cannot be made to stop loses its address
    /// space; one that waits for a moment of its kernel thread's does not.
    fn insist(&self) {}

    /// Publishes what the thread may answer without the kernel.
    fn publish(&self, identity: &Identity);

    /// Likewise, what it may answer from memory. Two threads never publish for the same one at once.
    fn publish_answers(&self, _answers: &Answers) {}

    /// Whether the thread could give out random bytes, and has next to none.
    fn wants_random(&self) -> bool {
        false
    }

    /// Random bytes for the thread to give out by itself, instead of what it had; nobody else gets them. Only while it
    /// stands in a system call.
    fn give_random(&self, _bytes: &[u8; RANDOM_SIZE]) {}

    /// Its short reads of this descriptor may be answered from those, until that is taken back by `None`, which holds
    /// for all reads that begin once this has returned. `place` is below [`RANDOM_FILES`].
    fn random_file(&self, _place: usize, _fd: Option<u32>) {}

    /// CPU time that the thread has used: user, system.
    fn cpu_time(&self) -> (Duration, Duration);

    /// Restricts the host CPUs it runs on.
    fn set_affinity(&self, cpus: &[usize]) -> Result<(), Errno>;

    /// It sleeps in a call that the platform executes itself (a futex, say).
    fn asleep(&self) -> bool {
        false
    }

    /// The host CPU it last ran on.
    fn last_cpu(&self) -> usize;

    /// How its calls travelled so far.
    fn lanes(&self) -> LaneCounts;
}

/// Number of system calls by lane (DESIGN.md section 4). Index 0 is unused: lane 0 is no system call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneCounts {
    pub lane1: u64,
    pub lane2: u64,
    pub lane3: u64,
    pub lane4: u64,
    /// Bytes that travelled with calls and replies.
    pub bytes_staged: u64,
}

/// What identity calls answer. Per thread, because processes can share a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    pub pid: u32,
    pub tid: u32,
    pub ppid: u32,
    pub uid: u32,
    pub euid: u32,
    pub gid: u32,
    pub egid: u32,
    /// Calls that the thread may answer or execute itself at all. Off while it is traced or filtered.
    pub short_cuts: bool,
}

/// What calls answer that fill a structure.
#[derive(Clone, Debug)]
pub struct Answers {
    /// `struct new_utsname`.
    pub uname: [u8; 390],
    /// The mask that `sched_getaffinity` gives for the thread itself.
    pub affinity: Vec<u8>,
    /// The thread maps and moves its own memory without asking; the kernel need not count what it has.
    pub maps_memory: bool,
}

/// Why guest code stopped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Trap {
    /// A system call. `args` are the six argument registers.
    Syscall { number: u64, args: [u64; 6], lane: u8 },
    /// The outputs that travelled with the last call's reply met a bad address. The thread stands in that call
    /// again, and nothing travels with it now.
    Unwritten { number: u64, args: [u64; 6] },
    /// A processor exception in guest code, as Linux would report it in a `siginfo`.
    Fault(Fault),
    /// Stopped because of [`ThreadControl::interrupt`]. If the thread was inside a system call that the
    /// platform executes itself, `call` is its number; RAX then holds its (EINTR) result.
    Interrupted { call: Option<u64> },
    /// The worker is gone.
    Died(Death),
}

/// A processor exception: signal number, `si_code`, `si_addr`, and the raw trap number and error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub signal: i32,
    pub code: i32,
    pub address: u64,
    pub trap_number: u64,
    pub error_code: u64,
}

/// How a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// Killed by [`Space::kill`].
    Killed,
    /// The host ended it with this signal.
    Signal(i32),
    /// It exited by itself, which no healthy worker does.
    Exited(i32),
    /// It broke the protocol; what it did is for the log.
    Lied(&'static str),
}

/// The worker is gone; `run` says how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the worker is gone")]
pub struct Gone;

/// How guest code goes on.
#[derive(Debug)]
pub enum Resume<'a> {
    /// With the registers as they are: at the start, after a fault, after `freeze` and editing.
    Continue,
    /// With this result of the system call; all else as at the trap.
    Return(u64),
    /// With the host's result of this memory call as the result of the system call.
    Memory(&'a MemoryCall),
}

/// A call that changes only the thread's own address space.
#[derive(Clone, Debug)]
pub enum MemoryCall {
    /// Anonymous memory.
    MapAnonymous {
        address: u64,
        len: u64,
        prot: u32,
        flags: u32,
    },
    /// A host file.
    MapFile {
        address: u64,
        len: u64,
        prot: u32,
        flags: u32,
        file: MapSource,
        offset: u64,
    },
    Unmap {
        address: u64,
        len: u64,
    },
    Protect {
        address: u64,
        len: u64,
        prot: u32,
    },
    Advise {
        address: u64,
        len: u64,
        advice: u32,
    },
    Remap {
        old: u64,
        old_len: u64,
        new_len: u64,
        flags: u32,
        new: u64,
    },
    /// `msync`, `mlock`-like calls that take only a range and flags: number, address, length, flags.
    Sync {
        address: u64,
        len: u64,
        flags: u32,
    },
}

/// A host file to map. The same `key` names the same open file, so that it travels only once.
#[derive(Clone, Debug)]
pub struct MapSource {
    pub file: Arc<OwnedFd>,
    pub key: u64,
}

/// Why a thread or an address space could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForkError {
    #[error("the worker is gone")]
    Gone,
    #[error("{0}")]
    Refused(Errno),
}

impl From<Gone> for ForkError {
    fn from(_: Gone) -> Self {
        ForkError::Gone
    }
}
