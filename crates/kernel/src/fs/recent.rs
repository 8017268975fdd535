//! Names that were lately in use are kept although nobody holds them: a clock with a second chance. A name that goes leaves
//! at once, so that its node, and the room that it takes, go with its last user.
//!
//! Lock order: the ring's lock is the last; what falls out of it is dropped after unlocking.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use super::inotify::{IN_DELETE_SELF, Watches};
use super::{Dentry, Inode};

/// How many names are kept.
const RECENT: usize = 4096;

/// The ring of one sandbox, and who is to be told when a node without a name has been let go by all.
pub struct Recent {
    ring: Mutex<Ring>,
    watches: Arc<Watches>,
}

#[derive(Default)]
struct Ring {
    slots: Vec<Option<Arc<Dentry>>>,
    hand: usize,
}

impl Recent {
    pub fn new(watches: Arc<Watches>) -> Arc<Recent> {
        Arc::new(Recent { ring: Mutex::default(), watches })
    }

    /// A name that was gone has been let go by the last who held it: nothing leads to its node any more, unless it has
    /// other names (dentry_unlink_inode() in fs/dcache.c).
    pub fn last_seen(&self, inode: &Arc<dyn Inode>) {
        if let Ok(id) = inode.id()
            && self.watches.watched(id)
            && inode.stat().map_or(true, |stat| stat.st_nlink == 0)
        {
            self.watches.tell(id, IN_DELETE_SELF, 0, b"", inode.is_dir());
        }
    }

    /// Keeps a name for a while.
    ///
    /// 1. It gets a place. 2. It is looked at whether its name is gone. Whoever removes a name marks it so, and then
    ///    empties its place: one of the two finds it.
    pub fn keep(&self, dentry: &Arc<Dentry>) {
        let mut ring = self.ring.lock();
        let at = ring.free();
        let old = match ring.slots.get_mut(at) {
            Some(slot) => slot.replace(dentry.clone()),
            None => {
                ring.slots.push(Some(dentry.clone()));
                None
            }
        };
        ring.hand = at + 1;
        if let Some(old) = &old {
            old.kept.store(0, Ordering::Relaxed);
        }
        dentry.kept.store(at + 1, Ordering::Relaxed);
        drop(ring);
        drop(old);
        if dentry.deleted() {
            self.let_go(dentry);
        }
    }

    /// Keeps it no longer.
    pub fn let_go(&self, dentry: &Dentry) {
        let mut ring = self.ring.lock();
        let at = dentry.kept.swap(0, Ordering::Relaxed);
        let slot = at.checked_sub(1).and_then(|at| ring.slots.get_mut(at));
        let kept = slot.and_then(|slot| slot.take_if(|kept| std::ptr::eq(&**kept, dentry)));
        drop(ring);
        drop(kept);
    }

    /// Keeps nothing.
    pub fn clear(&self) {
        let slots = std::mem::take(&mut self.ring.lock().slots);
        drop(slots);
    }
}

impl Ring {
    /// A place for one more, beyond the end as long as there are few.
    fn free(&mut self) -> usize {
        if self.slots.len() < RECENT {
            return self.slots.len();
        }
        // Once round, all have lost their second chance.
        for _ in 0..RECENT {
            let at = self.hand % RECENT;
            match self.slots.get(at) {
                Some(Some(kept)) if kept.used.swap(false, Ordering::Relaxed) => self.hand = at + 1,
                _ => return at,
            }
        }
        self.hand % RECENT
    }
}
