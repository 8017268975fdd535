//! Guest memory. It is never a slice: every access names a guest address, can fail, and is checked at the
//! time of access, as Linux does.

use coracle_platform::{Space, Thread};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::abi::PAGE_SIZE;
use crate::abi::types::Iovec;
use crate::{Errno, Result};

/// Most bytes one `read` or `write` moves (`MAX_RW_COUNT` in include/linux/fs.h).
pub const MAX_RW: usize = 0x7fff_f000;
/// Most ranges in one `readv` or `writev` (`UIO_MAXIOV`).
pub const IOV_MAX: usize = 1024;
/// A platform has so many pieces and bytes travel with a reply, as a rule.
const STAGED_PIECES: usize = 4;
const STAGED_BYTES: usize = 8192;
/// Longest path, with its terminating zero (`PATH_MAX`).
pub const PATH_MAX: usize = 4096;

/// The memory of the guest whose call is being served: what came along with the call, and the rest.
pub struct UserMemory<'a> {
    pub(crate) thread: &'a mut dyn Thread,
    pub(crate) space: &'a dyn Space,
}

impl UserMemory<'_> {
    /// Fills `into` from guest memory, or `EFAULT`.
    pub fn read_bytes(&self, address: u64, into: &mut [u8]) -> Result<()> {
        if into.is_empty() || self.thread.staged(address, into) || self.space.read(address, into) == into.len() {
            Ok(())
        } else {
            Err(Errno::EFAULT)
        }
    }

    /// Copies what can be read; returns how much.
    pub fn read_some(&self, address: u64, into: &mut [u8]) -> usize {
        if self.thread.staged(address, into) { into.len() } else { self.space.read(address, into) }
    }

    /// Reads one value.
    pub fn read<T: FromBytes + IntoBytes>(&self, address: u64) -> Result<T> {
        let mut value = T::new_zeroed();
        self.read_bytes(address, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Reads `count` values; the caller has bounded `count`.
    pub fn read_array<T: FromBytes + IntoBytes + Clone>(&self, address: u64, count: usize) -> Result<Vec<T>> {
        let mut values = vec![T::new_zeroed(); count];
        self.read_bytes(address, values.as_mut_slice().as_mut_bytes())?;
        Ok(values)
    }

    /// Writes all of `from`, or `EFAULT`. Small outputs travel with the reply, so a bad address may turn up
    /// only then, and the whole call fails with `EFAULT`.
    pub fn write_bytes(&mut self, address: u64, from: &[u8]) -> Result<()> {
        if from.is_empty() || self.thread.stage_out(address, from) || self.space.write(address, from) == from.len()
        {
            Ok(())
        } else {
            Err(Errno::EFAULT)
        }
    }

    /// Writes now, past any staging: for outputs that decide whether something is consumed.
    pub fn write_now(&mut self, address: u64, from: &[u8]) -> usize {
        self.space.write(address, from)
    }

    /// Writes one value.
    pub fn write<T: IntoBytes + Immutable>(&mut self, address: u64, value: &T) -> Result<()> {
        self.write_bytes(address, value.as_bytes())
    }

    /// Reads a string up to its zero byte, which is not part of the result. `max` counts the zero byte.
    /// No zero within `max` bytes: `None`.
    pub fn read_cstr(&self, address: u64, max: usize) -> Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        let mut chunk = [0u8; 256];
        while bytes.len() < max {
            let at = address.checked_add(bytes.len() as u64).ok_or(Errno::EFAULT)?;
            // Never across a page border: the next page may be missing and not needed.
            let to_border = (PAGE_SIZE - at % PAGE_SIZE) as usize;
            let want = (max - bytes.len()).min(to_border).min(chunk.len());
            let part = chunk.get_mut(..want).ok_or(Errno::EFAULT)?;
            let staged = self.thread.staged_prefix(at, part);
            let got = if staged > 0 { staged } else { self.space.read(at, part) };
            if got == 0 {
                return Err(Errno::EFAULT);
            }
            let part = part.get(..got).unwrap_or_default();
            match part.iter().position(|byte| *byte == 0) {
                Some(end) => {
                    bytes.extend_from_slice(part.get(..end).unwrap_or_default());
                    return Ok(Some(bytes));
                }
                None => bytes.extend_from_slice(part),
            }
        }
        Ok(None)
    }

    /// Reads a path as `getname()` does: `ENAMETOOLONG` without a zero byte in `PATH_MAX` bytes.
    pub fn read_path(&self, address: u64) -> Result<Vec<u8>> {
        self.read_cstr(address, PATH_MAX)?.ok_or(Errno::ENAMETOOLONG)
    }

    /// Reads and checks an I/O vector as `import_iovec()` does (lib/iov_iter.c).
    pub fn read_iovec(&self, address: u64, count: usize) -> Result<Vec<Iovec>> {
        if count > IOV_MAX {
            return Err(Errno::EINVAL);
        }
        let mut list: Vec<Iovec> = self.read_array(address, count)?;
        let mut total = 0usize;
        for range in &mut list {
            let len = i64::try_from(range.len).map_err(|_| Errno::EINVAL)?;
            check_range(range.base, range.len)?;
            let len = (len as usize).min(MAX_RW - total);
            range.len = len as u64;
            total += len;
        }
        Ok(list)
    }

    /// Where a reading call puts its bytes.
    pub fn sink(&mut self, ranges: Vec<Iovec>) -> UserSink<'_> {
        UserSink { thread: self.thread, space: self.space, ranges: Cursor::new(ranges), whole: false }
    }

    /// As `sink`, for one range.
    pub fn sink_one(&mut self, base: u64, len: usize) -> UserSink<'_> {
        let range = Ranges::One([Iovec { base, len: len as u64 }]);
        UserSink { thread: self.thread, space: self.space, ranges: Cursor::new(range), whole: false }
    }

    /// As `source`, for one range.
    pub fn source_one(&mut self, base: u64, len: usize) -> UserSource<'_> {
        let range = Ranges::One([Iovec { base, len: len as u64 }]);
        UserSource { thread: self.thread, space: self.space, ranges: Cursor::new(range) }
    }

    /// Where a writing call takes its bytes from.
    pub fn source(&mut self, ranges: Vec<Iovec>) -> UserSource<'_> {
        UserSource { thread: self.thread, space: self.space, ranges: Cursor::new(ranges) }
    }
}

/// `access_ok()`: the range must lie in the user half (arch/x86/include/asm/uaccess_64.h).
pub fn check_range(address: u64, len: u64) -> Result<()> {
    match address.checked_add(len) {
        Some(end) if end <= 0x7fff_ffff_f000 => Ok(()),
        _ => Err(Errno::EFAULT),
    }
}

/// Takes bytes that a file yields.
pub trait Sink {
    /// How many bytes are still wanted.
    fn remaining(&self) -> usize;

    /// Takes bytes, at most `remaining`; `EFAULT` only if not one could be taken.
    fn put(&mut self, bytes: &[u8]) -> Result<usize>;

    /// As `put`, for bytes that Linux gives whole or not at all: guest memory that takes but a part is `EFAULT`.
    fn put_whole(&mut self, bytes: &[u8]) -> Result<usize> {
        self.put(bytes)
    }

    /// Lets `fill` produce up to `max` bytes straight into their place or a buffer; returns what it returned.
    /// `fill` is called once; what it yields is consumed from its point of view even if it cannot be stored. So
    /// this is for what can be read again: a bad address may turn up only when the call has been answered, and
    /// then the whole read is made once more.
    fn fill(&mut self, max: usize, fill: &mut dyn FnMut(&mut [u8]) -> Result<usize>) -> Result<usize> {
        let mut buffer = vec![0; max.min(self.remaining()).min(1 << 20)];
        let count = fill(&mut buffer)?;
        self.put(buffer.get(..count).unwrap_or(&buffer))
    }
}

/// Yields bytes that a file takes.
pub trait Source {
    /// How many bytes are still there.
    fn remaining(&self) -> usize;

    /// Copies out up to `into.len()` bytes and moves on; `EFAULT` only if not one could be read.
    fn take(&mut self, into: &mut [u8]) -> Result<usize>;
}

/// A position in a list of guest ranges.
struct Cursor {
    ranges: Ranges,
    index: usize,
    offset: u64,
    left: usize,
}

/// One range needs no allocation.
enum Ranges {
    One([Iovec; 1]),
    Many(Vec<Iovec>),
}

impl From<Vec<Iovec>> for Ranges {
    fn from(list: Vec<Iovec>) -> Ranges {
        Ranges::Many(list)
    }
}

impl std::ops::Deref for Ranges {
    type Target = [Iovec];

    fn deref(&self) -> &[Iovec] {
        match self {
            Ranges::One(one) => one,
            Ranges::Many(list) => list,
        }
    }
}

impl Cursor {
    fn new(ranges: impl Into<Ranges>) -> Cursor {
        let ranges = ranges.into();
        let left = ranges.iter().map(|range| range.len as usize).fold(0, usize::saturating_add).min(MAX_RW);
        Cursor { ranges, index: 0, offset: 0, left }
    }

    /// The contiguous pieces of the next `max` bytes: address and length, never zero.
    fn pieces(&self, max: usize) -> impl Iterator<Item = (u64, usize)> {
        let mut left = max.min(self.left);
        let mut offset = self.offset;
        self.ranges
            .get(self.index..)
            .unwrap_or_default()
            .iter()
            .map_while(move |range| {
                let skipped = std::mem::take(&mut offset);
                let len = usize::try_from(range.len.saturating_sub(skipped)).unwrap_or(usize::MAX).min(left);
                left -= len;
                // An empty range in front of the rest ends nothing.
                (len > 0 || left > 0).then_some((range.base.wrapping_add(skipped), len))
            })
            .filter(|(_, len)| *len > 0)
    }

    fn advance(&mut self, count: usize) {
        self.left = self.left.saturating_sub(count);
        let mut count = count as u64;
        while let Some(range) = self.ranges.get(self.index) {
            let rest = range.len.saturating_sub(self.offset);
            if count < rest {
                self.offset += count;
                return;
            }
            count -= rest;
            self.index += 1;
            self.offset = 0;
        }
    }
}

/// [`Sink`] into guest memory.
pub struct UserSink<'a> {
    thread: &'a mut dyn Thread,
    space: &'a dyn Space,
    ranges: Cursor,
    /// Something was staged already: a call has one staging room.
    whole: bool,
}

impl Sink for UserSink<'_> {
    fn remaining(&self) -> usize {
        self.ranges.left
    }

    fn put(&mut self, bytes: &[u8]) -> Result<usize> {
        let want = bytes.len().min(self.ranges.left);
        let mut list = self.ranges.pieces(want);
        let Some((address, len)) = list.next() else { return Ok(0) };
        let (first, mut rest) = bytes.split_at(len.min(want));
        let done = if len == want {
            self.space.write(address, first)
        } else {
            let mut pieces = vec![(address, first)];
            for (address, len) in list.by_ref() {
                let (part, more) = rest.split_at(len.min(rest.len()));
                pieces.push((address, part));
                rest = more;
            }
            self.space.write_pieces(&pieces)
        };
        drop(list);
        self.ranges.advance(done);
        if done == 0 { Err(Errno::EFAULT) } else { Ok(done) }
    }

    fn put_whole(&mut self, bytes: &[u8]) -> Result<usize> {
        let want = bytes.len().min(self.remaining());
        if self.put(bytes)? < want { Err(Errno::EFAULT) } else { Ok(want) }
    }

    fn fill(&mut self, max: usize, fill: &mut dyn FnMut(&mut [u8]) -> Result<usize>) -> Result<usize> {
        let max = max.min(self.ranges.left);
        let Some((address, len)) = self.ranges.pieces(max).next() else { return Ok(0) };
        if !self.whole
            && len == max
            && let Some(room) = self.thread.stage_room(address, len)
        {
            let count = fill(room)?;
            self.thread.stage_commit(count);
            self.ranges.advance(count);
            self.whole = true;
            return Ok(count);
        }
        let mut buffer = vec![0; max.min(1 << 20)];
        let count = fill(&mut buffer)?;
        let bytes = buffer.get(..count).unwrap_or(&buffer);
        let staged = self.stage(bytes);
        match bytes.get(staged..) {
            Some(rest) if !rest.is_empty() => match self.put(rest) {
                Err(_) if staged > 0 => Ok(staged),
                other => other.map(|count| staged + count),
            },
            _ => Ok(staged),
        }
    }
}

impl UserSink<'_> {
    /// Has bytes travel with the reply, all of them or none, but for places that are no guest's; how many.
    fn stage(&mut self, bytes: &[u8]) -> usize {
        if self.whole || bytes.len() > STAGED_BYTES || self.ranges.pieces(bytes.len()).count() > STAGED_PIECES {
            return 0;
        }
        let mut staged = 0;
        for (address, len) in self.ranges.pieces(bytes.len()) {
            let part = bytes.get(staged..staged + len).unwrap_or_default();
            if !self.thread.stage_out(address, part) {
                break;
            }
            staged += len;
        }
        self.whole = true;
        self.ranges.advance(staged);
        staged
    }
}

/// [`Source`] from guest memory.
pub struct UserSource<'a> {
    thread: &'a mut dyn Thread,
    space: &'a dyn Space,
    ranges: Cursor,
}

impl Source for UserSource<'_> {
    fn remaining(&self) -> usize {
        self.ranges.left
    }

    fn take(&mut self, into: &mut [u8]) -> Result<usize> {
        let want = into.len().min(self.ranges.left);
        let mut list = self.ranges.pieces(want);
        let Some((address, len)) = list.next() else { return Ok(0) };
        let (first, mut rest) = into.split_at_mut(len.min(want));
        let done = if len == want {
            if self.thread.staged(address, first) { len } else { self.space.read(address, first) }
        } else {
            // What was staged is in memory, too: one access for all.
            let mut pieces = vec![(address, first)];
            for (address, len) in list.by_ref() {
                let (part, more) = rest.split_at_mut(len.min(rest.len()));
                pieces.push((address, part));
                rest = more;
            }
            self.space.read_pieces(&mut pieces)
        };
        drop(list);
        self.ranges.advance(done);
        if done == 0 { Err(Errno::EFAULT) } else { Ok(done) }
    }
}

/// [`Sink`] into memory of the kernel.
pub struct VecSink {
    pub bytes: Vec<u8>,
    pub limit: usize,
}

impl Sink for VecSink {
    fn remaining(&self) -> usize {
        self.limit.saturating_sub(self.bytes.len())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<usize> {
        let count = bytes.len().min(self.remaining());
        self.bytes.extend_from_slice(bytes.get(..count).unwrap_or_default());
        Ok(count)
    }
}

/// [`Source`] from memory of the kernel.
pub struct SliceSource<'a>(pub &'a [u8]);

impl Source for SliceSource<'_> {
    fn remaining(&self) -> usize {
        self.0.len()
    }

    fn take(&mut self, into: &mut [u8]) -> Result<usize> {
        let count = self.0.len().min(into.len());
        let (head, tail) = self.0.split_at(count);
        if let Some(place) = into.get_mut(..count) {
            place.copy_from_slice(head);
        }
        self.0 = tail;
        Ok(count)
    }
}
