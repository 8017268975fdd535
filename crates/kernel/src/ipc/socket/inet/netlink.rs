//! `AF_NETLINK`: rtnetlink(7), as far as one loopback interface has something to tell.

use std::any::Any;
use std::sync::Arc;

use parking_lot::Mutex;

use super::lo;
use crate::abi::net::{AF_INET, AF_INET6, AF_NETLINK, SOL_SOCKET};
use crate::call::Ctx;
use crate::fd::OpenFile;
use crate::ipc::glue::Ucred;
use crate::ipc::socket::inbox::take_bytes;
use crate::ipc::socket::{Inbox, Incoming, Kind, Options, Outgoing, Packet, Shut, Socket, SocketFile};
use crate::task::Task;
use crate::wait::{Events, PollTable, WaitQueue};
use crate::{Errno, Result};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_MULTI: u16 = 2;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
/// The first and the last message of rtnetlink; every fourth, from the third on, only asks.
const RTM_BASE: u16 = 16;
const RTM_MAX: u16 = 123;
const HEADER: usize = 16;
/// Longest message that is taken.
const MAX_SEND: usize = 1 << 16;

/// One socket.
pub struct NetlinkSocket {
    kind: Kind,
    protocol: u32,
    options: Options,
    state: Mutex<State>,
    readable: WaitQueue,
}

#[derive(Default)]
struct State {
    inbox: Inbox,
    port: u32,
    groups: u32,
}

/// `struct nlmsghdr`.
#[derive(Clone, Copy)]
struct Header {
    kind: u16,
    flags: u16,
    seq: u32,
}

impl NetlinkSocket {
    pub fn new(task: &Arc<Task>, kind: Kind, protocol: u32) -> Arc<NetlinkSocket> {
        // The kernel gives the process id to the first socket; any number will do for the others.
        let port = task.pid();
        Arc::new(NetlinkSocket {
            kind,
            protocol,
            options: Options::default(),
            state: Mutex::new(State { port, ..State::default() }),
            readable: WaitQueue::new(),
        })
    }

    /// The socket behind an open file, `EINVAL` if it is none of this family (netlink_getsockbyfilp()).
    pub fn of(file: &OpenFile) -> Result<Arc<dyn Socket>> {
        let socket = SocketFile::of(file)?.socket.clone();
        if socket.as_any().is::<NetlinkSocket>() { Ok(socket) } else { Err(Errno::EINVAL) }
    }

    /// A message from the kernel.
    pub fn tell(socket: &dyn Socket, bytes: Vec<u8>) {
        if let Some(socket) = socket.as_any().downcast_ref::<NetlinkSocket>() {
            socket.reply(bytes);
        }
    }

    fn reply(&self, bytes: Vec<u8>) {
        let kernel = Ucred { pid: 0, uid: 0, gid: 0 };
        let packet = Packet::new(bytes, address(0, 0).into(), kernel, None);
        self.state.lock().inbox.push(packet);
        self.readable.wake_all();
    }

    /// rtnetlink_rcv_msg().
    fn serve(&self, header: Header, body: &[u8], whole: &[u8]) {
        let port = self.state.lock().port;
        let dump = header.flags & NLM_F_DUMP == NLM_F_DUMP;
        let family = body.first().copied().map_or(0, u32::from);
        let mut answer = Vec::new();
        let mut error = 0;
        let multi = if dump { NLM_F_MULTI } else { 0 };
        match header.kind {
            RTM_GETLINK if dump || asks_for_lo(body) => {
                message(&mut answer, RTM_NEWLINK, multi, header.seq, port, &link())
            }
            RTM_GETLINK => error = Errno::ENODEV.raw(),
            RTM_GETADDR if dump => {
                for (of, body) in addresses() {
                    if family == 0 || family == of {
                        message(&mut answer, RTM_NEWADDR, multi, header.seq, port, &body);
                    }
                }
            }
            kind if dump && (RTM_BASE..=RTM_MAX).contains(&kind) && kind % 4 == 2 => {}
            kind if (RTM_BASE..=RTM_MAX).contains(&kind) && kind % 4 != 2 => error = Errno::EPERM.raw(),
            _ => error = Errno::EOPNOTSUPP.raw(),
        }
        if !answer.is_empty() {
            self.reply(answer);
        }
        if dump && error == 0 {
            let mut done = Vec::new();
            message(&mut done, NLMSG_DONE, NLM_F_MULTI, header.seq, port, &0i32.to_ne_bytes());
            self.reply(done);
        } else if error != 0 || header.flags & NLM_F_ACK != 0 {
            let mut body = (-error).to_ne_bytes().to_vec();
            body.extend(whole.get(..HEADER).unwrap_or_default());
            if error != 0 {
                body.extend(whole.get(HEADER..).unwrap_or_default());
            }
            let mut bytes = Vec::new();
            message(&mut bytes, NLMSG_ERROR, 0, header.seq, port, &body);
            self.reply(bytes);
        }
    }
}

/// `struct sockaddr_nl`.
fn address(port: u32, groups: u32) -> Vec<u8> {
    let mut bytes = (AF_NETLINK as u16).to_ne_bytes().to_vec();
    bytes.extend([0; 2]);
    bytes.extend(port.to_ne_bytes());
    bytes.extend(groups.to_ne_bytes());
    bytes
}

fn message(out: &mut Vec<u8>, kind: u16, flags: u16, seq: u32, port: u32, body: &[u8]) {
    out.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend(seq.to_ne_bytes());
    out.extend(port.to_ne_bytes());
    out.extend(body);
    out.resize(out.len().next_multiple_of(4), 0);
}

fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend(((4 + value.len()) as u16).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// `struct ifinfomsg` of `lo`, and attributes.
fn link() -> Vec<u8> {
    let mut body = vec![0, 0];
    body.extend(lo::HARDWARE.to_ne_bytes());
    body.extend(lo::INDEX.to_ne_bytes());
    body.extend((lo::FLAGS | lo::LOWER_UP).to_ne_bytes());
    body.extend([0; 4]);
    let (address, broadcast, name, mtu, qdisc, queue, state) = (1, 2, 3, 4, 6, 13, 16);
    attribute(&mut body, name, b"lo\0");
    attribute(&mut body, queue, &1000u32.to_ne_bytes());
    attribute(&mut body, state, &[0]);
    attribute(&mut body, mtu, &lo::MTU.to_ne_bytes());
    attribute(&mut body, qdisc, b"noqueue\0");
    attribute(&mut body, address, &[0; 6]);
    attribute(&mut body, broadcast, &[0; 6]);
    body
}

/// `struct ifaddrmsg` with attributes, for each address, by family.
fn addresses() -> [(u32, Vec<u8>); 2] {
    let (host_scope, permanent) = (254, 0x80u8);
    let (address, local, label, cache, flags) = (1, 2, 3, 6, 8);
    let header = |family: u32, prefix: u8| {
        let mut body = vec![family as u8, prefix, permanent, host_scope];
        body.extend(lo::INDEX.to_ne_bytes());
        body
    };
    let finish = |mut body: Vec<u8>| {
        attribute(&mut body, cache, &[[0xff; 8], [0; 8]].concat());
        attribute(&mut body, flags, &u32::from(permanent).to_ne_bytes());
        body
    };
    let mut four = header(AF_INET, 8);
    attribute(&mut four, address, &[127, 0, 0, 1]);
    attribute(&mut four, local, &[127, 0, 0, 1]);
    attribute(&mut four, label, b"lo\0");
    let mut six = header(AF_INET6, 128);
    attribute(&mut six, address, &std::net::Ipv6Addr::LOCALHOST.octets());
    [(AF_INET, finish(four)), (AF_INET6, finish(six))]
}

/// A question about one interface means `lo`: by index, or by name (`IFLA_IFNAME`).
fn asks_for_lo(body: &[u8]) -> bool {
    let index = body.get(4..8).and_then(|bytes| Some(u32::from_ne_bytes(bytes.try_into().ok()?)));
    let named = body.get(16..).unwrap_or_default();
    index == Some(lo::INDEX) || (index == Some(0) && named.get(4..7) == Some(b"lo\0".as_slice()))
}

impl Socket for NetlinkSocket {
    fn domain(&self) -> u32 {
        AF_NETLINK
    }

    fn kind(&self) -> Kind {
        self.kind
    }

    fn protocol(&self) -> u32 {
        self.protocol
    }

    fn options(&self) -> &Options {
        &self.options
    }

    fn bind(&self, _cx: &mut Ctx<'_>, address: &[u8]) -> Result<()> {
        let word = |at: usize| Some(u32::from_ne_bytes(address.get(at..at + 4)?.try_into().ok()?));
        let (Some(port), Some(groups)) = (word(4), word(8)) else { return Err(Errno::EINVAL) };
        if super::address::family(address) != Some(AF_NETLINK) {
            return Err(Errno::EINVAL);
        }
        let mut state = self.state.lock();
        if port != 0 {
            state.port = port;
        }
        state.groups = groups;
        Ok(())
    }

    fn connect(&self, _cx: &mut Ctx<'_>, _address: &[u8], _nonblocking: bool) -> Result<()> {
        Ok(())
    }

    fn send(&self, message: &mut Outgoing<'_>) -> Result<usize> {
        let len = message.source.remaining();
        if len > MAX_SEND {
            return Err(Errno::EMSGSIZE);
        }
        let bytes = take_bytes(message.source, len)?;
        let mut rest = bytes.as_slice();
        while rest.len() >= HEADER {
            let word = |at: usize| {
                let bytes = rest.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
                u32::from_ne_bytes(bytes.unwrap_or_default())
            };
            let total = word(0) as usize;
            let Some(whole) = rest.get(..total).filter(|whole| whole.len() >= HEADER) else { break };
            let header = Header { kind: word(4) as u16, flags: (word(4) >> 16) as u16, seq: word(8) };
            // Requests only (NLM_F_REQUEST), and no control messages.
            if header.flags & 1 != 0 && header.kind >= RTM_BASE {
                self.serve(header, whole.get(HEADER..).unwrap_or_default(), whole);
            }
            rest = rest.get(total.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(len)
    }

    fn recv(&self, message: &mut Incoming<'_>) -> Result<usize> {
        let mut spent = Vec::new();
        self.state.lock().inbox.read_packet(message, &mut spent).unwrap_or(Err(Errno::EAGAIN))
    }

    fn shutdown(&self, _how: Shut) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    fn name(&self) -> Result<Vec<u8>> {
        let state = self.state.lock();
        Ok(address(state.port, state.groups))
    }

    fn peer(&self) -> Result<Vec<u8>> {
        Ok(address(0, 0))
    }

    fn get_option(&self, level: u32, _name: u32) -> Result<Vec<u8>> {
        if level == SOL_SOCKET { Err(Errno::ENOPROTOOPT) } else { Ok(vec![0; 4]) }
    }

    fn set_option(&self, _cx: &mut Ctx<'_>, level: u32, _name: u32, _value: &[u8]) -> Result<()> {
        // SOL_NETLINK: membership, extended acknowledgements: nothing comes of them here.
        if level == SOL_SOCKET { Err(Errno::ENOPROTOOPT) } else { Ok(()) }
    }

    fn poll(&self, table: &mut PollTable) -> Events {
        table.watch_for(&self.readable, Events::READ);
        let mut ready = Events::WRITE | Events::WRBAND;
        if !self.state.lock().inbox.is_empty() {
            ready |= Events::READ;
        }
        ready
    }

    fn close(&self) {}

    fn as_any(&self) -> &dyn Any {
        self
    }
}
