//! The side of the kernel process.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Mode;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen as listen_at, socket_with,
};

use super::directory::Directory;
use super::{ExecRequest, Refused, Request, Response, Status, wire};

/// What the kernel must be able to do when asked from outside. Called from threads of the server's own.
pub trait Handler: Send + Sync {
    fn status(&self) -> Status;

    /// SIGKILL ends the sandbox; any other signal goes to the first process.
    fn kill(&self, signal: i32) -> Result<(), Refused>;

    /// Starts a program on these standard streams.
    fn exec(&self, request: ExecRequest, stdio: [OwnedFd; 3]) -> Result<Arc<dyn Executed>, Refused>;
}

/// A program that was started by [`Handler::exec`].
pub trait Executed: Send + Sync {
    /// Waits for its end: exit status, or 128 + signal.
    fn wait(&self) -> u8;

    /// Passes a signal on that the requester got. `true`: the requester should stop now, as a job of its shell.
    fn signal(&self, signal: i32) -> bool;

    /// Whoever asked for it has gone.
    fn hang_up(&self);
}

/// A sandbox that can be found and steered; dropping it makes it unreachable.
#[derive(Debug)]
pub struct Server {
    id: String,
    directory: Directory,
    listener: UnixListener,
    /// Connections that are being served.
    serving: Arc<AtomicUsize>,
}

/// A request must arrive within this time, so that an idle peer holds no thread.
const PATIENCE: Duration = Duration::from_secs(2);
/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;
/// Connections served at once.
const MOST_CONNECTIONS: usize = 64;
/// How long the end of a sandbox waits for answers that are on their way: who killed it is told so.
const LAST_ANSWERS: Duration = Duration::from_millis(200);

/// A place to listen at, made before the process is confined: after that it can neither make directories nor sockets.
#[derive(Debug)]
pub struct Place {
    directory: Directory,
    socket: OwnedFd,
    id: String,
    listens: bool,
}

impl Place {
    pub fn prepare() -> io::Result<Self> {
        Self::prepare_in(&Directory::path())
    }

    pub(super) fn prepare_in(path: &Path) -> io::Result<Self> {
        let directory = Directory::make(path)?;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        // What is bound gets the mode of the socket (unix_bind_bsd() in net/unix/af_unix.c).
        rustix::fs::fchmod(&socket, Mode::from_raw_mode(0o600))?;
        Ok(Self { directory, socket, id: new_id()?, listens: false })
    }

    /// A path to the directory that was opened.
    pub fn directory(&self) -> PathBuf {
        self.directory.through()
    }

    /// Begins to listen while this process is root still: whoever connects sees that it was.
    pub fn listen(&mut self) -> io::Result<()> {
        if !std::mem::replace(&mut self.listens, true) {
            bind(&self.socket, &SocketAddrUnix::new(self.directory.address(&self.id))?)?;
            listen_at(&self.socket, BACKLOG)?;
        }
        Ok(())
    }

    /// Lets `user`, whom this process becomes, remove the socket at the end.
    pub fn hand_over(&self, user: u32) -> io::Result<()> {
        self.directory.give(&self.id, user)
    }
}

impl Server {
    /// Begins to listen, under a new id. What is to be served on some thread comes with it.
    pub fn open(mut place: Place) -> io::Result<(Self, Service)> {
        place.listen()?;
        let Place { directory, socket, id, .. } = place;
        let listener = UnixListener::from(socket);
        let serving = Arc::new(AtomicUsize::new(0));
        let server = Self { id, directory, listener: listener.try_clone()?, serving: Arc::clone(&serving) };
        Ok((server, Service { listener, serving }))
    }

    pub fn id(&self) -> &str {
        &self.id
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.directory.remove(&self.id);
        // Wakes `accept`, which then fails for good.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        let end = Instant::now() + LAST_ANSWERS;
        while self.serving.load(Ordering::Acquire) > 0 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Something else that the server's thread serves: `act` whenever `fd` can be read, until that says `false`.
pub struct Beside {
    pub fd: OwnedFd,
    pub act: Box<dyn FnMut() -> bool + Send>,
}

impl Beside {
    /// On this thread, where there is no server.
    pub fn serve(mut self) {
        while wait_readable(&[self.fd.as_fd()]).first() == Some(&true) && (self.act)() {}
    }
}

/// Which of them can be read; none if that cannot be known.
fn wait_readable(fds: &[BorrowedFd<'_>]) -> Vec<bool> {
    let mut polled: Vec<_> = fds.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    loop {
        match poll(&mut polled, None) {
            Ok(_) => return polled.iter().map(|fd| !fd.revents().is_empty()).collect(),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return vec![false; fds.len()],
        }
    }
}

/// Eight hex digits: short to type, and random enough for one user's sandboxes.
fn new_id() -> io::Result<String> {
    let mut bytes = [0_u8; 4];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(format!("{:08x}", u32::from_ne_bytes(bytes)))
}

/// A sandbox's side of its control socket.
pub struct Service {
    listener: UnixListener,
    /// Connections that are being served.
    serving: Arc<AtomicUsize>,
}

impl Service {
    /// Serves on this thread, and `beside`, until the server is dropped. Whoever asks before there is a handler waits
    /// for it.
    pub fn run(self, handler: &Arc<OnceLock<Arc<dyn Handler>>>, mut beside: Option<Beside>) {
        loop {
            if let Some(other) = &mut beside {
                let readable = wait_readable(&[self.listener.as_fd(), other.fd.as_fd()]);
                if readable.get(1) == Some(&true) && !(other.act)() {
                    beside = None;
                }
                if readable.first() != Some(&true) {
                    continue;
                }
            }
            match self.listener.accept() {
                Ok((stream, _)) => self.take(stream, Arc::clone(handler)),
                Err(err) => match err.kind() {
                    // Shut down.
                    io::ErrorKind::InvalidInput => return,
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                    // Out of descriptors or memory, which passes.
                    _ => std::thread::sleep(Duration::from_millis(100)),
                },
            }
        }
    }

    /// A thread for one connection, unless there are too many.
    fn take(&self, stream: UnixStream, handler: Arc<OnceLock<Arc<dyn Handler>>>) {
        let turn = Turn(Arc::clone(&self.serving));
        if turn.0.fetch_add(1, Ordering::Relaxed) < MOST_CONNECTIONS {
            let serve = move || {
                let _turn = turn;
                // A peer that breaks off is its own loss.
                let _ = serve(&stream, &**handler.wait());
            };
            let _ = std::thread::Builder::new().name("control-peer".to_owned()).spawn(serve);
        }
    }
}

/// Counts a connection until dropped.
struct Turn(Arc<AtomicUsize>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

fn serve(stream: &UnixStream, handler: &dyn Handler) -> io::Result<()> {
    let peer = rustix::net::sockopt::socket_peercred(stream)?;
    if !peer.uid.is_root() && peer.uid != rustix::process::getuid() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let (request, fds) = wire::receive(stream)?;
    let response = match request {
        Request::Status => Response::Status(handler.status()),
        Request::Kill { signal } => match handler.kill(signal) {
            Ok(()) => Response::Done,
            Err(refused) => Response::Refused(refused),
        },
        Request::Exec(request) => match <[OwnedFd; 3]>::try_from(fds) {
            Ok(stdio) => match handler.exec(request, stdio) {
                Ok(executed) => {
                    // Also waits where the peer has gone already: somebody must.
                    let _ = wire::send(stream, &Response::Started, &[]);
                    Response::Ended { code: until_end(stream, executed)? }
                }
                Err(refused) => Response::Refused(refused),
            },
            Err(_) => Response::Refused(Refused::new("three standard streams must come with exec")),
        },
        Request::Signal(_) => Response::Refused(Refused::new("a signal to nobody")),
    };
    wire::send(stream, &response, &[])
}

/// Waits for the program; passes signals on, and notices when the peer goes away meanwhile.
fn until_end(stream: &UnixStream, executed: Arc<dyn Executed>) -> io::Result<u8> {
    let (ended, end) = UnixStream::pair()?;
    let waited = Arc::clone(&executed);
    let waiter = std::thread::Builder::new().name("control-wait".to_owned()).spawn(move || {
        let code = waited.wait();
        // Closing would do, but says so sooner than the thread's end.
        let _ = end.shutdown(Shutdown::Both);
        code
    })?;
    let mut peer = Some(stream.as_fd());
    loop {
        let mut fds = vec![PollFd::new(&ended, PollFlags::IN)];
        fds.extend(peer.as_ref().map(|peer| PollFd::new(peer, PollFlags::IN | PollFlags::RDHUP)));
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(err) => return Err(err.into()),
        }
        let done = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
        if done(0) {
            return waiter.join().map_err(|_| io::Error::other("the waiting thread failed"));
        }
        if done(1) {
            match wire::receive(stream) {
                Ok((Request::Signal(signal), _)) => {
                    if executed.signal(signal) {
                        // If it has gone, the next round sees that.
                        let _ = wire::send(stream, &Response::Stopped, &[]);
                    }
                }
                _ => {
                    executed.hang_up();
                    peer = None;
                }
            }
        }
    }
}
