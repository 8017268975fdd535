//! What the kernel process of a sandbox must reach on the host, for the walls around it.

use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use coracle_backends::confine::{self, ConfineError, Enforced, Entered, LastWords, Needs, Reach, Right};
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

/// The host's root but for what the view hides or replaces. Landlock cannot take away below a place what it gives
/// there, so every directory of the root is named.
fn host_root(places: &mut Vec<(PathBuf, Right)>) {
    places.push((PathBuf::from("/"), Right::List));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(root) = rustix::fs::open("/", flags, Mode::empty()) else { return };
    // A few names: a buffer on the stack, already there, is three times as fast as one of the standard library's size.
    let mut buffer = [const { MaybeUninit::uninit() }; 2048];
    let mut entries = RawDir::new(root, &mut buffer);
    while let Some(Ok(entry)) = entries.next() {
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        let path = Path::new("/").join(OsStr::from_bytes(entry.file_name().to_bytes()));
        let replaced = view::HIDDEN.iter().chain(&OWN).any(|place| path == Path::new(place));
        match entry.file_type() {
            FileType::Directory if !replaced => {
                places.push((path, Right::ReadTree));
            }
            FileType::RegularFile => places.push((path, Right::ReadFile)),
            // Some file systems do not say.
            FileType::Unknown if !replaced => {
                match std::fs::symlink_metadata(&path).map(|meta| meta.file_type()) {
                    Ok(kind) if kind.is_dir() => places.push((path, Right::ReadTree)),
                    Ok(kind) if kind.is_file() => places.push((path, Right::ReadFile)),
                    _ => {}
                }
            }
            _ => {}
        }
    }
}

impl From<ConfineError> for Error {
    fn from(error: ConfineError) -> Error {
        Error::Confine { reason: error.to_string() }
    }
}
