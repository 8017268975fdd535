//! Names of inodes: the tree of names that is in use or was lately, within one mounted file system.
//!
//! A directory knows its named children weakly; a child holds its parent. So whatever is open or current
//! keeps its chain of parents, a rename moves one object and everybody's path changes with it, and nothing
//! is kept for names that nobody uses, but for a ring of recent ones.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};

use super::recent::Recent;
use super::{Inode, Mount};
use crate::Result;

/// A table of children that has room for more than this, and few in it, is made smaller.
const ROOMY: usize = 64;

/// A name and what it names.
pub struct Dentry {
    inode: Arc<dyn Inode>,
    place: RwLock<Place>,
    children: Mutex<HashMap<Box<[u8]>, Weak<Dentry>>>,
    /// Counts changes among the children, so that a lookup that raced with one is not remembered.
    changes: AtomicU64,
    /// Without a name, but may be given one (`O_TMPFILE` without `O_EXCL`).
    linkable: AtomicBool,
    /// Something is mounted here (in some mount).
    mounted: AtomicBool,
    /// It is in no tree.
    nowhere: bool,
    /// The ring that keeps names of this tree.
    recent: Option<Arc<Recent>>,
    /// Used since the ring last looked.
    pub(super) used: AtomicBool,
    /// The ring's place for it, plus one.
    pub(super) kept: AtomicUsize,
}

struct Place {
    parent: Option<Arc<Dentry>>,
    name: Box<[u8]>,
    deleted: bool,
}

impl Dentry {
    /// A node without a place in any tree (`name` is what is shown for it).
    pub(super) fn nowhere(inode: Arc<dyn Inode>, name: &[u8], recent: Option<&Arc<Recent>>) -> Arc<Dentry> {
        let dentry = Dentry::build(inode, None, name, recent.cloned(), true);
        Arc::new(dentry)
    }

    /// The top of a tree.
    pub(super) fn root(inode: Arc<dyn Inode>, recent: &Arc<Recent>) -> Arc<Dentry> {
        Dentry::new(inode, None, b"", Some(recent.clone()))
    }

    fn below(self: &Arc<Dentry>, inode: Arc<dyn Inode>, name: &[u8]) -> Arc<Dentry> {
        Dentry::new(inode, Some(self.clone()), name, self.recent.clone())
    }

    fn new(
        inode: Arc<dyn Inode>,
        parent: Option<Arc<Dentry>>,
        name: &[u8],
        recent: Option<Arc<Recent>>,
    ) -> Arc<Dentry> {
        Arc::new(Dentry::build(inode, parent, name, recent, false))
    }

    fn build(
        inode: Arc<dyn Inode>,
        parent: Option<Arc<Dentry>>,
        name: &[u8],
        recent: Option<Arc<Recent>>,
        nowhere: bool,
    ) -> Dentry {
        Dentry {
            inode,
            place: RwLock::new(Place { parent, name: name.into(), deleted: false }),
            children: Mutex::default(),
            changes: AtomicU64::new(0),
            linkable: AtomicBool::new(false),
            mounted: AtomicBool::new(false),
            nowhere,
            recent,
            used: AtomicBool::new(false),
            kept: AtomicUsize::new(0),
        }
    }

    /// What the name names.
    pub fn inode(&self) -> &Arc<dyn Inode> {
        &self.inode
    }

    /// The directory it is in; `None` at the top.
    pub fn parent(&self) -> Option<Arc<Dentry>> {
        self.place.read().parent.clone()
    }

    /// The name in the parent.
    pub fn name(&self) -> Box<[u8]> {
        self.place.read().name.clone()
    }

    /// The name was removed.
    pub fn deleted(&self) -> bool {
        self.place.read().deleted
    }

    /// No name leads to it: it has none, or none any more.
    pub fn nameless(&self) -> bool {
        self.nowhere || self.deleted()
    }

    /// Something is mounted here.
    pub fn mounted(&self) -> bool {
        self.mounted.load(Ordering::Acquire)
    }

    pub(super) fn set_mounted(&self) {
        self.mounted.store(true, Ordering::Release);
    }

    /// The child of this name. `last`: it ends the path.
    ///
    /// 1. `changes` is read. 2. The file system is asked, without any lock. 3. The answer is remembered unless
    ///    `changes` moved; whoever changes the directory does so before raising `changes` and forgetting.
    ///
    /// `only` names the one dentry that a node has, if it is one that may have no other.
    pub fn child(
        self: &Arc<Dentry>,
        name: &[u8],
        last: bool,
        volatile: bool,
        only: impl FnOnce(&dyn Inode) -> Option<Arc<Dentry>>,
    ) -> Result<Arc<Dentry>> {
        let known = if volatile { None } else { self.known(name) };
        if let Some(child) = known {
            if child.mounted() || self.inode.still(name, &child.inode, last) {
                return Ok(child);
            }
            self.forget(name, &child);
        }
        let changes = self.changes.load(Ordering::Acquire);
        let inode = if last { self.inode.lookup(name) } else { self.inode.lookup_on_way(name) }?;
        if let Some(child) = only(&*inode) {
            return Ok(child);
        }
        let child = self.below(inode, name);
        let displaced;
        {
            let mut children = self.children.lock();
            if self.changes.load(Ordering::Acquire) != changes {
                return Ok(child);
            }
            // Two lookups at once: the first one's dentry is the one that renames will move.
            if let Some(other) = children.get(name).and_then(Weak::upgrade) {
                if !volatile && Arc::ptr_eq(&other.inode, &child.inode) || other.mounted() {
                    drop(children);
                    return Ok(other);
                }
                displaced = Some(other);
            } else {
                displaced = None;
            }
            children.insert(name.into(), Arc::downgrade(&child));
        }
        displaced.iter().for_each(|other| other.let_go());
        if let (false, Some(recent)) = (volatile, &self.recent) {
            recent.keep(&child);
        }
        Ok(child)
    }

    /// The dentry of a node that was just made under `name`.
    pub fn made(self: &Arc<Dentry>, name: &[u8], inode: Arc<dyn Inode>) -> Arc<Dentry> {
        let child = self.below(inode, name);
        self.changes.fetch_add(1, Ordering::AcqRel);
        let old = self.children.lock().insert(name.into(), Arc::downgrade(&child));
        if let Some(old) = old.and_then(|old| old.upgrade()) {
            old.let_go();
        }
        child
    }

    /// A node without a name whose path shows as deleted (`O_TMPFILE`).
    pub fn unnamed(self: &Arc<Dentry>, name: &[u8], inode: Arc<dyn Inode>, linkable: bool) -> Arc<Dentry> {
        let child = self.below(inode, name);
        child.place.write().deleted = true;
        child.linkable.store(linkable, Ordering::Relaxed);
        child
    }

    /// A node without a name may be given one.
    pub fn linkable(&self) -> bool {
        self.linkable.load(Ordering::Relaxed)
    }

    fn known(&self, name: &[u8]) -> Option<Arc<Dentry>> {
        let child = self.children.lock().get(name)?.upgrade()?;
        child.used.store(true, Ordering::Relaxed);
        Some(child)
    }

    /// A stale child, changed behind our back: what holds it keeps it, new walks look up anew.
    fn forget(&self, name: &[u8], child: &Arc<Dentry>) {
        {
            let mut children = self.children.lock();
            if children.get(name).is_some_and(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(child))) {
                children.remove(name);
            }
        }
        child.let_go();
    }

    /// Only who holds it keeps it.
    fn let_go(&self) {
        if let Some(recent) = &self.recent {
            recent.let_go(self);
        }
    }

    /// The name leads to it no more.
    fn lose(&self) {
        self.place.write().deleted = true;
        self.let_go();
    }

    /// The name was removed from this directory.
    pub fn removed(&self, name: &[u8]) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        let child = self.children.lock().remove(name).and_then(|child| child.upgrade());
        if let Some(child) = child {
            child.lose();
        }
    }

    /// What was `old` in `from` is now `new` in `to`; `exchange`: and the other way round.
    pub fn renamed(from: &Arc<Dentry>, old: &[u8], to: &Arc<Dentry>, new: &[u8], exchange: bool) {
        from.changes.fetch_add(1, Ordering::AcqRel);
        to.changes.fetch_add(1, Ordering::AcqRel);
        let moved = from.children.lock().remove(old);
        let target = to.children.lock().remove(new);
        if let Some(moved) = moved.and_then(|moved| moved.upgrade()) {
            moved.put(to, new);
        }
        if let Some(target) = target.and_then(|target| target.upgrade()) {
            if exchange {
                target.put(from, old);
            } else {
                target.lose();
            }
        }
    }

    fn put(self: &Arc<Dentry>, parent: &Arc<Dentry>, name: &[u8]) {
        let old = {
            let mut place = self.place.write();
            place.name = name.into();
            place.deleted = false;
            place.parent.replace(parent.clone())
        };
        drop(old);
        parent.children.lock().insert(name.into(), Arc::downgrade(self));
    }

    /// `self` is `other` or lies below it.
    pub fn is_below(self: &Arc<Dentry>, other: &Arc<Dentry>) -> bool {
        let mut at = Some(self.clone());
        while let Some(dentry) = at {
            if Arc::ptr_eq(&dentry, other) {
                return true;
            }
            at = dentry.parent();
        }
        false
    }

    /// Leaves the parent's list of children.
    fn leave(&mut self) -> Option<Arc<Dentry>> {
        let place = self.place.get_mut();
        let parent = place.parent.take()?;
        let mut children = parent.children.lock();
        // Another one may have the name by now.
        if children.get(&place.name).is_some_and(|known| known.strong_count() == 0) {
            children.remove(&place.name);
            if children.capacity() > ROOMY && children.len() < children.capacity() / 8 {
                children.shrink_to_fit();
            }
        }
        drop(children);
        Some(parent)
    }
}

impl Drop for Dentry {
    /// Not recursive along the parents: guests choose how deep a tree is.
    fn drop(&mut self) {
        if self.nameless()
            && let Some(recent) = &self.recent
        {
            recent.last_seen(&self.inode);
        }
        let mut next = self.leave();
        while let Some(parent) = next {
            next = Arc::into_inner(parent).and_then(|mut parent| parent.leave());
        }
    }
}

/// A place in the tree of mounts: what a descriptor was opened at.
#[derive(Clone)]
pub struct PathRef {
    pub mount: Arc<Mount>,
    pub dentry: Arc<Dentry>,
}

impl PathRef {
    /// What is there.
    pub fn inode(&self) -> &Arc<dyn Inode> {
        self.dentry.inode()
    }

    /// The very same place.
    pub fn same(&self, other: &PathRef) -> bool {
        Arc::ptr_eq(&self.dentry, &other.dentry) && Arc::ptr_eq(&self.mount, &other.mount)
    }

    /// The directory above, across mounts, never above `root`.
    pub fn parent(&self, root: &PathRef) -> PathRef {
        let mut at = self.clone();
        loop {
            if at.same(root) {
                return at;
            }
            if let Some(parent) = at.dentry.parent() {
                return PathRef { mount: at.mount, dentry: parent };
            }
            match at.mount.place() {
                Some(place) => at = place,
                None => return at,
            }
        }
    }

    /// The absolute path as seen from `root`, and whether it really starts there (`d_path`, fs/d_path.c).
    pub fn path_from(&self, root: &PathRef) -> (Vec<u8>, bool) {
        let mut parts: Vec<Box<[u8]>> = Vec::new();
        let mut at = self.clone();
        let reachable = loop {
            if at.same(root) {
                break true;
            }
            match at.dentry.parent() {
                Some(parent) => {
                    parts.push(at.dentry.name());
                    at.dentry = parent;
                }
                None => match at.mount.place() {
                    Some(place) => at = place,
                    None => {
                        let name = at.dentry.name();
                        if !name.is_empty() {
                            // A node outside every tree: its name says it all (`pipe:[7]`).
                            return (name.into(), true);
                        }
                        break false;
                    }
                },
            }
        };
        let mut path = Vec::new();
        for part in parts.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(part);
        }
        if path.is_empty() {
            path.push(b'/');
        }
        (path, reachable)
    }

    /// As `path_from`, with ` (deleted)` behind the path of an unlinked file: what `/proc/self/fd/N` shows.
    pub fn display(&self, root: &PathRef) -> Vec<u8> {
        let (mut path, _) = self.path_from(root);
        if self.dentry.deleted() {
            path.extend_from_slice(b" (deleted)");
        }
        path
    }
}

impl std::fmt::Debug for PathRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", crate::shown::Short(&self.dentry.name()))
    }
}
