//! Copying up: a node of the lower tree gets attributes and contents in memory before it changes.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::SeekFrom;

use super::Node;
use crate::abi::types::Timespec;
use crate::fs::host::HostNode;
use crate::fs::mem::{Data, MemInode};
use crate::fs::{Access, Inode, NewNode, S_IFDIR};
use crate::mem::{SliceSource, VecSink};
use crate::{Errno, Result};

impl Node {
    /// The directory it was found in remembers it, and so on upwards: it is not as the lower tree has it.
    fn pin(&self) -> Result<()> {
        let mut at = self.this()?;
        loop {
            let Some((parent, name)) = at.origin.lock().take() else { return Ok(()) };
            {
                let mut names = parent.names.lock();
                if !names.map.contains_key(&name) {
                    names.put(&name, at, true);
                }
            }
            at = parent;
        }
    }

    /// A memory node for its attributes, with what the lower one has. Does not change what it shows.
    pub(in super::super) fn attributes_up(&self) -> Result<Arc<MemInode>> {
        if let Some(upper) = self.upper() {
            return Ok(upper);
        }
        let _once = self.copying.lock();
        if let Some(upper) = self.upper() {
            return Ok(upper);
        }
        let lower = self.lower.as_ref().ok_or(Errno::EIO)?;
        let stat = lower.stat()?;
        let new =
            NewNode { mode: stat.st_mode, uid: stat.st_uid, gid: stat.st_gid, rdev: stat.st_rdev, target: b"" };
        let upper = self.shared.mem.stand_in(&new, self.id.0, self.id.1)?;
        upper.edit_meta(|meta| {
            meta.nlink = stat.st_nlink;
            meta.atime = Timespec { tv_sec: stat.st_atime, tv_nsec: stat.st_atime_nsec };
            meta.mtime = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec };
            meta.ctime = Timespec { tv_sec: stat.st_ctime, tv_nsec: stat.st_ctime_nsec };
        });
        for name in lower.list_xattr().unwrap_or_default() {
            if let Ok(value) = lower.xattr(&name) {
                upper.set_xattr(&name, &value, 0)?;
            }
        }
        if self.kind != S_IFDIR && stat.st_nlink > 1 {
            self.shared.linked.lock().insert(self.id, self.this()?);
        }
        *self.upper.write() = Some(upper.clone());
        self.pin()?;
        Ok(upper)
    }

    /// The contents in memory, at most `keep` bytes of them (the rest is about to be cut off).
    pub(in super::super) fn contents_up(&self, keep: u64) -> Result<Arc<MemInode>> {
        let upper = self.attributes_up()?;
        if self.data_up() {
            return Ok(upper);
        }
        let _once = self.copying.lock();
        if self.data_up() {
            return Ok(upper);
        }
        let lower = self.lower.as_ref().ok_or(Errno::EIO)?;
        let data = upper.data().ok_or(Errno::EINVAL)?;
        if let Err(error) = self.below(lower, |lower| copy_contents(&**lower, data, keep)) {
            let _ = data.truncate(0);
            return Err(error);
        }
        self.data_up.store(true, Ordering::Release);
        Ok(upper)
    }

    /// Runs `ask` on the lower node. The host may have put another one into the place of a node with attributes of its
    /// own, which the directory above remembers: then on that one, if it is of the same kind.
    pub(super) fn below<T>(
        &self,
        lower: &Arc<dyn Inode>,
        ask: impl Fn(&Arc<dyn Inode>) -> Result<T>,
    ) -> Result<T> {
        match ask(lower) {
            Err(Errno::ESTALE) if self.upper().is_some() => ask(&self.successor().ok_or(Errno::ESTALE)?),
            other => other,
        }
    }

    /// The lower tree gives this access.
    pub(super) fn gives(&self, lower: &Arc<dyn Inode>, access: Access) -> bool {
        self.below(lower, |lower| lower.access_info().map(|_| lower.served(access))).unwrap_or(false)
    }

    /// What the lower tree has in the place where this node was found.
    fn successor(&self) -> Option<Arc<dyn Inode>> {
        let (parent, name) = self.home.as_ref()?;
        let found = parent.upgrade()?.lower.as_ref()?.lookup(name).ok()?;
        (found.kind() == self.kind).then_some(found)
    }

    /// Names changed: so did the times.
    pub(super) fn touch(&self) -> Result<()> {
        self.attributes_up()?.touch();
        Ok(())
    }
}

/// Copies the contents of a lower file, holes as holes.
fn copy_contents(lower: &dyn Inode, into: &Data, keep: u64) -> Result<()> {
    if keep == 0 {
        return Ok(());
    }
    let mut contents = Contents::of(lower)?;
    let size = keep.min(contents.size());
    let mut at = 0;
    while at < size {
        let Some((start, mut bytes)) = contents.next(at, 1 << 20)? else { break };
        bytes.truncate(usize::try_from(size.saturating_sub(start)).unwrap_or(usize::MAX));
        if bytes.is_empty() {
            break;
        }
        let end = start + bytes.len() as u64;
        if into.write(start, &mut SliceSource(&bytes))? < bytes.len() {
            return Err(Errno::ENOSPC);
        }
        at = end;
    }
    into.truncate(size)
}

/// What a regular file contains, to be copied.
pub(in super::super) enum Contents<'a> {
    Memory(&'a Data),
    Host(Arc<OwnedFd>, u64),
}

fn host(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error())
}

impl<'a> Contents<'a> {
    /// Of a node that is no overlay's.
    pub(in super::super) fn of(inode: &'a dyn Inode) -> Result<Contents<'a>> {
        if let Some(node) = inode.as_any().downcast_ref::<MemInode>() {
            return node.data().map(Contents::Memory).ok_or(Errno::EINVAL);
        }
        let node = inode.as_any().downcast_ref::<HostNode>().ok_or(Errno::EIO)?;
        let file = node.open_to_read()?;
        let size = rustix::fs::fstat(&file).map_err(host)?.st_size as u64;
        Ok(Contents::Host(file, size))
    }

    pub(in super::super) fn size(&self) -> u64 {
        match self {
            Contents::Memory(data) => data.size(),
            Contents::Host(_, size) => *size,
        }
    }

    /// The next data at or behind `at`, at most `limit` bytes; `None` if there are none.
    pub(in super::super) fn next(&mut self, at: u64, limit: usize) -> Result<Option<(u64, Vec<u8>)>> {
        let at = match self {
            Contents::Memory(data) => data.seek_data(at, false),
            Contents::Host(file, _) => match rustix::fs::seek(&**file, SeekFrom::Data(at)) {
                Err(rustix::io::Errno::INVAL) => Ok(at),
                other => other.map_err(host),
            },
        };
        let at = match at {
            Err(Errno::ENXIO) => return Ok(None),
            other => other?,
        };
        let bytes = match self {
            Contents::Memory(data) => {
                let mut sink = VecSink { bytes: Vec::new(), limit };
                data.read(at, &mut sink)?;
                sink.bytes
            }
            Contents::Host(file, _) => {
                let mut bytes = vec![0; limit];
                let count = rustix::io::pread(&*file, &mut bytes, at).map_err(host)?;
                bytes.truncate(count);
                bytes
            }
        };
        Ok((!bytes.is_empty()).then_some((at, bytes)))
    }
}
