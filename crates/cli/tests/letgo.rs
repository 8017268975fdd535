//! What a program lets go is gone from the kernel process, too: its memory, the room of `--disk`, descriptors.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use common::{Running, Source, compiled, inside, text};

/// What a sandbox holds.
#[derive(Debug)]
struct Held {
    /// Free blocks of the file system.
    room: i64,
    /// Memory of the kernel process, in KiB.
    memory: i64,
    descriptors: i64,
}

fn held(child: &mut Child, output: &mut impl BufRead) -> Held {
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    let room = line.trim().strip_prefix("room ").unwrap_or_else(|| panic!("the program says: {line}"));
    let own = Path::new("/proc").join(child.id().to_string());
    // Not for everybody to see: a kernel process may not be dumpable.
    let descriptors = || fs::read_dir(own.join("fd")).map_or(0, |list| list.count() as i64);
    // A worker that has ended is let go by another thread.
    let end = Instant::now() + Duration::from_secs(2);
    while descriptors() > 100 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(10));
    }
    let status = fs::read_to_string(own.join("status")).unwrap();
    let memory = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    let memory = memory.trim().trim_end_matches(" kB").parse().unwrap();
    Held { room: room.parse().unwrap(), memory, descriptors: descriptors() }
}

/// One case, after `first` rounds and after so many more.
fn run(program: &Path, options: &[&str], case: &str, at: &Path, (first, more): (u32, u32)) -> [Held; 2] {
    // As much as a few rounds of the largest case need.
    let options = [&["--disk", "64M", "--timeout", "300s"], options].concat();
    let mut command = inside(program.parent().unwrap(), &options, program);
    command.arg(case).arg(at).args([first, more].map(|count| count.to_string()));
    command.current_dir(at).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = Running(command.spawn().unwrap());
    let mut output = BufReader::new(child.0.stdout.take().unwrap());
    let mut input = child.0.stdin.take().unwrap();
    let before = held(&mut child.0, &mut output);
    input.write_all(b"\n").unwrap();
    let after = held(&mut child.0, &mut output);
    drop(input);
    assert!(child.0.wait().unwrap().success());
    [before, after]
}

/// Rounds of cases that take much: each 1 MiB, or a process.
const LARGE: &[&str] = &[
    "files",
    "renamed_over",
    "unnamed",
    "memfds",
    "open_files",
    "mapped_files",
    "mapped_memfds",
    "processes",
    "programs",
    "system_v",
];
/// More than any of these may leave, in KiB: fifty bytes a round, or a page or two of each 1 MiB.
const MEMORY: i64 = 640;
const DESCRIPTORS: i64 = 20;
/// Files that were mapped are found to be no more after a few others: blocks.
const MAPPED: i64 = 16 << 8;

fn rounds(case: &str) -> (u32, u32) {
    match case {
        "large_files" => (5, 30),
        case if LARGE.contains(&case) => (40, 300),
        "threads" => (1000, 4000),
        _ => (2000, 12_000),
    }
}

fn nothing_is_left(program: &Path, options: &[&str], case: &str, at: &Path, rounds: (u32, u32)) {
    let [before, after] = run(program, options, case, at, rounds);
    let told = format!("{case} in {}: {before:?}, {after:?}", at.display());
    assert!(after.memory - before.memory < MEMORY, "{told}");
    assert!(after.descriptors - before.descriptors < DESCRIPTORS, "{told}");
    // The room of a host's file system is others', too.
    if !options.contains(&"--write") {
        assert!((after.room - before.room).abs() <= if case.starts_with("mapped") { MAPPED } else { 0 }, "{told}");
    }
}

fn program() -> Option<(tempfile::TempDir, PathBuf)> {
    compiled(&["-O1", "-pthread"], Source::File("tests/letgo.c"))
}

const FILES: &[&str] = &[
    "empty_files",
    "files",
    "large_files",
    "directories",
    "symlinks",
    "fifos",
    "sockets",
    "renamed_over",
    "exchanged",
    "unnamed",
    "open_files",
    "mapped_files",
    "links",
    "attributes",
    "watches",
    "directory_notices",
    "locks",
];

#[test]
fn files_in_memory() {
    let Some((_dir, program)) = program() else { return };
    FILES.iter().for_each(|case| nothing_is_left(&program, &[], case, Path::new("/tmp"), rounds(case)));
}

#[test]
fn files_over_the_hosts() {
    let Some((_dir, program)) = program() else { return };
    FILES
        .iter()
        .for_each(|case| nothing_is_left(&program, &["--user", "0"], case, Path::new("/opt"), rounds(case)));
}

#[test]
fn files_of_the_host() {
    let Some((_dir, program)) = program() else { return };
    let tree = tempfile::tempdir_in("/tmp").unwrap();
    for case in FILES.iter().filter(|case| !["attributes", "large_files"].contains(case)) {
        // A host's file system takes its time.
        let (first, more) = rounds(case);
        let rounds = if LARGE.contains(case) { (first / 4, more / 4) } else { (first / 10, more / 10) };
        let write = tree.path().to_str().unwrap();
        nothing_is_left(&program, &["--write", write], case, tree.path(), rounds);
    }
}

/// Contents of a file that is changed, whether it had one name or two, go with its last name.
#[test]
fn files_of_the_lower_tree_that_are_changed() {
    let Some((_dir, program)) = program() else { return };
    let tree = tempfile::tempdir_in("/tmp").unwrap();
    for number in 0..120 {
        let path = |what: &str| tree.path().join(format!("{what}-{number}"));
        fs::write(path("once"), b"once").unwrap();
        fs::write(path("twice"), b"twice").unwrap();
        fs::hard_link(path("twice"), path("again")).unwrap();
    }
    fs::set_permissions(tree.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    nothing_is_left(&program, &["--user", "0"], "lower", tree.path(), (20, 100));
}

#[test]
fn everything_else() {
    let Some((_dir, program)) = program() else { return };
    for case in [
        "memfds",
        "mapped_memfds",
        "abstract_names",
        "in_flight",
        "signalled_files",
        "watched_files",
        "system_v",
        "posix_queues",
        "terminals",
        "timers",
        "threads",
        "processes",
        "programs",
    ] {
        nothing_is_left(&program, &[], case, Path::new("/tmp"), rounds(case));
    }
}

/// A file of 1 MB is made and removed two hundred times where there is room for sixty.
#[test]
fn a_loop_that_makes_and_removes_has_room() {
    let script =
        "i=0; while [ $i -lt 200 ]; do head -c 1000000 /dev/zero >/tmp/f || exit 1; rm /tmp/f; i=$((i+1)); done";
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_coracle"));
    let output = command.args(["run", "--disk", "64M", "--", "sh", "-c", script]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}
