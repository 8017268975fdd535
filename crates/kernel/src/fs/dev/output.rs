//! Inherited streams that are regular files: what guests may do to the file that the caller has opened, and how much of
//! `--output-limit` it takes.
//!
//! - What was opened for appending grows at its end and changes nowhere else, whatever flags a guest sets, as if the file
//!   were append-only (`IS_APPEND()`, fs/attr.c and fs/namei.c): it is the caller's log.
//! - With a limit, the file does not grow by more. What is written counts, and holes that are left before it count as if
//!   they were written.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};
use rustix::fs::{FallocateFlags, Mode, OFlags, SeekFrom};
use rustix::io::ReadWriteFlags;

use crate::abi::linux::{
    FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_INSERT_RANGE, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE,
};
use crate::fs::host::errno;
use crate::{Errno, Result, decisions};

/// Counts what guests write to inherited streams, and says when it is too much.
pub struct OutputLimit {
    left: AtomicU64,
    exceeded: Box<dyn Fn() + Send + Sync>,
    /// Held from the look at a file's size until it has grown.
    growing: Mutex<()>,
}

impl OutputLimit {
    /// `exceeded` is called (perhaps more than once) when more than `bytes` are written.
    pub fn new(bytes: u64, exceeded: impl Fn() + Send + Sync + 'static) -> Arc<OutputLimit> {
        let exceeded = Box::new(exceeded);
        Arc::new(OutputLimit { left: AtomicU64::new(bytes), exceeded, growing: Mutex::default() })
    }

    /// How many of `bytes` may still be written.
    pub(super) fn take(&self, bytes: u64) -> u64 {
        let take = |left: u64| Some(decisions::output(left).saturating_sub(bytes));
        let left = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        decisions::output(left.unwrap_or_else(|left| left)).min(bytes)
    }

    /// More was to be written than there was room for.
    pub(super) fn exceed(&self) {
        (self.exceeded)();
    }

    /// Takes `bytes`, or it is too much.
    fn take_all(&self, bytes: u64) -> Result<()> {
        if self.take(bytes) == bytes {
            return Ok(());
        }
        self.exceed();
        Err(Errno::EIO)
    }
}

/// Where something is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Where the host's position is, which moves on.
    Here,
    At(u64),
    /// At the end, wherever that is; the host's position is behind it then.
    End,
}

/// A regular file of the host that others have open, too.
pub(super) struct Output<'a> {
    pub fd: &'a OwnedFd,
    /// It was opened for appending.
    pub append: bool,
    pub limit: Option<&'a OutputLimit>,
}

impl Output<'_> {
    fn size(&self) -> Result<u64> {
        Ok(rustix::fs::fstat(self.fd).map_err(errno)?.st_size as u64)
    }

    fn grow(&self) -> Option<MutexGuard<'_, ()>> {
        self.limit.map(|limit| limit.growing.lock())
    }

    /// Writes as much of `bytes` as the limit lets, once. The second value says that it let all pass.
    pub fn write(&self, bytes: &[u8], target: Target) -> Result<(usize, bool)> {
        let _growing = self.grow();
        let mut room = bytes.len();
        if let Some(limit) = self.limit {
            let start = match target {
                Target::At(at) if !self.append => at,
                Target::Here if !self.append => rustix::fs::seek(self.fd, SeekFrom::Current(0)).map_err(errno)?,
                _ => 0,
            };
            let hole = if start > 0 { start.saturating_sub(self.size()?) } else { 0 };
            let granted = limit.take(hole.saturating_add(bytes.len() as u64));
            room = usize::try_from(granted.saturating_sub(hole)).unwrap_or(room);
        }
        let part = bytes.get(..room).unwrap_or_default();
        let written = if part.is_empty() && !bytes.is_empty() { 0 } else { self.put(part, target)? };
        Ok((written, room == bytes.len()))
    }

    fn put(&self, bytes: &[u8], target: Target) -> Result<usize> {
        match target {
            Target::Here => rustix::io::write(self.fd, bytes),
            Target::At(at) => rustix::io::pwrite(self.fd, bytes, at),
            // No offset means the position (pwritev2(2)).
            Target::End => {
                let part = [std::io::IoSlice::new(bytes)];
                rustix::io::pwritev2(self.fd, &part, u64::MAX, ReadWriteFlags::APPEND)
            }
        }
        .map_err(errno)
    }

    pub fn truncate(&self, len: u64) -> Result<()> {
        if self.append {
            return Err(Errno::EPERM);
        }
        let _growing = self.grow();
        if let Some(limit) = self.limit {
            limit.take_all(len.saturating_sub(self.size()?))?;
        }
        rustix::fs::ftruncate(self.fd, len).map_err(errno)
    }

    /// `fallocate`. Of an append-only file nothing but more may be asked for (vfs_fallocate()).
    pub fn allocate(&self, mode: u32, offset: u64, len: u64) -> Result<()> {
        if self.append && mode & !FALLOC_FL_KEEP_SIZE != 0 {
            return Err(Errno::EPERM);
        }
        let _growing = self.grow();
        if let Some(limit) = self.limit {
            let more = match mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE) {
                0 => offset.saturating_add(len).saturating_sub(self.size()?),
                FALLOC_FL_INSERT_RANGE => len,
                _ => 0,
            };
            limit.take_all(more)?;
        }
        let flags = FallocateFlags::from_bits_truncate(mode);
        rustix::fs::fallocate(self.fd, flags, offset, len).map_err(errno)
    }

    /// A descriptor for mappings. A worker can map what it is given in any way that the descriptor allows, and nobody
    /// counts or bounds what is written so: then it gets one for reading.
    pub fn to_map(&self, fd: &Arc<OwnedFd>, writable_shared: bool) -> Result<Arc<OwnedFd>> {
        let bounded = self.append || self.limit.is_some();
        if bounded && writable_shared {
            return Err(Errno::EACCES);
        }
        let rights = rustix::fs::fcntl_getfl(self.fd.as_fd()).map_err(errno)? & OFlags::RWMODE;
        if !bounded || rights == OFlags::RDONLY {
            return Ok(fd.clone());
        }
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(self.fd));
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        rustix::fs::open(path, flags, Mode::empty()).map(Arc::new).map_err(|_| Errno::ENODEV)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    struct Case {
        _dir: tempfile::TempDir,
        path: std::path::PathBuf,
        fd: OwnedFd,
        append: bool,
        limit: Arc<OutputLimit>,
        exceeded: Arc<AtomicUsize>,
    }

    fn case(append: bool, limit: u64) -> Case {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        std::fs::write(&path, b"before\n").unwrap();
        let flags = OFlags::RDWR | if append { OFlags::APPEND } else { OFlags::empty() };
        let fd = rustix::fs::open(&path, flags, Mode::empty()).unwrap();
        let exceeded = Arc::new(AtomicUsize::new(0));
        let counted = exceeded.clone();
        let limit = OutputLimit::new(limit, move || _ = counted.fetch_add(1, Ordering::Relaxed));
        Case { _dir: dir, path, fd, append, limit, exceeded }
    }

    impl Case {
        fn output(&self) -> Output<'_> {
            Output { fd: &self.fd, append: self.append, limit: Some(&self.limit) }
        }

        fn size(&self) -> u64 {
            std::fs::metadata(&self.path).unwrap().len()
        }

        fn over(&self) -> bool {
            self.exceeded.load(Ordering::Relaxed) > 0
        }
    }

    #[test]
    fn a_log_only_grows_at_its_end() {
        let case = case(true, 1000);
        let output = case.output();
        assert_eq!(output.truncate(0), Err(Errno::EPERM));
        assert_eq!(output.truncate(100), Err(Errno::EPERM));
        for mode in [FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_COLLAPSE_RANGE, 0x10, 0x20] {
            assert_eq!(output.allocate(mode, 0, 4096), Err(Errno::EPERM));
        }
        assert_eq!(output.to_map(&Arc::new(case.fd.try_clone().unwrap()), true).err(), Some(Errno::EACCES));
        for target in [Target::At(0), Target::Here, Target::End] {
            output.write(b"x", target).unwrap();
        }
        let mut text = String::new();
        std::fs::File::open(&case.path).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "before\nxxx");
        // What is mapped cannot be written to, whoever maps it.
        let mapped = output.to_map(&Arc::new(case.fd.try_clone().unwrap()), false).unwrap();
        assert_eq!(rustix::fs::fcntl_getfl(&*mapped).unwrap() & OFlags::RWMODE, OFlags::RDONLY);
    }

    #[test]
    fn no_way_to_grow_passes_the_limit() {
        // 7 bytes are there; 10 more may come.
        let grown = |act: &dyn Fn(&Output<'_>)| {
            let case = case(false, 10);
            act(&case.output());
            (case.size(), case.over())
        };
        assert_eq!(grown(&|output| _ = output.truncate(17)), (17, false));
        assert_eq!(grown(&|output| _ = output.truncate(18)), (7, true));
        assert_eq!(grown(&|output| _ = output.allocate(0, 0, 17)), (17, false));
        assert_eq!(grown(&|output| _ = output.allocate(0, 10, 8)), (7, true));
        assert_eq!(grown(&|output| _ = output.allocate(FALLOC_FL_KEEP_SIZE, 0, 1 << 20)), (7, true));
        assert_eq!(grown(&|output| _ = output.write(b"abc", Target::At(14))), (17, false));
        assert_eq!(output_of(b"abc", 15), (17, Ok((2, false))));
        assert_eq!(output_of(b"abc", 17), (7, Ok((0, false))));
        assert_eq!(output_of(b"abc", u64::MAX >> 2), (7, Ok((0, false))));
        // The host's own position, moved beyond the end.
        let far = |output: &Output<'_>| {
            rustix::fs::seek(output.fd, SeekFrom::Start(1 << 30)).unwrap();
            _ = output.write(b"abc", Target::Here);
        };
        assert_eq!(grown(&far), (7, false));
        // What was cut off has counted.
        let again = |output: &Output<'_>| {
            for _ in 0..5 {
                let _ = output.truncate(0);
                let _ = output.write(b"abcd", Target::At(0));
            }
        };
        assert_eq!(grown(&again), (0, false));
    }

    fn output_of(bytes: &[u8], at: u64) -> (u64, Result<(usize, bool)>) {
        let case = case(false, 10);
        let result = case.output().write(bytes, Target::At(at));
        (case.size(), result)
    }
}
