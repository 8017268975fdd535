//! Message queues: msgop(2), ipc/msg.c.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use parking_lot::Mutex;

use super::now;
use super::registry::{Object, Perm};
use crate::wait::WaitQueue;
use crate::{Errno, Result};

/// Most queues (`MSGMNI`).
pub const MSGMNI: usize = 32000;
/// Longest message (`MSGMAX`), bytes in a new queue (`MSGMNB`).
pub const MSGMAX: usize = 8192;
pub const MSGMNB: u64 = 16384;

/// One queue.
pub struct Queue {
    state: Mutex<State>,
    /// Told when a message comes or goes, or the queue goes.
    pub queue: WaitQueue,
}

pub struct State {
    pub perm: Perm,
    pub messages: Messages,
    pub bytes: u64,
    pub limit: u64,
    pub send_time: i64,
    pub receive_time: i64,
    pub change_time: i64,
    pub last_sender: u32,
    pub last_receiver: u32,
    pub removed: bool,
}

pub struct Message {
    pub kind: i64,
    pub text: Vec<u8>,
}

/// Which message `msgrcv` wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    First,
    /// Of this type.
    Of(i64),
    /// Of any other type (`MSG_EXCEPT`).
    Except(i64),
    /// Of the lowest type that is at most this.
    UpTo(i64),
    /// By position (`MSG_COPY`).
    At(i64),
}

impl Queue {
    pub fn new(perm: Perm) -> Queue {
        let state = State {
            perm,
            messages: Messages::default(),
            bytes: 0,
            limit: MSGMNB,
            send_time: 0,
            receive_time: 0,
            change_time: now(),
            last_sender: 0,
            last_receiver: 0,
            removed: false,
        };
        Queue { state: Mutex::new(state), queue: WaitQueue::new() }
    }

    pub fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.lock())
    }

    /// Changes it and tells who waits.
    pub fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock();
        let result = change(&mut state);
        drop(state);
        self.queue.wake_all();
        result
    }

    /// Appends a message, taking its text out of `text`; `EAGAIN` while there is no room.
    pub fn send(&self, kind: i64, text: &mut Vec<u8>, pid: u32) -> Result<()> {
        let mut state = self.state.lock();
        if state.removed {
            return Err(Errno::EIDRM);
        }
        let len = text.len() as u64;
        if state.bytes + len > state.limit || state.messages.len() as u64 + 1 > state.limit {
            return Err(Errno::EAGAIN);
        }
        state.bytes += len;
        state.messages.push(Message { kind, text: std::mem::take(text) });
        state.send_time = now();
        state.last_sender = pid;
        drop(state);
        self.queue.wake_all();
        Ok(())
    }

    /// Hands the chosen message to `deliver` and removes it if that succeeds; `ENOMSG` if there is none,
    /// `E2BIG` if it is longer than `room` and may not be `cut`.
    pub fn receive(
        &self,
        choice: Choice,
        room: usize,
        cut: bool,
        pid: u32,
        deliver: impl FnOnce(i64, &[u8]) -> Result<()>,
    ) -> Result<usize> {
        let mut state = self.state.lock();
        if state.removed {
            return Err(Errno::EIDRM);
        }
        let number = state.messages.choose(choice).ok_or(Errno::ENOMSG)?;
        let message = state.messages.all.get(&number).ok_or(Errno::ENOMSG)?;
        if message.text.len() > room && !cut {
            return Err(Errno::E2BIG);
        }
        let part = message.text.get(..room.min(message.text.len())).unwrap_or_default();
        deliver(message.kind, part)?;
        let len = part.len();
        if !matches!(choice, Choice::At(_)) {
            if let Some(message) = state.messages.remove(number) {
                state.bytes = state.bytes.saturating_sub(message.text.len() as u64);
            }
            state.receive_time = now();
            state.last_receiver = pid;
            drop(state);
            self.queue.wake_all();
        }
        Ok(len)
    }
}

/// Messages in order of arrival, found by their types: a guest chooses how many there are.
#[derive(Default)]
pub struct Messages {
    all: BTreeMap<u64, Message>,
    /// Of each type, in order.
    kinds: BTreeMap<i64, VecDeque<u64>>,
    /// The first of each type.
    heads: BTreeSet<(u64, i64)>,
    next: u64,
}

impl Messages {
    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub fn clear(&mut self) {
        *self = Messages::default();
    }

    fn push(&mut self, message: Message) {
        let (number, kind) = (self.next, message.kind);
        self.next += 1;
        let list = self.kinds.entry(kind).or_default();
        if list.is_empty() {
            self.heads.insert((number, kind));
        }
        list.push_back(number);
        self.all.insert(number, message);
    }

    /// Only the first of a type is ever taken out.
    fn remove(&mut self, number: u64) -> Option<Message> {
        let message = self.all.remove(&number)?;
        let kind = message.kind;
        let list = self.kinds.get_mut(&kind)?;
        list.pop_front();
        self.heads.remove(&(number, kind));
        match list.front() {
            Some(next) => _ = self.heads.insert((*next, kind)),
            None => _ = self.kinds.remove(&kind),
        }
        Some(message)
    }

    fn choose(&self, choice: Choice) -> Option<u64> {
        let head = |kind: &i64| self.kinds.get(kind)?.front().copied();
        match choice {
            Choice::First => self.all.first_key_value().map(|(number, _)| *number),
            Choice::Of(kind) => head(&kind),
            Choice::Except(unwanted) => {
                self.heads.iter().find(|(_, kind)| *kind != unwanted).map(|(number, _)| *number)
            }
            Choice::At(index) => self.all.keys().nth(usize::try_from(index).ok()?).copied(),
            Choice::UpTo(most) => {
                let (kind, _) = self.kinds.first_key_value().filter(|(kind, _)| **kind <= most)?;
                head(kind)
            }
        }
    }
}

impl Object for Queue {
    const MOST: usize = MSGMNI;

    fn perm(&self) -> Perm {
        self.state.lock().perm
    }

    fn edit_perm(&self, change: &mut dyn FnMut(&mut Perm)) {
        change(&mut self.state.lock().perm);
    }
}
