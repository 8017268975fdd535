//! Sandboxes inside a program of one's own. Its test binary is its own kernel process.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use coracle::{Error, Reason, Running, Sandbox, SandboxBuilder, Stream};

/// Machines under load take their time.
const PATIENCE: Duration = Duration::from_secs(120);

fn shell(script: &str) -> SandboxBuilder {
    let mut builder = Sandbox::builder();
    builder.program("sh").args(["-c", script]).stdin(Stream::Null).stdout(Stream::Pipe).stderr(Stream::Pipe);
    builder
}

fn ended(running: &Running) -> coracle::Outcome {
    running.wait_timeout(PATIENCE).unwrap().expect("it ends in time")
}

#[test]
fn pipes_carry_input_and_output() {
    let mut running = shell("read line; echo \"got $line\"; echo oops >&2").stdin(Stream::Pipe).spawn().unwrap();
    running.stdin.take().unwrap().write_all(b"words\n").unwrap();
    let output = running.wait_with_output().unwrap();
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"got words\n"[..], &b"oops\n"[..]));
    assert_eq!((output.outcome.status, output.outcome.reason), (Some(0), Reason::Exit));
    assert!(output.outcome.wall_ns > 0 && output.outcome.lanes.port + output.outcome.lanes.trap > 0);
}

#[test]
fn a_sandbox_is_ended_by_kill_timeout_and_drop() {
    let running = shell("sleep 300").spawn().unwrap();
    assert_eq!(running.try_wait().unwrap(), None);
    assert_eq!(running.wait_timeout(Duration::from_millis(1)).unwrap(), None);
    running.kill().unwrap();
    let outcome = ended(&running);
    assert_eq!((outcome.signal, outcome.reason), (Some(9), Reason::Killed));
    running.kill().unwrap();

    let running = shell("exec sleep 300").timeout(Duration::from_millis(50)).spawn().unwrap();
    assert_eq!(ended(&running).reason, Reason::Timeout);

    let mut running = shell("sleep 300").spawn().unwrap();
    let (pid, mut out) = (running.pid(), running.stdout.take().unwrap());
    drop(running);
    // Everybody who could write to the pipe is gone.
    assert_eq!(out.read_to_end(&mut Vec::new()).unwrap(), 0);
    let until = Instant::now() + PATIENCE;
    while std::path::Path::new(&format!("/proc/{pid}")).exists() {
        assert!(Instant::now() < until, "the kernel process stays");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn what_cannot_start_says_why() {
    let missing = Sandbox::builder().program("no-such-program").spawn().unwrap_err();
    assert!(matches!(missing, Error::Program { errno: 2, .. }), "{missing:?}");
    assert_eq!(missing.exit_code(), 127);
    assert!(matches!(Sandbox::builder().spawn(), Err(Error::Config(_))));
    let foreign = Sandbox::builder().program("true").kernel_path("/bin/false").spawn().unwrap_err();
    assert!(foreign.to_string().contains("CORACLE_KERNEL"), "{foreign}");
}

#[test]
fn many_sandboxes_from_tokio_leave_nothing_behind() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let one = |number: u32| {
        move || {
            let output = shell(&format!("echo {number}")).spawn().unwrap().wait_with_output().unwrap();
            (output.outcome.status, String::from_utf8(output.stdout).unwrap())
        }
    };
    let mut before = 0;
    for round in 0..13 {
        let jobs: Vec<_> = (0..4).map(|number| (number, runtime.spawn_blocking(one(number)))).collect();
        for (number, job) in jobs {
            assert_eq!(runtime.block_on(job).unwrap(), (Some(0), format!("{number}\n")), "round {round}");
        }
        if round == 0 {
            before = descriptors();
        }
    }
    // Tests beside this one hold some of their own; 48 sandboxes would leave more.
    assert!(descriptors() < before + 24, "{before} descriptors, then {}", descriptors());
    assert_eq!(zombies(), 0);
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Children of this process that ended and that nobody waits for: the same ones over some time.
fn zombies() -> usize {
    let now = || -> std::collections::HashSet<u32> {
        let me = std::process::id().to_string();
        let pids = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let rest = stat.rsplit(')').next().unwrap_or_default().to_owned();
            let mut fields = rest.split_whitespace();
            fields.next() == Some("Z") && fields.next() == Some(&me)
        })
        .collect()
    };
    let first = now();
    std::thread::sleep(Duration::from_secs(2));
    now().intersection(&first).count()
}
