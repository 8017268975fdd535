//! Sockets: socket(7). [`SocketFile`] is the open file, [`Socket`] what an address family implements, [`Inbox`] the
//! receive queue that they share.
//!
//! Lock order: the lists of names, then a socket's state, then its inbox, then wait queues; never two sockets'
//! states at once. Packets are dropped under none of them: they can hold the last reference to a file.

mod host;
pub mod inbox;
pub mod inet;
mod notice;
pub mod options;
pub mod unix;

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

pub use self::inbox::{Account, Inbox, Packet};
pub use self::inet::ancillary::Header;
pub use self::notice::Notice;
pub use self::options::Options;
use super::glue::{self, Ucred};
use crate::abi::ioctl::{FIONREAD, TIOCOUTQ};
use crate::abi::net::{MSG_DONTWAIT, SHUT_RD, SHUT_RDWR, SHUT_WR, SOCK_DGRAM, SOCK_SEQPACKET, SOCK_STREAM};
use crate::abi::types::Stat;
use crate::call::Ctx;
use crate::fd::fasync::{Fown, Request};
use crate::fd::{File, Io, OpenFile};
use crate::fs::S_IFSOCK;
use crate::mem::{Sink, Source};
use crate::task::Task;
use crate::wait::{Events, PollTable};
use crate::{Errno, Result, SysResult};

/// The device number that sockets show in `fstat`.
const SOCKFS_DEV: u64 = 9;

/// `SOCK_*`: how a socket carries data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Stream,
    Datagram,
    SeqPacket,
    Raw,
}

impl Kind {
    pub fn number(self) -> u32 {
        match self {
            Kind::Stream => SOCK_STREAM,
            Kind::Datagram => SOCK_DGRAM,
            Kind::Raw => crate::abi::net::SOCK_RAW,
            Kind::SeqPacket => SOCK_SEQPACKET,
        }
    }
}

/// Which directions are shut down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shut {
    pub receive: bool,
    pub send: bool,
}

impl Shut {
    /// From the argument of `shutdown(2)`.
    pub fn how(how: u32) -> Result<Shut> {
        match how {
            SHUT_RD => Ok(Shut { receive: true, send: false }),
            SHUT_WR => Ok(Shut { receive: false, send: true }),
            SHUT_RDWR => Ok(Shut { receive: true, send: true }),
            _ => Err(Errno::EINVAL),
        }
    }

    pub fn both(self) -> bool {
        self.receive && self.send
    }

    pub fn add(&mut self, other: Shut) {
        self.receive |= other.receive;
        self.send |= other.send;
    }

    /// The same connection as its other end sees it.
    pub fn mirrored(self) -> Shut {
        Shut { receive: self.send, send: self.receive }
    }
}

/// A piece of ancillary data (cmsg(3)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ancillary {
    pub level: u32,
    pub kind: u32,
    pub data: Vec<u8>,
}

/// What is sent.
pub struct Outgoing<'a> {
    pub source: &'a mut dyn Source,
    /// The destination as the caller gave it, family included.
    pub address: Option<Vec<u8>>,
    /// `MSG_*`.
    pub flags: u32,
    /// Files that travel along; taken with the first bytes.
    pub files: Vec<Arc<OpenFile>>,
    /// What else travels along.
    pub control: Vec<Ancillary>,
    /// Who sends.
    pub cred: Ucred,
    pub task: &'a Arc<Task>,
}

/// What is received.
pub struct Incoming<'a> {
    pub sink: &'a mut dyn Sink,
    /// `MSG_*` as asked for.
    pub flags: u32,
    /// Of a stream: read no further than so many bytes, and when peeking look over so many.
    pub limit: usize,
    pub peek_from: usize,
    /// Results from here on. A stream goes no further with this call (urgent data).
    pub stop: bool,
    /// The sender's address, family included; empty: none.
    pub address: Vec<u8>,
    pub files: Vec<Arc<OpenFile>>,
    pub cred: Option<Ucred>,
    /// Of a datagram: what its header says, when it came, and what is told of both.
    pub header: Option<Header>,
    pub time: Option<SystemTime>,
    pub control: Vec<Ancillary>,
    /// Real length of a datagram.
    pub full_len: usize,
    /// `MSG_*` for the caller: `MSG_TRUNC`.
    pub out_flags: u32,
}

impl<'a> Incoming<'a> {
    pub fn new(sink: &'a mut dyn Sink, flags: u32) -> Incoming<'a> {
        Incoming {
            sink,
            flags,
            limit: usize::MAX,
            peek_from: 0,
            stop: false,
            address: Vec::new(),
            files: Vec::new(),
            cred: None,
            header: None,
            time: None,
            control: Vec::new(),
            full_len: 0,
            out_flags: 0,
        }
    }
}

/// One kind of socket. Operations never block: `EAGAIN`, and the caller waits with `poll`.
pub trait Socket: Send + Sync + 'static {
    /// `AF_*`.
    fn domain(&self) -> u32;
    fn kind(&self) -> Kind;
    fn protocol(&self) -> u32 {
        0
    }
    /// Options of `SOL_SOCKET`.
    fn options(&self) -> &Options;
    /// Who is told by signal; `None`: nobody can be.
    fn notice(&self) -> Option<&Notice> {
        None
    }
    fn bind(&self, cx: &mut Ctx<'_>, address: &[u8]) -> Result<()>;
    /// `EAGAIN`: wait until `poll` changes, then call again. `nonblocking`: `EINPROGRESS` where it takes time.
    fn connect(&self, cx: &mut Ctx<'_>, address: &[u8], nonblocking: bool) -> Result<()>;
    fn listen(&self, _cx: &mut Ctx<'_>, _backlog: i32) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }
    fn accept(&self) -> Result<Arc<dyn Socket>> {
        Err(Errno::EOPNOTSUPP)
    }
    fn send(&self, message: &mut Outgoing<'_>) -> Result<usize>;
    fn recv(&self, message: &mut Incoming<'_>) -> Result<usize>;
    fn shutdown(&self, how: Shut) -> Result<()>;
    /// Own address, family included.
    fn name(&self) -> Result<Vec<u8>>;
    fn peer(&self) -> Result<Vec<u8>>;
    /// Options of other levels than `SOL_SOCKET`, and those of that level that need the socket.
    fn get_option(&self, _level: u32, _name: u32) -> Result<Vec<u8>> {
        Err(Errno::EOPNOTSUPP)
    }
    fn set_option(&self, _cx: &mut Ctx<'_>, _level: u32, _name: u32, _value: &[u8]) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }
    fn poll(&self, table: &mut PollTable) -> Events;
    /// Takes the pending error (`SO_ERROR`).
    fn take_error(&self) -> Option<Errno> {
        None
    }
    /// Listens (`SO_ACCEPTCONN`).
    fn listening(&self) -> bool {
        false
    }
    /// Bytes to read (`FIONREAD`), bytes on their way (`TIOCOUTQ`).
    fn queued(&self) -> Result<(usize, usize)> {
        Err(Errno::EINVAL)
    }
    fn ioctl(&self, _cx: &mut Ctx<'_>, _command: u32, _argument: u64) -> SysResult {
        Err(Errno::ENOTTY)
    }
    /// The open file is gone.
    fn close(&self);
    fn as_any(&self) -> &dyn Any;
}

/// A socket as an open file.
pub struct SocketFile {
    pub socket: Arc<dyn Socket>,
    ino: u64,
    owner: (u32, u32),
    made: SystemTime,
}

impl SocketFile {
    pub fn new(task: &Arc<Task>, socket: Arc<dyn Socket>) -> SocketFile {
        let ino = task.world.ipc.next_ino();
        SocketFile { socket, ino, owner: glue::owner(task), made: SystemTime::now() }
    }

    /// The socket behind an open file, or `ENOTSOCK`.
    pub fn of(file: &OpenFile) -> Result<&SocketFile> {
        file.file.as_any().downcast_ref().ok_or(Errno::ENOTSOCK)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.socket.close();
    }
}

impl File for SocketFile {
    fn read(&self, _io: &Io<'_>, _offset: u64, into: &mut dyn Sink) -> Result<usize> {
        if into.remaining() == 0 {
            return Ok(0);
        }
        self.socket.recv(&mut Incoming::new(into, MSG_DONTWAIT))
    }

    fn write(&self, io: &Io<'_>, _offset: u64, from: &mut dyn Source) -> Result<usize> {
        let (task, cred) = (io.task, glue::ucred(io.task));
        let flags = MSG_DONTWAIT;
        self.socket.send(&mut Outgoing {
            source: from,
            address: None,
            flags,
            files: Vec::new(),
            control: Vec::new(),
            cred,
            task,
        })
    }

    fn writes_all(&self) -> bool {
        self.socket.kind() == Kind::Stream
    }

    fn io_timeout(&self, write: bool) -> Option<Duration> {
        self.socket.options().timeout(write)
    }

    fn poll(&self, table: &mut PollTable) -> Events {
        self.socket.poll(table)
    }

    /// sock_fasync().
    fn fasync(&self, request: &Request<'_>) -> bool {
        self.socket.notice().map(|notice| notice.fasync.apply(request)).is_some()
    }

    fn owned(&self, owner: &Arc<Fown>) {
        if let Some(notice) = self.socket.notice() {
            notice.set_owner(owner);
        }
    }

    fn stat(&self) -> Result<Stat> {
        Ok(glue::anonymous_stat(S_IFSOCK | 0o777, SOCKFS_DEV, self.ino, self.owner, self.made))
    }

    fn ioctl(&self, cx: &mut Ctx<'_>, command: u32, argument: u64) -> SysResult {
        let value = match command {
            FIONREAD => self.socket.queued()?.0,
            TIOCOUTQ => self.socket.queued()?.1,
            _ => return self.socket.ioctl(cx, command, argument),
        };
        cx.mem().write(argument, &i32::try_from(value).unwrap_or(i32::MAX))?;
        Ok(0)
    }

    fn description(&self) -> String {
        format!("socket:[{}]", self.ino)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
