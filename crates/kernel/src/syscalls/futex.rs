//! futex(2), as far as it comes to the kernel; robust lists; futex_waitv(2).

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use coracle_platform::Regs;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::abi::linux::{
    FUTEX_CLOCK_REALTIME, FUTEX_CMD_MASK, FUTEX_CMP_REQUEUE, FUTEX_CMP_REQUEUE_PI, FUTEX_LOCK_PI, FUTEX_LOCK_PI2,
    FUTEX_PRIVATE_FLAG, FUTEX_REQUEUE, FUTEX_TRYLOCK_PI, FUTEX_UNLOCK_PI, FUTEX_WAIT, FUTEX_WAIT_BITSET,
    FUTEX_WAIT_REQUEUE_PI, FUTEX_WAKE, FUTEX_WAKE_BITSET, FUTEX_WAKE_OP,
};
use crate::abi::types::Timespec;
use crate::call::{Addr, After, Ctx};
use crate::futex::{self, Key, pi};
use crate::signal::RestartBlock;
use crate::time::clock::{CLOCK_MONOTONIC, CLOCK_REALTIME};
use crate::time::{Clock, to_ns};
use crate::wait::Deadline;
use crate::{Errno, Result, SysResult};

crate::calls! {
    202 futex futex, 6 Partial("PI futexes without priority inheritance");
    449 futex_waitv futex_waitv, 5 Partial("looks at the words now and then");
}

const MATCH_ANY: u32 = u32::MAX;
/// `FUTEX_WAITV_MAX`.
const WAITV_MAX: usize = 128;
/// How long a wait that the host cannot do for us sleeps between looks, and before it says that it was woken.
const LOOK: Duration = Duration::from_micros(200);
const PATIENCE: Duration = Duration::from_millis(10);

/// Deadlines of waits, as the operation means its timeout.
fn read_timeout(cx: &mut Ctx<'_>, command: u32, op: u32, at: u64) -> Result<Option<i64>> {
    if at == 0 {
        return Ok(None);
    }
    let time: Timespec = cx.mem().read(at)?;
    let time = to_ns(&time)?;
    if command == FUTEX_WAIT {
        let now = clock(cx, op)?.now();
        return Ok(Some(now.saturating_add(time)));
    }
    Ok(Some(time))
}

fn clock(cx: &Ctx<'_>, op: u32) -> Result<Clock> {
    let real = op & FUTEX_CLOCK_REALTIME != 0 || op & FUTEX_CMD_MASK as u32 == FUTEX_LOCK_PI;
    Clock::find(&cx.task, if real { CLOCK_REALTIME } else { CLOCK_MONOTONIC })
}

/// That moment on the host's clock.
fn instant(clock: &Clock, deadline: Option<i64>) -> Deadline {
    deadline.and_then(|at| clock.look_after(at.saturating_sub(clock.now())))
}

fn futex(cx: &mut Ctx<'_>, word: Addr, op: u32, value: u32, timeout: u64, word2: Addr, value3: u32) -> SysResult {
    let command = op & FUTEX_CMD_MASK as u32;
    let waits =
        matches!(command, FUTEX_WAIT | FUTEX_WAIT_BITSET | FUTEX_LOCK_PI | FUTEX_LOCK_PI2 | FUTEX_WAIT_REQUEUE_PI);
    // futex_cmd_has_timeout(), and do_futex(): who may name the real-time clock.
    let deadline = if waits { read_timeout(cx, command, op, timeout)? } else { None };
    let may_be_real = matches!(command, FUTEX_WAIT_BITSET | FUTEX_WAIT_REQUEUE_PI | FUTEX_LOCK_PI2);
    if op & FUTEX_CLOCK_REALTIME != 0 && !may_be_real {
        return Err(Errno::ENOSYS);
    }
    let count2 = timeout as u32;
    match command {
        FUTEX_WAIT | FUTEX_WAIT_BITSET => {
            let bits = if command == FUTEX_WAIT { MATCH_ANY } else { value3 };
            check_wait(cx, word.0, value, bits)?;
            if send_back(cx)? { Ok(0) } else { wait_until(cx, word.0, value, bits, op, deadline) }
        }
        FUTEX_WAKE => wake(cx, word.0, value),
        FUTEX_WAKE_BITSET if value3 == 0 => Err(Errno::EINVAL),
        FUTEX_WAKE_BITSET => wake(cx, word.0, value),
        FUTEX_REQUEUE => requeue(cx, word, word2, value, count2, None),
        FUTEX_CMP_REQUEUE => requeue(cx, word, word2, value, count2, Some(value3)),
        FUTEX_WAKE_OP => wake_op(cx, word, word2, value, count2, value3),
        FUTEX_LOCK_PI | FUTEX_LOCK_PI2 => {
            let until = instant(&clock(cx, op)?, deadline);
            let key = key(cx, word, op)?;
            pi::lock(cx, word.0, key, until, true)
        }
        FUTEX_TRYLOCK_PI => {
            let key = key(cx, word, op)?;
            pi::lock(cx, word.0, key, None, false)
        }
        FUTEX_UNLOCK_PI => {
            let key = key(cx, word, op)?;
            pi::unlock(cx, word.0, key)
        }
        FUTEX_WAIT_REQUEUE_PI => {
            if word == word2 || value3 == 0 {
                return Err(Errno::EINVAL);
            }
            let until = instant(&clock(cx, op)?, deadline);
            let (from, to) = (key(cx, word, op)?, key(cx, word2, op)?);
            pi::wait_requeue(cx, (word.0, from), value, until, (word2.0, to))
        }
        FUTEX_CMP_REQUEUE_PI => {
            // Requeueing to a PI futex wakes exactly one.
            if word == word2 || value != 1 {
                return Err(Errno::EINVAL);
            }
            let from = key(cx, word, op)?;
            let count = usize::try_from(count2 as i32).map_err(|_| Errno::EINVAL)?;
            pi::requeue(cx, word.0, from, value3, count.saturating_add(1))
        }
        _ => Err(Errno::ENOSYS),
    }
}

fn key(cx: &Ctx<'_>, word: Addr, op: u32) -> Result<Key> {
    futex::key(&cx.space, word.0, op & FUTEX_PRIVATE_FLAG != 0)
}

fn check_word(address: u64) -> Result<()> {
    if !address.is_multiple_of(4) {
        return Err(Errno::EINVAL);
    }
    crate::mem::check_range(address, 4)
}

/// A trap comes to the kernel only for its site to be rewritten, or because the thread cannot go the fast path. So the
/// call is made once more: the host does what the kernel cannot. The same site twice in a row: there is no other way.
fn send_back(cx: &mut Ctx<'_>) -> Result<bool> {
    let site = &cx.task.futex_site;
    if cx.task.last_lane.load(Ordering::Relaxed) != 4 {
        return Ok(false);
    }
    let number = cx.number;
    let regs = cx.thread.freeze(0).map_err(|_| Errno::EFAULT)?;
    if site.swap(regs.rip, Ordering::Relaxed) == regs.rip {
        site.store(0, Ordering::Relaxed);
        return Ok(false);
    }
    regs.rax = number;
    regs.rip = regs.rip.wrapping_sub(2);
    cx.after = After::Continue;
    Ok(true)
}

/// The registers are those of a wait that ends some time after its beginning, not at a point in time.
pub fn waits_relatively(regs: &Regs) -> bool {
    regs.rsi as u32 & FUTEX_CMD_MASK as u32 == FUTEX_WAIT && regs.r10 != 0
}

/// What is wrong with a wait before it sleeps.
fn check_wait(cx: &Ctx<'_>, address: u64, value: u32, bits: u32) -> Result<()> {
    if bits == 0 {
        return Err(Errno::EINVAL);
    }
    check_word(address)?;
    if futex::load(cx, address)? == value { Ok(()) } else { Err(Errno::EAGAIN) }
}

/// A plain wait from a site that is not rewritten. Wakers are in the host and do not know of it, so it looks at the
/// word and, after a while, has the caller look: a wait may end for no reason (futex(2)).
pub(super) fn wait_until(
    cx: &mut Ctx<'_>,
    address: u64,
    value: u32,
    bits: u32,
    op: u32,
    deadline: Option<i64>,
) -> SysResult {
    check_wait(cx, address, value, bits)?;
    let clock = clock(cx, op)?;
    let end = instant(&clock, deadline);
    let woken = patiently(cx, end, |cx| Ok((futex::load(cx, address)? != value).then_some(0)))?;
    match woken {
        Err(Errno::ERESTARTSYS) if deadline.is_some() => {
            let deadline = deadline.unwrap_or(i64::MAX);
            cx.task.signals.set_restart(RestartBlock::Futex { address, value, bits, op, deadline });
            Err(Errno::ERESTART_RESTARTBLOCK)
        }
        other => other,
    }
}

/// Looks again and again until `look` finds something, a signal comes, the deadline, or patience ends (then: 0).
fn patiently(
    cx: &mut Ctx<'_>,
    deadline: Deadline,
    mut look: impl FnMut(&mut Ctx<'_>) -> Result<Option<u64>>,
) -> Result<SysResult> {
    let patience = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look(cx)? {
            return Ok(Ok(found));
        }
        let now = Instant::now();
        if deadline.is_some_and(|at| at <= now) {
            return Ok(Err(Errno::ETIMEDOUT));
        }
        if patience <= now {
            return Ok(Ok(0));
        }
        let next = deadline.map_or(now + LOOK, |at| at.min(now + LOOK));
        match cx.block(Some(next), |_| None::<u64>) {
            Err(Errno::ETIMEDOUT) => {}
            other => return Ok(other),
        }
    }
}

fn wake(cx: &mut Ctx<'_>, address: u64, count: u32) -> SysResult {
    check_word(address)?;
    // A count of zero or less wakes one (kernel/futex/waitwake.c).
    futex::wake(cx, address, if (count as i32) < 1 { 1 } else { count })
}

/// Those to be requeued are woken instead; they find the second word taken and wait there by themselves.
fn requeue(cx: &mut Ctx<'_>, word: Addr, word2: Addr, count: u32, count2: u32, value: Option<u32>) -> SysResult {
    if (count as i32) < 0 || (count2 as i32) < 0 {
        return Err(Errno::EINVAL);
    }
    check_word(word.0)?;
    check_word(word2.0)?;
    if let Some(value) = value
        && futex::load(cx, word.0)? != value
    {
        return Err(Errno::EAGAIN);
    }
    futex::wake(cx, word.0, count.saturating_add(count2))
}

/// `futex_atomic_op_inuser()` and what follows.
fn wake_op(cx: &mut Ctx<'_>, word: Addr, word2: Addr, count: u32, count2: u32, code: u32) -> SysResult {
    check_word(word.0)?;
    check_word(word2.0)?;
    let (op, comparison) = (code >> 28 & 7, code >> 24 & 15);
    // Twelve bits each, signed.
    let signed = |bits: u32| ((bits << 20) as i32) >> 20;
    let (argument, against) = (signed(code >> 12 & 0xfff), signed(code & 0xfff));
    let argument = if code >> 28 & 8 != 0 { 1_i32.wrapping_shl(argument as u32) } else { argument } as u32;
    if op > 4 || comparison > 5 {
        return Err(Errno::ENOSYS);
    }
    let old = futex::update(cx, word2.0, |old| match op {
        0 => argument,
        1 => old.wrapping_add(argument),
        2 => old | argument,
        3 => old & !argument,
        _ => old ^ argument,
    })? as i32;
    let holds = match comparison {
        0 => old == against,
        1 => old != against,
        2 => old < against,
        3 => old <= against,
        4 => old > against,
        _ => old >= against,
    };
    let woken = futex::wake(cx, word.0, count)?;
    Ok(woken + if holds { futex::wake(cx, word2.0, count2)? } else { 0 })
}

/// `struct futex_waitv`.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct FutexWaitv {
    value: u64,
    address: u64,
    flags: u32,
    reserved: u32,
}

fn futex_waitv(cx: &mut Ctx<'_>, list: Addr, count: u32, flags: u32, timeout: Addr, clock: i32) -> SysResult {
    const FUTEX2_SIZE_U32: u32 = 2;
    let count = count as usize;
    if flags != 0 || count == 0 || count > WAITV_MAX || list.0 == 0 {
        return Err(Errno::EINVAL);
    }
    let mut deadline = None;
    if let Some(at) = timeout.non_null() {
        if clock != CLOCK_MONOTONIC && clock != CLOCK_REALTIME {
            return Err(Errno::EINVAL);
        }
        let time: Timespec = cx.mem().read(at)?;
        deadline = Some(to_ns(&time)?);
    }
    let list: Vec<FutexWaitv> = cx.mem().read_array(list.0, count)?;
    for entry in &list {
        let known = entry.flags & !(FUTEX_PRIVATE_FLAG | FUTEX2_SIZE_U32) == 0;
        if !known || entry.flags & FUTEX2_SIZE_U32 == 0 || entry.reserved != 0 {
            return Err(Errno::EINVAL);
        }
        check_word(entry.address)?;
    }
    let end = match deadline {
        Some(_) => instant(&Clock::find(&cx.task, clock)?, deadline),
        None => None,
    };
    if changed(cx, &list)?.is_some() {
        return Err(Errno::EAGAIN);
    }
    match patiently(cx, end, |cx| changed(cx, &list))? {
        Err(Errno::ERESTARTSYS) if deadline.is_some() => Err(Errno::ERESTARTNOHAND),
        other => other,
    }
}

/// The first word that is no longer what it is waited for to change from.
fn changed(cx: &Ctx<'_>, list: &[FutexWaitv]) -> Result<Option<u64>> {
    for (index, entry) in list.iter().enumerate() {
        if u64::from(futex::load(cx, entry.address)?) != entry.value & u64::from(u32::MAX) {
            return Ok(Some(index as u64));
        }
    }
    Ok(None)
}
