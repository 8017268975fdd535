//! Guest memory by address, through the host.

use std::io::{IoSlice, IoSliceMut};

/// Copies from another process; returns the bytes copied before the first bad page.
pub fn read(pid: i32, address: u64, into: &mut [u8]) -> usize {
    copy(pid, address, into.len(), |pid, remote| {
        let local = [IoSliceMut::new(into)];
        // SAFETY: `IoSliceMut` has the layout of `iovec`; the host checks the remote side.
        unsafe { libc::process_vm_readv(pid, local.as_ptr().cast(), 1, remote, 1, 0) }
    })
}

/// Copies into another process, obeying its protections.
pub fn write(pid: i32, address: u64, from: &[u8]) -> usize {
    copy(pid, address, from.len(), |pid, remote| {
        let local = [IoSlice::new(from)];
        // SAFETY: as above.
        unsafe { libc::process_vm_writev(pid, local.as_ptr().cast(), 1, remote, 1, 0) }
    })
}

/// Copies two pieces into another process at once; whether both went in whole.
pub fn write_both(pid: i32, pieces: [(u64, &[u8]); 2]) -> bool {
    let local = pieces.map(|(_, bytes)| IoSlice::new(bytes));
    let remote = pieces.map(|(address, bytes)| libc::iovec { iov_base: address as *mut _, iov_len: bytes.len() });
    // SAFETY: as above.
    let done = unsafe { libc::process_vm_writev(pid, local.as_ptr().cast(), 2, remote.as_ptr(), 2, 0) };
    usize::try_from(done) == Ok(pieces[0].1.len() + pieces[1].1.len())
}

fn copy(pid: i32, address: u64, len: usize, call: impl FnOnce(i32, *const libc::iovec) -> isize) -> usize {
    if len == 0 {
        return 0;
    }
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: len };
    // A partial copy ends at a page border with what could be copied; the host may also stop short without
    // reason only between ranges, and there is one range.
    usize::try_from(call(pid, &raw const remote)).unwrap_or(0)
}
