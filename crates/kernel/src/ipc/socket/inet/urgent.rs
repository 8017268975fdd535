//! Urgent data of TCP: one byte at a time, at a place in the stream (tcp(7), `MSG_OOB`; net/ipv4/tcp_input.c, tcp.c).

use super::tcp::State;
use crate::abi::net::{MSG_OOB, MSG_PEEK, MSG_TRUNC};
use crate::ipc::socket::Incoming;
use crate::ipc::socket::inbox::Spent;
use crate::{Errno, Result};

/// The urgent byte that a socket knows of.
#[derive(Clone, Copy, Debug)]
pub struct Urgent {
    /// Its place among all bytes that came (`urg_seq`).
    at: u64,
    /// Not read yet with `MSG_OOB` (`TCP_URG_VALID`).
    pub byte: Option<u8>,
}

impl State {
    /// Bytes that were read (`copied_seq`).
    fn copied(&self) -> u64 {
        self.received.saturating_sub(self.inbox.bytes() as u64)
    }

    /// Bytes before the urgent one; `None` if there is none or it is behind.
    fn ahead(&self) -> Option<u64> {
        self.urgent?.at.checked_sub(self.copied())
    }

    /// The next byte is urgent, and (unless `inline`) not to be read.
    pub fn at_urgent(&self, inline: bool) -> bool {
        !inline && self.ahead() == Some(0)
    }

    /// `FIONREAD`: not past urgent data (tcp_inq()).
    pub fn readable(&self, inline: bool) -> usize {
        let ahead = self.ahead().filter(|_| !inline).and_then(|ahead| usize::try_from(ahead).ok());
        ahead.unwrap_or(self.inbox.bytes())
    }

    /// Before more urgent data is queued: the byte of before is out of the stream if the reader stands at it, and a
    /// byte like others if not (tcp_check_urg()).
    pub fn forget_urgent(&mut self, inline: bool, spent: &mut Spent) {
        if self.at_urgent(inline) {
            self.inbox.discard_byte(spent);
        }
    }

    /// The last byte that came, `byte`, is urgent.
    pub fn mark_urgent(&mut self, byte: u8) {
        self.urgent = self.received.checked_sub(1).map(|at| Urgent { at, byte: Some(byte) });
    }

    /// tcp_recv_urg(): never waits.
    pub fn receive_urgent(&mut self, message: &mut Incoming<'_>, inline: bool) -> Result<usize> {
        let urgent = self.urgent.as_mut().filter(|_| !inline).ok_or(Errno::EINVAL)?;
        let byte = urgent.byte.ok_or(Errno::EINVAL)?;
        if message.flags & MSG_PEEK == 0 {
            urgent.byte = None;
        }
        message.out_flags |= MSG_OOB;
        if message.sink.remaining() == 0 {
            message.out_flags |= MSG_TRUNC;
            return Ok(0);
        }
        message.sink.put(&[byte])
    }

    /// Reads the stream up to urgent data; from there on another call goes, which leaves the urgent byte out unless
    /// it is taken `inline` (tcp_recvmsg_locked()).
    pub fn read(&mut self, message: &mut Incoming<'_>, inline: bool, spent: &mut Spent) -> Option<Result<usize>> {
        let peek = message.flags & MSG_PEEK != 0;
        match self.ahead() {
            Some(0) if !inline && message.sink.remaining() > 0 => match peek {
                true => message.peek_from = 1,
                false => self.inbox.discard_byte(spent),
            },
            None | Some(0) => {}
            Some(ahead) => message.limit = usize::try_from(ahead).unwrap_or(usize::MAX),
        }
        let result = match self.inbox.bytes() > message.peek_from {
            true => self.inbox.read_stream(message, false, spent),
            false => None,
        };
        message.stop = matches!(result, Some(Ok(count)) if count == message.limit);
        (message.limit, message.peek_from) = (usize::MAX, 0);
        if self.urgent.is_some_and(|urgent| self.copied() > urgent.at) {
            self.urgent = None;
        }
        result
    }
}
