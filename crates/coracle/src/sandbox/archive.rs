//! A root file system out of a tar file, into memory. Nobody vouches for the archive: what it unpacks to counts as what a
//! program would write, and each of its names is bounded as a program's would be.

mod stream;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, BufReader, IsTerminal, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coracle_kernel::Errno;
use coracle_kernel::fs::mem::{Budget, MemFs, downcast};
use coracle_kernel::fs::{FileSystem, Inode, NewNode, S_IFDIR, S_IFLNK, S_IFREG, SetAttr, SetTime, make_dev};
use coracle_kernel::mem::SliceSource;
use coracle_kernel::shown::Short;
use rustix::fs::{FileType, Mode, OFlags};
use tar::EntryType;

pub use stream::Problem;
use stream::{Entries, Entry};

/// How archives begin that are packed in ways not read here.
const FOREIGN: [(&[u8], &str, &str); 3] =
    [(b"\xfd7zXZ\0", "xz", "xz -d"), (b"\x28\xb5\x2f\xfd", "zstd", "zstd -d"), (b"BZh", "bzip2", "bzip2 -d")];

/// Longest name (`NAME_MAX`).
const NAME_MAX: usize = 255;

/// What an archive may unpack to, and what says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    pub bytes: u64,
    pub of: &'static str,
}

/// Why an archive is not shown.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("it is packed with {0}; unpack it first with {1}")]
    Foreign(&'static str, &'static str),
    #[error("it does not fit: it unpacks to more than {} bytes ({})", .0.bytes, .0.of)]
    TooLarge(Limit),
    #[error("a path in it leads out of it")]
    Outside,
    #[error("{0} in it cannot be made: {1}")]
    Place(String, Errno),
    #[error(transparent)]
    Stream(#[from] Problem),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Stream(error.into())
    }
}

/// Reads the archive, plain or gzip, into a file system that takes its room from `budget`.
pub fn unpack(path: &Path, budget: &Arc<Budget>, limit: Limit) -> Result<Arc<dyn FileSystem>, Failure> {
    let mut file = BufReader::new(open(path)?);
    let mut magic = [0; 6];
    let known = file.read_exact(&mut magic).is_ok();
    file.rewind()?;
    let packed = known && magic.starts_with(&[0x1f, 0x8b]);
    for (other, name, tool) in FOREIGN {
        if known && magic.starts_with(other) {
            return Err(Failure::Foreign(name, tool));
        }
    }
    let fs = MemFs::new("tmpfs", make_dev(0, 69), 0o755, budget.clone());
    let from: Box<dyn Read> = if packed { Box::new(flate2::read::GzDecoder::new(file)) } else { Box::new(file) };
    let terminal = io::stderr().is_terminal().then(io::stderr);
    Unpacking { fs: &fs, budget, limit }.all(Watched::new(from, terminal, path))?;
    Ok(fs)
}

/// A regular file: opening anything else might wait, or do something.
fn open(path: &Path) -> io::Result<File> {
    let place = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    if !FileType::from_raw_mode(rustix::fs::fstat(&place)?.st_mode).is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    File::open(format!("/proc/self/fd/{}", place.as_raw_fd()))
}

struct Unpacking<'a> {
    fs: &'a Arc<MemFs>,
    budget: &'a Arc<Budget>,
    limit: Limit,
}

/// A directory and a name in it.
type Place = (Arc<dyn Inode>, Vec<u8>);

impl Unpacking<'_> {
    fn all(&self, from: impl Read) -> Result<(), Failure> {
        // A name takes more room than what the stream says of it in almost every archive. One that replaces its own files
        // again and again, or says nothing for long, ends there.
        let most = self.limit.bytes.saturating_mul(4).saturating_add(64 << 20);
        let mut entries = Entries::new(from, most);
        loop {
            match entries.next() {
                Ok(Some(entry)) => self.one(&mut entries, &entry)?,
                Ok(None) => return Ok(()),
                Err(Problem::Endless) => return Err(self.too_large()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn too_large(&self) -> Failure {
        Failure::TooLarge(self.limit)
    }

    fn failed<'a>(&'a self, path: &'a [u8]) -> impl Fn(Errno) -> Failure + 'a {
        |errno| match errno {
            Errno::ENOSPC => self.too_large(),
            errno => Failure::Place(Short(path).to_string(), errno),
        }
    }

    /// There may be less memory than there is room for files.
    fn check(&self) -> Result<(), Failure> {
        if self.budget.state().1 > self.limit.bytes { Err(self.too_large()) } else { Ok(()) }
    }

    fn one(&self, entries: &mut Entries<impl Read>, entry: &Entry) -> Result<(), Failure> {
        self.check()?;
        let kind = match entry.kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => S_IFREG,
            EntryType::Directory => S_IFDIR,
            EntryType::Symlink => S_IFLNK,
            EntryType::Link => return self.link(entry),
            // Devices and FIFOs: /dev is the sandbox's own.
            _ => return Ok(()),
        };
        let Some((directory, name)) = self.place(&entry.path)? else { return Ok(()) };
        let mode = kind | entry.mode;
        let new = NewNode { mode, uid: entry.uid, gid: entry.gid, rdev: 0, target: &entry.link };
        let node = match directory.lookup(&name) {
            Ok(old) if kind == S_IFDIR && old.is_dir() => Ok(old),
            Ok(old) => remove(&directory, &name, &old).and_then(|()| directory.make(&name, &new)),
            Err(_) => directory.make(&name, &new),
        };
        let node = node.map_err(self.failed(&entry.path))?;
        if kind == S_IFREG {
            self.contents(entries, entry, &node)?;
        }
        let time = Some(SetTime::To(coracle_kernel::abi::types::Timespec { tv_sec: entry.mtime, tv_nsec: 0 }));
        let attr = SetAttr { mode: Some(entry.mode), atime: time, mtime: time, ..SetAttr::default() };
        node.set_attr(&attr).map_err(self.failed(&entry.path))?;
        Ok(())
    }

    /// Another name of a file that came before. Of nothing else: directories have one.
    fn link(&self, entry: &Entry) -> Result<(), Failure> {
        let failed = self.failed(&entry.path);
        let names = split(&entry.link)?;
        let root: Arc<dyn Inode> = self.fs.root();
        let target = names.iter().try_fold(root, |at, name| at.lookup(name)).map_err(&failed)?;
        if target.is_dir() {
            return Err(failed(Errno::EPERM));
        }
        let Some((directory, name)) = self.place(&entry.path)? else { return Err(failed(Errno::EEXIST)) };
        match directory.lookup(&name) {
            Ok(old) if Arc::ptr_eq(&old, &target) => return Ok(()),
            Ok(old) => remove(&directory, &name, &old).map_err(&failed)?,
            Err(_) => {}
        }
        directory.link(&name, &target).map_err(&failed)
    }

    fn contents(
        &self,
        entries: &mut Entries<impl Read>,
        entry: &Entry,
        node: &Arc<dyn Inode>,
    ) -> Result<(), Failure> {
        let file = downcast(node).ok_or(io::Error::from(io::ErrorKind::InvalidData))?;
        let data = file.data().ok_or(io::Error::from(io::ErrorKind::InvalidData))?;
        let (budget, most) = (self.budget.clone(), self.limit.bytes);
        let mut failed = None;
        let done = entries.contents(entry, |at, bytes| match data.write(at, &mut SliceSource(bytes)) {
            Ok(count) if count == bytes.len() && budget.state().1 <= most => Ok(()),
            other => {
                failed = Some(other.err().unwrap_or(Errno::ENOSPC));
                Err(Problem::Endless)
            }
        });
        if let Some(errno) = failed {
            return Err(self.failed(&entry.path)(errno));
        }
        match done {
            Err(Problem::Endless) => return Err(self.too_large()),
            other => other?,
        }
        // What ends in a hole.
        data.truncate(entry.size).map_err(self.failed(&entry.path))
    }

    /// The directory that a path's last component lies in, made if it is missing, and that component.
    fn place(&self, path: &[u8]) -> Result<Option<Place>, Failure> {
        let mut names = split(path)?;
        let Some(last) = names.pop() else { return Ok(None) };
        let mut at: Arc<dyn Inode> = self.fs.root();
        for name in names {
            let next = match at.lookup(name) {
                Err(Errno::ENOENT) => {
                    at.make(name, &NewNode { mode: S_IFDIR | 0o755, uid: 0, gid: 0, rdev: 0, target: b"" })
                }
                other => other,
            };
            at = next.map_err(self.failed(path))?;
        }
        Ok(Some((at, last.to_vec())))
    }
}

fn remove(directory: &Arc<dyn Inode>, name: &[u8], old: &Arc<dyn Inode>) -> Result<(), Errno> {
    if old.is_dir() { directory.rmdir(name, old) } else { directory.unlink(name, old) }
}

/// The components of a path, from the top of the archive.
fn split(path: &[u8]) -> Result<Vec<&[u8]>, Failure> {
    let mut names = Vec::new();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => return Err(Failure::Outside),
            name if name.len() > NAME_MAX => {
                return Err(Failure::Place(Short(path).to_string(), Errno::ENAMETOOLONG));
            }
            name => names.push(name),
        }
    }
    Ok(names)
}

/// A stream that says on the terminal, to whoever waits for long, how far it has come.
struct Watched<R, W: Write> {
    from: R,
    /// Where to say so, if that is a terminal, and of what.
    to: Option<(W, String)>,
    /// When.
    next: Instant,
    told: bool,
    bytes: u64,
}

/// How long nothing is said, and how often something.
const PATIENCE: Duration = Duration::from_secs(1);
const PERIOD: Duration = Duration::from_millis(200);

impl<R: Read, W: Write> Watched<R, W> {
    fn new(from: R, to: Option<W>, path: &Path) -> Watched<R, W> {
        let to = to.map(|to| (to, Short(path.as_os_str().as_encoded_bytes()).to_string()));
        Watched { from, to, next: Instant::now() + PATIENCE, told: false, bytes: 0 }
    }
}

impl<R: Read, W: Write> Read for Watched<R, W> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(into)?;
        self.bytes += count as u64;
        if let Some((to, name)) = &mut self.to
            && Instant::now() >= self.next
        {
            self.next = Instant::now() + PERIOD;
            self.told = true;
            let _ = write!(to, "\r\x1b[Kcoracle: unpacking {name}: {} MiB", self.bytes >> 20);
        }
        Ok(count)
    }
}

impl<R, W: Write> Drop for Watched<R, W> {
    fn drop(&mut self) {
        if let Some((to, _)) = self.to.as_mut().filter(|_| self.told) {
            let _ = write!(to, "\r\x1b[K");
        }
    }
}
