//! From device numbers to what answers for them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use super::chars::{Char, CharFile};
use crate::fd::File;
use crate::fs::{Inode, Opening, make_dev};
use crate::{Errno, Result};

pub const NULL: u64 = make_dev(1, 3);
pub const ZERO: u64 = make_dev(1, 5);
pub const FULL: u64 = make_dev(1, 7);
pub const RANDOM: u64 = make_dev(1, 8);
pub const URANDOM: u64 = make_dev(1, 9);
/// The caller's controlling terminal.
pub const TTY: u64 = make_dev(5, 0);
/// Makes a new pseudo-terminal.
pub const PTMX: u64 = make_dev(5, 2);

/// Opens devices of one number.
pub trait Driver: Send + Sync {
    /// Opens it, through `inode`.
    fn open(&self, inode: Arc<dyn Inode>, how: &Opening<'_>) -> Result<Arc<dyn File>>;
}

/// Devices that come and go: terminals; a field of the [`crate::world::World`].
#[derive(Default)]
pub struct Devices {
    drivers: RwLock<HashMap<u64, Arc<dyn Driver>>>,
    /// The terminal that was inherited; 0 for none.
    console: AtomicU64,
}

impl Devices {
    /// The terminal that the sandbox inherited.
    pub fn console(&self) -> Option<u64> {
        Some(self.console.load(Ordering::Relaxed)).filter(|rdev| *rdev != 0)
    }

    pub(super) fn set_console(&self, rdev: u64) {
        self.console.store(rdev, Ordering::Relaxed);
    }

    /// `driver` answers for `rdev` from now on.
    pub fn register(&self, rdev: u64, driver: Arc<dyn Driver>) {
        let old = self.drivers.write().insert(rdev, driver);
        drop(old);
    }

    /// Nobody answers for `rdev` any more.
    pub fn remove(&self, rdev: u64) {
        let old = self.drivers.write().remove(&rdev);
        drop(old);
    }

    fn find(&self, rdev: u64) -> Option<Arc<dyn Driver>> {
        self.drivers.read().get(&rdev).cloned()
    }
}

/// Opens the character device that `inode` stands for; `ENXIO` without a driver.
pub fn open(inode: Arc<dyn Inode>, how: &Opening<'_>) -> Result<Arc<dyn File>> {
    let rdev = inode.stat()?.st_rdev;
    let which = match rdev {
        NULL => Char::Null,
        ZERO => Char::Zero,
        FULL => Char::Full,
        RANDOM | URANDOM => Char::Random,
        _ => return open_registered(rdev, inode, how),
    };
    Ok(Arc::new(CharFile::new(which, inode)))
}

/// `/dev/tty` is the terminal of the caller's session (`tty_open_current_tty()`): `ENXIO` without one.
fn open_registered(rdev: u64, inode: Arc<dyn Inode>, how: &Opening<'_>) -> Result<Arc<dyn File>> {
    let task = how.who.task.ok_or(Errno::ENXIO)?;
    if rdev == PTMX {
        return crate::ipc::pty::open_master(task);
    }
    let rdev = if rdev == TTY {
        let session = task.process.session();
        let terminal = *session.terminal.lock();
        terminal.ok_or(Errno::ENXIO)?.rdev
    } else {
        rdev
    };
    task.world.devices.find(rdev).ok_or(Errno::ENXIO)?.open(inode, how)
}
