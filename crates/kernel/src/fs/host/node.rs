//! Nodes of a host tree: where they are, and what is known of them. `open` has what is read, `change` what is changed.
//!
//! A node is known by its place, because thousands are in use and descriptors are few. Between two looks at a name the
//! host may have put something else there, so what was found by name once is never trusted when it counts:
//!
//! - [`HostNode::grasp`] yields a descriptor of the node itself. It was opened by name without an effect
//!   ([`HostNode::reach`]), and then proved to be the node by its identity ([`HostNode::prove`]);
//! - [`HostNode::confirm`] proves besides that the host says of it now what permissions were decided by;
//! - whoever finds something else forgets the name and says `ESTALE`, at which the call begins anew
//!   ([`crate::fs::anew`]).

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use rustix::fs::OFlags;

use super::descriptor::{Attributes, Identity, Seen, look, open};
use super::open::Reader;
use super::{Shared, errno};
use crate::fs::{Inode, S_IFDIR, S_IFLNK, Slot};
use crate::{Errno, Result};

/// A table of children that has room for more than this, and few in it, is made smaller.
const ROOMY: usize = 64;

/// A file, directory or link of the host, by its place in the tree.
pub struct HostNode {
    pub(super) shared: Arc<Shared>,
    pub(super) place: Mutex<Place>,
    pub(super) identity: Identity,
    /// It looks empty.
    pub(super) hidden: bool,
    descriptors: Mutex<Descriptors>,
    known: Mutex<Known>,
    /// The text of a link, which never changes.
    pub(super) text: OnceLock<Vec<u8>>,
    /// Children that are known, so that a rename can tell them.
    pub(super) children: Mutex<HashMap<Box<[u8]>, Weak<HostNode>>>,
    pub(super) slot: Slot,
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
        let this = self.this.upgrade();
        let mut children = self.children.lock();
        // Dropped after unlocking: the last hold on a child takes the lock.
        let other = children.get(name).and_then(Weak::upgrade);
        if let Some(known) = &other
            && known.identity == seen.identity()
        {
            let known = known.clone();
            drop(children);
            known.learn(seen);
            return known;
        }
        let node = HostNode::build(self.shared.clone(), this, name, seen);
        children.insert(name.into(), Arc::downgrade(&node));
        drop(children);
        node
    }

    /// Leaves the parent's list of children, and hands the parent over.
    fn leave(&mut self) -> Option<Arc<HostNode>> {
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

    /// The directory it is in and its name there; or itself and an empty name.
    pub(super) fn at(&self) -> Result<(Arc<OwnedFd>, Box<[u8]>)> {
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

    /// What the host said of it, if that need not be asked again.
    pub(super) fn known(&self) -> Option<Attributes> {
        let known = self.known.lock();
        known.holds().then_some(known.attributes)
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
    pub(super) fn astray(&self, error: Errno) -> Result<(Arc<OwnedFd>, Seen)> {
        let told = self.known.lock().then.take().is_none();
        let held = self.descriptors.lock().any();
        match held {
            Some(fd) if told => look(&*fd, b"").map(|seen| (fd, seen)),
            Some(_) => Err(Errno::ESTALE),
            None => Err(error),
        }
    }

    /// A descriptor of what its name leads to, fit to look at it and for calls that go through `/proc/self/fd` (`O_PATH`).
    pub(super) fn reach(&self) -> Result<Arc<OwnedFd>> {
        let (directory, name) = self.at()?;
        if name.is_empty() { Ok(directory) } else { open(&directory, &name, OFlags::PATH).map(Arc::new) }
    }

    /// Proves what `reach` has found: such a descriptor of the node itself, and what the host says of it.
    pub(super) fn prove(&self, reached: Result<Arc<OwnedFd>>) -> Result<(Arc<OwnedFd>, Seen)> {
        match reached.and_then(|fd| look(&*fd, b"").map(|seen| (fd, seen))) {
            Ok((fd, seen)) if seen.identity() == self.identity => Ok((fd, seen)),
            Ok(_) => self.astray(Errno::ESTALE),
            Err(error) => self.astray(error),
        }
    }

    /// Both.
    pub(super) fn grasp(&self) -> Result<(Arc<OwnedFd>, Seen)> {
        self.prove(self.reach())
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
        let (directory, seen) = self.reached(|| self.grasp())?;
        self.learn(&seen);
        self.descriptors.lock().directory = Some(directory.clone());
        Ok(directory)
    }

    /// Nothing in it is shown.
    pub(super) fn looks_empty(&self) -> bool {
        self.hidden || self.shared.decided_hidden(self.identity)
    }

    /// As `dir`, with what permissions were decided by proven, to be changed.
    pub(super) fn dir_to_change(&self) -> Result<Arc<OwnedFd>> {
        let directory = self.dir()?;
        self.agree(&look(&*directory, b"")?)?;
        Ok(directory)
    }

    /// In a shared view: carries something out by a name in this directory, which everybody may search all the while.
    /// Neither its mode nor what is in it changes meanwhile, which `st_ctime` would tell.
    fn searching<T>(&self, directory: &OwnedFd, act: impl FnOnce() -> Result<T>) -> Result<T> {
        if !self.shared.is_shared() {
            return act();
        }
        let before = self.searchable(directory)?;
        let result = act()?;
        if self.searchable(directory)? == before { Ok(result) } else { Err(Errno::ESTALE) }
    }

    /// Everybody may search this directory; its `st_ctime`.
    fn searchable(&self, directory: &OwnedFd) -> Result<(i64, i64)> {
        let seen = look(directory, b"")?;
        self.learn(&seen);
        if seen.stat.st_mode & 1 != 0 {
            Ok((seen.stat.st_ctime, seen.stat.st_ctime_nsec))
        } else {
            Err(Errno::EACCES)
        }
    }

    /// In a shared view: the same in the directory that it is in. For whatever serves something of the node.
    pub(super) fn reached<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<T> {
        let parent = self.place.lock().parent.clone();
        match parent {
            Some(parent) if self.shared.is_shared() => parent.searching(&*parent.dir()?, act),
            _ => act(),
        }
    }

    /// Looks a name up. `on_way`: the path goes on behind it, so that a descriptor of it will be needed.
    pub(super) fn find(&self, name: &[u8], on_way: bool) -> Result<Arc<dyn Inode>> {
        if self.looks_empty() {
            return Err(Errno::ENOENT);
        }
        let directory = self.dir()?;
        if !on_way {
            return Ok(self.child(name, &look(&*directory, name)?));
        }
        self.searching(&directory, || {
            let fd = open(&directory, name, OFlags::PATH)?;
            let seen = look(&fd, b"")?;
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
            Ok(child as Arc<dyn Inode>)
        })
    }
}

impl Drop for HostNode {
    /// Not recursive along the parents: whoever made the tree chose how deep it is.
    fn drop(&mut self) {
        let mut next = self.leave();
        while let Some(parent) = next {
            next = Arc::into_inner(parent).and_then(|mut parent| parent.leave());
        }
    }
}

pub(super) fn read_link(fd: &OwnedFd) -> Result<Vec<u8>> {
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
