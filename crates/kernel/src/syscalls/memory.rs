//! Memory calls that come to the kernel: those of files, and whatever the platform did not take itself.

use coracle_platform::{Mapping, MemoryCall};

use crate::abi::linux::{
    MAP_ANONYMOUS, MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_GROWSDOWN, MAP_HUGETLB, MAP_LOCKED, MAP_NORESERVE,
    MAP_PRIVATE, MAP_SHARED, MAP_SHARED_VALIDATE, MAP_STACK, MAP_SYNC, MAP_TYPE, MCL_CURRENT, MCL_FUTURE,
    MCL_ONFAULT, MLOCK_ONFAULT, MREMAP_DONTUNMAP, MREMAP_FIXED, MREMAP_MAYMOVE, MS_ASYNC, MS_INVALIDATE, MS_SYNC,
    PROT_EXEC, PROT_GROWSDOWN, PROT_GROWSUP, PROT_READ, PROT_WRITE, RLIMIT_AS,
};
use crate::abi::vvar::MAP_DROPPABLE;
use crate::abi::{PAGE_SIZE, page_ceil, page_floor};
use crate::call::{After, Ctx, Fd};
use crate::fd::Mapped;
use crate::fs::MountFlags;
use crate::mem::check_range;
use crate::task::Caps;
use crate::{Errno, Result, SysResult};

crate::calls! {
    9 mmap mmap, 6 Full;
    10 mprotect mprotect, 3 Full;
    11 munmap munmap, 2 Full;
    12 brk brk, 1 Full;
    25 mremap mremap, 5 Full;
    26 msync msync, 3 Full;
    27 mincore mincore, 3 Partial("by the thread itself (lane 2); where that is off, all mapped pages are resident");
    28 madvise madvise, 3 Full;
    149 mlock mlock, 2 Partial("checked, not locked: swap is the host's business");
    150 munlock munlock, 2 Partial("as mlock");
    151 mlockall mlockall, 1 Partial("as mlock");
    152 munlockall munlockall, 0 Partial("as mlock");
    216 remap_file_pages remap_file_pages, 5 Refused("deprecated");
    237 mbind mbind, 6 Partial("accepted, one node");
    238 set_mempolicy set_mempolicy, 3 Partial("accepted, one node");
    239 get_mempolicy get_mempolicy, 5 Partial("one node, default policy");
    325 mlock2 mlock2, 3 Partial("as mlock");
}

const LEGACY: u32 = MAP_SHARED
    | MAP_PRIVATE
    | MAP_FIXED
    | MAP_ANONYMOUS
    | MAP_GROWSDOWN
    | 0x0800
    | 0x1000
    | MAP_NORESERVE
    | 0x2000
    | 0x8000
    | 0x1_0000
    | MAP_STACK
    | MAP_HUGETLB
    | 0x40
    | 0xfc00_0000;

/// The host carries the call out; the result is its.
fn hand_over(cx: &mut Ctx<'_>, call: MemoryCall) -> SysResult {
    cx.after = After::Memory(call);
    Ok(0)
}

/// may_expand_vm(): `RLIMIT_AS` leaves room for `len` bytes more, at `address` in place of what is mapped there if that
/// is given. Threads that map at the same moment are not counted against each other: what two of them ask for can go
/// beyond the limit once.
pub(super) fn may_expand(cx: &Ctx<'_>, len: u64, replaced: Option<u64>) -> Result<()> {
    let limit = cx.task.rlimit(RLIMIT_AS);
    if limit == u64::MAX {
        return Ok(());
    }
    let mm = cx.task.mm();
    let now = mm.virtual_size(&mm.space.usage());
    let mut wanted = now.saturating_add(len);
    if let Some(start) = replaced.filter(|_| wanted > limit) {
        let end = start.saturating_add(len);
        let overlap = |mapping: Mapping| mapping.end.min(end).saturating_sub(mapping.start.max(start));
        wanted = wanted.saturating_sub(mm.space.mappings().into_iter().map(overlap).sum());
    }
    if wanted > limit { Err(Errno::ENOMEM) } else { Ok(()) }
}

/// Where a mapping of these flags replaces what is there.
fn replaced(address: u64, flags: u32) -> Option<u64> {
    (flags & MAP_FIXED != 0).then_some(address)
}

fn top(cx: &Ctx<'_>) -> u64 {
    cx.space.layout().top
}

/// `ksys_mmap_pgoff()` and `do_mmap()` in mm/mmap.c.
fn mmap(cx: &mut Ctx<'_>, address: u64, len: u64, prot: u32, flags: u32, fd: Fd, offset: u64) -> SysResult {
    if !offset.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    let file = if flags & MAP_ANONYMOUS == 0 { Some(cx.file(fd)?) } else { None };
    if file.as_ref().is_some_and(|file| file.flags() & crate::abi::linux::O_PATH != 0) {
        return Err(Errno::EBADF);
    }
    if flags & MAP_HUGETLB != 0 {
        // No huge pages are reserved here; a file would have to be one of hugetlbfs.
        return Err(if file.is_some() { Errno::EINVAL } else { Errno::ENOMEM });
    }
    if len == 0 {
        return Err(Errno::EINVAL);
    }
    let len = page_ceil(len).filter(|len| *len <= top(cx)).ok_or(Errno::ENOMEM)?;
    offset.checked_add(len).ok_or(Errno::EOVERFLOW)?;
    let fixed = flags & (MAP_FIXED | MAP_FIXED_NOREPLACE) != 0;
    let address = fix_address(cx, address, len, fixed)?;
    match file {
        None => map_anonymous(cx, address, len, prot, flags),
        Some(file) => map_file(cx, &file, address, len, prot, flags, offset),
    }
}

/// `get_unmapped_area()`: a fixed address must fit and be aligned; a hint that does not is no hint.
fn fix_address(cx: &Ctx<'_>, address: u64, len: u64, fixed: bool) -> Result<u64> {
    let layout = cx.space.layout();
    if !fixed {
        let hint = page_floor(address);
        let usable = hint >= layout.bottom && hint.checked_add(len).is_some_and(|end| end <= layout.top);
        return Ok(if usable { hint } else { 0 });
    }
    if address.checked_add(len).is_none_or(|end| end > layout.top) {
        return Err(Errno::ENOMEM);
    }
    if !address.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    if address < layout.bottom { Err(Errno::EPERM) } else { Ok(address) }
}

fn map_anonymous(cx: &mut Ctx<'_>, address: u64, len: u64, prot: u32, flags: u32) -> SysResult {
    let kind = flags & MAP_TYPE;
    match kind {
        MAP_PRIVATE => {}
        MAP_SHARED if flags & MAP_GROWSDOWN == 0 => {}
        // The host may not know it and say so (before Linux 6.11).
        MAP_DROPPABLE if flags & (MAP_GROWSDOWN | MAP_LOCKED) == 0 => {}
        _ => return Err(Errno::EINVAL),
    }
    may_expand(cx, len, replaced(address, flags))?;
    // A stack that grows by itself would grow past what was checked; its mapping is what was asked for.
    let flags = (flags & LEGACY & !(MAP_TYPE | MAP_GROWSDOWN)) | (flags & MAP_FIXED_NOREPLACE) | kind;
    hand_over(cx, MemoryCall::MapAnonymous { address, len, prot, flags })
}

fn map_file(
    cx: &mut Ctx<'_>,
    file: &std::sync::Arc<crate::fd::OpenFile>,
    address: u64,
    len: u64,
    prot: u32,
    flags: u32,
    offset: u64,
) -> SysResult {
    let shared = match flags & MAP_TYPE {
        MAP_SHARED => true,
        MAP_SHARED_VALIDATE if flags & MAP_SYNC != 0 => return Err(Errno::EOPNOTSUPP),
        MAP_SHARED_VALIDATE if flags & !(LEGACY | MAP_FIXED_NOREPLACE | MAP_TYPE) != 0 => {
            return Err(Errno::EOPNOTSUPP);
        }
        MAP_SHARED_VALIDATE => true,
        MAP_PRIVATE => false,
        _ => return Err(Errno::EINVAL),
    };
    if shared && prot & PROT_WRITE != 0 && !file.writable() {
        return Err(Errno::EACCES);
    }
    if !file.readable() {
        return Err(Errno::EACCES);
    }
    let no_exec = file.path.as_ref().is_some_and(|path| path.mount.flags().contains(MountFlags::NOEXEC));
    if no_exec && prot & PROT_EXEC != 0 {
        return Err(Errno::EPERM);
    }
    if flags & MAP_GROWSDOWN != 0 {
        return Err(Errno::EINVAL);
    }
    may_expand(cx, len, replaced(address, flags))?;
    // A shared mapping of a file open for writing can be made writable later (`VM_MAYWRITE`), unless it is sealed
    // (`memfd_check_seals_mmap()`).
    let may_write = shared && file.writable();
    let sealed = may_write && file.file.write_sealed();
    if sealed && prot & PROT_WRITE != 0 {
        return Err(Errno::EPERM);
    }
    let source = match file.file.map(file.key, may_write && !sealed)? {
        Mapped::Zero => {
            let keep = flags & (MAP_FIXED | MAP_FIXED_NOREPLACE | MAP_NORESERVE);
            let kind = if shared { MAP_SHARED } else { MAP_PRIVATE };
            let flags = keep | kind | MAP_ANONYMOUS;
            return hand_over(cx, MemoryCall::MapAnonymous { address, len, prot, flags });
        }
        Mapped::File(source) => source,
    };
    let mm = cx.task.mm();
    cx.noted = mm.note_file(&source, file);
    mm.watch_close(file);
    let kind = if shared { MAP_SHARED } else { MAP_PRIVATE };
    let flags = (flags & LEGACY & !MAP_TYPE) | (flags & MAP_FIXED_NOREPLACE) | kind;
    hand_over(cx, MemoryCall::MapFile { address, len, prot, flags, file: source, offset })
}

fn munmap(cx: &mut Ctx<'_>, address: u64, len: u64) -> SysResult {
    if !address.is_multiple_of(PAGE_SIZE) || len == 0 {
        return Err(Errno::EINVAL);
    }
    let len = page_ceil(len).ok_or(Errno::EINVAL)?;
    match address.checked_add(len) {
        Some(end) if end <= top(cx) => hand_over(cx, MemoryCall::Unmap { address, len }),
        _ => Err(Errno::EINVAL),
    }
}

/// `do_mprotect_pkey()`.
fn mprotect(cx: &mut Ctx<'_>, address: u64, len: u64, prot: u32) -> SysResult {
    if prot & (PROT_GROWSDOWN | PROT_GROWSUP) != 0 {
        // No mapping here grows by itself.
        return Err(Errno::EINVAL);
    }
    if !address.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    if len == 0 {
        return Ok(0);
    }
    let len = page_ceil(len).ok_or(Errno::ENOMEM)?;
    let end = address.checked_add(len).ok_or(Errno::ENOMEM)?;
    if prot & !(PROT_READ | PROT_WRITE | PROT_EXEC | 8) != 0 {
        return Err(Errno::EINVAL);
    }
    if end > top(cx) {
        return Err(Errno::ENOMEM);
    }
    hand_over(cx, MemoryCall::Protect { address, len, prot })
}

/// The answer is always where the heap ends now (`SYSCALL_DEFINE1(brk)`).
fn brk(cx: &mut Ctx<'_>, wanted: u64) -> SysResult {
    let mm = cx.task.mm();
    // Threads of the process take turns, the worker is asked outside the lock of `image`.
    let _turn = mm.brk_turn.lock();
    let (start, now) = {
        let image = mm.image.lock();
        (image.start_brk, image.brk)
    };
    let limit = cx.task.rlimit(crate::abi::linux::RLIMIT_DATA);
    if wanted < start || wanted > top(cx) || wanted - start > limit {
        return Ok(now);
    }
    let (Some(old_end), Some(new_end)) = (page_ceil(now), page_ceil(wanted)) else { return Ok(now) };
    if new_end > old_end && may_expand(cx, new_end - old_end, None).is_err() {
        return Ok(now);
    }
    let call = match new_end.cmp(&old_end) {
        std::cmp::Ordering::Equal => None,
        std::cmp::Ordering::Less => Some(MemoryCall::Unmap { address: new_end, len: old_end - new_end }),
        std::cmp::Ordering::Greater => Some(MemoryCall::MapAnonymous {
            address: old_end,
            len: new_end - old_end,
            prot: PROT_READ | PROT_WRITE,
            flags: MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE,
        }),
    };
    if let Some(call) = call {
        match cx.thread.memory(&call) {
            Ok(Ok(_)) => {}
            // Something is in the way, or there is no memory.
            _ => return Ok(now),
        }
    }
    mm.image.lock().brk = wanted;
    Ok(wanted)
}

fn mremap(cx: &mut Ctx<'_>, old: u64, old_len: u64, new_len: u64, flags: u32, new: u64) -> SysResult {
    if flags & !(MREMAP_FIXED | MREMAP_MAYMOVE | MREMAP_DONTUNMAP) != 0
        || (flags & MREMAP_FIXED != 0 && flags & MREMAP_MAYMOVE == 0)
        || (flags & MREMAP_DONTUNMAP != 0 && (flags & MREMAP_MAYMOVE == 0 || old_len != new_len))
        || !old.is_multiple_of(PAGE_SIZE)
    {
        return Err(Errno::EINVAL);
    }
    let old_len = page_ceil(old_len).ok_or(Errno::EINVAL)?;
    let new_len = page_ceil(new_len).filter(|len| *len != 0).ok_or(Errno::EINVAL)?;
    if old.checked_add(old_len).is_none_or(|end| end > top(cx)) {
        return Err(Errno::EFAULT);
    }
    if flags & (MREMAP_FIXED | MREMAP_DONTUNMAP) != 0
        && (!new.is_multiple_of(PAGE_SIZE) || new.checked_add(new_len).is_none_or(|end| end > top(cx)))
    {
        return Err(Errno::EINVAL);
    }
    if new_len > top(cx) {
        return Err(Errno::ENOMEM);
    }
    let more = if flags & MREMAP_DONTUNMAP != 0 { new_len } else { new_len.saturating_sub(old_len) };
    if more > 0 {
        may_expand(cx, more, None)?;
    }
    hand_over(cx, MemoryCall::Remap { old, old_len, new_len, flags, new })
}

fn msync(cx: &mut Ctx<'_>, address: u64, len: u64, flags: u32) -> SysResult {
    if flags & !(MS_ASYNC | MS_INVALIDATE | MS_SYNC) != 0
        || !address.is_multiple_of(PAGE_SIZE)
        || (flags & MS_ASYNC != 0 && flags & MS_SYNC != 0)
    {
        return Err(Errno::EINVAL);
    }
    let len = page_ceil(len).ok_or(Errno::ENOMEM)?;
    let end = address.checked_add(len).ok_or(Errno::ENOMEM)?;
    if len == 0 {
        return Ok(0);
    }
    if end > top(cx) {
        return Err(Errno::ENOMEM);
    }
    hand_over(cx, MemoryCall::Sync { address, len, flags })
}

fn madvise(cx: &mut Ctx<'_>, address: u64, len: u64, advice: u32) -> SysResult {
    // MADV_HWPOISON and MADV_SOFT_OFFLINE are for administrators of the host.
    if matches!(advice, 100 | 101) {
        return Err(Errno::EPERM);
    }
    if !matches!(advice, 0..=4 | 8..=25) || !address.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    let len = page_ceil(len).ok_or(Errno::EINVAL)?;
    let end = address.checked_add(len).ok_or(Errno::EINVAL)?;
    if len == 0 {
        return Ok(0);
    }
    if end > top(cx) {
        return Err(Errno::ENOMEM);
    }
    hand_over(cx, MemoryCall::Advise { address, len, advice })
}

/// Every page from `start` to `end` is mapped, or `ENOMEM`.
fn check_mapped(cx: &Ctx<'_>, start: u64, end: u64) -> Result<()> {
    let mut at = start;
    for mapping in cx.space.mappings() {
        if mapping.end <= at {
            continue;
        }
        if mapping.start > at || at >= end {
            break;
        }
        at = mapping.end;
    }
    if at >= end { Ok(()) } else { Err(Errno::ENOMEM) }
}

fn mincore(cx: &mut Ctx<'_>, address: u64, len: u64, vector: u64) -> SysResult {
    if !address.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    check_range(address, len).map_err(|_| Errno::ENOMEM)?;
    let len = page_ceil(len).ok_or(Errno::ENOMEM)?;
    let pages = usize::try_from(len / PAGE_SIZE).map_err(|_| Errno::ENOMEM)?;
    check_range(vector, pages as u64)?;
    check_mapped(cx, address, address.saturating_add(len))?;
    let ones = [1; 4096];
    let mut done = 0;
    while done < pages {
        let part = ones.get(..(pages - done).min(ones.len())).unwrap_or_default();
        if cx.mem().write_now(vector.wrapping_add(done as u64), part) != part.len() {
            return Err(Errno::EFAULT);
        }
        done += part.len();
    }
    Ok(0)
}

/// `do_mlock()`: the limit first, then the range.
fn lock_range(cx: &Ctx<'_>, address: u64, len: u64) -> Result<()> {
    let limit = cx.task.rlimit(crate::abi::linux::RLIMIT_MEMLOCK);
    let privileged = cx.task.cred().capable(Caps::IPC_LOCK);
    if limit == 0 && !privileged {
        return Err(Errno::EPERM);
    }
    let start = page_floor(address);
    let len = len.checked_add(address - start).and_then(page_ceil).ok_or(Errno::EINVAL)?;
    if len > limit && !privileged {
        return Err(Errno::ENOMEM);
    }
    let end = start.checked_add(len).ok_or(Errno::EINVAL)?;
    check_mapped(cx, start, end)
}

fn mlock(cx: &mut Ctx<'_>, address: u64, len: u64) -> SysResult {
    lock_range(cx, address, len).map(|()| 0)
}

fn mlock2(cx: &mut Ctx<'_>, address: u64, len: u64, flags: u32) -> SysResult {
    if flags & !MLOCK_ONFAULT != 0 {
        return Err(Errno::EINVAL);
    }
    lock_range(cx, address, len).map(|()| 0)
}

fn munlock(cx: &mut Ctx<'_>, address: u64, len: u64) -> SysResult {
    let start = page_floor(address);
    let len = len.checked_add(address - start).and_then(page_ceil).ok_or(Errno::EINVAL)?;
    let end = start.checked_add(len).ok_or(Errno::EINVAL)?;
    check_mapped(cx, start, end).map(|()| 0)
}

fn mlockall(cx: &mut Ctx<'_>, flags: u32) -> SysResult {
    if flags == 0 || flags & !(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) != 0 || flags == MCL_ONFAULT {
        return Err(Errno::EINVAL);
    }
    let limit = cx.task.rlimit(crate::abi::linux::RLIMIT_MEMLOCK);
    let privileged = cx.task.cred().capable(Caps::IPC_LOCK);
    if limit == 0 && !privileged {
        return Err(Errno::EPERM);
    }
    let size = cx.space.usage().virtual_size;
    if flags & MCL_CURRENT != 0 && size > limit && !privileged { Err(Errno::ENOMEM) } else { Ok(0) }
}

fn munlockall(_cx: &mut Ctx<'_>) -> SysResult {
    Ok(0)
}

fn remap_file_pages(_cx: &mut Ctx<'_>, _a: u64, _b: u64, _c: u64, _d: u64, _e: u64) -> SysResult {
    Err(Errno::EINVAL)
}

/// Modes of set_mempolicy(2) without their flags.
fn policy_mode(mode: u32) -> Result<()> {
    if mode & !0xe000 <= 6 { Ok(()) } else { Err(Errno::EINVAL) }
}

fn mbind(_cx: &mut Ctx<'_>, start: u64, _len: u64, mode: u32, _nodes: u64, _max: u64, _flags: u32) -> SysResult {
    if !start.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    policy_mode(mode).map(|()| 0)
}

fn set_mempolicy(_cx: &mut Ctx<'_>, mode: u32, _nodes: u64, _max: u64) -> SysResult {
    policy_mode(mode).map(|()| 0)
}

/// One node, number 0, and the default policy.
fn get_mempolicy(cx: &mut Ctx<'_>, mode: u64, nodes: u64, max: u64, _address: u64, flags: u32) -> SysResult {
    const MPOL_F_MEMS_ALLOWED: u32 = 4;
    if flags & !7 != 0 || (nodes != 0 && max < 1) {
        return Err(Errno::EINVAL);
    }
    if mode != 0 {
        cx.mem().write(mode, &0i32)?;
    }
    if nodes != 0 {
        let bytes = usize::try_from(max.div_ceil(64).min(512)).unwrap_or(0) * 8;
        let mut mask = vec![0; bytes];
        if flags & MPOL_F_MEMS_ALLOWED != 0
            && let Some(first) = mask.first_mut()
        {
            *first = 1;
        }
        cx.mem().write_bytes(nodes, &mask)?;
    }
    Ok(0)
}
