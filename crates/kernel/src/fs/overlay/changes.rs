//! What changed: listing it and taking it out to the host.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid};

use super::OverlayFs;
use super::node::{Entry, Node};
use crate::fs::{Inode, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG, Who};
use crate::mem::VecSink;
use crate::task::Cred;
use crate::{Errno, Result};

/// What happened to a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Added,
    Modified,
    Deleted,
}

/// A name that is not as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// From the overlay's top, with a leading slash.
    pub path: Vec<u8>,
    pub kind: Kind,
    pub directory: bool,
}

/// A name that differs, and what it names.
struct Found {
    path: Vec<u8>,
    kind: Kind,
    node: Option<Arc<Node>>,
}

/// A name and what it leads to, if anything.
type Name = (Box<[u8]>, Option<Arc<Node>>);

impl OverlayFs {
    /// All changes, directories before their contents, sorted by path. `skip` names paths that are left out, but
    /// not what is below them (the sandbox's own mount points).
    pub fn changes(&self, skip: &[&[u8]]) -> Result<Vec<Change>> {
        Ok(self.find_changes(skip)?.into_iter().map(Change::from).collect())
    }

    fn find_changes(&self, skip: &[&[u8]]) -> Result<Vec<Found>> {
        let mut found = Vec::new();
        let mut pending = vec![(Vec::new(), self.root.clone(), false)];
        while let Some((path, directory, added)) = pending.pop() {
            let mut names: Vec<Name> = if added {
                // Made or moved here: everything in it is new at this place.
                let mut all = Vec::new();
                for listed in directory.list()? {
                    let node = directory.lookup(&listed.name).ok().and_then(as_node);
                    all.push((listed.name, node));
                }
                all
            } else {
                let names = directory.names();
                let node = |entry: &Entry| match entry {
                    Entry::Node(_, node) => Some(node.clone()),
                    Entry::Gone => None,
                };
                names.map.iter().map(|(name, entry)| (name.clone(), node(entry))).collect()
            };
            names.sort_by(|a, b| a.0.cmp(&b.0));
            for (name, node) in names {
                let path = [&path, b"/".as_slice(), &name].concat();
                let Some(node) = node else {
                    if directory.lower.as_ref().is_some_and(|lower| lower.lookup(&name).is_ok()) {
                        found.push(Found { path, kind: Kind::Deleted, node: None });
                    }
                    continue;
                };
                let at_home = !added && node.is_at_home(&directory, &name);
                if node.is_dir() {
                    pending.push((path.clone(), node.clone(), !at_home));
                }
                match at_home {
                    false => found.push(Found { path, kind: Kind::Added, node: Some(node) }),
                    true if node.differs() => found.push(Found { path, kind: Kind::Modified, node: Some(node) }),
                    true => {}
                }
            }
        }
        found.retain(|found| !skip.contains(&found.path.as_slice()));
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    /// Writes what was added or changed below `into`, an existing directory of the host, under the same paths;
    /// with modes, times, links and, as far as the host lets it, owners. Set-id bits stay behind. Returns what
    /// was not written: deletions, and nodes that cannot be taken out.
    pub fn save(&self, into: &Path, skip: &[&[u8]]) -> io::Result<Vec<Change>> {
        let top = rustix::fs::open(into, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let mut left = Vec::new();
        let mut directories = Vec::new();
        let mut written: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
        for found in self.find_changes(skip).map_err(host_error)? {
            let Some(node) = &found.node else {
                left.push(Change::from(found));
                continue;
            };
            let Some((parent, name)) = split(&found.path) else { continue };
            let place = open_parents(&top, parent)?;
            let stat = node.stat().map_err(host_error)?;
            let identity = (stat.st_dev, stat.st_ino);
            if stat.st_nlink > 1
                && !node.is_dir()
                && let Some((first_parent, first_name)) = written.get(&identity).and_then(|path| split(path))
            {
                let first = open_parents(&top, first_parent)?;
                rustix::fs::linkat(&first, first_name, &place, name, AtFlags::empty())?;
                continue;
            }
            if !write_node(&place, name, node)? {
                left.push(Change::from(found));
                continue;
            }
            written.insert(identity, found.path.clone());
            match node.is_dir() {
                // Their times change with what is put into them, their modes may forbid it.
                true => directories.push((found.path.clone(), node.clone())),
                false => attributes(&place, name, node)?,
            }
        }
        for (path, node) in directories.iter().rev() {
            if let Some((parent, name)) = split(path) {
                attributes(&open_parents(&top, parent)?, name, node)?;
            }
        }
        Ok(left)
    }
}

impl From<Found> for Change {
    fn from(found: Found) -> Change {
        let directory = found.node.as_ref().is_some_and(|node| node.is_dir());
        Change { path: found.path, kind: found.kind, directory }
    }
}

fn as_node(inode: Arc<dyn Inode>) -> Option<Arc<Node>> {
    let any: Arc<dyn std::any::Any + Send + Sync> = inode;
    any.downcast().ok()
}

fn host_error(error: Errno) -> io::Error {
    io::Error::from_raw_os_error(error.raw())
}

/// The parent's components and the name.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = path.iter().rposition(|byte| *byte == b'/')?;
    Some((path.get(..at)?, path.get(at + 1..)?))
}

/// Opens (and makes, where missing) the directories of `path` below `top`, through no link.
fn open_parents(top: &OwnedFd, path: &[u8]) -> io::Result<OwnedFd> {
    let mut at = top.try_clone()?;
    for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        at = match rustix::fs::openat(&at, name, flags, Mode::empty()) {
            Err(rustix::io::Errno::NOENT) => {
                rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o755))?;
                rustix::fs::openat(&at, name, flags, Mode::empty())?
            }
            other => other?,
        };
    }
    Ok(at)
}

/// Makes the node; `false` for kinds that stay behind.
fn write_node(place: &OwnedFd, name: &[u8], node: &Arc<Node>) -> io::Result<bool> {
    match node.kind() {
        S_IFDIR => match rustix::fs::mkdirat(place, name, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(true),
            Err(error) => Err(error.into()),
        },
        S_IFLNK => {
            let cred = Cred::new(0, 0, Vec::new());
            let target = node.readlink(Who { cred: &cred, task: None }).map_err(host_error)?;
            rustix::fs::symlinkat(target.as_slice(), place, name)?;
            Ok(true)
        }
        S_IFREG => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::openat(place, name, flags, Mode::from_raw_mode(0o600))?;
            copy_out(node, &file)?;
            Ok(true)
        }
        S_IFIFO => {
            rustix::fs::mknodat(place, name, rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

fn copy_out(node: &Arc<Node>, file: &OwnedFd) -> io::Result<()> {
    let upper = node.contents_up(u64::MAX).map_err(host_error)?;
    let Some(data) = upper.data() else { return Ok(()) };
    let mut at = 0;
    while let Ok(start) = data.seek_data(at, false) {
        let mut sink = VecSink { bytes: Vec::new(), limit: 1 << 20 };
        data.read(start, &mut sink).map_err(host_error)?;
        let mut rest = sink.bytes.as_slice();
        at = start;
        if rest.is_empty() {
            break;
        }
        while !rest.is_empty() {
            let count = rustix::io::pwrite(file, rest, at)?;
            at += count as u64;
            rest = rest.get(count..).unwrap_or_default();
        }
    }
    rustix::fs::ftruncate(file, data.size())?;
    Ok(())
}

fn attributes(place: &OwnedFd, name: &[u8], node: &Arc<Node>) -> io::Result<()> {
    let stat = node.stat().map_err(host_error)?;
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    match rustix::fs::chownat(place, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW) {
        // An ordinary user cannot give files away; they are the caller's then.
        Ok(()) | Err(rustix::io::Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    if !node.is_link() {
        rustix::fs::chmodat(place, name, Mode::from_raw_mode(stat.st_mode & 0o1777), AtFlags::empty())?;
    }
    let times = Timestamps {
        last_access: Timespec { tv_sec: stat.st_atime, tv_nsec: stat.st_atime_nsec },
        last_modification: Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec },
    };
    rustix::fs::utimensat(place, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}
