//! Decides the few worker calls that the filter leaves to the kernel, on a thread of its own once the first program
//! needs it.
//!
//! Kernel threads say beforehand what a worker thread will ask for ([`Notifier::expect`]); what nobody expects
//! is refused, and is a guest that has jumped into the shim: its process is ended. Arguments are registers, so there is
//! nothing that could change between check and execution.
//!
//! Who asks is a number, which the host may give away again as soon as the asking thread is gone. So the number is compared
//! with a process that is held ([`Child`]) between receiving the notification and answering it: the host takes an answer
//! only while the thread that asked still waits for it, and as long as that waits, its number is its own.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use coracle_abi::port::NOTIFY_CALL;
use coracle_platform::Waiting;
use parking_lot::{Condvar, Mutex};
use rustix::thread::CpuSet;

use super::child::Child;
use super::children::Children;

/// What a worker thread is about to ask for.
pub enum Expected {
    /// A copy of this descriptor.
    Descriptor(Arc<OwnedFd>),
    /// `clone` of a thread, with exactly these arguments.
    CloneThread([u64; 5]),
    /// `clone` of an address space, with exactly these arguments; the cookie is that of the new one. Then as `Dock`, if
    /// that is given.
    CloneWorker([u64; 5], u64, Option<Arc<Slot<Docked>>>),
    /// To be kept waiting, until [`Notifier::undock`].
    Dock(Arc<Slot<Docked>>),
}

/// A worker that waits in its notifying call.
#[derive(Clone)]
pub struct Docked {
    child: Arc<Child>,
    id: u64,
}

impl Docked {
    /// Its process.
    pub fn child(&self) -> &Arc<Child> {
        &self.child
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

impl<T: Clone> Slot<T> {
    fn put(&self, value: T) {
        *self.answer.lock() = Some(value);
        self.arrived.notify_all();
    }

    /// The answer, if it has come.
    pub fn get(&self) -> Option<T> {
        self.answer.lock().clone()
    }

    /// Waits for the answer, but not for ever: a worker that was cloned may be killed before it speaks.
    pub fn wait(&self, limit: Duration) -> Option<T> {
        let mut answer = self.answer.lock();
        if answer.is_none() {
            self.arrived.wait_for(&mut answer, limit);
        }
        answer.clone()
    }
}

/// An address space that will announce itself.
struct Newborn {
    ports: Arc<super::ports::Ports>,
    /// Its process.
    slot: Arc<Slot<Arc<Child>>>,
    /// It will dock itself at once.
    dock: Option<Arc<Slot<Docked>>>,
    /// Its parent was let clone it.
    allowed: bool,
}

/// A thread that is about to ask.
struct Asking {
    /// Its process.
    child: Arc<Child>,
    expected: Expected,
    slot: Arc<Slot>,
}

#[derive(Default)]
struct Tables {
    /// By host thread id.
    threads: HashMap<u32, Asking>,
    /// By cookie: address spaces that are about to announce themselves.
    newborn: HashMap<u64, Newborn>,
    /// No address space may be cloned now.
    closed: bool,
    /// Those who asked for it meanwhile.
    deferred: Vec<Notification>,
}

impl Tables {
    /// Nothing is on its way between being cloned and announcing itself.
    fn quiet(&self) -> bool {
        !self.newborn.values().any(|newborn| newborn.allowed)
    }
}

/// Shared by whoever answers and the kernel's threads.
pub struct Notifier {
    children: Arc<Children>,
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
const ID_VALID: libc::c_ulong = 0x4008_2102;
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
    pub fn new(children: Arc<Children>) -> Notifier {
        Notifier {
            children,
            listener: OnceLock::new(),
            tables: Mutex::default(),
            cpus: OnceLock::new(),
            serving: Mutex::new(false),
        }
    }

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

    /// Thread `tid` of `child` is about to ask for this.
    pub fn expect(self: &Arc<Notifier>, child: &Arc<Child>, tid: u32, expected: Expected) -> Arc<Slot> {
        let slot = Arc::<Slot>::default();
        let asking = Asking { child: child.clone(), expected, slot: slot.clone() };
        self.tables.lock().threads.insert(tid, asking);
        self.serve();
        slot
    }

    /// Whatever thread `tid` of `child` was to ask for, it will not.
    pub fn forget(&self, child: &Arc<Child>, tid: u32) {
        let mut tables = self.tables.lock();
        // The number may be another thread's by now, which is about to ask.
        if tables.threads.get(&tid).is_some_and(|asking| Arc::ptr_eq(&asking.child, child)) {
            tables.threads.remove(&tid);
        }
    }

    /// A new address space will announce itself with `cookie` and get these ports; its process comes back.
    pub fn expect_newborn(&self, cookie: u64, ports: Arc<super::ports::Ports>) -> Arc<Slot<Arc<Child>>> {
        let slot = Arc::<Slot<_>>::default();
        self.tables
            .lock()
            .newborn
            .insert(cookie, Newborn { ports, slot: slot.clone(), dock: None, allowed: false });
        slot
    }

    /// As `expect_newborn`, for one that then waits for its program.
    pub fn expect_docked(&self, cookie: u64, ports: Arc<super::ports::Ports>) -> Arc<Slot<Docked>> {
        let dock = Arc::<Slot<Docked>>::default();
        let newborn = Newborn { ports, slot: Arc::default(), dock: Some(dock.clone()), allowed: false };
        self.tables.lock().newborn.insert(cookie, newborn);
        dock
    }

    /// From now on no address space may be cloned; `false` while some are on their way, of which the children hear.
    pub fn close_gate(&self) -> bool {
        let mut tables = self.tables.lock();
        tables.closed = true;
        tables.quiet()
    }

    /// Clones are allowed again.
    pub fn open_gate(&self) {
        let deferred = {
            let mut tables = self.tables.lock();
            tables.closed = false;
            std::mem::take(&mut tables.deferred)
        };
        let Some(fd) = self.listener.get().map(AsRawFd::as_raw_fd) else { return };
        deferred.iter().for_each(|request| self.settle(fd, request));
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

    /// From now on it cannot announce itself any more.
    pub fn forget_newborn(&self, cookie: u64) {
        if self.tables.lock().newborn.remove(&cookie).is_some_and(|newborn| newborn.allowed) {
            self.children.unsettled();
        }
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
        self.settle(fd, &request);
        true
    }

    fn settle(&self, fd: RawFd, request: &Notification) {
        if self.decide(fd, request).is_none() {
            log::debug!("worker thread {} asked for what nobody expects (call {})", request.pid, request.number);
            // It waits until this is over, so that nobody else has its number.
            self.children.punish(request.pid, || is_valid(fd, request.id));
            respond(fd, Response { id: request.id, value: 0, error: -libc::EPERM, flags: 0 });
        }
    }

    fn decide(&self, fd: RawFd, request: &Notification) -> Option<()> {
        let notifies = request.number == NOTIFY_CALL as i32;
        if notifies && request.args[0] != 0 {
            return self.announced(fd, request);
        }
        let mut tables = self.tables.lock();
        let asking = tables.threads.get(&request.pid)?;
        let held = asking.child.hold()?;
        let clones = |args: &[u64; 5]| request.number == libc::SYS_clone as i32 && request.args[..5] == *args;
        let fits = match &asking.expected {
            Expected::Descriptor(_) | Expected::Dock(_) => notifies,
            Expected::CloneThread(args) | Expected::CloneWorker(args, ..) => clones(args),
        };
        if !fits || !held.has_thread(request.pid) {
            return None;
        }
        drop(held);
        if tables.closed && matches!(asking.expected, Expected::CloneWorker(..)) {
            tables.deferred.push(*request);
            return Some(());
        }
        let Asking { child, expected, slot } = tables.threads.remove(&request.pid)?;
        match expected {
            Expected::Descriptor(file) => {
                drop(tables);
                if let Some(number) = give(fd, request.id, file.as_raw_fd()) {
                    slot.put(number);
                }
            }
            Expected::CloneThread(_) => {
                respond(fd, Response { id: request.id, value: 0, error: 0, flags: CONTINUE });
            }
            Expected::CloneWorker(_, cookie, dock) => {
                if let Some(dock) = dock {
                    let asking = Asking { child, expected: Expected::Dock(dock), slot };
                    tables.threads.insert(request.pid, asking);
                }
                let going = respond(fd, Response { id: request.id, value: 0, error: 0, flags: CONTINUE });
                if let Some(newborn) = tables.newborn.get_mut(&cookie) {
                    newborn.allowed = going;
                }
            }
            Expected::Dock(dock) => dock.put(Docked { child, id: request.id }),
        }
        Some(())
    }

    /// An address space announces itself: the leader of a process that is a child of this one and not known so far.
    fn announced(&self, fd: RawFd, request: &Notification) -> Option<()> {
        let cookie = request.args[0];
        let mut tables = self.tables.lock();
        tables.newborn.get(&cookie)?;
        let child = Arc::new(Child::prove(request.pid as i32).ok()?);
        if !is_valid(fd, request.id) {
            // It has ended; whoever has its number now did not ask.
            return Some(());
        }
        self.children.announce(&child)?;
        let newborn = tables.newborn.remove(&cookie)?;
        if let Some(dock) = newborn.dock {
            let asking = Asking { child: child.clone(), expected: Expected::Dock(dock), slot: Arc::default() };
            tables.threads.insert(request.pid, asking);
        }
        if tables.closed && tables.quiet() {
            self.children.ring();
        }
        drop(tables);
        // Once it has its ports, the new worker runs.
        newborn.slot.put(child);
        let _ = give(fd, request.id, newborn.ports.file().as_raw_fd());
        Some(())
    }
}

/// The thread that asked still waits for the answer.
fn is_valid(fd: RawFd, id: u64) -> bool {
    // SAFETY: the host reads one number.
    unsafe { libc::ioctl(fd, ID_VALID, &raw const id) == 0 }
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
