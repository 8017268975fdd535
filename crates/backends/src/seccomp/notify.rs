//! The notification thread: decides the few worker calls that the filter leaves to the kernel.
//!
//! Kernel threads say beforehand what a worker thread will ask for ([`Notifier::expect`]); what nobody expects
//! is refused, and is a guest that has jumped into the shim. Arguments are registers, so there is nothing that
//! could change between check and execution.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use coracle_abi::port::NOTIFY_CALL;
use parking_lot::{Condvar, Mutex};

/// What a worker thread is about to ask for.
pub enum Expected {
    /// A copy of this descriptor.
    Descriptor(Arc<OwnedFd>),
    /// `clone` with exactly these arguments.
    Clone([u64; 5]),
}

/// A place where an answer will be.
#[derive(Default)]
pub struct Slot {
    answer: Mutex<Option<i32>>,
    arrived: Condvar,
}

impl Slot {
    fn put(&self, value: i32) {
        *self.answer.lock() = Some(value);
        self.arrived.notify_all();
    }

    /// The answer, if it has come.
    pub fn get(&self) -> Option<i32> {
        *self.answer.lock()
    }

    /// Waits for the answer, but not for ever: a worker that was cloned may be killed before it speaks.
    pub fn wait(&self, limit: std::time::Duration) -> Option<i32> {
        let mut answer = self.answer.lock();
        if answer.is_none() {
            self.arrived.wait_for(&mut answer, limit);
        }
        *answer
    }
}

#[derive(Default)]
struct Tables {
    /// By host thread id.
    threads: HashMap<u32, (Expected, Arc<Slot>)>,
    /// By cookie: address spaces that are about to announce themselves, and their ports.
    newborn: HashMap<u64, (Arc<super::ports::Ports>, Arc<Slot>)>,
}

/// Shared by the notification thread and the kernel's threads.
pub struct Notifier {
    listener: OwnedFd,
    tables: Mutex<Tables>,
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
/// `SECCOMP_ADDFD_FLAG_SEND`: the number is the result of the call.
const ADD_AND_SEND: u32 = 2;
/// `SECCOMP_USER_NOTIF_FLAG_CONTINUE`.
const CONTINUE: u32 = 1;

impl Notifier {
    /// Takes over the listener of a filter and starts the thread.
    pub fn start(listener: OwnedFd) -> std::io::Result<Arc<Notifier>> {
        // SAFETY: an ioctl that takes a plain value; older hosts refuse it, which is fine.
        unsafe { libc::ioctl(listener.as_raw_fd(), SET_FLAGS, SYNC_WAKE_UP) };
        let notifier = Arc::new(Notifier { listener, tables: Mutex::default() });
        let served = notifier.clone();
        std::thread::Builder::new().name("notify".into()).stack_size(128 << 10).spawn(move || served.serve())?;
        Ok(notifier)
    }

    /// Thread `tid` is about to ask for this.
    pub fn expect(&self, tid: u32, what: Expected) -> Arc<Slot> {
        let slot = Arc::<Slot>::default();
        self.tables.lock().threads.insert(tid, (what, slot.clone()));
        slot
    }

    /// Whatever `tid` was to ask for, it will not.
    pub fn forget(&self, tid: u32) {
        self.tables.lock().threads.remove(&tid);
    }

    /// A new address space will announce itself with `cookie` and get these ports.
    pub fn expect_newborn(&self, cookie: u64, ports: Arc<super::ports::Ports>) -> Arc<Slot> {
        let slot = Arc::<Slot>::default();
        self.tables.lock().newborn.insert(cookie, (ports, slot.clone()));
        slot
    }

    /// It will not.
    pub fn forget_newborn(&self, cookie: u64) {
        self.tables.lock().newborn.remove(&cookie);
    }

    /// Ends when the last worker with this filter is gone.
    fn serve(&self) {
        let fd = self.listener.as_raw_fd();
        loop {
            let mut request = Notification::default();
            // SAFETY: the host fills in the structure, whose layout is the host's.
            let got = unsafe { libc::ioctl(fd, RECEIVE, &raw mut request) };
            if got < 0 {
                match std::io::Error::last_os_error().raw_os_error() {
                    // The asking thread was killed meanwhile.
                    Some(libc::ENOENT | libc::EINTR) => {
                        if self.hung_up() {
                            return;
                        }
                        continue;
                    }
                    _ => return,
                }
            }
            if self.decide(fd, &request).is_none() {
                log::warn!(
                    "worker thread {} asked for what nobody expects (call {})",
                    request.pid,
                    request.number
                );
                respond(fd, Response { id: request.id, value: 0, error: -libc::EPERM, flags: 0 });
            }
        }
    }

    /// Every process with this filter has ended.
    fn hung_up(&self) -> bool {
        let mut poll = libc::pollfd { fd: self.listener.as_raw_fd(), events: 0, revents: 0 };
        // SAFETY: one valid pollfd.
        unsafe { libc::poll(&raw mut poll, 1, 0) > 0 && poll.revents & libc::POLLHUP != 0 }
    }

    fn decide(&self, fd: RawFd, request: &Notification) -> Option<()> {
        let notifies = request.number == NOTIFY_CALL as i32;
        if notifies && request.args[0] != 0 {
            let (ports, slot) = self.tables.lock().newborn.remove(&request.args[0])?;
            // The pid first: once it has its ports, the new worker runs.
            slot.put(request.pid as i32);
            return give(fd, request.id, ports.file().as_raw_fd()).map(|_| ());
        }
        let (expected, slot) = self.tables.lock().threads.remove(&request.pid)?;
        match expected {
            Expected::Descriptor(file) if notifies => {
                slot.put(give(fd, request.id, file.as_raw_fd())?);
                Some(())
            }
            Expected::Clone(args) if request.number == libc::SYS_clone as i32 && request.args[..5] == args => {
                respond(fd, Response { id: request.id, value: 0, error: 0, flags: CONTINUE });
                slot.put(0);
                Some(())
            }
            _ => None,
        }
    }
}

/// Puts a copy of `source` into the asking worker, as the result of its call; returns the number there.
fn give(fd: RawFd, id: u64, source: RawFd) -> Option<i32> {
    let order = AddDescriptor { id, flags: ADD_AND_SEND, source: source as u32, number: 0, number_flags: 0 };
    // SAFETY: the structure's layout is the host's.
    let number = unsafe { libc::ioctl(fd, ADD, &raw const order) };
    (number >= 0).then_some(number)
}

fn respond(fd: RawFd, response: Response) {
    // SAFETY: the structure's layout is the host's. It fails only if the asking thread is gone.
    unsafe { libc::ioctl(fd, SEND, &raw const response) };
}
