//! What TCP and UDP sockets share: a place in the space of ports, options, the wait for bytes.

use std::sync::Arc;

use parking_lot::Mutex;

use super::address::Endpoint;
use super::ports::{Binding, Owner, Protocol, Space};
use super::settings::{IPPROTO_IPV6, Of, Settings};
use crate::abi::net::{AF_INET6, IPV6_V6ONLY, SO_REUSEADDR, SO_REUSEPORT, SOL_SOCKET};
use crate::call::Ctx;
use crate::ipc::socket::Options;
use crate::wait::WaitQueue;
use crate::{Errno, Result};

/// The common part of a socket. Its place has a lock of its own, which is never held with the socket's state.
pub struct Core {
    pub domain: u32,
    pub space: Arc<Space>,
    pub options: Options,
    pub settings: Settings,
    pub readable: WaitQueue,
    owner: Owner,
    place: Mutex<Place>,
}

#[derive(Default, Clone, Copy)]
struct Place {
    local: Option<Endpoint>,
    /// The port's binding, if this socket owns one.
    ticket: Option<u64>,
}

impl Core {
    /// `owner` is how the space of ports finds the socket.
    pub fn new(space: &Arc<Space>, domain: u32, options: Options, owner: Owner) -> Core {
        Core {
            domain,
            space: space.clone(),
            options,
            settings: Settings::default(),
            readable: WaitQueue::new(),
            owner,
            place: Mutex::default(),
        }
    }

    /// inet_bind().
    pub fn bind(&self, cx: &Ctx<'_>, address: &[u8]) -> Result<()> {
        let local = Endpoint::parse(self.domain, address)?;
        if !local.is_local() {
            return Err(Errno::EADDRNOTAVAIL);
        }
        if !cx.task.world.ipc.may_bind(&cx.task.cred(), local.port) {
            return Err(Errno::EACCES);
        }
        if self.is_bound() {
            return Err(Errno::EINVAL);
        }
        self.bind_to(local)
    }

    fn bind_to(&self, local: Endpoint) -> Result<()> {
        let (local, ticket) = self.space.bind(Binding {
            local,
            domain: self.domain,
            v6_only: self.settings.value(IPPROTO_IPV6, IPV6_V6ONLY) != 0,
            reuse_address: self.options.is_on(SO_REUSEADDR),
            reuse_port: self.options.is_on(SO_REUSEPORT),
            owner: self.owner.clone(),
            ticket: 0,
        })?;
        *self.place.lock() = Place { local: Some(local), ticket: Some(ticket) };
        Ok(())
    }

    /// Takes a port at any address if it has none (inet_autobind()).
    pub fn autobind(&self) -> Result<()> {
        if self.is_bound() { Ok(()) } else { self.bind_to(Endpoint::any(self.domain, 0)) }
    }

    /// Takes a port if it has none, and makes the socket a listener by `start`, if nobody else listens there.
    pub fn listen(&self, start: impl FnOnce()) -> Result<()> {
        self.autobind()?;
        let place = *self.place.lock();
        match place {
            Place { local: Some(local), ticket: Some(ticket) } => self.space.listen(local.port, ticket, start),
            _ => {
                start();
                Ok(())
            }
        }
    }

    /// The address that packets to `remote` come from, which becomes the socket's own.
    pub fn connect_from(&self, remote: Endpoint) -> Result<Endpoint> {
        if !self.is_bound() {
            self.bind_to(Endpoint { ip: remote.source(), port: 0 })?;
        }
        let mut place = self.place.lock();
        let local = place.local.get_or_insert(Endpoint { ip: remote.source(), port: 0 });
        if local.ip.is_unspecified() {
            local.ip = remote.source();
        }
        Ok(*local)
    }

    /// The local end of an accepted connection, whose port belongs to the listener.
    pub fn accepted_at(&self, local: Endpoint) {
        self.place.lock().local = Some(local);
    }

    /// Gives the port back.
    pub fn unbind(&self) {
        let mut place = self.place.lock();
        let (local, ticket) = (place.local, place.ticket.take());
        drop(place);
        if let (Some(local), Some(ticket)) = (local, ticket) {
            let protocol = if matches!(self.owner, Owner::Udp(_)) { Protocol::Udp } else { Protocol::Tcp };
            self.space.unbind(protocol, local.port, ticket);
        }
    }

    fn is_bound(&self) -> bool {
        self.place.lock().local.is_some()
    }

    /// The own address; any, without a port, before it has one.
    pub fn local(&self) -> Endpoint {
        self.place.lock().local.unwrap_or(Endpoint::any(self.domain, 0))
    }

    pub fn name(&self) -> Vec<u8> {
        self.local().to_bytes(self.domain)
    }

    fn of(&self) -> Of {
        Of { domain: self.domain, stream: matches!(self.owner, Owner::Tcp(_)) }
    }

    pub fn get_option(&self, level: u32, name: u32) -> Result<Vec<u8>> {
        if level == SOL_SOCKET { Err(Errno::ENOPROTOOPT) } else { self.settings.get(self.of(), level, name) }
    }

    pub fn set_option(&self, level: u32, name: u32, value: &[u8]) -> Result<()> {
        let fixed = (level, name, self.domain) == (IPPROTO_IPV6, IPV6_V6ONLY, AF_INET6) && self.is_bound();
        match level {
            // What is bound has a meaning already (do_ipv6_setsockopt()).
            _ if fixed => Err(Errno::EINVAL),
            SOL_SOCKET => Err(Errno::ENOPROTOOPT),
            _ => self.settings.set(self.of(), level, name, value),
        }
    }
}
