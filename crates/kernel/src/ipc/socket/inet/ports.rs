//! Who has which port.
//!
//! A guest chooses how many sockets share one. What they have in common decides whether another may have it, too, so they
//! are kept in groups of their like.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::address::Endpoint;
use super::tcp::TcpSocket;
use super::udp::UdpSocket;
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

/// Which packets to a port a socket takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    At(IpAddr),
    Any4,
    Any6,
    Any,
}

/// The first in their order.
const FIRST: Reach = Reach::At(IpAddr::V4(Ipv4Addr::UNSPECIFIED));

/// Addresses that are not named.
const WILD: [Reach; 3] = [Reach::Any4, Reach::Any6, Reach::Any];

impl Reach {
    /// Both want some packet.
    fn overlaps(self, other: Reach) -> bool {
        match (self, other) {
            (Reach::At(one), Reach::At(other)) => one == other,
            (Reach::At(ip), wild) | (wild, Reach::At(ip)) => wild.takes(ip),
            (Reach::Any4, Reach::Any6) | (Reach::Any6, Reach::Any4) => false,
            _ => true,
        }
    }

    fn takes(self, ip: IpAddr) -> bool {
        match self {
            Reach::At(own) => own == ip,
            Reach::Any4 => ip.is_ipv4(),
            Reach::Any6 => ip.is_ipv6(),
            Reach::Any => true,
        }
    }
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
    fn reach(&self) -> Reach {
        match self.local.ip {
            ip if !ip.is_unspecified() => Reach::At(ip),
            IpAddr::V4(_) => Reach::Any4,
            IpAddr::V6(_) if self.v6_only => Reach::Any6,
            IpAddr::V6(_) => Reach::Any,
        }
    }

    fn protocol(&self) -> Protocol {
        if matches!(self.owner, Owner::Udp(_)) { Protocol::Udp } else { Protocol::Tcp }
    }

    fn is_listening(&self) -> bool {
        matches!(&self.owner, Owner::Tcp(socket) if socket.upgrade().is_some_and(|socket| socket.is_listening()))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
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
    bound: HashMap<(Protocol, u16), Sharers>,
    tickets: u64,
    last: u16,
}

/// Those who share a port.
#[derive(Default)]
struct Sharers {
    all: BTreeMap<u64, Binding>,
    /// By what they reach, in the order in which they came.
    reaching: BTreeMap<Reach, BTreeSet<u64>>,
    /// By what decides whether another may share it.
    groups: BTreeMap<Group, BTreeSet<u64>>,
    /// Those that have begun to listen, by whether they share the port and by reach; some may have stopped.
    listening: BTreeSet<(bool, Reach, u64)>,
}

/// Addresses that are named count by their family here: an address that is not overlaps all of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    /// Of an address that is named, its family only if `named`.
    reach: Reach,
    named: bool,
    reuse_address: bool,
    reuse_port: bool,
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
        let key = (binding.protocol(), binding.local.port);
        ports.bound.entry(key).or_default().add(binding);
        Ok(result)
    }

    /// Lets a bound socket listen unless another does that its binding may not share with (inet_csk_listen_start()
    /// asks for the port again). `start` makes it a listener, before another is asked about.
    pub fn listen(&self, port: u16, ticket: u64, start: impl FnOnce()) -> Result<()> {
        let mut ports = self.ports.lock();
        if let Some(sharers) = ports.bound.get_mut(&(Protocol::Tcp, port))
            && let Some(own) = sharers.all.get(&ticket).cloned()
        {
            if sharers.conflicts(&own) {
                return Err(Errno::EADDRINUSE);
            }
            sharers.listening.insert((own.reuse_port, own.reach(), ticket));
        }
        start();
        Ok(())
    }

    /// Gives a port back.
    pub fn unbind(&self, protocol: Protocol, port: u16, ticket: u64) {
        let mut ports = self.ports.lock();
        if let Some(sharers) = ports.bound.get_mut(&(protocol, port)) {
            sharers.remove(ticket);
            if sharers.all.is_empty() {
                ports.bound.remove(&(protocol, port));
            }
        }
    }

    /// The first listener for connections to this address, the most particular first.
    pub fn listener(&self, to: Endpoint) -> Option<Arc<TcpSocket>> {
        let mut ports = self.ports.lock();
        let sharers = ports.bound.get_mut(&(Protocol::Tcp, to.port))?;
        let mut reaches = [Reach::At(to.ip)].into_iter().chain(WILD).filter(|reach| reach.takes(to.ip));
        let ticket = reaches.find_map(|reach| {
            let found = [false, true].map(|shared| sharers.listener(shared, Some(reach), |_| true, 0));
            found.into_iter().flatten().min()
        })?;
        match &sharers.all.get(&ticket)?.owner {
            Owner::Tcp(socket) => socket.upgrade(),
            Owner::Udp(_) => None,
        }
    }

    /// The first socket that takes datagrams to this address and `suits`, the most particular first.
    pub fn receiver(&self, to: Endpoint, suits: impl Fn(&UdpSocket) -> bool) -> Option<Arc<UdpSocket>> {
        let ports = self.ports.lock();
        let sharers = ports.bound.get(&(Protocol::Udp, to.port))?;
        let reaches = [Reach::At(to.ip)].into_iter().chain(WILD).filter(|reach| reach.takes(to.ip));
        let tickets = reaches.filter_map(|reach| sharers.reaching.get(&reach)).flatten();
        let mut owners = tickets.filter_map(|ticket| Some(&sharers.all.get(ticket)?.owner));
        owners.find_map(|owner| match owner {
            Owner::Udp(socket) => socket.upgrade().filter(|socket| suits(socket)),
            Owner::Tcp(_) => None,
        })
    }
}

impl Ports {
    fn taken(&mut self, wanted: &Binding) -> bool {
        let sharers = self.bound.get_mut(&(wanted.protocol(), wanted.local.port));
        sharers.is_some_and(|sharers| sharers.conflicts(wanted))
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

impl Sharers {
    /// The groups that a binding belongs to.
    fn groups(binding: &Binding) -> impl Iterator<Item = Group> {
        let (reuse_address, reuse_port) = (binding.reuse_address, binding.reuse_port);
        let group = move |reach, named| Group { reach, named, reuse_address, reuse_port };
        let reach = binding.reach();
        let family = match reach {
            Reach::At(IpAddr::V4(_)) => Some(group(Reach::Any4, true)),
            Reach::At(IpAddr::V6(_)) => Some(group(Reach::Any6, true)),
            _ => None,
        };
        [group(reach, false)].into_iter().chain(family)
    }

    fn add(&mut self, binding: Binding) {
        let ticket = binding.ticket;
        self.reaching.entry(binding.reach()).or_default().insert(ticket);
        for group in Self::groups(&binding) {
            self.groups.entry(group).or_default().insert(ticket);
        }
        self.all.insert(ticket, binding);
    }

    fn remove(&mut self, ticket: u64) {
        let Some(binding) = self.all.remove(&ticket) else { return };
        let reach = binding.reach();
        self.listening.remove(&(binding.reuse_port, reach, ticket));
        take_out(&mut self.reaching, reach, ticket);
        for group in Self::groups(&binding) {
            take_out(&mut self.groups, group, ticket);
        }
    }

    /// inet_csk_bind_conflict().
    fn conflicts(&mut self, wanted: &Binding) -> bool {
        let reach = wanted.reach();
        let mut overlapping: Vec<(Reach, bool)> = WILD.map(|wild| (wild, false)).to_vec();
        match reach {
            Reach::At(_) => overlapping.push((reach, false)),
            _ => overlapping.extend([(Reach::Any4, true), (Reach::Any6, true)]),
        }
        overlapping.retain(|(other, _)| reach.overlaps(*other));
        for (other, named) in overlapping {
            for (reuse_address, reuse_port) in [(false, false), (false, true), (true, false), (true, true)] {
                if reuse_port && wanted.reuse_port {
                    continue;
                }
                let group = Group { reach: other, named, reuse_address, reuse_port };
                let Some(members) = self.groups.get(&group) else { continue };
                let shared = reuse_address && wanted.reuse_address;
                if !shared && members.iter().any(|ticket| *ticket != wanted.ticket) {
                    return true;
                }
            }
        }
        self.listens_beside(wanted)
    }

    /// Another one listens, with whom even those may not share it who share addresses.
    fn listens_beside(&mut self, wanted: &Binding) -> bool {
        let reach = wanted.reach();
        let overlaps = |other: Reach| reach.overlaps(other);
        let sharing = if wanted.reuse_port { &[false][..] } else { &[false, true] };
        sharing.iter().any(|reuse_port| match reach {
            Reach::At(_) => WILD
                .into_iter()
                .chain([reach])
                .filter(|other| overlaps(*other))
                .any(|other| self.listener(*reuse_port, Some(other), overlaps, wanted.ticket).is_some()),
            _ => self.listener(*reuse_port, None, overlaps, wanted.ticket).is_some(),
        })
    }

    /// The first that really listens, of those that share their port or not, at one address or at all that suit, but not
    /// this one. Those that are met and have stopped are forgotten.
    fn listener(
        &mut self,
        reuse_port: bool,
        at: Option<Reach>,
        suits: impl Fn(Reach) -> bool,
        but: u64,
    ) -> Option<u64> {
        let from = at.unwrap_or(FIRST);
        loop {
            let mut candidates = self.listening.range((reuse_port, from, 0)..);
            let next = candidates.find(|(_, reach, ticket)| suits(*reach) && *ticket != but);
            let (port, reach, ticket) = *next?;
            if port != reuse_port || at.is_some_and(|at| at != reach) {
                return None;
            }
            if self.all.get(&ticket).is_some_and(Binding::is_listening) {
                return Some(ticket);
            }
            self.listening.remove(&(port, reach, ticket));
        }
    }
}

fn take_out<K: Ord>(map: &mut BTreeMap<K, BTreeSet<u64>>, key: K, ticket: u64) {
    if let Some(tickets) = map.get_mut(&key) {
        tickets.remove(&ticket);
        if tickets.is_empty() {
            map.remove(&key);
        }
    }
}
