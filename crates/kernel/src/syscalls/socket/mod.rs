//! socket(2) and the calls on sockets: net/socket.c.

mod control;
mod message;

use std::sync::Arc;
use std::time::Duration;

use crate::abi::linux::{O_CLOEXEC, O_NONBLOCK, O_RDWR};
use crate::abi::net::{
    AF_MAX, AF_UNIX, MSG_DONTWAIT, MSG_ERRQUEUE, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET, SOCK_STREAM, SOL_SOCKET,
};
use crate::call::{Addr, Ctx, Fd};
use crate::fd::OpenFile;
use crate::ipc::glue;
use crate::ipc::socket::unix::UnixSocket;
use crate::ipc::socket::{Kind, Shut, Socket, SocketFile, inet, options};
use crate::task::Task;
use crate::wait::{Events, deadline_after};
use crate::{Errno, Result, SysResult};

crate::calls! {
    41 socket socket, 3 Partial("AF_UNIX, AF_INET, AF_INET6 and AF_NETLINK");
    42 connect connect, 3 Full;
    43 accept accept, 3 Full;
    44 sendto message::sendto, 6 Full;
    45 recvfrom message::recvfrom, 6 Full;
    46 sendmsg message::sendmsg, 3 Full;
    47 recvmsg message::recvmsg, 3 Full;
    48 shutdown shutdown, 2 Full;
    49 bind bind, 3 Full;
    50 listen listen, 2 Full;
    51 getsockname getsockname, 3 Full;
    52 getpeername getpeername, 3 Full;
    53 socketpair socketpair, 4 Full;
    54 setsockopt setsockopt, 5 Full;
    55 getsockopt getsockopt, 5 Full;
    288 accept4 accept4, 4 Full;
    299 recvmmsg message::recvmmsg, 5 Full;
    307 sendmmsg message::sendmmsg, 4 Full;
}

/// `SOCK_TYPE_MASK` of include/linux/net.h; the rest of a type are flags.
const TYPE_MASK: u32 = 0xf;
/// Longest address (`sizeof(struct sockaddr_storage)`).
const MAX_ADDRESS: usize = 128;
/// Longest option value that any socket takes.
const MAX_OPTION: usize = 4096;

/// Flags of `socket`, `socketpair` and `accept4`: open file flags and close-on-exec.
fn socket_flags(flags: u32) -> Result<(u32, bool)> {
    // SOCK_CLOEXEC and SOCK_NONBLOCK are O_CLOEXEC and O_NONBLOCK.
    if flags & !(O_CLOEXEC | O_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    Ok((O_RDWR | flags & O_NONBLOCK, flags & O_CLOEXEC != 0))
}

/// The kind of socket a type number stands for (__sock_create()).
fn kind(number: u32) -> Result<Kind> {
    match number {
        SOCK_STREAM => Ok(Kind::Stream),
        SOCK_DGRAM => Ok(Kind::Datagram),
        SOCK_SEQPACKET => Ok(Kind::SeqPacket),
        SOCK_RAW => Ok(Kind::Raw),
        4..=10 => Err(Errno::ESOCKTNOSUPPORT),
        _ => Err(Errno::EINVAL),
    }
}

/// Of `AF_UNIX`: raw sockets are datagram sockets, protocols do not exist (unix_create()).
fn unix_kind(kind: Result<Kind>, protocol: u32) -> Result<Kind> {
    if protocol != 0 && protocol != AF_UNIX {
        return Err(Errno::EPROTONOSUPPORT);
    }
    Ok(match kind? {
        Kind::Raw => Kind::Datagram,
        kind => kind,
    })
}

fn socket(cx: &mut Ctx<'_>, domain: u32, ty: u32, protocol: u32) -> SysResult {
    let (flags, close_on_exec) = socket_flags(ty & !TYPE_MASK)?;
    if domain >= AF_MAX {
        return Err(Errno::EAFNOSUPPORT);
    }
    if ty & TYPE_MASK > 10 {
        return Err(Errno::EINVAL);
    }
    let kind = kind(ty & TYPE_MASK);
    let socket: Arc<dyn Socket> = match domain {
        AF_UNIX => UnixSocket::new(&cx.task.world.ipc.unix, unix_kind(kind, protocol)?),
        _ => inet::open(cx, domain, kind, protocol)?,
    };
    glue::install(cx, Arc::new(SocketFile::new(&cx.task, socket)), flags, close_on_exec)
}

fn socketpair(cx: &mut Ctx<'_>, domain: u32, ty: u32, protocol: u32, fds: Addr) -> SysResult {
    let (flags, close_on_exec) = socket_flags(ty & !TYPE_MASK)?;
    if domain >= AF_MAX {
        return Err(Errno::EAFNOSUPPORT);
    }
    if ty & TYPE_MASK > 10 {
        return Err(Errno::EINVAL);
    }
    let kind = kind(ty & TYPE_MASK);
    if domain != AF_UNIX {
        inet::open(cx, domain, kind, protocol)?;
        return Err(Errno::EOPNOTSUPP);
    }
    let kind = unix_kind(kind, protocol)?;
    let pair = UnixSocket::pair(&cx.task.world.ipc.unix, kind, glue::ucred(&cx.task));
    let files = pair.map(|socket| OpenFile::new(Arc::new(SocketFile::new(&cx.task, socket)), flags));
    glue::install_pair(cx, fds, files, close_on_exec)
}

/// move_addr_to_kernel().
fn read_address(cx: &mut Ctx<'_>, at: Addr, len: i32) -> Result<Vec<u8>> {
    let len = usize::try_from(len).ok().filter(|len| *len <= MAX_ADDRESS).ok_or(Errno::EINVAL)?;
    let mut bytes = vec![0; len];
    cx.mem().read_bytes(at.0, &mut bytes)?;
    Ok(bytes)
}

/// move_addr_to_user(): cut to the room there is, but the real length is told.
fn write_address(cx: &mut Ctx<'_>, address: &[u8], at: u64, len_at: u64) -> Result<()> {
    let room: i32 = cx.mem().read(len_at)?;
    let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
    let part = address.get(..room.min(address.len())).unwrap_or_default();
    cx.mem().write_bytes(at, part)?;
    cx.mem().write(len_at, &(address.len() as i32))
}

fn bind(cx: &mut Ctx<'_>, fd: Fd, address: Addr, len: i32) -> SysResult {
    let file = cx.file(fd)?;
    let socket = SocketFile::of(&file)?.socket.clone();
    let address = read_address(cx, address, len)?;
    socket.bind(cx, &address).map(|()| 0)
}

fn connect(cx: &mut Ctx<'_>, fd: Fd, address: Addr, len: i32) -> SysResult {
    let file = cx.file(fd)?;
    let socket = SocketFile::of(&file)?.socket.clone();
    let address = read_address(cx, address, len)?;
    if address.len() < 2 {
        return Err(Errno::EINVAL);
    }
    let wait = Waiting::new(&file, &*socket, 0, true);
    let task = cx.task.clone();
    wait.run(&task, &*socket, Events::OUT, || socket.connect(cx, &address, file.nonblocking())).map(|()| 0)
}

fn listen(cx: &mut Ctx<'_>, fd: Fd, backlog: i32) -> SysResult {
    let file = cx.file(fd)?;
    let socket = SocketFile::of(&file)?.socket.clone();
    socket.listen(cx, backlog).map(|()| 0)
}

fn accept(cx: &mut Ctx<'_>, fd: Fd, address: Addr, len: Addr) -> SysResult {
    accept4(cx, fd, address, len, 0)
}

fn accept4(cx: &mut Ctx<'_>, fd: Fd, address: Addr, len: Addr, flags: u32) -> SysResult {
    let file = cx.file(fd)?;
    let (flags, close_on_exec) = socket_flags(flags)?;
    let socket = SocketFile::of(&file)?.socket.clone();
    let wait = Waiting::new(&file, &*socket, 0, false);
    let task = cx.task.clone();
    let accepted = wait.run(&task, &*socket, Events::IN, || socket.accept())?;
    // From here on dropping the file closes the connection.
    let accepted = Arc::new(SocketFile::new(&task, accepted));
    if address.0 != 0 {
        let peer = accepted.socket.peer().map_err(|_| Errno::ECONNABORTED)?;
        write_address(cx, &peer, address.0, len.0)?;
    }
    glue::install(cx, accepted, flags, close_on_exec)
}

fn shutdown(cx: &mut Ctx<'_>, fd: Fd, how: u32) -> SysResult {
    let file = cx.file(fd)?;
    SocketFile::of(&file)?.socket.shutdown(Shut::how(how)?).map(|()| 0)
}

fn getsockname(cx: &mut Ctx<'_>, fd: Fd, address: Addr, len: Addr) -> SysResult {
    let file = cx.file(fd)?;
    let name = SocketFile::of(&file)?.socket.name()?;
    write_address(cx, &name, address.0, len.0).map(|()| 0)
}

fn getpeername(cx: &mut Ctx<'_>, fd: Fd, address: Addr, len: Addr) -> SysResult {
    let file = cx.file(fd)?;
    let name = SocketFile::of(&file)?.socket.peer()?;
    write_address(cx, &name, address.0, len.0).map(|()| 0)
}

fn setsockopt(cx: &mut Ctx<'_>, fd: Fd, level: u32, name: u32, value: Addr, len: i32) -> SysResult {
    let len = usize::try_from(len).map_err(|_| Errno::EINVAL)?;
    let file = cx.file(fd)?;
    let socket = SocketFile::of(&file)?.socket.clone();
    let mut bytes = vec![0; len.min(MAX_OPTION)];
    cx.mem().read_bytes(value.0, &mut bytes)?;
    match level {
        SOL_SOCKET => options::set(cx, &*socket, name, &bytes)?,
        _ => socket.set_option(cx, level, name, &bytes)?,
    }
    Ok(0)
}

fn getsockopt(cx: &mut Ctx<'_>, fd: Fd, level: u32, name: u32, value: Addr, len_at: Addr) -> SysResult {
    let file = cx.file(fd)?;
    let socket = SocketFile::of(&file)?.socket.clone();
    let room: i32 = cx.mem().read(len_at.0)?;
    let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
    let bytes = match level {
        SOL_SOCKET => options::get(&*socket, name)?,
        _ => socket.get_option(level, name)?,
    };
    let part = bytes.get(..room.min(bytes.len())).unwrap_or_default();
    cx.mem().write_bytes(value.0, part)?;
    cx.mem().write(len_at.0, &(part.len() as i32))?;
    Ok(0)
}

/// Whether and how long a call on a socket waits.
pub(super) struct Waiting {
    nonblocking: bool,
    timeout: Option<Duration>,
}

impl Waiting {
    fn new(file: &OpenFile, socket: &dyn Socket, flags: u32, write: bool) -> Waiting {
        Waiting {
            nonblocking: file.nonblocking() || flags & (MSG_DONTWAIT | MSG_ERRQUEUE) != 0,
            timeout: socket.options().timeout(write),
        }
    }

    /// Runs an operation until it does not say `EAGAIN`, waiting for `interest` in between.
    fn run<T>(
        &self,
        task: &Arc<Task>,
        socket: &dyn Socket,
        interest: Events,
        mut operation: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        match operation() {
            Err(Errno::EAGAIN) if !self.nonblocking => {}
            other => return other,
        }
        let result = task.block(self.timeout.and_then(deadline_after), |table| {
            if !table.registers() {
                return None;
            }
            table.set_interest(interest);
            socket.poll(table);
            match operation() {
                Err(Errno::EAGAIN) => None,
                other => Some(other),
            }
        });
        match result {
            Ok(done) => done,
            Err(Errno::ETIMEDOUT) => Err(Errno::EAGAIN),
            // sock_intr_errno(): a wait with an end is not restarted.
            Err(Errno::ERESTARTSYS) if self.timeout.is_some() => Err(Errno::EINTR),
            Err(error) => Err(error),
        }
    }
}
