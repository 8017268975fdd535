//! Taking changes out to a directory of the host.
//!
//! Guests have shaped names, depth and kinds. So every host call is about one component, relative to a directory that is
//! held, and follows no link; attributes go to what was opened. Of the directories on the way down a few are held; the way
//! back up is checked by device and inode.

mod links;
mod way;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};

use links::Links;
use way::{Way, open};

use super::OverlayFs;
use super::changes::{Found, Kind, Step};
use super::node::{Contents, Node};
use crate::fs::mem::NODE_COST;
use crate::fs::{Access, Inode, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG, Who, anew};
use crate::task::Cred;
use crate::{Errno, Result};

/// How far a copy may go.
#[derive(Clone, Copy, Debug)]
pub struct SaveLimits {
    /// Bytes, a name counted as `--disk` counts it.
    pub bytes: u64,
    pub until: Instant,
}

/// What stays behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// A deletion: there is nothing to write.
    Deleted,
    /// Sockets and devices.
    Kind,
    /// The host keeps it closed, and it was moved, not written.
    Closed,
    /// A directory that was moved, without what the host has in it.
    Unlisted(Errno),
}

/// A copy that did not come to its end.
#[derive(Debug)]
pub struct Stopped {
    /// Where it was.
    pub path: Vec<u8>,
    pub why: Stop,
}

/// Why a walk over the changes ends early.
#[derive(Debug, thiserror::Error)]
pub enum Stop {
    #[error("it is as long as it may be")]
    Bytes,
    #[error("the time for it is up")]
    Time,
    #[error(transparent)]
    Host(#[from] io::Error),
}

impl From<rustix::io::Errno> for Stop {
    fn from(error: rustix::io::Errno) -> Stop {
        Stop::Host(error.into())
    }
}

impl From<Errno> for Stop {
    fn from(error: Errno) -> Stop {
        Stop::Host(io::Error::from_raw_os_error(error.raw()))
    }
}

/// Bytes of a file that are moved at once.
const CHUNK: usize = 1 << 20;

impl OverlayFs {
    /// Writes what was added or changed below `into`, an existing directory of the host, at `place` in it and there under
    /// the same paths; with modes, times, links and, as far as the host lets it, owners. Set-id bits stay behind. `left` is
    /// told what is not written. Returns the bytes that were counted.
    pub fn save(
        &self,
        into: &Path,
        place: &Path,
        skip: &[&[u8]],
        limits: SaveLimits,
        left: &mut dyn FnMut(&[u8], Left),
    ) -> Result<u64, Stopped> {
        let mut changes = self.changes(skip);
        let outcome = Saving::new(into, place, limits).and_then(|mut saving| {
            while let Some(step) = changes.step() {
                match step {
                    Step::Leave => saving.way.leave()?,
                    Step::Name(found) => {
                        if let Some(what) = saving.name(changes.name(), found)? {
                            left(changes.path(), what);
                        }
                    }
                }
            }
            Ok(saving.written)
        });
        outcome.map_err(|why| Stopped { path: changes.path().to_vec(), why })
    }
}

struct Saving {
    way: Way,
    links: Links,
    limits: SaveLimits,
    written: u64,
}

impl Saving {
    fn new(into: &Path, place: &Path, limits: SaveLimits) -> Result<Saving, Stop> {
        Ok(Saving { way: Way::new(into, place)?, links: Links::default(), limits, written: 0 })
    }

    fn name(&mut self, name: &[u8], found: Found) -> Result<Option<Left>, Stop> {
        self.count(0)?;
        let Some(node) = found.node else { return Ok(Some(Left::Deleted)) };
        let changed = found.kind.is_some_and(|kind| kind != Kind::Deleted);
        if node.kind() == S_IFDIR {
            self.way.enter(name, changed.then_some(node));
            if changed {
                self.count(NODE_COST)?;
                self.way.here()?;
            }
            return Ok(found.unlisted.map(Left::Unlisted));
        }
        if !changed {
            return Ok(None);
        }
        self.count(NODE_COST)?;
        self.put(name, &node)
    }

    /// Takes `bytes` from what may be written, and looks at the clock.
    fn count(&mut self, bytes: u64) -> Result<(), Stop> {
        self.written = self.written.saturating_add(bytes);
        if self.written > self.limits.bytes {
            return Err(Stop::Bytes);
        }
        if Instant::now() >= self.limits.until { Err(Stop::Time) } else { Ok(()) }
    }

    /// Writes something that is no directory.
    fn put(&mut self, name: &[u8], node: &Arc<Node>) -> Result<Option<Left>, Stop> {
        let stat = node.stat()?;
        let shared = (stat.st_nlink > 1).then_some((stat.st_dev, stat.st_ino));
        if let Some(id) = shared
            && self.links.again(id, self.way.here()?, name)?
        {
            return Ok(None);
        }
        if let Some(left) = self.write(name, node)? {
            return Ok(Some(left));
        }
        if let Some(id) = shared {
            self.links.first(id, &mut self.way, name)?;
        }
        Ok(None)
    }

    fn write(&mut self, name: &[u8], node: &Arc<Node>) -> Result<Option<Left>, Stop> {
        let made = match node.kind() {
            S_IFLNK => {
                let cred = Cred::new(0, 0, Vec::new());
                let target = node.readlink(Who { cred: &cred, task: None })?;
                self.count(target.len() as u64)?;
                let here = self.way.here()?;
                rustix::fs::symlinkat(target.as_slice(), here, name)?;
                open(here, name, OFlags::PATH)?
            }
            S_IFREG if !node.served(Access::READ) => return Ok(Some(Left::Closed)),
            S_IFREG => {
                let upper = node.upper().filter(|_| node.data_up());
                let upper = upper.as_ref().map(|upper| &**upper as &dyn Inode);
                let from = upper.or(node.lower.as_deref()).ok_or(Errno::EIO)?;
                // The host may have closed it just now.
                let contents = match anew(|| Contents::of(from)) {
                    Err(Errno::EACCES) => return Ok(Some(Left::Closed)),
                    other => other?,
                };
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
                let file = open(self.way.here()?, name, flags)?;
                self.contents(contents, &file)?;
                file
            }
            S_IFIFO => {
                let here = self.way.here()?;
                rustix::fs::mknodat(here, name, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
                open(here, name, OFlags::RDONLY | OFlags::NONBLOCK)?
            }
            _ => return Ok(Some(Left::Kind)),
        };
        attributes(made.as_fd(), node)?;
        Ok(None)
    }

    fn contents(&mut self, mut contents: Contents<'_>, file: &OwnedFd) -> Result<(), Stop> {
        let mut at = 0;
        while let Some((start, bytes)) = contents.next(at, CHUNK)? {
            self.count(bytes.len() as u64)?;
            at = start;
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let count = rustix::io::pwrite(file, rest, at)?;
                at += count as u64;
                rest = rest.get(count..).unwrap_or_default();
            }
        }
        Ok(rustix::fs::ftruncate(file, contents.size().max(at))?)
    }
}

/// Gives what was made the node's mode, times and, if the host lets it, owner.
fn attributes(made: BorrowedFd<'_>, node: &Arc<Node>) -> Result<(), Stop> {
    let stat = node.stat()?;
    if !node.is_link() {
        rustix::fs::fchmod(made, Mode::from_raw_mode(stat.st_mode & 0o1777))?;
    }
    let times = Timestamps {
        last_access: Timespec { tv_sec: stat.st_atime, tv_nsec: stat.st_atime_nsec },
        last_modification: Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec },
    };
    rustix::fs::utimensat(made, "", &times, AtFlags::EMPTY_PATH)?;
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    match rustix::fs::chownat(made, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH) {
        // An ordinary user cannot give files away, nobody can to who has no number here; they are the caller's then.
        Ok(()) | Err(rustix::io::Errno::PERM | rustix::io::Errno::INVAL) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests;
