//! `--net host`: sockets of the host's network, passed through. The host sockets are ours alone, so they are
//! non-blocking, and the calls wait as they do for every other file.
//!
//! Bytes are taken from the host before they are stored. What a stream's reader could not be given is held for the next.

use std::any::Any;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketAddrAny, SocketFlags, SocketType, acceptfrom_with, bind,
    connect, connect_unspec, getpeername, getsockname, listen, recv, recvfrom, send, sendto, shutdown,
    socket_with, sockopt,
};

use super::inbox::take_bytes;
use super::inet::settings::{IPPROTO_IPV6, Of, Settings};
use super::inet::{IPPROTO_TCP, address};
use super::options::word;
use super::{Incoming, Kind, Options, Outgoing, Shut, Socket};
use crate::abi::net::*;
use crate::call::Ctx;
use crate::ipc::glue;
use crate::wait::{Events, PollTable, host_ready};
use crate::{Errno, Result};

/// Most bytes that one read moves.
const CHUNK: usize = 1 << 18;
/// Bytes of a stream that a reader gets all or none of, as it does those of one packet (tcp_recvmsg_locked()).
const PACKET: usize = 1 << 16;
/// Bytes that a stream the host calls writable takes whole, but for the smallest buffers: a third is free.
const STEP: usize = 4096;

/// One socket.
pub struct HostSocket {
    fd: Arc<OwnedFd>,
    domain: u32,
    kind: Kind,
    options: Options,
    settings: Settings,
    /// What the host did not take of a step after all; goes out first.
    unsent: Mutex<Vec<u8>>,
    /// What a reader did not take of a stream; comes first. Locked while one reads, so that none overtakes another.
    held: Mutex<Vec<u8>>,
}

fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error())
}

impl HostSocket {
    fn of(&self) -> Of {
        Of { domain: self.domain, stream: self.kind == Kind::Stream }
    }

    /// Opens one. `kind` is a stream or datagrams.
    pub fn open(domain: u32, kind: Kind, protocol: u32) -> Result<Arc<HostSocket>> {
        let family = if domain == AF_INET { AddressFamily::INET } else { AddressFamily::INET6 };
        let ty = if kind == Kind::Stream { SocketType::STREAM } else { SocketType::DGRAM };
        let protocol = std::num::NonZeroU32::new(protocol).map(rustix::net::Protocol::from_raw);
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let fd = socket_with(family, ty, flags, protocol).map_err(errno)?;
        Ok(HostSocket::new(fd, domain, kind, Options::default()))
    }

    fn new(fd: OwnedFd, domain: u32, kind: Kind, options: Options) -> Arc<HostSocket> {
        Arc::new(HostSocket {
            fd: Arc::new(fd),
            domain,
            kind,
            options,
            settings: Settings::default(),
            unsent: Mutex::default(),
            held: Mutex::default(),
        })
    }

    /// Sends what was left over; `true` if nothing is any longer.
    fn flush(&self, unsent: &mut Vec<u8>) -> bool {
        while !unsent.is_empty() {
            match send(&*self.fd, unsent, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => drop(unsent.drain(..count.min(unsent.len()))),
                Err(rustix::io::Errno::AGAIN) => return false,
                Err(_) => unsent.clear(),
            }
        }
        true
    }

    /// Reads a stream: first what is held, then what the host has.
    fn recv_stream(&self, message: &mut Incoming<'_>, flags: RecvFlags) -> Result<usize> {
        let peek = flags.contains(RecvFlags::PEEK);
        let mut held = self.held.lock();
        let mut done = 0;
        if !held.is_empty() {
            let (taken, result) = give(message, &held);
            let all = taken == held.len();
            if !peek {
                let rest = held.get(taken..).unwrap_or_default().to_vec();
                *held = rest;
            }
            result?;
            // With nothing there the host would report, and forget, an error that is the next call's.
            if !all || message.sink.remaining() == 0 || host_ready(&self.fd, Events::IN).is_empty() {
                return Ok(taken);
            }
            done = taken;
        }
        let mut buffer = vec![0; message.sink.remaining().min(CHUNK)];
        let count = match recv(&*self.fd, buffer.as_mut_slice(), flags).map_err(errno) {
            Ok((_, count)) => count,
            Err(_) if done > 0 => return Ok(done),
            Err(error) => return Err(error),
        };
        let bytes = buffer.get(..count).unwrap_or_default();
        let (taken, result) = give(message, bytes);
        if !peek {
            held.extend_from_slice(bytes.get(taken..).unwrap_or_default());
        }
        match result {
            Err(error) if done == 0 => Err(error),
            _ => Ok(done + taken),
        }
    }

    /// An address as the host wants it for a socket of this family.
    fn parse(&self, bytes: &[u8]) -> Result<SocketAddr> {
        let endpoint = address::Endpoint::parse(self.domain, bytes)?;
        Ok(match (self.domain, endpoint.ip) {
            (AF_INET6, IpAddr::V4(ip)) => (ip.to_ipv6_mapped(), endpoint.port).into(),
            (AF_INET6, IpAddr::V6(ip)) => {
                let scope = bytes.get(24..28).and_then(|scope| Some(u32::from_ne_bytes(scope.try_into().ok()?)));
                SocketAddrV6::new(ip, endpoint.port, 0, scope.unwrap_or(0)).into()
            }
            (_, ip) => (ip, endpoint.port).into(),
        })
    }

    /// The host has this address: a socket like this one could be bound to it, at some port.
    fn has_address(&self, mut at: SocketAddr) -> Result<()> {
        at.set_port(0);
        let other = HostSocket::open(self.domain, self.kind, 0)?;
        bind(&*other.fd, &at).map_err(errno)
    }

    fn format(&self, any: Option<SocketAddrAny>) -> Vec<u8> {
        let Some(Ok(address)) = any.map(SocketAddr::try_from) else { return Vec::new() };
        let scope = if let SocketAddr::V6(address) = address { address.scope_id() } else { 0 };
        let endpoint = address::Endpoint { ip: address.ip(), port: address.port() };
        let mut bytes = endpoint.to_bytes(self.domain);
        if let Some(place) = bytes.get_mut(24..28).filter(|_| address.ip() != Ipv6Addr::UNSPECIFIED) {
            place.copy_from_slice(&scope.to_ne_bytes());
        }
        bytes
    }

    /// Makes an option take effect on the host, where there is a way.
    fn apply(&self, level: u32, name: u32, value: i32) -> rustix::io::Result<()> {
        let (fd, on, count) = (&*self.fd, value != 0, value.unsigned_abs());
        let seconds = std::time::Duration::from_secs(u64::from(count));
        match (level, name) {
            (SOL_SOCKET, SO_REUSEADDR) => sockopt::set_socket_reuseaddr(fd, on),
            (SOL_SOCKET, SO_REUSEPORT) => sockopt::set_socket_reuseport(fd, on),
            (SOL_SOCKET, SO_BROADCAST) => sockopt::set_socket_broadcast(fd, on),
            (SOL_SOCKET, SO_KEEPALIVE) => sockopt::set_socket_keepalive(fd, on),
            (IPPROTO_IPV6, IPV6_V6ONLY) => sockopt::set_ipv6_v6only(fd, on),
            (IPPROTO_TCP, TCP_NODELAY) => sockopt::set_tcp_nodelay(fd, on),
            (IPPROTO_TCP, TCP_CORK) => sockopt::set_tcp_cork(fd, on),
            (IPPROTO_TCP, TCP_QUICKACK) => sockopt::set_tcp_quickack(fd, on),
            (IPPROTO_TCP, TCP_KEEPIDLE) => sockopt::set_tcp_keepidle(fd, seconds),
            (IPPROTO_TCP, TCP_KEEPINTVL) => sockopt::set_tcp_keepintvl(fd, seconds),
            (IPPROTO_TCP, TCP_KEEPCNT) => sockopt::set_tcp_keepcnt(fd, count),
            (IPPROTO_TCP, TCP_USER_TIMEOUT) => sockopt::set_tcp_user_timeout(fd, count),
            _ => Ok(()),
        }
    }

    /// Switches of `SOL_SOCKET` are recorded by the common code; the host learns of them before they matter.
    fn apply_switches(&self) -> Result<()> {
        for name in [SO_REUSEADDR, SO_REUSEPORT, SO_BROADCAST, SO_KEEPALIVE] {
            if self.options.is_on(name) {
                self.apply(SOL_SOCKET, name, 1).map_err(errno)?;
            }
        }
        Ok(())
    }
}

/// Gives bytes of a stream to a reader: how many it took, and `EFAULT` if that is none of them.
fn give(message: &mut Incoming<'_>, bytes: &[u8]) -> (usize, Result<()>) {
    let mut taken = 0;
    let room = bytes.len().min(message.sink.remaining());
    for part in bytes.get(..room).unwrap_or_default().chunks(PACKET) {
        match message.sink.put_whole(part) {
            Ok(count) => taken += count,
            Err(error) if taken == 0 => return (0, Err(error)),
            Err(_) => break,
        }
    }
    (taken, Ok(()))
}

impl Socket for HostSocket {
    fn domain(&self) -> u32 {
        self.domain
    }

    fn kind(&self) -> Kind {
        self.kind
    }

    fn protocol(&self) -> u32 {
        if self.kind == Kind::Stream { IPPROTO_TCP } else { super::inet::IPPROTO_UDP }
    }

    fn options(&self) -> &Options {
        &self.options
    }

    fn bind(&self, cx: &mut Ctx<'_>, address: &[u8]) -> Result<()> {
        self.apply_switches()?;
        let to = self.parse(address)?;
        if !cx.task.world.ipc.may_bind(&cx.task.cred(), to.port()) {
            // Linux looks at the address first.
            self.has_address(to)?;
            return Err(Errno::EACCES);
        }
        bind(&*self.fd, &to).map_err(errno)
    }

    fn connect(&self, _cx: &mut Ctx<'_>, address: &[u8], nonblocking: bool) -> Result<()> {
        self.apply_switches()?;
        if address::family(address) == Some(AF_UNSPEC) {
            return connect_unspec(&*self.fd).map_err(errno);
        }
        match connect(&*self.fd, &self.parse(address)?).map_err(errno) {
            // A blocking caller waits until the socket is writable, and asks again.
            Err(Errno::EINPROGRESS | Errno::EALREADY) if !nonblocking => Err(Errno::EAGAIN),
            other => other,
        }
    }

    fn listen(&self, _cx: &mut Ctx<'_>, backlog: i32) -> Result<()> {
        self.apply_switches()?;
        listen(&*self.fd, backlog).map_err(errno)
    }

    fn accept(&self) -> Result<Arc<dyn Socket>> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (fd, _) = acceptfrom_with(&*self.fd, flags).map_err(errno)?;
        Ok(HostSocket::new(fd, self.domain, self.kind, self.options.inherit()))
    }

    fn send(&self, message: &mut Outgoing<'_>) -> Result<usize> {
        self.apply_switches()?;
        let passed = message.flags & (MSG_OOB | MSG_DONTROUTE | MSG_MORE | MSG_EOR);
        let flags = SendFlags::from_bits_retain(passed | MSG_NOSIGNAL | MSG_DONTWAIT);
        let to = message.address.as_deref().map(|address| self.parse(address)).transpose()?;
        let fail = |error: Errno, message: &Outgoing<'_>| {
            if error == Errno::EPIPE && message.flags & MSG_NOSIGNAL == 0 {
                glue::broken_pipe(message.task);
            }
            error
        };
        if self.kind == Kind::Datagram {
            let len = message.source.remaining().min(1 << 16);
            let data = take_bytes(message.source, len)?;
            let sent = match &to {
                Some(to) => sendto(&*self.fd, &data, flags, to),
                None => send(&*self.fd, &data, flags),
            };
            return sent.map_err(|error| fail(errno(error), message));
        }
        let mut done = 0;
        while message.source.remaining() > 0 {
            let mut unsent = self.unsent.lock();
            let ready = host_ready(&self.fd, Events::OUT);
            if !self.flush(&mut unsent) || ready.is_empty() {
                return if done > 0 { Ok(done) } else { Err(Errno::EAGAIN) };
            }
            let len = message.source.remaining().min(STEP);
            let data = match take_bytes(message.source, len) {
                Ok(data) => data,
                Err(error) => return if done > 0 { Ok(done) } else { Err(error) },
            };
            match send(&*self.fd, &data, flags).map_err(errno) {
                Ok(count) => unsent.extend_from_slice(data.get(count..).unwrap_or_default()),
                Err(Errno::EAGAIN) => *unsent = data.clone(),
                Err(_) if done > 0 => return Ok(done),
                Err(error) => return Err(fail(error, message)),
            }
            done += data.len();
        }
        Ok(done)
    }

    fn recv(&self, message: &mut Incoming<'_>) -> Result<usize> {
        let passed = message.flags & (MSG_OOB | MSG_PEEK);
        let flags = RecvFlags::from_bits_retain(
            passed | MSG_DONTWAIT | if self.kind == Kind::Datagram { MSG_TRUNC } else { 0 },
        );
        if self.kind == Kind::Stream && passed & MSG_OOB == 0 {
            return self.recv_stream(message, flags);
        }
        let mut buffer = vec![0; message.sink.remaining().min(CHUNK)];
        let (count, full, from) = recvfrom(&*self.fd, buffer.as_mut_slice(), flags).map_err(errno)?;
        message.full_len = full;
        if full > count {
            message.out_flags |= MSG_TRUNC;
        }
        message.address = if self.kind == Kind::Datagram { self.format(from) } else { Vec::new() };
        let bytes = buffer.get(..count).unwrap_or_default();
        if bytes.is_empty() { Ok(0) } else { message.sink.put_whole(bytes) }
    }

    fn shutdown(&self, how: Shut) -> Result<()> {
        let how = match (how.receive, how.send) {
            (true, true) => Shutdown::Both,
            (true, false) => Shutdown::Read,
            _ => Shutdown::Write,
        };
        shutdown(&*self.fd, how).map_err(errno)
    }

    fn name(&self) -> Result<Vec<u8>> {
        getsockname(&*self.fd).map(|name| self.format(Some(name))).map_err(errno)
    }

    fn peer(&self) -> Result<Vec<u8>> {
        getpeername(&*self.fd).map(|name| self.format(name)).map_err(errno)
    }

    fn get_option(&self, level: u32, name: u32) -> Result<Vec<u8>> {
        if level == SOL_SOCKET { Err(Errno::ENOPROTOOPT) } else { self.settings.get(self.of(), level, name) }
    }

    fn set_option(&self, _cx: &mut Ctx<'_>, level: u32, name: u32, value: &[u8]) -> Result<()> {
        if level == SOL_SOCKET {
            return Err(Errno::ENOPROTOOPT);
        }
        self.settings.set(self.of(), level, name, value)?;
        self.apply(level, name, word(value, 0).unwrap_or(0)).map_err(errno)
    }

    fn poll(&self, table: &mut PollTable) -> Events {
        let all = Events::IN
            | Events::PRI
            | Events::OUT
            | Events::RDHUP
            | Events::RDNORM
            | Events::WRNORM
            | Events::WRBAND;
        table.watch_host(&self.fd, all);
        let _ = self.flush(&mut self.unsent.lock());
        let held = if self.held.lock().is_empty() { Events::empty() } else { Events::IN | Events::RDNORM };
        host_ready(&self.fd, all) | held
    }

    fn take_error(&self) -> Option<Errno> {
        match sockopt::socket_error(&*self.fd) {
            Ok(Err(error)) => Some(errno(error)),
            _ => None,
        }
    }

    fn listening(&self) -> bool {
        sockopt::socket_acceptconn(&*self.fd).unwrap_or(false)
    }

    fn queued(&self) -> Result<(usize, usize)> {
        let waiting = rustix::io::ioctl_fionread(&*self.fd).map_err(errno)?;
        Ok((usize::try_from(waiting).unwrap_or(usize::MAX).saturating_add(self.held.lock().len()), 0))
    }

    fn close(&self) {
        let _ = self.flush(&mut self.unsent.lock());
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
