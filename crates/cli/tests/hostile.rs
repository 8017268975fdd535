//! Guests that write nonsense into their ports harm only themselves.

use std::path::Path;

mod common;
use common::{compile, inside, text};

#[test]
fn nonsense_in_a_port_ends_its_process_and_nothing_else() {
    let compiler = "/usr/bin/gcc";
    if !Path::new(compiler).exists() {
        eprintln!("skipped: needs {compiler}");
        return;
    }
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    let program = dir.path().join("hostile");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile.c");
    compile(compiler, &["-O1", "-mfsgsbase", "-pthread"], &source, &program);
    // More rounds on demand; each takes up to five seconds.
    let rounds = std::env::var("HOSTILE_ROUNDS").unwrap_or_else(|_| "12".to_owned());
    let mut command = inside(dir.path(), &["--log", "error"], &program);
    let output = command.args(["1", &rounds]).output().unwrap();
    let told = (text(&output.stdout), output.status.code());
    assert_eq!(told, ("every round has ended\n".to_owned(), Some(0)), "{}", text(&output.stderr));
}
