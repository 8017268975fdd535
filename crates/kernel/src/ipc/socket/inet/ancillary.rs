//! What travels beside the bytes of a datagram: its header for those who ask, what a sender wants in it, and reports of
//! errors (ip(7), ipv6(7); net/ipv4/ip_sockglue.c, net/ipv6/datagram.c).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::address::Endpoint;
use super::lo;
use super::settings::{IPPROTO_IP, IPPROTO_IPV6, Settings};
use crate::abi::net::*;
use crate::ipc::socket::Ancillary;
use crate::{Errno, Result};

/// What the header of a datagram says.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    pub to: Endpoint,
    /// `ttl`, hop limit.
    pub hops: u8,
    /// `tos`, traffic class.
    pub class: u8,
    /// The receiver wanted to know where it came in when it did (ipv4_pktinfo_prepare()).
    pub located: bool,
    /// Datagrams that found no room at the receiver before this one.
    pub dropped: u32,
}

/// What a sender asks for; `None`: what the socket has.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wishes {
    pub source: Option<IpAddr>,
    hops: Option<u8>,
    class: Option<u8>,
}

fn int(data: &[u8]) -> Result<i32> {
    data.try_into().map(i32::from_ne_bytes).map_err(|_| Errno::EINVAL)
}

/// ip_cmsg_send(), ip6_datagram_send_ctl(). `v6`: the datagram goes to an address of IPv6.
pub fn wishes(control: &[Ancillary], v6: bool) -> Result<Wishes> {
    let mut wishes = Wishes::default();
    let byte = |value: i32| u8::try_from(value).map_err(|_| Errno::EINVAL);
    for Ancillary { level, kind, data } in control {
        match (*level, *kind) {
            (IPPROTO_IP, IP_TTL) if !v6 => match byte(int(data)?)? {
                0 => return Err(Errno::EINVAL),
                hops => wishes.hops = Some(hops),
            },
            (IPPROTO_IP, IP_TOS) if !v6 => {
                wishes.class = Some(if let [one] = data.as_slice() { *one } else { byte(int(data)?)? });
            }
            (IPPROTO_IP, IP_PKTINFO) if !v6 => wishes.source = source_v4(data)?,
            (IPPROTO_IPV6, IPV6_HOPLIMIT) if v6 => wishes.hops = optional(int(data)?)?,
            (IPPROTO_IPV6, IPV6_TCLASS) if v6 => wishes.class = optional(int(data)?)?,
            (IPPROTO_IPV6, IPV6_PKTINFO) => wishes.source = source_v6(data)?.filter(|ip| ip.is_ipv6() == v6),
            (IPPROTO_IP, _) if !v6 => return Err(Errno::EINVAL),
            (IPPROTO_IPV6, _) if v6 => return Err(Errno::EINVAL),
            _ => {}
        }
    }
    Ok(wishes)
}

/// -1 asks for what the socket has.
fn optional(value: i32) -> Result<Option<u8>> {
    if value == -1 { Ok(None) } else { u8::try_from(value).map(Some).map_err(|_| Errno::EINVAL) }
}

/// `struct in_pktinfo`: interface, address to send from, (when receiving) address in the header.
fn source_v4(data: &[u8]) -> Result<Option<IpAddr>> {
    let bytes: [u8; 12] = data.try_into().map_err(|_| Errno::EINVAL)?;
    let [i0, i1, i2, i3, a, b, c, d, ..] = bytes;
    check_interface(u32::from_ne_bytes([i0, i1, i2, i3]))?;
    // Where it would have to go from there (ip_route_output_key_hash_rcu()).
    local(Ipv4Addr::new(a, b, c, d).into(), Errno::ENETUNREACH)
}

/// `struct in6_pktinfo`: address, interface.
fn source_v6(data: &[u8]) -> Result<Option<IpAddr>> {
    let (ip, index) = data.split_first_chunk::<16>().ok_or(Errno::EINVAL)?;
    check_interface(int(index)? as u32)?;
    local(Ipv6Addr::from(*ip).to_canonical(), Errno::EINVAL)
}

fn check_interface(index: u32) -> Result<()> {
    if index == 0 || index == lo::INDEX { Ok(()) } else { Err(Errno::ENODEV) }
}

fn local(ip: IpAddr, foreign: Errno) -> Result<Option<IpAddr>> {
    match ip.is_unspecified() {
        true => Ok(None),
        false if ip.is_loopback() => Ok(Some(ip)),
        false => Err(foreign),
    }
}

impl Header {
    /// Of a datagram that goes from a socket with these settings to `to`.
    pub fn new(settings: &Settings, wishes: &Wishes, to: Endpoint) -> Header {
        let (level, hops, class) = if to.ip.is_ipv6() {
            (IPPROTO_IPV6, IPV6_UNICAST_HOPS, IPV6_TCLASS)
        } else {
            (IPPROTO_IP, IP_TTL, IP_TOS)
        };
        let own = |name| settings.value(level, name) as u8;
        Header {
            to,
            hops: wishes.hops.unwrap_or_else(|| own(hops)),
            class: wishes.class.unwrap_or_else(|| own(class)),
            located: false,
            dropped: 0,
        }
    }

    /// It has come to a receiver with these settings.
    pub fn arrives(&mut self, settings: &Settings) {
        let wanted = [(IPPROTO_IP, IP_PKTINFO), (IPPROTO_IPV6, IPV6_RECVPKTINFO)];
        self.located = wanted.iter().any(|(level, name)| settings.value(*level, *name) != 0);
    }

    /// What a receiver with these settings is told (ip_cmsg_recv_offset(), ip6_datagram_recv_ctl()).
    pub fn told(&self, settings: &Settings, domain: u32) -> Vec<Ancillary> {
        let mut told = Vec::new();
        let mut tell = |level, on, kind, data: &dyn Fn() -> Vec<u8>| {
            if settings.value(level, on) != 0 {
                told.push(Ancillary { level, kind, data: data() });
            }
        };
        let number = |value: u8| i32::from(value).to_ne_bytes().to_vec();
        if domain == AF_INET6 {
            let info = || {
                let ip = self.to.to_bytes(AF_INET6).get(8..24).unwrap_or_default().to_vec();
                [ip, lo::INDEX.to_ne_bytes().to_vec()].concat()
            };
            tell(IPPROTO_IPV6, IPV6_RECVPKTINFO, IPV6_PKTINFO, &info);
        }
        if let IpAddr::V4(ip) = self.to.ip {
            let (index, here) = if self.located { (lo::INDEX, ip.octets()) } else { (0, [0; 4]) };
            let info = || [index.to_ne_bytes(), here, ip.octets()].concat();
            tell(IPPROTO_IP, IP_PKTINFO, IP_PKTINFO, &info);
            tell(IPPROTO_IP, IP_RECVTTL, IP_TTL, &|| number(self.hops));
            tell(IPPROTO_IP, IP_RECVTOS, IP_TOS, &|| vec![self.class]);
            tell(IPPROTO_IP, IP_ORIGDSTADDR, IP_ORIGDSTADDR, &|| self.to.to_bytes(AF_INET));
        } else {
            tell(IPPROTO_IPV6, IPV6_RECVHOPLIMIT, IPV6_HOPLIMIT, &|| number(self.hops));
            tell(IPPROTO_IPV6, IPV6_RECVTCLASS, IPV6_TCLASS, &|| number(self.class));
            tell(IPPROTO_IPV6, IPV6_ORIGDSTADDR, IPV6_ORIGDSTADDR, &|| self.to.to_bytes(AF_INET6));
        }
        told
    }
}

/// A datagram that came back: nobody listens at its port.
pub struct Report {
    pub to: Endpoint,
    pub data: Vec<u8>,
}

impl Report {
    /// Most bytes of a datagram that ICMP gives back: 576 with all headers, or 1280 (icmp_send(), icmp6_send()).
    pub fn new(to: Endpoint, data: &[u8]) -> Report {
        let most = if to.ip.is_ipv6() { 1280 - 40 - 8 - 40 - 8 } else { 576 - 20 - 8 - 20 - 8 };
        Report { to, data: data.get(..most.min(data.len())).unwrap_or_default().to_vec() }
    }

    /// `struct sock_extended_err` and who said so (ip_recv_error(), ipv6_recv_error()).
    pub fn told(&self, domain: u32) -> Ancillary {
        // SO_EE_ORIGIN_ICMP, ICMP_DEST_UNREACH, ICMP_PORT_UNREACH; or SO_EE_ORIGIN_ICMP6 and the same there.
        let from = if self.to.ip.is_ipv6() { [3, 1, 4, 0] } else { [2, 3, 3, 0] };
        let mut data = Errno::ECONNREFUSED.raw().to_ne_bytes().to_vec();
        data.extend(from);
        data.extend([0; 8]);
        data.extend(Endpoint { ip: self.to.ip, port: 0 }.to_bytes(domain));
        match domain {
            AF_INET => Ancillary { level: IPPROTO_IP, kind: IP_RECVERR, data },
            _ => Ancillary { level: IPPROTO_IPV6, kind: IPV6_RECVERR, data },
        }
    }
}
