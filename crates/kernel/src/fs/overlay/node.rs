//! Nodes of an overlay.

use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};

use super::{OverlayFile, Shared};
use crate::abi::linux::{O_ACCMODE, O_RDONLY, O_TRUNC, RENAME_EXCHANGE, RENAME_NOREPLACE};
use crate::abi::types::{Stat, Timespec};
use crate::fd::File;
use crate::fs::host::HostNode;
use crate::fs::mem::{Data, MemInode};
use crate::fs::perm::{self, Access};
use crate::fs::{
    DirFile, Inode, Listed, NewNode, Opening, S_IFDIR, S_IFLNK, S_IFREG, SetAttr, Slot, Target, Who, dirent_kind,
};
use crate::mem::{SliceSource, VecSink};
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
    /// With the order of arrival.
    Node(u64, Arc<Node>),
    /// The lower name is gone (a whiteout).
    Gone,
}

impl Names {
    fn put(&mut self, name: &[u8], node: Arc<Node>) {
        self.next += 1;
        self.map.insert(name.into(), Entry::Node(self.next, node));
    }
}

impl Node {
    /// A node of the lower tree, found as a name of a directory.
    pub(super) fn from_lower(
        shared: &Arc<Shared>,
        lower: Arc<dyn Inode>,
        place: Option<(Arc<Node>, &[u8])>,
    ) -> Result<Arc<Node>> {
        let (id, kind) = (lower.id()?, lower.kind());
        let home = place.as_ref().map(|(parent, name)| (Arc::downgrade(parent), Box::from(*name)));
        let origin = place.map(|(parent, name)| (parent, Box::from(name)));
        Ok(Node::build(shared, Some(lower), id, kind, None, origin, home))
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

    /// The directory it was found in remembers it, and so on upwards: it is not as the lower tree has it.
    fn pin(&self) -> Result<()> {
        let mut at = self.this()?;
        loop {
            let Some((parent, name)) = at.origin.lock().take() else { return Ok(()) };
            {
                let mut names = parent.names.lock();
                if !names.map.contains_key(&name) {
                    names.put(&name, at);
                }
            }
            at = parent;
        }
    }

    /// A memory node for its attributes, with what the lower one has. Does not change what it shows.
    pub(super) fn attributes_up(&self) -> Result<Arc<MemInode>> {
        if let Some(upper) = self.upper() {
            return Ok(upper);
        }
        let _once = self.copying.lock();
        if let Some(upper) = self.upper() {
            return Ok(upper);
        }
        let lower = self.lower.as_ref().ok_or(Errno::EIO)?;
        let stat = lower.stat()?;
        let new =
            NewNode { mode: stat.st_mode, uid: stat.st_uid, gid: stat.st_gid, rdev: stat.st_rdev, target: b"" };
        let upper = self.shared.mem.stand_in(&new, self.id.0, self.id.1)?;
        upper.edit_meta(|meta| {
            meta.nlink = stat.st_nlink;
            meta.atime = Timespec { tv_sec: stat.st_atime, tv_nsec: stat.st_atime_nsec };
            meta.mtime = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec };
            meta.ctime = Timespec { tv_sec: stat.st_ctime, tv_nsec: stat.st_ctime_nsec };
        });
        for name in lower.list_xattr().unwrap_or_default() {
            if let Ok(value) = lower.xattr(&name) {
                upper.set_xattr(&name, &value, 0)?;
            }
        }
        if self.kind != S_IFDIR && stat.st_nlink > 1 {
            self.shared.linked.lock().insert(self.id, self.this()?);
        }
        *self.upper.write() = Some(upper.clone());
        self.pin()?;
        Ok(upper)
    }

    /// The contents in memory, at most `keep` bytes of them (the rest is about to be cut off).
    pub(super) fn contents_up(&self, keep: u64) -> Result<Arc<MemInode>> {
        let upper = self.attributes_up()?;
        if self.data_up() {
            return Ok(upper);
        }
        let _once = self.copying.lock();
        if self.data_up() {
            return Ok(upper);
        }
        let lower = self.lower.as_ref().ok_or(Errno::EIO)?;
        let data = upper.data().ok_or(Errno::EINVAL)?;
        if let Err(error) = copy_contents(&**lower, data, keep) {
            let _ = data.truncate(0);
            return Err(error);
        }
        self.data_up.store(true, Ordering::Release);
        Ok(upper)
    }

    /// Names changed: so did the times.
    fn touch(&self) -> Result<()> {
        self.attributes_up()?.touch();
        Ok(())
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

    fn changed(&self) {
        if let Ok(upper) = self.attributes_up() {
            upper.edit_meta(|meta| meta.ctime = crate::fs::now());
        }
    }

    fn find(&self, name: &[u8]) -> Result<Arc<Node>> {
        self.directory()?;
        match self.names.lock().map.get(name) {
            Some(Entry::Node(_, node)) => return Ok(node.clone()),
            Some(Entry::Gone) => return Err(Errno::ENOENT),
            None => {}
        }
        let lower = self.lower.as_ref().ok_or(Errno::ENOENT)?.lookup(name)?;
        let linked = self.shared.linked.lock();
        if !linked.is_empty()
            && let Some(node) = lower.id().ok().and_then(|id| linked.get(&id)).filter(|n| n.kind == lower.kind())
        {
            return Ok(node.clone());
        }
        drop(linked);
        let (id, kind) = (lower.id()?, lower.kind());
        let mut seen = self.seen.lock();
        if let Some(node) = seen.get(name).and_then(Weak::upgrade)
            && (node.id, node.kind) == (id, kind)
        {
            drop(seen);
            return Ok(node);
        }
        if seen.len() >= 256 && seen.len().is_power_of_two() {
            seen.retain(|_, node| node.strong_count() > 0);
        }
        let node = Node::from_lower(&self.shared, lower, Some((self.this()?, name)))?;
        let old = seen.insert(name.into(), Arc::downgrade(&node));
        drop((seen, old));
        Ok(node)
    }

    /// The node a name led to, as the walk found it, unless the name leads elsewhere by now.
    fn expect(&self, name: &[u8], child: &Arc<dyn Inode>) -> Result<Arc<Node>> {
        let child = downcast(child)?;
        match self.names.lock().map.get(name) {
            Some(Entry::Node(_, node)) if Arc::ptr_eq(node, &child) => Ok(child),
            Some(_) => Err(Errno::ENOENT),
            None => Ok(child),
        }
    }

    /// The name leads nowhere from now on.
    fn drop_name(&self, name: &[u8], node: &Node) {
        let mut names = self.names.lock();
        match self.lower.is_some() {
            true => _ = names.map.insert(name.into(), Entry::Gone),
            false => _ = names.map.remove(name),
        }
        drop(names);
        // It must not come back when somebody who has it open changes it.
        *node.origin.lock() = None;
    }

    /// Marks an empty directory as removed; `ENOTEMPTY`.
    fn bury(&self) -> Result<()> {
        let below = match &self.lower {
            Some(lower) => lower.list()?,
            None => Vec::new(),
        };
        let names = self.names.lock();
        let any = names.map.values().any(|entry| matches!(entry, Entry::Node(..)));
        if any || below.iter().any(|listed| !names.map.contains_key(&listed.name)) {
            return Err(Errno::ENOTEMPTY);
        }
        self.removed.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Puts a node under a name that must be free.
    fn add(&self, name: &[u8], node: Arc<Node>) -> Result<()> {
        self.directory()?;
        let taken = |names: &Names| matches!(names.map.get(name), Some(Entry::Node(..)));
        let hides = matches!(self.names.lock().map.get(name), Some(Entry::Gone));
        if !hides && let Some(lower) = &self.lower {
            match lower.lookup(name) {
                Err(Errno::ENOENT) => {}
                Ok(_) => return Err(Errno::EEXIST),
                Err(error) => return Err(error),
            }
        }
        let mut names = self.names.lock();
        if self.removed.load(Ordering::SeqCst) {
            return Err(Errno::ENOENT);
        }
        if taken(&names) {
            return Err(Errno::EEXIST);
        }
        names.put(name, node);
        Ok(())
    }

    fn is_directory(&self) -> i64 {
        i64::from(self.kind == S_IFDIR)
    }
}

/// Copies the contents of a lower file, holes as holes.
fn copy_contents(lower: &dyn Inode, into: &Data, keep: u64) -> Result<()> {
    if keep == 0 {
        return Ok(());
    }
    if let Some(node) = lower.as_any().downcast_ref::<MemInode>() {
        let from = node.data().ok_or(Errno::EINVAL)?;
        return copy_ranges(into, keep.min(from.size()), |at, limit| {
            let at = match from.seek_data(at, false) {
                Err(Errno::ENXIO) => return Ok(None),
                other => other?,
            };
            let mut sink = VecSink { bytes: Vec::new(), limit };
            from.read(at, &mut sink)?;
            Ok(Some((at, sink.bytes)))
        });
    }
    let node = lower.as_any().downcast_ref::<HostNode>().ok_or(Errno::EIO)?;
    let host = |error: rustix::io::Errno| Errno::from_raw(error.raw_os_error());
    let file = node.open_host(rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK)?;
    let size = rustix::fs::fstat(&file).map_err(host)?.st_size as u64;
    copy_ranges(into, keep.min(size), |at, limit| {
        let at = match rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(at)) {
            Err(rustix::io::Errno::NXIO) => return Ok(None),
            Err(rustix::io::Errno::INVAL) => at,
            other => other.map_err(host)?,
        };
        let mut bytes = vec![0; limit];
        let count = rustix::io::pread(&file, &mut bytes, at).map_err(host)?;
        bytes.truncate(count);
        Ok((count > 0).then_some((at, bytes)))
    })
}

/// `next(at, limit)` yields the next data at or behind `at`.
fn copy_ranges(
    into: &Data,
    size: u64,
    mut next: impl FnMut(u64, usize) -> Result<Option<(u64, Vec<u8>)>>,
) -> Result<()> {
    let mut at = 0;
    while at < size {
        let Some((start, mut bytes)) = next(at, 1 << 20)? else { break };
        bytes.truncate(usize::try_from(size.saturating_sub(start)).unwrap_or(usize::MAX));
        if bytes.is_empty() {
            break;
        }
        let end = start + bytes.len() as u64;
        if into.write(start, &mut SliceSource(&bytes))? < bytes.len() {
            return Err(Errno::ENOSPC);
        }
        at = end;
    }
    into.truncate(size)
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
                    let lower = lower.stat()?;
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
                    && !lower.served(access)
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
        self.data_up() || self.lower.as_ref().is_none_or(|lower| lower.served(access))
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        Ok(self.find(name)?)
    }

    fn still(&self, name: &[u8], child: &Arc<dyn Inode>, last: bool) -> bool {
        let Ok(child) = downcast(child) else { return false };
        match self.names.lock().map.get(name) {
            Some(Entry::Node(_, node)) => return Arc::ptr_eq(node, &child),
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
        let lower_names: std::collections::HashSet<Box<[u8]>> = match names.map.is_empty() {
            true => Default::default(),
            false => all.iter().map(|listed| listed.name.clone()).collect(),
        };
        // A changed lower node stays at its place in the order.
        all.retain(|listed| !matches!(names.map.get(&listed.name), Some(Entry::Gone)));
        for (name, entry) in &names.map {
            if let Entry::Node(order, node) = entry {
                let listed = Listed { name: name.clone(), ino: node.id.1, kind: dirent_kind(node.kind) };
                if lower_names.contains(name) {
                    if let Some(place) = all.iter_mut().find(|listed| listed.name == *name) {
                        *place = listed;
                    }
                } else {
                    new.push((*order, listed));
                }
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
                let lower = self.lower.clone().ok_or(Errno::ENXIO)?.open(how)?;
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
        node.attributes_up()?;
        self.touch()?;
        self.add(name, node.clone())?;
        node.count_links(1);
        node.changed();
        Ok(())
    }

    fn unlink(&self, name: &[u8], child: &Arc<dyn Inode>) -> Result<()> {
        let _moves = self.shared.moves.lock();
        let node = self.expect(name, child)?;
        self.touch()?;
        self.drop_name(name, &node);
        node.count_links(-1);
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
        let node = self.find(old)?;
        let target = match to.find(new) {
            Ok(target) => Some(target),
            Err(Errno::ENOENT) => None,
            Err(error) => return Err(error),
        };
        if flags & RENAME_NOREPLACE != 0 && target.is_some() {
            return Err(Errno::EEXIST);
        }
        self.touch()?;
        to.touch()?;
        node.attributes_up()?;
        if flags & RENAME_EXCHANGE != 0 {
            let target = target.ok_or(Errno::ENOENT)?;
            target.attributes_up()?;
            self.names.lock().put(old, target.clone());
            to.names.lock().put(new, node.clone());
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
                    target.count_links(-1);
                }
                *target.origin.lock() = None;
            }
            {
                let mut names = to.names.lock();
                if to.removed.load(Ordering::SeqCst) {
                    return Err(Errno::ENOENT);
                }
                names.put(new, node.clone());
            }
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
                    && !lower.served(Access::READ)
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
        let take = |node: &mut Node, pending: &mut Vec<Arc<Node>>| {
            pending.extend(node.origin.get_mut().take().map(|(parent, _)| parent));
            for (_, entry) in node.names.get_mut().map.drain() {
                if let Entry::Node(_, child) = entry {
                    pending.push(child);
                }
            }
        };
        take(self, &mut pending);
        while let Some(node) = pending.pop() {
            if let Some(mut node) = Arc::into_inner(node) {
                take(&mut node, &mut pending);
            }
        }
    }
}
