//! What can be known to be wrong before anything starts. Messages are one line: what, and what to do.

use std::io;
use std::path::{Path, PathBuf};

use super::{Config, Rootfs};

/// A configuration that cannot work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    #[error("no program given; write it after `--`, as in `coracle run -- ls -l /`")]
    NoProgram,
    #[error("{what} contains a NUL byte, which no program can be given")]
    NulByte { what: &'static str },
    #[error("--bind {}: the source {problem}; give an existing file or directory of the host", .path.display())]
    BindSource { path: PathBuf, problem: Problem },
    #[error("--bind …:{}: the place inside must be an absolute path, as in --bind {}:/data", .dst.display(), .src.display())]
    BindTarget { src: PathBuf, dst: PathBuf },
    #[error("--write {}: it {problem}; give an existing directory of the host", .path.display())]
    Write { path: PathBuf, problem: Problem },
    #[error("--rootfs {}: it {problem}; give a directory or a tar file that holds a root file system", .path.display())]
    Rootfs { path: PathBuf, problem: Problem },
    #[error("--workdir {}: it must be an absolute path inside the sandbox", .path.display())]
    Workdir { path: PathBuf },
    #[error("--save {}: {problem}; name a directory that is new or empty", .path.display())]
    Save { path: PathBuf, problem: SaveProblem },
    #[error("--hostname {name:?}: use 1 to 64 letters, digits, `-` and `.`")]
    Hostname { name: String },
    #[error("--env {key:?}: a variable's name is not empty and contains no `=`")]
    EnvKey { key: String },
    #[error("--{option} 0: nothing could run with that; leave the option out for no limit")]
    ZeroLimit { option: &'static str },
    #[error("--memory {given}: less than the {least} bytes that a program needs to start")]
    TooLittleMemory { given: u64, least: u64 },
}

/// What is wrong with a path.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("does not exist")]
    Missing,
    #[error("is not a directory")]
    NotDirectory,
    #[error("is neither a directory nor a regular file")]
    WrongKind,
    #[error("cannot be used ({0})")]
    Host(io::Error),
}

/// What is wrong with the place for `--save`.
#[derive(Debug, thiserror::Error)]
pub enum SaveProblem {
    #[error("it is not empty")]
    NotEmpty,
    #[error("its parent directory {0}")]
    Parent(Problem),
    #[error("it {0}")]
    Itself(Problem),
}

impl From<io::Error> for Problem {
    fn from(err: io::Error) -> Self {
        match err.kind() {
            io::ErrorKind::NotFound => Self::Missing,
            io::ErrorKind::NotADirectory => Self::NotDirectory,
            _ => Self::Host(err),
        }
    }
}

/// Less does not hold a dynamic linker, a libc and a stack.
const LEAST_MEMORY: u64 = 4 << 20;

impl Config {
    /// Checks everything that can be checked without starting: paths of the host exist and have the right
    /// kind, names are well-formed, limits leave room.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.validate_program()?;
        self.validate_tree()?;
        self.validate_limits()
    }

    fn validate_program(&self) -> Result<(), ConfigError> {
        if self.argv.first().is_none_or(|program| program.is_empty()) {
            return Err(ConfigError::NoProgram);
        }
        if self.argv.iter().any(|arg| has_nul(arg)) {
            return Err(ConfigError::NulByte { what: "an argument" });
        }
        for (key, value) in &self.env.set {
            let key_bytes = key.as_encoded_bytes();
            if key_bytes.is_empty() || key_bytes.contains(&b'=') {
                return Err(ConfigError::EnvKey { key: key.to_string_lossy().into_owned() });
            }
            if has_nul(key) || has_nul(value) {
                return Err(ConfigError::NulByte { what: "an environment variable" });
            }
        }
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
        if self.hostname.is_empty() || self.hostname.len() > 64 || !self.hostname.bytes().all(legal) {
            return Err(ConfigError::Hostname { name: self.hostname.clone() });
        }
        Ok(())
    }

    fn validate_tree(&self) -> Result<(), ConfigError> {
        match &self.rootfs {
            Rootfs::Host => Ok(()),
            Rootfs::Dir(path) => is_dir(path),
            Rootfs::Tar(path) => is_file(path),
        }
        .map_err(|problem| ConfigError::Rootfs { path: self.rootfs_path(), problem })?;
        for bind in &self.binds {
            if !bind.dst.is_absolute() {
                return Err(ConfigError::BindTarget { src: bind.src.clone(), dst: bind.dst.clone() });
            }
            std::fs::metadata(&bind.src)
                .map_err(|err| ConfigError::BindSource { path: bind.src.clone(), problem: err.into() })?;
        }
        for dir in &self.write {
            is_dir(dir).map_err(|problem| ConfigError::Write { path: dir.clone(), problem })?;
        }
        if let Some(dir) = self.workdir.as_ref().filter(|dir| !dir.is_absolute()) {
            return Err(ConfigError::Workdir { path: dir.clone() });
        }
        if let Some(dir) = &self.save {
            is_fresh(dir).map_err(|problem| ConfigError::Save { path: dir.clone(), problem })?;
        }
        Ok(())
    }

    fn validate_limits(&self) -> Result<(), ConfigError> {
        let limits = &self.limits;
        let zero = [
            ("cpus", limits.cpus == Some(0)),
            ("pids", limits.pids == Some(0)),
            ("timeout", self.timeout.is_some_and(|timeout| timeout.after.is_zero())),
        ];
        if let Some((option, _)) = zero.into_iter().find(|(_, zero)| *zero) {
            return Err(ConfigError::ZeroLimit { option });
        }
        match limits.memory {
            Some(given) if given < LEAST_MEMORY => {
                Err(ConfigError::TooLittleMemory { given, least: LEAST_MEMORY })
            }
            _ => Ok(()),
        }
    }

    fn rootfs_path(&self) -> PathBuf {
        match &self.rootfs {
            Rootfs::Host => PathBuf::from("/"),
            Rootfs::Dir(path) | Rootfs::Tar(path) => path.clone(),
        }
    }
}

fn has_nul(text: &std::ffi::OsStr) -> bool {
    text.as_encoded_bytes().contains(&0)
}

fn is_dir(path: &Path) -> Result<(), Problem> {
    if std::fs::metadata(path)?.is_dir() { Ok(()) } else { Err(Problem::NotDirectory) }
}

fn is_file(path: &Path) -> Result<(), Problem> {
    if std::fs::metadata(path)?.is_file() { Ok(()) } else { Err(Problem::WrongKind) }
}

fn is_fresh(dir: &Path) -> Result<(), SaveProblem> {
    match std::fs::read_dir(dir) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(SaveProblem::NotEmpty),
        },
        Err(err) if err.kind() == io::ErrorKind::NotFound => {
            // A bare name has the empty parent, which means the current directory.
            match dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                Some(parent) => is_dir(parent).map_err(SaveProblem::Parent),
                None => Ok(()),
            }
        }
        Err(err) => Err(SaveProblem::Itself(err.into())),
    }
}
