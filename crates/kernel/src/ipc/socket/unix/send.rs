//! Sending: bytes of streams, packets, and the files that travel along (net/unix/af_unix.c).

use std::sync::Arc;
use std::time::SystemTime;

use super::UnixSocket;
use super::rights::Rights;
use crate::abi::net::MSG_NOSIGNAL;
use crate::fd::Band;
use crate::ipc::glue;
use crate::ipc::socket::inbox::{take_bytes, true_size};
use crate::ipc::socket::{Kind, Outgoing, Packet};
use crate::{Errno, Result};

/// Datagrams that wait at a receiver before senders do (`net.unix.max_dgram_qlen`).
const MAX_QUEUED: usize = 10;
/// Most bytes of a stream in one packet, as Linux cuts them (`SKB_MAX_HEAD(0) + UNIX_SKB_FRAGS_SZ`).
const MAX_CHUNK: usize = 3776 + 32768;
/// Longest head of a packet (`SKB_MAX_HEAD(0)`, `SKB_MAX_ALLOC`).
const MAX_HEAD: usize = 3776;
const MAX_ALLOC: usize = 16064;

impl UnixSocket {
    /// unix_stream_sendmsg(), without its waiting.
    pub(super) fn send_stream(&self, message: &mut Outgoing<'_>) -> Result<usize> {
        let (peer, shut, connected) = {
            let state = self.state.lock();
            (state.peer.clone(), state.shut, state.connected)
        };
        if message.address.is_some() {
            return Err(if connected { Errno::EISCONN } else { Errno::EOPNOTSUPP });
        }
        let peer = peer.ok_or(Errno::ENOTCONN)?;
        if shut.send {
            return Err(broken(message));
        }
        let mut done = 0;
        let limit = (self.account.limit() / 2).saturating_sub(64).clamp(1, MAX_CHUNK);
        let address = self.source_address();
        while message.source.remaining() > 0 {
            if !self.account.has_room() {
                return if done > 0 { Ok(done) } else { Err(Errno::EAGAIN) };
            }
            let len = message.source.remaining().min(limit);
            let paged = len.saturating_sub(MAX_HEAD).next_multiple_of(4096).min(len);
            let data = match take_bytes(message.source, len) {
                Ok(data) => data,
                Err(error) => return if done > 0 { Ok(done) } else { Err(error) },
            };
            self.check_files(message)?;
            let charge = self.account.charge(true_size(len, paged));
            let mut packet = Packet::new(data, address.clone(), message.cred, Some(charge));
            if !message.files.is_empty() {
                packet.rights = Some(Rights::new(std::mem::take(&mut message.files), &self.space.in_flight));
            }
            if let Err(packet) = peer.deliver(packet) {
                drop(packet);
                return if done > 0 { Ok(done) } else { Err(broken(message)) };
            }
            done += len;
        }
        Ok(done)
    }

    /// unix_attach_fds().
    fn check_files(&self, message: &Outgoing<'_>) -> Result<()> {
        let full = !message.files.is_empty() && self.space.in_flight.is_full(message.task);
        if full { Err(Errno::ETOOMANYREFS) } else { Ok(()) }
    }

    /// Puts a packet into this socket's queue; gives it back if nobody will read it.
    fn deliver(&self, mut packet: Packet) -> std::result::Result<(), Box<Packet>> {
        let mut state = self.state.lock();
        if state.closed || state.shut.receive {
            return Err(Box::new(packet));
        }
        packet.time = (self.kind == Kind::Datagram && self.options.stamps()).then(SystemTime::now);
        state.inbox.push(packet);
        drop(state);
        self.readable.wake_all();
        self.account.notice.tell(Band::In);
        Ok(())
    }

    /// unix_dgram_sendmsg(), without its waiting.
    pub(super) fn send_packet(&self, message: &mut Outgoing<'_>) -> Result<usize> {
        let (peer, shut) = {
            let state = self.state.lock();
            (state.peer.clone(), state.shut)
        };
        let peer = match (&message.address, self.kind) {
            (Some(address), Kind::Datagram) => {
                let other = self.find(message.task, address)?;
                if !other.accepts_from(self) {
                    return Err(Errno::EPERM);
                }
                other
            }
            _ => peer.ok_or(Errno::ENOTCONN)?,
        };
        if self.options.pass_cred() {
            self.autobind()?;
        }
        let len = message.source.remaining();
        if len > self.account.limit().saturating_sub(32) {
            return Err(Errno::EMSGSIZE);
        }
        if shut.send {
            return Err(Errno::EPIPE);
        }
        if !self.account.has_room() {
            return Err(Errno::EAGAIN);
        }
        {
            let state = peer.state.lock();
            if state.closed {
                drop(state);
                self.forget_peer(&peer);
                return Err(if self.kind == Kind::Datagram { Errno::ECONNREFUSED } else { Errno::EPIPE });
            }
            if state.shut.receive {
                return Err(Errno::EPIPE);
            }
            let mutual = state.peer.as_ref().is_some_and(|back| std::ptr::eq(&**back, self));
            if !mutual && state.inbox.count() > MAX_QUEUED {
                return Err(Errno::EAGAIN);
            }
        }
        let data = take_bytes(message.source, len)?;
        self.check_files(message)?;
        let charge = self.account.charge(true_size(len, len.saturating_sub(MAX_ALLOC)));
        let mut packet = Packet::new(data, self.source_address(), message.cred, Some(charge));
        if !message.files.is_empty() {
            packet.rights = Some(Rights::new(std::mem::take(&mut message.files), &self.space.in_flight));
        }
        peer.deliver(packet).map_err(|_| Errno::ECONNREFUSED)?;
        Ok(len)
    }

    /// A datagram socket loses its peer with the first packet that cannot be delivered.
    fn forget_peer(&self, peer: &Arc<UnixSocket>) {
        if self.kind != Kind::Datagram {
            return;
        }
        let mut state = self.state.lock();
        let old = state.peer.take_if(|it| Arc::ptr_eq(it, peer));
        state.connected = state.peer.is_some();
        drop(state);
        drop(old);
    }

    /// Room at the datagram receiver that this socket is connected to.
    pub(super) fn peer_has_room(&self, peer: &UnixSocket) -> bool {
        let state = peer.state.lock();
        let mutual = state.peer.as_ref().is_some_and(|back| std::ptr::eq(&**back, self));
        mutual || state.inbox.count() <= MAX_QUEUED
    }
}

/// `EPIPE`, and `SIGPIPE` unless refused.
fn broken(message: &Outgoing<'_>) -> Errno {
    if message.flags & MSG_NOSIGNAL == 0 {
        glue::broken_pipe(message.task);
    }
    Errno::EPIPE
}
