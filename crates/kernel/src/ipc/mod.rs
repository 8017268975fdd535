//! Objects through which processes talk: pipes, event counters, epoll, sockets, System V and POSIX IPC.

pub mod epoll;
pub mod eventfd;
pub mod glue;
pub mod pipe;
pub mod socket;
pub mod sysv;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// What the IPC objects of one sandbox share: inode numbers, names, identifiers.
#[derive(Default)]
pub struct Ipc {
    next_ino: AtomicU64,
    /// Guards the shape of nested epolls.
    pub epoll_nesting: Mutex<()>,
    pub unix: Arc<socket::unix::Space>,
    pub inet: Arc<socket::inet::Space>,
    pub sysv: sysv::Sysv,
}

impl Ipc {
    /// A fresh inode number of pipefs or sockfs.
    pub fn next_ino(&self) -> u64 {
        // Below lie the shared anonymous inodes.
        self.next_ino.fetch_add(1, Ordering::Relaxed) + 4096
    }
}
