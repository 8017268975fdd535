//! Files that a program inherits as standard output: the caller's log, and how large a file may become.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Output, Stdio};

mod common;
use common::{Source, compiled, inside, text};

/// The program with this file as standard output; `None` without a compiler.
fn run(options: &[&str], arguments: &[&str], out: File) -> Option<Output> {
    let (dir, program) = compiled(&["-O1", "-w"], Source::File("tests/hostile/streams.c"))?;
    let options = [options, &["--timeout", "60s", "--log", "error"]].concat();
    let mut command = inside(dir.path(), &options, &program);
    command.args(arguments).stdout(Stdio::from(out)).stderr(Stdio::piped());
    Some(command.spawn().unwrap().wait_with_output().unwrap())
}

fn open(path: &Path, append: bool) -> File {
    OpenOptions::new().read(true).write(true).append(append).create(true).open(path).unwrap()
}

#[test]
fn a_log_can_only_be_added_to() {
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    let log = dir.path().join("log");
    fs::write(&log, "before\n").unwrap();
    for options in [&[][..], &["--output-limit", "1M"]] {
        let before = fs::read_to_string(&log).unwrap();
        let Some(output) = run(options, &["log"], open(&log, true)) else { return };
        let told = [
            "ftruncate to nothing: EPERM",
            "ftruncate to more: EPERM",
            "truncate by path: EPERM",
            "punch: EPERM",
            "collapse: EPERM",
            "zero: EPERM",
            "insert: EPERM",
            "map: EACCES",
            "copy: EBADF",
            "sendfile: EINVAL",
            "splice: EINVAL",
            "pwrite: ok",
            "pwritev2 that appends not: EPERM",
            "flags without O_APPEND: EPERM",
            "flags with O_NONBLOCK: ok",
            "open: ok",
            "open to cut off: ok",
            "open to cut off, for reading: ok",
            "seek and write: ok",
            "mode: EPERM",
            "stat: ok",
            "over",
        ];
        assert_eq!(text(&output.stderr).lines().collect::<Vec<_>>(), told);
        assert_eq!(fs::read_to_string(&log).unwrap(), before + "POOS");
    }
}

#[test]
fn no_file_becomes_larger_than_its_limit() {
    const LIMIT: u64 = 1000;
    let ways = [
        "ftruncate",
        "truncate",
        "fallocate",
        "keep",
        "insert",
        "pwrite",
        "pwritev2",
        "seek",
        "copy",
        "splice",
        "open",
        "again",
    ];
    for way in ways {
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let out = dir.path().join("out");
        let Some(output) = run(&["--output-limit", "1000"], &["limit", way, ""], open(&out, false)) else {
            return;
        };
        let meta = fs::metadata(&out).unwrap();
        assert!(
            meta.len() <= LIMIT && meta.blocks() <= 16,
            "{way}: {} bytes, {} blocks",
            meta.len(),
            meta.blocks()
        );
        assert_eq!(output.status.code(), Some(137), "{way}: {}", text(&output.stderr));
    }
}
