//! UDP over the loopback interface: udp(7).

use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;

use super::address::{Endpoint, family};
use super::ancillary::{Header, Report, wishes};
use super::core::Core;
use super::lo;
use super::ports::{Owner, Space};
use super::settings::{IPPROTO_IP, IPPROTO_IPV6};
use crate::abi::net::{
    AF_UNSPEC, IP_RECVERR, IPV6_RECVERR, MSG_ERRQUEUE, MSG_OOB, MSG_TRUNC, SO_RXQ_OVFL, SOL_SOCKET,
};
use crate::call::Ctx;
use crate::fd::Band;
use crate::ipc::socket::inbox::take_bytes;
use crate::ipc::socket::{Ancillary, Inbox, Incoming, Kind, Notice, Options, Outgoing, Packet, Shut, Socket};
use crate::wait::{Events, PollTable};
use crate::{Errno, Result, SysResult};

/// Longest datagram.
const MAX: usize = 65507;
/// What a datagram costs beside its bytes (`SKB_TRUESIZE`).
const OVERHEAD: usize = 576;

/// One socket.
pub struct UdpSocket {
    core: Core,
    notice: Notice,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    inbox: Inbox,
    remote: Option<Endpoint>,
    shut: Shut,
    error: Option<Errno>,
    /// Datagrams that came back (`MSG_ERRQUEUE`).
    reports: VecDeque<Report>,
    /// Datagrams that found no room.
    dropped: u32,
}

impl UdpSocket {
    pub fn new(space: &Arc<Space>, domain: u32) -> Arc<UdpSocket> {
        Arc::new_cyclic(|me| UdpSocket {
            core: Core::new(space, domain, Options::default(), Owner::Udp(me.clone())),
            notice: Notice::default(),
            state: Mutex::default(),
        })
    }

    /// Takes a datagram if it is for this socket; one that finds no room is lost.
    fn deliver(&self, from: Endpoint, mut packet: Packet) {
        let mut state = self.state.lock();
        let full = state.inbox.bytes() + state.inbox.count() * OVERHEAD + packet.size() + OVERHEAD
            > self.core.options.receive_buffer();
        let wanted = state.remote.is_none_or(|remote| remote == from) && !state.shut.receive;
        if wanted && full {
            state.dropped = state.dropped.saturating_add(1);
        }
        if wanted && !full {
            packet.time = self.core.options.stamps().then(SystemTime::now);
            if let Some(header) = &mut packet.header {
                header.arrives(&self.core.settings);
                // Only what was counted while somebody wanted to know (sock_skb_set_dropcount()).
                header.dropped = if self.core.options.is_on(SO_RXQ_OVFL) { state.dropped } else { 0 };
            }
            state.inbox.push(packet);
            drop(state);
            self.core.readable.wake_all();
            self.notice.tell(Band::In);
        }
    }

    /// Nobody listens where a datagram went: what ICMP would tell. Connected sockets hear of it, and those that asked
    /// for reports (__udp4_lib_err(), __udp6_lib_err()).
    fn refused(&self, to: Endpoint, data: &[u8]) {
        let asked = match to.ip.is_ipv6() {
            true => self.core.settings.value(IPPROTO_IPV6, IPV6_RECVERR),
            false => self.core.settings.value(IPPROTO_IP, IP_RECVERR),
        } != 0;
        let mut state = self.state.lock();
        if state.remote.map_or(!asked, |remote| remote != to) {
            return;
        }
        let used: usize = state.reports.iter().map(|report| report.data.len() + OVERHEAD).sum();
        if asked && used < self.core.options.receive_buffer() {
            state.reports.push_back(Report::new(to, data));
        }
        state.error = Some(Errno::ECONNREFUSED);
        drop(state);
        self.core.readable.wake_all();
        self.notice.tell(Band::Err);
    }

    /// ip_recv_error().
    fn receive_report(&self, message: &mut Incoming<'_>) -> Result<usize> {
        let mut state = self.state.lock();
        let report = state.reports.pop_front().ok_or(Errno::EAGAIN)?;
        // The next one's error is the socket's now.
        state.error = state.reports.front().map(|_| Errno::ECONNREFUSED);
        drop(state);
        let len = report.data.len().min(message.sink.remaining());
        message.full_len = report.data.len();
        message.out_flags |= MSG_ERRQUEUE | if len < report.data.len() { MSG_TRUNC } else { 0 };
        message.address = report.to.to_bytes(self.core.domain);
        message.control.push(report.told(self.core.domain));
        if len == 0 { Ok(0) } else { message.sink.put_whole(report.data.get(..len).unwrap_or_default()) }
    }

    /// What the reader of a datagram has asked to know (sock_recv_cmsgs(), udp_recvmsg()).
    fn tell(&self, message: &mut Incoming<'_>) {
        message.control.extend(self.core.options.stamp(message.time));
        let Some(header) = message.header else { return };
        if header.dropped != 0 && self.core.options.is_on(SO_RXQ_OVFL) {
            let data = header.dropped.to_ne_bytes().to_vec();
            message.control.push(Ancillary { level: SOL_SOCKET, kind: SO_RXQ_OVFL, data });
        }
        message.control.extend(header.told(&self.core.settings, self.core.domain));
    }

    fn hears(&self, from: Endpoint) -> bool {
        self.state.lock().remote.is_none_or(|remote| remote == from)
    }
}

impl Socket for UdpSocket {
    fn domain(&self) -> u32 {
        self.core.domain
    }

    fn kind(&self) -> Kind {
        Kind::Datagram
    }

    fn protocol(&self) -> u32 {
        super::IPPROTO_UDP
    }

    fn options(&self) -> &Options {
        &self.core.options
    }

    fn notice(&self) -> Option<&Notice> {
        Some(&self.notice)
    }

    fn bind(&self, cx: &mut Ctx<'_>, address: &[u8]) -> Result<()> {
        self.core.bind(cx, address)
    }

    fn connect(&self, _cx: &mut Ctx<'_>, address: &[u8], _nonblocking: bool) -> Result<()> {
        if family(address) == Some(AF_UNSPEC) {
            self.state.lock().remote = None;
            return Ok(());
        }
        let remote = Endpoint::parse(self.core.domain, address)?.route()?;
        self.core.connect_from(remote)?;
        self.state.lock().remote = Some(remote);
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
            Some(address) => Endpoint::parse(self.core.domain, address)?,
            None => remote.ok_or(Errno::EDESTADDRREQ)?,
        };
        if to.port == 0 {
            return Err(Errno::EINVAL);
        }
        if shut.send {
            return Err(Errno::EPIPE);
        }
        let to = to.route()?;
        let wishes = wishes(&message.control, to.ip.is_ipv6())?;
        self.core.autobind()?;
        let mut from = self.core.local();
        if let Some(ip) = wishes.source {
            from.ip = ip;
        }
        if from.ip.is_unspecified() {
            from.ip = to.source();
        }
        let data = take_bytes(message.source, len)?;
        let receiver = self.core.space.receiver(to, |socket| socket.hears(from));
        match receiver {
            Some(socket) => {
                let address = from.to_bytes(socket.core.domain).into();
                let mut packet = Packet::new(data, address, message.cred, None);
                packet.header = Some(Box::new(Header::new(&self.core.settings, &wishes, to)));
                socket.deliver(from, packet);
            }
            None => self.refused(to, &data),
        }
        Ok(len)
    }

    fn recv(&self, message: &mut Incoming<'_>) -> Result<usize> {
        if message.flags & MSG_ERRQUEUE != 0 {
            return self.receive_report(message);
        }
        let mut spent = Vec::new();
        let mut state = self.state.lock();
        if let Some(error) = state.error.take() {
            return Err(error);
        }
        match state.inbox.read_packet(message, &mut spent) {
            Some(result) => {
                drop(state);
                self.tell(message);
                result
            }
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
        self.core.readable.wake_all();
        Ok(())
    }

    fn name(&self) -> Result<Vec<u8>> {
        Ok(self.core.name())
    }

    fn peer(&self) -> Result<Vec<u8>> {
        Ok(self.state.lock().remote.ok_or(Errno::ENOTCONN)?.to_bytes(self.core.domain))
    }

    fn get_option(&self, level: u32, name: u32) -> Result<Vec<u8>> {
        self.core.get_option(level, name)
    }

    fn set_option(&self, _cx: &mut Ctx<'_>, level: u32, name: u32, value: &[u8]) -> Result<()> {
        self.core.set_option(level, name, value)
    }

    fn poll(&self, table: &mut PollTable) -> Events {
        table.watch(&self.core.readable);
        let state = self.state.lock();
        let mut ready = Events::WRITE | Events::WRBAND;
        ready.set(Events::ERR, state.error.is_some() || !state.reports.is_empty());
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
        self.core.unbind();
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
