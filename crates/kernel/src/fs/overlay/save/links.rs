//! Files with several names.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags};

use super::Stop;
use super::way::{Way, open};
use crate::{Errno, Result};

/// Files with several names. The copy of each has a name in a directory beside the changes while the walk lasts, from which
/// all its others are made, however far apart they are.
#[derive(Default)]
pub(super) struct Links {
    directory: Option<Staging>,
    /// Names of copies, by the identity of what they are copies of.
    copies: HashMap<(u64, u64), u32>,
}

struct Staging {
    parent: OwnedFd,
    name: String,
    itself: OwnedFd,
    /// Names that were given.
    next: u32,
}

impl Links {
    /// Gives the copy of `id` another name; `false` if there is none that can have one.
    pub(super) fn again(&mut self, id: (u64, u64), place: BorrowedFd<'_>, name: &[u8]) -> Result<bool, Stop> {
        let (Some(copy), Some(staging)) = (self.copies.get(&id), &self.directory) else { return Ok(false) };
        match rustix::fs::linkat(&staging.itself, number(*copy), place, name, AtFlags::empty()) {
            // So many names a file has there, and no more: another copy has the next ones.
            Err(rustix::io::Errno::MLINK) => Ok(false),
            other => Ok(other.map(|()| true)?),
        }
    }

    /// The copy of `id` was made.
    pub(super) fn first(&mut self, id: (u64, u64), way: &mut Way, name: &[u8]) -> Result<(), Stop> {
        let staging = match &mut self.directory {
            Some(staging) => staging,
            none => none.insert(Staging::new(way.top())?),
        };
        let copy = staging.next;
        staging.next = copy.checked_add(1).ok_or(Errno::ENOSPC)?;
        rustix::fs::linkat(way.here()?, name, &staging.itself, number(copy), AtFlags::empty())?;
        self.copies.insert(id, copy);
        Ok(())
    }
}

fn number(copy: u32) -> String {
    format!("{copy:x}")
}

impl Staging {
    /// Under a name that no guest could know.
    fn new(top: BorrowedFd<'_>) -> Result<Staging, Stop> {
        let mut random = [0; 16];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let name = format!(".coracle-links-{:032x}", u128::from_ne_bytes(random));
        let parent = top.try_clone_to_owned()?;
        rustix::fs::mkdirat(&parent, &name, Mode::from_raw_mode(0o700))?;
        let itself = open(parent.as_fd(), name.as_bytes(), OFlags::RDONLY | OFlags::DIRECTORY)?;
        Ok(Staging { parent, name, itself, next: 0 })
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        for copy in 0..self.next {
            let _ = rustix::fs::unlinkat(&self.itself, number(copy), AtFlags::empty());
        }
        let _ = rustix::fs::unlinkat(&self.parent, &self.name, AtFlags::REMOVEDIR);
    }
}
