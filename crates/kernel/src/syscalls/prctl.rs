//! prctl(2), arch_prctl(2), personality(2) and seccomp(2).

use std::sync::atomic::Ordering;

use super::identity::cap;
use crate::call::Ctx;
use crate::task::Caps;
use crate::{Errno, SysResult};

crate::calls! {
    101 ptrace ptrace, 4 Refused("no process may trace another");
    135 personality personality, 1 Partial("recorded; ADDR_NO_RANDOMIZE is honoured by execve");
    157 prctl prctl, 5 Partial("what programs use; filters are refused");
    158 arch_prctl arch_prctl, 2 Full;
    317 seccomp seccomp, 3 Refused("no filters inside the sandbox");
}

fn ptrace(cx: &mut Ctx<'_>, _request: u64, pid: i32, _address: u64, _data: u64) -> SysResult {
    const TRACEME: u64 = 0;
    if cx.args[0] != TRACEME && cx.task.world.task(pid as u32).is_none() {
        return Err(Errno::ESRCH);
    }
    Err(Errno::EPERM)
}

fn personality(cx: &mut Ctx<'_>, persona: u32) -> SysResult {
    let place = &cx.task.process.personality;
    let old =
        if persona == u32::MAX { place.load(Ordering::Relaxed) } else { place.swap(persona, Ordering::Relaxed) };
    Ok(u64::from(old))
}

/// Modes and operations of seccomp(2) that the caller may find missing.
fn seccomp(cx: &mut Ctx<'_>, operation: u32, flags: u32, args: u64) -> SysResult {
    match operation {
        // SECCOMP_SET_MODE_STRICT
        0 if flags != 0 || args != 0 => Err(Errno::EINVAL),
        // SECCOMP_GET_ACTION_AVAIL
        2 if flags != 0 => Err(Errno::EINVAL),
        2 => {
            let _: u32 = cx.mem().read(args)?;
            Err(Errno::EOPNOTSUPP)
        }
        // As where CONFIG_SECCOMP_FILTER is off.
        _ => Err(Errno::EINVAL),
    }
}

fn arch_prctl(cx: &mut Ctx<'_>, code: u32, value: u64) -> SysResult {
    const SET_GS: u32 = 0x1001;
    const SET_FS: u32 = 0x1002;
    const GET_FS: u32 = 0x1003;
    const GET_GS: u32 = 0x1004;
    const GET_CPUID: u32 = 0x1011;
    const SET_CPUID: u32 = 0x1012;
    /// `TASK_SIZE_MAX`.
    const TASK_SIZE: u64 = 0x7fff_ffff_f000;
    match code {
        SET_FS | SET_GS if value >= TASK_SIZE => Err(Errno::EPERM),
        SET_FS | SET_GS => {
            let regs = cx.thread.freeze(0).map_err(|_| Errno::EIO)?;
            *(if code == SET_FS { &mut regs.fs_base } else { &mut regs.gs_base }) = value;
            Ok(0)
        }
        GET_FS | GET_GS => {
            let regs = cx.thread.freeze(0).map_err(|_| Errno::EIO)?;
            let base = if code == GET_FS { regs.fs_base } else { regs.gs_base };
            if cx.mem().write_now(value, &base.to_ne_bytes()) == 8 { Ok(0) } else { Err(Errno::EFAULT) }
        }
        // CPUID never faults.
        GET_CPUID => Ok(1),
        SET_CPUID => Err(Errno::ENODEV),
        // Shadow stacks (0x5001 to 0x5005), address tagging and the rest are not there.
        _ => Err(Errno::EINVAL),
    }
}

mod code {
    pub const SET_PDEATHSIG: i32 = 1;
    pub const GET_PDEATHSIG: i32 = 2;
    pub const GET_DUMPABLE: i32 = 3;
    pub const SET_DUMPABLE: i32 = 4;
    pub const GET_KEEPCAPS: i32 = 7;
    pub const SET_KEEPCAPS: i32 = 8;
    pub const GET_TIMING: i32 = 13;
    pub const SET_TIMING: i32 = 14;
    pub const SET_NAME: i32 = 15;
    pub const GET_NAME: i32 = 16;
    pub const GET_SECCOMP: i32 = 21;
    pub const SET_SECCOMP: i32 = 22;
    pub const CAPBSET_READ: i32 = 23;
    pub const CAPBSET_DROP: i32 = 24;
    pub const GET_TSC: i32 = 25;
    pub const SET_TSC: i32 = 26;
    pub const GET_SECUREBITS: i32 = 27;
    pub const SET_SECUREBITS: i32 = 28;
    pub const SET_TIMERSLACK: i32 = 29;
    pub const GET_TIMERSLACK: i32 = 30;
    pub const MCE_KILL: i32 = 33;
    pub const MCE_KILL_GET: i32 = 34;
    pub const SET_CHILD_SUBREAPER: i32 = 36;
    pub const GET_CHILD_SUBREAPER: i32 = 37;
    pub const SET_NO_NEW_PRIVS: i32 = 38;
    pub const GET_NO_NEW_PRIVS: i32 = 39;
    pub const GET_TID_ADDRESS: i32 = 40;
    pub const SET_THP_DISABLE: i32 = 41;
    pub const GET_THP_DISABLE: i32 = 42;
    pub const CAP_AMBIENT: i32 = 47;
    pub const GET_SPECULATION_CTRL: i32 = 52;
    pub const SET_PTRACER: i32 = 0x5961_6d61;
    pub const SET_VMA: i32 = 0x5356_4d41;
}

fn prctl(cx: &mut Ctx<'_>, option: i32, arg2: u64, arg3: u64, arg4: u64, arg5: u64) -> SysResult {
    let task = cx.task.clone();
    let rest = [arg3, arg4, arg5];
    let none = |args: &[u64]| if args.iter().all(|arg| *arg == 0) { Ok(()) } else { Err(Errno::EINVAL) };
    match option {
        code::SET_PDEATHSIG => {
            let signal = i32::try_from(arg2).ok().filter(|signal| *signal <= 64).ok_or(Errno::EINVAL)?;
            task.pdeath_signal.store(signal, Ordering::Relaxed);
            Ok(0)
        }
        code::GET_PDEATHSIG => {
            cx.mem().write(arg2, &task.pdeath_signal.load(Ordering::Relaxed))?;
            Ok(0)
        }
        code::GET_DUMPABLE => Ok(u64::from(task.mm().image.lock().dumpable)),
        code::SET_DUMPABLE => {
            if arg2 > 1 {
                return Err(Errno::EINVAL);
            }
            task.mm().image.lock().dumpable = arg2 as u32;
            Ok(0)
        }
        code::SET_NAME => {
            let name = cx.mem().read_cstr(arg2, 16)?;
            let name = match name {
                Some(name) => name,
                None => {
                    let mut name = vec![0; 15];
                    cx.mem().read_bytes(arg2, &mut name)?;
                    name
                }
            };
            task.set_comm(&name);
            Ok(0)
        }
        code::GET_NAME => {
            let mut name = task.comm();
            name.resize(16, 0);
            cx.mem().write_bytes(arg2, &name)?;
            Ok(0)
        }
        code::GET_SECCOMP => Ok(0),
        code::SET_SECCOMP => Err(Errno::EINVAL),
        code::GET_TIMING => Ok(0),
        code::SET_TIMING => none(&[arg2]).map(|()| 0),
        code::GET_TSC => {
            cx.mem().write(arg2, &1u32)?;
            Ok(0)
        }
        code::SET_TSC => {
            if arg2 == 1 {
                Ok(0)
            } else {
                Err(Errno::EINVAL)
            }
        }
        code::SET_TIMERSLACK => {
            const DEFAULT: u64 = 50_000;
            task.sched.lock().timer_slack = if arg2 == 0 { DEFAULT } else { arg2 };
            Ok(0)
        }
        code::GET_TIMERSLACK => Ok(task.sched.lock().timer_slack),
        code::MCE_KILL => none(&[arg4, arg5]).map(|()| 0),
        // PR_MCE_KILL_DEFAULT
        code::MCE_KILL_GET => none(&[arg2, arg3, arg4, arg5]).map(|()| 2),
        code::SET_CHILD_SUBREAPER => {
            crate::task::exit::set_subreaper(&task.process, arg2 != 0);
            Ok(0)
        }
        code::GET_CHILD_SUBREAPER => {
            cx.mem().write(arg2, &i32::from(task.process.child_subreaper.load(Ordering::Relaxed)))?;
            Ok(0)
        }
        code::SET_NO_NEW_PRIVS => {
            if arg2 != 1 {
                return Err(Errno::EINVAL);
            }
            none(&rest)?;
            task.no_new_privs.store(true, Ordering::Relaxed);
            Ok(0)
        }
        code::GET_NO_NEW_PRIVS => {
            none(&[arg2, arg3, arg4, arg5])?;
            Ok(u64::from(task.no_new_privs.load(Ordering::Relaxed)))
        }
        code::GET_TID_ADDRESS => {
            cx.mem().write(arg2, &task.clear_child_tid.load(Ordering::Relaxed))?;
            Ok(0)
        }
        code::SET_THP_DISABLE => {
            none(&rest)?;
            task.mm().image.lock().no_huge_pages = arg2 != 0;
            Ok(0)
        }
        code::GET_THP_DISABLE => {
            none(&[arg2, arg3, arg4, arg5])?;
            Ok(u64::from(task.mm().image.lock().no_huge_pages))
        }
        code::GET_SPECULATION_CTRL => none(&rest).and(Err(Errno::ENODEV)),
        // Yama is not there; but whoever asks does not depend on it.
        code::SET_PTRACER => Err(Errno::EINVAL),
        code::SET_VMA => set_vma(cx, arg2, arg3, arg4, arg5),
        code::GET_KEEPCAPS | code::SET_KEEPCAPS | code::GET_SECUREBITS | code::SET_SECUREBITS => {
            securebits(cx, option, arg2)
        }
        code::CAPBSET_READ => Ok(u64::from(task.cred().bounding.contains(cap(arg2)?))),
        code::CAPBSET_DROP => {
            let mut cred = (*task.cred()).clone();
            if !cred.capable(Caps::SETPCAP) {
                return Err(Errno::EPERM);
            }
            cred.bounding -= cap(arg2)?;
            task.set_cred(cred);
            Ok(0)
        }
        code::CAP_AMBIENT => ambient(cx, arg2, arg3, arg4, arg5),
        _ => Err(Errno::EINVAL),
    }
}

/// `PR_SET_VMA_ANON_NAME`: names are checked and not kept.
fn set_vma(cx: &mut Ctx<'_>, what: u64, address: u64, _len: u64, name: u64) -> SysResult {
    const ANON_NAME: u64 = 0;
    const NAME_MAX: usize = 80;
    if what != ANON_NAME {
        return Err(Errno::EINVAL);
    }
    if name != 0 {
        let name = cx.mem().read_cstr(name, NAME_MAX)?.ok_or(Errno::EINVAL)?;
        let bad = |byte: &u8| !(0x20..0x7f).contains(byte) || b"\\`$[]".contains(byte);
        if name.iter().any(bad) {
            return Err(Errno::EINVAL);
        }
    }
    if address.is_multiple_of(crate::abi::PAGE_SIZE) { Ok(0) } else { Err(Errno::EINVAL) }
}

/// The part of prctl(2) that security/commoncap.c answers.
fn securebits(cx: &mut Ctx<'_>, option: i32, value: u64) -> SysResult {
    const KEEP_CAPS: u32 = 1 << 4;
    const KEEP_CAPS_LOCKED: u32 = 1 << 5;
    const ALL: u64 = 0xff;
    const LOCKS: u32 = 0xaa;
    let old = cx.task.cred();
    let mut new = (*old).clone();
    match option {
        code::GET_KEEPCAPS => return Ok(u64::from(old.securebits & KEEP_CAPS != 0)),
        code::GET_SECUREBITS => return Ok(u64::from(old.securebits)),
        code::SET_KEEPCAPS => {
            if value > 1 {
                return Err(Errno::EINVAL);
            }
            if old.securebits & KEEP_CAPS_LOCKED != 0 {
                return Err(Errno::EPERM);
            }
            new.securebits = (old.securebits & !KEEP_CAPS) | if value == 1 { KEEP_CAPS } else { 0 };
        }
        _ => {
            let wanted = u32::try_from(value & ALL).unwrap_or(0);
            let locked = (old.securebits & LOCKS) >> 1;
            let refused = value & !ALL != 0
                || locked & (old.securebits ^ wanted) != 0
                || old.securebits & LOCKS & !wanted != 0
                || !old.capable(Caps::SETPCAP);
            if refused {
                return Err(Errno::EPERM);
            }
            new.securebits = wanted;
        }
    }
    cx.task.set_cred(new);
    Ok(0)
}

/// `PR_CAP_AMBIENT`.
fn ambient(cx: &mut Ctx<'_>, what: u64, number: u64, arg4: u64, arg5: u64) -> SysResult {
    const NO_AMBIENT_RAISE: u32 = 1 << 6;
    if arg4 != 0 || arg5 != 0 {
        return Err(Errno::EINVAL);
    }
    let mut cred = (*cx.task.cred()).clone();
    match what {
        // CLEAR_ALL
        4 if number != 0 => return Err(Errno::EINVAL),
        4 => cred.ambient = Caps::empty(),
        // IS_SET
        1 => return Ok(u64::from(cred.ambient.contains(cap(number)?))),
        // RAISE
        2 => {
            let wanted = cap(number)?;
            let may = (cred.permitted & cred.inheritable).contains(wanted);
            if !may || cred.securebits & NO_AMBIENT_RAISE != 0 {
                return Err(Errno::EPERM);
            }
            cred.ambient |= wanted;
        }
        // LOWER
        3 => cred.ambient -= cap(number)?,
        _ => return Err(Errno::EINVAL),
    }
    cx.task.set_cred(cred);
    Ok(0)
}
