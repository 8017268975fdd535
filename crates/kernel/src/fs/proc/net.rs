//! `/proc/PID/net`: the tables of the socket layer.

use super::{About, Entry, counters, line, sockets};
use crate::Result;
use crate::fs::Who;
use crate::ipc::socket::Kind;

pub const ENTRIES: &[Entry] = &[
    Entry::text("anycast6", 0o444, |_, _| Ok(Vec::new())),
    Entry::text("arp", 0o444, |_, _| {
        line("IP address       HW type     Flags       HW address            Mask     Device")
    }),
    Entry::text("dev", 0o444, show_dev),
    Entry::text("dev_mcast", 0o444, |_, _| Ok(Vec::new())),
    Entry::dir("dev_snmp6", &[&[Entry::text("lo", 0o444, counters::show_device)]]),
    Entry::text("fib_trie", 0o444, |_, _| Ok(Vec::new())),
    Entry::text("icmp", 0o444, |_, _| Ok(ip_head(IP_DATAGRAM))),
    Entry::text("icmp6", 0o444, |_, _| Ok(ip_head(IP6_DATAGRAM))),
    Entry::text("if_inet6", 0o444, |_, _| line("00000000000000000000000000000001 01 80 10 80       lo")),
    Entry::text("igmp", 0o444, |_, _| line("Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter")),
    Entry::text("igmp6", 0o444, |_, _| Ok(Vec::new())),
    Entry::text("ip6_flowlabel", 0o444, |_, _| {
        line("Label S Owner  Users  Linger Expires  Dst                              Opt")
    }),
    Entry::text("ipv6_route", 0o444, |_, _| Ok(Vec::new())),
    Entry::text("mcfilter", 0o444, |_, _| Ok(Vec::new())),
    Entry::text("mcfilter6", 0o444, |_, _| Ok(Vec::new())),
    Entry::text("netlink", 0o444, |_, _| {
        line("sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode   ")
    }),
    Entry::text("netstat", 0o444, counters::show_netstat),
    Entry::text("packet", 0o444, |_, _| line("sk               RefCnt Type Proto  Iface R Rmem   User   Inode")),
    Entry::text("protocols", 0o444, show_protocols),
    // Ticks of the packet scheduler's clock (psched_show() in net/sched/sch_api.c).
    Entry::text("psched", 0o444, |_, _| line("000003e8 00000040 000f4240 3b9aca00")),
    Entry::text("ptype", 0o444, |_, _| {
        line("Type Device      Function\n0800          ip_rcv\n86dd          ipv6_rcv")
    }),
    Entry::text("raw", 0o444, |about, _| table(about, IP_DATAGRAM, false, Kind::Raw)),
    Entry::text("raw6", 0o444, |about, _| table(about, IP6_DATAGRAM, true, Kind::Raw)),
    Entry::text("route", 0o444, show_route),
    Entry::text("rt6_stats", 0o444, |_, _| line("0000 0001 0000 0001 0000 0000 0000")),
    Entry::text("rt_cache", 0o444, |_, _| Ok(Vec::new())),
    Entry::text("snmp", 0o444, counters::show_snmp),
    Entry::text("snmp6", 0o444, counters::show_snmp6),
    Entry::text("sockstat", 0o444, show_sockstat),
    Entry::text("sockstat6", 0o444, |_, _| Ok(b"TCP6: inuse 0\nUDP6: inuse 0\nRAW6: inuse 0\n".to_vec())),
    Entry::text("softnet_stat", 0o444, show_softnet),
    Entry::text("tcp", 0o444, |about, _| table(about, TCP, false, Kind::Stream)),
    Entry::text("tcp6", 0o444, |about, _| table(about, TCP6, true, Kind::Stream)),
    Entry::text("udp", 0o444, |about, _| table(about, IP_DATAGRAM, false, Kind::Datagram)),
    Entry::text("udp6", 0o444, |about, _| table(about, IP6_DATAGRAM, true, Kind::Datagram)),
    Entry::text("udplite", 0o444, |_, _| Ok(ip_head(IP_DATAGRAM))),
    Entry::text("udplite6", 0o444, |_, _| Ok(ip_head(IP6_DATAGRAM))),
    Entry::text("unix", 0o444, sockets::show_unix),
    Entry::text("wireless", 0o444, |_, _| Ok(Vec::new())),
];

const TCP: &str =
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
const TCP6: &str = "  sl  local_address                         remote_address                        st tx_queue \
                    rx_queue tr tm->when retrnsmt   uid  timeout inode";
const IP_DATAGRAM: &str = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  \
                           timeout inode ref pointer drops";
const IP6_DATAGRAM: &str = "  sl  local_address                         remote_address                        st \
                            tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops";

/// Lines of IPv4 tables are 149 columns wide (`TMPSZ` in net/ipv4/tcp_ipv4.c), UDP's 127.
fn ip_head(head: &str) -> Vec<u8> {
    let width = match head {
        TCP => 149,
        IP_DATAGRAM => 127,
        _ => 0,
    };
    format!("{head:<width$}\n").into_bytes()
}

/// Only the loopback device, through which nothing goes.
fn show_dev(_about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    let text = concat!(
        "Inter-|   Receive                                                |  Transmit\n",
        " face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls ",
        "carrier compressed\n",
        "    lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0",
        "       0          0\n",
    );
    Ok(text.as_bytes().to_vec())
}

/// Lines are 127 columns wide (net/ipv4/fib_trie.c).
fn show_route(_about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    let head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT";
    line(format_args!("{head:<127}"))
}

fn show_protocols(_about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    let text = "protocol  size sockets  memory press maxhdr  slab module     cl co di ac io in de sh ss gs se re sp bi \
                br ha uh gp em\n";
    Ok(text.as_bytes().to_vec())
}

fn show_sockstat(about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    let lines = |v6, kind| sockets::inet(about, v6, kind).lines().count();
    let (tcp, udp) = (lines(false, Kind::Stream), lines(false, Kind::Datagram));
    let text = format!(
        "sockets: used {}\nTCP: inuse {tcp} orphan 0 tw 0 alloc {tcp} mem 0\nUDP: inuse {udp} mem 0\n\
         UDPLITE: inuse 0\nRAW: inuse {}\nFRAG: inuse 0 memory 0\n",
        sockets::count(about),
        lines(false, Kind::Raw)
    );
    Ok(text.into_bytes())
}

/// A line for each CPU: thirteen counters, its number, one more (softnet_seq_show() in net/core/net-procfs.c).
fn show_softnet(about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    let zeros = ["00000000"; 12].join(" ");
    let lines = about.world.config.cpus.iter().map(|cpu| format!("{zeros} {cpu:08x} 00000000 00000000\n"));
    Ok(lines.collect::<String>().into_bytes())
}

/// Head and lines of a table of internet sockets.
fn table(about: &About, head: &str, v6: bool, kind: Kind) -> Result<Vec<u8>> {
    let mut text = ip_head(head);
    text.extend_from_slice(sockets::inet(about, v6, kind).as_bytes());
    Ok(text)
}
