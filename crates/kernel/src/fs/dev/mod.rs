//! Device files, and the streams that the sandbox inherits.

mod chars;
mod drivers;
mod output;
pub mod stream;
pub mod terminal;

use std::sync::Arc;

pub use chars::{Char, CharFile};
pub use drivers::{Devices, Driver, FULL, NULL, PTMX, RANDOM, TTY, URANDOM, ZERO, open};

use super::mem::{Budget, MemFs};
use super::standard::directory as standard_path;
use super::{FileSystem, NewNode, S_IFCHR, S_IFDIR, S_IFLNK, make_dev};
use crate::Result;

/// Bytes that `/dev` itself may hold: its nodes and what root puts there.
const SIZE: u64 = 1 << 20;

/// Devices that need nothing of the host, by their numbers.
pub fn is_own(rdev: u64) -> bool {
    matches!(rdev, NULL | ZERO | FULL | RANDOM | URANDOM)
}

/// One such device, to be mounted over a file.
pub fn single(rdev: u64) -> Result<Arc<dyn FileSystem>> {
    let fs = MemFs::new("devtmpfs", make_dev(0, 66), 0o755, Budget::new(SIZE));
    let node = fs.orphan(&NewNode { mode: S_IFCHR | 0o666, uid: 0, gid: 0, rdev, target: b"" })?;
    Ok(fs.with_root(node))
}

/// The `/dev` of a sandbox: a memfs with the usual nodes.
pub fn new() -> Result<Arc<dyn FileSystem>> {
    let fs = MemFs::new("devtmpfs", make_dev(0, 66), 0o755, Budget::new(SIZE));
    let root = fs.root();
    let node = |name: &[u8], mode: u32, rdev: u64, target: &[u8]| {
        root.make(name, &NewNode { mode, uid: 0, gid: 0, rdev, target }).map(drop)
    };
    for (name, rdev) in [
        ("null", NULL),
        ("zero", ZERO),
        ("full", FULL),
        ("random", RANDOM),
        ("urandom", URANDOM),
        ("tty", TTY),
        ("ptmx", PTMX),
    ] {
        node(name.as_bytes(), S_IFCHR | 0o666, rdev, b"")?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        node(name.as_bytes(), S_IFLNK | 0o777, 0, target.as_bytes())?;
    }
    for (name, mode) in [("pts", 0o755), ("shm", 0o1777), ("mqueue", 0o1777)] {
        node(name.as_bytes(), S_IFDIR | mode, 0, b"")?;
    }
    Ok(fs)
}
