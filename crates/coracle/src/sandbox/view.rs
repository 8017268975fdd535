//! What the guest sees as files: the root, the binds, private places for temporary files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use coracle_kernel::Errno;
use coracle_kernel::fs::host::{HostFs, View};
use coracle_kernel::fs::mem::{Budget, MemFs};
use coracle_kernel::fs::{self, FileSystem, MountFlags, PathRef, Resolve, Vfs, Walk, Who};
use coracle_kernel::task::Cred;
use coracle_kernel::world::World;

use super::bytes;
use crate::Error;
use crate::config::{Config, Rootfs};

/// Directories of the host that look empty: homes and what daemons leave for each other.
const HIDDEN: [&str; 3] = ["/root", "/home", "/run"];

/// The tree of files, and what collects writes to it.
pub struct Built {
    pub vfs: Vfs,
    pub upper: Upper,
    /// What files in memory may hold.
    pub budget: Arc<Budget>,
}

/// Where writes go.
pub struct Upper {}

impl Upper {
    /// `--diff` and `--save`.
    pub fn report(&self, _config: &Config) -> Result<(), Error> {
        Ok(())
    }
}

fn failed(path: &Path) -> impl Fn(Errno) -> Error + '_ {
    move |errno| Error::View { path: path.to_owned(), source: std::io::Error::from_raw_os_error(errno.raw()) }
}

/// Builds the tree, without `/proc`, `/dev` and `/sys`.
pub fn build(config: &Config, cred: &Cred) -> Result<Built, Error> {
    let (path, view) = match &config.rootfs {
        Rootfs::Host => {
            (PathBuf::from("/"), View { shared: true, hidden: HIDDEN.iter().map(PathBuf::from).collect() })
        }
        Rootfs::Dir(path) | Rootfs::Tar(path) => (path.clone(), View::default()),
    };
    let root = HostFs::open(&path, &view).map_err(failed(&path))?;
    let vfs = Vfs::new(root, MountFlags::empty());
    let budget = Budget::new(config.limits.disk.unwrap_or(u64::MAX));
    for place in ["/tmp", "/var/tmp"] {
        let tmp = MemFs::new("tmpfs", 0x20, 0o1777, budget.clone());
        mount(&vfs, cred, tmp, Path::new(place), MountFlags::empty())?;
    }
    for bind in config.mounts() {
        let host = HostFs::open(&bind.src, &View::default()).map_err(failed(&bind.src))?;
        let flags = if bind.read_only { MountFlags::RDONLY } else { MountFlags::empty() };
        mount(&vfs, cred, host, &bind.dst, flags)?;
    }
    Ok(Built { vfs, upper: Upper {}, budget })
}

/// Mounts at a path, making its directories where they are missing.
fn mount(vfs: &Vfs, cred: &Cred, what: Arc<dyn FileSystem>, at: &Path, flags: MountFlags) -> Result<(), Error> {
    let place = find(vfs, cred, at).map_err(failed(at))?;
    vfs.mounts.mount(what, &place, flags).map_err(failed(at))?;
    Ok(())
}

fn find(vfs: &Vfs, cred: &Cred, at: &Path) -> Result<PathRef, Errno> {
    let root = vfs.mounts.root();
    let who = Who { cred, task: None };
    Walk { vfs, who, root: &root, base: &root }.find(bytes(at.as_os_str()), Resolve::FOLLOW)
}

/// `/proc`, `/dev`, `/sys`.
pub fn mount_kernel_trees(world: &Arc<World>, budget: &Arc<Budget>) -> Result<(), Error> {
    fs::mount_standard(world, budget).map_err(failed(Path::new("/proc, /dev and /sys")))
}

/// Where the program starts.
pub fn working_directory(world: &World, config: &Config, cred: &Cred) -> Result<PathRef, Error> {
    let find = |path: &Path| {
        find(&world.vfs, cred, path).and_then(|place| fs::walk::directory(&place).map(|_| ()).map(|()| place))
    };
    if let Some(path) = &config.workdir {
        return find(path).map_err(failed(path));
    }
    let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    Ok(find(&here).unwrap_or_else(|_| world.vfs.mounts.root()))
}
