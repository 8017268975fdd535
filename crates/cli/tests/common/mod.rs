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

/// A hostile guest: `hostile/NAME`, with the layout of ports and the offsets of the shim's labels as the kernel has them.
pub fn compiled_hostile(name: &str) -> Option<(tempfile::TempDir, PathBuf)> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile");
    let layout = tempfile::tempdir_in("/tmp").unwrap();
    std::fs::write(layout.path().join("layout.h"), layout_of_ports()).unwrap();
    let (own, made) = (here.to_string_lossy(), layout.path().to_string_lossy());
    let flags = ["-O1", "-mfsgsbase", "-pthread", "-static", "-no-pie", "-I", &own, "-I", &made];
    compiled(&flags, Source::File(&format!("tests/hostile/{name}")))
}

fn layout_of_ports() -> String {
    use coracle_abi::port::{self, action, kind, word};
    use coracle_blobs::label;
    let words = [
        ("STATE", word::STATE),
        ("NUMBER", word::NUMBER),
        ("ARGS", word::ARGS),
        ("RESULT", word::RESULT),
        ("FRAME", word::FRAME),
        ("FS_BASE", word::FS_BASE),
        ("GS_BASE", word::GS_BASE),
        ("ORDER", word::ORDER),
        ("COOKIE", word::COOKIE),
        ("STACK", word::STACK),
    ];
    let labels = [
        ("ORDER_CALL", label::ORDER_CALL),
        ("NOTIFY_CALL", label::NOTIFY_CALL),
        ("PORT_FUTEX", label::PORT_FUTEX),
        ("CLONE_AFTER", label::CLONE_AFTER),
        ("SEND_LISTENER", label::SEND_LISTENER),
    ];
    let others = [
        ("POSTED", u64::from(port::POSTED)),
        ("REPLIED", u64::from(port::REPLIED)),
        ("KIND_TRAP", u64::from(kind::TRAP)),
        ("KIND_DONE", u64::from(kind::DONE)),
        ("ACTION_CLONE", u64::from(action::CLONE)),
        ("ACTION_EXIT", u64::from(action::EXIT)),
        ("PORT_SIZE", port::PORT_SIZE),
        ("SEALED", port::SEALED_OFFSET),
        ("SEALED_LEN", port::SEALED_SIZE),
        ("SET_SIZE", port::CPU_SET_SIZE as u64),
    ];
    let words = words.map(|(name, offset)| format!("#define WORD_{name} {offset}ull\n"));
    let labels = labels.map(|(name, offset)| format!("#define LABEL_{name} {offset}ull\n"));
    let others = others.map(|(name, value)| format!("#define {name} {value}ull\n"));
    [words.concat(), labels.concat(), others.concat()].concat()
}

/// Everybody may look into it.
pub fn open_to_all(dir: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
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
