//! What the guest sees as files: the root under an overlay in memory, binds, the current directory, private places
//! for temporary files.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use coracle_kernel::Errno;
use coracle_kernel::fs::host::{HostFs, View};
use coracle_kernel::fs::mem::{Budget, MemFs};
use coracle_kernel::fs::overlay::OverlayFs;
use coracle_kernel::fs::{
    self, Access, FileSystem, MountFlags, NewNode, PathRef, Resolve, S_IFDIR, S_IFREG, Vfs, Walk, Who, dev,
    make_dev, standard,
};
use coracle_kernel::task::Cred;
use coracle_kernel::world::World;

use super::archive::{self, Limit};
use super::bytes;
use crate::Error;
use crate::config::{Config, Rootfs, User};

/// Directories of the host that look empty: homes and what daemons leave for each other.
const HIDDEN: [&str; 3] = ["/root", "/home", "/run"];
/// Places that are the sandbox's own.
const PRIVATE: [&str; 2] = ["/tmp", "/var/tmp"];

/// The tree of files, and what collects writes to it.
pub struct Built {
    pub vfs: Vfs,
    pub upper: Upper,
    /// What files in memory may hold.
    pub budget: Arc<Budget>,
}

/// Where writes go: overlays and the places they are mounted at.
pub struct Upper(pub Vec<(PathBuf, Arc<OverlayFs>)>);

fn failed(path: &Path) -> impl Fn(Errno) -> Error + '_ {
    move |errno| Error::View { path: path.to_owned(), source: std::io::Error::from_raw_os_error(errno.raw()) }
}

/// The root with an overlay over it.
pub fn build(config: &Config) -> Result<Built, Error> {
    let granted = super::granted_memory(config);
    let budget = Budget::new(config.limits.disk.unwrap_or(granted));
    let lower: Arc<dyn FileSystem> = match &config.rootfs {
        Rootfs::Host => {
            let view = View { shared: true, hidden: hidden().to_vec() };
            HostFs::open(Path::new("/"), &view).map_err(failed(Path::new("/")))?
        }
        Rootfs::Dir(path) => HostFs::open(path, &View::default()).map_err(failed(path))?,
        Rootfs::Tar(path) => {
            let limit = match (config.limits.disk, config.limits.memory) {
                (Some(disk), _) if disk <= granted => Limit { bytes: disk, of: "--disk" },
                (_, Some(memory)) if memory <= granted => Limit { bytes: memory, of: "--memory" },
                _ => Limit { bytes: granted, of: "this machine's memory" },
            };
            archive::unpack(path, &budget, limit)
                .map_err(|failure| Error::Archive { path: path.clone(), reason: failure.to_string() })?
        }
    };
    let root = OverlayFs::new(lower, budget.clone()).map_err(failed(Path::new("/")))?;
    let vfs = Vfs::new(root.clone(), MountFlags::empty(), budget.clone());
    Ok(Built { vfs, upper: Upper(vec![(PathBuf::from("/"), root)]), budget })
}

/// Mounts everything else, outer places first.
pub fn mount_all(
    world: &Arc<World>,
    config: &Config,
    cred: &Cred,
    built: &mut BuiltParts<'_>,
) -> Result<(), Error> {
    fs::mount_standard(world, built.budget).map_err(failed(Path::new("/proc, /dev and /sys")))?;
    for (minor, place) in (70..).zip(PRIVATE) {
        let tmp = MemFs::new("tmpfs", make_dev(0, minor), 0o1777, built.budget.clone());
        standard::mount(world, place, tmp.clone(), MountFlags::NOSUID | MountFlags::NODEV)
            .map_err(failed(Path::new(place)))?;
        if place == "/tmp" {
            name_host(world, config, cred, &tmp)?;
        }
    }
    if let Some(here) = current_directory(config) {
        // The current directory is shown even where its surroundings are hidden; writes stay in memory.
        let view = View { shared: true, hidden: hidden().to_vec() };
        let shown = HostFs::open(&here, &view).and_then(|host| OverlayFs::new(host, built.budget.clone()));
        let overlay = shown.map_err(failed(&here))?;
        mount(world, cred, overlay.clone(), &here, MountFlags::empty())?;
        built.upper.0.push((here, overlay));
    }
    for bind in config.mounts() {
        let flags = if bind.read_only { MountFlags::RDONLY } else { MountFlags::empty() };
        let shown: Arc<dyn FileSystem> = match own_device(&bind.src) {
            Some(rdev) => dev::single(rdev).map_err(failed(&bind.dst))?,
            None => HostFs::open(&bind.src, &View::default()).map_err(failed(&bind.src))?,
        };
        if !matches!(shown.root().kind(), S_IFDIR | S_IFREG) && own_device(&bind.src).is_none() {
            log::warn!(
                "--bind {}: devices, sockets and FIFOs of the host can be seen inside, not opened",
                bind.src.display()
            );
        }
        mount(world, cred, shown, &bind.dst, flags)?;
    }
    Ok(())
}

/// The number of a device of the host, if it is one that the sandbox has itself: `/dev/null` and its like.
pub(super) fn own_device(path: &Path) -> Option<u64> {
    let stat = rustix::fs::stat(path).ok()?;
    let device = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_char_device();
    (device && dev::is_own(stat.st_rdev)).then_some(stat.st_rdev)
}

/// The name of the sandbox where programs look for it, over what the host or an image says of theirs.
fn name_host(world: &World, config: &Config, cred: &Cred, tmp: &MemFs) -> Result<(), Error> {
    let name = &config.hostname;
    let hosts = format!("127.0.0.1\tlocalhost\n127.0.1.1\t{name}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for (at, text) in [("/etc/hosts", hosts), ("/etc/hostname", format!("{name}\n"))] {
        let at = Path::new(at);
        if let Ok(place) = find(&world.vfs, cred, at)
            && place.inode().kind() == S_IFREG
        {
            let file = tmp.single_file(0o644, text.as_bytes()).map_err(failed(at))?;
            world.vfs.mounts.mount(file, &place, MountFlags::NOSUID | MountFlags::NODEV).map_err(failed(at))?;
        }
    }
    Ok(())
}

/// What `mount_all` needs of [`Built`] once the world has taken the tree.
pub struct BuiltParts<'a> {
    pub upper: &'a mut Upper,
    pub budget: &'a Arc<Budget>,
}

/// What looks empty of the host's tree, the caller's home included, wherever it lies.
pub(super) fn hidden() -> &'static [PathBuf] {
    static HIDDEN_HERE: OnceLock<Vec<PathBuf>> = OnceLock::new();
    HIDDEN_HERE.get_or_init(|| {
        let mut hidden: Vec<PathBuf> = HIDDEN.iter().map(PathBuf::from).collect();
        let user = rustix::process::getuid().as_raw();
        if user != 0 {
            let told = std::env::var_os("HOME").map(PathBuf::from);
            for home in told.into_iter().chain(home_by_passwd(user)).filter_map(|home| home.canonicalize().ok()) {
                if is_private(&home, user, &hidden) {
                    hidden.push(home);
                }
            }
        }
        hidden
    })
}

/// The home that the host's passwd file names (passwd(5)); users from elsewhere have HOME.
fn home_by_passwd(user: u32) -> Option<PathBuf> {
    let text = std::fs::read("/etc/passwd").ok()?;
    let mut lines = text.split(|byte| *byte == b'\n').map(|line| line.split(|byte| *byte == b':'));
    lines.find_map(|mut fields| {
        let own = fields.nth(2)? == user.to_string().as_bytes();
        own.then(|| PathBuf::from(OsStr::from_bytes(fields.nth(2).unwrap_or_default())))
    })
}

/// A directory of the caller's own, and no directory of the system's that an account without a home is given instead.
fn is_private(home: &Path, user: u32, hidden: &[PathBuf]) -> bool {
    let own = std::fs::metadata(home).is_ok_and(|meta| meta.is_dir() && meta.uid() == user);
    own && !hidden.iter().any(|place| home.starts_with(place) || place.starts_with(home))
}

/// The caller's directory, if the host's tree is shown and would hide it: not a home itself, not `/`.
pub(super) fn current_directory(config: &Config) -> Option<PathBuf> {
    let here = std::env::current_dir().ok()?;
    let below = |place: &Path| here.starts_with(place) && here != place;
    let hidden = hidden().iter().any(|place| below(place)) || PRIVATE.iter().any(|place| below(Path::new(place)));
    let home = std::env::var_os("HOME").is_some_and(|home| here == Path::new(&home));
    let bound = config.mounts().iter().any(|bind| here.starts_with(&bind.dst));
    (matches!(config.rootfs, Rootfs::Host) && hidden && !home && !bound).then_some(here)
}

/// Mounts at a path, making what is missing of it.
fn mount(
    world: &Arc<World>,
    cred: &Cred,
    what: Arc<dyn FileSystem>,
    at: &Path,
    flags: MountFlags,
) -> Result<(), Error> {
    let place = match find(&world.vfs, cred, at) {
        Ok(place) => place,
        Err(_) => make(world, at, what.root().is_dir()).map_err(|errno| missing(at, errno))?,
    };
    world.vfs.mounts.mount(what, &place, flags).map_err(failed(at))?;
    Ok(())
}

/// Why a place to mount at cannot be made.
fn missing(at: &Path, errno: Errno) -> Error {
    if errno != Errno::EROFS {
        return failed(at)(errno);
    }
    let why = "it does not exist, and the directory that it would be in is bound read-only";
    Error::View { path: at.to_owned(), source: std::io::Error::new(std::io::ErrorKind::ReadOnlyFilesystem, why) }
}

fn make(world: &World, at: &Path, directory: bool) -> Result<PathRef, Errno> {
    let text = |path: &Path| path.to_str().map(str::to_owned).ok_or(Errno::EINVAL);
    if directory {
        return standard::directory(world, &text(at)?);
    }
    let parent = standard::directory(world, &text(at.parent().ok_or(Errno::EINVAL)?)?)?;
    let name = bytes(at.file_name().ok_or(Errno::EINVAL)?);
    parent.mount.writable()?;
    let new = NewNode { mode: S_IFREG | 0o644, uid: 0, gid: 0, rdev: 0, target: b"" };
    let inode = parent.inode().make(name, &new)?;
    Ok(PathRef { dentry: parent.dentry.made(name, inode), mount: parent.mount })
}

fn find(vfs: &Vfs, cred: &Cred, at: &Path) -> Result<PathRef, Errno> {
    let root = vfs.mounts.root();
    let who = Who { cred, task: None };
    Walk { vfs, who, root: &root, base: &root }.find(bytes(at.as_os_str()), Resolve::FOLLOW)
}

/// Where the program starts.
pub fn working_directory(world: &World, config: &Config, cred: &Cred) -> Result<PathRef, Error> {
    if let Some(path) = &config.workdir {
        return workdir(world, path, cred);
    }
    let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    match directory(world, &here, cred) {
        Ok(place) => {
            if place.inode().permission(Who { cred, task: None }, Access::READ).is_err() {
                log::warn!(
                    "the current directory is not readable for everybody, so not inside; \
                     `--bind {0}:{0}:ro` shows it, `--write {0}` lets it be changed",
                    here.display()
                );
            }
            Ok(place)
        }
        Err(_) => Ok(world.vfs.mounts.root()),
    }
}

/// A directory of the view that `--workdir` names.
pub fn workdir(world: &World, path: &Path, cred: &Cred) -> Result<PathRef, Error> {
    let failed = |errno: Errno| Error::Workdir {
        path: path.to_owned(),
        source: std::io::Error::from_raw_os_error(errno.raw()),
    };
    directory(world, path, cred).map_err(failed)
}

fn directory(world: &World, path: &Path, cred: &Cred) -> Result<PathRef, Errno> {
    let place = find(&world.vfs, cred, path)?;
    fs::walk::directory(&place)?;
    Ok(place)
}

/// The user that `--user` names, by the passwd file of the view.
pub fn credentials(world: &World, user: &User) -> Result<Cred, Error> {
    match user {
        User::Id { uid, gid } => Ok(Cred::new(*uid, gid.unwrap_or(*uid), Vec::new())),
        User::Name(name) => {
            let text = read(world, Path::new("/etc/passwd")).unwrap_or_default();
            let (uid, gid) = passwd_entry(&text, name).ok_or_else(|| Error::User { name: name.clone() })?;
            Ok(Cred::new(uid, gid, Vec::new()))
        }
    }
}

/// Uid and gid of a user (passwd(5)).
fn passwd_entry(passwd: &[u8], name: &str) -> Option<(u32, u32)> {
    String::from_utf8_lossy(passwd).lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then_some(())?;
        Some((fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?))
    })
}

/// A file of the view, as far as a megabyte.
fn read(world: &World, path: &Path) -> Result<Vec<u8>, Errno> {
    let root = Cred::new(0, 0, Vec::new());
    let place = find(&world.vfs, &root, path)?;
    standard::contents(&place, 1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_by_name() {
        let passwd = b"root:x:0:0:root:/root:/bin/sh\nbad:x:y:1::/:\n\xffodd:x:3:4::/:\nme:x:7:8::/:\n";
        assert_eq!(passwd_entry(passwd, "me"), Some((7, 8)));
        assert_eq!(passwd_entry(passwd, "root"), Some((0, 0)));
        assert_eq!((passwd_entry(passwd, "bad"), passwd_entry(passwd, "m")), (None, None));
    }
}
