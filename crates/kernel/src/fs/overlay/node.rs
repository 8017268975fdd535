//! Nodes of an overlay. `copy_up` is how they change, `names` what directories hold.

mod copy_up;
mod names;

pub(super) use copy_up::Contents;

use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};

use super::{OverlayFile, Shared};
use crate::abi::linux::{O_ACCMODE, O_RDONLY, O_TRUNC, RENAME_EXCHANGE};
use crate::abi::types::Stat;
use crate::fd::File;
use crate::fs::inode::replaced;
use crate::fs::mem::MemInode;
use crate::fs::perm::{self, Access};
use crate::fs::{
    DirFile, Inode, Listed, NewNode, Opening, S_IFDIR, S_IFLNK, S_IFREG, SetAttr, Slot, Target, Who, dirent_kind,
};
use crate::{Errno, Result};

/// A file, directory or other node as the overlay shows it.
pub struct Node {
    shared: Arc<Shared>,
    pub(super) lower: Option<Arc<dyn Inode>>,
    id: (u64, u64),
    kind: u32,
    /// Attributes once they changed, and contents if `data_up`.
    upper: RwLock<Option<Arc<MemInode>>>,
    /// The contents of a regular file are the upper node's.
    data_up: AtomicBool,
    /// Held while a change is prepared that must happen once.
    copying: Mutex<()>,
    /// Names gained and lost here; for directories, subdirectories.
    links: AtomicI64,
    /// A directory that was removed.
    removed: AtomicBool,
    names: Mutex<Names>,
    /// Unchanged children that are in use, so that one name always leads to one node.
    seen: Mutex<HashMap<Box<[u8]>, Weak<Node>>>,
    /// Where it was found in the lower tree, until the directory there remembers it.
    origin: Mutex<Option<Place>>,
    /// Where it is in the lower tree, for listing changes.
    pub(super) home: Option<(Weak<Node>, Box<[u8]>)>,
    slot: Slot,
    this: Weak<Node>,
}

/// A name in a directory.
type Place = (Arc<Node>, Box<[u8]>);

#[derive(Default)]
pub(super) struct Names {
    pub(super) map: HashMap<Box<[u8]>, Entry>,
    next: u64,
}

/// How a directory differs from the lower one.
pub(super) enum Entry {
    Node {
        /// Of arrival.
        order: u64,
        node: Arc<Node>,
        /// The lower directory has the name, too: when this goes, a whiteout must stay.
        hides: bool,
    },
    /// The lower name is gone (a whiteout).
    Gone,
}

impl Node {
    /// A node of the lower tree, found as a name of a directory.
    pub(super) fn from_lower(
        shared: &Arc<Shared>,
        lower: Arc<dyn Inode>,
        id: (u64, u64),
        kind: u32,
        place: Option<(Arc<Node>, &[u8])>,
    ) -> Arc<Node> {
        let home = place.as_ref().map(|(parent, name)| (Arc::downgrade(parent), Box::from(*name)));
        let origin = place.map(|(parent, name)| (parent, Box::from(name)));
        Node::build(shared, Some(lower), id, kind, None, origin, home)
    }

    fn build(
        shared: &Arc<Shared>,
        lower: Option<Arc<dyn Inode>>,
        id: (u64, u64),
        kind: u32,
        upper: Option<Arc<MemInode>>,
        origin: Option<Place>,
        home: Option<(Weak<Node>, Box<[u8]>)>,
    ) -> Arc<Node> {
        Arc::new_cyclic(|this| Node {
            shared: shared.clone(),
            data_up: AtomicBool::new(lower.is_none()),
            lower,
            id,
            kind,
            upper: RwLock::new(upper),
            copying: Mutex::default(),
            links: AtomicI64::new(0),
            removed: AtomicBool::new(false),
            names: Mutex::default(),
            seen: Mutex::default(),
            origin: Mutex::new(origin),
            home,
            slot: Slot::default(),
            this: this.clone(),
        })
    }

    fn create(&self, new: &NewNode<'_>) -> Result<Arc<Node>> {
        let id = (self.id.0, self.shared.mem.number());
        let upper = self.shared.mem.stand_in(new, id.0, id.1)?;
        Ok(Node::build(&self.shared, None, id, upper.kind(), Some(upper), None, None))
    }

    fn this(&self) -> Result<Arc<Node>> {
        self.this.upgrade().ok_or(Errno::ENOENT)
    }

    /// The memory node, if anything about it changed.
    pub fn upper(&self) -> Option<Arc<MemInode>> {
        self.upper.read().clone()
    }

    /// The contents of a regular file are in memory.
    pub fn data_up(&self) -> bool {
        self.data_up.load(Ordering::Acquire)
    }

    pub(super) fn names(&self) -> parking_lot::MutexGuard<'_, Names> {
        self.names.lock()
    }

    fn directory(&self) -> Result<()> {
        if self.kind == S_IFDIR { Ok(()) } else { Err(Errno::ENOTDIR) }
    }

    fn nlink(&self, base: u64) -> u64 {
        if self.removed.load(Ordering::Relaxed) {
            return 0;
        }
        base.saturating_add_signed(self.links.load(Ordering::Relaxed))
    }

    /// The link count, from the one that the lower file has.
    pub(super) fn links_of(&self, lower: u64) -> u64 {
        self.nlink(lower)
    }

    /// It is called what the lower tree calls it.
    pub(super) fn is_at_home(&self, parent: &Arc<Node>, name: &[u8]) -> bool {
        self.home.as_ref().is_some_and(|(home, called)| home.as_ptr() == Arc::as_ptr(parent) && **called == *name)
    }

    /// It shows something else than the lower node: contents, owner or permissions.
    pub(super) fn differs(&self) -> bool {
        let (Some(upper), Some(lower)) = (self.upper(), &self.lower) else { return false };
        let changed = match (upper.access_info(), lower.access_info()) {
            (Ok(a), Ok(b)) => a != b,
            _ => true,
        };
        changed || (self.kind == S_IFREG && self.data_up())
    }

    fn count_links(&self, change: i64) {
        self.links.fetch_add(change, Ordering::Relaxed);
    }

    /// A name of something that is no directory is gone. With the last one nothing leads to it but what is open.
    fn lose_link(&self) {
        self.count_links(-1);
        let Some(upper) = self.upper() else { return };
        upper.release_name();
        if self.nlink(upper.meta().nlink) == 0 {
            let gone = {
                let mut linked = self.shared.linked.lock();
                match linked.get(&self.id) {
                    Some(node) if std::ptr::eq(&**node, self) => linked.remove(&self.id),
                    _ => None,
                }
            };
            drop(gone);
        }
    }

    /// It must not come back to where it was found when somebody who has it open changes it.
    fn leave_origin(&self) {
        let origin = self.origin.lock().take();
        drop(origin);
    }

    fn changed(&self) {
        if let Ok(upper) = self.attributes_up() {
            upper.edit_meta(|meta| meta.ctime = crate::fs::now());
        }
    }

    fn is_directory(&self) -> i64 {
        i64::from(self.kind == S_IFDIR)
    }
}

fn downcast(inode: &Arc<dyn Inode>) -> Result<Arc<Node>> {
    let any: Arc<dyn Any + Send + Sync> = inode.clone();
    any.downcast().map_err(|_| Errno::EXDEV)
}

impl Inode for Node {
    fn stat(&self) -> Result<Stat> {
        let upper = self.upper();
        let mut stat = match (&upper, &self.lower) {
            (None, Some(lower)) => lower.stat()?,
            (Some(upper), None) => upper.stat()?,
            (Some(upper), Some(lower)) => {
                let mut stat = upper.stat()?;
                if !self.data_up() {
                    let lower = self.below(lower, |lower| lower.stat())?;
                    stat.st_size = lower.st_size;
                    stat.st_blocks = lower.st_blocks;
                    stat.st_blksize = lower.st_blksize;
                }
                stat
            }
            (None, None) => return Err(Errno::EIO),
        };
        stat.st_nlink = self.nlink(stat.st_nlink);
        (stat.st_dev, stat.st_ino) = self.id;
        Ok(stat)
    }

    fn kind(&self) -> u32 {
        self.kind
    }

    fn access_info(&self) -> Result<(u32, u32, u32)> {
        match (self.upper(), &self.lower) {
            (Some(upper), _) => upper.access_info(),
            (None, Some(lower)) => lower.access_info(),
            (None, None) => Err(Errno::EIO),
        }
    }

    fn id(&self) -> Result<(u64, u64)> {
        Ok(self.id)
    }

    fn permission(&self, who: Who<'_>, access: Access) -> Result<()> {
        match (self.upper(), &self.lower) {
            (None, Some(lower)) => lower.permission(who, access),
            (Some(upper), lower) => {
                // New attributes do not open what the host keeps closed.
                if let Some(lower) = lower.as_ref().filter(|_| !self.data_up())
                    && !self.gives(lower, access)
                {
                    return Err(Errno::EACCES);
                }
                let (mode, uid, gid) = upper.access_info()?;
                perm::generic(who.cred, mode, uid, gid, access)
            }
            (None, None) => Err(Errno::EIO),
        }
    }

    fn served(&self, access: Access) -> bool {
        self.data_up() || self.lower.as_ref().is_none_or(|lower| self.gives(lower, access))
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        Ok(self.find(name, false)?)
    }

    fn lookup_on_way(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        Ok(self.find(name, true)?)
    }

    fn pin(&self) -> Result<Option<Arc<dyn Any + Send + Sync>>> {
        match &self.lower {
            Some(lower) if !self.data_up() => self.below(lower, |lower| lower.pin()),
            _ => Ok(None),
        }
    }

    fn still(&self, name: &[u8], child: &Arc<dyn Inode>, last: bool) -> bool {
        let Ok(child) = downcast(child) else { return false };
        match self.names.lock().map.get(name) {
            Some(Entry::Node { node, .. }) => return Arc::ptr_eq(node, &child),
            Some(Entry::Gone) => return false,
            None => {}
        }
        match (&self.lower, &child.lower) {
            (Some(directory), Some(lower)) => directory.still(name, lower, last),
            _ => false,
        }
    }

    fn list(&self) -> Result<Vec<Listed>> {
        self.directory()?;
        let mut all = match &self.lower {
            Some(lower) => lower.list()?,
            None => Vec::new(),
        };
        let names = self.names.lock();
        let mut new: Vec<(u64, Listed)> = Vec::new();
        // A changed lower node stays at its place in the order.
        let mut changed = HashSet::new();
        all.retain_mut(|listed| match names.map.get(&listed.name) {
            Some(Entry::Gone) => false,
            Some(Entry::Node { node, .. }) => {
                (listed.ino, listed.kind) = (node.id.1, dirent_kind(node.kind));
                changed.insert(listed.name.clone())
            }
            None => true,
        });
        for (name, entry) in &names.map {
            if let Entry::Node { order, node, .. } = entry
                && !changed.contains(name)
            {
                let listed = Listed { name: name.clone(), ino: node.id.1, kind: dirent_kind(node.kind) };
                new.push((*order, listed));
            }
        }
        drop(names);
        new.sort_unstable_by_key(|(order, _)| *order);
        all.extend(new.into_iter().map(|(_, listed)| listed));
        Ok(all)
    }

    fn open(self: Arc<Self>, how: &Opening<'_>) -> Result<Arc<dyn File>> {
        match self.kind {
            S_IFDIR => DirFile::open(self, how),
            S_IFLNK => Err(Errno::ELOOP),
            S_IFREG if self.data_up() => Ok(Arc::new(OverlayFile::new(self, None, how.flags))),
            S_IFREG if how.flags & O_ACCMODE != O_RDONLY => {
                // As overlayfs does: the copy is made when it is opened for writing.
                self.contents_up(if how.flags & O_TRUNC != 0 { 0 } else { u64::MAX })?;
                Ok(Arc::new(OverlayFile::new(self, None, how.flags)))
            }
            _ => {
                let lower = self.lower.as_ref().ok_or(Errno::ENXIO)?;
                let lower = self.below(lower, |lower| lower.clone().open(how))?;
                if self.kind == S_IFREG {
                    Ok(Arc::new(OverlayFile::new(self, Some(lower), how.flags)))
                } else {
                    Ok(lower)
                }
            }
        }
    }

    fn make(&self, name: &[u8], new: &NewNode<'_>) -> Result<Arc<dyn Inode>> {
        let node = self.create(new)?;
        self.touch()?;
        self.add(name, node.clone())?;
        self.count_links(node.is_directory());
        Ok(node)
    }

    fn make_unnamed(&self, new: &NewNode<'_>) -> Result<Arc<dyn Inode>> {
        let node = self.create(new)?;
        node.count_links(-1);
        Ok(node)
    }

    fn link(&self, name: &[u8], target: &Arc<dyn Inode>) -> Result<()> {
        let node = downcast(target)?;
        let upper = node.attributes_up()?;
        self.touch()?;
        // One of O_TMPFILE gets its first.
        let first = node.nlink(upper.meta().nlink) == 0;
        if !first {
            upper.charge_name()?;
        }
        if let Err(error) = self.add(name, node.clone()) {
            if !first {
                upper.release_name();
            }
            return Err(error);
        }
        node.count_links(1);
        node.changed();
        Ok(())
    }

    fn unlink(&self, name: &[u8], child: &Arc<dyn Inode>) -> Result<()> {
        let _moves = self.shared.moves.lock();
        let node = self.expect(name, child)?;
        self.touch()?;
        self.drop_name(name, &node);
        node.lose_link();
        Ok(())
    }

    fn rmdir(&self, name: &[u8], child: &Arc<dyn Inode>) -> Result<()> {
        let _moves = self.shared.moves.lock();
        let node = self.expect(name, child)?;
        self.touch()?;
        node.bury()?;
        self.drop_name(name, &node);
        self.count_links(-1);
        Ok(())
    }

    fn rename(&self, old: &[u8], to: &Arc<dyn Inode>, new: &[u8], flags: u32) -> Result<()> {
        let to = downcast(to)?;
        let _moves = self.shared.moves.lock();
        let node = self.find(old, false)?;
        let target = replaced(to.find(new, false), flags)?;
        self.touch()?;
        to.touch()?;
        node.attributes_up()?;
        if flags & RENAME_EXCHANGE != 0 {
            let target = target.ok_or(Errno::ENOENT)?;
            target.attributes_up()?;
            let here = self.names.lock().put(old, target.clone(), true);
            let there = to.names.lock().put(new, node.clone(), true);
            drop((here, there));
            let balance = target.is_directory() - node.is_directory();
            self.count_links(balance);
            to.count_links(-balance);
            target.changed();
        } else {
            if let Some(target) = &target {
                if Arc::ptr_eq(target, &node) {
                    return Ok(());
                }
                if target.kind == S_IFDIR {
                    target.bury()?;
                    to.count_links(-1);
                } else {
                    target.lose_link();
                }
                target.leave_origin();
            }
            let replaced = {
                let mut names = to.names.lock();
                if to.removed.load(Ordering::SeqCst) {
                    return Err(Errno::ENOENT);
                }
                names.put(new, node.clone(), target.is_some())
            };
            drop(replaced);
            self.drop_name(old, &node);
            self.count_links(-node.is_directory());
            to.count_links(node.is_directory());
        }
        node.changed();
        Ok(())
    }

    fn readlink(&self, who: Who<'_>) -> Result<Vec<u8>> {
        match (&self.lower, self.upper()) {
            (Some(lower), _) => lower.readlink(who),
            (None, Some(upper)) => upper.readlink(who),
            (None, None) => Err(Errno::EIO),
        }
    }

    fn follow(&self, who: Who<'_>) -> Result<Target> {
        match &self.lower {
            Some(lower) => lower.follow(who),
            None => self.readlink(who).map(Target::Text),
        }
    }

    fn set_attr(&self, attr: &SetAttr) -> Result<()> {
        match attr.size {
            Some(size) if self.kind == S_IFREG => {
                if !self.data_up()
                    && let Some(lower) = &self.lower
                    && size > 0
                    && !self.gives(lower, Access::READ)
                {
                    return Err(Errno::EACCES);
                }
                self.contents_up(size)?.set_attr(attr)
            }
            _ => self.attributes_up()?.set_attr(attr),
        }
    }

    fn xattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        match (self.upper(), &self.lower) {
            (Some(upper), _) => upper.xattr(name),
            (None, Some(lower)) => lower.xattr(name),
            (None, None) => Err(Errno::EIO),
        }
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
        self.attributes_up()?.set_xattr(name, value, flags)
    }

    fn remove_xattr(&self, name: &[u8]) -> Result<()> {
        self.xattr(name)?;
        self.attributes_up()?.remove_xattr(name)
    }

    fn list_xattr(&self) -> Result<Vec<Vec<u8>>> {
        match (self.upper(), &self.lower) {
            (Some(upper), _) => upper.list_xattr(),
            (None, Some(lower)) => lower.list_xattr(),
            (None, None) => Err(Errno::EIO),
        }
    }

    /// FIFOs and sockets below belong to the host: nothing of ours hangs on them.
    fn slot(&self) -> Option<&Slot> {
        self.lower.is_none().then_some(&self.slot)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for Node {
    /// Not recursive along the tree: guests choose how deep it is.
    fn drop(&mut self) {
        let mut pending: Vec<Arc<Node>> = Vec::new();
        self.let_go(&mut pending);
        while let Some(node) = pending.pop() {
            if let Some(mut node) = Arc::into_inner(node) {
                node.let_go(&mut pending);
            }
        }
    }
}

impl Node {
    /// Hands over whatever other nodes it holds, and leaves the directory that has seen it.
    fn let_go(&mut self, pending: &mut Vec<Arc<Node>>) {
        pending.extend(self.origin.get_mut().take().map(|(parent, _)| parent));
        for (_, entry) in self.names.get_mut().map.drain() {
            if let Entry::Node { node, .. } = entry {
                pending.push(node);
            }
        }
        if let Some((parent, name)) = self.home.take()
            && let Some(parent) = parent.upgrade()
        {
            parent.unsee(&name);
            pending.push(parent);
        }
    }
}
