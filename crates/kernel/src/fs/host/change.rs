//! Changes to a host tree.
//!
//! Linux looks a name up, checks, and changes it in one step. Here these are several, so what was checked is proven right
//! before: the directory, and what the name leads to (`node`). The rest goes through descriptors. Where Linux has no
//! call for that, which is unlinking, renaming, and making what is no file, the directory is locked against the guest
//! between the two steps ([`locks`]).

use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use rustix::fs::{AtFlags, FileType, Gid, OFlags, RenameFlags, Timestamps, Uid, XattrFlags};

use super::descriptor::{Seen, look, mode, through};
use super::node::{HostNode, Place};
use super::{HostFile, errno, locks, made};
use crate::abi::linux::{O_ACCMODE, O_DSYNC, O_RDONLY, O_SYNC};
use crate::fs::{Inode, Made, NewNode, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK, SetAttr, SetTime};
use crate::{Errno, Result};

/// Largest extended attribute, and list of names (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const XATTR_SIZE: usize = 65536;

impl HostNode {
    pub(super) fn make_node(&self, name: &[u8], new: &NewNode<'_>) -> Result<Arc<HostNode>> {
        if new.mode & S_IFMT == S_IFREG {
            return self.make_file(name, new, OFlags::WRONLY).map(|(node, _)| node);
        }
        let directory = self.dir_to_change()?;
        // Before it is proven to be what was made, no guest puts another into its place.
        let _names = locks::one(self.identity);
        let then = made::Instant::now();
        match new.mode & S_IFMT {
            S_IFDIR => rustix::fs::mkdirat(&*directory, name, mode(new.mode)),
            S_IFLNK => rustix::fs::symlinkat(new.target, &*directory, name),
            // The kernel serves FIFOs and sockets itself; on the host there is only their name.
            S_IFIFO => rustix::fs::mknodat(&*directory, name, FileType::Fifo, mode(new.mode), 0),
            S_IFSOCK => rustix::fs::mknodat(&*directory, name, FileType::Socket, mode(new.mode), 0),
            _ => return Err(Errno::EPERM),
        }
        .map_err(errno)?;
        let (fd, mut seen, proven) = made::find(&directory, name, new.mode, then)?;
        if proven && made::give(&self.shared.own, &fd, &seen, (new.uid, new.gid), new.mode)? {
            seen = look(&fd, b"")?;
        }
        Ok(self.child(name, &seen))
    }

    /// Makes a regular file; it cannot be mistaken for another.
    fn make_file(&self, name: &[u8], new: &NewNode<'_>, flags: OFlags) -> Result<(Arc<HostNode>, OwnedFd)> {
        let directory = self.dir_to_change()?;
        let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = rustix::fs::openat(&*directory, name, flags, mode(new.mode)).map_err(errno)?;
        let seen = self.given(&file, new)?;
        Ok((self.child(name, &seen), file))
    }

    /// Gives a new regular file to its owner.
    fn given(&self, file: &OwnedFd, new: &NewNode<'_>) -> Result<Seen> {
        let seen = look(file, b"")?;
        match made::give(&self.shared.own, file, &seen, (new.uid, new.gid), new.mode)? {
            true => look(file, b""),
            false => Ok(seen),
        }
    }

    pub(super) fn create_file(&self, name: &[u8], new: &NewNode<'_>, flags: u32) -> Result<Made> {
        let (node, file) = self.make_file(name, new, opening(flags))?;
        Ok(opened(node, Arc::new(file), flags))
    }

    pub(super) fn create_temporary(&self, new: &NewNode<'_>, flags: u32) -> Result<Made> {
        let how = opening(flags) | OFlags::TMPFILE | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&*self.dir_to_change()?, ".", how, mode(new.mode)).map_err(errno)?;
        let seen = self.given(&file, new)?;
        let file = Arc::new(file);
        let node = self.unnamed(file.clone(), &seen);
        Ok(opened(node, file, flags))
    }

    pub(super) fn add_link(&self, name: &[u8], target: &HostNode) -> Result<()> {
        let directory = self.dir_to_change()?;
        let (itself, _) = target.confirm()?;
        self.shared.own.link(&itself, &directory, name)?;
        let mut place = target.place.lock();
        if place.name.is_empty() && place.parent.is_some() {
            // Its first name (O_TMPFILE).
            *place = Place { parent: self.this.upgrade(), name: name.into() };
            drop(place);
            target.release();
        }
        Ok(())
    }

    pub(super) fn remove(&self, name: &[u8], child: &HostNode, directory: bool) -> Result<()> {
        let place = self.dir_to_change()?;
        let _names = locks::one(self.identity);
        let first = child.keep(&place, name)?;
        let flags = if directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        match rustix::fs::unlinkat(&*place, name, flags) {
            Ok(()) => child.gone(),
            Err(error) => {
                if first {
                    child.release();
                }
                return Err(errno(error));
            }
        }
        Ok(())
    }

    /// `source` is what `old` leads to, and `target` what `new` does, if anything.
    pub(super) fn move_name(
        &self,
        (old, source): (&[u8], &HostNode),
        to: &HostNode,
        (new, target): (&[u8], Option<&HostNode>),
        flags: u32,
    ) -> Result<()> {
        let mut flags = RenameFlags::from_bits_truncate(flags);
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        let (from, into) = (self.dir_to_change()?, to.dir_to_change()?);
        let _names = locks::two(self.identity, to.identity);
        source.is_seen(&look(&*from, old)?)?;
        let mut first = false;
        match target {
            Some(target) if exchange => target.is_seen(&look(&*into, new)?)?,
            Some(target) => first = target.keep(&into, new)?,
            // Nothing is replaced that was not seen.
            None => flags |= RenameFlags::NOREPLACE,
        }
        if let Err(error) = rename(&from, old, &into, new, flags) {
            if let Some(target) = target.filter(|_| first) {
                target.release();
            }
            return Err(error);
        }
        if let Some(target) = target.filter(|_| !exchange) {
            target.gone();
        }
        // The known children learn their new places; one lock at a time.
        let moved = self.children.lock().remove(old);
        let other = to.children.lock().remove(new);
        let put = |child: Option<Weak<HostNode>>, directory: &HostNode, name: &[u8]| {
            if let Some(child) = child.and_then(|child| child.upgrade()) {
                let place = Place { parent: directory.this.upgrade(), name: name.into() };
                let old = std::mem::replace(&mut *child.place.lock(), place);
                drop(old);
                directory.children.lock().insert(name.into(), Arc::downgrade(&child));
            }
        };
        put(moved, to, new);
        if exchange {
            put(other, self, old);
        }
        Ok(())
    }

    pub(super) fn change(&self, attr: &SetAttr) -> Result<()> {
        let (itself, seen) = self.confirm()?;
        if attr.seen.is_some_and(|decided| decided != seen.attributes()) {
            return Err(Errno::ESTALE);
        }
        if attr.uid.is_some() || attr.gid.is_some() {
            let (uid, gid) = (attr.uid.map(Uid::from_raw), attr.gid.map(Gid::from_raw));
            rustix::fs::chownat(&*itself, "", uid, gid, AtFlags::EMPTY_PATH).map_err(errno)?;
        }
        if let Some(bits) = attr.mode {
            self.shared.own.chmod(&itself, mode(bits))?;
        }
        if let Some(size) = attr.size {
            // Only regular files have one to set; anything else must not even be opened.
            if seen.stat.st_mode & S_IFMT != S_IFREG {
                return Err(Errno::EINVAL);
            }
            let file = self.shared.own.reopen(&itself, OFlags::WRONLY | OFlags::NONBLOCK)?;
            rustix::fs::ftruncate(&file, size).map_err(errno)?;
        }
        if attr.atime.is_some() || attr.mtime.is_some() {
            let times = Timestamps { last_access: time(attr.atime), last_modification: time(attr.mtime) };
            rustix::fs::utimensat(&*itself, "", &times, AtFlags::EMPTY_PATH).map_err(errno)?;
        }
        if attr.mode.is_some() || attr.uid.is_some() || attr.gid.is_some() || attr.size.is_some() {
            self.learn(&look(&*itself, b"")?);
        }
        Ok(())
    }

    pub(super) fn attribute(&self, name: &[u8]) -> Result<Vec<u8>> {
        // Most nodes have none, and of whatever else is there now that says nothing.
        if let Ok(found) = self.reach() {
            rustix::fs::getxattr(through(&found), name, [0u8; 0].as_mut_slice()).map_err(errno)?;
        }
        self.reached(|| {
            let (itself, seen) = self.confirm()?;
            self.shared.admit(&seen)?;
            let mut value = vec![0; XATTR_SIZE];
            let len = rustix::fs::getxattr(through(&itself), name, value.as_mut_slice()).map_err(errno)?;
            value.truncate(len);
            Ok(value)
        })
    }

    pub(super) fn set_attribute(&self, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
        let flags = XattrFlags::from_bits_truncate(flags);
        rustix::fs::setxattr(through(&self.confirm()?.0), name, value, flags).map_err(errno)
    }

    pub(super) fn remove_attribute(&self, name: &[u8]) -> Result<()> {
        rustix::fs::removexattr(through(&self.confirm()?.0), name).map_err(errno)
    }

    /// Only those that are a user's own: others speak of the host's policies.
    pub(super) fn attributes(&self) -> Result<Vec<Vec<u8>>> {
        if !matches!(self.identity.kind, S_IFREG | S_IFDIR) {
            return Ok(Vec::new());
        }
        let mut names = vec![0u8; XATTR_SIZE];
        let len = self.reached(|| {
            let (itself, seen) = self.confirm()?;
            if self.shared.admit(&seen).is_err() {
                return Ok(0);
            }
            match rustix::fs::listxattr(through(&itself), names.as_mut_slice()) {
                Err(rustix::io::Errno::OPNOTSUPP) => Ok(0),
                other => other.map_err(errno),
            }
        })?;
        names.truncate(len);
        let all = names.split(|byte| *byte == 0).filter(|name| name.starts_with(b"user."));
        Ok(all.map(<[u8]>::to_vec).collect())
    }
}

/// The host's flags for opening what is made, from the guest's.
fn opening(flags: u32) -> OFlags {
    OFlags::from_bits_truncate(flags & (O_ACCMODE | O_SYNC | O_DSYNC)) | OFlags::NONBLOCK
}

fn opened(node: Arc<HostNode>, file: Arc<OwnedFd>, flags: u32) -> Made {
    node.lend(&file);
    let writable = flags & O_ACCMODE != O_RDONLY;
    let file = Arc::new(HostFile::new(file, node.clone(), writable));
    Made { inode: node as Arc<dyn Inode>, file: Some(file) }
}

/// `renameat2`. That a name was free is not to be checked on file systems that cannot (`EINVAL`: NFS, some of FUSE).
fn rename(from: &OwnedFd, old: &[u8], into: &OwnedFd, new: &[u8], flags: RenameFlags) -> Result<()> {
    match rustix::fs::renameat_with(from, old, into, new, flags).map_err(errno) {
        Err(Errno::EINVAL) if flags.contains(RenameFlags::NOREPLACE) => {
            rustix::fs::renameat_with(from, old, into, new, flags - RenameFlags::NOREPLACE).map_err(errno)
        }
        Err(Errno::EEXIST) if flags.contains(RenameFlags::NOREPLACE) => Err(Errno::ESTALE),
        other => other,
    }
}

/// A time for `utimensat`.
fn time(set: Option<SetTime>) -> rustix::fs::Timespec {
    match set {
        None => rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        Some(SetTime::Now) => rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
        Some(SetTime::To(time)) => rustix::fs::Timespec { tv_sec: time.tv_sec, tv_nsec: time.tv_nsec },
    }
}
