//! Guests that write nonsense into their ports harm only themselves.

use std::path::Path;
use std::process::Command;

mod common;
use common::text;

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
    let built = Command::new(compiler)
        .args(["-O1", "-mfsgsbase", "-pthread", "-o"])
        .arg(&program)
        .arg(source)
        .status()
        .unwrap();
    assert!(built.success());
    // More rounds on demand; each takes up to five seconds.
    let rounds = std::env::var("HOSTILE_ROUNDS").unwrap_or_else(|_| "12".to_owned());
    let output = Command::new(env!("CARGO_BIN_EXE_coracle"))
        .args(["run", "--log", "error", "--bind"])
        .arg(format!("{0}:{0}:ro", dir.path().display()))
        .arg("--")
        .arg(&program)
        .args(["1", &rounds])
        .output()
        .unwrap();
    let told = (text(&output.stdout), output.status.code());
    assert_eq!(told, ("every round has ended\n".to_owned(), Some(0)), "{}", text(&output.stderr));
}
