//! Nodes of memfs: attributes, names, links.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::{Data, MemFile, NODE_COST, Shared, cost};
use crate::abi::PAGE_SIZE;
use crate::abi::linux::{RENAME_EXCHANGE, XATTR_CREATE, XATTR_REPLACE};
use crate::abi::types::{Stat, Timespec};
use crate::fd::File;
use crate::fs::inode::replaced;
use crate::fs::{
    DirFile, Inode, Listed, NewNode, Opening, S_IFCHR, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, SetAttr, SetTime, Slot,
    Who, dev, dirent_kind, now,
};
use crate::{Errno, Result};

/// A node.
pub struct MemInode {
    shared: Arc<Shared>,
    dev: u64,
    ino: u64,
    kind: u32,
    meta: Mutex<Meta>,
    body: Body,
    xattrs: Mutex<Attributes>,
    /// Names beyond the first, each charged as a node.
    more_names: AtomicU64,
    slot: Slot,
    /// `F_SEAL_*` of a memfd; other files have `F_SEAL_SEAL`.
    pub seals: AtomicU32,
}

/// Extended attributes, and the bytes of their names and values.
#[derive(Default)]
struct Attributes {
    map: BTreeMap<Vec<u8>, Vec<u8>>,
    bytes: u64,
}

/// Most bytes of these that a node has.
const MOST_ATTRIBUTES: u64 = 1 << 20;

enum Body {
    Dir(Mutex<Entries>),
    File(Data),
    Link(Box<[u8]>),
    Other,
}

/// Attributes that change.
#[derive(Clone, Copy, Debug)]
pub struct Meta {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u64,
    pub rdev: u64,
    pub atime: Timespec,
    pub mtime: Timespec,
    pub ctime: Timespec,
    pub btime: Timespec,
}

/// A table of names that has room for more than this, and few in it, is made smaller.
const ROOMY: usize = 64;

#[derive(Default)]
struct Entries {
    /// With the order of arrival.
    names: HashMap<Box<[u8]>, (u64, Arc<MemInode>)>,
    next: u64,
    /// Removed; nothing can be added.
    dead: bool,
}

impl MemInode {
    pub(super) fn build(shared: &Arc<Shared>, new: &NewNode<'_>) -> Arc<MemInode> {
        Arc::new(MemInode::raw(shared, new, shared.dev, shared.number()))
    }

    pub(super) fn raw(shared: &Arc<Shared>, new: &NewNode<'_>, dev: u64, ino: u64) -> MemInode {
        let kind = new.mode & S_IFMT;
        let now = now();
        MemInode {
            dev,
            ino,
            kind,
            meta: Mutex::new(Meta {
                mode: new.mode,
                uid: new.uid,
                gid: new.gid,
                nlink: if kind == S_IFDIR { 2 } else { 1 },
                rdev: new.rdev,
                atime: now,
                mtime: now,
                ctime: now,
                btime: now,
            }),
            body: match kind {
                S_IFDIR => Body::Dir(Mutex::default()),
                S_IFREG => Body::File(Data::new(shared.budget.clone())),
                S_IFLNK => Body::Link(new.target.into()),
                _ => Body::Other,
            },
            xattrs: Mutex::default(),
            more_names: AtomicU64::new(0),
            slot: Slot::default(),
            seals: AtomicU32::new(crate::abi::linux::F_SEAL_SEAL),
            shared: shared.clone(),
        }
    }

    /// Attributes now.
    pub fn meta(&self) -> Meta {
        *self.meta.lock()
    }

    /// Changes attributes; `st_ctime` is left to `change`.
    pub fn edit_meta(&self, change: impl FnOnce(&mut Meta)) {
        change(&mut self.meta.lock());
    }

    /// The contents of a regular file.
    pub fn data(&self) -> Option<&Data> {
        match &self.body {
            Body::File(data) => Some(data),
            _ => None,
        }
    }

    fn entries(&self) -> Result<&Mutex<Entries>> {
        match &self.body {
            Body::Dir(entries) => Ok(entries),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// The directory changed: `st_mtime` and `st_ctime` are now.
    pub fn touch(&self) {
        let now = now();
        let mut meta = self.meta.lock();
        meta.mtime = now;
        meta.ctime = now;
    }

    /// Its contents were read: `relatime` (`relatime_need_update`, fs/inode.c).
    pub fn accessed(&self) {
        let mut meta = self.meta.lock();
        let key = |time: Timespec| (time.tv_sec, time.tv_nsec);
        let old = key(meta.atime);
        if old <= key(meta.mtime) || old <= key(meta.ctime) {
            meta.atime = now();
        }
    }

    fn add_links(&self, count: i64) {
        let mut meta = self.meta.lock();
        meta.nlink = meta.nlink.saturating_add_signed(count);
        meta.ctime = now();
    }

    fn find(&self, name: &[u8]) -> Result<Arc<MemInode>> {
        let entries = self.entries()?.lock();
        entries.names.get(name).map(|(_, node)| node.clone()).ok_or(Errno::ENOENT)
    }

    /// Puts `node` under `name`; the name must be free.
    fn add(&self, name: &[u8], node: Arc<MemInode>) -> Result<()> {
        let directory = node.kind == S_IFDIR;
        {
            let mut entries = self.entries()?.lock();
            if entries.dead {
                return Err(Errno::ENOENT);
            }
            if entries.names.contains_key(name) {
                return Err(Errno::EEXIST);
            }
            entries.put(name, node);
        }
        if directory {
            self.add_links(1);
        }
        self.touch();
        Ok(())
    }

    fn same(a: &Arc<MemInode>, b: &Arc<dyn Inode>) -> bool {
        b.as_any().downcast_ref::<MemInode>().is_some_and(|b| std::ptr::eq(Arc::as_ptr(a), b))
    }

    /// Takes `name` out, which must still be `child`'s.
    fn take(&self, name: &[u8], child: &Arc<dyn Inode>) -> Result<Arc<MemInode>> {
        let mut entries = self.entries()?.lock();
        let (_, node) = entries.names.get(name).ok_or(Errno::ENOENT)?;
        if !MemInode::same(node, child) {
            return Err(Errno::ENOENT);
        }
        if let Body::Dir(inner) = &node.body {
            let mut inner = inner.lock();
            if !inner.names.is_empty() {
                return Err(Errno::ENOTEMPTY);
            }
            inner.dead = true;
        }
        entries.remove(name).ok_or(Errno::ENOENT)
    }

    /// One more name than the first, which takes as much room as a node does (shmem_link()): `ENOSPC`.
    pub fn charge_name(&self) -> Result<()> {
        self.shared.budget.charge(NODE_COST)?;
        self.more_names.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// A name is gone: if it was not the only one, its room is free.
    pub fn release_name(&self) {
        let less = |count: u64| count.checked_sub(1);
        if self.more_names.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok() {
            self.shared.budget.release(NODE_COST);
        }
    }

    /// A name of this node is gone.
    fn lost_name(&self) {
        if self.kind == S_IFDIR {
            self.meta.lock().nlink = 0;
        } else {
            self.release_name();
            self.add_links(-1);
        }
    }
}

#[cfg(test)]
impl MemInode {
    /// Room in the table of names.
    pub(super) fn capacity(&self) -> usize {
        self.entries().map_or(0, |entries| entries.lock().names.capacity())
    }
}

impl Entries {
    /// Returns what had the name, to be dropped after unlocking.
    fn put(&mut self, name: &[u8], node: Arc<MemInode>) -> Option<Arc<MemInode>> {
        self.next += 1;
        self.names.insert(name.into(), (self.next, node)).map(|(_, old)| old)
    }

    /// Returns what had the name, to be dropped after unlocking.
    fn remove(&mut self, name: &[u8]) -> Option<Arc<MemInode>> {
        let (_, node) = self.names.remove(name)?;
        if self.names.capacity() > ROOMY && self.names.len() < self.names.capacity() / 8 {
            self.names.shrink_to_fit();
        }
        Some(node)
    }
}

impl Drop for MemInode {
    fn drop(&mut self) {
        let target = if let Body::Link(target) = &self.body { target.len() } else { 0 };
        let attributes = self.xattrs.get_mut().bytes;
        let names = self.more_names.get_mut().saturating_mul(NODE_COST);
        self.shared.budget.release(cost(target).saturating_add(attributes).saturating_add(names));
        // Not recursive along chains of directories: guests choose how deep they are.
        let mut pending = Vec::new();
        if let Body::Dir(entries) = &mut self.body {
            pending.extend(entries.get_mut().names.drain().map(|(_, (_, node))| node));
        }
        while let Some(node) = pending.pop() {
            if let Some(mut node) = Arc::into_inner(node)
                && let Body::Dir(entries) = &mut node.body
            {
                pending.extend(entries.get_mut().names.drain().map(|(_, (_, node))| node));
            }
        }
    }
}

impl Inode for MemInode {
    fn stat(&self) -> Result<Stat> {
        let meta = self.meta();
        let (size, blocks) = match &self.body {
            Body::Dir(entries) => (entries.lock().names.len() as u64 * 20 + 40, 0),
            Body::File(data) => (data.size(), data.blocks()),
            Body::Link(target) => (target.len() as u64, 0),
            Body::Other => (0, 0),
        };
        Ok(Stat {
            st_dev: self.dev,
            st_ino: self.ino,
            st_nlink: meta.nlink,
            st_mode: meta.mode,
            st_uid: meta.uid,
            st_gid: meta.gid,
            st_rdev: meta.rdev,
            st_size: size as i64,
            st_blksize: PAGE_SIZE as i64,
            st_blocks: blocks as i64,
            st_atime: meta.atime.tv_sec,
            st_atime_nsec: meta.atime.tv_nsec,
            st_mtime: meta.mtime.tv_sec,
            st_mtime_nsec: meta.mtime.tv_nsec,
            st_ctime: meta.ctime.tv_sec,
            st_ctime_nsec: meta.ctime.tv_nsec,
            ..Stat::default()
        })
    }

    fn kind(&self) -> u32 {
        self.kind
    }

    fn access_info(&self) -> Result<(u32, u32, u32)> {
        let meta = self.meta.lock();
        Ok((meta.mode, meta.uid, meta.gid))
    }

    fn id(&self) -> Result<(u64, u64)> {
        Ok((self.dev, self.ino))
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        Ok(self.find(name)?)
    }

    fn list(&self) -> Result<Vec<Listed>> {
        let entries = self.entries()?.lock();
        let mut all: Vec<(u64, Listed)> = entries
            .names
            .iter()
            .map(|(name, (order, node))| {
                (*order, Listed { name: name.clone(), ino: node.ino, kind: dirent_kind(node.kind) })
            })
            .collect();
        drop(entries);
        all.sort_unstable_by_key(|(order, _)| *order);
        self.accessed();
        Ok(all.into_iter().map(|(_, listed)| listed).collect())
    }

    fn open(self: Arc<Self>, how: &Opening<'_>) -> Result<Arc<dyn File>> {
        match &self.body {
            Body::Dir(_) => DirFile::open(self, how),
            Body::File(_) => Ok(Arc::new(MemFile::new(self, how.flags))),
            Body::Link(_) => Err(Errno::ELOOP),
            Body::Other if self.kind == S_IFCHR => dev::open(self, how),
            Body::Other => Err(Errno::ENXIO),
        }
    }

    fn make(&self, name: &[u8], new: &NewNode<'_>) -> Result<Arc<dyn Inode>> {
        if self.entries()?.lock().names.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        let node = self.shared.new_node(new)?;
        self.add(name, node.clone())?;
        Ok(node)
    }

    fn make_unnamed(&self, new: &NewNode<'_>) -> Result<Arc<dyn Inode>> {
        let node = self.shared.new_node(new)?;
        node.meta.lock().nlink = 0;
        Ok(node)
    }

    fn link(&self, name: &[u8], target: &Arc<dyn Inode>) -> Result<()> {
        let node: Arc<MemInode> = downcast(target).ok_or(Errno::EXDEV)?;
        // One of O_TMPFILE gets its first.
        let first = node.meta().nlink == 0;
        if !first {
            node.charge_name()?;
        }
        let added = self.add(name, node.clone());
        match added {
            Ok(()) => node.add_links(1),
            Err(_) if !first => node.release_name(),
            Err(_) => {}
        }
        added
    }

    fn unlink(&self, name: &[u8], child: &Arc<dyn Inode>) -> Result<()> {
        let node = self.take(name, child)?;
        node.lost_name();
        self.touch();
        Ok(())
    }

    fn rmdir(&self, name: &[u8], child: &Arc<dyn Inode>) -> Result<()> {
        let node = self.take(name, child)?;
        node.lost_name();
        self.add_links(-1);
        self.touch();
        Ok(())
    }

    fn rename(&self, old: &[u8], to: &Arc<dyn Inode>, new: &[u8], flags: u32) -> Result<()> {
        let to = to.as_any().downcast_ref::<MemInode>().ok_or(Errno::EXDEV)?;
        let _moves = self.shared.moves.lock();
        let node = self.find(old)?;
        let target = replaced(to.find(new), flags)?;
        let is_dir = |node: &MemInode| i64::from(node.kind == S_IFDIR);
        if flags & RENAME_EXCHANGE != 0 {
            let target = target.ok_or(Errno::ENOENT)?;
            let balance = is_dir(&target) - is_dir(&node);
            let here = self.entries()?.lock().put(old, target.clone());
            let there = to.entries()?.lock().put(new, node.clone());
            drop((here, there));
            if !std::ptr::eq(self, to) && balance != 0 {
                self.add_links(balance);
                to.add_links(-balance);
            }
            target.add_links(0);
        } else {
            if let Some(target) = &target {
                if Arc::ptr_eq(target, &node) {
                    // Two names of one file: nothing happens (rename(2)).
                    return Ok(());
                }
                let inode: Arc<dyn Inode> = target.clone();
                to.take(new, &inode)?.lost_name();
                to.add_links(-is_dir(target));
            }
            {
                let mut entries = to.entries()?.lock();
                if entries.dead {
                    return Err(Errno::ENOENT);
                }
                entries.put(new, node.clone());
            }
            // By name and not by position: if both are one directory, the new name is another one.
            let moved = self.entries()?.lock().remove(old);
            drop(moved);
            self.add_links(-is_dir(&node));
            to.add_links(is_dir(&node));
        }
        node.add_links(0);
        self.touch();
        to.touch();
        Ok(())
    }

    fn readlink(&self, _who: Who<'_>) -> Result<Vec<u8>> {
        match &self.body {
            Body::Link(target) => {
                self.accessed();
                Ok(target.to_vec())
            }
            _ => Err(Errno::EINVAL),
        }
    }

    fn set_attr(&self, attr: &SetAttr) -> Result<()> {
        if let Some(size) = attr.size {
            self.data().ok_or(Errno::EINVAL)?.truncate(size)?;
        }
        let now = now();
        let mut meta = self.meta.lock();
        meta.apply(attr, now);
        Ok(())
    }

    fn xattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        self.xattrs.lock().map.get(name).cloned().ok_or(Errno::ENODATA)
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
        let mut xattrs = self.xattrs.lock();
        match xattrs.map.contains_key(name) {
            true if flags & XATTR_CREATE != 0 => return Err(Errno::EEXIST),
            false if flags & XATTR_REPLACE != 0 => return Err(Errno::ENODATA),
            _ => {}
        }
        let new = (name.len() + value.len()) as u64;
        let old = xattrs.map.get(name).map_or(0, |value| (name.len() + value.len()) as u64);
        if xattrs.bytes - old + new > MOST_ATTRIBUTES {
            return Err(Errno::ENOSPC);
        }
        match new.checked_sub(old) {
            Some(more) => self.shared.budget.charge(more)?,
            None => self.shared.budget.release(old - new),
        }
        xattrs.bytes = xattrs.bytes - old + new;
        xattrs.map.insert(name.to_vec(), value.to_vec());
        drop(xattrs);
        self.meta.lock().ctime = now();
        Ok(())
    }

    fn remove_xattr(&self, name: &[u8]) -> Result<()> {
        {
            let mut xattrs = self.xattrs.lock();
            let value = xattrs.map.remove(name).ok_or(Errno::ENODATA)?;
            let bytes = (name.len() + value.len()) as u64;
            xattrs.bytes -= bytes;
            self.shared.budget.release(bytes);
        }
        self.meta.lock().ctime = now();
        Ok(())
    }

    fn list_xattr(&self) -> Result<Vec<Vec<u8>>> {
        Ok(self.xattrs.lock().map.keys().cloned().collect())
    }

    fn slot(&self) -> Option<&Slot> {
        Some(&self.slot)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Meta {
    /// `setattr_copy()`, with `now` as the time of change.
    pub fn apply(&mut self, attr: &SetAttr, now: Timespec) {
        let time = |set: SetTime| match set {
            SetTime::Now => now,
            SetTime::To(time) => time,
        };
        if let Some(mode) = attr.mode {
            self.mode = (self.mode & S_IFMT) | (mode & 0o7777);
        }
        self.uid = attr.uid.unwrap_or(self.uid);
        self.gid = attr.gid.unwrap_or(self.gid);
        self.atime = attr.atime.map_or(self.atime, time);
        self.mtime = attr.mtime.map_or(self.mtime, time);
        if attr.size.is_some() && attr.mtime.is_none() {
            self.mtime = now;
        }
        self.ctime = now;
    }
}

/// The node behind a trait object, if it is one of this kind.
pub fn downcast(inode: &Arc<dyn Inode>) -> Option<Arc<MemInode>> {
    let any: Arc<dyn Any + Send + Sync> = inode.clone();
    any.downcast().ok()
}
