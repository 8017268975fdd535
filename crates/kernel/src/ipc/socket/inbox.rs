//! The receive queue of a socket, and the accounting of what a sender has on its way.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use super::unix::rights::Rights;
use super::{Header, Incoming, Notice};
use crate::abi::net::{MSG_PEEK, MSG_TRUNC};
use crate::ipc::glue::Ucred;
use crate::mem::Source;
use crate::wait::WaitQueue;
use crate::{Errno, Result};

/// Bytes that a sender has in the queues of receivers (`sk_wmem_alloc`), and its limit (`sk_sndbuf`).
pub struct Account {
    used: AtomicUsize,
    limit: AtomicUsize,
    /// Told when there is room again.
    pub writable: WaitQueue,
    /// Told by signal of the same, and of whatever else the socket has to tell.
    pub notice: Notice,
}

impl Account {
    pub fn new(limit: usize) -> Arc<Account> {
        Arc::new(Account {
            used: AtomicUsize::new(0),
            limit: AtomicUsize::new(limit),
            writable: WaitQueue::new(),
            notice: Notice::default(),
        })
    }

    pub fn used(&self) -> usize {
        self.used.load(Ordering::SeqCst)
    }

    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::SeqCst)
    }

    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::SeqCst);
        self.writable.wake_all();
    }

    /// One more packet may be sent (sock_alloc_send_pskb()).
    pub fn has_room(&self) -> bool {
        let room = self.used() < self.limit();
        if !room {
            self.notice.lacks_space();
        }
        room
    }

    /// `POLLOUT` (unix_writable()).
    pub fn is_writable(&self) -> bool {
        let writable = self.used().saturating_mul(4) <= self.limit();
        if !writable {
            self.notice.lacks_space();
        }
        writable
    }

    /// Counts `amount` until the result is dropped.
    pub fn charge(self: &Arc<Account>, amount: usize) -> Charge {
        self.used.fetch_add(amount, Ordering::SeqCst);
        Charge { account: self.clone(), amount }
    }
}

/// A part of an [`Account`].
pub struct Charge {
    account: Arc<Account>,
    amount: usize,
}

impl Drop for Charge {
    fn drop(&mut self) {
        // Another one has taken it over.
        if self.amount == 0 {
            return;
        }
        self.account.used.fetch_sub(self.amount, Ordering::SeqCst);
        if self.account.is_writable() {
            self.account.writable.wake_all();
            self.account.notice.has_space();
        }
    }
}

/// What Linux charges for `len` bytes (`skb->truesize`): a head as `kmalloc` rounds it, and whole pages.
/// `paged`: the part of `len` that lies in pages.
pub fn true_size(len: usize, paged: usize) -> usize {
    const SHARED_INFO: usize = 320;
    const SK_BUFF: usize = 256;
    let paged = paged.min(len);
    let head = (len - paged + SHARED_INFO).next_power_of_two().max(512);
    head + SK_BUFF + paged.next_multiple_of(4096)
}

/// Bytes on their way, with what travels along.
pub struct Packet {
    data: Vec<u8>,
    /// Bytes of `data` that were read already.
    start: usize,
    /// The sender's address, family included; empty: none.
    pub address: Arc<[u8]>,
    pub rights: Option<Rights>,
    /// Of a datagram: its header, and when it came, if somebody wanted to know.
    pub header: Option<Box<Header>>,
    pub time: Option<SystemTime>,
    pub cred: Ucred,
    charge: Option<Charge>,
}

impl Packet {
    pub fn new(data: Vec<u8>, address: Arc<[u8]>, cred: Ucred, charge: Option<Charge>) -> Packet {
        Packet { data, start: 0, address, rights: None, header: None, time: None, cred, charge }
    }

    pub fn size(&self) -> usize {
        self.data.len() - self.start
    }

    fn bytes(&self) -> &[u8] {
        self.data.get(self.start..).unwrap_or_default()
    }

    /// Adds the bytes of a later packet of the same stream, if they are few.
    fn absorb(&mut self, later: &mut Packet) -> bool {
        const FEW: usize = 4096;
        let alike = self.cred == later.cred && self.rights.is_none() && later.rights.is_none();
        if !alike || self.data.len() + later.size() > FEW {
            return false;
        }
        match (&mut self.charge, &mut later.charge) {
            (None, None) => {}
            (Some(first), Some(second)) if Arc::ptr_eq(&first.account, &second.account) => {
                first.amount += std::mem::take(&mut second.amount);
            }
            _ => return false,
        }
        self.data.extend_from_slice(later.bytes());
        true
    }
}

/// Packets in order of arrival. The socket's lock guards it.
#[derive(Default)]
pub struct Inbox {
    packets: VecDeque<Packet>,
    bytes: usize,
}

/// Packets that were read: drop them after unlocking.
pub type Spent = Vec<Packet>;

impl Inbox {
    pub fn push(&mut self, packet: Packet) {
        self.bytes += packet.size();
        self.packets.push_back(packet);
    }

    /// As `push`, for a stream whose packets have no borders: many short ones become one (tcp_try_coalesce()).
    pub fn push_bytes(&mut self, mut packet: Packet) {
        self.bytes += packet.size();
        if !self.packets.back_mut().is_some_and(|last| last.absorb(&mut packet)) {
            self.packets.push_back(packet);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Packets inside.
    pub fn count(&self) -> usize {
        self.packets.len()
    }

    /// Bytes inside.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of the first packet.
    pub fn first_len(&self) -> usize {
        self.packets.front().map_or(0, Packet::size)
    }

    /// Empties it.
    pub fn drain(&mut self) -> Spent {
        self.bytes = 0;
        self.packets.drain(..).collect()
    }

    /// The files in transit here.
    pub fn rights(&self) -> impl Iterator<Item = &Rights> {
        self.packets.iter().filter_map(|packet| packet.rights.as_ref())
    }

    /// Reads a stream (unix_stream_read_generic()): over packet borders, but not past files, nor, with
    /// `credentials`, into another sender's bytes. `None` if there is nothing.
    pub fn read_stream(
        &mut self,
        message: &mut Incoming<'_>,
        credentials: bool,
        spent: &mut Spent,
    ) -> Option<Result<usize>> {
        if self.packets.is_empty() {
            return None;
        }
        let peek = message.flags & MSG_PEEK != 0;
        let mut done = 0;
        let mut index = 0;
        let mut skip = if peek { message.peek_from } else { 0 };
        while message.sink.remaining() > 0 && done < message.limit {
            let Some(packet) = self.packets.get_mut(index) else { break };
            if skip > 0 && skip >= packet.size() {
                skip -= packet.size();
                index += 1;
                continue;
            }
            if credentials && done > 0 && message.cred != Some(packet.cred) {
                break;
            }
            let from = std::mem::take(&mut skip);
            let want = (packet.size() - from).min(message.sink.remaining()).min(message.limit - done);
            let taken = match discard_or_put(message, packet.bytes().get(from..from + want).unwrap_or_default()) {
                Ok(taken) => taken,
                Err(error) if done == 0 => return Some(Err(error)),
                Err(_) => break,
            };
            done += taken;
            message.cred.get_or_insert(packet.cred);
            if message.address.is_empty() {
                message.address = packet.address.to_vec();
            }
            let files = take_files(packet, peek, message);
            if peek {
                index += 1;
            } else {
                packet.start += taken;
                self.bytes -= taken;
                if packet.size() == 0 {
                    spent.extend(self.packets.pop_front());
                }
            }
            if files || taken < want {
                break;
            }
        }
        Some(Ok(done))
    }

    /// Drops the first byte of a stream.
    pub fn discard_byte(&mut self, spent: &mut Spent) {
        if let Some(first) = self.packets.front_mut().filter(|packet| packet.size() > 0) {
            first.start += 1;
            self.bytes -= 1;
            if first.size() == 0 {
                spent.extend(self.packets.pop_front());
            }
        }
    }

    /// Reads one packet, discarding what does not fit. `None` if there is none.
    pub fn read_packet(&mut self, message: &mut Incoming<'_>, spent: &mut Spent) -> Option<Result<usize>> {
        let packet = self.packets.front_mut()?;
        let want = packet.size().min(message.sink.remaining());
        let taken = match discard_or_put(message, packet.bytes().get(..want).unwrap_or_default()) {
            Ok(taken) => taken,
            Err(error) => {
                // The packet is lost (`out_free` of unix_dgram_recvmsg(), `kfree_skb` of udp_recvmsg()).
                if message.flags & MSG_PEEK == 0 {
                    self.bytes -= packet.size();
                    spent.extend(self.packets.pop_front());
                }
                return Some(Err(error));
            }
        };
        message.full_len = packet.size();
        (message.header, message.time) = (packet.header.as_deref().copied(), packet.time);
        if taken < packet.size() {
            message.out_flags |= MSG_TRUNC;
        }
        message.cred = Some(packet.cred);
        message.address = packet.address.to_vec();
        let peek = message.flags & MSG_PEEK != 0;
        take_files(packet, peek, message);
        if !peek {
            self.bytes -= packet.size();
            spent.extend(self.packets.pop_front());
        }
        Some(Ok(taken))
    }
}

/// Copies out first: only what could be stored is consumed.
fn discard_or_put(message: &mut Incoming<'_>, bytes: &[u8]) -> Result<usize> {
    if bytes.is_empty() { Ok(0) } else { message.sink.put_whole(bytes) }
}

/// Moves a packet's files over (copies them when peeking); `true` if there were any.
fn take_files(packet: &mut Packet, peek: bool, message: &mut Incoming<'_>) -> bool {
    match &packet.rights {
        None => false,
        Some(rights) if peek => {
            message.files = rights.copy();
            true
        }
        Some(_) => {
            message.files = packet.rights.take().map(Rights::into_files).unwrap_or_default();
            true
        }
    }
}

/// Copies exactly `len` bytes from a source.
pub fn take_bytes(source: &mut dyn Source, len: usize) -> Result<Vec<u8>> {
    let mut data = vec![0; len];
    if len > 0 && source.take(&mut data)? < len { Err(Errno::EFAULT) } else { Ok(data) }
}
