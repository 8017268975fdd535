//! `/proc/PID/limits` (`proc_pid_limits()` in fs/proc/base.c).

use super::About;
use crate::Result;
use crate::abi::linux as l;
use crate::fs::Who;

/// By `RLIMIT_*`: name and unit.
const NAMES: [(u32, &str, &str); 16] = [
    (l::RLIMIT_CPU, "Max cpu time", "seconds"),
    (l::RLIMIT_FSIZE, "Max file size", "bytes"),
    (l::RLIMIT_DATA, "Max data size", "bytes"),
    (l::RLIMIT_STACK, "Max stack size", "bytes"),
    (l::RLIMIT_CORE, "Max core file size", "bytes"),
    (l::RLIMIT_RSS, "Max resident set", "bytes"),
    (l::RLIMIT_NPROC, "Max processes", "processes"),
    (l::RLIMIT_NOFILE, "Max open files", "files"),
    (l::RLIMIT_MEMLOCK, "Max locked memory", "bytes"),
    (l::RLIMIT_AS, "Max address space", "bytes"),
    (l::RLIMIT_LOCKS, "Max file locks", "locks"),
    (l::RLIMIT_SIGPENDING, "Max pending signals", "signals"),
    (l::RLIMIT_MSGQUEUE, "Max msgqueue size", "bytes"),
    (l::RLIMIT_NICE, "Max nice priority", ""),
    (l::RLIMIT_RTPRIO, "Max realtime priority", ""),
    (l::RLIMIT_RTTIME, "Max realtime timeout", "us"),
];

fn value(limit: u64) -> String {
    if limit == u64::MAX { String::from("unlimited") } else { limit.to_string() }
}

/// The table.
pub fn show(about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    let limits = *about.live()?.rlimits.lock();
    let mut text = format!("{:<25} {:<20} {:<20} {:<10}\n", "Limit", "Soft Limit", "Hard Limit", "Units");
    for (which, name, unit) in NAMES {
        let limit = limits.get(which as usize).copied().unwrap_or_default();
        text.push_str(&format!("{name:<25} {:<20} {:<20} ", value(limit.cur), value(limit.max)));
        // Without a unit the line ends here.
        text.push_str(&if unit.is_empty() { String::from("\n") } else { format!("{unit:<10}\n") });
    }
    Ok(text.into_bytes())
}
