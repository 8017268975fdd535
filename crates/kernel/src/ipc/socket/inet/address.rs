//! Internet addresses as programs write them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::abi::net::{AF_INET, AF_INET6};
use crate::{Errno, Result};

/// Shortest `struct sockaddr_in6` that is taken (`SIN6_LEN_RFC2133`).
const SHORT_IN6: usize = 24;

/// An address and a port. IPv4 addresses mapped into IPv6 are kept as IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    pub ip: IpAddr,
    pub port: u16,
}

impl Endpoint {
    /// The wildcard of a family.
    pub fn any(domain: u32, port: u16) -> Endpoint {
        let ip = if domain == AF_INET { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        Endpoint { ip, port }
    }

    /// Reads an address for a socket of `domain`.
    pub fn parse(domain: u32, bytes: &[u8]) -> Result<Endpoint> {
        let family = family(bytes).ok_or(Errno::EINVAL)?;
        let need = if domain == AF_INET { 16 } else { SHORT_IN6 };
        if bytes.len() < need {
            return Err(Errno::EINVAL);
        }
        if family != domain {
            return Err(Errno::EAFNOSUPPORT);
        }
        let port = u16::from_be_bytes(field(bytes, 2).ok_or(Errno::EINVAL)?);
        let ip = match domain {
            AF_INET => IpAddr::from(field::<4>(bytes, 4).ok_or(Errno::EINVAL)?),
            _ => Ipv6Addr::from(field::<16>(bytes, 8).ok_or(Errno::EINVAL)?).to_canonical(),
        };
        Ok(Endpoint { ip, port })
    }

    /// As a socket of `domain` shows it.
    pub fn to_bytes(self, domain: u32) -> Vec<u8> {
        let mut bytes = (domain as u16).to_ne_bytes().to_vec();
        bytes.extend(self.port.to_be_bytes());
        match (domain, self.ip) {
            (AF_INET6, ip) => {
                let ip = match ip {
                    IpAddr::V4(ip) if ip.is_unspecified() => Ipv6Addr::UNSPECIFIED,
                    IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                    IpAddr::V6(ip) => ip,
                };
                bytes.extend([0; 4]);
                bytes.extend(ip.octets());
                bytes.extend([0; 4]);
            }
            (_, IpAddr::V4(ip)) => {
                bytes.extend(ip.octets());
                bytes.extend([0; 8]);
            }
            (_, IpAddr::V6(_)) => bytes.extend([0; 12]),
        }
        bytes
    }

    /// It can be bound to: an address of the loopback interface, or the wildcard.
    pub fn is_local(self) -> bool {
        self.ip.is_loopback() || self.ip.is_unspecified()
    }

    /// Where packets to it go: `ENETUNREACH` but for this host.
    pub fn route(self) -> Result<Endpoint> {
        let ip = match self.ip {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip if ip.is_loopback() => ip,
            _ => return Err(Errno::ENETUNREACH),
        };
        Ok(Endpoint { ip, port: self.port })
    }

    /// The address that packets to `self` come from.
    pub fn source(self) -> IpAddr {
        match self.ip {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        }
    }
}

/// The family that an address begins with.
pub fn family(bytes: &[u8]) -> Option<u32> {
    Some(u32::from(u16::from_ne_bytes(field(bytes, 0)?)))
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}
