//! Nodes of a host tree.

use std::any::Any;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, RenameFlags, ResolveFlags, StatxFlags};

use super::{HostFile, Shared, errno};
use crate::abi::linux::{O_ACCMODE, O_DSYNC, O_NOATIME, O_RDONLY, O_SYNC};
use crate::abi::types::Stat;
use crate::fd::File;
use crate::fs::perm::{self, Access};
use crate::fs::{
    DirFile, Inode, Listed, NewNode, Opening, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, SetAttr, SetTime, Slot,
    Who, make_dev,
};
use crate::{Errno, Result};

/// Largest extended attribute, and list of names (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const XATTR_SIZE: usize = 65536;

/// A file, directory or link of the host, by its place in the tree.
pub struct HostNode {
    shared: Arc<Shared>,
    place: Mutex<Place>,
    /// For directories in use.
    directory: Mutex<Option<Arc<OwnedFd>>>,
    /// For what has no name any more, or none yet: the node itself.
    kept: Mutex<Option<Arc<OwnedFd>>>,
    /// Mode, owner and group as of this instant, in milliseconds.
    known: Mutex<Option<Known>>,
    /// Children that are known, so that a rename can tell them.
    children: Mutex<HashMap<Box<[u8]>, Weak<HostNode>>>,
    kind: u32,
    dev: u64,
    ino: u64,
    slot: Slot,
    this: Weak<HostNode>,
}

/// An instant, and mode, owner and group then.
type Known = (u64, (u32, u32, u32));

struct Place {
    /// `None` for the top.
    parent: Option<Arc<HostNode>>,
    name: Box<[u8]>,
}

/// `statx` of `name` in `directory` (or of itself, for an empty name), as a `struct stat`.
pub(crate) fn statx(directory: &OwnedFd, name: &[u8]) -> Result<Stat> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | if name.is_empty() { AtFlags::EMPTY_PATH } else { AtFlags::empty() };
    let host = rustix::fs::statx(directory, name, flags, StatxFlags::BASIC_STATS).map_err(errno)?;
    Ok(Stat {
        st_dev: make_dev(host.stx_dev_major, host.stx_dev_minor),
        st_ino: host.stx_ino,
        st_nlink: u64::from(host.stx_nlink),
        st_mode: u32::from(host.stx_mode),
        st_uid: host.stx_uid,
        st_gid: host.stx_gid,
        st_rdev: make_dev(host.stx_rdev_major, host.stx_rdev_minor),
        st_size: host.stx_size as i64,
        st_blksize: i64::from(host.stx_blksize),
        st_blocks: host.stx_blocks as i64,
        st_atime: host.stx_atime.tv_sec,
        st_atime_nsec: i64::from(host.stx_atime.tv_nsec),
        st_mtime: host.stx_mtime.tv_sec,
        st_mtime_nsec: i64::from(host.stx_mtime.tv_nsec),
        st_ctime: host.stx_ctime.tv_sec,
        st_ctime_nsec: i64::from(host.stx_ctime.tv_nsec),
        ..Stat::default()
    })
}

impl HostNode {
    pub(super) fn top(shared: Arc<Shared>, stat: &Stat) -> Arc<HostNode> {
        let top = shared.top.clone();
        let node = HostNode::build(shared, None, b"", stat);
        *node.directory.lock() = Some(top);
        node
    }

    fn build(shared: Arc<Shared>, parent: Option<Arc<HostNode>>, name: &[u8], stat: &Stat) -> Arc<HostNode> {
        Arc::new_cyclic(|this| HostNode {
            shared,
            place: Mutex::new(Place { parent, name: name.into() }),
            directory: Mutex::default(),
            kept: Mutex::default(),
            known: Mutex::new(Some((instant(), owner_of(stat)))),
            children: Mutex::default(),
            kind: stat.st_mode & S_IFMT,
            dev: stat.st_dev,
            ino: stat.st_ino,
            slot: Slot::default(),
            this: this.clone(),
        })
    }

    /// The directory it is in (itself for the top) and its name there (empty for the top).
    fn at(&self) -> Result<(Arc<OwnedFd>, Box<[u8]>)> {
        if let Some(kept) = &*self.kept.lock() {
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

    /// An `O_PATH` descriptor of the node itself.
    fn itself(&self) -> Result<Arc<OwnedFd>> {
        let (parent, name) = self.at()?;
        if name.is_empty() { Ok(parent) } else { Ok(Arc::new(open(&parent, &name, OFlags::PATH)?)) }
    }

    /// The name is about to go: whoever has the node in use keeps it.
    fn keep(&self) {
        if let Ok(itself) = self.itself() {
            *self.kept.lock() = Some(itself);
        }
    }

    /// The name did not go after all.
    fn release(&self) {
        *self.kept.lock() = None;
    }

    /// A descriptor of this directory, for calls relative to it.
    fn dir(&self) -> Result<Arc<OwnedFd>> {
        if let Some(directory) = &*self.directory.lock() {
            return Ok(directory.clone());
        }
        let (parent, name) = self.at()?;
        let directory = Arc::new(open(&parent, &name, OFlags::PATH | OFlags::DIRECTORY)?);
        *self.directory.lock() = Some(directory.clone());
        Ok(directory)
    }

    fn hidden(&self) -> bool {
        self.kind == S_IFDIR && self.shared.hidden.contains(&(self.dev, self.ino))
    }

    /// A descriptor of the regular file.
    pub(crate) fn open_host(&self, flags: OFlags) -> Result<OwnedFd> {
        let (parent, name) = self.at()?;
        if name.is_empty() {
            // A file that was bound by itself: through its descriptor.
            return rustix::fs::open(through(&parent), flags | OFlags::CLOEXEC, Mode::empty()).map_err(errno);
        }
        open(&parent, &name, flags)
    }

    fn remove(&self, name: &[u8], child: &Arc<dyn Inode>, flags: AtFlags) -> Result<()> {
        let child = child.as_any().downcast_ref::<HostNode>().ok_or(Errno::EXDEV)?;
        child.keep();
        let done = rustix::fs::unlinkat(&*self.dir()?, name, flags).map_err(errno);
        if done.is_err() {
            child.release();
        }
        done
    }

    fn child(&self, name: &[u8], stat: &Stat) -> Arc<dyn Inode> {
        let mut children = self.children.lock();
        if let Some(known) = children.get(name).and_then(Weak::upgrade)
            && (known.dev, known.ino, known.kind) == (stat.st_dev, stat.st_ino, stat.st_mode & S_IFMT)
        {
            *known.known.lock() = Some((instant(), owner_of(stat)));
            return known;
        }
        if children.len() > 4096 {
            children.retain(|_, child| child.strong_count() > 0);
        }
        let node = HostNode::build(self.shared.clone(), self.this.upgrade(), name, stat);
        children.insert(name.into(), Arc::downgrade(&node));
        node
    }
}

/// A path that leads to what a descriptor stands for.
fn through(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(fd))
}

/// Opens one component, never following a link or leaving the directory.
fn open(directory: &OwnedFd, name: &[u8], flags: OFlags) -> Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(directory, name, flags, Mode::empty(), resolve).map_err(errno)
}

fn mode(bits: u32) -> Mode {
    Mode::from_raw_mode(bits & 0o7777)
}

/// How long what the host said about a directory on the way holds, in milliseconds: others may change the tree,
/// but not so that a walk must ask about every component every time.
const HOLDS: u64 = 1000;

/// Milliseconds of a coarse clock.
fn instant() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

fn owner_of(stat: &Stat) -> (u32, u32, u32) {
    (stat.st_mode, stat.st_uid, stat.st_gid)
}

impl Inode for HostNode {
    fn stat(&self) -> Result<Stat> {
        let (parent, name) = self.at()?;
        let mut stat = statx(&parent, &name)?;
        if self.hidden() {
            // It looks empty, not forbidden.
            stat.st_mode |= 0o755;
        }
        // Replaced behind our back by something of another kind: this node is no more.
        if stat.st_mode & S_IFMT != self.kind {
            return Err(Errno::ENOENT);
        }
        *self.known.lock() = Some((instant(), owner_of(&stat)));
        Ok(stat)
    }

    fn access_info(&self) -> Result<(u32, u32, u32)> {
        if let Some((then, known)) = *self.known.lock()
            && instant().saturating_sub(then) < HOLDS
        {
            return Ok(if self.hidden() { (known.0 | 0o755, known.1, known.2) } else { known });
        }
        self.stat().map(|stat| owner_of(&stat))
    }

    /// Looks again from time to time whether the name still leads to the same node.
    fn still(&self, name: &[u8], child: &Arc<dyn Inode>, _last: bool) -> bool {
        let Some(child) = child.as_any().downcast_ref::<HostNode>() else { return false };
        if child.known.lock().is_some_and(|(then, _)| instant().saturating_sub(then) < HOLDS) {
            return true;
        }
        let Ok(stat) = self.dir().and_then(|dir| statx(&dir, name)) else { return false };
        *child.known.lock() = Some((instant(), owner_of(&stat)));
        (stat.st_dev, stat.st_ino, stat.st_mode & S_IFMT) == (child.dev, child.ino, child.kind)
    }

    fn kind(&self) -> u32 {
        self.kind
    }

    fn id(&self) -> Result<(u64, u64)> {
        Ok((self.dev, self.ino))
    }

    fn permission(&self, who: Who<'_>, access: Access) -> Result<()> {
        let (mode, uid, gid) = self.access_info()?;
        // What everybody may read, and no more: being root inside is no right on the host.
        let everybody = Access::from_bits_truncate(mode & 7);
        let open = everybody.contains(access - Access::WRITE) || self.hidden();
        if self.shared.world_readable_only && !open {
            return Err(Errno::EACCES);
        }
        perm::generic(who.cred, mode, uid, gid, access)
    }

    fn served(&self, access: Access) -> bool {
        if !self.shared.world_readable_only || self.hidden() {
            return true;
        }
        // Execute permission of a file may change above; of a directory it is search permission.
        let counted = if self.kind == S_IFDIR { Access::READ | Access::EXEC } else { Access::READ };
        let everybody = |mode: u32| Access::from_bits_truncate(mode & 7).contains(access & counted);
        self.access_info().is_ok_and(|(mode, ..)| everybody(mode))
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        if self.kind != S_IFDIR {
            return Err(Errno::ENOTDIR);
        }
        if self.hidden() {
            return Err(Errno::ENOENT);
        }
        let stat = statx(&*self.dir()?, name)?;
        Ok(self.child(name, &stat))
    }

    fn list(&self) -> Result<Vec<Listed>> {
        if self.kind != S_IFDIR {
            return Err(Errno::ENOTDIR);
        }
        if self.hidden() {
            return Ok(Vec::new());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(&*self.dir()?, ".", flags, Mode::empty()).map_err(errno)?;
        let mut buffer = Vec::with_capacity(32 << 10);
        let mut entries = RawDir::new(directory, buffer.spare_capacity_mut());
        let mut names = Vec::new();
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(errno)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                let kind = (entry.file_type().as_raw_mode() >> 12) as u8;
                names.push(Listed { name: name.into(), ino: entry.ino(), kind });
            }
        }
        Ok(names)
    }

    fn open(self: Arc<Self>, how: &Opening<'_>) -> Result<Arc<dyn File>> {
        match self.kind {
            S_IFDIR => DirFile::open(self, how),
            S_IFREG => {
                // Not O_APPEND: it may be set and cleared later, and counts then.
                let kept = O_ACCMODE | O_SYNC | O_DSYNC | O_NOATIME;
                let flags = OFlags::from_bits_truncate(how.flags & kept) | OFlags::NONBLOCK;
                let file = match self.open_host(flags) {
                    Err(Errno::EPERM) if how.flags & O_NOATIME != 0 => self.open_host(flags - OFlags::NOATIME)?,
                    other => other?,
                };
                let writable = how.flags & O_ACCMODE != O_RDONLY;
                Ok(Arc::new(HostFile::new(Arc::new(file), self, writable)))
            }
            // Sockets, FIFOs and devices of the host can be looked at, not used.
            _ => Err(Errno::ENXIO),
        }
    }

    fn make(&self, name: &[u8], new: &NewNode<'_>) -> Result<Arc<dyn Inode>> {
        let directory = self.dir()?;
        match new.mode & S_IFMT {
            S_IFREG => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
                rustix::fs::openat(&*directory, name, flags, mode(new.mode)).map_err(errno)?;
            }
            S_IFDIR => rustix::fs::mkdirat(&*directory, name, mode(new.mode)).map_err(errno)?,
            S_IFLNK => rustix::fs::symlinkat(new.target, &*directory, name).map_err(errno)?,
            // The kernel serves FIFOs and sockets itself; on the host there is only their name.
            S_IFIFO => {
                rustix::fs::mknodat(&*directory, name, FileType::Fifo, mode(new.mode), 0).map_err(errno)?;
            }
            crate::fs::S_IFSOCK => {
                rustix::fs::mknodat(&*directory, name, FileType::Socket, mode(new.mode), 0).map_err(errno)?;
            }
            _ => return Err(Errno::EPERM),
        }
        if new.mode & S_IFMT != S_IFLNK {
            // The host applied its own umask.
            let _ = rustix::fs::chmodat(&*directory, name, mode(new.mode), AtFlags::empty());
        }
        let stat = statx(&directory, name)?;
        if (new.uid, new.gid) != (stat.st_uid, stat.st_gid) {
            let (uid, gid) = (rustix::fs::Uid::from_raw(new.uid), rustix::fs::Gid::from_raw(new.gid));
            // Only root can give files away; otherwise they are the caller's, as the mount's page says.
            let _ = rustix::fs::chownat(&*directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW);
        }
        Ok(self.child(name, &stat))
    }

    fn link(&self, name: &[u8], target: &Arc<dyn Inode>) -> Result<()> {
        let target = target.as_any().downcast_ref::<HostNode>().ok_or(Errno::EXDEV)?;
        let (from, old) = target.at()?;
        if old.is_empty() {
            // It has no name yet (O_TMPFILE).
            let (path, to) = (through(&from), self.dir()?);
            rustix::fs::linkat(rustix::fs::CWD, path, &*to, name, AtFlags::SYMLINK_FOLLOW).map_err(errno)?;
            *target.place.lock() = Place { parent: self.this.upgrade(), name: name.into() };
            target.release();
            return Ok(());
        }
        rustix::fs::linkat(&*from, &*old, &*self.dir()?, name, AtFlags::empty()).map_err(errno)
    }

    fn unlink(&self, name: &[u8], child: &Arc<dyn Inode>) -> Result<()> {
        self.remove(name, child, AtFlags::empty())
    }

    fn rmdir(&self, name: &[u8], child: &Arc<dyn Inode>) -> Result<()> {
        self.remove(name, child, AtFlags::REMOVEDIR)
    }

    fn rename(&self, old: &[u8], to: &Arc<dyn Inode>, new: &[u8], flags: u32) -> Result<()> {
        let to = to.as_any().downcast_ref::<HostNode>().ok_or(Errno::EXDEV)?;
        let flags = RenameFlags::from_bits_truncate(flags);
        let replaced = match flags.contains(RenameFlags::EXCHANGE) {
            true => None,
            false => to.children.lock().get(new).and_then(Weak::upgrade),
        };
        if let Some(replaced) = &replaced {
            replaced.keep();
        }
        let done = rustix::fs::renameat_with(&*self.dir()?, old, &*to.dir()?, new, flags).map_err(errno);
        if let (Err(error), Some(replaced)) = (done, &replaced) {
            replaced.release();
            return Err(error);
        }
        done?;
        // The known children learn their new places; one lock at a time.
        let moved = self.children.lock().remove(old);
        let target = to.children.lock().remove(new);
        let put = |child: Option<Weak<HostNode>>, directory: &HostNode, name: &[u8]| {
            if let Some(child) = child.and_then(|child| child.upgrade()) {
                *child.place.lock() = Place { parent: directory.this.upgrade(), name: name.into() };
                directory.children.lock().insert(name.into(), Arc::downgrade(&child));
            }
        };
        put(moved, to, new);
        if flags.contains(RenameFlags::EXCHANGE) {
            put(target, self, old);
        }
        Ok(())
    }

    fn readlink(&self, _who: Who<'_>) -> Result<Vec<u8>> {
        let (parent, name) = self.at()?;
        rustix::fs::readlinkat(&*parent, &*name, Vec::new()).map(|link| link.into_bytes()).map_err(errno)
    }

    /// Through a descriptor, so that no link can be put into the name's place meanwhile.
    fn set_attr(&self, attr: &SetAttr) -> Result<()> {
        let itself = self.itself()?;
        *self.known.lock() = None;
        if attr.uid.is_some() || attr.gid.is_some() {
            let (uid, gid) = (attr.uid.map(rustix::fs::Uid::from_raw), attr.gid.map(rustix::fs::Gid::from_raw));
            rustix::fs::chownat(&*itself, "", uid, gid, AtFlags::EMPTY_PATH).map_err(errno)?;
        }
        if let Some(bits) = attr.mode {
            rustix::fs::chmod(through(&itself), mode(bits)).map_err(errno)?;
        }
        if let Some(size) = attr.size {
            let file = self.open_host(OFlags::WRONLY | OFlags::NONBLOCK)?;
            rustix::fs::ftruncate(&file, size).map_err(errno)?;
        }
        if attr.atime.is_some() || attr.mtime.is_some() {
            let times =
                rustix::fs::Timestamps { last_access: time(attr.atime), last_modification: time(attr.mtime) };
            rustix::fs::utimensat(&*itself, "", &times, AtFlags::EMPTY_PATH).map_err(errno)?;
        }
        Ok(())
    }

    fn make_unnamed(&self, new: &NewNode<'_>) -> Result<Arc<dyn Inode>> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let path = through(&*self.dir()?);
        let file = rustix::fs::open(path, flags, mode(new.mode)).map_err(errno)?;
        let _ = rustix::fs::fchmod(&file, mode(new.mode));
        let stat = statx(&file, b"")?;
        let node = HostNode::build(self.shared.clone(), self.this.upgrade(), b"", &stat);
        *node.kept.lock() = Some(Arc::new(file));
        Ok(node)
    }

    fn xattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        let mut value = vec![0; XATTR_SIZE];
        let len = rustix::fs::getxattr(through(&*self.itself()?), name, value.as_mut_slice()).map_err(errno)?;
        value.truncate(len);
        Ok(value)
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
        let flags = rustix::fs::XattrFlags::from_bits_truncate(flags);
        rustix::fs::setxattr(through(&*self.itself()?), name, value, flags).map_err(errno)
    }

    fn remove_xattr(&self, name: &[u8]) -> Result<()> {
        rustix::fs::removexattr(through(&*self.itself()?), name).map_err(errno)
    }

    /// Only those that are a user's own: others speak of the host's policies.
    fn list_xattr(&self) -> Result<Vec<Vec<u8>>> {
        if !matches!(self.kind, S_IFREG | S_IFDIR) {
            return Ok(Vec::new());
        }
        let mut names = vec![0u8; XATTR_SIZE];
        let len = match rustix::fs::listxattr(through(&*self.itself()?), names.as_mut_slice()) {
            Err(rustix::io::Errno::OPNOTSUPP) => 0,
            other => other.map_err(errno)?,
        };
        names.truncate(len);
        let all = names.split(|byte| *byte == 0).filter(|name| name.starts_with(b"user."));
        Ok(all.map(<[u8]>::to_vec).collect())
    }

    fn slot(&self) -> Option<&Slot> {
        Some(&self.slot)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A time for `utimensat`.
pub(super) fn time(set: Option<SetTime>) -> rustix::fs::Timespec {
    match set {
        None => rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        Some(SetTime::Now) => rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
        Some(SetTime::To(time)) => rustix::fs::Timespec { tv_sec: time.tv_sec, tv_nsec: time.tv_nsec },
    }
}
