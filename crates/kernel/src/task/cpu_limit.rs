//! `RLIMIT_CPU` (`check_process_timers()` in kernel/time/posix-cpu-timers.c): SIGXCPU at the soft limit and every
//! second after, SIGKILL at the hard limit.

use std::sync::Arc;

use super::Process;
use crate::abi::linux::{RLIMIT_CPU, SIGKILL, SIGXCPU};
use crate::abi::types::Rlimit;
use crate::signal;
use crate::time::{Alarm, Clock, CpuPart};

const SECOND: i64 = 1_000_000_000;

fn limit(process: &Process) -> Rlimit {
    let limits = process.rlimits.lock();
    limits.get(RLIMIT_CPU as usize).copied().unwrap_or(Rlimit { cur: u64::MAX, max: u64::MAX })
}

/// Watches the limit of `process`, which was just set or inherited.
pub fn watch(process: &Arc<Process>) {
    let limit = limit(process);
    let Ok(seconds) = i64::try_from(limit.cur.min(limit.max)) else { return };
    let mut place = process.cpu_alarm.lock();
    let alarm = place.get_or_insert_with(|| {
        let weak = Arc::downgrade(process);
        let clock = Clock::Process(weak.clone(), CpuPart::All);
        Alarm::new(&process.world, clock, move || {
            if let Some(process) = weak.upgrade() {
                expired(&process);
            }
        })
    });
    // A limit of zero means one second.
    alarm.set(seconds.max(1).saturating_mul(SECOND), 0, true);
}

/// On the wheel's thread.
fn expired(process: &Arc<Process>) {
    let limit = limit(process);
    let alarm = process.cpu_alarm.lock().clone();
    let Some(alarm) = alarm else { return };
    let used = u64::try_from(alarm.clock.now() / SECOND).unwrap_or(0);
    if used >= limit.max {
        process.begin_exit(SIGKILL as i32);
        return;
    }
    if used >= limit.cur.max(1) {
        signal::send_kernel(process, SIGXCPU as i32);
    }
    alarm.set(SECOND, 0, false);
}

/// The process is over.
pub(super) fn forget(process: &Process) {
    if let Some(alarm) = process.cpu_alarm.lock().take() {
        alarm.set(0, 0, false);
    }
}
