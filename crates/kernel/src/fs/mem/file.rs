//! Open regular memory files.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use coracle_platform::MapSource;

use super::MemInode;
use crate::abi::linux::{
    F_SEAL_FUTURE_WRITE, F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_WRITE, FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE, O_ACCMODE, O_NOATIME, O_RDONLY,
};
use crate::abi::types::Stat;
use crate::fd::{File, Io, Mapped};
use crate::fs::Inode;
use crate::fs::now;
use crate::mem::{Sink, Source};
use crate::task::Caps;
use crate::{Errno, Result};

/// An open memory file.
pub struct MemFile {
    inode: Arc<MemInode>,
    writable: bool,
    keep_atime: bool,
}

impl MemFile {
    /// `inode` is a regular file.
    pub fn new(inode: Arc<MemInode>, flags: u32) -> MemFile {
        MemFile { inode, writable: flags & O_ACCMODE != O_RDONLY, keep_atime: flags & O_NOATIME != 0 }
    }

    /// The node.
    pub fn node(&self) -> &Arc<MemInode> {
        &self.inode
    }

    fn data(&self) -> Result<&super::Data> {
        self.inode.data().ok_or(Errno::EINVAL)
    }

    fn sealed(&self, seals: u32) -> Result<()> {
        if self.inode.seals.load(Ordering::SeqCst) & seals != 0 { Err(Errno::EPERM) } else { Ok(()) }
    }

    /// What every write does: times, and set-id bits go (`file_remove_privs`, fs/inode.c).
    fn written(&self, io: &Io<'_>) {
        let privileged = || io.task.cred().capable(Caps::FSETID);
        self.inode.edit_meta(|meta| {
            let now = now();
            meta.mtime = now;
            meta.ctime = now;
            if meta.mode & 0o6000 != 0 && !privileged() {
                meta.mode &= !0o4000;
                if meta.mode & 0o010 != 0 {
                    meta.mode &= !0o2000;
                }
            }
        });
    }

    /// `F_ADD_SEALS` (mm/memfd.c).
    pub fn add_seals(&self, seals: u32) -> Result<()> {
        const ALL: u32 = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE | 0x20;
        if !self.writable {
            return Err(Errno::EPERM);
        }
        if seals & !ALL != 0 {
            return Err(Errno::EINVAL);
        }
        self.sealed(F_SEAL_SEAL)?;
        // The host knows whether it is mapped for writing.
        self.data()?.seal_host(seals)?;
        self.inode.seals.fetch_or(seals, Ordering::SeqCst);
        Ok(())
    }

    /// `F_GET_SEALS`.
    pub fn seals(&self) -> u32 {
        self.inode.seals.load(Ordering::SeqCst)
    }
}

impl File for MemFile {
    fn read(&self, _io: &Io<'_>, offset: u64, into: &mut dyn Sink) -> Result<usize> {
        let count = self.data()?.read(offset, into)?;
        if !self.keep_atime {
            self.inode.accessed();
        }
        Ok(count)
    }

    fn write(&self, io: &Io<'_>, offset: u64, from: &mut dyn Source) -> Result<usize> {
        self.sealed(F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)?;
        if self.seals() & F_SEAL_GROW != 0 && offset.saturating_add(from.remaining() as u64) > self.data()?.size()
        {
            return Err(Errno::EPERM);
        }
        let count = self.data()?.write(offset, from)?;
        self.written(io);
        Ok(count)
    }

    fn append(&self, io: &Io<'_>, from: &mut dyn Source) -> Result<(usize, u64)> {
        self.sealed(F_SEAL_WRITE | F_SEAL_FUTURE_WRITE | F_SEAL_GROW)?;
        let done = self.data()?.append(from)?;
        self.written(io);
        Ok(done)
    }

    fn seekable(&self) -> bool {
        true
    }

    fn seek(&self, current: u64, offset: i64, whence: u32) -> Result<u64> {
        let data = self.data()?;
        crate::fs::seek_regular(current, offset, whence, data.size(), |at, hole| data.seek_data(at, hole))
    }

    fn pollable(&self) -> bool {
        false
    }

    fn stat(&self) -> Result<Stat> {
        self.inode.stat()
    }

    fn truncate(&self, len: u64) -> Result<()> {
        let data = self.data()?;
        let size = data.size();
        if len < size {
            self.sealed(F_SEAL_SHRINK)?;
        } else if len > size {
            self.sealed(F_SEAL_GROW)?;
        }
        data.truncate(len)?;
        self.inode.touch();
        Ok(())
    }

    fn allocate(&self, mode: u32, offset: u64, len: u64) -> Result<()> {
        let data = self.data()?;
        if mode & FALLOC_FL_PUNCH_HOLE != 0 {
            self.sealed(F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)?;
        }
        if mode & FALLOC_FL_KEEP_SIZE == 0 && offset.saturating_add(len) > data.size() {
            self.sealed(F_SEAL_GROW)?;
        }
        data.allocate(mode, offset, len)?;
        self.inode.touch();
        Ok(())
    }

    fn sync(&self, _data_only: bool) -> Result<()> {
        Ok(())
    }

    fn map(&self, key: u64, writable_shared: bool) -> Result<Mapped> {
        if writable_shared {
            self.sealed(F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)?;
        }
        // A mapping may become writable later, so the rights of the descriptor decide.
        let sealed = self.write_sealed();
        let file = self.data()?.host(self.writable && !sealed)?;
        if sealed {
            // A worker may hold a descriptor from before.
            self.data()?.seal_host(self.seals())?;
        }
        Ok(Mapped::File(MapSource { file, key }))
    }

    fn write_sealed(&self) -> bool {
        self.sealed(F_SEAL_WRITE | F_SEAL_FUTURE_WRITE).is_err()
    }

    fn inode(&self) -> Option<Arc<dyn Inode>> {
        Some(self.inode.clone())
    }

    fn reopen(self: Arc<Self>, flags: u32, _within: bool) -> Result<Arc<dyn File>> {
        Ok(Arc::new(MemFile::new(self.inode.clone(), flags)))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
