//! Locks of directories of the host, for as long as a check of a name and what follows it take (Linux's `i_rwsem`).
//!
//! By identity, because a directory can have several nodes: it may be shown at several places. Directories share locks;
//! nothing else is locked while one is held, but by `two`, which takes them in order.

use parking_lot::{Mutex, MutexGuard};

use super::descriptor::Identity;

const COUNT: usize = 64;

static LOCKS: [Mutex<()>; COUNT] = [const { Mutex::new(()) }; COUNT];

fn index(directory: Identity) -> usize {
    (directory.ino ^ directory.dev) as usize % COUNT
}

fn lock(index: usize) -> Option<MutexGuard<'static, ()>> {
    LOCKS.get(index).map(|lock| lock.lock())
}

/// Locks a directory.
pub(super) fn one(directory: Identity) -> impl Sized {
    lock(index(directory))
}

/// Locks two, which may be the same.
pub(super) fn two(a: Identity, b: Identity) -> impl Sized {
    let (a, b) = (index(a), index(b));
    let first = lock(a.min(b));
    (first, (a != b).then(|| lock(a.max(b))))
}
