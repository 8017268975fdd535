//! epoll_create(2), epoll_ctl(2), epoll_wait(2).

use std::time::Duration;

use crate::abi::linux::{EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, O_CLOEXEC, O_RDWR};
use crate::abi::types::Timespec;
use crate::call::{Addr, Ctx, Fd};
use crate::ipc::epoll::{self, Collected, Epoll, Event};
use crate::ipc::glue;
use crate::mem::check_range;
use crate::wait::{Deadline, deadline_after};
use crate::{Errno, Result, SysResult};

crate::calls! {
    213 epoll_create epoll_create, 1 Full;
    232 epoll_wait epoll_wait, 4 Full;
    233 epoll_ctl epoll_ctl, 4 Full;
    281 epoll_pwait epoll_pwait, 6 Full;
    291 epoll_create1 epoll_create1, 1 Full;
    441 epoll_pwait2 epoll_pwait2, 6 Full;
}

/// Size of the packed `struct epoll_event` of x86-64.
const EVENT_SIZE: usize = 12;

fn epoll_create(cx: &mut Ctx<'_>, size: i32) -> SysResult {
    if size <= 0 { Err(Errno::EINVAL) } else { epoll_create1(cx, 0) }
}

fn epoll_create1(cx: &mut Ctx<'_>, flags: u32) -> SysResult {
    if flags & !O_CLOEXEC != 0 {
        return Err(Errno::EINVAL);
    }
    let world = cx.task.world.clone();
    let epoll = Epoll::new(&world.ipc.epoll_watches, epoll::max_watches(world.config.memory));
    glue::install(cx, epoll, O_RDWR, flags & O_CLOEXEC != 0)
}

fn epoll_ctl(cx: &mut Ctx<'_>, epfd: Fd, op: u32, fd: Fd, event: Addr) -> SysResult {
    let event = if op == EPOLL_CTL_DEL { Event { events: 0, data: 0 } } else { read_event(cx, event)? };
    let epoll_file = cx.file(epfd)?;
    let file = cx.file(fd)?;
    if !file.file.pollable() {
        return Err(Errno::EPERM);
    }
    let epoll = Epoll::of(&epoll_file).ok_or(Errno::EINVAL)?;
    if epoll_file.key == file.key {
        return Err(Errno::EINVAL);
    }
    match op {
        EPOLL_CTL_ADD => epoll.add(&cx.task.world.ipc.epoll_nesting, fd.0, &file, event)?,
        EPOLL_CTL_MOD => epoll.modify(fd.0, &file, event)?,
        EPOLL_CTL_DEL => epoll.delete(fd.0, &file)?,
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

fn read_event(cx: &mut Ctx<'_>, at: Addr) -> Result<Event> {
    let raw: [u32; 3] = cx.mem().read(at.0)?;
    Ok(Event { events: raw[0], data: u64::from(raw[1]) | u64::from(raw[2]) << 32 })
}

fn epoll_wait(cx: &mut Ctx<'_>, epfd: Fd, events: Addr, max: i32, timeout: i32) -> SysResult {
    wait(cx, epfd, events, max, timeout_ms(timeout))
}

fn epoll_pwait(
    cx: &mut Ctx<'_>,
    epfd: Fd,
    events: Addr,
    max: i32,
    timeout: i32,
    mask: Addr,
    size: u64,
) -> SysResult {
    glue::set_user_sigmask(cx, mask.0, size)?;
    let result = wait(cx, epfd, events, max, timeout_ms(timeout));
    glue::restore_saved_sigmask_unless(cx, result == Err(Errno::EINTR));
    result
}

fn epoll_pwait2(
    cx: &mut Ctx<'_>,
    epfd: Fd,
    events: Addr,
    max: i32,
    timeout: Addr,
    mask: Addr,
    size: u64,
) -> SysResult {
    let timeout = match timeout.non_null() {
        Some(at) => Some(glue::timespec(cx.mem().read::<Timespec>(at)?)?),
        None => None,
    };
    glue::set_user_sigmask(cx, mask.0, size)?;
    let result = wait(cx, epfd, events, max, timeout);
    glue::restore_saved_sigmask_unless(cx, result == Err(Errno::EINTR));
    result
}

/// Negative: without end.
fn timeout_ms(timeout: i32) -> Option<Duration> {
    u64::try_from(timeout).ok().map(Duration::from_millis)
}

/// do_epoll_wait().
fn wait(cx: &mut Ctx<'_>, epfd: Fd, events: Addr, max: i32, timeout: Option<Duration>) -> SysResult {
    let max = usize::try_from(max).map_err(|_| Errno::EINVAL)?;
    if max == 0 || max > i32::MAX as usize / EVENT_SIZE {
        return Err(Errno::EINVAL);
    }
    check_range(events.0, (max * EVENT_SIZE) as u64)?;
    let file = cx.file(epfd)?;
    let epoll = Epoll::of(&file).ok_or(Errno::EINVAL)?;
    let deadline: Deadline = timeout.and_then(deadline_after);
    let mut ready = epoll.collect(max);
    if ready.events.is_empty() && timeout != Some(Duration::ZERO) {
        let waited = cx.block(deadline, |table| {
            if table.registers() {
                epoll.watch(table);
            }
            Some(epoll.collect(max)).filter(|ready| !ready.events.is_empty())
        });
        ready = match waited {
            Ok(ready) => ready,
            Err(Errno::ETIMEDOUT) => Collected::default(),
            // Not restarted, whatever SA_RESTART says (signal(7)).
            Err(Errno::ERESTARTSYS) => return Err(Errno::EINTR),
            Err(error) => return Err(error),
        };
    }
    let bytes: Vec<u8> = ready
        .events
        .iter()
        .flat_map(|event| event.events.to_ne_bytes().into_iter().chain(event.data.to_ne_bytes()))
        .collect();
    if cx.mem().write_bytes(events.0, &bytes).is_err() {
        epoll.uncollect(&ready);
        return Err(Errno::EFAULT);
    }
    Ok(ready.events.len() as u64)
}
