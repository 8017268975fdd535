//! The tree of mounts.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use bitflags::bitflags;
use parking_lot::{Mutex, RwLock};

use super::inotify::Watches;
use super::recent::Recent;
use super::{Dentry, FileSystem, Inode, PathRef};
use crate::{Errno, Result};

bitflags! {
    /// Mount flags, with the values of `statfs(2)`'s `f_flags`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct MountFlags: u32 {
        const RDONLY = 1;
        const NOSUID = 2;
        const NODEV = 4;
        const NOEXEC = 8;
        const NOATIME = 1024;
        const NODIRATIME = 2048;
        const RELATIME = 4096;
    }
}

/// A file system at a place in the tree.
pub struct Mount {
    pub id: u64,
    pub fs: Arc<dyn FileSystem>,
    pub root: Arc<Dentry>,
    flags: AtomicU32,
    /// Where it is mounted; `None` for the root and for what is in no tree.
    place: Mutex<Option<PathRef>>,
    /// `fs.volatile()`, asked once.
    pub(super) volatile: bool,
}

impl Mount {
    fn new(id: u64, fs: Arc<dyn FileSystem>, root: Arc<Dentry>, flags: MountFlags) -> Arc<Mount> {
        let volatile = fs.volatile();
        Arc::new(Mount { id, fs, root, flags: AtomicU32::new(flags.bits()), place: Mutex::default(), volatile })
    }

    /// Its flags.
    pub fn flags(&self) -> MountFlags {
        MountFlags::from_bits_truncate(self.flags.load(Ordering::Relaxed))
    }

    /// Changes them (`MS_REMOUNT`).
    pub fn set_flags(&self, flags: MountFlags) {
        self.flags.store(flags.bits(), Ordering::Relaxed);
    }

    /// `EROFS` if it may not be written to.
    pub fn writable(&self) -> Result<()> {
        if self.flags().contains(MountFlags::RDONLY) { Err(Errno::EROFS) } else { Ok(()) }
    }

    /// Where it is mounted.
    pub fn place(&self) -> Option<PathRef> {
        self.place.lock().clone()
    }

    /// Its top directory as a place.
    pub fn top(self: &Arc<Mount>) -> PathRef {
        PathRef { mount: self.clone(), dentry: self.root.clone() }
    }
}

/// All mounts of a sandbox.
pub struct MountTable {
    /// In mount order; the first is the root.
    list: RwLock<Vec<Arc<Mount>>>,
    /// Holds nodes outside every tree: pipes, sockets, memfds.
    pub anonymous: Arc<Mount>,
    next: AtomicU64,
    /// Directories in which something is mounted, by mount, device and inode.
    holders: RwLock<HashMap<(u64, u64, u64), Weak<Dentry>>>,
    recent: Arc<Recent>,
}

impl MountTable {
    /// With `root` mounted at `/`.
    pub fn new(root: Arc<dyn FileSystem>, flags: MountFlags, watches: &Arc<Watches>) -> MountTable {
        let recent = Recent::new(watches.clone());
        let top = Dentry::root(root.root(), &recent);
        let nowhere = Arc::new(super::anon::AnonFs);
        let nowhere_top = Dentry::nowhere(nowhere.root(), b"anon_inode:", None);
        MountTable {
            list: RwLock::new(vec![Mount::new(1, root, top, flags)]),
            anonymous: Mount::new(0, nowhere, nowhere_top, MountFlags::empty()),
            next: AtomicU64::new(2),
            holders: RwLock::default(),
            recent,
        }
    }

    /// The root directory.
    pub fn root(&self) -> PathRef {
        // The list always has its first element; `anonymous` stands in for the impossible.
        self.list.read().first().unwrap_or(&self.anonymous).top()
    }

    /// All mounts, in mount order.
    pub fn list(&self) -> Vec<Arc<Mount>> {
        self.list.read().clone()
    }

    /// Mounts `fs` over `place`. `ENOTDIR` if one is a directory and the other is not.
    pub fn mount(&self, fs: Arc<dyn FileSystem>, place: &PathRef, flags: MountFlags) -> Result<Arc<Mount>> {
        let root = fs.root();
        self.mount_inode(fs, root, place, flags)
    }

    /// Mounts the part of `fs` below `root`; `root` may be a file (a bind mount of one file).
    pub fn mount_inode(
        &self,
        fs: Arc<dyn FileSystem>,
        root: Arc<dyn Inode>,
        place: &PathRef,
        flags: MountFlags,
    ) -> Result<Arc<Mount>> {
        if root.is_dir() != place.inode().is_dir() {
            return Err(Errno::ENOTDIR);
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mount = Mount::new(id, fs, Dentry::root(root, &self.recent), flags);
        *mount.place.lock() = Some(place.clone());
        self.list.write().push(mount.clone());
        if let Some(parent) = place.dentry.parent()
            && let Ok((dev, ino)) = parent.inode().id()
        {
            self.holders.write().insert((place.mount.id, dev, ino), Arc::downgrade(&parent));
        }
        place.dentry.set_mounted();
        Ok(mount)
    }

    /// The dentry of a directory in which something is mounted. It has no other, by whatever name the host shows it,
    /// or shows it already or still while it is being renamed (`d_splice_alias()`, fs/dcache.c): that one would lead
    /// past the mount to what it covers.
    pub(super) fn only(&self, mount: &Mount, inode: &dyn Inode) -> Option<Arc<Dentry>> {
        if !inode.is_dir() {
            return None;
        }
        let (dev, ino) = inode.id().ok()?;
        self.holders.read().get(&(mount.id, dev, ino))?.upgrade()
    }

    /// What is seen at `place`: the top of what is mounted over it, if anything is.
    pub fn cross(&self, mut place: PathRef) -> PathRef {
        while place.dentry.mounted() {
            let list = self.list.read();
            let over = list.iter().rev().find(|mount| mount.place().is_some_and(|at| at.same(&place)));
            match over {
                Some(mount) => place = mount.top(),
                None => break,
            }
        }
        place
    }

    /// A place in no tree for `inode`, which shows as `name`.
    pub fn nowhere(&self, inode: Arc<dyn Inode>, name: &[u8]) -> PathRef {
        PathRef { mount: self.anonymous.clone(), dentry: Dentry::nowhere(inode, name, Some(&self.recent)) }
    }

    /// Text of `/proc/PID/mounts` as seen from `root`.
    pub fn text(&self, root: &PathRef) -> String {
        let mut text = String::new();
        for mount in self.list() {
            let (path, reachable) = mount.top().path_from(root);
            if !reachable {
                continue;
            }
            let path = escape(&path);
            let source = escape(mount.fs.source().as_bytes());
            let (kind, extra) = (mount.fs.kind(), mount.fs.options());
            text.push_str(&format!("{source} {path} {kind} {}{extra} 0 0\n", mount.flags().text()));
        }
        text
    }

    /// Text of `/proc/PID/mountinfo` as seen from `root`.
    pub fn info_text(&self, root: &PathRef) -> String {
        let mut text = String::new();
        for mount in self.list() {
            let (path, reachable) = mount.top().path_from(root);
            if !reachable {
                continue;
            }
            let parent = mount.place().map_or(mount.id, |place| place.mount.id);
            let (major, minor) = super::split_dev(mount.fs.dev());
            let flags = mount.flags();
            let super_flags = if flags.contains(MountFlags::RDONLY) { "ro" } else { "rw" };
            text.push_str(&format!(
                "{} {parent} {major}:{minor} / {} {} - {} {} {super_flags}{}\n",
                mount.id,
                escape(&path),
                flags.text(),
                mount.fs.kind(),
                escape(mount.fs.source().as_bytes()),
                mount.fs.options(),
            ));
        }
        text
    }
}

impl Drop for MountTable {
    /// Names know the ring that keeps them.
    fn drop(&mut self) {
        self.recent.clear();
    }
}

impl MountFlags {
    /// As `/proc/mounts` lists them (`show_mnt_opts`, fs/proc_namespace.c).
    fn text(self) -> String {
        let mut text = String::from(if self.contains(MountFlags::RDONLY) { "ro" } else { "rw" });
        for (flag, name) in [
            (MountFlags::NOSUID, ",nosuid"),
            (MountFlags::NODEV, ",nodev"),
            (MountFlags::NOEXEC, ",noexec"),
            (MountFlags::NOATIME, ",noatime"),
            (MountFlags::NODIRATIME, ",nodiratime"),
            (MountFlags::RELATIME, ",relatime"),
        ] {
            if self.contains(flag) {
                text.push_str(name);
            }
        }
        text
    }
}

/// `mangle()`: blanks and backslashes become octal escapes.
fn escape(text: &[u8]) -> String {
    let mut out = String::new();
    for &byte in text {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' | b'#' => out.push_str(&format!("\\{byte:03o}")),
            _ => out.push(char::from(byte)),
        }
    }
    out
}
