//! Who has which port.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Weak;

use parking_lot::Mutex;

use super::address::Endpoint;
use super::tcp::TcpSocket;
use super::udp::UdpSocket;
use crate::abi::net::AF_INET6;
use crate::wait::WaitQueue;
use crate::{Errno, Result};

/// Ports that the kernel chooses (`net.ipv4.ip_local_port_range`).
const EPHEMERAL: std::ops::RangeInclusive<u16> = 32768..=60999;

/// A socket with a port.
#[derive(Clone)]
pub enum Owner {
    Tcp(Weak<TcpSocket>),
    Udp(Weak<UdpSocket>),
}

/// How a port is bound.
#[derive(Clone)]
pub struct Binding {
    pub local: Endpoint,
    pub domain: u32,
    pub v6_only: bool,
    pub reuse_address: bool,
    pub reuse_port: bool,
    pub owner: Owner,
    /// Drawn from [`Space`]; names the binding when it is given back.
    pub ticket: u64,
}

impl Binding {
    fn is_udp(&self) -> bool {
        matches!(self.owner, Owner::Udp(_))
    }

    /// Takes packets to this address.
    pub fn takes(&self, ip: IpAddr) -> bool {
        if !self.local.ip.is_unspecified() {
            return self.local.ip == ip;
        }
        match ip {
            IpAddr::V4(_) => self.local.ip.is_ipv4() || !self.v6_only,
            IpAddr::V6(_) => self.domain == AF_INET6 && self.local.ip.is_ipv6(),
        }
    }

    /// Both want some packet.
    fn overlaps(&self, other: &Binding) -> bool {
        let wild = |binding: &Binding| binding.local.ip.is_unspecified();
        match (wild(self), wild(other)) {
            (true, true) => {
                self.local.ip.is_ipv4() == other.local.ip.is_ipv4() || !(self.v6_only || other.v6_only)
            }
            (true, false) => self.takes(other.local.ip),
            (false, true) => other.takes(self.local.ip),
            (false, false) => self.local.ip == other.local.ip,
        }
    }

    /// inet_csk_bind_conflict().
    fn conflicts(&self, other: &Binding) -> bool {
        if self.is_udp() != other.is_udp() || !self.overlaps(other) || (self.reuse_port && other.reuse_port) {
            return false;
        }
        let listening = matches!(&other.owner, Owner::Tcp(socket) if socket.upgrade().is_some_and(|socket| socket.is_listening()));
        !(self.reuse_address && other.reuse_address) || listening
    }
}

/// The ports of one sandbox.
#[derive(Default)]
pub struct Space {
    ports: Mutex<Ports>,
    /// Told when a connection was accepted: who waits for room in a listener's queue.
    pub room: WaitQueue,
}

#[derive(Default)]
struct Ports {
    bound: HashMap<u16, Vec<Binding>>,
    tickets: u64,
    last: u16,
}

impl Space {
    /// Binds; port 0 means one of the kernel's choice. Returns the address and the binding's ticket.
    pub fn bind(&self, mut binding: Binding) -> Result<(Endpoint, u64)> {
        let mut ports = self.ports.lock();
        ports.tickets += 1;
        binding.ticket = ports.tickets;
        if binding.local.port == 0 {
            binding.local.port = ports.free(&binding).ok_or(Errno::EADDRINUSE)?;
        } else if ports.taken(&binding) {
            return Err(Errno::EADDRINUSE);
        }
        let result = (binding.local, binding.ticket);
        ports.bound.entry(binding.local.port).or_default().push(binding);
        Ok(result)
    }

    /// Lets a bound socket listen unless another does that its binding may not share with (inet_csk_listen_start()
    /// asks for the port again). `start` makes it a listener, before another is asked about.
    pub fn listen(&self, port: u16, ticket: u64, start: impl FnOnce()) -> Result<()> {
        let ports = self.ports.lock();
        let list = ports.bound.get(&port).map(Vec::as_slice).unwrap_or_default();
        if let Some(own) = list.iter().find(|binding| binding.ticket == ticket)
            && list.iter().any(|other| other.ticket != ticket && own.conflicts(other))
        {
            return Err(Errno::EADDRINUSE);
        }
        start();
        Ok(())
    }

    /// Gives a port back.
    pub fn unbind(&self, port: u16, ticket: u64) {
        let mut ports = self.ports.lock();
        if let Some(list) = ports.bound.get_mut(&port) {
            list.retain(|binding| binding.ticket != ticket);
            if list.is_empty() {
                ports.bound.remove(&port);
            }
        }
    }

    /// Who takes packets to this address, the most particular first.
    pub fn find(&self, to: Endpoint) -> Vec<Owner> {
        let ports = self.ports.lock();
        let Some(list) = ports.bound.get(&to.port) else { return Vec::new() };
        let mut found: Vec<&Binding> = list.iter().filter(|binding| binding.takes(to.ip)).collect();
        found.sort_by_key(|binding| binding.local.ip.is_unspecified());
        found.into_iter().map(|binding| binding.owner.clone()).collect()
    }
}

impl Ports {
    fn taken(&self, wanted: &Binding) -> bool {
        let list = self.bound.get(&wanted.local.port);
        list.is_some_and(|list| list.iter().any(|binding| wanted.conflicts(binding)))
    }

    fn free(&mut self, wanted: &Binding) -> Option<u16> {
        let mut wanted = wanted.clone();
        // A port of the kernel's choice is nobody else's, whatever may be shared.
        (wanted.reuse_address, wanted.reuse_port) = (false, false);
        for _ in EPHEMERAL {
            self.last = if EPHEMERAL.contains(&self.last) { self.last + 1 } else { *EPHEMERAL.start() };
            wanted.local.port = self.last;
            if EPHEMERAL.contains(&self.last) && !self.taken(&wanted) {
                return Some(self.last);
            }
        }
        None
    }
}
