//! msgget(2), msgop(2), msgctl(2).

use super::{command, read_set, record, stat_object, two, write_words};
use crate::call::{Addr, Ctx};
use crate::ipc::sysv::msg::{Choice, MSGMAX, MSGMNB, Queue};
use crate::ipc::sysv::{IPC_INFO, IPC_NOWAIT, IPC_RMID, IPC_SET, IPC_STAT, Object, Wanted};
use crate::task::Caps;
use crate::{Errno, SysResult};

const MSG_NOERROR: u32 = 0o10000;
const MSG_EXCEPT: u32 = 0o20000;
const MSG_COPY: u32 = 0o40000;
const MSG_STAT: u32 = 11;
const MSG_INFO: u32 = 12;
const MSG_STAT_ANY: u32 = 13;
/// Where a message's text begins, behind its type.
const TEXT_AT: u64 = 8;

pub(super) fn msgget(cx: &mut Ctx<'_>, key: i32, flags: u32) -> SysResult {
    let registry = &cx.task.world.ipc.sysv.msg;
    let id = registry.get(&cx.task, &Wanted { key, flags }, |_| Ok(()), |perm| Ok(Queue::new(perm)))?;
    Ok(u64::from(id))
}

/// do_msgsnd().
pub(super) fn msgsnd(cx: &mut Ctx<'_>, id: i32, message: Addr, size: u64, flags: u32) -> SysResult {
    let kind: i64 = cx.mem().read(message.0)?;
    let size = usize::try_from(size).ok().filter(|size| *size <= MSGMAX).ok_or(Errno::EINVAL)?;
    if id < 0 || kind < 1 {
        return Err(Errno::EINVAL);
    }
    let mut text = vec![0; size];
    cx.mem().read_bytes(message.plus(TEXT_AT), &mut text)?;
    let queue = cx.task.world.ipc.sysv.msg.find(id)?;
    queue.perm().check(&cx.task, 0o222)?;
    let pid = cx.task.pid();
    let waited = cx.block(None, |table| {
        table.watch(&queue.queue);
        match queue.send(kind, &mut text, pid) {
            Err(Errno::EAGAIN) if flags & IPC_NOWAIT == 0 => None,
            other => Some(other),
        }
    });
    restart(waited).map(|()| 0)
}

/// do_msgrcv().
pub(super) fn msgrcv(cx: &mut Ctx<'_>, id: i32, message: Addr, size: u64, kind: i64, flags: u32) -> SysResult {
    if id < 0 || i64::try_from(size).is_err() {
        return Err(Errno::EINVAL);
    }
    if flags & MSG_COPY != 0 && (flags & MSG_EXCEPT != 0 || flags & IPC_NOWAIT == 0) {
        return Err(Errno::EINVAL);
    }
    let choice = match kind {
        _ if flags & MSG_COPY != 0 => Choice::At(kind),
        0 => Choice::First,
        i64::MIN => Choice::UpTo(i64::MAX),
        kind if kind < 0 => Choice::UpTo(-kind),
        kind if flags & MSG_EXCEPT != 0 => Choice::Except(kind),
        kind => Choice::Of(kind),
    };
    let queue = cx.task.world.ipc.sysv.msg.find(id)?;
    queue.perm().check(&cx.task, 0o444)?;
    let room = usize::try_from(size).unwrap_or(usize::MAX);
    let (pid, task) = (cx.task.pid(), cx.task.clone());
    let waited = task.block(None, |table| {
        table.watch(&queue.queue);
        let received = queue.receive(choice, room, flags & MSG_NOERROR != 0, pid, |kind, text| {
            // Text first: what cannot be stored is not consumed.
            if cx.mem().write_now(message.plus(TEXT_AT), text) < text.len() {
                return Err(Errno::EFAULT);
            }
            if cx.mem().write_now(message.0, &kind.to_ne_bytes()) < 8 { Err(Errno::EFAULT) } else { Ok(()) }
        });
        match received {
            Err(Errno::ENOMSG) if flags & IPC_NOWAIT == 0 => None,
            other => Some(other),
        }
    });
    restart(waited).map(|len| len as u64)
}

fn restart<T>(waited: crate::Result<crate::Result<T>>) -> crate::Result<T> {
    match waited {
        Ok(result) => result,
        Err(Errno::ERESTARTSYS) => Err(Errno::ERESTARTNOHAND),
        Err(error) => Err(error),
    }
}

pub(super) fn msgctl(cx: &mut Ctx<'_>, id: i32, cmd: u32, buffer: Addr) -> SysResult {
    let cmd = command(cmd);
    if id < 0 {
        return Err(Errno::EINVAL);
    }
    let world = cx.task.world.clone();
    let registry = &world.ipc.sysv.msg;
    match cmd {
        IPC_INFO | MSG_INFO => {
            let list = registry.list();
            let count: usize = list.iter().map(|(_, queue)| queue.look(|state| state.messages.len())).sum();
            let bytes: u64 = list.iter().map(|(_, queue)| queue.look(|state| state.bytes)).sum();
            let (pool, map, headers) = match cmd {
                MSG_INFO => (list.len() as u32, count as u32, bytes as u32),
                _ => (512_000, MSGMNB as u32, MSGMNB as u32),
            };
            // struct msginfo: msgpool, msgmap, msgmax, msgmnb, msgmni, msgssz, msgtql, msgseg.
            let words = [pool, map, MSGMAX as u32, MSGMNB as u32, 32000, 16, headers, 0xffff];
            write_words(cx, buffer.0, &words)?;
            Ok(registry.highest())
        }
        IPC_STAT | MSG_STAT | MSG_STAT_ANY => {
            let (result, queue) = stat_object(cx, registry, id, cmd, MSG_STAT_ANY)?;
            let bytes = queue.look(|state| {
                let times = [state.send_time, state.receive_time, state.change_time].map(|time| time as u64);
                let count = state.messages.len() as u64;
                let last = two(state.last_sender, state.last_receiver);
                let words = [times[0], times[1], times[2], state.bytes, count, state.limit, last, 0, 0];
                record(&state.perm, &words)
            });
            cx.mem().write_bytes(buffer.0, &bytes)?;
            Ok(result)
        }
        IPC_SET => {
            let (uid, gid, mode) = read_set(cx, buffer.0)?;
            let limit: u64 = cx.mem().read(buffer.plus(super::PERM_SIZE as u64 + 40))?;
            let queue = registry.find(id)?;
            queue.perm().check_owner(&cx.task)?;
            if limit > MSGMNB && !cx.task.cred().capable(Caps::SYS_RESOURCE) {
                return Err(Errno::EPERM);
            }
            queue.change(|state| {
                state.limit = limit;
                state.perm.update(uid, gid, mode)
            })?;
            Ok(0)
        }
        IPC_RMID => {
            let queue = registry.find(id)?;
            queue.perm().check_owner(&cx.task)?;
            registry.remove(&queue);
            queue.change(|state| {
                state.removed = true;
                state.messages.clear();
            });
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}
