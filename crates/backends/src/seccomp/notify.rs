//! Decides the few worker calls that the filter leaves to the kernel, on a thread of its own once the first program
//! needs it.
//!
//! Kernel threads say beforehand what a worker thread will ask for ([`Notifier::expect`]); what nobody expects
//! is refused, and is a guest that has jumped into the shim. Arguments are registers, so there is nothing that
//! could change between check and execution.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use coracle_abi::port::NOTIFY_CALL;
use coracle_platform::Waiting;
use parking_lot::{Condvar, Mutex};
use rustix::thread::CpuSet;

/// What a worker thread is about to ask for.
pub enum Expected {
    /// A copy of this descriptor.
    Descriptor(Arc<OwnedFd>),
    /// `clone` with exactly these arguments.
    Clone([u64; 5]),
    /// `clone` with exactly these arguments, then as `Dock`.
    CloneThenDock([u64; 5], Arc<Slot<Docked>>),
    /// To be kept waiting, until [`Notifier::undock`].
    Dock(Arc<Slot<Docked>>),
}

/// A worker that waits in its notifying call.
#[derive(Clone, Copy)]
pub struct Docked {
    pid: i32,
    id: u64,
}

impl Docked {
    /// Its process.
    pub fn pid(&self) -> i32 {
        self.pid
    }
}

/// A place where an answer will be.
pub struct Slot<T = i32> {
    answer: Mutex<Option<T>>,
    arrived: Condvar,
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Slot { answer: Mutex::new(None), arrived: Condvar::new() }
    }
}

impl<T: Copy> Slot<T> {
    fn put(&self, value: T) {
        *self.answer.lock() = Some(value);
        self.arrived.notify_all();
    }

    /// The answer, if it has come.
    pub fn get(&self) -> Option<T> {
        *self.answer.lock()
    }

    /// Waits for the answer, but not for ever: a worker that was cloned may be killed before it speaks.
    pub fn wait(&self, limit: Duration) -> Option<T> {
        let mut answer = self.answer.lock();
        if answer.is_none() {
            self.arrived.wait_for(&mut answer, limit);
        }
        *answer
    }
}

/// An address space that will announce itself.
struct Newborn {
    ports: Arc<super::ports::Ports>,
    /// Its pid.
    slot: Arc<Slot>,
    /// It will dock itself at once.
    dock: Option<Arc<Slot<Docked>>>,
}

#[derive(Default)]
struct Tables {
    /// By host thread id.
    threads: HashMap<u32, (Expected, Arc<Slot>)>,
    /// By cookie: address spaces that are about to announce themselves.
    newborn: HashMap<u64, Newborn>,
}

/// Shared by whoever answers and the kernel's threads.
#[derive(Default)]
pub struct Notifier {
    listener: OnceLock<OwnedFd>,
    tables: Mutex<Tables>,
    /// Where its thread may run: whoever makes that may have confined itself to a CPU.
    cpus: OnceLock<CpuSet>,
    /// It has a thread.
    serving: Mutex<bool>,
}

/// `struct seccomp_notif` and what it holds (include/uapi/linux/seccomp.h).
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Notification {
    id: u64,
    pid: u32,
    flags: u32,
    number: i32,
    arch: u32,
    instruction_pointer: u64,
    args: [u64; 6],
}

#[repr(C)]
struct Response {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

#[repr(C)]
struct AddDescriptor {
    id: u64,
    flags: u32,
    source: u32,
    number: u32,
    number_flags: u32,
}

const RECEIVE: libc::c_ulong = 0xc050_2100;
const SEND: libc::c_ulong = 0xc018_2101;
const ADD: libc::c_ulong = 0x4018_2103;
const SET_FLAGS: libc::c_ulong = 0x4008_2104;
/// `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP`: the other side runs next on this CPU.
const SYNC_WAKE_UP: u64 = 1;
/// `SECCOMP_ADDFD_FLAG_SETFD`: under the number that we choose.
const ADD_AS: u32 = 1;
/// `SECCOMP_ADDFD_FLAG_SEND`: the number is the result of the call.
const ADD_AND_SEND: u32 = 2;
/// `SECCOMP_USER_NOTIF_FLAG_CONTINUE`.
const CONTINUE: u32 = 1;

impl Notifier {
    /// Takes over the listener of a filter; answers on these CPUs.
    pub fn open(&self, listener: OwnedFd, cpus: &CpuSet) {
        let _ = self.cpus.set(*cpus);
        let _ = self.listener.set(listener);
    }

    /// It has a listener.
    pub fn is_open(&self) -> bool {
        self.listener.get().is_some()
    }

    /// Starts the thread that answers until the last worker with this filter is gone. Most programs that are short need
    /// none, so it is made with the first expectation.
    pub fn serve(self: &Arc<Notifier>) {
        let mut serving = self.serving.lock();
        let Some(fd) = self.listener.get().map(AsRawFd::as_raw_fd).filter(|_| !*serving) else { return };
        let own = self.clone();
        let serve = move || {
            if let Some(cpus) = own.cpus.get() {
                let _ = rustix::thread::sched_setaffinity(None, cpus);
            }
            // From now on who answers has nothing else to do.
            // SAFETY: an ioctl that takes a plain value; older hosts refuse it, which is fine.
            unsafe { libc::ioctl(fd, SET_FLAGS, SYNC_WAKE_UP) };
            while own.answer(fd) {}
        };
        match std::thread::Builder::new().name("notify".into()).stack_size(128 << 10).spawn(serve) {
            Ok(_) => *serving = true,
            Err(error) => log::warn!("no thread can be started that answers workers: {error}"),
        }
    }

    /// Answers what waits already; to be called before anything else was expected than the first worker.
    pub fn answer_waiting(&self) {
        if let Some(fd) = self.listener.get().map(AsRawFd::as_raw_fd)
            && ready(fd, 0)
        {
            self.answer(fd);
        }
    }

    /// Answers one notification; `false` if the last worker is gone, or none came before the deadline.
    pub fn answer_next(&self, until: Instant, waiting: &Waiting) -> bool {
        let Some(fd) = self.listener.get().map(AsRawFd::as_raw_fd) else { return false };
        if !waiting.look(|| ready(fd, 0)) {
            let left = until.saturating_duration_since(Instant::now());
            if !ready(fd, i32::try_from(left.as_millis()).unwrap_or(i32::MAX)) {
                return false;
            }
        }
        self.answer(fd)
    }

    /// Thread `tid` is about to ask for this.
    pub fn expect(self: &Arc<Notifier>, tid: u32, what: Expected) -> Arc<Slot> {
        let slot = Arc::<Slot>::default();
        self.tables.lock().threads.insert(tid, (what, slot.clone()));
        self.serve();
        slot
    }

    /// Whatever `tid` was to ask for, it will not.
    pub fn forget(&self, tid: u32) {
        self.tables.lock().threads.remove(&tid);
    }

    /// A new address space will announce itself with `cookie` and get these ports; its pid comes back.
    pub fn expect_newborn(&self, cookie: u64, ports: Arc<super::ports::Ports>) -> Arc<Slot> {
        let slot = Arc::<Slot>::default();
        self.tables.lock().newborn.insert(cookie, Newborn { ports, slot: slot.clone(), dock: None });
        slot
    }

    /// As `expect_newborn`, for one that then waits for its program.
    pub fn expect_docked(&self, cookie: u64, ports: Arc<super::ports::Ports>) -> Arc<Slot<Docked>> {
        let dock = Arc::<Slot<Docked>>::default();
        let newborn = Newborn { ports, slot: Arc::default(), dock: Some(dock.clone()) };
        self.tables.lock().newborn.insert(cookie, newborn);
        dock
    }

    /// Gives a docked worker these files, numbered from `first` on, and lets it go on; `false` if it is gone.
    pub fn undock(&self, docked: Docked, files: &[Arc<OwnedFd>], first: u32) -> bool {
        let Some(fd) = self.listener.get().map(AsRawFd::as_raw_fd) else { return false };
        let last = files.len().wrapping_sub(1);
        // The last one is the answer, too: every descriptor takes a round trip to the worker.
        let given = (first..).zip(files).enumerate().all(|(index, (number, file))| {
            let flags = if index == last { ADD_AS | ADD_AND_SEND } else { ADD_AS };
            let source = file.as_raw_fd() as u32;
            add(fd, AddDescriptor { id: docked.id, flags, source, number, number_flags: 0 }).is_some()
        });
        given && (!files.is_empty() || respond(fd, Response { id: docked.id, value: 0, error: 0, flags: 0 }))
    }

    /// It will not.
    pub fn forget_newborn(&self, cookie: u64) {
        self.tables.lock().newborn.remove(&cookie);
    }

    /// `false`: the last worker is gone.
    fn answer(&self, fd: RawFd) -> bool {
        let mut request = Notification::default();
        // SAFETY: the host fills in the structure, whose layout is the host's.
        let got = unsafe { libc::ioctl(fd, RECEIVE, &raw mut request) };
        if got < 0 {
            return match std::io::Error::last_os_error().raw_os_error() {
                // The asking thread was killed meanwhile.
                Some(libc::ENOENT | libc::EINTR) => !hung_up(fd),
                _ => false,
            };
        }
        if self.decide(fd, &request).is_none() {
            log::warn!("worker thread {} asked for what nobody expects (call {})", request.pid, request.number);
            respond(fd, Response { id: request.id, value: 0, error: -libc::EPERM, flags: 0 });
        }
        true
    }

    fn decide(&self, fd: RawFd, request: &Notification) -> Option<()> {
        let notifies = request.number == NOTIFY_CALL as i32;
        if notifies && request.args[0] != 0 {
            let newborn = {
                let mut tables = self.tables.lock();
                let newborn = tables.newborn.remove(&request.args[0])?;
                if let Some(dock) = &newborn.dock {
                    tables.threads.insert(request.pid, (Expected::Dock(dock.clone()), Arc::default()));
                }
                newborn
            };
            // The pid first: once it has its ports, the new worker runs.
            newborn.slot.put(request.pid as i32);
            return give(fd, request.id, newborn.ports.file().as_raw_fd()).map(|_| ());
        }
        let (expected, slot) = self.tables.lock().threads.remove(&request.pid)?;
        let clones = |args: [u64; 5]| request.number == libc::SYS_clone as i32 && request.args[..5] == args;
        match expected {
            Expected::Descriptor(file) if notifies => {
                slot.put(give(fd, request.id, file.as_raw_fd())?);
                Some(())
            }
            Expected::CloneThenDock(args, dock) if clones(args) => {
                self.tables.lock().threads.insert(request.pid, (Expected::Dock(dock), slot));
                respond(fd, Response { id: request.id, value: 0, error: 0, flags: CONTINUE });
                Some(())
            }
            Expected::Clone(args) if clones(args) => {
                respond(fd, Response { id: request.id, value: 0, error: 0, flags: CONTINUE });
                slot.put(0);
                Some(())
            }
            Expected::Dock(dock) if notifies => {
                dock.put(Docked { pid: request.pid as i32, id: request.id });
                Some(())
            }
            _ => None,
        }
    }
}

/// There is a notification, or no process any more that could send one. Waits for it so many milliseconds.
fn ready(fd: RawFd, timeout: i32) -> bool {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid pollfd.
    unsafe { libc::poll(&raw mut poll, 1, timeout) > 0 }
}

/// Every process with this filter has ended.
fn hung_up(fd: RawFd) -> bool {
    let mut poll = libc::pollfd { fd, events: 0, revents: 0 };
    // SAFETY: one valid pollfd.
    unsafe { libc::poll(&raw mut poll, 1, 0) > 0 && poll.revents & libc::POLLHUP != 0 }
}

/// Puts a copy of `source` into the asking worker, as the result of its call; returns the number there.
fn give(fd: RawFd, id: u64, source: RawFd) -> Option<i32> {
    add(fd, AddDescriptor { id, flags: ADD_AND_SEND, source: source as u32, number: 0, number_flags: 0 })
}

fn add(fd: RawFd, order: AddDescriptor) -> Option<i32> {
    // SAFETY: the structure's layout is the host's.
    let number = unsafe { libc::ioctl(fd, ADD, &raw const order) };
    (number >= 0).then_some(number)
}

/// It fails only if the asking thread is gone.
fn respond(fd: RawFd, response: Response) -> bool {
    // SAFETY: the structure's layout is the host's.
    unsafe { libc::ioctl(fd, SEND, &raw const response) == 0 }
}
