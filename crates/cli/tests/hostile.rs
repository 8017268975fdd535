//! Guests that write nonsense into their ports harm only themselves.

use std::path::PathBuf;

use tempfile::TempDir;

mod common;
use common::{Source, compiled, inside, text};

fn hostile() -> Option<(TempDir, PathBuf)> {
    compiled(&["-O1", "-mfsgsbase", "-pthread"], Source::File("tests/hostile.c"))
}

#[test]
fn nonsense_in_a_port_ends_its_process_and_nothing_else() {
    let Some((dir, program)) = hostile() else { return };
    // More rounds on demand; each takes up to five seconds.
    let rounds = std::env::var("HOSTILE_ROUNDS").unwrap_or_else(|_| "12".to_owned());
    let mut command = inside(dir.path(), &["--log", "error"], &program);
    let output = command.args(["1", &rounds]).output().unwrap();
    let told = (text(&output.stdout), output.status.code());
    assert_eq!(told, ("every round has ended\n".to_owned(), Some(0)), "{}", text(&output.stderr));
}

#[test]
fn nonsense_in_the_port_of_a_process_that_ends_alone() {
    let Some((dir, program)) = hostile() else { return };
    // A run that hangs ends here, by itself; one that does not takes a few seconds.
    let mut command = inside(dir.path(), &["--log", "error", "--timeout", "60s"], &program);
    let output = command.arg("farewell").output().unwrap();
    let told = (text(&output.stdout), output.status.code());
    assert_eq!(told, ("it has ended\n".to_owned(), Some(0)), "{}", text(&output.stderr));
}
