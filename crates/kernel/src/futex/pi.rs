//! Priority-inheriting futexes (kernel/futex/pi.c): the word holds the owner's tid; who finds it taken queues up in
//! the kernel, and unlocking hands the word to the first in the queue.
//!
//! Lock order: the table, then one queue. A queue is locked while its word is changed, by the thread that changes
//! it, so that the word and the queue agree.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::{Key, exchange, load};
use crate::abi::linux::{FUTEX_OWNER_DIED, FUTEX_TID_MASK, FUTEX_WAITERS};
use crate::call::Ctx;
use crate::wait::{Deadline, WaitQueue};
use crate::world::World;
use crate::{Errno, Result};

/// Every contended lock of a world, and every wait for a requeue.
#[derive(Default)]
pub struct PiTable {
    locks: Mutex<BTreeMap<Key, Arc<Lock>>>,
    requeues: Mutex<Vec<Arc<Requeue>>>,
}

/// A contended lock.
#[derive(Default)]
struct Lock {
    waiters: Mutex<VecDeque<Arc<PiWaiter>>>,
    /// Woken at each handover and at each death of an owner.
    changed: WaitQueue,
}

struct PiWaiter {
    tid: u32,
    /// The word says that this waiter owns it.
    granted: AtomicBool,
}

/// Somebody in `FUTEX_WAIT_REQUEUE_PI`.
struct Requeue {
    key: Key,
    moved: AtomicBool,
    changed: WaitQueue,
}

/// What one look at the word led to.
enum Look {
    Taken,
    /// Owned by this thread: the caller queues up.
    Owned(u32),
    /// Somebody changed it at the same time.
    Again,
}

impl PiTable {
    fn lock(&self, key: Key) -> Arc<Lock> {
        self.locks.lock().entry(key).or_default().clone()
    }

    /// Forgets the lock if nobody waits for it.
    fn release(&self, key: Key, lock: Arc<Lock>) {
        let mut locks = self.locks.lock();
        // Ours and the table's: nobody else is about to queue up.
        if Arc::strong_count(&lock) == 2 && lock.waiters.lock().is_empty() {
            locks.remove(&key);
        }
    }
}

/// A thread has ended: whoever waits for what it owned looks again.
pub fn owner_gone(world: &World) {
    let locks: Vec<_> = world.futexes.locks.lock().values().cloned().collect();
    for lock in locks {
        lock.changed.wake_all();
    }
}

/// `FUTEX_LOCK_PI` and `FUTEX_TRYLOCK_PI`.
pub fn lock(cx: &mut Ctx<'_>, address: u64, key: Key, deadline: Deadline, wait: bool) -> Result<u64> {
    let world = cx.task.world.clone();
    let lock = world.futexes.lock(key);
    let result = acquire(cx, address, &lock, deadline, wait);
    world.futexes.release(key, lock);
    result.map(|()| 0)
}

fn acquire(cx: &mut Ctx<'_>, address: u64, lock: &Arc<Lock>, deadline: Deadline, wait: bool) -> Result<()> {
    let me = Arc::new(PiWaiter { tid: cx.task.tid(), granted: AtomicBool::new(false) });
    for _ in 0..super::ATTEMPTS {
        let owner = {
            let mut waiters = lock.waiters.lock();
            match look(cx, address, &waiters, wait)? {
                Look::Taken => return Ok(()),
                Look::Again => continue,
                Look::Owned(owner) => {
                    waiters.push_back(me.clone());
                    owner
                }
            }
        };
        let waited = cx.task.block(deadline, |table| {
            table.watch(&lock.changed);
            let granted = me.granted.load(Ordering::SeqCst);
            (granted || !is_alive(cx, owner)).then_some(())
        });
        let mut waiters = lock.waiters.lock();
        waiters.retain(|waiter| !Arc::ptr_eq(waiter, &me));
        if me.granted.load(Ordering::SeqCst) {
            return Ok(());
        }
        match waited {
            Ok(()) => {}
            Err(Errno::ERESTARTSYS) => return Err(Errno::ERESTARTNOINTR),
            Err(error) => return Err(error),
        }
    }
    Err(Errno::ERESTARTNOINTR)
}

fn is_alive(cx: &Ctx<'_>, tid: u32) -> bool {
    cx.task.world.task(tid).is_some_and(|task| !task.signals.exiting())
}

/// `futex_lock_pi_atomic()`.
fn look(cx: &mut Ctx<'_>, address: u64, waiters: &VecDeque<Arc<PiWaiter>>, wait: bool) -> Result<Look> {
    let tid = cx.task.tid();
    let word = load(cx, address)?;
    let owner = word & FUTEX_TID_MASK;
    if owner == tid {
        return Err(Errno::EDEADLK);
    }
    let contended = if waiters.is_empty() { 0 } else { FUTEX_WAITERS };
    if owner == 0 {
        let new = tid | (word & FUTEX_OWNER_DIED) | contended;
        return Ok(if exchange(cx, address, word, new)? { Look::Taken } else { Look::Again });
    }
    if !is_alive(cx, owner) {
        // Nobody may have owned it ever; but with waiters of ours it was real, and died (exit_pi_state_list()).
        if word & FUTEX_WAITERS == 0 {
            return Err(Errno::ESRCH);
        }
        let new = tid | FUTEX_OWNER_DIED | contended;
        return Ok(if exchange(cx, address, word, new)? { Look::Taken } else { Look::Again });
    }
    if !wait {
        return Err(Errno::EAGAIN);
    }
    let marked = word | FUTEX_WAITERS;
    let done = word == marked || exchange(cx, address, word, marked)?;
    Ok(if done { Look::Owned(owner) } else { Look::Again })
}

/// `FUTEX_UNLOCK_PI`.
pub fn unlock(cx: &mut Ctx<'_>, address: u64, key: Key) -> Result<u64> {
    let world = cx.task.world.clone();
    let lock = world.futexes.lock(key);
    let result = hand_over(cx, address, &lock);
    world.futexes.release(key, lock);
    result.map(|()| 0)
}

fn hand_over(cx: &mut Ctx<'_>, address: u64, lock: &Lock) -> Result<()> {
    for _ in 0..super::ATTEMPTS {
        let waiters = lock.waiters.lock();
        let word = load(cx, address)?;
        if word & FUTEX_TID_MASK != cx.task.tid() {
            return Err(Errno::EPERM);
        }
        let next = waiters.iter().find(|waiter| !waiter.granted.load(Ordering::SeqCst)).cloned();
        let new = next.as_ref().map_or(0, |next| next.tid | FUTEX_WAITERS);
        if exchange(cx, address, word, new)? {
            if let Some(next) = next {
                next.granted.store(true, Ordering::SeqCst);
            }
            drop(waiters);
            lock.changed.wake_all();
            return Ok(());
        }
    }
    Err(Errno::ERESTARTNOINTR)
}

/// `FUTEX_WAIT_REQUEUE_PI`: sleeps on one word until it is requeued, then takes the lock `target`.
pub fn wait_requeue(
    cx: &mut Ctx<'_>,
    (address, key): (u64, Key),
    value: u32,
    deadline: Deadline,
    (target, target_key): (u64, Key),
) -> Result<u64> {
    let world = cx.task.world.clone();
    let me = Arc::new(Requeue { key, moved: AtomicBool::new(false), changed: WaitQueue::new() });
    world.futexes.requeues.lock().push(me.clone());
    let waited = match load(cx, address) {
        Ok(found) if found == value => cx.task.block(deadline, |table| {
            table.watch(&me.changed);
            me.moved.load(Ordering::SeqCst).then_some(())
        }),
        Ok(_) => Err(Errno::EAGAIN),
        Err(error) => Err(error),
    };
    world.futexes.requeues.lock().retain(|other| !Arc::ptr_eq(other, &me));
    match waited {
        _ if me.moved.load(Ordering::SeqCst) => lock(cx, target, target_key, deadline, true),
        // handle_early_requeue_pi_wakeup(): the caller looks at its condition again.
        Err(Errno::ERESTARTSYS) => Err(Errno::ERESTARTNOINTR),
        Err(error) => Err(error),
        Ok(()) => Ok(0),
    }
}

/// `FUTEX_CMP_REQUEUE_PI`: those who wait on `key` go on to take their lock, in their order; how many.
pub fn requeue(cx: &mut Ctx<'_>, address: u64, key: Key, value: u32, count: usize) -> Result<u64> {
    if load(cx, address)? != value {
        return Err(Errno::EAGAIN);
    }
    let requeues = cx.task.world.futexes.requeues.lock();
    let waiting = requeues.iter().filter(|waiter| waiter.key == key && !waiter.moved.load(Ordering::SeqCst));
    let chosen: Vec<_> = waiting.take(count).cloned().collect();
    drop(requeues);
    for waiter in &chosen {
        waiter.moved.store(true, Ordering::SeqCst);
        waiter.changed.wake_all();
    }
    Ok(chosen.len() as u64)
}
