//! Process groups and sessions (kernel/sys.c).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use super::{Process, Session};
use crate::{Errno, Result};

/// `setpgid(2)`; both numbers are resolved already. Checks come in the order of kernel/sys.c.
pub fn set_group(caller: &Arc<Process>, pid: u32, pgid: u32) -> Result<()> {
    let mut tree = caller.world.tree.lock();
    let target = tree.process(pid).cloned();
    let target = target.ok_or(if tree.task(pid).is_some() { Errno::EINVAL } else { Errno::ESRCH })?;
    if target.parent().is_some_and(|parent| Arc::ptr_eq(&parent, caller)) {
        if target.sid() != caller.sid() {
            return Err(Errno::EPERM);
        }
        if target.did_exec.load(Ordering::Relaxed) {
            return Err(Errno::EACCES);
        }
    } else if !Arc::ptr_eq(&target, caller) {
        return Err(Errno::ESRCH);
    }
    if target.sid() == target.pid {
        return Err(Errno::EPERM);
    }
    if pgid != pid && !tree.group(pgid).any(|member| member.sid() == caller.sid()) {
        return Err(Errno::EPERM);
    }
    tree.set_group(&target, pgid);
    Ok(())
}

/// `setsid(2)`: `EPERM` for one whose number names a group already.
pub fn new_session(caller: &Arc<Process>) -> Result<u32> {
    let mut tree = caller.world.tree.lock();
    if tree.group(caller.pid).next().is_some() || caller.sid() == caller.pid {
        return Err(Errno::EPERM);
    }
    tree.set_group(caller, caller.pid);
    tree.set_session(caller, Arc::new(Session { sid: caller.pid, terminal: Mutex::new(None) }));
    Ok(caller.pid)
}
