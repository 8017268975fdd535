//! `AF_INET` and `AF_INET6` inside the sandbox: a network that consists of a loopback interface, up, with
//! 127.0.0.0/8 and ::1; everything else is unreachable. ip(7), tcp(7), udp(7).

pub(super) mod address;
pub(super) mod ancillary;
mod core;
mod lo;
mod netlink;
mod ports;
pub(super) mod settings;
mod tcp;
#[cfg(test)]
mod tests;
mod udp;
mod urgent;

use std::sync::Arc;

pub use self::lo::ioctl as interface_ioctl;
pub use self::netlink::NetlinkSocket;
pub use self::ports::Space;
use self::tcp::TcpSocket;
use self::udp::UdpSocket;
use super::host::HostSocket;
use super::{Kind, Socket};
use crate::abi::net::{AF_INET, AF_INET6, AF_NETLINK, AF_PACKET};
use crate::call::Ctx;
use crate::{Errno, Result};

pub(super) const IPPROTO_TCP: u32 = 6;
pub(super) const IPPROTO_UDP: u32 = 17;
const NETLINK_ROUTE: u32 = 0;
/// Events of devices: nothing ever happens.
const NETLINK_KOBJECT_UEVENT: u32 = 15;

/// A socket of a family other than `AF_UNIX` (inet_create(), netlink_create()).
pub fn open(cx: &Ctx<'_>, domain: u32, kind: Result<Kind>, protocol: u32) -> Result<Arc<dyn Socket>> {
    match domain {
        AF_INET | AF_INET6 => {}
        AF_NETLINK => return netlink(cx, kind?, protocol),
        AF_PACKET => return Err(Errno::EPERM),
        _ => return Err(Errno::EAFNOSUPPORT),
    }
    if cx.task.world.ipc.host_network() {
        return match kind? {
            kind @ (Kind::Stream | Kind::Datagram) => Ok(HostSocket::open(domain, kind, protocol)?),
            Kind::Raw => Err(Errno::EPERM),
            Kind::SeqPacket => Err(Errno::ESOCKTNOSUPPORT),
        };
    }
    let space = &cx.task.world.ipc.inet;
    match (kind?, protocol) {
        (Kind::Stream, 0 | IPPROTO_TCP) => Ok(TcpSocket::new(space, domain)),
        (Kind::Datagram, 0 | IPPROTO_UDP) => Ok(UdpSocket::new(space, domain)),
        (Kind::Stream | Kind::Datagram, _) => Err(Errno::EPROTONOSUPPORT),
        (Kind::Raw, _) => Err(Errno::EPERM),
        (Kind::SeqPacket, _) => Err(Errno::ESOCKTNOSUPPORT),
    }
}

fn netlink(cx: &Ctx<'_>, kind: Kind, protocol: u32) -> Result<Arc<dyn Socket>> {
    match (kind, protocol) {
        (Kind::Datagram | Kind::Raw, NETLINK_ROUTE | NETLINK_KOBJECT_UEVENT) => {
            Ok(NetlinkSocket::new(&cx.task, kind, protocol))
        }
        (Kind::Datagram | Kind::Raw, _) => Err(Errno::EPROTONOSUPPORT),
        _ => Err(Errno::ESOCKTNOSUPPORT),
    }
}
