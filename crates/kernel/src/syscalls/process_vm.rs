//! process_vm_readv(2) and process_vm_writev(2), mm/process_vm_access.c.

use coracle_platform::Space;

use crate::abi::types::Iovec;
use crate::call::Ctx;
use crate::mem::IOV_MAX;
use crate::task::{Caps, Task};
use crate::{Errno, Result, SysResult};

crate::calls! {
    310 process_vm_readv process_vm_readv, 6 Full;
    311 process_vm_writev process_vm_writev, 6 Full;
}

fn process_vm_readv(
    cx: &mut Ctx<'_>,
    pid: i32,
    local: u64,
    local_count: u64,
    remote: u64,
    remote_count: u64,
    flags: u64,
) -> SysResult {
    process_vm(cx, pid, (local, local_count), (remote, remote_count), flags, false)
}

fn process_vm_writev(
    cx: &mut Ctx<'_>,
    pid: i32,
    local: u64,
    local_count: u64,
    remote: u64,
    remote_count: u64,
    flags: u64,
) -> SysResult {
    process_vm(cx, pid, (local, local_count), (remote, remote_count), flags, true)
}

/// `process_vm_rw()` in mm/process_vm_access.c: local list, remote list, then the process.
fn process_vm(
    cx: &mut Ctx<'_>,
    pid: i32,
    local: (u64, u64),
    remote: (u64, u64),
    flags: u64,
    write: bool,
) -> SysResult {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let count = |count: u64| usize::try_from(count).map_err(|_| Errno::EINVAL);
    let local = cx.mem().read_iovec(local.0, count(local.1)?)?;
    if local.iter().all(|range| range.len == 0) {
        return Ok(0);
    }
    let remote_count = count(remote.1)?;
    if remote_count > IOV_MAX {
        return Err(Errno::EINVAL);
    }
    let remote: Vec<Iovec> = cx.mem().read_array(remote.0, remote_count)?;
    if remote.iter().any(|range| i64::try_from(range.len).is_err()) {
        return Err(Errno::EINVAL);
    }
    let pid = u32::try_from(pid).map_err(|_| Errno::ESRCH)?;
    let task = cx.task.world.task(pid).ok_or(Errno::ESRCH)?;
    may_attach(&cx.task, &task)?;
    let (mine, theirs) = (cx.space.clone(), task.space());
    let (from, to, from_space, to_space) =
        if write { (local, remote, mine, theirs) } else { (remote, local, theirs, mine) };
    copy(&from, &to, &*from_space, &*to_space)
}

/// `PTRACE_MODE_ATTACH_REALCREDS`.
fn may_attach(mine: &Task, target: &Task) -> Result<()> {
    if std::ptr::eq(&*mine.process, &*target.process) {
        return Ok(());
    }
    let (mine, theirs) = (mine.cred(), target.cred());
    let same = [theirs.uid, theirs.euid, theirs.suid].iter().all(|uid| *uid == mine.uid)
        && [theirs.gid, theirs.egid, theirs.sgid].iter().all(|gid| *gid == mine.gid);
    let dumpable = target.mm().image.lock().dumpable == 1;
    if (same && dumpable) || mine.capable(Caps::SYS_PTRACE) { Ok(()) } else { Err(Errno::EPERM) }
}

/// Copies until a range ends or a page is bad; `EFAULT` only if nothing could be copied.
fn copy(from: &[Iovec], to: &[Iovec], from_space: &dyn Space, to_space: &dyn Space) -> SysResult {
    let total: u64 = to.iter().map(|range| range.len).fold(0, u64::saturating_add);
    let mut from = from.iter().copied().filter(|range| range.len > 0);
    let mut to = to.iter().copied().filter(|range| range.len > 0);
    let (mut source, mut target) = (from.next(), to.next());
    let mut done = 0u64;
    let mut buffer = vec![0; usize::try_from(total.min(1 << 18)).unwrap_or(0)];
    while let (Some(s), Some(t)) = (&mut source, &mut target) {
        let len = s.len.min(t.len).min(buffer.len() as u64);
        let part = buffer.get_mut(..usize::try_from(len).unwrap_or(0)).unwrap_or_default();
        let got = from_space.read(s.base, part);
        let put = to_space.write(t.base, part.get(..got).unwrap_or_default()) as u64;
        done += put;
        if put < len {
            return if done > 0 { Ok(done) } else { Err(Errno::EFAULT) };
        }
        for (range, next) in [(s, &mut from as &mut dyn Iterator<Item = Iovec>), (t, &mut to)] {
            range.base = range.base.wrapping_add(len);
            range.len -= len;
            if range.len == 0 {
                match next.next() {
                    Some(more) => *range = more,
                    None => return Ok(done),
                }
            }
        }
    }
    Ok(done)
}
