//! Tables of sockets below `/proc/PID/net`: every socket that some process of the sandbox has open.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use super::About;
use crate::Result;
use crate::abi::net::{AF_INET, AF_INET6, AF_UNIX};
use crate::fd::OpenFile;
use crate::fs::Who;
use crate::ipc::socket::{Kind, SocketFile};

/// Sockets by the key of their open file.
fn all(about: &About) -> Vec<Arc<OpenFile>> {
    let mut found = BTreeMap::new();
    for process in about.world.processes() {
        let mut tables = Vec::new();
        for task in process.tasks() {
            let files = task.files();
            // Threads share a table as a rule.
            if tables.contains(&Arc::as_ptr(&files)) {
                continue;
            }
            tables.push(Arc::as_ptr(&files));
            for (_, entry) in files.list() {
                if SocketFile::of(&entry.file).is_ok() {
                    found.insert(entry.file.key, entry.file);
                }
            }
        }
    }
    found.into_values().collect()
}

/// How many there are.
pub fn count(about: &About) -> usize {
    all(about).len()
}

fn each(about: &About, domain: u32, mut tell: impl FnMut(&SocketFile, u64, u32)) {
    for file in all(about) {
        let Ok(socket) = SocketFile::of(&file) else { continue };
        if socket.socket.domain() == domain {
            let stat = file.file.stat().unwrap_or_default();
            tell(socket, stat.st_ino, stat.st_uid);
        }
    }
}

/// `unix_seq_show()` (net/unix/af_unix.c). Addresses are hidden as from ordinary users.
pub fn show_unix(about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    const ACCEPTS: u32 = 1 << 16;
    let mut out = b"Num       RefCount Protocol Flags    Type St Inode Path\n".to_vec();
    each(about, AF_UNIX, |file, ino, _| {
        let socket = &file.socket;
        let flags = if socket.listening() { ACCEPTS } else { 0 };
        let connected = socket.peer().is_ok();
        let head = format!(
            "{:016x}: {:08X} {:08X} {flags:08X} {:04X} {:02X} {ino:5}",
            0,
            2 + u32::from(connected),
            0,
            socket.kind().number(),
            if connected { 3 } else { 1 },
        );
        out.extend_from_slice(head.as_bytes());
        let name = socket.name().unwrap_or_default();
        // Behind the family: a path up to its zero byte, or an abstract name, which begins with one.
        if let Some(path) = name.get(2..).filter(|path| !path.is_empty()) {
            out.push(b' ');
            let abstracted = path.first() == Some(&0);
            let len = if abstracted {
                path.len()
            } else {
                path.iter().position(|byte| *byte == 0).unwrap_or(path.len())
            };
            out.extend(path.iter().take(len).map(|byte| if *byte == 0 { b'@' } else { *byte }));
        }
        out.push(b'\n');
    });
    Ok(out)
}

/// Address and port of a `sockaddr` as these tables print them: words of the address in the order of memory.
fn place(address: &[u8], words: usize) -> String {
    let port = address.get(2..4).map_or(0, |port| u16::from_be_bytes([port[0], port[1]]));
    let start = if words == 1 { 4 } else { 8 };
    let mut text = String::new();
    for word in 0..words {
        let bytes = address.get(start + 4 * word..start + 4 * word + 4);
        let value = bytes.and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes);
        _ = write!(text, "{value:08X}");
    }
    _ = write!(text, ":{port:04X}");
    text
}

/// The lines of one table (`get_tcp4_sock()` in net/ipv4/tcp_ipv4.c, `udp4_format_sock()` in udp.c).
pub fn inet(about: &About, v6: bool, kind: Kind) -> String {
    let (domain, words) = if v6 { (AF_INET6, 4) } else { (AF_INET, 1) };
    let mut text = String::new();
    let mut slot = 0;
    each(about, domain, |file, ino, uid| {
        let socket = &file.socket;
        if socket.kind() != kind {
            return;
        }
        let local = socket.name().unwrap_or_default();
        let peer = socket.peer();
        let (unread, unsent) = socket.queued().unwrap_or_default();
        let state = match (&peer, socket.listening()) {
            (_, true) => 0x0a,
            (Ok(_), _) => 0x01,
            _ => 0x07,
        };
        let line = format!(
            "{slot:4}: {} {} {state:02X} {unsent:08X}:{unread:08X} 00:00000000 00000000 {uid:5} {:8} {ino} 1 {:016x} {}",
            place(&local, words),
            place(peer.as_deref().unwrap_or_default(), words),
            0,
            0,
            if kind == Kind::Stream { "100 0 0 10 0" } else { "0" },
        );
        let width = match (v6, kind) {
            (false, Kind::Stream) => 149,
            (false, _) => 127,
            _ => 0,
        };
        _ = writeln!(text, "{line:<width$}");
        slot += 1;
    });
    text
}
