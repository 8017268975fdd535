//! Waiting for children (`do_wait()` in kernel/exit.c).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Process, Task, Tree, exit, usage};
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

/// One look at those children that have something to tell. `ECHILD` if there is none that could ever be reported.
fn scan(task: &Task, whom: &Whom, options: u32) -> Result<Option<Waited>> {
    let mut tree = task.world.tree.lock();
    let Some(child) = choose(&tree, task, whom, options)? else { return Ok(None) };
    // A child that was continued and ended before its parent came to look: the continuation is told first,
    // as the parent of a real child would have seen it.
    if let Some(waited) = job_control_report(&child, options) {
        return Ok(Some(waited));
    }
    let waited = zombie_report(&child);
    if options & WNOWAIT == 0 {
        usage::inherit(&task.process, &child);
        exit::reap(&mut tree, &child);
        child.exit_queue.wake_all();
    }
    Ok(Some(waited))
}

/// The first child that has something to tell. Whom the call names is not searched for (`do_wait_pid()`), nor are those
/// that are over.
fn choose(tree: &Tree, task: &Task, whom: &Whom, options: u32) -> Result<Option<Arc<Process>>> {
    let named = match whom {
        Whom::Pid(pid) => Some(tree.process(*pid).cloned()),
        Whom::Process(process) => Some(Some(process.clone())),
        Whom::Any | Whom::Group(_) => None,
    };
    let suits = |child: &Arc<Process>| eligible(task, child, whom, options);
    let tells = |child: &Arc<Process>| {
        let group = child.group();
        options & WUNTRACED != 0 && group.stop_unreported
            || options & WCONTINUED != 0 && group.continue_unreported
            || options & WEXITED != 0 && group.zombie
    };
    if let Some(named) = named {
        let is_mine = |child: &Arc<Process>| {
            !child.is_reaped() && child.parent().is_some_and(|parent| Arc::ptr_eq(&parent, &task.process))
        };
        let child = named.filter(is_mine).filter(suits).ok_or(Errno::ECHILD)?;
        return Ok(Some(child).filter(tells));
    }
    let links = task.process.links.lock();
    let children = &links.children;
    let found = match options & (WUNTRACED | WCONTINUED) {
        0 if options & WEXITED == 0 => None,
        0 => children.zombies().find(|child| suits(child)),
        _ => children.iter().find(|child| suits(child) && tells(child)),
    };
    if found.is_none() && !children.iter().any(suits) {
        return Err(Errno::ECHILD);
    }
    Ok(found.cloned())
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
