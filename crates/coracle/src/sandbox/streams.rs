//! Standard input, output and error: the host's, shared with whoever started the sandbox.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use coracle_kernel::abi::linux::SIGKILL;
use coracle_kernel::fd::OpenFile;
use coracle_kernel::fs::dev::stream::{HostStream, OutputLimit};
use coracle_kernel::fs::dev::terminal;
use coracle_kernel::world::World;

use super::Ended;
use crate::Error;

/// Descriptors 0 to 2, as far as this process has them.
/// A terminal among them becomes the controlling terminal of the first session; its node belongs to `owner`.
pub fn inherit(
    limit: Option<u64>,
    owner: (u32, u32),
    world: &Arc<World>,
    ended: &Arc<Ended>,
) -> Result<Vec<Arc<OpenFile>>, Error> {
    let limit = limit.map(|bytes| {
        let (world, ended) = (Arc::downgrade(world), ended.clone());
        OutputLimit::new(bytes, move || {
            ended.output.store(true, Ordering::SeqCst);
            if let Some(world) = world.upgrade() {
                world.signal_all(SIGKILL as i32);
            }
        })
    });
    let standard = [
        std::io::stdin().as_fd().try_clone_to_owned(),
        std::io::stdout().as_fd().try_clone_to_owned(),
        std::io::stderr().as_fd().try_clone_to_owned(),
    ];
    let mut files = Vec::new();
    for fd in standard {
        let fd = fd.map_err(|source| Error::Host { what: "cannot pass standard streams on", source })?;
        let (stream, mode) = HostStream::new(fd, limit.clone()).map_err(|errno| Error::Host {
            what: "cannot pass standard streams on",
            source: std::io::Error::from_raw_os_error(errno.raw()),
        })?;
        let position = stream.position();
        let stream = Arc::new(stream);
        let place = if stream.is_terminal() { terminal::adopt(world, &stream, owner).ok() } else { None };
        let file = OpenFile::with_path(stream, mode, place);
        *file.position.lock() = position;
        files.push(file);
    }
    Ok(files)
}
