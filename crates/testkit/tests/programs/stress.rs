//! stress-ng: each stressor checks its own results with `--verify`.
//!
//! What is compared are its status and its messages without pids and durations. The number of operations
//! ends a run; `-t` is only the bound for a run that hangs. A stressor that the installed version does not
//! know is refused with the same words on both sides.

use coracle_testkit::{Case, Package};

const STRESS_NG: Package = Package::new("stress-ng", "/usr/bin/stress-ng");

pub fn cases() -> Vec<Case> {
    // Name, how many workers, how many operations.
    let stressors = [
        ("clock", 2, 400),
        ("vdso", 2, 2_000_000),
        ("getrandom", 2, 2000),
        ("urandom", 2, 2000),
        ("hrtimers", 2, 20_000),
        ("sigvtalrm", 2, 20),
        ("itimer", 2, 100),
        ("rseq", 1, 1),
        ("eventfd", 2, 1000),
        ("fork", 2, 20),
        ("futex", 2, 1000),
        ("mincore", 1, 500),
        ("mq", 2, 500),
        ("pty", 1, 2),
        ("sigfd", 2, 500),
        ("sigsuspend", 2, 200),
        ("sockpair", 2, 500),
        ("timerfd", 1, 100),
        ("vfork", 2, 20),
    ];
    let case = |&(name, workers, operations): &(&str, u32, u32)| {
        let script = format!(
            "stress-ng --{name} {workers} --{name}-ops {operations} -t 20 --verify >log 2>&1; status=$?; \
             sed -E 's/\\[[0-9]+\\] //; s/ in [0-9.]+ ?s.*//; s/[0-9]+ (critical|flag)/N \\1/g' log; rm log; echo status $status"
        );
        // glibc registers rseq for itself, and then nobody else can.
        Case::sh(format!("stress-ng::{name}"), &script)
            .env("GLIBC_TUNABLES", "glibc.pthread.rseq=0")
            .needs(STRESS_NG)
            .timeout(60)
    };
    stressors.iter().map(case).collect()
}
