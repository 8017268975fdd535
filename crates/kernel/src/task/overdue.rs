//! Threads that were told to end and do not stop: a guest that writes nonsense into its port can wait for an answer
//! that nobody owes it. SIGKILL must end it all the same.

use std::sync::Arc;

use super::Process;
use crate::abi::linux::SIGKILL;
use crate::time::{Alarm, Clock, Kind};

/// Far longer than a thread takes to stop on a machine under load, in nanoseconds.
const LIMIT: i64 = 3_000_000_000;

/// The end of `process` has begun, or somebody wants it again.
pub(super) fn watch(process: &Process, wait_status: i32) {
    let tasks = process.tasks();
    // A thread that is alone and was not killed is the one that ends it.
    let others = tasks.len() > 1 || wait_status == SIGKILL as i32;
    let Some(task) = tasks.first().filter(|_| others) else { return };
    let mut overdue = process.overdue.lock();
    if overdue.is_some() {
        return;
    }
    let weak = Arc::downgrade(&task.process);
    let clock = Clock::World(process.world.clocks.clone(), Kind::Monotonic);
    let alarm = Alarm::new(&process.world, clock, move || {
        if let Some(process) = weak.upgrade() {
            insist(&process);
        }
    });
    alarm.set(LIMIT, 0, false);
    *overdue = Some(alarm);
}

/// On the wheel's thread.
fn insist(process: &Process) {
    let tasks = process.tasks();
    if tasks.is_empty() {
        return;
    }
    for task in tasks {
        task.control().insist();
    }
    if let Some(alarm) = process.overdue.lock().as_ref() {
        alarm.set(LIMIT, 0, false);
    }
}

/// The process is over.
pub(super) fn forget(process: &Process) {
    if let Some(alarm) = process.overdue.lock().take() {
        alarm.set(0, 0, false);
    }
}
