//! Nodes of a host tree: where they are, and what is known of them. `open` has what is read, `change` what is changed.
//!
//! A node is known by its place, because thousands are in use and descriptors are few. Between two looks at a name the
//! host may have put something else there, so what was found by name once is never trusted when it counts:
//!
//! - [`HostNode::grasp`] yields a descriptor of the node itself. It was opened by name without an effect, and then
//!   proved to be the node by its identity;
//! - [`HostNode::confirm`] proves besides that the host says of it now what permissions were decided by;
//! - whoever finds something else forgets the name and says `ESTALE`, at which the call begins anew
//!   ([`crate::fs::anew`]).

use std::any::Any;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use rustix::fs::OFlags;

use super::descriptor::{Attributes, Identity, Seen, attributes, look, open};
use super::open::Reader;
use super::{HostFile, Shared, errno};
use crate::abi::linux::{O_ACCMODE, O_RDONLY};
use crate::abi::types::Stat;
use crate::fd::File;
use crate::fs::perm::{self, Access};
use crate::fs::{
    DirFile, Inode, Listed, Made, NewNode, Opening, S_IFDIR, S_IFLNK, S_IFREG, SetAttr, SetTime, Slot, Who,
};
use crate::{Errno, Result};

/// A file, directory or link of the host, by its place in the tree.
pub struct HostNode {
    pub(super) shared: Arc<Shared>,
    pub(super) place: Mutex<Place>,
    pub(super) identity: Identity,
    /// It looks empty.
    hidden: bool,
    descriptors: Mutex<Descriptors>,
    known: Mutex<Known>,
    /// The text of a link, which never changes.
    text: OnceLock<Vec<u8>>,
    /// Children that are known, so that a rename can tell them.
    pub(super) children: Mutex<HashMap<Box<[u8]>, Weak<HostNode>>>,
    slot: Slot,
    pub(super) this: Weak<HostNode>,
}

/// What the host said last.
struct Known {
    attributes: Attributes,
    /// When, in milliseconds; `None`: the name has been found to lead elsewhere since.
    then: Option<u64>,
}

impl Known {
    fn now(seen: &Seen) -> Known {
        Known { attributes: seen.attributes(), then: Some(instant()) }
    }

    /// It need not be asked again.
    fn holds(&self) -> bool {
        self.then.is_some_and(|then| instant().saturating_sub(then) < HOLDS)
    }
}

pub(super) struct Place {
    /// `None` for the top.
    pub parent: Option<Arc<HostNode>>,
    pub name: Box<[u8]>,
}

/// Descriptors of the node itself.
#[derive(Default)]
pub(super) struct Descriptors {
    /// For directories in use.
    directory: Option<Arc<OwnedFd>>,
    /// For what has no name any more, or none yet.
    kept: Option<Arc<OwnedFd>>,
    /// Those of open files, and of who wants to keep the node in sight.
    open: Vec<Weak<OwnedFd>>,
    /// For those who want to read a file that was read lately.
    pub reader: Option<Reader>,
}

impl Descriptors {
    fn any(&mut self) -> Option<Arc<OwnedFd>> {
        if let Some(fd) = self.kept.as_ref().or(self.directory.as_ref()) {
            return Some(fd.clone());
        }
        while let Some(last) = self.open.last() {
            if let Some(fd) = last.upgrade() {
                return Some(fd);
            }
            self.open.pop();
        }
        None
    }

    /// Remembers it for as long as somebody else has it.
    fn add(&mut self, fd: &Arc<OwnedFd>) {
        if self.open.len() == self.open.capacity() {
            self.open.retain(|fd| fd.strong_count() > 0);
        }
        self.open.push(Arc::downgrade(fd));
    }
}

impl HostNode {
    pub(super) fn top(shared: Arc<Shared>, seen: &Seen) -> Arc<HostNode> {
        let top = shared.top.clone();
        let node = HostNode::build(shared, None, b"", seen);
        node.descriptors.lock().kept = Some(top);
        node
    }

    fn build(shared: Arc<Shared>, parent: Option<Arc<HostNode>>, name: &[u8], seen: &Seen) -> Arc<HostNode> {
        let identity = seen.identity();
        let at_top = parent.as_ref().is_some_and(|parent| parent.place.lock().parent.is_none());
        let hidden = identity.kind == S_IFDIR && shared.hides(identity, at_top.then_some(name));
        Arc::new_cyclic(|this| HostNode {
            shared,
            place: Mutex::new(Place { parent, name: name.into() }),
            identity,
            hidden,
            descriptors: Mutex::default(),
            known: Mutex::new(Known::now(seen)),
            text: OnceLock::new(),
            children: Mutex::default(),
            slot: Slot::default(),
            this: this.clone(),
        })
    }

    /// A node of this tree without a name, by its only descriptor.
    pub(super) fn unnamed(&self, fd: Arc<OwnedFd>, seen: &Seen) -> Arc<HostNode> {
        let node = HostNode::build(self.shared.clone(), self.this.upgrade(), b"", seen);
        node.descriptors.lock().kept = Some(fd);
        node
    }

    /// The child that was found under `name`.
    pub(super) fn child(&self, name: &[u8], seen: &Seen) -> Arc<HostNode> {
        let mut children = self.children.lock();
        if let Some(known) = children.get(name).and_then(Weak::upgrade)
            && known.identity == seen.identity()
        {
            known.learn(seen);
            return known;
        }
        if children.len() > 4096 {
            children.retain(|_, child| child.strong_count() > 0);
        }
        let node = HostNode::build(self.shared.clone(), self.this.upgrade(), name, seen);
        children.insert(name.into(), Arc::downgrade(&node));
        node
    }

    /// The directory it is in and its name there; or itself and an empty name.
    fn at(&self) -> Result<(Arc<OwnedFd>, Box<[u8]>)> {
        if let Some(kept) = &self.descriptors.lock().kept {
            return Ok((kept.clone(), Box::default()));
        }
        let (parent, name) = {
            let place = self.place.lock();
            (place.parent.clone(), place.name.clone())
        };
        match parent {
            Some(parent) => Ok((parent.dir()?, name)),
            None => Ok((self.shared.top.clone(), name)),
        }
    }

    /// What the host says of it just now.
    pub(super) fn learn(&self, seen: &Seen) {
        *self.known.lock() = Known::now(seen);
    }

    /// Permissions were decided by what the host says now.
    pub(super) fn agree(&self, seen: &Seen) -> Result<()> {
        let decided = std::mem::replace(&mut *self.known.lock(), Known::now(seen));
        if decided.attributes == seen.attributes() { Ok(()) } else { Err(Errno::ESTALE) }
    }

    /// The name did not lead here any more: `error` says how. Whoever came by the name begins anew, and finds what it
    /// leads to now. Who comes again to this very node means it, whatever its name: that is what an open file is for.
    fn astray(&self, error: Errno) -> Result<(Arc<OwnedFd>, Seen)> {
        let told = self.known.lock().then.take().is_none();
        let held = self.descriptors.lock().any();
        match held {
            Some(fd) if told => look(&*fd, b"").map(|seen| (fd, seen)),
            Some(_) => Err(Errno::ESTALE),
            None => Err(error),
        }
    }

    /// A descriptor of the node itself, and what the host says of it. It is only fit to look at the node, and for calls
    /// that go through `/proc/self/fd` (`O_PATH`).
    fn grasp(&self) -> Result<(Arc<OwnedFd>, Seen)> {
        let (directory, name) = self.at()?;
        if name.is_empty() {
            return look(&*directory, b"").map(|seen| (directory, seen));
        }
        let named = open(&directory, &name, OFlags::PATH).and_then(|fd| look(&fd, b"").map(|seen| (fd, seen)));
        match named {
            Ok((fd, seen)) if seen.identity() == self.identity => Ok((Arc::new(fd), seen)),
            Ok(_) => self.astray(Errno::ESTALE),
            Err(error) => self.astray(error),
        }
    }

    /// As `grasp`, with what permissions were decided by proven.
    pub(super) fn confirm(&self) -> Result<(Arc<OwnedFd>, Seen)> {
        let (fd, seen) = self.grasp()?;
        self.agree(&seen)?;
        Ok((fd, seen))
    }

    /// `name` in `directory` is about to go: it is this node's name, what permissions were decided by is proven, and
    /// whoever has the node in use keeps it. `false`: it was kept before.
    pub(super) fn keep(&self, directory: &OwnedFd, name: &[u8]) -> Result<bool> {
        let fd = open(directory, name, OFlags::PATH)?;
        let seen = look(&fd, b"")?;
        self.is_seen(&seen)?;
        let mut descriptors = self.descriptors.lock();
        let first = descriptors.kept.is_none();
        descriptors.kept.get_or_insert_with(|| Arc::new(fd));
        Ok(first)
    }

    /// It is this node that was found by a name, as permissions were decided by.
    pub(super) fn is_seen(&self, seen: &Seen) -> Result<()> {
        if seen.identity() == self.identity {
            return self.agree(seen);
        }
        self.known.lock().then = None;
        Err(Errno::ESTALE)
    }

    /// It has a name: the one that did not go after all, or its first.
    pub(super) fn release(&self) {
        let mut descriptors = self.descriptors.lock();
        let kept = descriptors.kept.take();
        if let Some(kept) = &kept {
            // Who has it open keeps it in sight.
            descriptors.add(kept);
        }
        drop(descriptors);
    }

    /// The name is gone: nothing is kept for the next who reads it.
    pub(super) fn gone(&self) {
        let reader = self.descriptors.lock().reader.take();
        drop(reader);
    }

    pub(super) fn descriptors(&self) -> parking_lot::MutexGuard<'_, Descriptors> {
        self.descriptors.lock()
    }

    /// Remembers a descriptor that an open file has.
    pub(super) fn lend(&self, fd: &Arc<OwnedFd>) {
        self.descriptors.lock().add(fd);
    }

    /// A descriptor of this directory, for calls relative to it.
    pub(super) fn dir(&self) -> Result<Arc<OwnedFd>> {
        if self.identity.kind != S_IFDIR {
            return Err(Errno::ENOTDIR);
        }
        {
            let descriptors = self.descriptors.lock();
            if let Some(directory) = descriptors.directory.as_ref().or(descriptors.kept.as_ref()) {
                return Ok(directory.clone());
            }
        }
        let (directory, seen) = self.grasp()?;
        self.learn(&seen);
        self.descriptors.lock().directory = Some(directory.clone());
        Ok(directory)
    }

    /// As `dir`, with what permissions were decided by proven, to be changed.
    pub(super) fn dir_to_change(&self) -> Result<Arc<OwnedFd>> {
        let directory = self.dir()?;
        self.agree(&look(&*directory, b"")?)?;
        Ok(directory)
    }

    /// In a shared view, everybody may search the directory that it is in at this moment.
    pub(super) fn still_reached(&self) -> Result<()> {
        let parent = self.place.lock().parent.clone();
        parent.map_or(Ok(()), |parent| parent.searched(&*parent.dir()?))
    }

    /// Something in this directory is not known yet. In a shared view, everybody may search it at this moment.
    fn searched(&self, directory: &OwnedFd) -> Result<()> {
        if !self.shared.world_readable_only {
            return Ok(());
        }
        let seen = look(directory, b"")?;
        self.learn(&seen);
        if seen.stat.st_mode & 1 != 0 { Ok(()) } else { Err(Errno::EACCES) }
    }

    /// Looks a name up. `on_way`: the path goes on behind it, so that a descriptor of it will be needed.
    fn find(&self, name: &[u8], on_way: bool) -> Result<Arc<dyn Inode>> {
        if self.hidden {
            return Err(Errno::ENOENT);
        }
        let directory = self.dir()?;
        if !on_way {
            let seen = look(&*directory, name)?;
            self.searched(&directory)?;
            return Ok(self.child(name, &seen));
        }
        let fd = open(&directory, name, OFlags::PATH)?;
        let seen = look(&fd, b"")?;
        self.searched(&directory)?;
        let child = self.child(name, &seen);
        match child.identity.kind {
            S_IFDIR => {
                child.descriptors.lock().directory.get_or_insert_with(|| Arc::new(fd));
            }
            S_IFLNK => {
                let text = read_link(&fd)?;
                child.text.get_or_init(|| text);
            }
            _ => {}
        }
        Ok(child)
    }
}

impl HostNode {
    /// What everybody may read, and no more: being root inside is no right on the host.
    fn permit(&self, who: Who<'_>, (mode, uid, gid): Attributes, access: Access) -> Result<()> {
        let everybody = Access::from_bits_truncate(mode & 7);
        let open = everybody.contains(access - Access::WRITE) || self.hidden;
        if self.shared.world_readable_only && !open {
            return Err(Errno::EACCES);
        }
        perm::generic(who.cred, mode, uid, gid, access)
    }
}

fn read_link(fd: &OwnedFd) -> Result<Vec<u8>> {
    rustix::fs::readlinkat(fd, "", Vec::new()).map(|link| link.into_bytes()).map_err(errno)
}

/// How long what the host said about a name on the way holds, in milliseconds: others may change the tree, but not so
/// that a walk must ask about every component every time. It is enough to find a node by; whoever uses the node asks
/// again.
const HOLDS: u64 = 1000;

/// Milliseconds of a coarse clock.
fn instant() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

impl Inode for HostNode {
    fn stat(&self) -> Result<Stat> {
        let (directory, name) = self.at()?;
        let mut stat = match look(&*directory, &name) {
            Ok(seen) if seen.identity() == self.identity => {
                self.learn(&seen);
                seen.stat
            }
            Ok(_) => self.astray(Errno::ESTALE)?.1.stat,
            Err(error) => self.astray(error)?.1.stat,
        };
        if self.hidden {
            // It looks empty, not forbidden.
            stat.st_mode |= 0o755;
        }
        Ok(stat)
    }

    fn access_info(&self) -> Result<Attributes> {
        {
            let known = self.known.lock();
            if known.holds() {
                let (mode, uid, gid) = known.attributes;
                return Ok((if self.hidden { mode | 0o755 } else { mode }, uid, gid));
            }
        }
        self.stat().map(|stat| attributes(&stat))
    }

    /// Looks again from time to time whether the name still leads to the same node.
    fn still(&self, name: &[u8], child: &Arc<dyn Inode>, _last: bool) -> bool {
        let Some(child) = child.as_any().downcast_ref::<HostNode>() else { return false };
        if child.known.lock().holds() {
            return true;
        }
        let Ok(seen) = self.dir().and_then(|dir| look(&*dir, name)) else { return false };
        if seen.identity() != child.identity {
            return false;
        }
        child.learn(&seen);
        true
    }

    fn pin(&self) -> Result<Option<Arc<dyn Any + Send + Sync>>> {
        if self.identity.kind == S_IFDIR {
            self.dir()?;
            return Ok(None);
        }
        let (fd, seen) = self.grasp()?;
        self.learn(&seen);
        self.lend(&fd);
        Ok(Some(fd))
    }

    fn kind(&self) -> u32 {
        self.identity.kind
    }

    fn id(&self) -> Result<(u64, u64)> {
        Ok((self.identity.dev, self.identity.ino))
    }

    fn permission(&self, who: Who<'_>, access: Access) -> Result<()> {
        let known = self.access_info()?;
        match self.permit(who, known, access) {
            // The host may have opened it since.
            Err(error) => match attributes(&self.stat()?) {
                now if now != known => self.permit(who, now, access),
                _ => Err(error),
            },
            Ok(()) => Ok(()),
        }
    }

    fn served(&self, access: Access) -> bool {
        if !self.shared.world_readable_only || self.hidden {
            return true;
        }
        // Execute permission of a file may change above; of a directory it is search permission.
        let counted = if self.identity.kind == S_IFDIR { Access::READ | Access::EXEC } else { Access::READ };
        let everybody = |mode: u32| Access::from_bits_truncate(mode & 7).contains(access & counted);
        self.access_info().is_ok_and(|(mode, ..)| everybody(mode))
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        self.find(name, false)
    }

    fn lookup_on_way(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        self.find(name, true)
    }

    fn list(&self) -> Result<Vec<Listed>> {
        if self.identity.kind != S_IFDIR {
            return Err(Errno::ENOTDIR);
        }
        if self.hidden { Ok(Vec::new()) } else { self.names() }
    }

    fn open(self: Arc<Self>, how: &Opening<'_>) -> Result<Arc<dyn File>> {
        match self.identity.kind {
            S_IFDIR => DirFile::open(self, how),
            S_IFREG => {
                let file = self.open_file(how.flags)?;
                let writable = how.flags & O_ACCMODE != O_RDONLY;
                Ok(Arc::new(HostFile::new(file, self, writable)))
            }
            // Sockets, FIFOs and devices of the host can be looked at, not used.
            _ => Err(Errno::ENXIO),
        }
    }

    fn make(&self, name: &[u8], new: &NewNode<'_>) -> Result<Arc<dyn Inode>> {
        self.make_node(name, new).map(|node| node as Arc<dyn Inode>)
    }

    fn create(&self, name: &[u8], new: &NewNode<'_>, flags: u32) -> Result<Made> {
        self.create_file(name, new, flags)
    }

    fn create_unnamed(&self, new: &NewNode<'_>, flags: u32) -> Result<Made> {
        self.create_temporary(new, flags)
    }

    fn link(&self, name: &[u8], target: &Arc<dyn Inode>) -> Result<()> {
        self.add_link(name, downcast(target)?)
    }

    fn unlink(&self, name: &[u8], child: &Arc<dyn Inode>) -> Result<()> {
        self.remove(name, downcast(child)?, false)
    }

    fn rmdir(&self, name: &[u8], child: &Arc<dyn Inode>) -> Result<()> {
        self.remove(name, downcast(child)?, true)
    }

    fn rename(&self, old: &[u8], to: &Arc<dyn Inode>, new: &[u8], flags: u32) -> Result<()> {
        let target = to.lookup(new).ok();
        self.rename_seen((old, &self.lookup(old)?), to, (new, target.as_ref()), flags)
    }

    fn rename_seen(
        &self,
        (old, source): (&[u8], &Arc<dyn Inode>),
        to: &Arc<dyn Inode>,
        (new, target): (&[u8], Option<&Arc<dyn Inode>>),
        flags: u32,
    ) -> Result<()> {
        let target = target.map(downcast).transpose()?;
        self.move_name((old, downcast(source)?), downcast(to)?, (new, target), flags)
    }

    fn readlink(&self, _who: Who<'_>) -> Result<Vec<u8>> {
        if let Some(text) = self.text.get() {
            return Ok(text.clone());
        }
        let (fd, seen) = self.grasp()?;
        self.learn(&seen);
        let text = read_link(&fd)?;
        self.still_reached()?;
        Ok(self.text.get_or_init(|| text).clone())
    }

    fn set_attr(&self, attr: &SetAttr) -> Result<()> {
        self.change(attr)
    }

    fn xattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        self.attribute(name)
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
        self.set_attribute(name, value, flags)
    }

    fn remove_xattr(&self, name: &[u8]) -> Result<()> {
        self.remove_attribute(name)
    }

    fn list_xattr(&self) -> Result<Vec<Vec<u8>>> {
        self.attributes()
    }

    fn slot(&self) -> Option<&Slot> {
        Some(&self.slot)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn downcast(inode: &Arc<dyn Inode>) -> Result<&HostNode> {
    inode.as_any().downcast_ref().ok_or(Errno::EXDEV)
}

/// A time for `utimensat`.
pub(super) fn time(set: Option<SetTime>) -> rustix::fs::Timespec {
    match set {
        None => rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        Some(SetTime::Now) => rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
        Some(SetTime::To(time)) => rustix::fs::Timespec { tv_sec: time.tv_sec, tv_nsec: time.tv_nsec },
    }
}
