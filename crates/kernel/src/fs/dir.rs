//! Open directories, for every kind of file system: a snapshot of the names, taken at the first read and after
//! each `rewinddir`, so that positions are stable whatever happens to the directory meanwhile.

use std::any::Any;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Inode, Listed, Opening, PathRef};
use crate::abi::linux::{SEEK_CUR, SEEK_END, SEEK_SET};
use crate::abi::types::Stat;
use crate::fd::file::DirEntry;
use crate::fd::{File, Io};
use crate::mem::{Sink, Source};
use crate::{Errno, Result};

/// An open directory.
pub struct DirFile {
    inode: Arc<dyn Inode>,
    path: PathRef,
    names: Mutex<Option<Arc<[Listed]>>>,
}

const DT_DIR: u8 = 4;

impl DirFile {
    /// The directory `inode`, opened at `how.path`. `EISDIR` for writing.
    pub fn open(inode: Arc<dyn Inode>, how: &Opening<'_>) -> Result<Arc<dyn File>> {
        if how.flags & crate::abi::linux::O_ACCMODE != crate::abi::linux::O_RDONLY {
            return Err(Errno::EISDIR);
        }
        // It stays open whatever becomes of its name.
        inode.pin()?;
        Ok(Arc::new(DirFile { inode, path: how.path.clone(), names: Mutex::default() }))
    }

    fn names(&self, anew: bool) -> Result<Arc<[Listed]>> {
        if !anew && let Some(names) = &*self.names.lock() {
            return Ok(names.clone());
        }
        let names: Arc<[Listed]> = self.inode.list()?.into();
        *self.names.lock() = Some(names.clone());
        Ok(names)
    }

    fn parent_ino(&self) -> u64 {
        let parent = self.path.dentry.parent().or_else(|| self.path.mount.place()?.dentry.parent());
        let inode = parent.as_ref().map_or(&self.inode, |parent| parent.inode());
        inode.id().map_or(1, |(_, ino)| ino)
    }
}

impl File for DirFile {
    fn read(&self, _io: &Io<'_>, _offset: u64, _into: &mut dyn Sink) -> Result<usize> {
        Err(Errno::EISDIR)
    }

    fn write(&self, _io: &Io<'_>, _offset: u64, _from: &mut dyn Source) -> Result<usize> {
        Err(Errno::EBADF)
    }

    fn seekable(&self) -> bool {
        true
    }

    fn seek(&self, current: u64, offset: i64, whence: u32) -> Result<u64> {
        let base = match whence {
            SEEK_SET => 0,
            SEEK_CUR => current,
            SEEK_END => self.names(false)?.len() as u64 + 2,
            _ => return Err(Errno::EINVAL),
        };
        base.checked_add_signed(offset).filter(|at| i64::try_from(*at).is_ok()).ok_or(Errno::EINVAL)
    }

    fn pollable(&self) -> bool {
        false
    }

    fn stat(&self) -> Result<Stat> {
        self.inode.stat()
    }

    fn sync(&self, _data_only: bool) -> Result<()> {
        Ok(())
    }

    /// Positions: 0 is before `.`, 1 before `..`, `n + 2` before the `n`-th name.
    fn read_directory(&self, from: u64, emit: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<u64> {
        let names = self.names(from == 0)?;
        if from == 0 {
            let (_, ino) = self.inode.id()?;
            if !emit(DirEntry { ino, next: 1, kind: DT_DIR, name: b"." }) {
                return Ok(0);
            }
        }
        if from <= 1 && !emit(DirEntry { ino: self.parent_ino(), next: 2, kind: DT_DIR, name: b".." }) {
            return Ok(1);
        }
        let mut at = from.max(2);
        let skip = usize::try_from(at - 2).unwrap_or(usize::MAX);
        for listed in names.iter().skip(skip) {
            if !emit(DirEntry { ino: listed.ino, next: at + 1, kind: listed.kind, name: &listed.name }) {
                break;
            }
            at += 1;
        }
        Ok(at)
    }

    fn inode(&self) -> Option<Arc<dyn Inode>> {
        Some(self.inode.clone())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
