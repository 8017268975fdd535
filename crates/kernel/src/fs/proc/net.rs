//! `/proc/PID/net` and `/proc/sysvipc`: the tables of the socket layer and of System V IPC.

use super::{Entry, line};
use crate::Result;
use crate::fs::Who;
use crate::fs::synth::About;

pub const ENTRIES: &[Entry] = &[
    Entry::text("arp", 0o444, |_, _| {
        line("IP address       HW type     Flags       HW address            Mask     Device")
    }),
    Entry::text("dev", 0o444, show_dev),
    Entry::text("dev_mcast", 0o444, |_, _| Ok(Vec::new())),
    Entry::text("fib_trie", 0o444, |_, _| Ok(Vec::new())),
    Entry::text("icmp", 0o444, |_, _| Ok(ip_head(IP_DATAGRAM))),
    Entry::text("if_inet6", 0o444, |_, _| line("00000000000000000000000000000001 01 80 10 80       lo")),
    Entry::text("igmp", 0o444, |_, _| line("Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter")),
    Entry::text("ipv6_route", 0o444, |_, _| Ok(Vec::new())),
    Entry::text("netlink", 0o444, |_, _| {
        line("sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode   ")
    }),
    Entry::text("netstat", 0o444, |_, _| Ok(Vec::new())),
    Entry::text("packet", 0o444, |_, _| line("sk               RefCnt Type Proto  Iface R Rmem   User   Inode")),
    Entry::text("protocols", 0o444, show_protocols),
    Entry::text("raw", 0o444, |_, _| Ok(ip_head(IP_DATAGRAM))),
    Entry::text("raw6", 0o444, |_, _| Ok(ip_head(IP6_DATAGRAM))),
    Entry::text("route", 0o444, show_route),
    Entry::text("rt_cache", 0o444, |_, _| Ok(Vec::new())),
    Entry::text("snmp", 0o444, |_, _| Ok(Vec::new())),
    Entry::text("sockstat", 0o444, show_sockstat),
    Entry::text("sockstat6", 0o444, |_, _| Ok(b"TCP6: inuse 0\nUDP6: inuse 0\nRAW6: inuse 0\n".to_vec())),
    Entry::text("softnet_stat", 0o444, |_, _| Ok(Vec::new())),
    Entry::text("tcp", 0o444, |_, _| Ok(ip_head(TCP))),
    Entry::text("tcp6", 0o444, |_, _| Ok(ip_head(TCP6))),
    Entry::text("udp", 0o444, |_, _| Ok(ip_head(IP_DATAGRAM))),
    Entry::text("udp6", 0o444, |_, _| Ok(ip_head(IP6_DATAGRAM))),
    Entry::text("udplite", 0o444, |_, _| Ok(ip_head(IP_DATAGRAM))),
    Entry::text("udplite6", 0o444, |_, _| Ok(ip_head(IP6_DATAGRAM))),
    Entry::text("unix", 0o444, show_unix),
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
    let tasks = about.world.processes().into_iter().filter_map(|process| process.any_task());
    let files = tasks.flat_map(|task| task.files().list());
    let mut keys: Vec<u64> = files
        .filter(|(_, entry)| entry.file.path.is_none() && entry.file.file.description().starts_with("socket:"))
        .map(|(_, entry)| entry.file.key)
        .collect();
    keys.sort_unstable();
    keys.dedup();
    let text = format!(
        "sockets: used {}\nTCP: inuse 0 orphan 0 tw 0 alloc 0 mem 0\nUDP: inuse 0 mem 0\nUDPLITE: inuse 0\n\
         RAW: inuse 0\nFRAG: inuse 0 memory 0\n",
        keys.len()
    );
    Ok(text.into_bytes())
}

fn show_unix(_about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    line("Num       RefCount Protocol Flags    Type St Inode Path")
}

pub const SYSVIPC: &[Entry] = &[
    Entry::text("msg", 0o444, |_, _| {
        line(
            "       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid      stime      rtime      ctime",
        )
    }),
    Entry::text("sem", 0o444, |_, _| {
        line("       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime")
    }),
    Entry::text("shm", 0o444, |_, _| {
        line(
            "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime                   rss                  swap",
        )
    }),
];
