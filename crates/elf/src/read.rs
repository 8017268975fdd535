//! How this crate asks for parts of a file.

/// A file that can be read at an offset.
pub trait ReadAt {
    /// Reads into `buf` from `offset` on; 0 means the end of the file. The error is an errno.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, i32>;
}

impl ReadAt for [u8] {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, i32> {
        let rest = usize::try_from(offset).ok().and_then(|start| self.get(start..)).unwrap_or(&[]);
        let len = rest.len().min(buf.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..len), rest.get(..len)) {
            to.copy_from_slice(from);
        }
        Ok(len)
    }
}

impl<T: ReadAt + ?Sized> ReadAt for &T {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, i32> {
        (**self).read_at(buf, offset)
    }
}

/// Why an exact read failed.
pub(crate) enum ReadFailure {
    /// The file ends before the range does.
    Short,
    /// The range does not fit into a file offset (`rw_verify_area` says EINVAL).
    Offset,
    /// The file's own error.
    Errno(i32),
}

/// Reads exactly `len` bytes at `offset`, from `head` (the first bytes of the file) where it reaches that far.
pub(crate) fn read_exact(
    head: &[u8],
    file: &(impl ReadAt + ?Sized),
    offset: u64,
    len: usize,
) -> Result<Vec<u8>, ReadFailure> {
    let end = offset.checked_add(len as u64).filter(|end| i64::try_from(*end).is_ok());
    let end = end.ok_or(ReadFailure::Offset)?;
    if let (Ok(start), Ok(end)) = (usize::try_from(offset), usize::try_from(end))
        && let Some(bytes) = head.get(start..end)
    {
        return Ok(bytes.to_vec());
    }
    let mut bytes = vec![0; len];
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset.saturating_add(done as u64)) {
            Ok(0) => return Err(ReadFailure::Short),
            Ok(count) => done = done.saturating_add(count),
            Err(errno) => return Err(ReadFailure::Errno(errno)),
        }
    }
    Ok(bytes)
}
