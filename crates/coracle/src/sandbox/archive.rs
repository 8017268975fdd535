//! A root file system out of a tar file, into memory.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};
use std::sync::Arc;

use coracle_kernel::Errno;
use coracle_kernel::fs::mem::{Budget, MemFs, downcast};
use coracle_kernel::fs::{FileSystem, Inode, NewNode, S_IFDIR, S_IFLNK, S_IFREG, SetAttr, SetTime, make_dev};
use coracle_kernel::mem::SliceSource;
use rustix::fs::{FileType, Mode, OFlags};
use tar::{Archive, EntryType};

/// How archives begin that are packed in ways not read here.
const FOREIGN: [(&[u8], &str, &str); 3] =
    [(b"\xfd7zXZ\0", "xz", "xz -d"), (b"\x28\xb5\x2f\xfd", "zstd", "zstd -d"), (b"BZh", "bzip2", "bzip2 -d")];

/// Reads the archive, plain or gzip, into a file system.
pub fn unpack(path: &Path) -> io::Result<Arc<dyn FileSystem>> {
    let mut file = BufReader::new(open(path)?);
    let mut magic = [0; 6];
    let known = file.read_exact(&mut magic).is_ok();
    file.rewind()?;
    let packed = known && magic.starts_with(&[0x1f, 0x8b]);
    for (other, name, tool) in FOREIGN {
        if known && magic.starts_with(other) {
            let text = format!("it is packed with {name}; unpack it first with {tool}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
    }
    // Read-only below the overlay, and the user's own choice: no limit.
    let fs = MemFs::new("tmpfs", make_dev(0, 69), 0o755, Budget::new(u64::MAX));
    if packed {
        fill(&fs, flate2::read::GzDecoder::new(file))?
    } else {
        fill(&fs, file)?
    }
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

fn fill(fs: &Arc<MemFs>, from: impl Read) -> io::Result<()> {
    let mut archive = Archive::new(from);
    for (index, entry) in archive.entries()?.enumerate() {
        // The first header tells what kind of file this is; what the reader says of a stray one helps nobody.
        let mut entry = entry.map_err(|error| match index {
            0 => io::Error::new(io::ErrorKind::InvalidData, "it is not a tar file"),
            _ => error,
        })?;
        let path = entry.path()?.into_owned();
        let Some((directory, name)) = place(fs, &path)? else { continue };
        let header = entry.header();
        let kind = match header.entry_type() {
            EntryType::Regular | EntryType::Continuous => S_IFREG,
            EntryType::Directory => S_IFDIR,
            EntryType::Symlink => S_IFLNK,
            EntryType::Link => {
                let target = entry.link_name()?.unwrap_or_default().into_owned();
                let (from, old) = place(fs, &target)?.ok_or(io::ErrorKind::InvalidData)?;
                let target = from.lookup(&old).map_err(host)?;
                directory.link(&name, &target).map_err(host)?;
                continue;
            }
            // Devices and FIFOs: /dev is the sandbox's own.
            _ => continue,
        };
        let target = entry.link_name()?.map(|link| link.as_os_str().as_bytes().to_vec()).unwrap_or_default();
        let id = |value: io::Result<u64>| value.ok().and_then(|id| u32::try_from(id).ok()).unwrap_or(0);
        let (uid, gid) = (id(header.uid()), id(header.gid()));
        let mode = kind | (header.mode()? & 0o7777);
        let time = header.mtime().ok().and_then(|time| i64::try_from(time).ok()).unwrap_or(0);
        let node = match directory.lookup(&name) {
            Ok(old) if kind == S_IFDIR && old.is_dir() => old,
            Ok(old) => {
                directory.unlink(&name, &old).map_err(host)?;
                directory.make(&name, &NewNode { mode, uid, gid, rdev: 0, target: &target }).map_err(host)?
            }
            Err(_) => {
                directory.make(&name, &NewNode { mode, uid, gid, rdev: 0, target: &target }).map_err(host)?
            }
        };
        if kind == S_IFREG {
            copy(&node, &mut entry)?;
        }
        let time = Some(SetTime::To(coracle_kernel::abi::types::Timespec { tv_sec: time, tv_nsec: 0 }));
        let attr = SetAttr { mode: Some(mode & 0o7777), atime: time, mtime: time, ..SetAttr::default() };
        node.set_attr(&attr).map_err(host)?;
    }
    Ok(())
}

/// A directory and a name in it.
type Place = (Arc<dyn Inode>, Vec<u8>);

/// The directory that a path's last component lies in, made if it is missing, and that component.
fn place(fs: &Arc<MemFs>, path: &Path) -> io::Result<Option<Place>> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name.as_bytes().to_vec()),
            Component::CurDir | Component::RootDir => {}
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "a path in the archive leads out of it")),
        }
    }
    let Some(last) = names.pop() else { return Ok(None) };
    let mut at = fs.root();
    for name in names {
        at = match at.lookup(&name) {
            Ok(next) => next,
            Err(Errno::ENOENT) => {
                let new = NewNode { mode: S_IFDIR | 0o755, uid: 0, gid: 0, rdev: 0, target: b"" };
                at.make(&name, &new).map_err(host)?
            }
            Err(errno) => return Err(host(errno)),
        };
    }
    Ok(Some((at, last)))
}

fn copy(node: &Arc<dyn Inode>, from: &mut impl Read) -> io::Result<()> {
    let file = downcast(node).ok_or(io::ErrorKind::InvalidData)?;
    let data = file.data().ok_or(io::ErrorKind::InvalidData)?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        let bytes = buffer.get(..count).unwrap_or_default();
        data.append(&mut SliceSource(bytes)).map_err(host)?;
    }
}

fn host(errno: Errno) -> io::Error {
    io::Error::from_raw_os_error(errno.raw())
}
