//! Objects through which processes talk: pipes, event counters, epoll, sockets, System V and POSIX IPC.

pub mod epoll;
pub mod eventfd;
pub mod glue;
pub mod mqueue;
pub mod pipe;
pub mod pty;
pub mod quota;
pub mod socket;
pub mod sysv;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::task::{Caps, Cred};

/// The first port that needs no privilege, unless the host says something else (`PROT_SOCK`, include/net/sock.h).
const PROT_SOCK: u32 = 1024;

/// What the IPC objects of one sandbox share: inode numbers, names, identifiers.
pub struct Ipc {
    next_ino: AtomicU64,
    /// Guards the shape of nested epolls.
    pub epoll_nesting: Mutex<()>,
    /// Files that epolls watch (`fs.epoll.max_user_watches`).
    pub epoll_watches: Arc<quota::Quota>,
    /// Buffers of pipes (`fs.pipe-user-pages-soft`).
    pub pipe_pages: Arc<quota::Quota>,
    pub unix: Arc<socket::unix::Space>,
    host_network: AtomicBool,
    /// `net.ipv4.ip_unprivileged_port_start`.
    first_port: AtomicU32,
    pub inet: Arc<socket::inet::Space>,
    pub sysv: sysv::Sysv,
    pub mqueue: mqueue::Names,
    pub ptys: pty::Numbers,
}

impl Default for Ipc {
    fn default() -> Ipc {
        Ipc {
            next_ino: AtomicU64::new(0),
            epoll_nesting: Mutex::default(),
            epoll_watches: Arc::default(),
            pipe_pages: Arc::default(),
            unix: Arc::default(),
            host_network: AtomicBool::new(false),
            first_port: AtomicU32::new(PROT_SOCK),
            inet: Arc::default(),
            sysv: sysv::Sysv::default(),
            mqueue: mqueue::Names::default(),
            ptys: pty::Numbers::default(),
        }
    }
}

impl Ipc {
    /// Sockets of the internet families are the host's from now on (`--net host`). `first_port` is the first that the
    /// host gives without privilege.
    pub fn use_host_network(&self, first_port: Option<u32>) {
        self.host_network.store(true, Ordering::Relaxed);
        self.first_port.store(first_port.unwrap_or(PROT_SOCK), Ordering::Relaxed);
    }

    /// The first port that needs no privilege (`net.ipv4.ip_unprivileged_port_start`).
    pub fn first_port(&self) -> u32 {
        self.first_port.load(Ordering::Relaxed)
    }

    /// Whether the guest may bind to a port: by its own credentials, whatever this process may
    /// (inet_port_requires_bind_service()).
    pub fn may_bind(&self, cred: &Cred, port: u16) -> bool {
        port == 0 || u32::from(port) >= self.first_port() || cred.capable(Caps::NET_BIND_SERVICE)
    }

    /// They are.
    pub fn host_network(&self) -> bool {
        self.host_network.load(Ordering::Relaxed) && !crate::decisions::own_network_only()
    }

    /// A fresh inode number of pipefs or sockfs.
    pub fn next_ino(&self) -> u64 {
        // Below lie the shared anonymous inodes.
        self.next_ino.fetch_add(1, Ordering::Relaxed) + 4096
    }
}
