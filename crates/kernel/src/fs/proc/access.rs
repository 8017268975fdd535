//! Who may look into a process (ptrace(2), "Ptrace access mode checking").

use std::sync::Arc;

use crate::fs::Who;
use crate::fs::synth::About;
use crate::task::{Caps, Cred, Process};
use crate::{Errno, Result};

/// `ptrace_may_access(PTRACE_MODE_READ_FSCREDS)` (kernel/ptrace.c): `EPERM` if not.
pub fn may_read(who: Who<'_>, process: &Arc<Process>) -> Result<()> {
    if who.task.is_some_and(|task| Arc::ptr_eq(&task.process, process)) {
        return Ok(());
    }
    let caller = who.cred;
    let target = cred(process);
    let same = [target.euid, target.suid, target.uid].iter().all(|uid| *uid == caller.fsuid)
        && [target.egid, target.sgid, target.gid].iter().all(|gid| *gid == caller.fsgid);
    let mighty = caller.capable(Caps::SYS_PTRACE);
    let dumpable = process.mm().is_none_or(|mm| mm.image.lock().dumpable == 1);
    // The target's capabilities must not exceed the caller's (__ptrace_may_access in security/commoncap.c).
    let tame = caller.effective.contains(target.permitted);
    if mighty || (same && dumpable && tame) { Ok(()) } else { Err(Errno::EPERM) }
}

/// The credentials of a process: those of its first thread, or the last it had.
pub fn cred(process: &Process) -> Arc<Cred> {
    match process.any_task() {
        Some(task) => task.cred(),
        None => process.last_words().map_or_else(|| Arc::new(Cred::new(0, 0, Vec::new())), |last| last.1),
    }
}

/// `task_dump_owner()` (fs/proc/base.c): entries of processes that may not be dumped are root's. World-readable
/// directories stay their owner's, which is close enough for all of them.
pub fn owner(about: &About) -> (u32, u32) {
    let Some(process) = &about.process else { return (0, 0) };
    let dumpable = process.mm().is_none_or(|mm| mm.image.lock().dumpable == 1);
    if !dumpable && about.mode.is_some() {
        return (0, 0);
    }
    let cred = match &about.task {
        Some(task) => task.cred(),
        None => cred(process),
    };
    (cred.euid, cred.egid)
}
