//! Scheduling: CPUs, policies, yielding, memory barriers.

use std::sync::Arc;

use crate::call::{Addr, Ctx};
use crate::task::{Caps, Sched, Task};
use crate::world::World;
use crate::{Errno, Result, SysResult};

crate::calls! {
    24 sched_yield sched_yield, 0 Full;
    142 sched_setparam sched_setparam, 2 Partial("recorded, and reported back");
    143 sched_getparam sched_getparam, 2 Full;
    144 sched_setscheduler sched_setscheduler, 3 Partial("recorded, and reported back");
    145 sched_getscheduler sched_getscheduler, 1 Full;
    146 sched_get_priority_max sched_get_priority_max, 1 Full;
    147 sched_get_priority_min sched_get_priority_min, 1 Full;
    148 sched_rr_get_interval sched_rr_get_interval, 2 Full;
    203 sched_setaffinity sched_setaffinity, 3 Full;
    204 sched_getaffinity sched_getaffinity, 3 Full;
    309 getcpu getcpu, 3 Full;
    314 sched_setattr sched_setattr, 3 Partial("recorded, and reported back");
    315 sched_getattr sched_getattr, 4 Full;
    324 membarrier membarrier, 3 Partial("no GLOBAL_EXPEDITED");
    334 rseq rseq, 4 Partial("the host's, as far as the platform can");
}

/// `RSEQ_FLAG_UNREGISTER`.
pub const RSEQ_UNREGISTER: u32 = 1;

const SCHED_FIFO: u32 = 1;
const SCHED_RR: u32 = 2;
const SCHED_BATCH: u32 = 3;
const SCHED_IDLE: u32 = 5;
const SCHED_RESET_ON_FORK: u32 = 0x4000_0000;

fn target(cx: &Ctx<'_>, pid: i32) -> Result<Arc<Task>> {
    match pid {
        0 => Ok(cx.task.clone()),
        pid => cx.task.world.task(pid as u32).ok_or(Errno::ESRCH),
    }
}

/// What `pid` is scheduled by. Pid 1 is the kernel's own, without a thread, and as every process begins.
fn sched_of(cx: &Ctx<'_>, pid: i32) -> Result<Sched> {
    match pid {
        1 => Ok(Sched::new(&cx.task.world.config)),
        pid => target(cx, pid).map(|task| task.sched.lock().clone()),
    }
}

/// `check_same_owner()`, or `CAP_SYS_NICE`.
fn check_owner(cx: &Ctx<'_>, task: &Task) -> Result<()> {
    let (mine, theirs) = (cx.task.cred(), task.cred());
    let same = mine.euid == theirs.euid || mine.euid == theirs.uid;
    if same || mine.capable(Caps::SYS_NICE) { Ok(()) } else { Err(Errno::EPERM) }
}

fn sched_yield(_cx: &mut Ctx<'_>) -> SysResult {
    std::thread::yield_now();
    Ok(0)
}

fn is_realtime(policy: u32) -> bool {
    policy == SCHED_FIFO || policy == SCHED_RR
}

/// `__sched_setscheduler()`: real-time policies need privilege or `RLIMIT_RTPRIO`.
fn set_policy(cx: &Ctx<'_>, task: &Task, policy: Option<u32>, priority: i32) -> SysResult {
    let current = task.sched.lock().policy;
    let reset = policy.is_some_and(|policy| policy & SCHED_RESET_ON_FORK != 0);
    let policy = policy.map_or(current, |policy| policy & !SCHED_RESET_ON_FORK);
    if !matches!(policy, 0..=SCHED_BATCH | SCHED_IDLE) || !(0..=99).contains(&priority) {
        return Err(Errno::EINVAL);
    }
    if is_realtime(policy) != (priority != 0) {
        return Err(Errno::EINVAL);
    }
    let privileged = cx.task.cred().capable(Caps::SYS_NICE);
    if !privileged {
        let limit = task.rlimit(crate::abi::linux::RLIMIT_RTPRIO);
        if is_realtime(policy) && priority.unsigned_abs() as u64 > limit {
            return Err(Errno::EPERM);
        }
        check_owner(cx, task)?;
        if task.sched.lock().reset_on_fork && !reset {
            return Err(Errno::EPERM);
        }
    }
    let mut sched = task.sched.lock();
    (sched.policy, sched.priority, sched.reset_on_fork) = (policy, priority, reset);
    Ok(0)
}

fn sched_setscheduler(cx: &mut Ctx<'_>, pid: i32, policy: i32, param: Addr) -> SysResult {
    if policy < 0 || param.non_null().is_none() || pid < 0 {
        return Err(Errno::EINVAL);
    }
    let priority = cx.mem().read(param.0)?;
    let task = target(cx, pid)?;
    set_policy(cx, &task, Some(policy as u32), priority)
}

fn sched_setparam(cx: &mut Ctx<'_>, pid: i32, param: Addr) -> SysResult {
    if param.non_null().is_none() || pid < 0 {
        return Err(Errno::EINVAL);
    }
    let priority = cx.mem().read(param.0)?;
    let task = target(cx, pid)?;
    set_policy(cx, &task, None, priority)
}

fn sched_getparam(cx: &mut Ctx<'_>, pid: i32, param: Addr) -> SysResult {
    if param.non_null().is_none() || pid < 0 {
        return Err(Errno::EINVAL);
    }
    let priority = sched_of(cx, pid)?.priority;
    cx.mem().write(param.0, &priority)?;
    Ok(0)
}

fn sched_getscheduler(cx: &mut Ctx<'_>, pid: i32) -> SysResult {
    if pid < 0 {
        return Err(Errno::EINVAL);
    }
    let sched = sched_of(cx, pid)?;
    Ok(u64::from(sched.policy | if sched.reset_on_fork { SCHED_RESET_ON_FORK } else { 0 }))
}

fn sched_get_priority_max(_cx: &mut Ctx<'_>, policy: u32) -> SysResult {
    match policy {
        SCHED_FIFO | SCHED_RR => Ok(99),
        0 | SCHED_BATCH | SCHED_IDLE | 6 => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

fn sched_get_priority_min(_cx: &mut Ctx<'_>, policy: u32) -> SysResult {
    match policy {
        SCHED_FIFO | SCHED_RR => Ok(1),
        0 | SCHED_BATCH | SCHED_IDLE | 6 => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

fn sched_rr_get_interval(cx: &mut Ctx<'_>, pid: i32, to: u64) -> SysResult {
    if pid < 0 {
        return Err(Errno::EINVAL);
    }
    let policy = sched_of(cx, pid)?.policy;
    let tv_nsec = match policy {
        SCHED_RR => 100_000_000,
        SCHED_FIFO => 0,
        _ => 4_000_000,
    };
    cx.mem().write(to, &crate::abi::types::Timespec { tv_sec: 0, tv_nsec })?;
    Ok(0)
}

/// `struct sched_attr`: size, policy, flags, nice, priority, then deadlines.
fn sched_setattr(cx: &mut Ctx<'_>, pid: i32, attr: Addr, flags: u32) -> SysResult {
    const SIZE: usize = 48;
    if attr.non_null().is_none() || pid < 0 || flags != 0 {
        return Err(Errno::EINVAL);
    }
    let size = match cx.mem().read::<u32>(attr.0)? {
        0 => SIZE,
        size => size as usize,
    };
    if !(SIZE..=4096).contains(&size) {
        cx.mem().write(attr.0, &56u32)?;
        return Err(Errno::E2BIG);
    }
    let words: Vec<u32> = cx.mem().read_array(attr.0, 6)?;
    let word = |at: usize| words.get(at).copied().unwrap_or(0);
    let task = target(cx, pid)?;
    let reset = if word(2) & 1 != 0 { SCHED_RESET_ON_FORK } else { 0 };
    set_policy(cx, &task, Some(word(1) | reset), word(5) as i32)?;
    if !is_realtime(word(1)) {
        super::limits::set_nice(&cx.task, &task, (word(4) as i32).clamp(-20, 19))?;
    }
    Ok(0)
}

fn sched_getattr(cx: &mut Ctx<'_>, pid: i32, attr: Addr, size: u32, flags: u32) -> SysResult {
    if attr.non_null().is_none() || pid < 0 || !(48..=4096).contains(&size) || flags != 0 {
        return Err(Errno::EINVAL);
    }
    let sched = sched_of(cx, pid)?;
    let size = size.min(56);
    let nice = if is_realtime(sched.policy) { 0 } else { sched.nice as u32 };
    let words = [size, sched.policy, u32::from(sched.reset_on_fork), 0, nice, sched.priority as u32];
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    bytes.resize(size as usize, 0);
    cx.mem().write_bytes(attr.0, &bytes)?;
    Ok(0)
}

/// Bytes of a mask that has a bit for each CPU up to the host's highest: a multiple of 8.
fn mask_bytes(world: &World) -> usize {
    let highest = world.config.cpus.iter().max().copied().unwrap_or(0);
    (highest / 64 + 1) * 8
}

/// What `sched_getaffinity` gives for a task.
pub fn affinity_mask(task: &Task) -> Vec<u8> {
    mask_of(&task.world, &task.sched.lock().affinity)
}

fn mask_of(world: &World, cpus: &[usize]) -> Vec<u8> {
    let mut mask = vec![0u8; mask_bytes(world)];
    for cpu in cpus {
        if let Some(byte) = mask.get_mut(cpu / 8) {
            *byte |= 1 << (cpu % 8);
        }
    }
    mask
}

fn sched_getaffinity(cx: &mut Ctx<'_>, pid: i32, size: u32, to: u64) -> SysResult {
    let bytes = mask_bytes(&cx.task.world);
    if (size as usize) < bytes || !size.is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    let mask = mask_of(&cx.task.world, &sched_of(cx, pid)?.affinity);
    cx.mem().write_bytes(to, &mask)?;
    Ok(bytes as u64)
}

fn sched_setaffinity(cx: &mut Ctx<'_>, pid: i32, size: u32, from: u64) -> SysResult {
    let mut mask = vec![0u8; (size as usize).min(1024)];
    cx.mem().read_bytes(from, &mut mask)?;
    let task = target(cx, pid)?;
    check_owner(cx, &task)?;
    let wanted = |cpu: &&usize| mask.get(**cpu / 8).is_some_and(|byte| byte & (1 << (**cpu % 8)) != 0);
    let cpus: Vec<usize> = cx.task.world.config.cpus.iter().filter(wanted).copied().collect();
    if cpus.is_empty() {
        return Err(Errno::EINVAL);
    }
    task.control().set_affinity(&cpus)?;
    task.sched.lock().affinity = cpus;
    task.publish_answers();
    Ok(0)
}

fn getcpu(cx: &mut Ctx<'_>, cpu: Addr, node: Addr, _cache: u64) -> SysResult {
    let last = cx.task.control().last_cpu() as u32;
    if let Some(cpu) = cpu.non_null() {
        cx.mem().write(cpu, &last)?;
    }
    if let Some(node) = node.non_null() {
        cx.mem().write(node, &0u32)?;
    }
    Ok(0)
}

/// Private barriers are the host's calls, made by the guest thread itself. A global one may as well be made by a
/// thread of the kernel.
fn membarrier(_cx: &mut Ctx<'_>, command: i32, flags: u32, _cpu: i32) -> SysResult {
    const QUERY: i32 = 0;
    const GLOBAL: i32 = 1;
    /// PRIVATE_EXPEDITED, _SYNC_CORE and _RSEQ with their registrations.
    const PRIVATE: u32 = 8 | 16 | 32 | 64 | 128 | 256;
    let host = rustix::thread::membarrier_query().bits();
    match command {
        _ if flags != 0 => Err(Errno::EINVAL),
        QUERY => Ok(u64::from(host & (PRIVATE | GLOBAL as u32))),
        GLOBAL => {
            let done = rustix::thread::membarrier(rustix::thread::MembarrierCommand::Global);
            done.map(|()| 0).map_err(|_| Errno::EINVAL)
        }
        _ => Err(Errno::EINVAL),
    }
}

/// The host's own registration, remembered so that a dying thread can take it back in time.
fn rseq(cx: &mut Ctx<'_>, area: u64, len: u32, flags: u32, signature: u32) -> SysResult {
    let result = match cx.thread.rseq(area, len, flags, signature).map_err(|_| Errno::ENOSYS)? {
        // A platform that refuses an address does not know of the registration, which is looked at first.
        Err(Errno::EFAULT) if flags == 0 && cx.task.rseq.lock().is_some() => return Err(Errno::EINVAL),
        result => result?,
    };
    *cx.task.rseq.lock() = (flags & RSEQ_UNREGISTER == 0).then_some((area, len, signature));
    Ok(result)
}
