//! Guests that write nonsense into their ports harm only themselves.

use std::path::{Path, PathBuf};

mod common;
use common::{compile, inside, text};

/// The directory and the compiled program, unless there is no compiler.
fn hostile() -> Option<(tempfile::TempDir, PathBuf)> {
    let compiler = "/usr/bin/gcc";
    if !Path::new(compiler).exists() {
        eprintln!("skipped: needs {compiler}");
        return None;
    }
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    let program = dir.path().join("hostile");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile.c");
    compile(compiler, &["-O1", "-mfsgsbase", "-pthread"], &source, &program);
    Some((dir, program))
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
