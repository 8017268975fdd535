//! Ports, and the questions that programs ask of netlink.

use crate::Errno;
use crate::task::testing::{Guest, MEMORY};

const SOCKET: u64 = 41;
const CONNECT: u64 = 42;
const BIND: u64 = 49;
const LISTEN: u64 = 50;

fn ipv4(guest: &Guest, port: u16, ip: [u8; 4]) {
    let mut bytes = vec![2, 0];
    bytes.extend(port.to_be_bytes());
    bytes.extend(ip);
    bytes.extend([0; 8]);
    guest.put(MEMORY, bytes.as_slice());
}

#[test]
fn only_this_host_can_be_reached() {
    let mut guest = Guest::new();
    let socket = guest.call(SOCKET, &[2, 1, 0]).unwrap();
    ipv4(&guest, 80, [8, 8, 8, 8]);
    assert_eq!(guest.call(CONNECT, &[socket, MEMORY, 16]), Err(Errno::ENETUNREACH));
    assert_eq!(guest.call(BIND, &[socket, MEMORY, 16]), Err(Errno::EADDRNOTAVAIL));
    assert_eq!(guest.call(BIND, &[socket, MEMORY, 15]), Err(Errno::EINVAL));
    ipv4(&guest, 80, [127, 0, 0, 1]);
    assert_eq!(guest.call(CONNECT, &[socket, MEMORY, 16]), Err(Errno::ECONNREFUSED));
}

#[test]
fn a_port_has_one_listener() {
    let mut guest = Guest::new();
    let one = guest.call(SOCKET, &[2, 1, 0]).unwrap();
    let two = guest.call(SOCKET, &[2, 1, 0]).unwrap();
    ipv4(&guest, 8080, [0, 0, 0, 0]);
    guest.call(BIND, &[one, MEMORY, 16]).unwrap();
    guest.call(LISTEN, &[one, 5]).unwrap();
    ipv4(&guest, 8080, [127, 0, 0, 1]);
    assert_eq!(guest.call(BIND, &[two, MEMORY, 16]), Err(Errno::EADDRINUSE));
    // A port of another protocol is another port.
    let datagram = guest.call(SOCKET, &[2, 2, 0]).unwrap();
    guest.call(BIND, &[datagram, MEMORY, 16]).unwrap();
    drop(guest.task.files().remove(one as i32).unwrap());
    guest.call(BIND, &[two, MEMORY, 16]).unwrap();
}

#[test]
fn netlink_lists_the_loopback_interface() {
    let mut guest = Guest::new();
    let socket = guest.call(SOCKET, &[16, 3, 0]).unwrap();
    // struct nlmsghdr: length, RTM_GETLINK with NLM_F_REQUEST | NLM_F_DUMP, sequence, port; struct rtgenmsg.
    guest.put(MEMORY, &[20u32, 18 | 0x301 << 16, 7, 0, 0]);
    assert_eq!(guest.call(44, &[socket, MEMORY, 20, 0]), Ok(20));
    let len = guest.call(45, &[socket, MEMORY, 4096, 0]).unwrap();
    let [total, kind, seq] = guest.get::<[u32; 3]>(MEMORY);
    assert_eq!((u64::from(total), kind & 0xffff, seq), (len, 16, 7));
    assert_eq!(guest.call(45, &[socket, MEMORY, 4096, 0]), Ok(20));
    assert_eq!(guest.get::<[u32; 2]>(MEMORY)[1] & 0xffff, 3);
}

mod ports {
    use std::net::IpAddr;
    use std::sync::Weak;
    use std::time::Instant;

    use crate::Errno;
    use crate::ipc::socket::inet::address::Endpoint;
    use crate::ipc::socket::inet::ports::{Binding, Owner, Protocol, Space};

    fn udp(ip: &str, port: u16, (reuse_address, reuse_port): (bool, bool)) -> Binding {
        let local = Endpoint { ip: ip.parse::<IpAddr>().unwrap(), port };
        let owner = Owner::Udp(Weak::new());
        Binding { local, domain: 2, v6_only: false, reuse_address, reuse_port, owner, ticket: 0 }
    }

    #[test]
    fn all_ports_are_given_out_and_come_back() {
        let (space, begun) = (Space::default(), Instant::now());
        let mut bound = Vec::new();
        while let Ok((local, ticket)) = space.bind(udp("0.0.0.0", 0, (false, false))) {
            bound.push((local.port, ticket));
        }
        assert_eq!(bound.len(), 60999 - 32768 + 1);
        assert_eq!(space.bind(udp("127.0.0.1", 0, (true, true))).err(), Some(Errno::EADDRINUSE));
        let (port, ticket) = bound[777];
        space.unbind(Protocol::Udp, port, ticket);
        assert_eq!(space.bind(udp("0.0.0.0", 0, (false, false))).unwrap().0.port, port);
        assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
    }

    #[test]
    fn many_share_a_port_by_the_rules() {
        let (space, begun) = (Space::default(), Instant::now());
        let mut tickets = Vec::new();
        for _ in 0..50_000 {
            tickets.push(space.bind(udp("0.0.0.0", 500, (false, true))).unwrap().1);
        }
        // Who does not share it, does not get it, at any address.
        for ip in ["0.0.0.0", "127.0.0.1", "::"] {
            for reuse in [(false, false), (true, false)] {
                let refused = space.bind(udp(ip, 500, reuse));
                assert_eq!(refused.err(), Some(Errno::EADDRINUSE), "{ip} {reuse:?}");
            }
            space.bind(udp(ip, 500, (true, true))).unwrap();
        }
        for number in 0..50_000u32 {
            let ip = IpAddr::from((0x7f00_0001 + number).to_be_bytes());
            space
                .bind(Binding { local: Endpoint { ip, port: 600 }, ..udp("0.0.0.0", 600, (false, false)) })
                .unwrap();
        }
        assert_eq!(space.bind(udp("127.0.0.9", 600, (true, true))).err(), Some(Errno::EADDRINUSE));
        assert_eq!(space.bind(udp("0.0.0.0", 600, (true, true))).err(), Some(Errno::EADDRINUSE));
        space.bind(udp("128.0.0.1", 600, (false, false))).unwrap();
        for ticket in tickets {
            space.unbind(Protocol::Udp, 500, ticket);
        }
        assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
    }
}
