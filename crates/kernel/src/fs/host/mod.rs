//! hostfs: a directory tree of the host, reached component by component from its top, never outside of it.
//!
//! A node knows its parent and its name; directories that are in use hold a host descriptor. What has an effect goes
//! through a descriptor that was proven to be the node's (`node`).
//!
//! A *shared view* (the default `/`) serves only what everybody on the host may read, whoever asks inside, and
//! shows hidden directories as empty. Other trees were named by the user and obey the host's permissions.

mod change;
mod descriptor;
mod file;
mod inode;
mod locks;
pub(crate) mod made;
mod node;
mod open;

use std::any::Any;
use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, StatxFlags};

use open::Recent;

use super::{FileSystem, Inode};
use crate::abi::types::Statfs;
use crate::{Errno, Result, decisions};

pub(crate) use descriptor::statx;
use descriptor::{Identity, Own, look};
pub use file::HostFile;
pub(crate) use file::read_at;
pub use node::HostNode;

/// How a tree of the host is shown.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Serve only what is readable for everybody.
    pub shared: bool,
    /// Host directories that look empty, as absolute paths of the host.
    pub hidden: Vec<std::path::PathBuf>,
}

/// A mounted host tree.
pub struct HostFs {
    root: Arc<HostNode>,
    shared: Arc<Shared>,
    source: String,
}

/// What the nodes of a tree share.
pub(crate) struct Shared {
    world_readable_only: bool,
    /// Hidden directories, by device and inode, and by name where they lie in the top: another may come there.
    hidden: HashSet<(u64, u64)>,
    hidden_names: HashSet<Box<[u8]>>,
    dev: u64,
    top: Arc<OwnedFd>,
    own: Own,
    recent: Recent,
}

impl Shared {
    /// It serves only what everybody may read.
    fn is_shared(&self) -> bool {
        self.world_readable_only || decisions::shared_only()
    }

    /// The directory looks empty, whatever the nodes say.
    fn decided_hidden(&self, directory: Identity) -> bool {
        self.is_shared() && decisions::hides(directory.dev, directory.ino)
    }

    /// The directory looks empty. `name` is that in the top, if it is there.
    fn hides(&self, directory: Identity, name: Option<&[u8]>) -> bool {
        self.decided_hidden(directory)
            || self.hidden.contains(&(directory.dev, directory.ino))
            || name.is_some_and(|name| self.hidden_names.contains(name))
    }
}

impl HostFs {
    /// The tree below `path`, which is a directory or (for a bind) any file. The process must have no umask: what is
    /// made gets the mode that the guest asks for.
    pub fn open(path: &Path, view: &View) -> Result<Arc<HostFs>> {
        let top = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(errno)?;
        let top = Arc::new(top);
        let seen = look(&*top, b"")?;
        let shared = Arc::new(Shared {
            world_readable_only: view.shared,
            hidden: view.hidden.iter().filter_map(|path| identify(path)).collect(),
            hidden_names: view.hidden.iter().filter_map(|hidden| below(path, hidden)).collect(),
            dev: seen.stat.st_dev,
            top,
            own: Own::open()?,
            recent: Recent::default(),
        });
        let root = HostNode::top(shared.clone(), &seen);
        Ok(Arc::new(HostFs { root, shared, source: path.to_string_lossy().into_owned() }))
    }
}

fn identify(path: &Path) -> Option<(u64, u64)> {
    let flags = rustix::fs::AtFlags::empty();
    let stat = rustix::fs::statx(rustix::fs::CWD, path, flags, StatxFlags::INO).ok()?;
    Some((super::make_dev(stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino))
}

/// The name of `path` in `top`, if it lies there.
fn below(top: &Path, path: &Path) -> Option<Box<[u8]>> {
    let name = path.file_name().filter(|_| path.parent() == Some(top))?;
    Some(name.as_bytes().into())
}

impl FileSystem for HostFs {
    fn root(&self) -> Arc<dyn Inode> {
        self.root.clone()
    }

    fn kind(&self) -> &'static str {
        "ext4"
    }

    fn source(&self) -> String {
        self.source.clone()
    }

    fn dev(&self) -> u64 {
        self.shared.dev
    }

    fn statfs(&self) -> Result<Statfs> {
        let host = rustix::fs::fstatfs(&self.shared.top).map_err(errno)?;
        Ok(Statfs {
            f_type: host.f_type as i64,
            f_bsize: host.f_bsize as i64,
            f_blocks: host.f_blocks,
            f_bfree: host.f_bfree,
            f_bavail: host.f_bavail,
            f_files: host.f_files,
            f_ffree: host.f_ffree,
            f_namelen: host.f_namelen as i64,
            f_frsize: host.f_frsize as i64,
            ..Statfs::default()
        })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The host's error as the guest's.
pub(crate) fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error())
}
