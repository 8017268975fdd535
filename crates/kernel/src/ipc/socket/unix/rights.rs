//! Files in transit (`SCM_RIGHTS`), and the collection of sockets that only such files keep alive
//! (net/unix/garbage.c).

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::mem;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::UnixSocket;
use crate::fd::OpenFile;
use crate::ipc::socket::SocketFile;
use crate::task::{Caps, Task};

/// Unix sockets that are in some queue, by the key of their open file.
#[derive(Default)]
pub struct InFlight {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    files: HashMap<u64, Traveller>,
    /// Files of every kind.
    total: usize,
    /// Collect when this many are in flight.
    threshold: usize,
    /// Sockets that were closed since it was last collected.
    closed: usize,
}

struct Traveller {
    file: Weak<OpenFile>,
    count: usize,
}

/// Fewest sockets in flight that are worth a look.
const LEAST: usize = 64;

/// Most files in flight, for those whom Linux does not limit: they take memory of the kernel process.
const MOST: usize = 1 << 18;

/// Files that travel with a packet.
pub struct Rights {
    files: Vec<Arc<OpenFile>>,
    in_flight: Arc<InFlight>,
}

impl Rights {
    /// Puts `files` on their way.
    pub fn new(files: Vec<Arc<OpenFile>>, in_flight: &Arc<InFlight>) -> Rights {
        if in_flight.crowded() {
            in_flight.collect();
        }
        let mut state = in_flight.state.lock();
        state.total += files.len();
        for file in files.iter().filter(|file| socket_of(file).is_some()) {
            let file_ref = Arc::downgrade(file);
            state.files.entry(file.key).or_insert(Traveller { file: file_ref, count: 0 }).count += 1;
        }
        drop(state);
        Rights { files, in_flight: in_flight.clone() }
    }

    /// The files.
    pub fn files(&self) -> &[Arc<OpenFile>] {
        &self.files
    }

    /// The same files once more, for a peek.
    pub fn copy(&self) -> Vec<Arc<OpenFile>> {
        self.files.clone()
    }

    /// The files have arrived.
    pub fn into_files(mut self) -> Vec<Arc<OpenFile>> {
        mem::take(self.leave())
    }

    fn leave(&mut self) -> &mut Vec<Arc<OpenFile>> {
        let mut state = self.in_flight.state.lock();
        state.total = state.total.saturating_sub(self.files.len());
        for file in &self.files {
            if let Some(traveller) = state.files.get_mut(&file.key) {
                traveller.count -= 1;
                if traveller.count == 0 {
                    state.files.remove(&file.key);
                }
            }
        }
        drop(state);
        &mut self.files
    }
}

impl Drop for Rights {
    fn drop(&mut self) {
        let files = mem::take(self.leave());
        let in_flight = self.in_flight.clone();
        let outermost = FALLING.with_borrow_mut(|falling| match falling {
            Some(others) => {
                others.extend(files);
                false
            }
            None => {
                *falling = Some(files);
                true
            }
        });
        if outermost {
            while let Some(file) = FALLING.with_borrow_mut(|falling| falling.as_mut()?.pop()) {
                drop(file);
            }
            FALLING.with_borrow_mut(|falling| *falling = None);
            in_flight.collect_if_any();
        }
    }
}

thread_local! {
    /// Files whose last holder may be this thread, while it lets go of them one by one. A socket in a queue may have a
    /// queue with sockets in it, and so on, deeper than any stack (Linux: `delayed_fput()`).
    static FALLING: RefCell<Option<Vec<Arc<OpenFile>>>> = const { RefCell::new(None) };
}

fn socket_of(file: &OpenFile) -> Option<&UnixSocket> {
    SocketFile::of(file).ok()?.socket.as_any().downcast_ref()
}

impl InFlight {
    fn crowded(&self) -> bool {
        let state = self.state.lock();
        state.files.len() >= state.threshold.max(LEAST)
    }

    /// A socket was closed: collects, unless that will be done when this thread has let go of everything, or it would take
    /// much more than was closed since the last time.
    pub fn collect_if_any(&self) {
        let due = {
            let mut state = self.state.lock();
            state.closed += 1;
            let few = state.files.len() <= LEAST.max(8 * state.closed);
            !state.files.is_empty() && few
        };
        if due && !FALLING.with_borrow(Option::is_some) {
            self.collect();
        }
    }

    /// `task` may send no more files before some arrive (`too_many_unix_fds()`). Linux counts them for each user, and lets
    /// privileged ones have any number.
    pub fn is_full(&self, task: &Task) -> bool {
        let cred = task.cred();
        let privileged = cred.capable(Caps::SYS_RESOURCE) || cred.capable(Caps::SYS_ADMIN);
        self.state.lock().total > if privileged { MOST } else { task.nofile() }
    }

    /// Any at all.
    pub fn any(&self) -> bool {
        !self.state.lock().files.is_empty()
    }

    /// Number of sockets in flight.
    pub fn len(&self) -> usize {
        self.state.lock().files.len()
    }

    /// Nothing is in flight.
    pub fn is_empty(&self) -> bool {
        !self.any()
    }

    /// Empties the queues of sockets that can be reached only from queues of such sockets.
    ///
    /// 1. Candidates: every reference to the open file is in transit. A call under way holds one more.
    /// 2. A candidate with a reference from a queue of a socket that is none is alive, and so is what its own
    ///    queue holds.
    /// 3. The rest is garbage; emptying its queues drops the last references.
    pub fn collect(&self) {
        // Sockets are looked into without this lock: whoever receives takes them in the other order. What is
        // garbage cannot change meanwhile, and what changes is found to be referenced from outside.
        let travellers: Vec<Candidate> = {
            let mut state = self.state.lock();
            state.closed = 0;
            let upgraded = state.files.iter();
            upgraded.filter_map(|(key, it)| Some((*key, it.file.upgrade()?, it.count))).collect()
        };
        let total = travellers.len();
        // `upgrade` above counts as one reference.
        let candidates = travellers.into_iter().filter(|(_, file, count)| Arc::strong_count(file) == count + 1);
        let garbage = unreachable_ones(candidates.collect());
        self.state.lock().threshold = 2 * total.saturating_sub(garbage.len());
        let mut spent = Vec::new();
        for (_, file, _) in &garbage {
            if let Some(socket) = socket_of(file) {
                spent.extend(socket.drain());
            }
        }
        drop(spent);
    }
}

type Candidate = (u64, Arc<OpenFile>, usize);

fn unreachable_ones(candidates: Vec<Candidate>) -> Vec<Candidate> {
    let mut inside: HashMap<u64, usize> = HashMap::new();
    let mut children: HashMap<u64, Vec<u64>> = HashMap::new();
    let keys: HashSet<u64> = candidates.iter().map(|(key, ..)| *key).collect();
    for (key, file, _) in &candidates {
        let Some(socket) = socket_of(file) else { continue };
        let mut held = Vec::new();
        socket.for_each_right(&mut |file| held.push(file.key));
        held.retain(|child| keys.contains(child));
        for child in &held {
            *inside.entry(*child).or_default() += 1;
        }
        children.insert(*key, held);
    }
    let mut alive: Vec<u64> = candidates
        .iter()
        .filter(|(key, _, count)| inside.get(key).copied().unwrap_or(0) < *count)
        .map(|(key, ..)| *key)
        .collect();
    let mut living = HashSet::new();
    while let Some(key) = alive.pop() {
        if living.insert(key) {
            alive.extend(children.get(&key).into_iter().flatten());
        }
    }
    candidates.into_iter().filter(|(key, ..)| !living.contains(key)).collect()
}
