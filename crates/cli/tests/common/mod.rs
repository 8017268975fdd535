//! What the tests of running sandboxes share.

// No file of tests uses all of it.
#![allow(dead_code)]

use std::path::Path;
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
