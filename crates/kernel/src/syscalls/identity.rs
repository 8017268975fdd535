//! Users, groups and capabilities (kernel/sys.c, kernel/groups.c, kernel/capability.c).

use std::sync::Arc;

use crate::call::{Addr, Ctx};
use crate::task::{CAP_LAST, Caps, Cred};
use crate::{Errno, Result, SysResult};

crate::calls! {
    102 getuid getuid, 0 Full;
    104 getgid getgid, 0 Full;
    105 setuid setuid, 1 Full;
    106 setgid setgid, 1 Full;
    107 geteuid geteuid, 0 Full;
    108 getegid getegid, 0 Full;
    113 setreuid setreuid, 2 Full;
    114 setregid setregid, 2 Full;
    115 getgroups getgroups, 2 Full;
    116 setgroups setgroups, 2 Full;
    117 setresuid setresuid, 3 Full;
    118 getresuid getresuid, 3 Full;
    119 setresgid setresgid, 3 Full;
    120 getresgid getresgid, 3 Full;
    122 setfsuid setfsuid, 1 Full;
    123 setfsgid setfsgid, 1 Full;
    125 capget capget, 2 Full;
    126 capset capset, 2 Full;
}

/// "Leave it" in the calls that set several ids.
const KEEP: u32 = u32::MAX;

const SECURE_NO_SETUID_FIXUP: u32 = 1 << 2;
const SECURE_KEEP_CAPS: u32 = 1 << 4;

/// Capabilities that go with file access by user 0 (`CAP_FS_SET`).
const CAP_FS: Caps = Caps::CHOWN
    .union(Caps::DAC_OVERRIDE)
    .union(Caps::DAC_READ_SEARCH)
    .union(Caps::FOWNER)
    .union(Caps::FSETID)
    .union(Caps::LINUX_IMMUTABLE)
    .union(Caps::MKNOD);

/// `cap_emulate_setxuid()` in security/commoncap.c.
fn fix_caps(old: &Cred, new: &mut Cred) {
    if old.securebits & SECURE_NO_SETUID_FIXUP != 0 {
        return;
    }
    let was_root = old.uid == 0 || old.euid == 0 || old.suid == 0;
    let is_root = new.uid == 0 || new.euid == 0 || new.suid == 0;
    if was_root && !is_root {
        if old.securebits & SECURE_KEEP_CAPS == 0 {
            new.permitted = Caps::empty();
            new.effective = Caps::empty();
        }
        new.ambient = Caps::empty();
    }
    if old.euid == 0 && new.euid != 0 {
        new.effective = Caps::empty();
    }
    if old.euid != 0 && new.euid == 0 {
        new.effective = new.permitted;
    }
}

fn commit_users(cx: &Ctx<'_>, old: &Cred, mut new: Cred) -> SysResult {
    fix_caps(old, &mut new);
    cx.task.set_cred(new);
    Ok(0)
}

fn getuid(cx: &mut Ctx<'_>) -> SysResult {
    Ok(u64::from(cx.task.cred().uid))
}

fn geteuid(cx: &mut Ctx<'_>) -> SysResult {
    Ok(u64::from(cx.task.cred().euid))
}

fn getgid(cx: &mut Ctx<'_>) -> SysResult {
    Ok(u64::from(cx.task.cred().gid))
}

fn getegid(cx: &mut Ctx<'_>) -> SysResult {
    Ok(u64::from(cx.task.cred().egid))
}

fn setuid(cx: &mut Ctx<'_>, uid: u32) -> SysResult {
    if uid == KEEP {
        return Err(Errno::EINVAL);
    }
    let old = cx.task.cred();
    let mut new = (*old).clone();
    if old.capable(Caps::SETUID) {
        (new.uid, new.suid) = (uid, uid);
    } else if uid != old.uid && uid != old.suid {
        return Err(Errno::EPERM);
    }
    (new.euid, new.fsuid) = (uid, uid);
    commit_users(cx, &old, new)
}

fn setreuid(cx: &mut Ctx<'_>, uid: u32, euid: u32) -> SysResult {
    let old = cx.task.cred();
    let mut new = (*old).clone();
    let privileged = old.capable(Caps::SETUID);
    if uid != KEEP {
        if uid != old.uid && uid != old.euid && !privileged {
            return Err(Errno::EPERM);
        }
        new.uid = uid;
    }
    if euid != KEEP {
        if ![old.uid, old.euid, old.suid].contains(&euid) && !privileged {
            return Err(Errno::EPERM);
        }
        new.euid = euid;
    }
    if uid != KEEP || (euid != KEEP && euid != old.uid) {
        new.suid = new.euid;
    }
    new.fsuid = new.euid;
    commit_users(cx, &old, new)
}

fn setresuid(cx: &mut Ctx<'_>, uid: u32, euid: u32, suid: u32) -> SysResult {
    let old = cx.task.cred();
    let mut new = (*old).clone();
    let allowed = |id: u32| id == KEEP || [old.uid, old.euid, old.suid].contains(&id);
    let all = [uid, euid, suid].into_iter().all(allowed);
    if !all && !old.capable(Caps::SETUID) {
        return Err(Errno::EPERM);
    }
    for (place, id) in [(&mut new.uid, uid), (&mut new.euid, euid), (&mut new.suid, suid)] {
        if id != KEEP {
            *place = id;
        }
    }
    new.fsuid = new.euid;
    commit_users(cx, &old, new)
}

fn setgid(cx: &mut Ctx<'_>, gid: u32) -> SysResult {
    if gid == KEEP {
        return Err(Errno::EINVAL);
    }
    let old = cx.task.cred();
    let mut new = (*old).clone();
    if old.capable(Caps::SETGID) {
        (new.gid, new.sgid) = (gid, gid);
    } else if gid != old.gid && gid != old.sgid {
        return Err(Errno::EPERM);
    }
    (new.egid, new.fsgid) = (gid, gid);
    cx.task.set_cred(new);
    Ok(0)
}

fn setregid(cx: &mut Ctx<'_>, gid: u32, egid: u32) -> SysResult {
    let old = cx.task.cred();
    let mut new = (*old).clone();
    let privileged = old.capable(Caps::SETGID);
    if gid != KEEP {
        if gid != old.gid && gid != old.egid && !privileged {
            return Err(Errno::EPERM);
        }
        new.gid = gid;
    }
    if egid != KEEP {
        if ![old.gid, old.egid, old.sgid].contains(&egid) && !privileged {
            return Err(Errno::EPERM);
        }
        new.egid = egid;
    }
    if gid != KEEP || (egid != KEEP && egid != old.gid) {
        new.sgid = new.egid;
    }
    new.fsgid = new.egid;
    cx.task.set_cred(new);
    Ok(0)
}

fn setresgid(cx: &mut Ctx<'_>, gid: u32, egid: u32, sgid: u32) -> SysResult {
    let old = cx.task.cred();
    let mut new = (*old).clone();
    let allowed = |id: u32| id == KEEP || [old.gid, old.egid, old.sgid].contains(&id);
    let all = [gid, egid, sgid].into_iter().all(allowed);
    if !all && !old.capable(Caps::SETGID) {
        return Err(Errno::EPERM);
    }
    for (place, id) in [(&mut new.gid, gid), (&mut new.egid, egid), (&mut new.sgid, sgid)] {
        if id != KEEP {
            *place = id;
        }
    }
    new.fsgid = new.egid;
    cx.task.set_cred(new);
    Ok(0)
}

fn getresuid(cx: &mut Ctx<'_>, uid: Addr, euid: Addr, suid: Addr) -> SysResult {
    let cred = cx.task.cred();
    cx.mem().write(uid.0, &cred.uid)?;
    cx.mem().write(euid.0, &cred.euid)?;
    cx.mem().write(suid.0, &cred.suid)?;
    Ok(0)
}

fn getresgid(cx: &mut Ctx<'_>, gid: Addr, egid: Addr, sgid: Addr) -> SysResult {
    let cred = cx.task.cred();
    cx.mem().write(gid.0, &cred.gid)?;
    cx.mem().write(egid.0, &cred.egid)?;
    cx.mem().write(sgid.0, &cred.sgid)?;
    Ok(0)
}

/// Returns the old id, whether it worked or not.
fn setfsuid(cx: &mut Ctx<'_>, uid: u32) -> SysResult {
    let old = cx.task.cred();
    let allowed = [old.uid, old.euid, old.suid, old.fsuid].contains(&uid) || old.capable(Caps::SETUID);
    if uid != KEEP && allowed && uid != old.fsuid {
        let mut new = (*old).clone();
        new.fsuid = uid;
        if old.securebits & SECURE_NO_SETUID_FIXUP == 0 {
            if old.fsuid == 0 {
                new.effective -= CAP_FS;
            } else if uid == 0 {
                new.effective |= new.permitted & CAP_FS;
            }
        }
        cx.task.set_cred(new);
    }
    Ok(u64::from(old.fsuid))
}

fn setfsgid(cx: &mut Ctx<'_>, gid: u32) -> SysResult {
    let old = cx.task.cred();
    let allowed = [old.gid, old.egid, old.sgid, old.fsgid].contains(&gid) || old.capable(Caps::SETGID);
    if gid != KEEP && allowed {
        let mut new = (*old).clone();
        new.fsgid = gid;
        cx.task.set_cred(new);
    }
    Ok(u64::from(old.fsgid))
}

/// `NGROUPS_MAX`.
const NGROUPS_MAX: i32 = 65536;

fn getgroups(cx: &mut Ctx<'_>, size: i32, list: Addr) -> SysResult {
    if size < 0 {
        return Err(Errno::EINVAL);
    }
    let cred = cx.task.cred();
    let count = cred.groups.len();
    if size > 0 {
        if count > size as usize {
            return Err(Errno::EINVAL);
        }
        let bytes: Vec<u8> = cred.groups.iter().flat_map(|group| group.to_ne_bytes()).collect();
        cx.mem().write_bytes(list.0, &bytes)?;
    }
    Ok(count as u64)
}

fn setgroups(cx: &mut Ctx<'_>, size: i32, list: Addr) -> SysResult {
    let old = cx.task.cred();
    if !old.capable(Caps::SETGID) {
        return Err(Errno::EPERM);
    }
    if !(0..=NGROUPS_MAX).contains(&size) {
        return Err(Errno::EINVAL);
    }
    let mut bytes = vec![0; size as usize * 4];
    cx.mem().read_bytes(list.0, &mut bytes)?;
    let word = |chunk: &[u8]| chunk.first_chunk::<4>().map_or(0, |chunk| u32::from_ne_bytes(*chunk));
    let mut groups: Vec<u32> = bytes.chunks_exact(4).map(word).collect();
    if groups.contains(&KEEP) {
        return Err(Errno::EINVAL);
    }
    groups.sort_unstable();
    let mut new = (*old).clone();
    new.groups = groups;
    cx.task.set_cred(new);
    Ok(0)
}

const VERSION_1: u32 = 0x1998_0330;
const VERSION_2: u32 = 0x2007_1026;
const VERSION_3: u32 = 0x2008_0522;

/// `cap_validate_magic()`: how many `__user_cap_data_struct` follow; an unknown version is told ours.
fn cap_words(cx: &mut Ctx<'_>, header: u64) -> Result<Option<usize>> {
    match cx.mem().read::<u32>(header)? {
        VERSION_1 => Ok(Some(1)),
        VERSION_2 | VERSION_3 => Ok(Some(2)),
        _ => {
            cx.mem().write(header, &VERSION_3)?;
            Ok(None)
        }
    }
}

fn capget(cx: &mut Ctx<'_>, header: u64, data: Addr) -> SysResult {
    let words = match cap_words(cx, header)? {
        Some(words) => words,
        None if data.non_null().is_none() => return Ok(0),
        None => return Err(Errno::EINVAL),
    };
    let pid = cx.mem().read::<i32>(header.wrapping_add(4))?;
    if pid < 0 {
        return Err(Errno::EINVAL);
    }
    let cred = match pid {
        0 => cx.task.cred(),
        1 => Arc::new(Cred::new(0, 0, Vec::new())),
        pid => cx.task.world.task(pid as u32).ok_or(Errno::ESRCH)?.cred(),
    };
    let mut bytes = Vec::with_capacity(24);
    for word in 0..words {
        for set in [cred.effective, cred.permitted, cred.inheritable] {
            bytes.extend_from_slice(&((set.bits() >> (32 * word)) as u32).to_ne_bytes());
        }
    }
    match data.non_null() {
        Some(data) => cx.mem().write_bytes(data, &bytes)?,
        None => return Err(Errno::EINVAL),
    }
    Ok(0)
}

/// `cap_capset()` in security/commoncap.c.
fn capset(cx: &mut Ctx<'_>, header: u64, data: Addr) -> SysResult {
    let words = cap_words(cx, header)?.ok_or(Errno::EINVAL)?;
    let pid = cx.mem().read::<u32>(header.wrapping_add(4))?;
    if pid != 0 && pid != cx.task.tid() {
        return Err(Errno::EPERM);
    }
    let raw: Vec<u32> = cx.mem().read_array(data.0, words * 3)?;
    let set = |which: usize| {
        let low = u64::from(raw.get(which).copied().unwrap_or(0));
        let high = u64::from(raw.get(which + 3).copied().unwrap_or(0));
        Caps::from_bits_retain(low | high << 32) & Caps::FULL
    };
    let (effective, permitted, inheritable) = (set(0), set(1), set(2));
    let old = cx.task.cred();
    let inheritable_limit =
        if old.capable(Caps::SETPCAP) { old.inheritable | old.bounding } else { old.inheritable | old.permitted };
    let refused = !inheritable_limit.contains(inheritable)
        || !(old.inheritable | old.bounding).contains(inheritable)
        || !old.permitted.contains(permitted)
        || !permitted.contains(effective);
    if refused {
        return Err(Errno::EPERM);
    }
    let mut new = (*old).clone();
    new.effective = effective;
    new.permitted = permitted;
    new.inheritable = inheritable;
    new.ambient &= permitted & inheritable;
    cx.task.set_cred(new);
    Ok(0)
}

/// A capability number as a set, or `EINVAL`.
pub(super) fn cap(number: u64) -> Result<Caps> {
    if number <= u64::from(CAP_LAST) { Ok(Caps::from_bits_retain(1 << number)) } else { Err(Errno::EINVAL) }
}
