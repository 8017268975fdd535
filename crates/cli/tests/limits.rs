//! Programs that take more than they were granted by ways that nobody asks the kernel about first.

use std::process::Output;

mod common;
use common::{Source, compiled, inside, text};

/// One case of the program; `None` without a compiler.
fn run(options: &[&str], case: &str) -> Option<Output> {
    let (dir, program) = compiled(&["-O1"], Source::File("tests/limits.c"))?;
    // One that is not stopped ends here.
    let options = [options, &["--timeout", "60s"]].concat();
    Some(inside(dir.path(), &options, &program).arg(case).output().unwrap())
}

fn prints(options: &[&str], case: &str, expected: &str) {
    if let Some(output) = run(options, case) {
        let told = (text(&output.stdout), output.status.code());
        assert_eq!(told, (expected.to_owned(), Some(0)), "{}", text(&output.stderr));
    }
}

fn is_ended(options: &[&str], case: &str, status: i32, message: &str) {
    if let Some(output) = run(options, case) {
        let (told, error) = (text(&output.stdout), text(&output.stderr));
        assert_eq!((told.as_str(), output.status.code()), ("", Some(status)), "{error}");
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn holes_that_are_filled_count_against_the_disk() {
    let expected = "length: ok\nwritten: what fits, ENOSPC\nreserved: ENOSPC\nafter that: ok\n";
    prints(&["--disk", "32M"], "sparse", expected);
}

#[test]
fn a_mapping_beyond_the_disk_gets_the_signal_of_a_full_tmpfs() {
    is_ended(&["--disk", "32M"], "mapped", 128 + 7, "no space: ");
}

#[test]
fn files_that_were_mapped_and_removed_give_their_room_back() {
    prints(&["--disk", "32M"], "unlinked", "there was room for all\n");
}

#[test]
fn segments_that_nobody_has_attached_count_as_memory() {
    is_ended(&["--memory", "256M"], "segments", 128 + 9, "out of memory: ");
}

#[test]
fn queues_of_sockets_count_as_memory() {
    is_ended(&["--memory", "128M"], "queues", 128 + 9, "out of memory: ");
}

#[test]
fn names_of_files_count_as_memory() {
    is_ended(&["--memory", "128M", "--disk", "1G"], "names", 128 + 9, "out of memory: ");
}

/// As on Linux for those who are not root: with 64 descriptors, five messages of sixteen each.
#[test]
fn files_in_flight_are_as_many_as_descriptors() {
    prints(&["--user", "1000"], "travellers", "5, ETOOMANYREFS\n");
}

/// The program itself is one of twenty.
#[test]
fn zombies_count_as_processes() {
    prints(&["--pids", "20"], "zombies", "19, EAGAIN\n");
}
