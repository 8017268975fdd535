//! Waiting for children (`do_wait()` in kernel/exit.c).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Process, Task, exit, usage};
use crate::abi::linux::{
    __WALL, __WCLONE, __WNOTHREAD, SIGCHLD, SIGCONT, WCONTINUED, WEXITED, WNOHANG, WNOWAIT, WUNTRACED,
};
use crate::abi::types::Rusage;
use crate::{Errno, Result};

const CLD_STOPPED: i32 = 5;
const CLD_CONTINUED: i32 = 6;

/// Whom to wait for.
#[derive(Clone)]
pub enum Whom {
    Any,
    Pid(u32),
    Group(u32),
    /// `P_PIDFD`.
    Process(Arc<Process>),
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Waited {
    pub pid: u32,
    pub uid: u32,
    /// As `wait4` stores it.
    pub status: i32,
    /// As `waitid` stores it: `CLD_*` and exit code or signal.
    pub code: i32,
    pub value: i32,
    pub rusage: Rusage,
}

/// Waits as `options` say; `None` for `WNOHANG` with nothing to report.
pub fn wait(task: &Task, whom: &Whom, options: u32) -> Result<Option<Waited>> {
    task.block(None, |table| {
        table.watch(&task.process.child_queue);
        match scan(task, whom, options) {
            Ok(None) if options & WNOHANG == 0 => None,
            other => Some(other),
        }
    })?
}

fn eligible(task: &Task, child: &Process, whom: &Whom, options: u32) -> bool {
    let named = match whom {
        Whom::Any => true,
        Whom::Pid(pid) => child.pid == *pid,
        Whom::Group(pgid) => child.pgid() == *pgid,
        Whom::Process(process) => std::ptr::eq(child, &**process),
    };
    // `eligible_child()`: a "clone" child is one that does not send SIGCHLD.
    let clone_child = child.exit_signal.load(Ordering::Relaxed) != SIGCHLD as i32;
    let kind = options & __WALL != 0 || clone_child == (options & __WCLONE != 0);
    let mine = options & __WNOTHREAD == 0 || child.links.lock().parent_tid == task.tid();
    named && kind && mine
}

/// One look at all children. `ECHILD` if there is none that could ever be reported.
fn scan(task: &Task, whom: &Whom, options: u32) -> Result<Option<Waited>> {
    let mut tree = task.world.tree.lock();
    let mut any = false;
    for child in task.process.children() {
        if !eligible(task, &child, whom, options) {
            continue;
        }
        any = true;
        // A child that was continued and ended before its parent came to look: the continuation is told first,
        // as the parent of a real child would have seen it.
        if let Some(waited) = job_control_report(&child, options) {
            return Ok(Some(waited));
        }
        let zombie = child.is_zombie();
        if zombie && options & WEXITED != 0 {
            let waited = zombie_report(&child);
            if options & WNOWAIT == 0 {
                usage::inherit(&task.process, &child);
                exit::reap(&mut tree, &child);
                child.exit_queue.wake_all();
            }
            return Ok(Some(waited));
        }
    }
    if any { Ok(None) } else { Err(Errno::ECHILD) }
}

fn zombie_report(child: &Process) -> Waited {
    let status = child.group().status();
    let (code, value) = exit::decode(status);
    report(child, status, code, value)
}

fn job_control_report(child: &Process, options: u32) -> Option<Waited> {
    let (status, code, value) = {
        let mut group = child.group.lock();
        if options & WUNTRACED != 0 && group.stop_unreported {
            group.stop_unreported = options & WNOWAIT != 0;
            let signal = group.stop.unwrap_or(0);
            (signal << 8 | 0x7f, CLD_STOPPED, signal)
        } else if options & WCONTINUED != 0 && group.continue_unreported {
            group.continue_unreported = options & WNOWAIT != 0;
            (0xffff, CLD_CONTINUED, SIGCONT as i32)
        } else {
            return None;
        }
    };
    Some(report(child, status, code, value))
}

fn report(child: &Process, status: i32, code: i32, value: i32) -> Waited {
    let mut rusage = usage::of_process(child);
    usage::add(&mut rusage, &usage::of_children(child));
    Waited { pid: child.pid, uid: child.last_uid.load(Ordering::Relaxed), status, code, value, rusage }
}
