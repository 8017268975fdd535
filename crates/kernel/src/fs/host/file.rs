//! Open regular files of the host.

use std::any::Any;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use coracle_platform::MapSource;
use rustix::fs::{FallocateFlags, SeekFrom};

use super::descriptor::statx;
use super::errno;
use super::node::HostNode;
use crate::abi::types::Stat;
use crate::fd::{File, Io, Mapped};
use crate::fs::{Inode, seek_regular};
use crate::mem::{Sink, Source};
use crate::{Errno, Result};

/// Most bytes moved at once: what stays in the cache between the two copies.
const CHUNK: usize = 128 << 10;

/// An open regular file of the host.
pub struct HostFile {
    file: Arc<OwnedFd>,
    inode: Arc<HostNode>,
    writable: bool,
}

impl HostFile {
    /// `file` is a descriptor of what `inode` names.
    pub fn new(file: Arc<OwnedFd>, inode: Arc<HostNode>, writable: bool) -> HostFile {
        HostFile { file, inode, writable }
    }
}

/// Reads as much as is wanted and there is.
pub(crate) fn read_at(file: &OwnedFd, offset: u64, into: &mut dyn Sink) -> Result<usize> {
    let mut done = 0;
    while into.remaining() > 0 {
        let at = offset.saturating_add(done as u64);
        let mut asked = 0;
        let step = into.fill(CHUNK, &mut |room| {
            asked = room.len();
            rustix::io::pread(file, room, at).map_err(errno)
        });
        match step {
            Ok(count) => {
                done += count;
                if count < asked || count == 0 {
                    break;
                }
            }
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Writes all there is, as far as the host takes it.
pub(crate) fn write_at(file: &OwnedFd, offset: u64, from: &mut dyn Source) -> Result<usize> {
    let mut buffer = vec![0; from.remaining().min(CHUNK)];
    let mut done = 0;
    while from.remaining() > 0 {
        let step = from.take(&mut buffer).and_then(|count| {
            let bytes = buffer.get(..count).unwrap_or_default();
            let at = offset.saturating_add(done as u64);
            rustix::io::pwrite(file, bytes, at).map(|written| (written, count)).map_err(errno)
        });
        match step {
            Ok((written, count)) => {
                done += written;
                if written < count || count == 0 {
                    break;
                }
            }
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

impl File for HostFile {
    fn read(&self, _io: &Io<'_>, offset: u64, into: &mut dyn Sink) -> Result<usize> {
        read_at(&self.file, offset, into)
    }

    fn write(&self, _io: &Io<'_>, offset: u64, from: &mut dyn Source) -> Result<usize> {
        write_at(&self.file, offset, from)
    }

    fn append(&self, _io: &Io<'_>, from: &mut dyn Source) -> Result<(usize, u64)> {
        let mut buffer = vec![0; from.remaining().min(CHUNK)];
        let mut count = 0;
        while from.remaining() > 0 {
            let taken = from.take(&mut buffer)?;
            let part = [std::io::IoSlice::new(buffer.get(..taken).unwrap_or_default())];
            let flags = rustix::io::ReadWriteFlags::APPEND;
            match rustix::io::pwritev2(&self.file, &part, 0, flags).map_err(errno) {
                Ok(written) => {
                    count += written;
                    if written < taken || taken == 0 {
                        break;
                    }
                }
                Err(_) if count > 0 => break,
                Err(error) => return Err(error),
            }
        }
        let end = rustix::fs::fstat(&self.file).map_err(errno)?.st_size;
        Ok((count, end as u64))
    }

    fn seekable(&self) -> bool {
        true
    }

    fn seek(&self, current: u64, offset: i64, whence: u32) -> Result<u64> {
        let size = rustix::fs::fstat(&self.file).map_err(errno)?.st_size as u64;
        seek_regular(current, offset, whence, size, |at, hole| {
            let from = if hole { SeekFrom::Hole(at) } else { SeekFrom::Data(at) };
            rustix::fs::seek(&self.file, from).map_err(errno)
        })
    }

    fn pollable(&self) -> bool {
        false
    }

    fn stat(&self) -> Result<Stat> {
        statx(&*self.file, b"")
    }

    fn truncate(&self, len: u64) -> Result<()> {
        rustix::fs::ftruncate(&self.file, len).map_err(errno)
    }

    fn allocate(&self, mode: u32, offset: u64, len: u64) -> Result<()> {
        let flags = FallocateFlags::from_bits_truncate(mode);
        rustix::fs::fallocate(&self.file, flags, offset, len).map_err(errno)
    }

    fn sync(&self, data_only: bool) -> Result<()> {
        if !self.writable {
            return Ok(());
        }
        if data_only { rustix::fs::fdatasync(&self.file) } else { rustix::fs::fsync(&self.file) }.map_err(errno)
    }

    fn map(&self, key: u64, writable_shared: bool) -> Result<Mapped> {
        if writable_shared && !self.writable {
            return Err(Errno::EACCES);
        }
        Ok(Mapped::File(MapSource { file: self.file.clone(), key }))
    }

    fn inode(&self) -> Option<Arc<dyn Inode>> {
        Some(self.inode.clone())
    }

    fn reopen(self: Arc<Self>, flags: u32, within: bool) -> Result<Arc<dyn File>> {
        if !within {
            return Err(Errno::EACCES);
        }
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&*self.file));
        let mode = rustix::fs::OFlags::from_bits_truncate(flags & crate::abi::linux::O_ACCMODE);
        let mode = mode | rustix::fs::OFlags::CLOEXEC | rustix::fs::OFlags::NONBLOCK;
        let file = rustix::fs::open(path, mode, rustix::fs::Mode::empty()).map_err(errno)?;
        let writable = flags & crate::abi::linux::O_ACCMODE != crate::abi::linux::O_RDONLY;
        Ok(Arc::new(HostFile::new(Arc::new(file), self.inode.clone(), writable)))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
