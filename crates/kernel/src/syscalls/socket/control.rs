//! Ancillary data: cmsg(3), net/core/scm.c.

use std::sync::Arc;

use crate::abi::net::{
    AF_INET, AF_INET6, AF_UNIX, MSG_CTRUNC, SCM_CREDENTIALS, SCM_RIGHTS, SO_MARK, SO_PRIORITY,
    SO_TIMESTAMPING_OLD, SOL_SOCKET,
};
use crate::call::Ctx;
use crate::fd::OpenFile;
use crate::ipc::glue::{self, Ucred};
use crate::ipc::socket::{Ancillary, SocketFile};
use crate::task::Caps;
use crate::{Errno, Result};

/// Most files in one message (`SCM_MAX_FD`).
const MAX_FILES: usize = 253;
/// Size of `struct cmsghdr`.
const HEADER: usize = 16;
/// Most bytes of ancillary data that a sender may give (`net.core.optmem_max`).
const MAX_CONTROL: u64 = 131_072;

/// What travels beside the bytes.
#[derive(Default)]
pub(super) struct Control {
    pub files: Vec<Arc<OpenFile>>,
    pub cred: Option<Ucred>,
    pub other: Vec<Ancillary>,
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn align(len: usize) -> usize {
    len.next_multiple_of(8)
}

/// __scm_send().
pub(super) fn read(cx: &mut Ctx<'_>, socket: &OpenFile, at: u64, len: u64) -> Result<Control> {
    let mut control = Control::default();
    if len > i32::MAX as u64 || len > MAX_CONTROL {
        return Err(Errno::ENOBUFS);
    }
    let mut bytes = vec![0; len as usize];
    cx.mem().read_bytes(at, &mut bytes)?;
    let domain = SocketFile::of(socket)?.socket.domain();
    let (unix, internet) = (domain == AF_UNIX, matches!(domain, AF_INET | AF_INET6));
    let mut rest = bytes.as_slice();
    while rest.len() >= HEADER {
        let total = rest.get(..8).and_then(|it| Some(u64::from_ne_bytes(it.try_into().ok()?))).unwrap_or(0);
        let (level, kind) = (word(rest, 8).unwrap_or(0), word(rest, 12).unwrap_or(0));
        let total = usize::try_from(total).unwrap_or(usize::MAX);
        let Some(data) = rest.get(HEADER..total) else { return Err(Errno::EINVAL) };
        match (level, kind) {
            (SOL_SOCKET, SCM_RIGHTS) if unix => read_rights(cx, data, &mut control)?,
            (SOL_SOCKET, _) if internet => check_option(cx, kind)?,
            (SOL_SOCKET, SCM_CREDENTIALS) => control.cred = Some(read_credentials(cx, data)?),
            (SOL_SOCKET, _) if unix => return Err(Errno::EINVAL),
            _ if internet => control.other.push(Ancillary { level, kind, data: data.to_vec() }),
            _ => {}
        }
        rest = rest.get(align(total)..).unwrap_or_default();
    }
    Ok(control)
}

/// __sock_cmsg_send(): options for one message, which nothing hangs on here; what is for sockets of other families is
/// passed over.
fn check_option(cx: &Ctx<'_>, kind: u32) -> Result<()> {
    match kind {
        SO_MARK if !cx.task.cred().capable(Caps::NET_ADMIN) => Err(Errno::EPERM),
        SO_MARK | SO_PRIORITY | SO_TIMESTAMPING_OLD | SCM_RIGHTS | SCM_CREDENTIALS => Ok(()),
        _ => Err(Errno::EINVAL),
    }
}

/// scm_fp_copy().
fn read_rights(cx: &Ctx<'_>, data: &[u8], control: &mut Control) -> Result<()> {
    let count = data.len() / 4;
    if count > MAX_FILES || control.files.len() + count > MAX_FILES {
        return Err(Errno::EINVAL);
    }
    let files = cx.task.files();
    for index in 0..count {
        let fd = word(data, index * 4).unwrap_or(u32::MAX) as i32;
        control.files.push(files.get(fd)?);
    }
    Ok(())
}

/// scm_check_creds(): nobody may claim to be somebody else.
fn read_credentials(cx: &Ctx<'_>, data: &[u8]) -> Result<Ucred> {
    let field = |at| word(data, at).ok_or(Errno::EINVAL);
    let claim = Ucred { pid: field(0)?, uid: field(4)?, gid: field(8)? };
    if data.len() != 12 {
        return Err(Errno::EINVAL);
    }
    let cred = cx.task.cred();
    let pid = claim.pid == cx.task.pid() || cred.capable(Caps::SYS_ADMIN);
    let uid = [cred.uid, cred.euid, cred.suid].contains(&claim.uid) || cred.capable(Caps::SETUID);
    let gid = [cred.gid, cred.egid, cred.sgid].contains(&claim.gid) || cred.capable(Caps::SETGID);
    if !(pid && uid && gid) {
        return Err(Errno::EPERM);
    }
    if claim.pid != cx.task.pid() && cx.task.world.process(claim.pid).is_none() {
        return Err(Errno::ESRCH);
    }
    Ok(claim)
}

/// scm_recv(): writes what fits; returns how many bytes were used, and `MSG_CTRUNC` if not all fitted.
pub(super) fn write(
    cx: &mut Ctx<'_>,
    control: Control,
    at: u64,
    room: u64,
    close_on_exec: bool,
) -> Result<(u64, u32)> {
    let room = if at == 0 { 0 } else { usize::try_from(room).unwrap_or(usize::MAX).min(1 << 20) };
    let mut out = Vec::new();
    let mut flags = 0;
    let cred = control.cred.map(|cred| (SOL_SOCKET, SCM_CREDENTIALS, cred.to_bytes()));
    let other = control.other.into_iter().map(|piece| (piece.level, piece.kind, piece.data));
    for (level, kind, data) in other.chain(cred) {
        let left = room.saturating_sub(out.len());
        if left < HEADER {
            flags |= MSG_CTRUNC;
            continue;
        }
        let total = HEADER + data.len();
        if total > left {
            flags |= MSG_CTRUNC;
        }
        put(&mut out, (level, kind), &data, total.min(left), room);
    }
    if !control.files.is_empty() {
        let left = room - out.len();
        let fits = left.saturating_sub(HEADER) / 4;
        let mut numbers = Vec::new();
        let count = control.files.len();
        for file in control.files.into_iter().take(fits) {
            match glue::install_open(cx, file, close_on_exec) {
                Ok(fd) => numbers.extend((fd as u32).to_ne_bytes()),
                Err(_) => break,
            }
        }
        if numbers.len() / 4 < count {
            flags |= MSG_CTRUNC;
        }
        if !numbers.is_empty() {
            let total = HEADER + numbers.len();
            put(&mut out, (SOL_SOCKET, SCM_RIGHTS), &numbers, total, room);
        }
    }
    cx.mem().write_bytes(at, &out)?;
    Ok((out.len() as u64, flags))
}

/// put_cmsg(): `total` is the length that the header tells; padding as far as there is room.
fn put(out: &mut Vec<u8>, (level, kind): (u32, u32), data: &[u8], total: usize, room: usize) {
    out.extend((total as u64).to_ne_bytes());
    out.extend(level.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(data.get(..(total - HEADER).min(data.len())).unwrap_or_default());
    out.resize(align(out.len()).min(room), 0);
}
