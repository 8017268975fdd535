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
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

/// What the IPC objects of one sandbox share: inode numbers, names, identifiers.
#[derive(Default)]
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
    pub inet: Arc<socket::inet::Space>,
    pub sysv: sysv::Sysv,
    pub mqueue: mqueue::Names,
    pub ptys: pty::Numbers,
}

impl Ipc {
    /// Sockets of the internet families are the host's from now on (`--net host`).
    pub fn use_host_network(&self) {
        self.host_network.store(true, Ordering::Relaxed);
    }

    /// They are.
    pub fn host_network(&self) -> bool {
        self.host_network.load(Ordering::Relaxed)
    }

    /// A fresh inode number of pipefs or sockfs.
    pub fn next_ino(&self) -> u64 {
        // Below lie the shared anonymous inodes.
        self.next_ino.fetch_add(1, Ordering::Relaxed) + 4096
    }
}
