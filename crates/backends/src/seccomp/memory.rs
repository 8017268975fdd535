//! Guest memory by address, through the host.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use coracle_platform::{Backing, MapMemory, Mapping};

/// `struct procmap_query` (include/uapi/linux/fs.h, Linux 6.11).
#[repr(C)]
#[derive(Default)]
struct Query {
    size: u64,
    flags: u64,
    address: u64,
    start: u64,
    end: u64,
    mapping_flags: u64,
    page_size: u64,
    offset: u64,
    inode: u64,
    major: u32,
    minor: u32,
    name_size: u32,
    build_id_size: u32,
    name: u64,
    build_id: u64,
}

/// `PROCMAP_QUERY`, an `ioctl` of `/proc/PID/maps`.
pub const PROCMAP_QUERY: u32 = 0xc068_6611;

/// The mapping that holds `address`, by a `/proc/PID/maps`; the outer `None` if the host cannot say.
#[allow(clippy::option_option, reason = "whether the host knows, and what it knows")]
pub fn query(maps: &File, address: u64) -> Option<Option<Mapping>> {
    const SHARED: u64 = 8;
    let mut query = Query { size: size_of::<Query>() as u64, address, ..Query::default() };
    // SAFETY: the host fills in the structure, whose size it is told.
    let result = unsafe { libc::ioctl(maps.as_raw_fd(), PROCMAP_QUERY.into(), &raw mut query) };
    if result != 0 {
        let error = std::io::Error::last_os_error().raw_os_error();
        return (error == Some(libc::ENOENT)).then_some(None);
    }
    Some(Some(Mapping {
        start: query.start,
        end: query.end,
        prot: query.mapping_flags as u32 & 7,
        shared: query.mapping_flags & SHARED != 0,
        offset: query.offset,
        dev: libc::makedev(query.major, query.minor),
        ino: query.inode,
        memory: MapMemory::default(),
        special: None,
    }))
}

/// What is behind the pages from `start` on, by a `/proc/PID/pagemap` (Documentation/admin-guide/mm/pagemap.rst).
pub fn pages(pagemap: &File, start: u64, into: &mut [Backing]) -> Option<usize> {
    const ENTRY: usize = 8;
    const PRESENT: u64 = 1 << 63;
    const SWAPPED: u64 = 1 << 62;
    const OF_A_FILE: u64 = 1 << 61;
    let mut bytes = vec![0; into.len() * ENTRY];
    let count = pagemap.read_at(&mut bytes, start / coracle_abi::PAGE_SIZE * ENTRY as u64).ok()? / ENTRY;
    for (page, entry) in into.iter_mut().zip(bytes.as_chunks::<ENTRY>().0.iter().take(count)) {
        let entry = u64::from_ne_bytes(*entry);
        *page = match (entry & (PRESENT | SWAPPED) != 0, entry & OF_A_FILE != 0) {
            (false, _) => Backing::Nothing,
            (true, true) => Backing::Shared,
            (true, false) => Backing::Own,
        };
    }
    Some(count)
}

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
