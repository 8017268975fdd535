//! Files without a place in any tree (pipes, sockets, event counters), dressed as inodes, so that
//! `/proc/self/fd/N` leads to them like to any other.

use std::any::Any;
use std::sync::Arc;

use super::{FileSystem, Inode, Opening, S_IFMT};
use crate::abi::types::{Stat, Statfs};
use crate::fd::{File, OpenFile};
use crate::{Errno, Result};

/// The file system of nodes that are in none.
pub(super) struct AnonFs;

struct AnonRoot;

impl FileSystem for AnonFs {
    fn root(&self) -> Arc<dyn Inode> {
        Arc::new(AnonRoot)
    }

    fn kind(&self) -> &'static str {
        "anon_inodefs"
    }

    fn dev(&self) -> u64 {
        super::make_dev(0, 1)
    }

    fn statfs(&self) -> Result<Statfs> {
        Ok(Statfs { f_type: 0x0904_1934, f_bsize: 4096, f_namelen: 255, f_frsize: 4096, ..Statfs::default() })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Inode for AnonRoot {
    fn stat(&self) -> Result<Stat> {
        Ok(Stat { st_mode: 0o600, st_nlink: 1, st_ino: 1, st_blksize: 4096, ..Stat::default() })
    }

    fn kind(&self) -> u32 {
        0
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// An open file as an inode.
pub struct FileInode {
    pub open: Arc<OpenFile>,
    kind: u32,
}

impl FileInode {
    /// Dresses `open`.
    pub fn new(open: Arc<OpenFile>) -> Arc<FileInode> {
        let kind = open.file.stat().map_or(0, |stat| stat.st_mode & S_IFMT);
        Arc::new(FileInode { open, kind })
    }
}

impl Inode for FileInode {
    fn stat(&self) -> Result<Stat> {
        self.open.file.stat()
    }

    fn kind(&self) -> u32 {
        self.kind
    }

    /// Opens the same object again. Rights are never widened: what the descriptor could not do, the new one
    /// cannot do either.
    fn open(self: Arc<Self>, how: &Opening<'_>) -> Result<Arc<dyn File>> {
        let wants_write = how.flags & crate::abi::linux::O_ACCMODE != crate::abi::linux::O_RDONLY;
        let wants_read = how.flags & crate::abi::linux::O_ACCMODE != crate::abi::linux::O_WRONLY;
        if (wants_write && !self.open.writable()) || (wants_read && !self.open.readable()) {
            // Pipes may be opened for their other end by their owner on Linux; `reopen` decides.
            return self.open.file.clone().reopen(how.flags, false);
        }
        self.open.file.clone().reopen(how.flags, true)
    }

    fn set_attr(&self, attr: &super::SetAttr) -> Result<()> {
        match self.open.file.inode() {
            Some(inode) => inode.set_attr(attr),
            // An inherited file, opened with O_TRUNC through /dev/stdout.
            None if attr.mode.is_none() && attr.uid.is_none() && attr.gid.is_none() => match attr.size {
                // What only grows is opened with O_TRUNC by scripts that mean to add a line to /dev/stderr.
                Some(0) if attr.mtime.is_some() && self.open.file.append_only() => Ok(()),
                Some(size) => self.open.file.truncate(size),
                None => Ok(()),
            },
            None => Err(Errno::EPERM),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
