//! Open regular files of an overlay: the lower file until the node has contents of its own.

use std::any::Any;
use std::sync::{Arc, OnceLock};

use super::Node;
use crate::abi::linux::{O_ACCMODE, O_RDONLY};
use crate::abi::types::Stat;
use crate::fd::{File, Io, Mapped};
use crate::fs::Inode;
use crate::fs::mem::MemFile;
use crate::mem::{Sink, Source};
use crate::{Errno, Result};

/// An open file of an overlay.
pub struct OverlayFile {
    node: Arc<Node>,
    lower: Option<Arc<dyn File>>,
    upper: OnceLock<MemFile>,
    flags: u32,
}

impl OverlayFile {
    /// `lower` is the open lower file if the node's contents are still there.
    pub fn new(node: Arc<Node>, lower: Option<Arc<dyn File>>, flags: u32) -> OverlayFile {
        OverlayFile { node, lower, upper: OnceLock::new(), flags }
    }

    /// The file that has the contents now.
    fn current(&self) -> Result<&dyn File> {
        if let Some(lower) = &self.lower
            && !self.node.data_up()
        {
            return Ok(&**lower);
        }
        self.upper().map(|file| file as &dyn File)
    }

    fn upper(&self) -> Result<&MemFile> {
        if let Some(file) = self.upper.get() {
            return Ok(file);
        }
        let upper = self.node.upper().ok_or(Errno::EIO)?;
        Ok(self.upper.get_or_init(|| MemFile::new(upper, self.flags)))
    }
}

impl File for OverlayFile {
    fn read(&self, io: &Io<'_>, offset: u64, into: &mut dyn Sink) -> Result<usize> {
        self.current()?.read(io, offset, into)
    }

    fn write(&self, io: &Io<'_>, offset: u64, from: &mut dyn Source) -> Result<usize> {
        self.upper()?.write(io, offset, from)
    }

    fn append(&self, io: &Io<'_>, from: &mut dyn Source) -> Result<(usize, u64)> {
        self.upper()?.append(io, from)
    }

    fn seekable(&self) -> bool {
        true
    }

    fn seek(&self, current: u64, offset: i64, whence: u32) -> Result<u64> {
        self.current()?.seek(current, offset, whence)
    }

    fn pollable(&self) -> bool {
        false
    }

    fn stat(&self) -> Result<Stat> {
        // An unlinked lower file is asked about through its descriptor.
        match &self.lower {
            Some(lower) if self.node.upper().is_none() => {
                let mut stat = lower.stat()?;
                let (dev, ino) = self.node.id()?;
                stat.st_nlink = self.node.links_of(stat.st_nlink);
                (stat.st_dev, stat.st_ino) = (dev, ino);
                Ok(stat)
            }
            _ => self.node.stat(),
        }
    }

    fn truncate(&self, len: u64) -> Result<()> {
        self.upper()?.truncate(len)
    }

    fn allocate(&self, mode: u32, offset: u64, len: u64) -> Result<()> {
        self.upper()?.allocate(mode, offset, len)
    }

    fn sync(&self, _data_only: bool) -> Result<()> {
        Ok(())
    }

    fn map(&self, key: u64, writable_shared: bool) -> Result<Mapped> {
        if writable_shared && self.flags & O_ACCMODE == O_RDONLY {
            return Err(Errno::EACCES);
        }
        self.current()?.map(key, writable_shared)
    }

    fn inode(&self) -> Option<Arc<dyn Inode>> {
        Some(self.node.clone())
    }

    fn reopen(self: Arc<Self>, flags: u32, within: bool) -> Result<Arc<dyn File>> {
        if !within {
            return Err(Errno::EACCES);
        }
        Ok(Arc::new(OverlayFile::new(self.node.clone(), self.lower.clone(), flags)))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
