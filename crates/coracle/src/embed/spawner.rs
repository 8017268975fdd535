//! The thread that starts kernel processes. The host ties a child's life to the *thread* that made it
//! (`PR_SET_PDEATHSIG`), and threads of a pool come and go; this one stays.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};

use coracle_platform::child;

use super::protocol::{MARK, NAME};

type Job = Box<dyn FnOnce() + Send>;

/// The thread, and the process it belongs to: a fork has none.
static SPAWNER: Mutex<Option<(u32, Sender<Job>)>> = Mutex::new(None);

pub fn spawn(mut command: Command, socket: UnixStream, mortal: bool) -> io::Result<Child> {
    let (answer, answered) = channel();
    let job = move || {
        command.arg0(NAME).arg(format!("{MARK}{}", socket.as_raw_fd()));
        // `socket` is closed here when this is done: only the child holds it then.
        let _ = answer.send(child::spawn(&mut command, socket.as_fd(), mortal));
    };
    spawner()?.send(Box::new(job)).map_err(|_| io::Error::other("the spawning thread is gone"))?;
    answered.recv().map_err(io::Error::other)?
}

fn spawner() -> io::Result<Sender<Job>> {
    let mut slot = SPAWNER.lock().unwrap_or_else(PoisonError::into_inner);
    let me = std::process::id();
    if let Some((process, sender)) = &*slot
        && *process == me
    {
        return Ok(sender.clone());
    }
    let (sender, jobs) = channel::<Job>();
    let serve = move || jobs.into_iter().for_each(|job| job());
    std::thread::Builder::new().name("coracle-spawner".into()).stack_size(256 << 10).spawn(serve)?;
    *slot = Some((me, sender.clone()));
    Ok(sender)
}
