//! Message queues: msgop(2), ipc/msg.c.

use std::collections::VecDeque;

use parking_lot::Mutex;

use super::now;
use super::registry::{Object, Perm};
use crate::wait::WaitQueue;
use crate::{Errno, Result};

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
    pub messages: VecDeque<Message>,
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
            messages: VecDeque::new(),
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
        state.messages.push_back(Message { kind, text: std::mem::take(text) });
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
        let index = state.choose(choice).ok_or(Errno::ENOMSG)?;
        let message = state.messages.get(index).ok_or(Errno::ENOMSG)?;
        if message.text.len() > room && !cut {
            return Err(Errno::E2BIG);
        }
        let part = message.text.get(..room.min(message.text.len())).unwrap_or_default();
        deliver(message.kind, part)?;
        let len = part.len();
        if !matches!(choice, Choice::At(_)) {
            if let Some(message) = state.messages.remove(index) {
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

impl State {
    fn choose(&self, choice: Choice) -> Option<usize> {
        let mut kinds = self.messages.iter().map(|message| message.kind);
        match choice {
            Choice::First => (!self.messages.is_empty()).then_some(0),
            Choice::Of(wanted) => kinds.position(|kind| kind == wanted),
            Choice::Except(unwanted) => kinds.position(|kind| kind != unwanted),
            Choice::At(index) => usize::try_from(index).ok().filter(|index| *index < self.messages.len()),
            Choice::UpTo(most) => {
                let fitting = kinds.enumerate().filter(|(_, kind)| *kind <= most);
                fitting.min_by_key(|(index, kind)| (*kind, *index)).map(|(index, _)| index)
            }
        }
    }
}

impl Object for Queue {
    fn perm(&self) -> Perm {
        self.state.lock().perm
    }

    fn set_seq(&self, seq: u32) {
        self.state.lock().perm.seq = seq;
    }
}
