//! What the rest of the kernel asks of a node of the host ([`Inode`]).

use std::any::Any;
use std::sync::Arc;

use super::HostFile;
use super::descriptor::{Attributes, attributes, look};
use super::node::{HostNode, read_link};
use crate::abi::linux::{O_ACCMODE, O_RDONLY};
use crate::abi::types::Stat;
use crate::fd::File;
use crate::fs::perm::{self, Access};
use crate::fs::{DirFile, Inode, Listed, Made, NewNode, Opening, S_IFDIR, S_IFREG, SetAttr, Slot, Who};
use crate::{Errno, Result};

impl HostNode {
    /// What everybody may read, and no more: being root inside is no right on the host.
    fn permit(&self, who: Who<'_>, (mode, uid, gid): Attributes, access: Access) -> Result<()> {
        let everybody = Access::from_bits_truncate(mode & 7);
        let open = everybody.contains(access - Access::WRITE) || self.hidden;
        if self.shared.is_shared() && !open {
            return Err(Errno::EACCES);
        }
        perm::generic(who.cred, mode, uid, gid, access)
    }
}

impl Inode for HostNode {
    fn stat(&self) -> Result<Stat> {
        let (directory, name) = self.at()?;
        let mut stat = match look(&*directory, &name) {
            Ok(seen) if seen.identity() == self.identity => {
                self.learn(&seen);
                seen.stat
            }
            Ok(_) => self.astray(Errno::ESTALE)?.1.stat,
            Err(error) => self.astray(error)?.1.stat,
        };
        if self.hidden {
            // It looks empty, not forbidden.
            stat.st_mode |= 0o755;
        }
        Ok(stat)
    }

    fn access_info(&self) -> Result<Attributes> {
        if let Some((mode, uid, gid)) = self.known() {
            return Ok((if self.hidden { mode | 0o755 } else { mode }, uid, gid));
        }
        self.stat().map(|stat| attributes(&stat))
    }

    /// Looks again from time to time whether the name still leads to the same node.
    fn still(&self, name: &[u8], child: &Arc<dyn Inode>, _last: bool) -> bool {
        let Some(child) = child.as_any().downcast_ref::<HostNode>() else { return false };
        if child.known().is_some() {
            return true;
        }
        let Ok(seen) = self.dir().and_then(|dir| look(&*dir, name)) else { return false };
        if seen.identity() != child.identity {
            return false;
        }
        child.learn(&seen);
        true
    }

    fn pin(&self) -> Result<Option<Arc<dyn Any + Send + Sync>>> {
        if self.identity.kind == S_IFDIR {
            self.dir()?;
            return Ok(None);
        }
        let (fd, seen) = self.grasp()?;
        self.learn(&seen);
        self.lend(&fd);
        Ok(Some(fd))
    }

    fn kind(&self) -> u32 {
        self.identity.kind
    }

    fn id(&self) -> Result<(u64, u64)> {
        Ok((self.identity.dev, self.identity.ino))
    }

    fn permission(&self, who: Who<'_>, access: Access) -> Result<()> {
        let known = self.access_info()?;
        match self.permit(who, known, access) {
            // The host may have opened it since.
            Err(error) => match attributes(&self.stat()?) {
                now if now != known => self.permit(who, now, access),
                _ => Err(error),
            },
            Ok(()) => Ok(()),
        }
    }

    fn served(&self, access: Access) -> bool {
        if !self.shared.is_shared() || self.hidden {
            return true;
        }
        // Execute permission of a file may change above; of a directory it is search permission.
        let counted = if self.identity.kind == S_IFDIR { Access::READ | Access::EXEC } else { Access::READ };
        let everybody = |mode: u32| Access::from_bits_truncate(mode & 7).contains(access & counted);
        self.access_info().is_ok_and(|(mode, ..)| everybody(mode))
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        self.find(name, false)
    }

    fn lookup_on_way(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        self.find(name, true)
    }

    fn list(&self) -> Result<Vec<Listed>> {
        if self.identity.kind != S_IFDIR {
            return Err(Errno::ENOTDIR);
        }
        if self.looks_empty() { Ok(Vec::new()) } else { self.names() }
    }

    fn open(self: Arc<Self>, how: &Opening<'_>) -> Result<Arc<dyn File>> {
        match self.identity.kind {
            S_IFDIR => DirFile::open(self, how),
            S_IFREG => {
                let file = self.open_file(how.flags)?;
                let writable = how.flags & O_ACCMODE != O_RDONLY;
                Ok(Arc::new(HostFile::new(file, self, writable)))
            }
            // Sockets, FIFOs and devices of the host can be looked at, not used.
            _ => Err(Errno::ENXIO),
        }
    }

    fn make(&self, name: &[u8], new: &NewNode<'_>) -> Result<Arc<dyn Inode>> {
        self.make_node(name, new).map(|node| node as Arc<dyn Inode>)
    }

    fn create(&self, name: &[u8], new: &NewNode<'_>, flags: u32) -> Result<Made> {
        self.create_file(name, new, flags)
    }

    fn create_unnamed(&self, new: &NewNode<'_>, flags: u32) -> Result<Made> {
        self.create_temporary(new, flags)
    }

    fn link(&self, name: &[u8], target: &Arc<dyn Inode>) -> Result<()> {
        self.add_link(name, downcast(target)?)
    }

    fn unlink(&self, name: &[u8], child: &Arc<dyn Inode>) -> Result<()> {
        self.remove(name, downcast(child)?, false)
    }

    fn rmdir(&self, name: &[u8], child: &Arc<dyn Inode>) -> Result<()> {
        self.remove(name, downcast(child)?, true)
    }

    fn rename(&self, old: &[u8], to: &Arc<dyn Inode>, new: &[u8], flags: u32) -> Result<()> {
        let target = to.lookup(new).ok();
        self.rename_seen((old, &self.lookup(old)?), to, (new, target.as_ref()), flags)
    }

    fn rename_seen(
        &self,
        (old, source): (&[u8], &Arc<dyn Inode>),
        to: &Arc<dyn Inode>,
        (new, target): (&[u8], Option<&Arc<dyn Inode>>),
        flags: u32,
    ) -> Result<()> {
        let target = target.map(downcast).transpose()?;
        self.move_name((old, downcast(source)?), downcast(to)?, (new, target), flags)
    }

    fn readlink(&self, _who: Who<'_>) -> Result<Vec<u8>> {
        if let Some(text) = self.text.get() {
            return Ok(text.clone());
        }
        let text = self.reached(|| {
            let (fd, seen) = self.grasp()?;
            self.learn(&seen);
            read_link(&fd)
        })?;
        Ok(self.text.get_or_init(|| text).clone())
    }

    fn set_attr(&self, attr: &SetAttr) -> Result<()> {
        self.change(attr)
    }

    fn xattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        self.attribute(name)
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
        self.set_attribute(name, value, flags)
    }

    fn remove_xattr(&self, name: &[u8]) -> Result<()> {
        self.remove_attribute(name)
    }

    fn list_xattr(&self) -> Result<Vec<Vec<u8>>> {
        self.attributes()
    }

    fn slot(&self) -> Option<&Slot> {
        Some(&self.slot)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn downcast(inode: &Arc<dyn Inode>) -> Result<&HostNode> {
    inode.as_any().downcast_ref().ok_or(Errno::EXDEV)
}
