//! UDP over the loopback interface: udp(7).

use std::any::Any;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::address::{Endpoint, family};
use super::lo;
use super::ports::{Binding, Owner, Space};
use super::settings::{IPPROTO_IPV6, IPV6_V6ONLY, Settings};
use super::tcp::bind_address;
use crate::abi::net::{AF_UNSPEC, MSG_OOB, SO_REUSEADDR, SO_REUSEPORT, SOL_SOCKET};
use crate::call::Ctx;
use crate::ipc::socket::inbox::take_bytes;
use crate::ipc::socket::{Inbox, Incoming, Kind, Options, Outgoing, Packet, Shut, Socket};
use crate::wait::{Events, PollTable, WaitQueue};
use crate::{Errno, Result, SysResult};

/// Longest datagram.
const MAX: usize = 65507;
/// What a datagram costs beside its bytes (`SKB_TRUESIZE`).
const OVERHEAD: usize = 576;

/// One socket.
pub struct UdpSocket {
    me: Weak<UdpSocket>,
    domain: u32,
    space: Arc<Space>,
    options: Options,
    settings: Settings,
    state: Mutex<State>,
    readable: WaitQueue,
}

#[derive(Default)]
struct State {
    inbox: Inbox,
    local: Option<Endpoint>,
    ticket: Option<u64>,
    remote: Option<Endpoint>,
    shut: Shut,
    error: Option<Errno>,
}

impl UdpSocket {
    pub fn new(space: &Arc<Space>, domain: u32) -> Arc<UdpSocket> {
        Arc::new_cyclic(|me| UdpSocket {
            me: me.clone(),
            domain,
            space: space.clone(),
            options: Options::default(),
            settings: Settings::default(),
            state: Mutex::default(),
            readable: WaitQueue::new(),
        })
    }

    fn bind_to(&self, local: Endpoint) -> Result<()> {
        let (local, ticket) = self.space.bind(Binding {
            local,
            domain: self.domain,
            v6_only: self.settings.value(IPPROTO_IPV6, IPV6_V6ONLY) != 0,
            reuse_address: self.options.is_on(SO_REUSEADDR),
            reuse_port: self.options.is_on(SO_REUSEPORT),
            owner: Owner::Udp(self.me.clone()),
            ticket: 0,
        })?;
        let mut state = self.state.lock();
        state.local = Some(local);
        state.ticket = Some(ticket);
        Ok(())
    }

    /// Takes a datagram if it is for this socket; one that finds no room is lost.
    fn deliver(&self, from: Endpoint, packet: Packet) {
        let mut state = self.state.lock();
        let full = state.inbox.bytes() + state.inbox.count() * OVERHEAD + packet.size() + OVERHEAD
            > self.options.receive_buffer();
        let wanted = state.remote.is_none_or(|remote| remote == from) && !state.shut.receive;
        if wanted && !full {
            state.inbox.push(packet);
            drop(state);
            self.readable.wake_all();
        }
    }

    fn hears(&self, from: Endpoint) -> bool {
        self.state.lock().remote.is_none_or(|remote| remote == from)
    }
}

impl Socket for UdpSocket {
    fn domain(&self) -> u32 {
        self.domain
    }

    fn kind(&self) -> Kind {
        Kind::Datagram
    }

    fn protocol(&self) -> u32 {
        super::IPPROTO_UDP
    }

    fn options(&self) -> &Options {
        &self.options
    }

    fn bind(&self, cx: &mut Ctx<'_>, address: &[u8]) -> Result<()> {
        let local = bind_address(cx, self.domain, address)?;
        if self.state.lock().local.is_some() {
            return Err(Errno::EINVAL);
        }
        self.bind_to(local)
    }

    fn connect(&self, _cx: &mut Ctx<'_>, address: &[u8], _nonblocking: bool) -> Result<()> {
        if family(address) == Some(AF_UNSPEC) {
            self.state.lock().remote = None;
            return Ok(());
        }
        let remote = Endpoint::parse(self.domain, address)?.route()?;
        if self.state.lock().local.is_none() {
            self.bind_to(Endpoint { ip: remote.source(), port: 0 })?;
        }
        let mut state = self.state.lock();
        if let Some(local) = &mut state.local
            && local.ip.is_unspecified()
        {
            local.ip = remote.source();
        }
        state.remote = Some(remote);
        Ok(())
    }

    /// udp_sendmsg().
    fn send(&self, message: &mut Outgoing<'_>) -> Result<usize> {
        let len = message.source.remaining();
        if len > MAX {
            return Err(Errno::EMSGSIZE);
        }
        if message.flags & MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let (remote, error, shut) = {
            let mut state = self.state.lock();
            (state.remote, state.error.take(), state.shut)
        };
        if let Some(error) = error {
            return Err(error);
        }
        let to = match &message.address {
            Some(address) => Endpoint::parse(self.domain, address)?,
            None => remote.ok_or(Errno::EDESTADDRREQ)?,
        };
        if to.port == 0 {
            return Err(Errno::EINVAL);
        }
        if shut.send {
            return Err(Errno::EPIPE);
        }
        let to = to.route()?;
        if self.state.lock().local.is_none() {
            self.bind_to(Endpoint::any(self.domain, 0))?;
        }
        let mut from = self.state.lock().local.unwrap_or(Endpoint::any(self.domain, 0));
        if from.ip.is_unspecified() {
            from.ip = to.source();
        }
        let data = take_bytes(message.source, len)?;
        let receiver = self.space.find(to).into_iter().find_map(|owner| match owner {
            Owner::Udp(socket) => socket.upgrade().filter(|socket| socket.hears(from)),
            Owner::Tcp(_) => None,
        });
        match receiver {
            Some(socket) => {
                let address = from.to_bytes(socket.domain).into();
                socket.deliver(from, Packet::new(data, address, message.cred, None));
            }
            // What ICMP would tell; only connected sockets hear of it.
            None if remote.is_some() => {
                self.state.lock().error = Some(Errno::ECONNREFUSED);
                self.readable.wake_all();
            }
            None => {}
        }
        Ok(len)
    }

    fn recv(&self, message: &mut Incoming<'_>) -> Result<usize> {
        let mut spent = Vec::new();
        let mut state = self.state.lock();
        if let Some(error) = state.error.take() {
            return Err(error);
        }
        match state.inbox.read_packet(message, &mut spent) {
            Some(result) => result,
            None if state.shut.receive => Ok(0),
            None => Err(Errno::EAGAIN),
        }
    }

    fn shutdown(&self, how: Shut) -> Result<()> {
        let mut state = self.state.lock();
        if state.remote.is_none() {
            return Err(Errno::ENOTCONN);
        }
        state.shut.add(how);
        drop(state);
        self.readable.wake_all();
        Ok(())
    }

    fn name(&self) -> Result<Vec<u8>> {
        let local = self.state.lock().local.unwrap_or(Endpoint::any(self.domain, 0));
        Ok(local.to_bytes(self.domain))
    }

    fn peer(&self) -> Result<Vec<u8>> {
        Ok(self.state.lock().remote.ok_or(Errno::ENOTCONN)?.to_bytes(self.domain))
    }

    fn get_option(&self, level: u32, name: u32) -> Result<Vec<u8>> {
        if level == SOL_SOCKET { Err(Errno::ENOPROTOOPT) } else { self.settings.get(level, name) }
    }

    fn set_option(&self, _cx: &mut Ctx<'_>, level: u32, name: u32, value: &[u8]) -> Result<()> {
        if level == SOL_SOCKET { Err(Errno::ENOPROTOOPT) } else { self.settings.set(level, name, value) }
    }

    fn poll(&self, table: &mut PollTable) -> Events {
        table.watch(&self.readable);
        let state = self.state.lock();
        let mut ready = Events::WRITE | Events::WRBAND;
        ready.set(Events::ERR, state.error.is_some());
        ready.set(Events::HUP, state.shut.both());
        if state.shut.receive {
            ready |= Events::READ | Events::RDHUP;
        }
        if !state.inbox.is_empty() {
            ready |= Events::READ;
        }
        ready
    }

    fn take_error(&self) -> Option<Errno> {
        self.state.lock().error.take()
    }

    fn queued(&self) -> Result<(usize, usize)> {
        Ok((self.state.lock().inbox.first_len(), 0))
    }

    fn ioctl(&self, cx: &mut Ctx<'_>, command: u32, argument: u64) -> SysResult {
        lo::ioctl(cx, command, argument)
    }

    fn close(&self) {
        let (local, ticket) = {
            let mut state = self.state.lock();
            (state.local, state.ticket.take())
        };
        if let (Some(local), Some(ticket)) = (local, ticket) {
            self.space.unbind(local.port, ticket);
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
