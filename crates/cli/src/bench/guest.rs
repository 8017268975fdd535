//! The programs that are measured: carried as source, compiled against the system's libc when first needed,
//! and kept. They must lie where the default view of a sandbox shows them, so not in a home or in /tmp.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

pub const SOURCE: &str = include_str!("../../../../guests/bench/bench.c");
const HELLO: &str = include_str!("../../../../guests/bench/hello.c");

/// Size of the file that the rows read. bench.c knows it too.
const DATA_SIZE: usize = 1 << 20;

/// Where the compiled programs and their data are.
#[derive(Debug, Clone)]
pub struct Guest {
    pub dir: PathBuf,
    pub bench: PathBuf,
    pub hello_static: PathBuf,
    pub hello_dynamic: PathBuf,
    pub data: PathBuf,
}

/// Why the guest cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    #[error("{compiler} cannot be run ({source}); install a C compiler (Debian: gcc and libc6-dev) or set CC")]
    NoCompiler { compiler: String, source: io::Error },
    #[error("{compiler} cannot compile {what}: {first}")]
    Compile { compiler: String, what: &'static str, first: String },
    #[error("{}: {source}; set CORACLE_CACHE to a directory of yours that everybody may read", .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} is not a directory that only you can write; remove it or set CORACLE_CACHE", .0.display())]
    Foreign(PathBuf),
}

/// The programs, compiled now unless an earlier run left them.
pub fn build() -> Result<Guest, GuestError> {
    let compiler = std::env::var("CC").ok().filter(|cc| !cc.is_empty()).unwrap_or_else(|| "cc".to_owned());
    let dir = cache_dir()?;
    let mut hasher = DefaultHasher::new();
    (SOURCE, HELLO, &compiler).hash(&mut hasher);
    let stem = format!("{:016x}", hasher.finish());
    let named = |what: &str| dir.join(format!("{what}-{stem}"));
    let guest = Guest {
        bench: named("bench"),
        hello_static: named("hello-static"),
        hello_dynamic: named("hello"),
        data: named("data"),
        dir,
    };
    compile(&compiler, "the bench program", SOURCE, &["-pthread"], &guest.bench)?;
    compile(&compiler, "a static program", HELLO, &["-static"], &guest.hello_static)?;
    compile(&compiler, "a dynamic program", HELLO, &[], &guest.hello_dynamic)?;
    publish(&guest.data, 0o644, |path| std::fs::write(path, data()))?;
    Ok(guest)
}

/// A directory of ours that everybody can read. /var/tmp is shared, so what is found there is checked.
fn cache_dir() -> Result<PathBuf, GuestError> {
    let uid = rustix::process::getuid().as_raw();
    let base = std::env::var_os("CORACLE_CACHE").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    let dir = base.join(format!("coracle-bench-{uid}"));
    let failed = |source| GuestError::Io { path: dir.clone(), source };
    match std::fs::DirBuilder::new().mode(0o755).create(&dir) {
        Err(err) if err.kind() != io::ErrorKind::AlreadyExists => return Err(failed(err)),
        _ => {}
    }
    let meta = std::fs::symlink_metadata(&dir).map_err(failed)?;
    if !meta.is_dir() || meta.uid() != uid || meta.mode() & 0o022 != 0 {
        return Err(GuestError::Foreign(dir));
    }
    // Whatever the umask made of it.
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).map_err(failed)?;
    Ok(dir)
}

fn compile(compiler: &str, what: &'static str, source: &str, flags: &[&str], to: &Path) -> Result<(), GuestError> {
    if to.exists() {
        return Ok(());
    }
    let c_file = to.with_extension(format!("{}.c", std::process::id()));
    let io_error = |source| GuestError::Io { path: c_file.clone(), source };
    std::fs::write(&c_file, source).map_err(io_error)?;
    let mut outcome = Ok(());
    let published = publish(to, 0o755, |path| {
        outcome = compile_file(compiler, what, &c_file, flags, path);
        if outcome.is_ok() { Ok(()) } else { Err(io::Error::other("not compiled")) }
    });
    let _ = std::fs::remove_file(&c_file);
    outcome.and(published)
}

fn compile_file(
    compiler: &str,
    what: &'static str,
    c_file: &Path,
    flags: &[&str],
    to: &Path,
) -> Result<(), GuestError> {
    let output = Command::new(compiler)
        .args(["-O2", "-g0", "-o"])
        .args([to, c_file])
        .args(flags)
        .output()
        .map_err(|source| GuestError::NoCompiler { compiler: compiler.to_owned(), source })?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let first =
        text.lines().find(|line| line.contains("error") || line.contains("cannot")).or(text.lines().next());
    let first = first.unwrap_or("it failed without a word").to_owned();
    Err(GuestError::Compile { compiler: compiler.to_owned(), what, first })
}

/// Makes a file under a name of this process and moves it into place, so that nobody meets half of it.
fn publish(to: &Path, mode: u32, make: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), GuestError> {
    if to.exists() {
        return Ok(());
    }
    let part = to.with_extension(format!("{}.part", std::process::id()));
    let done = make(&part)
        .and_then(|()| std::fs::set_permissions(&part, std::fs::Permissions::from_mode(mode)))
        .and_then(|()| std::fs::rename(&part, to));
    if done.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    done.map_err(|source| GuestError::Io { path: to.to_owned(), source })
}

/// Bytes that no file system can store more cheaply than they are.
fn data() -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    std::iter::repeat_with(|| next().to_le_bytes()).take(DATA_SIZE / 8).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_has_its_size() {
        assert_eq!(data().len(), DATA_SIZE);
    }

    #[test]
    fn a_missing_compiler_is_named() {
        let scratch = std::env::temp_dir().join(format!("coracle-no-cc-{}", std::process::id()));
        let err = compile("/nowhere/cc", "it", "", &[], &scratch).unwrap_err();
        assert!(err.to_string().starts_with("/nowhere/cc cannot be run"), "{err}");
    }
}
