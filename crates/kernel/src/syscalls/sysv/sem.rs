//! semget(2), semop(2), semctl(2).

use super::{command, interrupted, read_set, record, stat_object, write_words};
use crate::abi::types::Timespec;
use crate::call::{Addr, Ctx};
use crate::ipc::glue;
use crate::ipc::sysv::sem::{Operation, SEMMSL, SEMOPM, SEMVMX, Set};
use crate::ipc::sysv::{IPC_INFO, IPC_NOWAIT, IPC_RMID, IPC_SET, IPC_STAT, Object, Wanted};
use crate::wait::{Deadline, deadline_after};
use crate::{Errno, Result, SysResult};

const SEM_UNDO: u16 = 0x1000;
const GETPID: u32 = 11;
const GETVAL: u32 = 12;
const GETALL: u32 = 13;
const GETNCNT: u32 = 14;
const GETZCNT: u32 = 15;
const SETVAL: u32 = 16;
const SETALL: u32 = 17;
const SEM_STAT: u32 = 18;
const SEM_INFO: u32 = 19;
const SEM_STAT_ANY: u32 = 20;

pub(super) fn semget(cx: &mut Ctx<'_>, key: i32, count: i32, flags: u32) -> SysResult {
    if !(0..=SEMMSL).contains(&count) {
        return Err(Errno::EINVAL);
    }
    let count = count as usize;
    let fits = |set: &Set| {
        let have = set.look(|state| state.semaphores.len());
        if count > have { Err(Errno::EINVAL) } else { Ok(()) }
    };
    let budget = &cx.task.world.vfs.budget;
    let make = |perm| if count == 0 { Err(Errno::EINVAL) } else { Set::new(perm, count, budget) };
    let id = cx.task.world.ipc.sysv.sem.get(&cx.task, &Wanted { key, flags }, fits, make)?;
    Ok(u64::from(id))
}

pub(super) fn semop(cx: &mut Ctx<'_>, id: i32, operations: Addr, count: u32) -> SysResult {
    operate(cx, id, operations, count as usize, None)
}

pub(super) fn semtimedop(cx: &mut Ctx<'_>, id: i32, operations: Addr, count: u32, timeout: Addr) -> SysResult {
    let deadline = match timeout.non_null() {
        Some(at) => {
            let time: Timespec = cx.mem().read(at)?;
            Some(glue::timespec(time)?)
        }
        None => None,
    };
    operate(cx, id, operations, count as usize, deadline.and_then(deadline_after))
}

fn read_operations(cx: &mut Ctx<'_>, at: Addr, count: usize) -> Result<Vec<Operation>> {
    let raw: Vec<[u16; 3]> = cx.mem().read_array(at.0, count)?;
    Ok(raw
        .into_iter()
        .map(|[number, change, flags]| Operation {
            number: usize::from(number),
            change: i32::from(change as i16),
            no_wait: u32::from(flags) & IPC_NOWAIT != 0,
            undo: flags & SEM_UNDO != 0,
        })
        .collect())
}

/// do_semtimedop().
fn operate(cx: &mut Ctx<'_>, id: i32, at: Addr, count: usize, deadline: Deadline) -> SysResult {
    if count < 1 || id < 0 {
        return Err(Errno::EINVAL);
    }
    if count > SEMOPM {
        return Err(Errno::E2BIG);
    }
    let operations = read_operations(cx, at, count)?;
    let set = cx.task.world.ipc.sysv.sem.find(id)?;
    let size = set.look(|state| state.semaphores.len());
    if operations.iter().any(|operation| operation.number >= size) {
        return Err(Errno::EFBIG);
    }
    let alters = operations.iter().any(|operation| operation.change != 0);
    set.perm().check(&cx.task, if alters { 0o222 } else { 0o444 })?;
    let pid = cx.task.pid();
    let world = cx.task.world.clone();
    let blocked = match world.ipc.sysv.operate(&set, &operations, pid)? {
        Ok(()) => return Ok(0),
        Err(blocked) => blocked,
    };
    set.count_waiter(blocked, true);
    let result = cx.block(deadline, |table| {
        table.watch(&set.queue);
        match world.ipc.sysv.operate(&set, &operations, pid) {
            Ok(Ok(())) => Some(Ok(0)),
            Ok(Err(_)) => None,
            Err(error) => Some(Err(error)),
        }
    });
    set.count_waiter(blocked, false);
    match result {
        Ok(result) => result,
        Err(Errno::ETIMEDOUT) => Err(Errno::EAGAIN),
        Err(error) => Err(interrupted(error)),
    }
}

pub(super) fn semctl(cx: &mut Ctx<'_>, id: i32, number: i32, cmd: u32, argument: u64) -> SysResult {
    let cmd = command(cmd);
    if id < 0 {
        return Err(Errno::EINVAL);
    }
    let world = cx.task.world.clone();
    let registry = &world.ipc.sysv.sem;
    match cmd {
        IPC_INFO | SEM_INFO => {
            let list = registry.list();
            let sets = list.len() as u32;
            let total: usize = list.iter().map(|(_, set)| set.look(|state| state.semaphores.len())).sum();
            let (used, all) = if cmd == SEM_INFO { (sets, total as u32) } else { (20, 32767) };
            let limit = 32000 * 32000;
            // struct seminfo: semmap, semmni, semmns, semmnu, semmsl, semopm, semume, semusz, semvmx, semaem.
            let words = [limit, 32000, limit, limit, 32000, SEMOPM as u32, 500, used, SEMVMX as u32, all];
            write_words(cx, argument, &words)?;
            Ok(registry.highest())
        }
        IPC_STAT | SEM_STAT | SEM_STAT_ANY => {
            let (result, set) = stat_object(cx, registry, id, cmd, SEM_STAT_ANY)?;
            let bytes = set.look(|state| {
                let count = state.semaphores.len() as u64;
                let times = (state.operation_time as u64, state.change_time as u64);
                record(&state.perm, &[times.0, 0, times.1, 0, count, 0, 0])
            });
            cx.mem().write_bytes(argument, &bytes)?;
            Ok(result)
        }
        IPC_SET => {
            let (uid, gid, mode) = read_set(cx, argument)?;
            let set = registry.find(id)?;
            set.perm().check_owner(&cx.task)?;
            set.change(|state| state.perm.update(uid, gid, mode)).map(|()| 0)
        }
        IPC_RMID => {
            let set = registry.find(id)?;
            set.perm().check_owner(&cx.task)?;
            world.ipc.sysv.remove_set(&set);
            Ok(0)
        }
        GETALL => {
            let set = registry.find(id)?;
            set.perm().check(&cx.task, 0o444)?;
            let value = |semaphore: &crate::ipc::sysv::sem::Semaphore| (semaphore.value as u16).to_ne_bytes();
            let bytes: Vec<u8> = set.look(|state| state.semaphores.iter().flat_map(value).collect());
            cx.mem().write_bytes(argument, &bytes).map(|()| 0)
        }
        SETALL => set_all(cx, id, argument),
        SETVAL => set_value(cx, id, number, argument as i32),
        GETVAL | GETPID | GETNCNT | GETZCNT => {
            let set = registry.find(id)?;
            set.perm().check(&cx.task, 0o444)?;
            let index = usize::try_from(number).map_err(|_| Errno::EINVAL)?;
            let semaphore = set.look(|state| state.semaphores.get(index).copied()).ok_or(Errno::EINVAL)?;
            Ok(match cmd {
                GETVAL => semaphore.value as u64,
                GETPID => u64::from(semaphore.pid),
                GETNCNT => u64::from(semaphore.waiting),
                _ => u64::from(semaphore.waiting_zero),
            })
        }
        _ => Err(Errno::EINVAL),
    }
}

fn set_value(cx: &mut Ctx<'_>, id: i32, number: i32, value: i32) -> SysResult {
    if !(0..=SEMVMX).contains(&value) {
        return Err(Errno::ERANGE);
    }
    let set = cx.task.world.ipc.sysv.sem.find(id)?;
    let index = usize::try_from(number).map_err(|_| Errno::EINVAL)?;
    if index >= set.look(|state| state.semaphores.len()) {
        return Err(Errno::EINVAL);
    }
    set.perm().check(&cx.task, 0o222)?;
    let pid = cx.task.pid();
    set.change(|state| {
        state.forget_undo(Some(index));
        if let Some(semaphore) = state.semaphores.get_mut(index) {
            semaphore.value = value;
            semaphore.pid = pid;
        }
    });
    Ok(0)
}

fn set_all(cx: &mut Ctx<'_>, id: i32, at: u64) -> SysResult {
    let set = cx.task.world.ipc.sysv.sem.find(id)?;
    set.perm().check(&cx.task, 0o222)?;
    let count = set.look(|state| state.semaphores.len());
    let mut bytes = vec![0; count * 2];
    cx.mem().read_bytes(at, &mut bytes)?;
    let values: Vec<i32> = bytes
        .chunks_exact(2)
        .map(|pair| i32::from(u16::from_ne_bytes(pair.try_into().unwrap_or_default())))
        .collect();
    if values.iter().any(|value| *value > SEMVMX) {
        return Err(Errno::ERANGE);
    }
    let pid = cx.task.pid();
    set.change(|state| {
        state.forget_undo(None);
        for (semaphore, value) in state.semaphores.iter_mut().zip(values) {
            semaphore.value = value;
            semaphore.pid = pid;
        }
    });
    Ok(0)
}
