//! Guests that forge who they are: a number is no proof, and nothing that was born in a sandbox outlives it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

mod common;
use common::{Running, compiled_hostile, inside, text};

/// What a case prints if nothing is left of it.
const NOTHING_LEFT: &str = "nothing goes on: 1\nrefused once at most: 1\n\
    threads told to end and let make others: 0\nothers can fork: 1\n";

/// One at a time: some cases need both processors.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_harmless(case: &str) {
    if let Some(told) = told_by(case) {
        assert_eq!(told, NOTHING_LEFT, "{case}");
    }
}

/// `None` without a compiler.
fn told_by(case: &str) -> Option<String> {
    let _alone = alone();
    let (dir, program) = compiled_hostile("identity.c")?;
    let options = ["--log", "error", "--timeout", "100s", "--pids", "60"];
    let output = inside(dir.path(), &options, &program).arg(case).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{case}: {}", text(&output.stderr));
    Some(text(&output.stdout))
}

#[test]
fn a_thread_is_no_new_worker() {
    is_harmless("thread");
}

#[test]
fn a_worker_announces_itself_once() {
    is_harmless("leader");
}

#[test]
fn who_asks_for_what_nobody_expects_is_ended() {
    is_harmless("nobody");
}

#[test]
fn a_clone_goes_the_way_that_was_checked() {
    is_harmless("register");
    is_harmless("cookie");
}

#[test]
fn a_clone_that_never_announces_itself_is_found() {
    for case in ["step-success", "step-failure", "step-silence"] {
        let Some(told) = told_by(case) else { return };
        // Two threads must run at the same moment: a machine with much else to do may not let them.
        let rest = told.strip_prefix("a clone went astray: 0\n").inspect(|_| println!("{case} did not come off"));
        let rest = rest.or_else(|| told.strip_prefix("a clone went astray: 1\n"));
        assert_eq!(rest, Some(NOTHING_LEFT), "{case}: {told}");
    }
}

#[test]
fn threads_that_do_not_end_when_they_are_told_to() {
    is_harmless("threads");
}

#[test]
fn the_new_instructions_do_nothing_for_others() {
    let Some((dir, program)) = compiled_hostile("identity.c") else { return };
    let output = inside(dir.path(), &["--log", "error"], &program).arg("calls").output().unwrap();
    let expected = "the listener is sent again: EBADF\nCPUs of another: ENOMEM\nCPUs by a longer set: ENOMEM\n\
        CPUs by a set of its own: ENOMEM\nCPUs by a set in its port: ENOMEM\nCPUs by a set beyond the page: ENOMEM\n\
        the sealed page made writable: ENOMEM\nits group left: ENOMEM\nits session left: ENOMEM\n";
    assert_eq!(text(&output.stdout), format!("{expected}{NOTHING_LEFT}"), "{}", text(&output.stderr));
}

/// Processes of a group that are no zombies (proc_pid_stat(5), fields 3 and 5).
fn members(group: &str) -> Vec<String> {
    let stats = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let stat = fs::read_to_string(entry.ok()?.path().join("stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        (fields.get(2) == Some(&group) && !matches!(fields.first(), Some(&"Z" | &"X"))).then_some(stat)
    });
    stats.collect()
}

/// The process group of the workers of this kernel process.
fn group_of(kernel: u32) -> String {
    let tasks = fs::read_dir(format!("/proc/{kernel}/task")).unwrap();
    let children: String =
        tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok()).collect();
    let worker = children.split_whitespace().next().expect("a worker");
    let stat = fs::read_to_string(format!("/proc/{worker}/stat")).unwrap();
    stat.rsplit_once(')').unwrap().1.split_whitespace().nth(2).unwrap().to_owned()
}

/// The kernel process is killed beside a clone that has no PR_SET_PDEATHSIG and never announced itself.
fn guardian_ends_all(mut command: Command, program: &Path) {
    let _alone = alone();
    command.args(["run", "--log", "error", "--timeout", "60s", "--bind"]);
    let dir = program.parent().unwrap().display();
    command.arg(format!("{dir}:{dir}:ro")).arg("--").arg(program).arg("stay");
    let mut running = Running(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(running.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    if line == "never born\n" {
        return println!("skipped: no clone went astray on this busy machine");
    }
    assert_eq!(line, "born\n");
    let group = group_of(running.0.id());
    // The first worker, the zygote, the guardian, the parent and its clone.
    assert!(members(&group).len() >= 5, "{:?}", members(&group));
    running.0.kill().unwrap();
    running.0.wait().unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    while !members(&group).is_empty() {
        assert!(Instant::now() < until, "these live on: {:?}", members(&group));
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn nothing_outlives_a_kernel_that_is_killed() {
    let Some((_dir, program)) = compiled_hostile("identity.c") else { return };
    guardian_ends_all(Command::new(env!("CARGO_BIN_EXE_coracle")), &program);
}

#[test]
fn nothing_outlives_the_kernel_of_an_ordinary_user() {
    if !rustix::process::geteuid().is_root() {
        return println!("skipped: needs root to become somebody else");
    }
    let Some((dir, program)) = compiled_hostile("identity.c") else { return };
    let coracle: PathBuf = dir.path().join("coracle");
    fs::copy(env!("CARGO_BIN_EXE_coracle"), &coracle).unwrap();
    common::open_to_all(dir.path());
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "12345", "--regid", "12345", "--clear-groups"]).arg(&coracle);
    guardian_ends_all(command, &program);
}
