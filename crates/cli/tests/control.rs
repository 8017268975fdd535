//! `coracle ps`, `kill` and `exec` against a running sandbox; what `run` prints about itself.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

mod common;
use common::{Running, text};

/// Machines under load take their time.
const PATIENCE: Duration = Duration::from_secs(120);

/// The command, with a place for control sockets of its own.
fn coracle(dir: &tempfile::TempDir, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coracle"));
    command.args(args).env("XDG_RUNTIME_DIR", dir.path()).stdin(Stdio::null());
    command
}

fn output(dir: &tempfile::TempDir, args: &[&str]) -> Output {
    coracle(dir, args).output().unwrap()
}

fn end(running: &mut Running) -> ExitStatus {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = running.0.try_wait().unwrap() {
            return status;
        }
        assert!(Instant::now() < until, "it does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A sandbox that sleeps, and its id once it can be found.
fn sleeper(dir: &tempfile::TempDir) -> (Running, String) {
    let mut running = Running(coracle(dir, &["run", "--", "sleep", "300"]).spawn().unwrap());
    let until = Instant::now() + PATIENCE;
    loop {
        let listed = output(dir, &["ps", "-q"]);
        assert!(listed.status.success(), "{}", text(&listed.stderr));
        if let Some(id) = text(&listed.stdout).lines().next() {
            return (running, id.to_owned());
        }
        assert_eq!(running.0.try_wait().unwrap(), None, "it ended by itself");
        assert!(Instant::now() < until, "it is never listed");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_running_sandbox_is_listed_entered_and_ended() {
    let dir = tempfile::tempdir().unwrap();
    let (mut running, id) = sleeper(&dir);
    let table = text(&output(&dir, &["ps"]).stdout);
    assert!(table.lines().count() == 2 && table.contains(&id) && table.contains("sleep 300"), "{table}");

    let echo = output(&dir, &["exec", &id, "--", "echo", "from inside"]);
    assert_eq!((text(&echo.stdout).as_str(), text(&echo.stderr).as_str()), ("from inside\n", ""));
    assert!(echo.status.success());
    // It sees the processes of that sandbox, and its status comes back.
    let find = "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline; echo; done | grep -q '^sleep 300' && exit 7";
    assert_eq!(output(&dir, &["exec", &id[..4], "--", "sh", "-c", find]).status.code(), Some(7));
    let other =
        output(&dir, &["exec", "-C", "/usr", "-e", "A=b", &id, "--", "sh", "-c", "pwd; echo $A; kill -9 $$"]);
    assert_eq!((text(&other.stdout).as_str(), other.status.code()), ("/usr\nb\n", Some(137)));
    let missing = output(&dir, &["exec", &id, "--", "no-such-program"]);
    assert_eq!(missing.status.code(), Some(127));
    assert!(text(&missing.stderr).contains("no-such-program"), "{}", text(&missing.stderr));

    assert!(output(&dir, &["kill", &id]).status.success());
    let status = end(&mut running);
    assert_eq!((status.code(), status.signal()), (Some(137), None));
    assert_eq!(text(&output(&dir, &["ps", "-q"]).stdout), "");
    let again = output(&dir, &["kill", &id]);
    assert!(!again.status.success() && text(&again.stderr).contains("no sandbox"), "{}", text(&again.stderr));
}

#[test]
fn signals_go_to_the_first_program() {
    let dir = tempfile::tempdir().unwrap();
    let (mut running, id) = sleeper(&dir);
    assert!(output(&dir, &["kill", "--signal", "TERM", &id]).status.success());
    assert_eq!(end(&mut running).code(), Some(128 + 15));
}

#[test]
fn signals_to_exec_go_to_its_program() {
    let dir = tempfile::tempdir().unwrap();
    let (_running, id) = sleeper(&dir);
    let script = "trap 'echo told; exit 9' TERM; echo ready; while :; do sleep 0.05; done";
    let mut exec = coracle(&dir, &["exec", &id, "--", "sh", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(exec.stdout.take().unwrap()).lines();
    let mut exec = Running(exec);
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    let pid = rustix::process::Pid::from_child(&exec.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "told");
    assert_eq!(end(&mut exec).code(), Some(9));
}

#[test]
fn ps_speaks_json() {
    let dir = tempfile::tempdir().unwrap();
    let (_running, id) = sleeper(&dir);
    let line: serde_json::Value = serde_json::from_slice(&output(&dir, &["ps", "--json"]).stdout).unwrap();
    assert_eq!((line["id"].as_str(), &line["argv"]), (Some(id.as_str()), &serde_json::json!(["sleep", "300"])));
}

#[test]
fn the_output_limit_is_for_all_programs_together() {
    let dir = tempfile::tempdir().unwrap();
    let run = output(&dir, &["run", "--json", "--output-limit", "10", "--", "seq", "1000"]);
    assert_eq!((text(&run.stdout).as_str(), run.status.code()), ("1\n2\n3\n4\n5\n", Some(137)));
    let said = text(&run.stderr);
    assert!(said.contains("--output-limit 10") && said.contains("\"reason\":\"killed\""), "{said}");
}

#[test]
fn errors_are_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let scratch = dir.path().join("not-a.tar");
    std::fs::write(&scratch, "hello\n".repeat(500)).unwrap();
    let file = scratch.to_str().unwrap();
    for (args, status, words) in [
        (&["run"][..], 125, "<PROG>"),
        (&["run", "--bogus", "--", "true"], 125, "--bogus"),
        (&["run", "--memory", "x", "--", "true"], 125, "512M"),
        (&["run", "--workdir", "/no/where", "--", "true"], 125, "--workdir /no/where"),
        (&["run", "--rootfs", file, "--", "true"], 125, "not a tar file"),
        (&["run", "--user", "nobody-here", "--", "true"], 125, "nobody-here"),
        (&["run", "--", "no-such-program"], 127, "no-such-program"),
        (&["run", "--", "/etc/passwd"], 126, "/etc/passwd"),
        (&["exec", "none", "--", "true"], 125, "none"),
    ] {
        let run = output(&dir, args);
        let said = text(&run.stderr);
        assert!(run.status.code() == Some(status) && said.lines().count() == 1, "{args:?}: {said}");
        assert!(said.starts_with("coracle: ") && said.contains(words), "{args:?}: {said}");
    }
    let run = output(&dir, &["run", "--json", "--", "no-such-program"]);
    let line = text(&run.stderr).lines().last().map(str::to_owned).unwrap();
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!((line["status"].as_u64(), line["reason"].as_str()), (Some(127), Some("exit")));
    assert!(line["error"].as_str().unwrap().contains("no-such-program"));
}

#[test]
fn files_in_memory_count_once() {
    let dir = tempfile::tempdir().unwrap();
    let script = "head -c 20M /dev/zero >/dev/shm/x; grep -E '^(MemTotal|Shmem):' /proc/meminfo | tr -dc '0-9\\n'";
    let run = output(&dir, &["run", "-m", "100M", "--", "sh", "-c", script]);
    let figures: Vec<u64> = text(&run.stdout).lines().map(|line| line.parse().unwrap()).collect();
    let [total, shared] = figures[..] else { panic!("{figures:?}") };
    assert_eq!(total, 100 << 10);
    assert!((20 << 10..24 << 10).contains(&shared), "{shared}");
}

#[test]
fn the_sandbox_knows_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let script = "hostname; cat /etc/hostname; getent hosts box | tr -s ' '";
    let run = output(&dir, &["run", "--hostname", "box", "--", "sh", "-c", script]);
    assert_eq!(text(&run.stdout), "box\nbox\n127.0.1.1 box\n", "{}", text(&run.stderr));
}

#[test]
fn users_are_looked_up_inside() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    for part in ["bin", "etc"] {
        std::fs::create_dir_all(root.join(part)).unwrap();
    }
    if std::fs::copy("/bin/busybox", root.join("bin/busybox")).is_err() {
        return;
    }
    std::fs::write(root.join("etc/passwd"), "captain:x:77:88::/:/bin/sh\n").unwrap();
    let root = root.to_str().unwrap();
    let run = output(&dir, &["run", "--rootfs", root, "-u", "captain", "--", "/bin/busybox", "id", "-u"]);
    assert_eq!((text(&run.stdout).as_str(), text(&run.stderr).as_str()), ("77\n", ""));
}

#[test]
fn start_up_is_traced_in_steps() {
    let dir = tempfile::tempdir().unwrap();
    let traced = output(&dir, &["run", "--trace=startup", "--", "true"]);
    let lines = text(&traced.stderr);
    assert!(traced.status.success(), "{lines}");
    assert!(lines.lines().filter(|line| line.starts_with("startup ")).count() >= 12, "{lines}");
    assert_eq!(text(&output(&dir, &["run", "--", "true"]).stderr), "");
}

#[test]
fn more_cpus_than_there_are_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let inside = output(&dir, &["run", "--cpus", "100000", "--", "nproc"]);
    let native = Command::new("nproc").output().unwrap();
    assert_eq!(text(&inside.stdout), text(&native.stdout));
    let said = text(&inside.stderr);
    assert!(
        said.lines().count() == 1 && said.contains("--cpus 100000") && said.contains(text(&native.stdout).trim())
    );
}

#[test]
fn the_program_begins_with_the_nice_value_of_its_caller() {
    let command = [env!("CARGO_BIN_EXE_coracle"), "run", "--", "nice"];
    let nicer = Command::new("nice").args(["-n", "3", "nice"]).output().unwrap();
    let inside = Command::new("nice").args(["-n", "3"]).args(command).output().unwrap();
    assert_eq!(
        (text(&inside.stdout), inside.status.code()),
        (text(&nicer.stdout), Some(0)),
        "{}",
        text(&inside.stderr)
    );
}
