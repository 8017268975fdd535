//! Guest memory by address, through the host.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use coracle_abi::PAGE_SIZE;
use coracle_platform::{MapMemory, Mapping, Touched};

use super::child::Held;

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

/// `struct page_region` and `struct pm_scan_arg` (include/uapi/linux/fs.h, Linux 6.7).
#[repr(C)]
#[derive(Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

#[repr(C)]
#[derive(Default)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    regions: u64,
    count: u64,
    max_pages: u64,
    inverted: u64,
    all_of: u64,
    any_of: u64,
    returned: u64,
}

/// An `ioctl` of `/proc/PID/pagemap`.
pub const PAGEMAP_SCAN: u32 = 0xc060_6610;

/// Where memory was touched between these addresses, by a `/proc/PID/pagemap`.
pub fn touched(pagemap: &File, start: u64, end: u64) -> Touched {
    const PRESENT: u64 = 1 << 3;
    const SWAPPED: u64 = 1 << 4;
    let mut region = Region::default();
    let mut scan = Scan {
        size: size_of::<Scan>() as u64,
        start,
        end,
        regions: &raw mut region as u64,
        count: 1,
        any_of: PRESENT | SWAPPED,
        ..Scan::default()
    };
    // SAFETY: the host reads one structure, whose size it is told, and fills in at most one region.
    match unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN.into(), &raw mut scan) } {
        1 => Touched::Run(region.start.max(start), region.end.min(end)),
        0 => Touched::NotBefore(scan.walk_end.clamp(start, end)),
        _ if std::io::Error::last_os_error().raw_os_error() == Some(libc::ESRCH) => Touched::Gone,
        _ => touched_by_page(pagemap, start, end),
    }
}

/// Likewise for older hosts, a few thousand pages at a time (Documentation/admin-guide/mm/pagemap.rst).
fn touched_by_page(pagemap: &File, start: u64, end: u64) -> Touched {
    const ENTRY: usize = 8;
    const PRESENT_OR_SWAPPED: u64 = 3 << 62;
    let most = usize::try_from((end - start) / PAGE_SIZE).unwrap_or(usize::MAX).min(8192);
    let mut bytes = vec![0; most * ENTRY];
    let Ok(count) = pagemap.read_at(&mut bytes, start / PAGE_SIZE * ENTRY as u64) else {
        return Touched::Unknown;
    };
    if count == 0 {
        return Touched::Gone;
    }
    let known = bytes.get(..count).unwrap_or_default().as_chunks::<ENTRY>().0;
    let holds = |entry: &[u8; ENTRY]| u64::from_ne_bytes(*entry) & PRESENT_OR_SWAPPED != 0;
    let first = known.iter().position(holds).unwrap_or(known.len());
    let run = known.iter().skip(first).take_while(|entry| holds(entry)).count();
    let from = start + first as u64 * PAGE_SIZE;
    if run == 0 { Touched::NotBefore(from) } else { Touched::Run(from, from + run as u64 * PAGE_SIZE) }
}

/// Entries of a `/proc/PID/pagemap` from this page on. Frame numbers are the host's, and so is whether somebody else has
/// mapped a page of a file.
pub fn page_map(pagemap: &File, page: u64, into: &mut [u64]) {
    const KNOWN: u64 = !0 << 55;
    const EXCLUSIVE: u64 = 1 << 56;
    const FILE: u64 = 1 << 61;
    let mut bytes = vec![0; size_of_val(into)];
    let count = pagemap.read_at(&mut bytes, page.saturating_mul(8)).unwrap_or(0);
    let entries = bytes.get(..count).unwrap_or_default().as_chunks::<8>().0;
    for (to, from) in into.iter_mut().zip(entries) {
        let entry = u64::from_ne_bytes(*from) & KNOWN;
        *to = if entry & FILE != 0 { entry & !EXCLUSIVE } else { entry };
    }
}

/// Copies from another process; returns the bytes copied before the first bad page.
pub fn read(process: &Held<'_>, address: u64, into: &mut [u8]) -> usize {
    copy(process.number(), address, into.len(), |pid, remote| {
        let local = [IoSliceMut::new(into)];
        // SAFETY: `IoSliceMut` has the layout of `iovec`; the host checks the remote side.
        unsafe { libc::process_vm_readv(pid, local.as_ptr().cast(), 1, remote, 1, 0) }
    })
}

/// Copies into another process, obeying its protections.
pub fn write(process: &Held<'_>, address: u64, from: &[u8]) -> usize {
    copy(process.number(), address, from.len(), |pid, remote| {
        let local = [IoSlice::new(from)];
        // SAFETY: as above.
        unsafe { libc::process_vm_writev(pid, local.as_ptr().cast(), 1, remote, 1, 0) }
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Both ways agree about this process: a page in the middle of a reservation.
    #[test]
    fn touched_memory_is_found() {
        let pagemap = File::open("/proc/self/pagemap").unwrap();
        let len = 64 << 20;
        // SAFETY: fresh memory of our own, of which one byte is written.
        let start = unsafe {
            let at = libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            );
            libc::madvise(at, len, libc::MADV_NOHUGEPAGE);
            at.cast::<u8>().add(5 * 4096).write(1);
            at as u64
        };
        let (end, page) = (start + len as u64, start + 5 * 4096);
        for find in [touched, touched_by_page] {
            assert_eq!(find(&pagemap, start, end), Touched::Run(page, page + 4096));
            assert_eq!(find(&pagemap, start, page), Touched::NotBefore(page));
            match find(&pagemap, page + 4096, end) {
                Touched::NotBefore(until) => assert!(until > page + 4096 && until <= end),
                other => panic!("{other:?}"),
            }
        }
    }
}
