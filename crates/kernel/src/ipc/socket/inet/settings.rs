//! Options below `SOL_SOCKET`: checked, recorded, and told back. On a loopback interface most change nothing.

use std::collections::HashMap;

use parking_lot::Mutex;

use self::Rule::{Any, Fixed, Joins, Reset, Switch, Within};
use super::{IPPROTO_TCP, IPPROTO_UDP};
// All names of the tables below.
use crate::abi::net::*;
use crate::ipc::socket::options::word;
use crate::{Errno, Result};

pub const IPPROTO_IP: u32 = 0;
pub const IPPROTO_IPV6: u32 = 41;

/// What may be set, and what becomes of it.
#[derive(Clone, Copy)]
enum Rule {
    /// Any number, kept as 0 or 1.
    Switch,
    /// Numbers from the first to the second.
    Within(i32, i32),
    /// The first brings the default back; otherwise from the second to the third.
    Reset(i32, i32, i32),
    Any,
    /// Cannot be set.
    Fixed,
    /// A structure of at least so many bytes that names a group; cannot be read.
    Joins(usize),
}

const BYTE: Rule = Reset(-1, 0, 255);
const POSITIVE: Rule = Within(0, i32::MAX);
const EITHER: Rule = Within(0, 1);

/// `IP_*` of ip(7): name, default, rule (do_ip_setsockopt()).
const IP: &[(u32, i32, Rule)] = &[
    (IP_TOS, 0, Any),
    (IP_TTL, 64, Reset(-1, 1, 255)),
    (IP_HDRINCL, 0, Fixed),
    (IP_OPTIONS, 0, Any),
    (IP_ROUTER_ALERT, 0, Within(1, 0)),
    (IP_RECVOPTS, 0, Switch),
    (IP_RETOPTS, 0, Switch),
    (IP_PKTINFO, 0, Switch),
    (IP_MTU_DISCOVER, 1, Within(0, 5)),
    (IP_RECVERR, 0, Switch),
    (IP_RECVTTL, 0, Switch),
    (IP_RECVTOS, 0, Switch),
    (IP_MTU, 65536, Fixed),
    (IP_FREEBIND, 0, Switch),
    (IP_PASSSEC, 0, Switch),
    (IP_TRANSPARENT, 0, Switch),
    (IP_RECVORIGDSTADDR, 0, Switch),
    (IP_MINTTL, 0, Within(0, 255)),
    (IP_NODEFRAG, 0, Fixed),
    (IP_CHECKSUM, 0, Switch),
    (IP_BIND_ADDRESS_NO_PORT, 0, Switch),
    (IP_RECVFRAGSIZE, 0, Switch),
    (IP_RECVERR_RFC4884, 0, EITHER),
    (IP_MULTICAST_IF, 0, Any),
    (IP_MULTICAST_TTL, 1, BYTE),
    (IP_MULTICAST_LOOP, 1, Switch),
    (IP_ADD_MEMBERSHIP, 0, Joins(8)),
    (IP_DROP_MEMBERSHIP, 0, Joins(8)),
    (IP_UNBLOCK_SOURCE, 0, Joins(12)),
    (IP_BLOCK_SOURCE, 0, Joins(12)),
    (IP_ADD_SOURCE_MEMBERSHIP, 0, Joins(12)),
    (IP_DROP_SOURCE_MEMBERSHIP, 0, Joins(12)),
    (MCAST_JOIN_GROUP, 0, Joins(136)),
    (MCAST_BLOCK_SOURCE, 0, Joins(264)),
    (MCAST_UNBLOCK_SOURCE, 0, Joins(264)),
    (MCAST_LEAVE_GROUP, 0, Joins(136)),
    (MCAST_JOIN_SOURCE_GROUP, 0, Joins(264)),
    (MCAST_LEAVE_SOURCE_GROUP, 0, Joins(264)),
    (IP_MULTICAST_ALL, 1, EITHER),
    (IP_UNICAST_IF, 0, Any),
    (IP_LOCAL_PORT_RANGE, 0, Any),
    (IP_PROTOCOL, 0, Fixed),
];

/// `IPV6_*` of ipv6(7) (do_ipv6_setsockopt()).
const IPV6: &[(u32, i32, Rule)] = &[
    (IPV6_2292PKTINFO, 0, Switch),
    (IPV6_2292HOPOPTS, 0, Switch),
    (IPV6_2292DSTOPTS, 0, Switch),
    (IPV6_2292RTHDR, 0, Switch),
    (IPV6_2292HOPLIMIT, 0, Switch),
    (IPV6_FLOWINFO, 0, Switch),
    (IPV6_UNICAST_HOPS, 64, BYTE),
    (IPV6_MULTICAST_IF, 0, Any),
    (IPV6_MULTICAST_HOPS, 1, BYTE),
    (IPV6_MULTICAST_LOOP, 1, EITHER),
    (IPV6_ADD_MEMBERSHIP, 0, Joins(20)),
    (IPV6_DROP_MEMBERSHIP, 0, Joins(20)),
    (IPV6_ROUTER_ALERT, 0, Fixed),
    (IPV6_MTU_DISCOVER, 1, Within(0, 5)),
    (IPV6_MTU, 65536, Fixed),
    (IPV6_RECVERR, 0, Switch),
    (IPV6_V6ONLY, 0, Switch),
    (IPV6_JOIN_ANYCAST, 0, Joins(20)),
    (IPV6_LEAVE_ANYCAST, 0, Joins(20)),
    (IPV6_MULTICAST_ALL, 1, Switch),
    (IPV6_ROUTER_ALERT_ISOLATE, 0, Switch),
    (IPV6_RECVERR_RFC4884, 0, EITHER),
    (IPV6_FLOWINFO_SEND, 0, Switch),
    (MCAST_JOIN_GROUP, 0, Joins(136)),
    (MCAST_BLOCK_SOURCE, 0, Joins(264)),
    (MCAST_UNBLOCK_SOURCE, 0, Joins(264)),
    (MCAST_LEAVE_GROUP, 0, Joins(136)),
    (MCAST_JOIN_SOURCE_GROUP, 0, Joins(264)),
    (MCAST_LEAVE_SOURCE_GROUP, 0, Joins(264)),
    (IPV6_RECVPKTINFO, 0, Switch),
    (IPV6_RECVHOPLIMIT, 0, Switch),
    (IPV6_RECVHOPOPTS, 0, Switch),
    (IPV6_RECVRTHDR, 0, Switch),
    (IPV6_RECVDSTOPTS, 0, Switch),
    (IPV6_RECVPATHMTU, 0, Switch),
    (IPV6_DONTFRAG, 0, Switch),
    (IPV6_RECVTCLASS, 0, Switch),
    (IPV6_TCLASS, 0, BYTE),
    (IPV6_AUTOFLOWLABEL, 1, Switch),
    (IPV6_MINHOPCOUNT, 0, Within(0, 255)),
    (IPV6_RECVORIGDSTADDR, 0, Switch),
    (IPV6_TRANSPARENT, 0, Switch),
    (IPV6_UNICAST_IF, 0, Any),
    (IPV6_RECVFRAGSIZE, 0, Switch),
    (IPV6_FREEBIND, 0, Switch),
];

/// `TCP_*` of tcp(7) (do_tcp_setsockopt()).
const TCP: &[(u32, i32, Rule)] = &[
    (TCP_NODELAY, 0, Switch),
    (TCP_MAXSEG, 65483, Reset(0, 88, 32767)),
    (TCP_CORK, 0, Switch),
    (TCP_KEEPIDLE, 7200, Within(1, 32767)),
    (TCP_KEEPINTVL, 75, Within(1, 32767)),
    (TCP_KEEPCNT, 9, Within(1, 127)),
    (TCP_SYNCNT, 6, Within(1, 127)),
    (TCP_LINGER2, 60, Any),
    (TCP_DEFER_ACCEPT, 0, Any),
    (TCP_WINDOW_CLAMP, 0, Any),
    (TCP_INFO, 0, Fixed),
    (TCP_QUICKACK, 1, Switch),
    (TCP_THIN_LINEAR_TIMEOUTS, 0, EITHER),
    (TCP_THIN_DUPACK, 0, EITHER),
    (TCP_USER_TIMEOUT, 0, POSITIVE),
    (TCP_FASTOPEN, 0, POSITIVE),
    (TCP_NOTSENT_LOWAT, 0, Any),
    (TCP_SAVE_SYN, 0, EITHER),
    (TCP_FASTOPEN_CONNECT, 0, EITHER),
    (TCP_FASTOPEN_NO_COOKIE, 0, EITHER),
    (TCP_INQ, 0, EITHER),
    (TCP_TX_DELAY, 0, POSITIVE),
];

/// `UDP_*` of udp(7) (udp_lib_setsockopt()).
const UDP: &[(u32, i32, Rule)] = &[(UDP_CORK, 0, Switch)];
const UDP_CORK: u32 = 1;

/// Whose options: the levels that a socket has depend on it.
#[derive(Clone, Copy)]
pub struct Of {
    pub domain: u32,
    pub stream: bool,
}

impl Of {
    fn has(self, level: u32) -> bool {
        match level {
            IPPROTO_IP => true,
            IPPROTO_IPV6 => self.domain != AF_INET,
            IPPROTO_TCP => self.stream,
            IPPROTO_UDP => !self.stream,
            _ => false,
        }
    }
}

fn known(level: u32, name: u32) -> Option<(i32, Rule)> {
    let table = match level {
        IPPROTO_IP => IP,
        IPPROTO_IPV6 => IPV6,
        IPPROTO_TCP => TCP,
        IPPROTO_UDP => UDP,
        _ => return None,
    };
    table.iter().find(|entry| entry.0 == name).map(|(_, default, rule)| (*default, *rule))
}

/// Values by level and name.
#[derive(Default)]
pub struct Settings(Mutex<HashMap<(u32, u32), i32>>);

impl Settings {
    pub fn get(&self, of: Of, level: u32, name: u32) -> Result<Vec<u8>> {
        if !of.has(level) {
            return Err(if of.domain == AF_INET { Errno::EOPNOTSUPP } else { Errno::ENOPROTOOPT });
        }
        match (level, name) {
            (IPPROTO_TCP, TCP_CONGESTION) => {
                let mut bytes =
                    CONGESTION.get(self.value(level, name) as usize).copied().unwrap_or_default().to_vec();
                bytes.resize(16, 0);
                return Ok(bytes);
            }
            (IPPROTO_TCP, TCP_ULP) => return Ok(Vec::new()),
            // struct tcp_info: the state comes first; ESTABLISHED will do.
            (IPPROTO_TCP, TCP_INFO) => {
                let mut info = vec![0; 232];
                if let Some(state) = info.first_mut() {
                    *state = 1;
                }
                return Ok(info);
            }
            // No bytes unless some were set (do_ip_getsockopt(), net/ipv4/ip_sockglue.c).
            (IPPROTO_IP, IP_OPTIONS) if !self.0.lock().contains_key(&(level, name)) => return Ok(Vec::new()),
            _ => {}
        }
        match known(level, name) {
            None | Some((_, Joins(_))) => Err(Errno::ENOPROTOOPT),
            Some(_) => Ok(self.value(level, name).to_ne_bytes().to_vec()),
        }
    }

    /// The value as a number.
    pub fn value(&self, level: u32, name: u32) -> i32 {
        let set = self.0.lock().get(&(level, name)).copied();
        set.or_else(|| known(level, name).map(|(default, _)| default)).unwrap_or(0)
    }

    pub fn set(&self, of: Of, level: u32, name: u32, value: &[u8]) -> Result<()> {
        if !of.has(level) {
            return Err(Errno::ENOPROTOOPT);
        }
        match (level, name) {
            (IPPROTO_TCP, TCP_CONGESTION | TCP_ULP) => return self.set_name(name, value),
            (IPPROTO_IPV6, IPV6_MULTICAST_HOPS) if of.stream => return Err(Errno::ENOPROTOOPT),
            (IPPROTO_IP, IP_OPTIONS) if value.is_empty() => {
                self.0.lock().remove(&(level, name));
                return Ok(());
            }
            _ => {}
        }
        let (default, rule) = match known(level, name) {
            // Of the transports the length is looked at first.
            None if matches!(level, IPPROTO_TCP | IPPROTO_UDP) && value.len() < 4 => return Err(Errno::EINVAL),
            Some((_, Fixed)) if level != IPPROTO_IP && value.len() < 4 => return Err(Errno::EINVAL),
            None | Some((_, Fixed)) => return Err(Errno::ENOPROTOOPT),
            Some(known) => known,
        };
        if let Joins(least) = rule {
            return if value.len() < least { Err(Errno::EINVAL) } else { Ok(()) };
        }
        let number = number(level, name, value)?;
        let number = match rule {
            Switch => i32::from(number != 0),
            Reset(marker, ..) if number == marker => default,
            Within(low, high) | Reset(_, low, high) if !(low..=high).contains(&number) => {
                return Err(Errno::EINVAL);
            }
            _ => number,
        };
        // The bits of congestion notification are TCP's own (__ip_sock_set_tos()).
        let number = match (level, name) {
            (IPPROTO_IP, IP_TOS) if of.stream => number & 0xfc,
            (IPPROTO_IP, IP_TOS) => number & 0xff,
            (IPPROTO_IPV6, IPV6_TCLASS) if of.stream => number & 0xfc,
            (IPPROTO_IP, IP_MULTICAST_TTL) if of.stream => return Err(Errno::EINVAL),
            _ => number,
        };
        self.0.lock().insert((level, name), number);
        Ok(())
    }

    /// Options whose value is a name; `ENOENT` for one that nobody knows.
    fn set_name(&self, name: u32, value: &[u8]) -> Result<()> {
        if value.is_empty() {
            return Err(Errno::EINVAL);
        }
        let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
        let place = CONGESTION.iter().position(|one| *one == text && name == TCP_CONGESTION);
        let place = place.and_then(|place| i32::try_from(place).ok()).ok_or(Errno::ENOENT)?;
        self.0.lock().insert((IPPROTO_TCP, name), place);
        Ok(())
    }
}

/// What every Linux has.
const CONGESTION: [&[u8]; 2] = [b"cubic", b"reno"];

/// An `int`; of IPv4 a byte will do, and for most nothing at all.
fn number(level: u32, name: u32, value: &[u8]) -> Result<i32> {
    const NEED_ONE: [u32; 9] = [2, 15, 19, 21, 33, 34, 49, 50, 51];
    /// `IPV6_DONTFRAG`, `IPV6_AUTOFLOWLABEL`, `IPV6_RECVFRAGSIZE`.
    const NEED_NONE: [u32; 3] = [62, 70, 77];
    match (value, level) {
        ([], IPPROTO_IP) if NEED_ONE.contains(&name) => Err(Errno::EINVAL),
        ([], IPPROTO_IP) => Ok(0),
        (short, IPPROTO_IPV6) if short.len() < 4 && NEED_NONE.contains(&name) => Ok(0),
        ([byte] | [byte, _] | [byte, _, _], IPPROTO_IP) => Ok(i32::from(*byte)),
        _ => word(value, 0).ok_or(Errno::EINVAL),
    }
}
