//! Signals read from a descriptor: signalfd(2), fs/signalfd.c.

use std::any::Any;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::info::{SI_MESGQ, SI_QUEUE, SI_TIMER};
use super::{SigInfo, SigSet, Signal};
use crate::abi::types::Stat;
use crate::fd::{File, Io};
use crate::ipc::glue;
use crate::mem::Sink;
use crate::task::Process;
use crate::wait::{Events, PollTable};
use crate::{Errno, Result};

/// `struct signalfd_siginfo`.
#[repr(C)]
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct SignalfdSiginfo {
    signo: u32,
    errno: i32,
    code: i32,
    pid: u32,
    uid: u32,
    fd: i32,
    tid: u32,
    band: u32,
    overrun: u32,
    trapno: u32,
    status: i32,
    int: i32,
    ptr: u64,
    utime: u64,
    stime: u64,
    addr: u64,
    addr_lsb: u16,
    pad2: u16,
    syscall: i32,
    call_addr: u64,
    arch: u32,
    pad: [u32; 7],
}

const RECORD: usize = size_of::<SignalfdSiginfo>();
const _: () = assert!(RECORD == 128);

/// Yields pending signals of a set, for whichever process reads.
pub struct SignalFd {
    mask: Mutex<SigSet>,
    /// Whose signals make it ready: the process that made it.
    owner: Weak<Process>,
}

impl SignalFd {
    /// For signals of `mask`.
    pub fn new(mask: SigSet, owner: &Arc<Process>) -> SignalFd {
        SignalFd { mask: Mutex::new(mask.blockable()), owner: Arc::downgrade(owner) }
    }

    /// Another set, by calling signalfd(2) with the descriptor.
    pub fn set_mask(&self, mask: SigSet) {
        *self.mask.lock() = mask.blockable();
        if let Some(owner) = self.owner.upgrade() {
            owner.signals.arrived.wake_all();
        }
    }
}

/// `signalfd_copyinfo()`: which fields hold something depends on who sent it.
fn record(info: &SigInfo) -> SignalfdSiginfo {
    let base =
        SignalfdSiginfo { signo: info.signo as u32, errno: info.errno, code: info.code, ..Default::default() };
    let value = info.value();
    let with_sender = SignalfdSiginfo { pid: info.pid(), uid: info.uid(), ..base };
    let (utime, stime) = info.times();
    let is = |signal: Signal| info.signo == signal.number();
    match info.code {
        SI_TIMER => {
            let (id, overrun) = info.timer_id();
            SignalfdSiginfo { tid: id as u32, overrun: overrun as u32, ptr: value, int: value as i32, ..base }
        }
        SI_QUEUE | SI_MESGQ => SignalfdSiginfo { ptr: value, int: value as i32, ..with_sender },
        code if code <= 0 => with_sender,
        _ if is(Signal::SIGCHLD) => SignalfdSiginfo { status: info.status(), utime, stime, ..with_sender },
        code if is(Signal::SIGIO) && code < super::info::SI_KERNEL => {
            let (band, fd) = info.band();
            SignalfdSiginfo { band: band as u32, fd, ..base }
        }
        super::info::SI_KERNEL => with_sender,
        _ if SigSet::SYNCHRONOUS.iter().any(is) => SignalfdSiginfo { addr: info.address(), ..base },
        _ => with_sender,
    }
}

impl File for SignalFd {
    fn read(&self, io: &Io<'_>, _offset: u64, into: &mut dyn Sink) -> Result<usize> {
        let wanted = into.remaining() / RECORD;
        if wanted == 0 {
            return Err(Errno::EINVAL);
        }
        let mask = *self.mask.lock();
        let mut done = 0;
        for _ in 0..wanted {
            let Some((_, info)) = super::take(io.task, mask) else { break };
            if into.put(record(&info).as_bytes())? < RECORD {
                return if done == 0 { Err(Errno::EFAULT) } else { Ok(done) };
            }
            done += RECORD;
        }
        if done == 0 { Err(Errno::EAGAIN) } else { Ok(done) }
    }

    fn seeks_nowhere(&self) -> bool {
        true
    }

    fn poll(&self, table: &mut PollTable) -> Events {
        let Some(owner) = self.owner.upgrade() else { return Events::empty() };
        table.watch(&owner.signals.arrived);
        let threads = owner.tasks().into_iter().map(|task| task.signals.pending_set());
        let pending = threads.fold(owner.signals.pending_set(), SigSet::union);
        if pending.intersection(*self.mask.lock()).is_empty() { Events::empty() } else { Events::READ }
    }

    fn stat(&self) -> Result<Stat> {
        Ok(glue::anon_inode_stat())
    }

    fn fdinfo(&self, text: &mut String) {
        text.push_str(&format!("sigmask:\t{:016x}\n", self.mask.lock().0));
    }

    fn description(&self) -> String {
        String::from("anon_inode:[signalfd]")
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
