//! Objects through which processes talk: pipes, event counters, epoll, sockets, System V and POSIX IPC.

pub mod glue;
pub mod pipe;

use std::sync::atomic::{AtomicU64, Ordering};

/// What the IPC objects of one sandbox share: inode numbers, names, identifiers.
#[derive(Default)]
pub struct Ipc {
    next_ino: AtomicU64,
}

impl Ipc {
    /// A fresh inode number of pipefs or sockfs.
    pub fn next_ino(&self) -> u64 {
        // Below lie the shared anonymous inodes.
        self.next_ino.fetch_add(1, Ordering::Relaxed) + 4096
    }
}
