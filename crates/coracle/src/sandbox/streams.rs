//! Standard input, output and error: the host's, shared with whoever started the sandbox.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use coracle_kernel::abi::linux::SIGKILL;
use coracle_kernel::fd::OpenFile;
use coracle_kernel::fs::dev::stream::{HostStream, OutputLimit};
use coracle_kernel::fs::dev::terminal;
use coracle_kernel::world::World;

use super::Ended;
use crate::Error;

/// What all inherited streams together may take. Beyond it, everything ends.
pub fn limit(bytes: u64, world: &Arc<World>, ended: &Arc<Ended>) -> Arc<OutputLimit> {
    let (world, ended) = (Arc::downgrade(world), ended.clone());
    OutputLimit::new(bytes, move || {
        if !ended.output.swap(true, Ordering::SeqCst) {
            log::warn!("more output than --output-limit {bytes}; the run is ended");
        }
        if let Some(world) = world.upgrade() {
            world.signal_all(SIGKILL as i32);
        }
    })
}

/// Descriptors 0 to 2 of this process. A terminal among them becomes the controlling terminal of the first session;
/// its node belongs to `owner`.
pub fn inherit(
    limit: Option<Arc<OutputLimit>>,
    owner: (u32, u32),
    world: &Arc<World>,
) -> Result<Vec<Arc<OpenFile>>, Error> {
    let passed = |fd: std::io::Result<OwnedFd>| fd.map_err(failed);
    let standard = [
        passed(std::io::stdin().as_fd().try_clone_to_owned())?,
        passed(std::io::stdout().as_fd().try_clone_to_owned())?,
        passed(std::io::stderr().as_fd().try_clone_to_owned())?,
    ];
    let files = open(standard, limit, owner, world)?;
    terminal::control_first(world, &files);
    Ok(files)
}

/// These descriptors of the host as open files of a guest.
pub fn open(
    fds: [OwnedFd; 3],
    limit: Option<Arc<OutputLimit>>,
    owner: (u32, u32),
    world: &Arc<World>,
) -> Result<Vec<Arc<OpenFile>>, Error> {
    let mut files = Vec::new();
    for fd in fds {
        let (stream, mode) = HostStream::new(fd, limit.clone())
            .map_err(|errno| failed(std::io::Error::from_raw_os_error(errno.raw())))?;
        let position = stream.position();
        let stream = Arc::new(stream);
        let place = if stream.is_terminal() { terminal::adopt(world, &stream, owner).ok() } else { None };
        let file = OpenFile::with_path(stream, mode, place);
        *file.position.lock() = position;
        files.push(file);
    }
    Ok(files)
}

fn failed(source: std::io::Error) -> Error {
    Error::Host { what: "cannot pass standard streams on", source }
}
