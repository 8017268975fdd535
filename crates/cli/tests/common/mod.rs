//! What the tests of running sandboxes share.

// No file of tests uses all of it.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command};

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Ends the sandbox even when the test fails.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `coracle run OPTIONS` of a program in `dir`, which is shown inside; its arguments are to follow.
pub fn inside(dir: &Path, options: &[&str], program: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coracle"));
    command
        .arg("run")
        .args(options)
        .arg("--bind")
        .arg(format!("{0}:{0}:ro", dir.display()))
        .arg("--")
        .arg(program);
    command
}

/// Compiles one C file.
pub fn compile(compiler: &str, flags: &[&str], source: &Path, program: &Path) {
    let built = Command::new(compiler).args(flags).arg("-o").arg(program).arg(source).status().unwrap();
    assert!(built.success(), "{compiler} {flags:?}");
}

/// A C program for a test.
pub enum Source<'a> {
    Text(&'a str),
    /// Relative to this crate.
    File(&'a str),
}

/// A directory with that program, compiled; without a compiler it says so.
pub fn compiled(flags: &[&str], source: Source<'_>) -> Option<(tempfile::TempDir, PathBuf)> {
    let compiler = "/usr/bin/gcc";
    if !Path::new(compiler).exists() {
        eprintln!("skipped: needs {compiler}");
        return None;
    }
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    let file = match source {
        Source::Text(text) => {
            let file = dir.path().join("program.c");
            std::fs::write(&file, text).unwrap();
            file
        }
        Source::File(file) => Path::new(env!("CARGO_MANIFEST_DIR")).join(file),
    };
    let program = dir.path().join("program");
    compile(compiler, flags, &file, &program);
    Some((dir, program))
}
