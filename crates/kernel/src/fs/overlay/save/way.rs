//! The way from the top of the copy to where the walk is.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};

use super::{Node, Stop, attributes};
use crate::Result;

/// Directories of it that are held open.
const HELD: usize = 32;

/// Directories are made when something is put into them. The deepest that was made is always held.
pub(super) struct Way {
    top: OwnedFd,
    levels: Vec<Level>,
}

/// A directory on the way down from the top.
struct Level {
    name: Box<[u8]>,
    /// Its attributes are copied when it is left: its times change with what is put into it, its mode may forbid that.
    node: Option<Arc<Node>>,
    /// Once it was made.
    made: Option<Made>,
}

/// A directory of the host.
struct Made {
    id: (u32, u32, u64),
    held: Option<OwnedFd>,
}

impl Way {
    /// From `place` in `into`, an existing directory.
    pub(super) fn new(into: &Path, place: &Path) -> Result<Way, Stop> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut top = rustix::fs::open(into, flags, Mode::empty())?;
        // What another overlay's copy has put there may be a link, and leads nowhere then.
        for component in place.components() {
            if let Component::Normal(name) = component {
                top = make_directory(top.as_fd(), name.as_encoded_bytes(), 0o755)?;
            }
        }
        Ok(Way { top, levels: Vec::new() })
    }

    pub(super) fn top(&self) -> BorrowedFd<'_> {
        self.top.as_fd()
    }

    /// The walk goes down; `node` if the directory itself is to be copied.
    pub(super) fn enter(&mut self, name: &[u8], node: Option<Arc<Node>>) {
        self.levels.push(Level { name: name.into(), node, made: None });
    }

    /// The directory that the walk is in, made with all on the way to it.
    pub(super) fn here(&mut self) -> Result<BorrowedFd<'_>, Stop> {
        let held = |level: &Level| level.made.as_ref().is_some_and(|made| made.held.is_some());
        let first = self.levels.iter().rposition(held).map_or(0, |at| at + 1);
        for at in first..self.levels.len() {
            let directory = {
                let parent = at.checked_sub(1).and_then(|above| self.held(above)).unwrap_or(self.top.as_fd());
                let Some(level) = self.levels.get(at) else { break };
                make_directory(parent, &level.name, if level.node.is_some() { 0o700 } else { 0o755 })?
            };
            let id = identify(directory.as_fd())?;
            if let Some(level) = self.levels.get_mut(at) {
                level.made = Some(Made { id, held: Some(directory) });
            }
            if let Some(far) = at.checked_sub(HELD).and_then(|far| self.levels.get_mut(far))
                && let Some(made) = &mut far.made
            {
                made.held = None;
            }
        }
        let last = self.levels.len().checked_sub(1);
        Ok(last.and_then(|last| self.held(last)).unwrap_or(self.top.as_fd()))
    }

    fn held(&self, at: usize) -> Option<BorrowedFd<'_>> {
        self.levels.get(at)?.made.as_ref()?.held.as_ref().map(AsFd::as_fd)
    }

    /// The walk goes up.
    pub(super) fn leave(&mut self) -> Result<(), Stop> {
        let Some(level) = self.levels.pop() else { return Ok(()) };
        let Some(Made { held: Some(directory), .. }) = level.made else { return Ok(()) };
        if let Some(Level { made: Some(above), .. }) = self.levels.last_mut()
            && above.held.is_none()
        {
            let back = open(directory.as_fd(), b"..", OFlags::RDONLY | OFlags::DIRECTORY)?;
            if identify(back.as_fd())? != above.id {
                return Err(io::Error::other("a directory of the copy was moved meanwhile").into());
            }
            above.held = Some(back);
        }
        match &level.node {
            Some(node) => attributes(directory.as_fd(), node),
            None => Ok(()),
        }
    }
}

/// Opens one component, following no link.
pub(super) fn open(directory: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> Result<OwnedFd, Stop> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(0o600))?)
}

fn make_directory(parent: BorrowedFd<'_>, name: &[u8], mode: u32) -> Result<OwnedFd, Stop> {
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(mode)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    open(parent, name, OFlags::RDONLY | OFlags::DIRECTORY)
}

fn identify(directory: BorrowedFd<'_>) -> Result<(u32, u32, u64), Stop> {
    let stat = rustix::fs::statx(directory, "", AtFlags::EMPTY_PATH, StatxFlags::INO)?;
    Ok((stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino))
}
