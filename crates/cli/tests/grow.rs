//! So many of everything that a program can have many of, that time which grows with the square of the number would be
//! noticed. (The same program is compared with a native run, on fewer, by the testkit.)

mod common;

use std::path::Path;
use std::process::Command;

use common::{compile, open_to_all, text};

/// As searches, these took minutes or hours.
const MANY: u32 = 40_000;

fn grows(cases: &[&str], options: &[&str]) {
    let compiler = "/usr/bin/gcc";
    if !Path::new(compiler).exists() {
        eprintln!("skipped: needs {compiler}");
        return;
    }
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    open_to_all(dir.path());
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests/c");
    let program = dir.path().join("grow");
    let include = format!("-I{}", fixtures.display());
    let flags = ["-O1", "-w", "-D_GNU_SOURCE", "-pthread", include.as_str()];
    compile(compiler, &flags, &fixtures.join("grow.c"), &program);
    for case in cases {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coracle"));
        command.args(["run", "--timeout", "100s", "-e", &format!("CORACLE_TEST_MANY={MANY}"), "--bind"]);
        command.arg(format!("{}:/grow:ro", program.display())).args(options);
        let output = command.args(["--", "/grow", case]).output().unwrap();
        let (told, said) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(0), "{case}: {told}{said}");
        let wrong = |line: &str| {
            line.split_once(' ').is_some_and(|(count, rest)| {
                count != "0"
                    && count.parse::<u64>().is_ok()
                    && ["wrong", "failed"].iter().any(|word| rest.starts_with(word))
            })
        };
        assert!(!told.lines().any(wrong), "{case}: {told}{said}");
    }
}

#[test]
fn files() {
    let cases = [
        "descriptors",
        "records",
        "shared_records",
        "inotify",
        "directory_notices",
        "asynchronous",
        "names",
        "deep",
    ];
    grows(&cases, &["-C", "/tmp"]);
}

#[test]
fn files_over_the_hosts() {
    grows(&["inotify", "names", "changed_names", "deep", "deep_and_gone"], &["--user", "0", "-C", "/opt"]);
}

#[test]
fn objects() {
    let cases =
        ["semaphore_sets", "semaphores_of_a_set", "undone", "segments", "queues", "messages", "posix_queues"];
    grows(&cases, &["--user", "0", "-C", "/tmp"]);
    grows(&["priorities", "epoll", "in_flight", "terminals"], &["--user", "0", "-C", "/tmp"]);
}

#[test]
fn processes() {
    grows(&["signals", "timers", "processes", "generations", "threads"], &["-C", "/tmp"]);
}
