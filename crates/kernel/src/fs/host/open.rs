//! What is read of a host tree: regular files and the names in directories.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags, RawDir};

use super::descriptor::{Seen, look};
use super::node::HostNode;
use super::{Shared, errno};
use crate::abi::linux::{O_ACCMODE, O_DSYNC, O_NOATIME, O_RDONLY, O_SYNC};
use crate::fs::Listed;
use crate::{Errno, Result};

/// A descriptor that was opened to read the file, for the next who wants that. It may be used as long as the host says
/// the very same of the file: a rename, another link, a new mode or new contents change `st_ctime`. So the name still
/// leads to it, and opening it again would be granted again.
#[derive(Clone)]
pub(super) struct Reader {
    file: Arc<OwnedFd>,
    seen: Print,
}

/// Mode, owner, group, links and `st_ctime`.
type Print = (u32, u32, u32, u64, i64, i64);

fn print(seen: &Seen) -> Print {
    let stat = &seen.stat;
    (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_nlink, stat.st_ctime, stat.st_ctime_nsec)
}

/// Nodes that have a [`Reader`], the oldest first. They are few and not kept for long, because a file that the host
/// deletes keeps its blocks meanwhile.
#[derive(Default)]
pub(super) struct Recent(Mutex<VecDeque<(Instant, Weak<HostNode>)>>);

/// Most readers that are kept, how long, and up to which size of the file.
const READERS: usize = 64;
const AGE: Duration = Duration::from_secs(1);
const SIZE: i64 = 8 << 20;

impl Recent {
    /// `node` has one now. Those who lose theirs are told.
    fn add(&self, node: &Weak<HostNode>) {
        let now = Instant::now();
        let mut out = Vec::new();
        let mut recent = self.0.lock();
        recent.push_back((now, node.clone()));
        while let Some((then, _)) = recent.front()
            && (recent.len() > READERS || now.saturating_duration_since(*then) > AGE)
        {
            out.extend(recent.pop_front());
        }
        drop(recent);
        out.iter().filter_map(|(_, node)| node.upgrade()).for_each(|node| node.gone());
    }
}

impl Shared {
    /// A shared view gives nothing away but what everybody may read, at the moment that it was opened at.
    pub(super) fn admit(&self, opened: &Seen) -> Result<()> {
        if self.is_shared() && opened.stat.st_mode & 4 == 0 { Err(Errno::EACCES) } else { Ok(()) }
    }
}

impl HostNode {
    /// A descriptor of the regular file, with these `O_*` flags.
    pub(super) fn open_file(&self, flags: u32) -> Result<Arc<OwnedFd>> {
        // Not O_APPEND: it may be set and cleared later, and counts then.
        let flags = flags & (O_ACCMODE | O_SYNC | O_DSYNC | O_NOATIME);
        if flags == O_RDONLY {
            return self.open_to_read();
        }
        let flags = OFlags::from_bits_truncate(flags);
        let file = self.reached(|| {
            let (itself, _) = self.confirm()?;
            match self.reopen(&itself, flags) {
                Err(Errno::EPERM) if flags.contains(OFlags::NOATIME) => {
                    self.reopen(&itself, flags - OFlags::NOATIME)
                }
                other => other,
            }
        })?;
        self.lend(&file);
        Ok(file)
    }

    /// As `open_file` to read, which is what most want.
    pub(crate) fn open_to_read(&self) -> Result<Arc<OwnedFd>> {
        let reader = self.descriptors().reader.clone();
        if let Some(reader) = reader {
            let seen = look(&*reader.file, b"")?;
            if print(&seen) == reader.seen {
                self.agree(&seen)?;
                self.shared.admit(&seen)?;
                return Ok(reader.file);
            }
            self.gone();
        }
        // It may be a new file, were it with an old one's number, in a directory that has been closed since.
        let (file, seen) = self.reached(|| {
            let (itself, seen) = self.confirm()?;
            Ok((self.reopen(&itself, OFlags::RDONLY)?, seen))
        })?;
        self.lend(&file);
        if seen.stat.st_size <= SIZE && seen.stat.st_nlink > 0 {
            self.descriptors().reader = Some(Reader { file: file.clone(), seen: print(&seen) });
            self.shared.recent.add(&self.this);
        }
        Ok(file)
    }

    /// Opens the regular file that `itself` is a descriptor of.
    fn reopen(&self, itself: &OwnedFd, flags: OFlags) -> Result<Arc<OwnedFd>> {
        let file = self.shared.own.reopen(itself, flags | OFlags::NONBLOCK)?;
        if self.shared.is_shared() {
            self.shared.admit(&look(&file, b"")?)?;
        }
        Ok(Arc::new(file))
    }

    /// The names in the directory.
    pub(super) fn names(&self) -> Result<Vec<Listed>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(&*self.dir()?, ".", flags, Mode::empty()).map_err(errno)?;
        if self.shared.is_shared() {
            self.shared.admit(&look(&directory, b"")?)?;
        }
        let mut buffer = Vec::with_capacity(32 << 10);
        let mut entries = RawDir::new(directory, buffer.spare_capacity_mut());
        let mut names = Vec::new();
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(errno)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                let kind = (entry.file_type().as_raw_mode() >> 12) as u8;
                names.push(Listed { name: name.into(), ino: entry.ino(), kind });
            }
        }
        Ok(names)
    }
}
