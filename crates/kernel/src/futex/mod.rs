//! Futexes that the kernel serves.
//!
//! Plain ones are the host's: guest threads wait and wake there by themselves (DESIGN.md section 4, lane 2). What
//! comes here all the same came from a call site that is not rewritten, or needs the kernel:
//! - plain waits sleep for a short while and say that they were woken: futex(2) allows that, callers look again;
//! - priority-inheriting locks ([`pi`]) hold guest tids, which the host does not know. Ownership is right; nobody's
//!   priority is raised.

pub mod pi;

use std::sync::Arc;

use coracle_platform::{Gone, Space};

use crate::call::Ctx;
use crate::{Errno, Result};

/// Attempts at an atomic change of a word that others keep changing, before the call starts over.
const ATTEMPTS: usize = 100;

/// What identifies a futex (`union futex_key`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A word of one address space.
    Private { space: usize, address: u64 },
    /// A word of a file that several may map.
    Shared { dev: u64, ino: u64, offset: u64 },
}

/// `get_futex_key()`: `EINVAL` if not aligned, `EFAULT` if not mapped.
pub fn key(space: &Arc<dyn Space>, address: u64, private: bool) -> Result<Key> {
    if !address.is_multiple_of(4) {
        return Err(Errno::EINVAL);
    }
    crate::mem::check_range(address, 4)?;
    let own = Key::Private { space: Arc::as_ptr(space).cast::<()>() as usize, address };
    if private {
        return Ok(own);
    }
    let holds = |mapping: &&coracle_platform::Mapping| (mapping.start..mapping.end).contains(&address);
    let mappings = space.mappings();
    let mapping = mappings.iter().find(holds).ok_or(Errno::EFAULT)?;
    Ok(if mapping.shared {
        let offset = mapping.offset.wrapping_add(address - mapping.start);
        Key::Shared { dev: mapping.dev, ino: mapping.ino, offset }
    } else {
        own
    })
}

/// Reads the word, or `EFAULT`.
pub fn load(cx: &Ctx<'_>, address: u64) -> Result<u32> {
    let mut bytes = [0; 4];
    if cx.space.read(address, &mut bytes) == 4 { Ok(u32::from_ne_bytes(bytes)) } else { Err(Errno::EFAULT) }
}

/// Stores `new` if the word is `old`; whether it was.
pub fn exchange(cx: &mut Ctx<'_>, address: u64, old: u32, new: u32) -> Result<bool> {
    let found = cx.thread.compare_exchange(address, old, new).map_err(gone)?;
    Ok(found? == old)
}

/// Changes the word atomically; returns what was there.
pub fn update(cx: &mut Ctx<'_>, address: u64, change: impl Fn(u32) -> u32) -> Result<u32> {
    for _ in 0..ATTEMPTS {
        let old = load(cx, address)?;
        if exchange(cx, address, old, change(old))? {
            return Ok(old);
        }
    }
    Err(Errno::ERESTARTNOINTR)
}

/// Wakes waiters that sleep in the host; how many.
pub fn wake(cx: &mut Ctx<'_>, address: u64, count: u32) -> Result<u64> {
    if count == 0 { Ok(0) } else { cx.thread.futex_wake(address, count).map_err(gone) }
}

/// The next run says how the worker died; the result goes nowhere.
fn gone(_: Gone) -> Errno {
    Errno::EFAULT
}
