//! What a kind of file system implements. Defaults are what Linux says for a node without the operation, so a
//! new kind is one small file.

use std::any::Any;
use std::sync::Arc;

use parking_lot::Mutex;

use super::perm::Access;
use super::{PathRef, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG};
use crate::abi::linux::RENAME_NOREPLACE;
use crate::abi::types::{Stat, Statfs, Timespec};
use crate::fd::File;
use crate::task::{Cred, Task};
use crate::{Errno, Result};

/// A mounted or mountable file system.
pub trait FileSystem: Send + Sync + 'static {
    /// Its top directory; the same object every time.
    fn root(&self) -> Arc<dyn Inode>;

    /// The type that `/proc/mounts` shows.
    fn kind(&self) -> &'static str;

    /// The source that `/proc/mounts` shows.
    fn source(&self) -> String {
        String::from("none")
    }

    /// Options that `/proc/mounts` shows behind the common ones, each with a leading comma.
    fn options(&self) -> String {
        String::new()
    }

    /// `st_dev` of its nodes.
    fn dev(&self) -> u64;

    /// `statfs`; the caller fills in `f_flags`.
    fn statfs(&self) -> Result<Statfs>;

    /// `sync` and `syncfs`.
    fn sync(&self) -> Result<()> {
        Ok(())
    }

    /// Names may come and go without any call of ours (`/proc`): look everything up anew.
    fn volatile(&self) -> bool {
        false
    }

    /// For callers that know the kind.
    fn as_any(&self) -> &dyn Any;
}

/// Who asks: credentials, and the task where there is one (there is none while a sandbox is set up).
#[derive(Clone, Copy)]
pub struct Who<'a> {
    pub cred: &'a Cred,
    pub task: Option<&'a Arc<Task>>,
}

/// How a file is opened.
pub struct Opening<'a> {
    pub who: Who<'a>,
    /// `O_*` flags, already checked; never with `O_PATH`.
    pub flags: u32,
    /// The place it was found at.
    pub path: &'a PathRef,
}

/// What a node that is to be made looks like.
#[derive(Clone, Copy, Debug)]
pub struct NewNode<'a> {
    /// Type and permissions, with the umask applied.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Of device nodes.
    pub rdev: u64,
    /// Of symbolic links.
    pub target: &'a [u8],
}

/// One of the times that `utimensat` sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    Now,
    To(Timespec),
}

/// Changes to a node's attributes; what is `None` stays. The caller checked permissions. `st_ctime` becomes now.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttr {
    /// Permission bits (07777).
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
    /// Mode, owner and group by which permissions were decided: `ESTALE` if the host has changed them since.
    pub seen: Option<(u32, u32, u32)>,
}

/// A regular file that was made.
pub struct Made {
    pub inode: Arc<dyn Inode>,
    /// It as it was opened by that, where its file system does both in one step.
    pub file: Option<Arc<dyn File>>,
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub name: Box<[u8]>,
    pub ino: u64,
    /// `DT_*`.
    pub kind: u8,
}

/// Where a symbolic link leads.
pub enum Target {
    /// A path, from the link's own directory.
    Text(Vec<u8>),
    /// Straight to a place, as `/proc/self/fd/N` does (`nd_jump_link`).
    Place(PathRef),
}

/// A node of a file system: a file, directory, link or device, without a name.
///
/// Names given to directory operations are single components: not empty, no slash, not `.` or `..`, at most
/// 255 bytes. Permissions and read-only mounts were checked by the caller.
pub trait Inode: Any + Send + Sync + 'static {
    /// Attributes. `st_dev`, `st_ino` are stable for the life of the node.
    fn stat(&self) -> Result<Stat>;

    /// The type bits (`S_IFMT`); never change.
    fn kind(&self) -> u32;

    /// Mode, owner and group for permission checks; cheaper than `stat` where that matters.
    fn access_info(&self) -> Result<(u32, u32, u32)> {
        let stat = self.stat()?;
        Ok((stat.st_mode, stat.st_uid, stat.st_gid))
    }

    /// Device and inode number: what locks and watches are kept by.
    fn id(&self) -> Result<(u64, u64)> {
        let stat = self.stat()?;
        Ok((stat.st_dev, stat.st_ino))
    }

    /// `inode_permission()` (fs/namei.c): may `who` do this? `EACCES`.
    fn permission(&self, who: Who<'_>, access: Access) -> Result<()> {
        let (mode, uid, gid) = self.access_info()?;
        super::perm::generic(who.cred, mode, uid, gid, access)
    }

    /// Whoever asks, the file system gives this access at all: shared views of the host keep what is not
    /// everybody's to themselves, whatever attributes an overlay gives it.
    fn served(&self, _access: Access) -> bool {
        true
    }

    /// The node of this name in the directory, or `ENOENT`.
    fn lookup(&self, _name: &[u8]) -> Result<Arc<dyn Inode>> {
        Err(Errno::ENOTDIR)
    }

    /// As `lookup`, for a name that a path goes on behind.
    fn lookup_on_way(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        self.lookup(name)
    }

    /// It is this node that is meant from now on, whatever others do to its name, for as long as the result lives.
    fn pin(&self) -> Result<Option<Arc<dyn Any + Send + Sync>>> {
        Ok(None)
    }

    /// `child`, found under `name` some time ago, is still what `lookup` would find. `last`: it is the end of
    /// the path and about to be used.
    fn still(&self, _name: &[u8], _child: &Arc<dyn Inode>, _last: bool) -> bool {
        true
    }

    /// All names except `.` and `..`.
    fn list(&self) -> Result<Vec<Listed>> {
        Err(Errno::ENOTDIR)
    }

    /// Opens it. Directories usually return [`crate::fs::DirFile`]; sockets say `ENXIO`. FIFOs and device
    /// numbers without a driver here are handled by the caller.
    fn open(self: Arc<Self>, _how: &Opening<'_>) -> Result<Arc<dyn File>> {
        Err(Errno::ENXIO)
    }

    /// Makes a node in this directory; `EEXIST` if the name is taken. Without the operation: `EACCES` for
    /// regular files and `EPERM` for the rest (`vfs_create`, `vfs_mkdir`, … in fs/namei.c).
    fn make(&self, _name: &[u8], new: &NewNode<'_>) -> Result<Arc<dyn Inode>> {
        Err(if new.mode & S_IFMT == S_IFREG { Errno::EACCES } else { Errno::EPERM })
    }

    /// A regular file without a name in this directory's file system (`O_TMPFILE`).
    fn make_unnamed(&self, _new: &NewNode<'_>) -> Result<Arc<dyn Inode>> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Makes a regular file as `make` does, to be opened with these `O_*` flags, for which its mode does not count yet.
    fn create(&self, name: &[u8], new: &NewNode<'_>, _flags: u32) -> Result<Made> {
        self.make(name, new).map(|inode| Made { inode, file: None })
    }

    /// The same for a file without a name.
    fn create_unnamed(&self, new: &NewNode<'_>, _flags: u32) -> Result<Made> {
        self.make_unnamed(new).map(|inode| Made { inode, file: None })
    }

    /// A further name for `target`, a node of the same mount and not a directory.
    fn link(&self, _name: &[u8], _target: &Arc<dyn Inode>) -> Result<()> {
        Err(Errno::EPERM)
    }

    /// Removes a name that is not a directory's. The caller saw `child` under it.
    fn unlink(&self, _name: &[u8], _child: &Arc<dyn Inode>) -> Result<()> {
        Err(Errno::EPERM)
    }

    /// Removes an empty directory; `ENOTEMPTY`.
    fn rmdir(&self, _name: &[u8], _child: &Arc<dyn Inode>) -> Result<()> {
        Err(Errno::EPERM)
    }

    /// Gives what is called `old` here the name `new` in `to`, a directory of the same mount. `flags` are
    /// `RENAME_*`. Types and ancestry were checked; an existing target is replaced (`ENOTEMPTY`).
    fn rename(&self, _old: &[u8], _to: &Arc<dyn Inode>, _new: &[u8], _flags: u32) -> Result<()> {
        Err(Errno::EPERM)
    }

    /// As `rename`, with what the caller has found under both names.
    fn rename_seen(
        &self,
        (old, _source): (&[u8], &Arc<dyn Inode>),
        to: &Arc<dyn Inode>,
        (new, _target): (&[u8], Option<&Arc<dyn Inode>>),
        flags: u32,
    ) -> Result<()> {
        self.rename(old, to, new, flags)
    }

    /// The text of a symbolic link.
    fn readlink(&self, _who: Who<'_>) -> Result<Vec<u8>> {
        Err(Errno::EINVAL)
    }

    /// Where a symbolic link leads; only magic links need to say more than their text.
    fn follow(&self, who: Who<'_>) -> Result<Target> {
        self.readlink(who).map(Target::Text)
    }

    /// Changes attributes.
    fn set_attr(&self, _attr: &SetAttr) -> Result<()> {
        Err(Errno::EPERM)
    }

    /// The value of an extended attribute, or `ENODATA`.
    fn xattr(&self, _name: &[u8]) -> Result<Vec<u8>> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Sets one; `flags` are `XATTR_CREATE` and `XATTR_REPLACE`.
    fn set_xattr(&self, _name: &[u8], _value: &[u8], _flags: u32) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Removes one, or `ENODATA`.
    fn remove_xattr(&self, _name: &[u8]) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// The names of all extended attributes.
    fn list_xattr(&self) -> Result<Vec<Vec<u8>>> {
        Ok(Vec::new())
    }

    /// What other parts of the kernel hang on the node: the pipe of a FIFO, the socket bound to a name.
    fn slot(&self) -> Option<&Slot> {
        None
    }

    /// For callers that know the kind.
    fn as_any(&self) -> &dyn Any;

    /// It is a directory.
    fn is_dir(&self) -> bool {
        self.kind() == S_IFDIR
    }

    /// It is a symbolic link.
    fn is_link(&self) -> bool {
        self.kind() == S_IFLNK
    }
}

/// What a rename replaces, if anything: `found` is what is called by the new name.
pub(super) fn replaced<T>(found: Result<T>, flags: u32) -> Result<Option<T>> {
    match found {
        Ok(_) if flags & RENAME_NOREPLACE != 0 => Err(Errno::EEXIST),
        Ok(target) => Ok(Some(target)),
        Err(Errno::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A place on a node where another part of the kernel keeps an object of its own.
#[derive(Default)]
pub struct Slot(Mutex<Option<Arc<dyn Any + Send + Sync>>>);

impl Slot {
    /// The object, made by `make` if there is none yet; `None` if somebody else's object is there.
    pub fn get_or_init<T: Any + Send + Sync>(&self, make: impl FnOnce() -> Arc<T>) -> Option<Arc<T>> {
        let mut slot = self.0.lock();
        let object = slot.get_or_insert_with(|| make());
        object.clone().downcast().ok()
    }

    /// The object, if there is one of this type.
    pub fn get<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.0.lock().clone()?.downcast().ok()
    }

    /// Replaces the object.
    pub fn set(&self, object: Option<Arc<dyn Any + Send + Sync>>) {
        *self.0.lock() = object;
    }
}
