//! Options below `SOL_SOCKET`: checked, recorded, and told back. On a loopback interface most change nothing.

use std::collections::HashMap;

use parking_lot::Mutex;

use self::Rule::{Any, Fixed, Joins, Reset, Switch, Within};
use super::{IPPROTO_TCP, IPPROTO_UDP};
use crate::abi::net::AF_INET;
use crate::ipc::socket::options::word;
use crate::{Errno, Result};

pub const IPPROTO_IP: u32 = 0;
pub const IPPROTO_IPV6: u32 = 41;
const IP_TOS: u32 = 1;
const IP_OPTIONS: u32 = 4;
const IP_MULTICAST_TTL: u32 = 33;
const IPV6_MULTICAST_HOPS: u32 = 18;
pub const IPV6_V6ONLY: u32 = 26;
const IPV6_TCLASS: u32 = 67;
const TCP_INFO: u32 = 11;
const TCP_CONGESTION: u32 = 13;
const TCP_ULP: u32 = 31;

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
    (2, 64, Reset(-1, 1, 255)),
    (3, 0, Fixed),
    (IP_OPTIONS, 0, Any),
    (5, 0, Within(1, 0)),
    (6, 0, Switch),
    (7, 0, Switch),
    (8, 0, Switch),
    (10, 1, Within(0, 5)),
    (11, 0, Switch),
    (12, 0, Switch),
    (13, 0, Switch),
    (14, 65536, Fixed),
    (15, 0, Switch),
    (18, 0, Switch),
    (19, 0, Switch),
    (20, 0, Switch),
    (21, 0, Within(0, 255)),
    (22, 0, Fixed),
    (23, 0, Switch),
    (24, 0, Switch),
    (25, 0, Switch),
    (26, 0, EITHER),
    (32, 0, Any),
    (IP_MULTICAST_TTL, 1, BYTE),
    (34, 1, Switch),
    (35, 0, Joins(8)),
    (36, 0, Joins(8)),
    (37, 0, Joins(12)),
    (38, 0, Joins(12)),
    (39, 0, Joins(12)),
    (40, 0, Joins(12)),
    (42, 0, Joins(136)),
    (43, 0, Joins(264)),
    (44, 0, Joins(264)),
    (45, 0, Joins(136)),
    (46, 0, Joins(264)),
    (47, 0, Joins(264)),
    (49, 1, EITHER),
    (50, 0, Any),
    (51, 0, Any),
    (52, 0, Fixed),
];

/// `IPV6_*` of ipv6(7) (do_ipv6_setsockopt()).
const IPV6: &[(u32, i32, Rule)] = &[
    (2, 0, Switch),
    (3, 0, Switch),
    (4, 0, Switch),
    (5, 0, Switch),
    (8, 0, Switch),
    (11, 0, Switch),
    (16, 64, BYTE),
    (17, 0, Any),
    (IPV6_MULTICAST_HOPS, 1, BYTE),
    (19, 1, EITHER),
    (20, 0, Joins(20)),
    (21, 0, Joins(20)),
    (22, 0, Fixed),
    (23, 1, Within(0, 5)),
    (24, 65536, Fixed),
    (25, 0, Switch),
    (IPV6_V6ONLY, 0, Switch),
    (27, 0, Joins(20)),
    (28, 0, Joins(20)),
    (29, 1, Switch),
    (30, 0, Switch),
    (31, 0, EITHER),
    (33, 0, Switch),
    (42, 0, Joins(136)),
    (43, 0, Joins(264)),
    (44, 0, Joins(264)),
    (45, 0, Joins(136)),
    (46, 0, Joins(264)),
    (47, 0, Joins(264)),
    (49, 0, Switch),
    (51, 0, Switch),
    (53, 0, Switch),
    (56, 0, Switch),
    (58, 0, Switch),
    (60, 0, Switch),
    (62, 0, Switch),
    (66, 0, Switch),
    (IPV6_TCLASS, 0, BYTE),
    (70, 1, Switch),
    (73, 0, Within(0, 255)),
    (74, 0, Switch),
    (75, 0, Switch),
    (76, 0, Any),
    (77, 0, Switch),
    (78, 0, Switch),
];

/// `TCP_*` of tcp(7) (do_tcp_setsockopt()).
const TCP: &[(u32, i32, Rule)] = &[
    (1, 0, Switch),
    (2, 65483, Reset(0, 88, 32767)),
    (3, 0, Switch),
    (4, 7200, Within(1, 32767)),
    (5, 75, Within(1, 32767)),
    (6, 9, Within(1, 127)),
    (7, 6, Within(1, 127)),
    (8, 60, Any),
    (9, 0, Any),
    (10, 0, Any),
    (TCP_INFO, 0, Fixed),
    (12, 1, Switch),
    (16, 0, EITHER),
    (17, 0, EITHER),
    (18, 0, POSITIVE),
    (23, 0, POSITIVE),
    (25, 0, Any),
    (27, 0, EITHER),
    (30, 0, EITHER),
    (34, 0, EITHER),
    (36, 0, EITHER),
    (37, 0, POSITIVE),
];

/// `UDP_*` of udp(7) (udp_lib_setsockopt()).
const UDP: &[(u32, i32, Rule)] = &[(1, 0, Switch)];

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
