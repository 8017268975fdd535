//! What the kernel process of a sandbox must reach on the host, for the walls around it.

use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use coracle_backends::confine::{self, ConfineError, Enforced, Entered, LastWords, Needs, Reach, Right};
use coracle_kernel::decisions::{self, Decisions};
use rustix::fs::{FileType, Mode, OFlags, RawDir};

use super::view;
use crate::config::{Bind, Config, Confine, Net, Rootfs};
use crate::{Error, Lanes, Outcome, Reason};

/// Directories of the host's root that the sandbox has its own of, beside the hidden ones.
const OWN: [&str; 5] = ["/dev", "/proc", "/sys", "/tmp", "/lost+found"];

/// Who is to learn of a run that ended with a refused host call, besides stderr.
pub struct Listener {
    pub fd: RawFd,
    /// The end of the run as that listener wants to read it.
    pub words: fn(&Outcome) -> Vec<u8>,
}

/// The walls that need a single thread. To be put up before the platform starts.
///
/// `own` are places that the sandbox needs for itself. `before` is done before root becomes the user that it is told.
pub fn enter(config: &Config, own: Vec<(PathBuf, Right)>, before: impl FnOnce(u32)) -> Result<(), Error> {
    if let Confine::Off = config.confine {
        return Ok(());
    }
    if let Some(save) = &config.save {
        // The right to write below it can only be had for a directory that is there.
        let made = std::fs::create_dir_all(save);
        made.map_err(|source| Error::Save { path: save.clone(), source })?;
    }
    let Entered { enforced, user } = confine::enter(&reach(config, own), before)?;
    match (enforced, config.confine) {
        (Enforced::All, _) => log::info!("the kernel process is confined by Landlock"),
        (Enforced::Part(version), Confine::Auto) => {
            log::info!("the kernel process is confined by what Landlock {version} knows; Linux 6.12 has the rest");
        }
        (Enforced::Nothing, Confine::Auto) => {
            log::info!("the kernel process can reach all files of its user: this host has no Landlock");
        }
        (Enforced::Part(_) | Enforced::Nothing, _) => return Err(Error::Unconfined),
    }
    match user {
        Some(Ok(user)) => log::info!("the kernel process is user {user}, and nobody else is"),
        Some(Err(why)) => log::warn!(
            "the kernel process stays root, since {why}: a fault in it could read what only root may, in directories that \
             the run shows"
        ),
        None => {}
    }
    Ok(())
}

/// What a guest was granted, in memory that cannot be written any more.
pub fn decide(config: &Config) -> Result<(), Error> {
    let limits = &config.limits;
    let mut hidden = [(0, 0); decisions::HIDDEN];
    if let Rootfs::Host = config.rootfs {
        let found = view::hidden().iter().filter_map(|path| std::fs::metadata(path).ok());
        hidden.iter_mut().zip(found).for_each(|(place, meta)| *place = (meta.dev(), meta.ino()));
    }
    let decisions = Decisions {
        shared_only: matches!(config.rootfs, Rootfs::Host) && config.mounts().is_empty(),
        hidden,
        host_network: matches!(config.net, Net::Host),
        memory: limits.memory.unwrap_or(u64::MAX),
        disk: limits.disk.unwrap_or(u64::MAX),
        output: limits.output.unwrap_or(u64::MAX),
        pids: limits.pids.unwrap_or(u32::MAX),
    };
    let what = "what was decided cannot be sealed";
    decisions::seal(decisions).map_err(|source| Error::Host { what, source })
}

/// The wall that all threads stand behind. To be put up before a guest runs.
pub fn close(config: &Config, listener: Option<Listener>) -> Result<(), Error> {
    if config.confine == Confine::Off {
        return Ok(());
    }
    let report = listener.map(|listener| (listener.fd, (listener.words)(&refused())));
    let name = |number| coracle_kernel::syscalls::find(number).map(|call| call.name);
    let words = LastWords { report, exit_status: 125, name: Some(name), go_on: false };
    Ok(confine::close(needs(config), words)?)
}

/// A run that ended so. Nothing is counted then.
fn refused() -> Outcome {
    Outcome {
        status: None,
        signal: None,
        reason: Reason::Internal,
        wall_ns: 0,
        cpu_ns: 0,
        peak_memory: 0,
        lanes: Lanes::default(),
    }
}

fn needs(config: &Config) -> Needs {
    Needs {
        writable: config.save.is_some() || config.mounts().iter().any(writes_host),
        network: matches!(config.net, Net::Host),
    }
}

/// Something of the host's is changed through it.
fn writes_host(bind: &Bind) -> bool {
    !bind.read_only && view::own_device(&bind.src).is_none()
}

fn reach(config: &Config, own: Vec<(PathBuf, Right)>) -> Reach {
    let mut places = Vec::with_capacity(24);
    match &config.rootfs {
        Rootfs::Host => host_root(&mut places),
        Rootfs::Dir(path) => places.push((path.clone(), Right::ReadTree)),
        Rootfs::Tar(path) => places.push((path.clone(), Right::ReadFile)),
    }
    let here = view::current_directory(config);
    let as_caller = here.is_some()
        || config.save.is_some()
        || config.limits.memory.is_some()
        || !matches!(config.rootfs, Rootfs::Host)
        || !config.mounts().is_empty();
    places.extend(here.map(|here| (here, Right::ReadTree)));
    for bind in config.mounts() {
        let right = match (bind.src.is_dir(), !writes_host(&bind)) {
            (true, true) => Right::ReadTree,
            (true, false) => Right::WriteTree,
            (false, true) => Right::ReadFile,
            (false, false) => Right::WriteFile,
        };
        places.push((bind.src, right));
    }
    places.extend(config.save.clone().map(|save| (save, Right::WriteTree)));
    places.extend(own);
    Reach { places, as_caller, needs: needs(config) }
}

/// The host's root but for what the view hides or replaces.
fn host_root(places: &mut Vec<(PathBuf, Right)>) {
    let mut excluded: Vec<PathBuf> = view::hidden().to_vec();
    excluded.extend(OWN.iter().map(PathBuf::from));
    around(Path::new("/"), &excluded, places);
}

/// Most entries of a directory that are named one by one; each takes some 7 us at the start of a run.
const ENTRIES: usize = 256;

/// What lies below `directory` but for what is excluded. Landlock cannot take away below a place what it gives there, so
/// all entries of a directory with something excluded in it are named.
fn around(directory: &Path, excluded: &[PathBuf], places: &mut Vec<(PathBuf, Right)>) {
    places.push((directory.to_owned(), Right::List));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(opened) = rustix::fs::open(directory, flags, Mode::empty()) else { return };
    // A few names: a buffer on the stack, already there, is three times as fast as one of the standard library's size.
    let mut buffer = [const { MaybeUninit::uninit() }; 2048];
    let mut entries = RawDir::new(opened, &mut buffer);
    let mut left = ENTRIES;
    while let Some(Ok(entry)) = entries.next() {
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        left = match left.checked_sub(1) {
            Some(left) => left,
            None => {
                return log::info!(
                    "{}: too many entries, so that some cannot be read inside",
                    directory.display()
                );
            }
        };
        let path = directory.join(OsStr::from_bytes(entry.file_name().to_bytes()));
        // Some file systems do not say.
        let is_dir = match entry.file_type() {
            FileType::Directory => true,
            FileType::RegularFile => false,
            FileType::Unknown => match std::fs::symlink_metadata(&path).map(|meta| meta.file_type()) {
                Ok(kind) if kind.is_dir() => true,
                Ok(kind) if kind.is_file() => false,
                _ => continue,
            },
            _ => continue,
        };
        if excluded.contains(&path) {
            continue;
        }
        match is_dir {
            true if excluded.iter().any(|other| other.starts_with(&path)) => around(&path, excluded, places),
            true => places.push((path, Right::ReadTree)),
            false => places.push((path, Right::ReadFile)),
        }
    }
}

impl From<ConfineError> for Error {
    fn from(error: ConfineError) -> Error {
        Error::Confine { reason: error.to_string() }
    }
}
