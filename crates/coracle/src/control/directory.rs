//! The directory of a user's control sockets. It may lie in `/tmp`, where others make names, too: so it is opened, proven to
//! be one that nobody else can write, and used through the descriptor.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use coracle_backends::confine::is_sandbox;
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, Uid, chownat, fstat, mkdirat, open, openat, statat, unlinkat};

/// Root's sandboxes are served by other users, each its own. They remove their sockets at the end, which the mode lets
/// them; who cannot be one of them is not listened to ([`Directory::connect`]).
const ROOT_MODE: u32 = 0o1733;

/// What names of sockets end in.
const SUFFIX: &str = ".sock";

/// How it is opened to be listed.
const LISTED: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

fn name(id: &str) -> String {
    format!("{id}{SUFFIX}")
}

/// The directory, open.
#[derive(Debug)]
pub struct Directory(OwnedFd);

impl Directory {
    /// Where the sandboxes of this user listen.
    pub fn path() -> PathBuf {
        let given = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        match given.filter(|dir| dir.is_absolute() && dir.is_dir()) {
            Some(dir) => dir.join("coracle"),
            None => PathBuf::from(format!("/tmp/coracle-{}", rustix::process::getuid().as_raw())),
        }
    }

    /// Opens it, and makes it where it is missing.
    pub fn make(path: &Path) -> io::Result<Directory> {
        match mkdirat(CWD, path, Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let directory = Directory::open(path)?;
        if rustix::process::geteuid().is_root() && fstat(&directory.0)?.st_mode & 0o7777 != ROOT_MODE {
            let opened = openat(&directory.0, ".", LISTED, Mode::empty())?;
            rustix::fs::fchmod(&opened, Mode::from_raw_mode(ROOT_MODE))?;
        }
        Ok(directory)
    }

    /// Opens it, if it is this user's and nobody else can write it.
    pub fn open(path: &Path) -> io::Result<Directory> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = open(path, flags, Mode::empty())?;
        let stat = fstat(&directory)?;
        let alone = stat.st_mode & 0o022 == 0 || (stat.st_uid == 0 && stat.st_mode & 0o7777 == ROOT_MODE);
        if stat.st_uid == rustix::process::getuid().as_raw() && alone {
            Ok(Directory(directory))
        } else {
            Err(io::Error::other("it is not a directory that only you can write"))
        }
    }

    /// A path that leads to the directory that was opened: sockets have addresses where other calls take descriptors.
    pub fn through(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }

    /// The address of a sandbox's socket.
    pub fn address(&self, id: &str) -> PathBuf {
        self.through().join(name(id))
    }

    /// Connects to a socket in it, if it is one of this user's sandboxes'.
    pub fn connect(&self, id: &str) -> io::Result<UnixStream> {
        let me = rustix::process::getuid().as_raw();
        let owner = statat(&self.0, name(id), AtFlags::SYMLINK_NOFOLLOW)?.st_uid;
        let foreign = || io::Error::new(io::ErrorKind::PermissionDenied, "it is somebody else's");
        if owner != me && !(me == 0 && is_sandbox(owner)) {
            return Err(foreign());
        }
        let stream = UnixStream::connect(self.address(id))?;
        // Whoever listens there was this user when it began to.
        if rustix::net::sockopt::socket_peercred(&stream)?.uid.as_raw() == me {
            Ok(stream)
        } else {
            Err(foreign())
        }
    }

    pub fn remove(&self, id: &str) -> io::Result<()> {
        Ok(unlinkat(&self.0, name(id), AtFlags::empty())?)
    }

    /// Makes a socket somebody else's.
    pub fn give(&self, id: &str, user: u32) -> io::Result<()> {
        Ok(chownat(&self.0, name(id), Some(Uid::from_raw(user)), None, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// The ids of all sockets in it.
    pub fn ids(&self) -> io::Result<Vec<String>> {
        let mut ids = Vec::new();
        for entry in Dir::new(openat(&self.0, ".", LISTED, Mode::empty())?)? {
            let entry = entry?;
            let name = entry.file_name().to_str().ok();
            ids.extend(name.and_then(|name| name.strip_suffix(SUFFIX)).map(str::to_owned));
        }
        Ok(ids)
    }
}
