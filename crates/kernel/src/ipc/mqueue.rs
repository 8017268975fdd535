//! POSIX message queues: mq_overview(7), ipc/mqueue.c.

use std::any::Any;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::glue;
use crate::abi::linux::RLIMIT_MSGQUEUE;
use crate::abi::types::Stat;
use crate::fd::{File, Io};
use crate::fs::S_IFREG;
use crate::ipc::quota::Quota;
use crate::ipc::socket::Socket;
use crate::ipc::socket::inet::NetlinkSocket;
use crate::mem::Sink;
use crate::signal::{self, SigInfo, Signal};
use crate::task::{Caps, Process, Task};
use crate::wait::{Events, PollTable, WaitQueue};
use crate::{Errno, Result};

/// Priorities are below this.
pub const MQ_PRIO_MAX: u32 = 32768;
/// `SI_MESGQ`.
const SI_MESGQ: i32 = -3;
/// The device number of mqueuefs.
const MQUEUE_DEV: u64 = 19;

/// Names of one world's queues, and what all queues take: those that have lost their names, too, while they are open.
#[derive(Default)]
pub struct Names {
    pub map: Mutex<HashMap<Vec<u8>, Arc<Queue>>>,
    count: Arc<Quota>,
    bytes: Arc<Quota>,
}

/// `fs.mqueue.queues_max`; the privileged may have more.
pub const QUEUES_MAX: u64 = 256;

/// What a queue is made with.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub max_messages: usize,
    pub message_size: usize,
    pub mode: u32,
    pub owner: (u32, u32),
}

impl Names {
    /// `ENOSPC` if there may not be one more (mqueue_create_attr()).
    pub fn check_count(&self, task: &Task) -> Result<()> {
        let full = self.count.used() >= QUEUES_MAX && !task.cred().capable(Caps::SYS_RESOURCE);
        if full { Err(Errno::ENOSPC) } else { Ok(()) }
    }
}

impl Shape {
    /// What it counts against `RLIMIT_MSGQUEUE`, when it is full (mqueue_get_inode()).
    fn bytes(&self) -> u64 {
        /// `struct msg_msg`, `struct posix_msg_tree_node`.
        const MESSAGE: u64 = 48;
        const LEAF: u64 = 48;
        let count = self.max_messages as u64;
        let leaves = count.min(u64::from(MQ_PRIO_MAX)).saturating_mul(LEAF);
        count.saturating_mul(MESSAGE + self.message_size as u64).saturating_add(leaves)
    }
}

/// One queue.
pub struct Queue {
    pub shape: Shape,
    count: Arc<Quota>,
    bytes: Arc<Quota>,
    ino: u64,
    state: Mutex<State>,
    readable: WaitQueue,
    writable: WaitQueue,
}

#[derive(Default)]
struct State {
    /// Highest priority first, in order of arrival among equals.
    messages: BTreeMap<(Reverse<u32>, u64), Vec<u8>>,
    next: u64,
    /// Of all messages.
    bytes: usize,
    /// Threads inside `mq_receive`.
    receivers: usize,
    notify: Option<Notify>,
}

/// Who is told when a message arrives at the empty queue.
pub struct Notify {
    pub process: Weak<Process>,
    pub how: How,
}

/// `SIGEV_*`.
pub enum How {
    Signal(Signal, u64),
    Nothing,
    /// `SIGEV_THREAD`: the cookie goes to a netlink socket, where a thread of the C library waits for it.
    Socket(Arc<dyn Socket>, [u8; COOKIE]),
}

/// `NOTIFY_COOKIE_LEN`; the last byte says why it comes.
pub const COOKIE: usize = 32;
const NOTIFY_WOKENUP: u8 = 1;
const NOTIFY_REMOVED: u8 = 2;

impl How {
    /// The number in `struct sigevent`.
    fn number(&self) -> u32 {
        match self {
            How::Signal(..) => 0,
            How::Nothing => 1,
            How::Socket(..) => 2,
        }
    }

    fn signal(&self) -> Option<Signal> {
        if let How::Signal(signal, _) = self { Some(*signal) } else { None }
    }

    /// Sends the cookie where there is one.
    fn tell_socket(&self, why: u8) {
        if let How::Socket(socket, cookie) = self {
            let mut bytes = cookie.to_vec();
            if let Some(last) = bytes.last_mut() {
                *last = why;
            }
            NetlinkSocket::tell(&**socket, bytes);
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.count.give(1);
        self.bytes.give(self.shape.bytes());
    }
}

impl Queue {
    /// `ENOSPC` if there are [`QUEUES_MAX`], `EMFILE` beyond `RLIMIT_MSGQUEUE`, which counts for all users here.
    pub fn new(task: &Task, shape: Shape) -> Result<Queue> {
        let names = &task.world.ipc.mqueue;
        names.check_count(task)?;
        if !names.bytes.take(shape.bytes(), task.rlimit(RLIMIT_MSGQUEUE)) {
            return Err(Errno::EMFILE);
        }
        names.count.take_anyway(1);
        Ok(Queue {
            shape,
            count: names.count.clone(),
            bytes: names.bytes.clone(),
            ino: task.world.ipc.next_ino(),
            state: Mutex::default(),
            readable: WaitQueue::new(),
            writable: WaitQueue::new(),
        })
    }

    /// Messages waiting.
    pub fn count(&self) -> usize {
        self.state.lock().messages.len()
    }

    /// Appends a message, taking `bytes`; `EAGAIN` while it is full.
    pub fn send(&self, task: &Task, priority: u32, bytes: &mut Vec<u8>) -> Result<()> {
        let mut state = self.state.lock();
        if state.messages.len() >= self.shape.max_messages {
            return Err(Errno::EAGAIN);
        }
        let was_empty = state.messages.is_empty();
        let place = (Reverse(priority), state.next);
        state.next += 1;
        state.bytes += bytes.len();
        state.messages.insert(place, std::mem::take(bytes));
        let notify = if was_empty && state.receivers == 0 { state.notify.take() } else { None };
        drop(state);
        self.readable.wake_all();
        match notify {
            Some(Notify { process, how: How::Signal(number, value) }) => {
                if let Some(process) = process.upgrade() {
                    let info = SigInfo::queue(number, SI_MESGQ, task.pid(), task.cred().uid, value);
                    let _ = signal::send_to_process(&process, number, info);
                }
            }
            Some(Notify { how, .. }) => how.tell_socket(NOTIFY_WOKENUP),
            None => {}
        }
        Ok(())
    }

    /// Hands the first message to `deliver` and removes it if that succeeds; `EAGAIN` if there is none.
    pub fn receive(&self, deliver: impl FnOnce(u32, &[u8]) -> Result<()>) -> Result<usize> {
        let mut state = self.state.lock();
        let first = state.messages.first_entry().ok_or(Errno::EAGAIN)?;
        deliver(first.key().0.0, first.get())?;
        let len = first.remove().len();
        state.bytes -= len;
        drop(state);
        self.writable.wake_all();
        Ok(len)
    }

    /// Counts a thread in or out of `mq_receive`: messages for it are announced to nobody else.
    pub fn count_receiver(&self, enters: bool) {
        let mut state = self.state.lock();
        state.receivers = if enters { state.receivers + 1 } else { state.receivers.saturating_sub(1) };
    }

    /// `mq_notify`: `EBUSY` if somebody else is registered; `None` takes the own registration back.
    pub fn set_notify(&self, process: &Arc<Process>, notify: Option<Notify>) -> Result<()> {
        let mut state = self.state.lock();
        let holder = state.notify.as_ref().and_then(|notify| notify.process.upgrade());
        match (notify, holder) {
            (None, Some(holder)) if Arc::ptr_eq(&holder, process) => {
                let old = state.notify.take();
                drop(state);
                if let Some(old) = old {
                    old.how.tell_socket(NOTIFY_REMOVED);
                }
            }
            (None, _) => {}
            (Some(_), Some(_)) => return Err(Errno::EBUSY),
            (new, None) => state.notify = new,
        }
        Ok(())
    }

    /// Where to wait for messages, or for room.
    pub fn watch(&self, table: &mut PollTable, write: bool) {
        table.watch(if write { &self.writable } else { &self.readable });
    }
}

/// A queue as an open file.
pub struct MqFile(pub Arc<Queue>);

impl File for MqFile {
    /// What the queue's file in mqueuefs shows (mqueue_read_file()).
    fn read(&self, _io: &Io<'_>, offset: u64, into: &mut dyn Sink) -> Result<usize> {
        let state = self.0.state.lock();
        let size = state.bytes;
        let notify = state.notify.as_ref();
        let how = notify.map_or(0, |notify| notify.how.number());
        let signal = notify.and_then(|notify| notify.how.signal()).map_or(0, Signal::number);
        let pid = notify.and_then(|notify| notify.process.upgrade()).map_or(0, |process| process.pid);
        drop(state);
        let text = format!("QSIZE:{size:<10} NOTIFY:{how:<5} SIGNO:{signal:<5} NOTIFY_PID:{pid:<6}\n");
        let rest = usize::try_from(offset).ok().and_then(|at| text.as_bytes().get(at..)).unwrap_or_default();
        if rest.is_empty() { Ok(0) } else { into.put(rest) }
    }

    fn seekable(&self) -> bool {
        true
    }

    fn poll(&self, table: &mut PollTable) -> Events {
        table.watch_for(&self.0.readable, Events::READ);
        table.watch_for(&self.0.writable, Events::WRITE);
        let count = self.0.count();
        let mut ready = Events::empty();
        if count > 0 {
            ready |= Events::READ;
        }
        if count < self.0.shape.max_messages {
            ready |= Events::WRITE;
        }
        ready
    }

    fn stat(&self) -> Result<Stat> {
        let shape = &self.0.shape;
        let time = std::time::SystemTime::now();
        let stat = glue::anonymous_stat(S_IFREG | shape.mode, MQUEUE_DEV, self.0.ino, shape.owner, time);
        Ok(Stat { st_size: 80, ..stat })
    }

    /// A queue forgets who wanted to be told when that process closes it (mqueue_flush_file()).
    fn flush(&self, task: &Arc<Task>) -> Result<()> {
        self.0.set_notify(&task.process, None)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
