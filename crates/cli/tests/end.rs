//! The end of a run: nothing outlives it, however it comes.

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Running, text};

/// A sandbox in which two programs run beside the first, which ends with its input.
fn crowd(options: &[&str]) -> Running {
    let script = "sleep 1000 & sleep 1000 & echo ready; read line; exit 7";
    let mut command = Command::new(env!("CARGO_BIN_EXE_coracle"));
    command.arg("run").args(options).args(["--", "sh", "-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = Running(command.spawn().unwrap());
    let mut line = Vec::new();
    BufReader::new(child.0.stdout.as_mut().unwrap()).read_until(b'\n', &mut line).unwrap();
    assert_eq!(text(&line), "ready\n");
    child
}

/// When a process started, which tells it from a later one with its number (proc_pid_stat(5), field 22). None that is
/// over; whether somebody has waited for it is not up to us.
fn started(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if matches!(fields.next()?, "Z" | "X") { None } else { fields.nth(18).map(str::to_owned) }
}

/// Children of all its threads.
fn children(pid: u32) -> Vec<(u32, String)> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("children")).ok());
    let pids: Vec<u32> = lists.collect::<String>().split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    pids.into_iter().filter_map(|pid| Some((pid, started(pid)?))).collect()
}

/// Waits until none of them exists.
fn all_gone(workers: &[(u32, String)]) {
    let begun = Instant::now();
    while let Some((pid, _)) = workers.iter().find(|(pid, start)| started(*pid).as_ref() == Some(start)) {
        assert!(begun.elapsed() < Duration::from_secs(30), "worker {pid} survives");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn nothing_outlives_the_first_program() {
    let mut child = crowd(&[]);
    let workers = children(child.0.id());
    // The shell, two sleepers, the zygote.
    assert!(workers.len() >= 4, "{workers:?}");
    drop(child.0.stdin.take());
    assert_eq!(child.0.wait().unwrap().code(), Some(7));
    all_gone(&workers);
}

#[test]
fn nothing_outlives_a_kernel_that_is_killed() {
    let mut child = crowd(&[]);
    let workers = children(child.0.id());
    assert!(workers.len() >= 4, "{workers:?}");
    child.0.kill().unwrap();
    child.0.wait().unwrap();
    all_gone(&workers);
}

/// Where this host lets groups be made that limit memory, if it does; `doctor` has tried.
fn groups() -> Option<String> {
    let doctor = Command::new(env!("CARGO_BIN_EXE_coracle")).arg("doctor").output().unwrap();
    let line = text(&doctor.stdout).lines().find(|line| line.contains("writable at"))?.to_owned();
    line.split_once("writable at ").map(|(_, place)| place.trim().to_owned())
}

#[test]
fn the_host_limits_memory_where_it_can() {
    let Some(place) = groups() else { return println!("nothing to test: no memory group can be made here") };
    let group = |pid| format!("{place}/coracle-{pid}");
    let mut child = crowd(&["--memory", "64M"]);
    let workers = children(child.0.id());
    assert!(workers.len() >= 4, "{workers:?}");
    let members = fs::read_to_string(format!("{}/cgroup.procs", group(child.0.id()))).unwrap();
    let guards =
        |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "coracle-guard\n");
    for (pid, start) in workers.iter().filter(|(pid, _)| !guards(pid)) {
        let inside = members.lines().any(|line| line == pid.to_string());
        assert!(inside || started(*pid).as_ref() != Some(start), "{pid} is not in {members:?}");
    }
    assert!(!members.lines().any(|line| line == child.0.id().to_string()));
    drop(child.0.stdin.take());
    assert_eq!(child.0.wait().unwrap().code(), Some(7));
    assert!(!fs::exists(group(child.0.id())).unwrap());

    // What a killed one has left is removed by the next.
    let mut child = crowd(&["--memory", "64M"]);
    let workers = children(child.0.id());
    child.0.kill().unwrap();
    child.0.wait().unwrap();
    all_gone(&workers);
    let mut command = Command::new(env!("CARGO_BIN_EXE_coracle"));
    let greedy = command.args(["run", "--memory", "64M", "--json", "--", "tail", "/dev/zero"]).output().unwrap();
    assert!(!fs::exists(group(child.0.id())).unwrap());
    assert_eq!(greedy.status.code(), Some(137));
    assert!(text(&greedy.stderr).contains("out_of_memory"), "{}", text(&greedy.stderr));
}
