//! What a dying thread leaves in guest memory: robust futexes are marked and woken, `clear_child_tid` is
//! cleared (`exit_robust_list()` in kernel/futex/core.c, `mm_release()` in kernel/fork.c).

use std::sync::atomic::Ordering;

use coracle_platform::{Gone, Space, Thread};

use super::Task;
use crate::abi::linux::{FUTEX_OWNER_DIED, FUTEX_TID_MASK, FUTEX_WAITERS};
use crate::syscalls::sched::RSEQ_UNREGISTER;

/// `ROBUST_LIST_LIMIT`: a guest may have made the list a circle.
const LIMIT: usize = 2048;
/// A word that others keep changing is given up after this many attempts.
const ATTEMPTS: usize = 1000;

/// Called by the thread's own kernel thread, with the worker alive and the guest at rest; also in `execve`.
/// `alone`: nobody else uses the address space, so nobody can see what happens to it.
pub(super) fn release(task: &Task, space: &dyn Space, thread: &mut dyn Thread, alone: bool) -> Result<(), Gone> {
    let head = task.robust_list.swap(0, Ordering::Relaxed);
    if head != 0 {
        walk(task.tid(), head, space, thread)?;
    }
    if alone {
        return Ok(());
    }
    // Whoever waits for the word may unmap the rseq area at once, and the host writes to it whenever it interrupts
    // the thread: so that goes first.
    let rseq = task.rseq.lock().take().map(|(area, len, signature)| (area, len, RSEQ_UNREGISTER, signature));
    let cleared = task.clear_child_tid.swap(0, Ordering::Relaxed);
    if rseq.is_some() || cleared != 0 { thread.farewell(rseq, (cleared != 0).then_some(cleared)) } else { Ok(()) }
}

fn words<const N: usize>(space: &dyn Space, address: u64) -> Option<[u64; N]> {
    let mut bytes = [0; 64];
    let bytes = bytes.get_mut(..N * 8)?;
    if space.read(address, bytes) < bytes.len() {
        return None;
    }
    let mut words = [0; N];
    for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = chunk.first_chunk::<8>().map_or(0, |chunk| u64::from_ne_bytes(*chunk));
    }
    Some(words)
}

fn word(space: &dyn Space, address: u64) -> Option<u64> {
    let mut bytes = [0; 8];
    (space.read(address, &mut bytes) == 8).then(|| u64::from_ne_bytes(bytes))
}

/// Bit 0 of a list pointer says that the futex is a PI one.
fn split(entry: u64) -> (u64, bool) {
    (entry & !1, entry & 1 != 0)
}

fn walk(tid: u32, head: u64, space: &dyn Space, thread: &mut dyn Thread) -> Result<(), Gone> {
    let Some([first, offset, pending]) = words::<3>(space, head) else { return Ok(()) };
    let (pending, pending_pi) = split(pending);
    let (mut entry, mut pi) = split(first);
    for _ in 0..LIMIT {
        if entry == head {
            break;
        }
        // The entry may be freed as soon as its futex is released.
        let next = word(space, entry);
        if entry != pending && !release_one(tid, entry.wrapping_add(offset), pi, false, space, thread)? {
            return Ok(());
        }
        let Some(next) = next else { return Ok(()) };
        (entry, pi) = split(next);
    }
    if pending != 0 {
        release_one(tid, pending.wrapping_add(offset), pending_pi, true, space, thread)?;
    }
    Ok(())
}

/// `handle_futex_death()`; `false` on a bad address.
fn release_one(
    tid: u32,
    address: u64,
    pi: bool,
    pending: bool,
    space: &dyn Space,
    thread: &mut dyn Thread,
) -> Result<bool, Gone> {
    let mut bytes = [0; 4];
    if !address.is_multiple_of(4) || space.read(address, &mut bytes) < 4 {
        return Ok(false);
    }
    let mut value = u32::from_ne_bytes(bytes);
    for _ in 0..ATTEMPTS {
        // Unlocked just before death, the waiter not yet woken.
        if pending && !pi && value == 0 {
            thread.futex_wake(address, 1)?;
            return Ok(true);
        }
        if value & FUTEX_TID_MASK != tid {
            return Ok(true);
        }
        let marked = (value & FUTEX_WAITERS) | FUTEX_OWNER_DIED;
        match thread.compare_exchange(address, value, marked)? {
            Err(_) => return Ok(false),
            Ok(found) if found == value => {
                if !pi && value & FUTEX_WAITERS != 0 {
                    thread.futex_wake(address, 1)?;
                }
                return Ok(true);
            }
            Ok(found) => value = found,
        }
    }
    Ok(true)
}
