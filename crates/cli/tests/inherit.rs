//! What a program inherits of the caller: the umask and ignored signals, as by a plain execve(2).

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

mod common;
use common::{Running, text};

const CORACLE: &str = env!("CARGO_BIN_EXE_coracle");

/// What this prints natively and inside, run by a shell that begins so.
fn both(begin: &str, script: &str) -> (String, String) {
    let run = |program: &str| {
        let command = format!("{begin}; exec {program} sh -c '{script}'");
        let output = Command::new("sh").args(["-c", &command]).output().unwrap();
        text(&output.stdout)
    };
    (run(""), run(&format!("{CORACLE} run --")))
}

const SIGNALS: &str = "grep -E \"^Sig(Ign|Cgt|Blk)\" /proc/self/status";

#[test]
fn ignored_signals_stay_ignored() {
    for begin in
        ["true", "trap \"\" HUP", "trap \"\" INT QUIT TSTP", "trap \"\" PIPE USR1 CHLD WINCH", "trap true INT"]
    {
        let (native, inside) = both(begin, SIGNALS);
        assert_eq!(native, inside, "{begin}");
        assert!(native.contains("SigIgn"), "{native}");
    }
}

#[test]
fn the_umask_is_the_callers() {
    for mask in ["022", "027", "0", "777"] {
        let (native, inside) = both(&format!("umask {mask}"), "umask");
        assert_eq!(native, inside);
    }
}

#[test]
fn files_on_the_host_get_the_modes_that_the_program_asks_for() {
    let script = "cd DIR; touch file; mkdir directory; mkfifo fifo; umask 0; touch open; cp /bin/true program; \
                  chmod 4750 program; mkdir -m 1700 sticky; stat -c \"%n %a\" *";
    for mask in ["022", "077", "002"] {
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let at = |part: &str| dir.path().join(part).display().to_string();
        let (native, inside) = (at("native"), at("inside"));
        for path in [&native, &inside] {
            std::fs::create_dir(path).unwrap();
        }
        let run = |program: &str, path: &str| {
            let script = script.replace("DIR", path);
            let command = format!("umask {mask}; exec {program} sh -c '{script}'");
            text(&Command::new("sh").args(["-c", &command]).output().unwrap().stdout)
        };
        let expected = run("", &native);
        assert_eq!(run(&format!("{CORACLE} run --write {inside} --"), &inside), expected);
        assert_eq!(expected.lines().count(), 6);
    }
}

/// A sandbox that waits for the end of its input, in a place of its own.
fn sandbox(place: &std::path::Path) -> Running {
    let script = "trap : TERM; echo ready; read line";
    let mut command = Command::new(CORACLE);
    command.args(["run", "--", "sh", "-c", script]).env("XDG_RUNTIME_DIR", place);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    Running(child)
}

#[test]
fn exec_hands_on_what_its_own_caller_has() {
    let place = tempfile::tempdir().unwrap();
    let _sandbox = sandbox(place.path());
    let run = |script: &str| {
        let output =
            Command::new("sh").args(["-c", script]).env("XDG_RUNTIME_DIR", place.path()).output().unwrap();
        (text(&output.stdout), text(&output.stderr))
    };
    let id = run(&format!("{CORACLE} ps")).0;
    let id = id.lines().nth(1).and_then(|line| line.split(' ').next()).expect("it runs").to_owned();
    for begin in ["umask 027", "umask 002; trap \"\" HUP INT PIPE"] {
        let status = "grep -E \"^(Umask|SigIgn)\" /proc/self/status";
        let native = run(&format!("{begin}; exec sh -c '{status}'"));
        let inside = run(&format!("{begin}; exec {CORACLE} exec {id} -- sh -c '{status}'"));
        assert_eq!(native, inside);
        assert_eq!(native.0.lines().count(), 2);
    }
}

/// nohup(1) and a shell's background jobs: the signal reaches a program that ignores it.
#[test]
fn a_run_goes_on_after_a_signal_that_its_caller_ignores() {
    for signal in ["HUP", "INT", "TSTP"] {
        let script = format!(
            "trap '' {signal}; {CORACLE} run -- sh -c 'echo ready; sleep 1; echo survived' & \
             sleep 0.5; kill -{signal} $!; wait $!; echo $?"
        );
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(text(&output.stdout), "ready\nsurvived\n0\n", "{signal}");
    }
}
