//! shmget(2), shmop(2), shmctl(2).

use coracle_platform::MemoryCall;

use super::{command, read_set, record, stat_object, two};
use crate::abi::PAGE_SIZE;
use crate::abi::linux::{MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_SHARED, PROT_EXEC, PROT_READ, PROT_WRITE};
use crate::call::{Addr, Ctx};
use crate::ipc::sysv::shm::{self, Attachment, SHM_LOCKED, SHMMAX, Segment};
use crate::ipc::sysv::{IPC_INFO, IPC_RMID, IPC_SET, IPC_STAT, Object, Wanted};
use crate::{Errno, SysResult};

const SHM_HUGETLB: u32 = 0o4000;
const SHM_RDONLY: u32 = 0o10000;
const SHM_RND: u32 = 0o20000;
const SHM_REMAP: u32 = 0o40000;
const SHM_EXEC: u32 = 0o100000;
const SHM_LOCK: u32 = 11;
const SHM_UNLOCK: u32 = 12;
const SHM_STAT: u32 = 13;
const SHM_INFO: u32 = 14;
const SHM_STAT_ANY: u32 = 15;

pub(super) fn shmget(cx: &mut Ctx<'_>, key: i32, size: u64, flags: u32) -> SysResult {
    if flags & SHM_HUGETLB != 0 {
        // No huge pages are reserved.
        return Err(Errno::ENOMEM);
    }
    let pid = cx.task.pid();
    let fits = |segment: &Segment| if segment.size < size { Err(Errno::EINVAL) } else { Ok(()) };
    let wanted = Wanted { key, flags };
    let id = cx
        .task
        .world
        .ipc
        .sysv
        .shm
        .get(&cx.task, &wanted, fits, |perm| Segment::new(perm, size, pid, &cx.task.world.vfs.budget))?;
    Ok(u64::from(id))
}

/// do_shmat().
pub(super) fn shmat(cx: &mut Ctx<'_>, id: i32, address: u64, flags: u32) -> SysResult {
    let mut address = address;
    if address != 0 {
        if !address.is_multiple_of(PAGE_SIZE) {
            if flags & SHM_RND == 0 {
                return Err(Errno::EINVAL);
            }
            address -= address % PAGE_SIZE;
            if address == 0 && flags & SHM_REMAP != 0 {
                return Err(Errno::EINVAL);
            }
        }
    } else if flags & SHM_REMAP != 0 {
        return Err(Errno::EINVAL);
    }
    let (mut prot, mut access) = match flags & SHM_RDONLY {
        0 => (PROT_READ | PROT_WRITE, 0o666),
        _ => (PROT_READ, 0o444),
    };
    if flags & SHM_EXEC != 0 {
        prot |= PROT_EXEC;
        access |= 0o111;
    }
    let segment = cx.task.world.ipc.sysv.shm.find(id)?;
    segment.perm().check(&cx.task, access)?;
    // Counted before it is mapped, so that nobody destroys it meanwhile.
    let mut attachment = Attachment::new(&cx.task.world, segment.clone(), address, cx.task.pid());
    let layout = cx.space.layout();
    if address != 0 && (address < layout.bottom || address.checked_add(attachment.len()) > Some(layout.top)) {
        return Err(Errno::EINVAL);
    }
    let fixed = match (address, flags & SHM_REMAP) {
        (0, _) => 0,
        (_, 0) => MAP_FIXED_NOREPLACE,
        _ => MAP_FIXED,
    };
    let (source, file) = segment.source(prot & PROT_WRITE != 0)?;
    let mm = cx.task.mm();
    let _noted = mm.note_file(&source, file);
    mm.watch_close(file);
    let len = attachment.len();
    let call = MemoryCall::MapFile { address, len, prot, flags: MAP_SHARED | fixed, file: source, offset: 0 };
    let place = match cx.thread.memory(&call) {
        Ok(Ok(place)) => place,
        Ok(Err(Errno::EEXIST)) => return Err(Errno::EINVAL),
        Ok(Err(error)) => return Err(error),
        Err(_) => return Err(Errno::ENOMEM),
    };
    attachment.place(place);
    let mut list = mm.shm.lock();
    // What was mapped there before is not attached any longer.
    let before = list.range(..place).next_back().filter(|(at, old)| **at + old.len() > place);
    let over: Vec<u64> = before.into_iter().chain(list.range(place..place + len)).map(|(at, _)| *at).collect();
    let replaced: Vec<_> = over.iter().filter_map(|at| list.remove(at)).collect();
    list.insert(place, attachment);
    drop(list);
    drop(replaced);
    Ok(place)
}

pub(super) fn shmdt(cx: &mut Ctx<'_>, address: u64) -> SysResult {
    if !address.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    let mm = cx.task.mm();
    let attachment = mm.shm.lock().remove(&address).ok_or(Errno::EINVAL)?;
    let _ = cx.thread.memory(&MemoryCall::Unmap { address, len: attachment.len() });
    Ok(0)
}

pub(super) fn shmctl(cx: &mut Ctx<'_>, id: i32, cmd: u32, buffer: Addr) -> SysResult {
    let cmd = command(cmd);
    if id < 0 {
        return Err(Errno::EINVAL);
    }
    let world = cx.task.world.clone();
    let registry = &world.ipc.sysv.shm;
    match cmd {
        IPC_INFO => {
            // struct shminfo64: shmmax, shmmin, shmmni, shmseg, shmall.
            let all = (u64::MAX - (1 << 24)) >> 12;
            let words = [SHMMAX, 1, 4096, 4096, all, 0, 0, 0, 0];
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
            cx.mem().write_bytes(buffer.0, &bytes)?;
            Ok(registry.highest())
        }
        SHM_INFO => {
            let list = registry.list();
            let pages: u64 = list.iter().map(|(_, segment)| segment.size.div_ceil(PAGE_SIZE)).sum();
            // struct shm_info: used_ids, then shm_tot, shm_rss, shm_swp, two counters.
            let resident: u64 = list.iter().map(|(_, segment)| segment.resident() / PAGE_SIZE).sum();
            let words = [two(list.len() as u32, 0), pages, resident, 0, 0, 0];
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
            cx.mem().write_bytes(buffer.0, &bytes)?;
            Ok(registry.highest())
        }
        IPC_STAT | SHM_STAT | SHM_STAT_ANY => {
            let (result, segment) = stat_object(cx, registry, id, cmd, SHM_STAT_ANY)?;
            let state = segment.state();
            let words = [
                segment.size,
                state.attach_time as u64,
                state.detach_time as u64,
                state.change_time as u64,
                two(state.creator, state.last),
                state.attached,
                0,
                0,
            ];
            cx.mem().write_bytes(buffer.0, &record(&state.perm, &words))?;
            Ok(result)
        }
        IPC_SET => {
            let (uid, gid, mode) = read_set(cx, buffer.0)?;
            let segment = registry.find(id)?;
            segment.perm().check_owner(&cx.task)?;
            segment.change(|state| state.perm.update(uid, gid, mode)).map(|()| 0)
        }
        IPC_RMID => {
            let segment = registry.find(id)?;
            segment.perm().check_owner(&cx.task)?;
            shm::remove(registry, &segment);
            Ok(0)
        }
        SHM_LOCK | SHM_UNLOCK => {
            let segment = registry.find(id)?;
            segment.perm().check_owner(&cx.task)?;
            segment.change(|state| match cmd {
                SHM_LOCK => state.perm.mode |= SHM_LOCKED,
                _ => state.perm.mode &= !SHM_LOCKED,
            });
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}
