//! When the kernel process is killed, at whatever moment, no worker stays behind.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

mod common;
use common::Running;

/// Machines under load take their time.
const PATIENCE: Duration = Duration::from_secs(120);

/// Workers and guardians that have come to this process since their kernel died, zombies aside.
fn orphans() -> Vec<String> {
    let me = format!("PPid:\t{}\n", std::process::id());
    let all = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("status")).ok());
    all.filter(|status| {
        let ours = ["Name:\tmemfd:coracle-w\n", "Name:\tcoracle-guard\n"];
        status.contains(&me) && ours.iter().any(|name| status.contains(name)) && !status.contains("State:\tZ")
    })
    .collect()
}

#[test]
fn nothing_outlives_the_kernel() {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    for round in 0..60u64 {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coracle"));
        // Workers are born all the time, by fork and by execve.
        command.args(["run", "--", "sh", "-c", "while :; do (/bin/true) & /bin/true; done"]);
        let mut running = Running(command.stdin(Stdio::null()).spawn().unwrap());
        std::thread::sleep(Duration::from_micros(round * 700));
        running.0.kill().unwrap();
        running.0.wait().unwrap();
    }
    let until = Instant::now() + PATIENCE;
    while !orphans().is_empty() {
        assert!(Instant::now() < until, "these live on:\n{}", orphans().join("\n"));
        std::thread::sleep(Duration::from_millis(20));
    }
}
