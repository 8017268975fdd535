//! `AF_UNIX`: unix(7), net/unix/af_unix.c.

mod connect;
mod names;
pub mod rights;
mod send;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

pub use self::names::{Name, Space};
use super::inbox::Spent;
use super::options::{DEFAULT_BUFFER, connected_kind};
use super::{Account, Inbox, Incoming, Kind, Notice, Options, Outgoing, Shut, Socket};
use crate::abi::net::{AF_UNIX, MSG_OOB, SO_PEERCRED, SO_PEERGROUPS, SO_SNDBUF, SOL_SOCKET};
use crate::call::Ctx;
use crate::fd::{Band, OpenFile};
use crate::fs::Inode;
use crate::ipc::glue::{self, Ucred};
use crate::wait::{Events, PollTable, WaitQueue};
use crate::{Errno, Result, SysResult};

/// Longest queue of connections (`net.core.somaxconn`).
pub const SOMAXCONN: u32 = 4096;

/// One socket.
pub struct UnixSocket {
    me: Weak<UnixSocket>,
    kind: Kind,
    space: Arc<Space>,
    options: Options,
    state: Mutex<State>,
    readable: WaitQueue,
    /// What this socket has sent and nobody has read yet.
    account: Arc<Account>,
}

#[derive(Default)]
struct State {
    inbox: Inbox,
    shut: Shut,
    name: Option<Name>,
    /// The node of a name in the file system.
    node: Option<Arc<dyn Inode>>,
    peer: Option<Arc<UnixSocket>>,
    peer_cred: Option<Ucred>,
    /// Connected at some time: a stream's end of file is told from its beginning.
    connected: bool,
    /// Connections that wait for `accept`; `Some` once it listens.
    pending: Option<Pending>,
    error: Option<Errno>,
    closed: bool,
}

struct Pending {
    queue: VecDeque<Arc<UnixSocket>>,
    backlog: usize,
    /// Who called `listen`.
    cred: Ucred,
}

/// What the node of a bound name keeps.
struct Bound(Weak<UnixSocket>);

impl UnixSocket {
    pub fn new(space: &Arc<Space>, kind: Kind) -> Arc<UnixSocket> {
        Arc::new_cyclic(|me| UnixSocket {
            me: me.clone(),
            kind,
            space: space.clone(),
            options: Options::default(),
            state: Mutex::default(),
            readable: WaitQueue::new(),
            account: Account::new(DEFAULT_BUFFER),
        })
    }

    /// Two sockets connected to each other (`socketpair(2)`).
    pub fn pair(space: &Arc<Space>, kind: Kind, cred: Ucred) -> [Arc<UnixSocket>; 2] {
        let pair = [UnixSocket::new(space, kind), UnixSocket::new(space, kind)];
        let [one, two] = &pair;
        for (socket, peer) in [(one, two), (two, one)] {
            let mut state = socket.state.lock();
            state.peer = Some(peer.clone());
            state.peer_cred = Some(cred);
            state.connected = true;
        }
        pair
    }

    /// Calls `each` for every file in transit in this socket's queue, and in those of connections not yet
    /// accepted.
    pub(super) fn for_each_right(&self, each: &mut dyn FnMut(&Arc<OpenFile>)) {
        let pending: Vec<Arc<UnixSocket>> = {
            let state = self.state.lock();
            state.inbox.rights().flat_map(|rights| rights.files()).for_each(&mut *each);
            state.pending.iter().flat_map(|pending| &pending.queue).cloned().collect()
        };
        for socket in pending {
            socket.state.lock().inbox.rights().flat_map(|rights| rights.files()).for_each(&mut *each);
        }
    }

    /// Takes everything out of the queue, and of those of connections not yet accepted.
    pub(super) fn drain(&self) -> Spent {
        let (mut spent, pending) = {
            let mut state = self.state.lock();
            let pending: Vec<_> = state.pending.iter().flat_map(|pending| &pending.queue).cloned().collect();
            (state.inbox.drain(), pending)
        };
        for socket in pending {
            spent.extend(socket.state.lock().inbox.drain());
        }
        spent
    }

    fn name_bytes(&self) -> Vec<u8> {
        self.state.lock().name.as_ref().unwrap_or(&Name::Unnamed).to_bytes()
    }

    /// The address as receivers see it: none at all if unnamed.
    fn source_address(&self) -> Arc<[u8]> {
        match &self.state.lock().name {
            Some(name) => name.to_bytes().into(),
            None => Arc::default(),
        }
    }

    fn wake(&self) {
        self.readable.wake_all();
        self.account.writable.wake_all();
    }

    /// As `wake`, for the other end, which shut down (`how`) or closed: unix_shutdown(), unix_release_sock().
    fn wake_peer(&self, shut: Shut) {
        self.wake();
        if shut.both() {
            self.account.notice.tell(Band::Hup);
        } else if shut.receive {
            self.account.notice.tell(Band::In);
        }
    }
}

impl Socket for UnixSocket {
    fn domain(&self) -> u32 {
        AF_UNIX
    }

    fn kind(&self) -> Kind {
        self.kind
    }

    fn options(&self) -> &Options {
        &self.options
    }

    fn notice(&self) -> Option<&Notice> {
        Some(&self.account.notice)
    }

    fn bind(&self, cx: &mut Ctx<'_>, address: &[u8]) -> Result<()> {
        let name = Name::parse(address)?;
        match name {
            Name::Unnamed => self.autobind(),
            Name::Abstract(name) => {
                if self.state.lock().name.is_some() {
                    return Err(Errno::EINVAL);
                }
                self.space.bind(&name, &self.me)?;
                self.state.lock().name = Some(Name::Abstract(name));
                Ok(())
            }
            Name::Path(path) => {
                if self.state.lock().name.is_some() {
                    return Err(Errno::EINVAL);
                }
                let node = match glue::make_socket_node(&cx.task, &path) {
                    Err(Errno::EEXIST) => return Err(Errno::EADDRINUSE),
                    other => other?,
                };
                if let Some(slot) = node.slot() {
                    slot.set(Some(Arc::new(Bound(self.me.clone()))));
                }
                let mut state = self.state.lock();
                state.name = Some(Name::Path(path));
                state.node = Some(node);
                Ok(())
            }
        }
    }

    fn connect(&self, cx: &mut Ctx<'_>, address: &[u8], _nonblocking: bool) -> Result<()> {
        match self.kind {
            Kind::Datagram => self.connect_datagram(&cx.task, address),
            _ => self.connect_stream(&cx.task, address),
        }
    }

    fn listen(&self, cx: &mut Ctx<'_>, backlog: i32) -> Result<()> {
        if !connected_kind(self.kind) {
            return Err(Errno::EOPNOTSUPP);
        }
        let mut state = self.state.lock();
        if state.name.is_none() || state.connected {
            return Err(Errno::EINVAL);
        }
        let backlog = (backlog as u32).min(SOMAXCONN) as usize;
        let cred = glue::ucred(&cx.task);
        match &mut state.pending {
            Some(pending) => {
                pending.backlog = backlog;
                pending.cred = cred;
            }
            none => *none = Some(Pending { queue: VecDeque::new(), backlog, cred }),
        }
        drop(state);
        self.space.room.wake_all();
        Ok(())
    }

    fn accept(&self) -> Result<Arc<dyn Socket>> {
        if !connected_kind(self.kind) {
            return Err(Errno::EOPNOTSUPP);
        }
        let mut state = self.state.lock();
        let shut = state.shut.receive;
        let pending = state.pending.as_mut().ok_or(Errno::EINVAL)?;
        let Some(socket) = pending.queue.pop_front() else {
            return Err(if shut { Errno::EINVAL } else { Errno::EAGAIN });
        };
        drop(state);
        self.space.room.wake_all();
        Ok(socket)
    }

    fn send(&self, message: &mut Outgoing<'_>) -> Result<usize> {
        if message.flags & MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        match self.kind {
            Kind::Stream => self.send_stream(message),
            Kind::SeqPacket => {
                if !self.state.lock().connected {
                    return Err(Errno::ENOTCONN);
                }
                message.address = None;
                self.send_packet(message)
            }
            _ => self.send_packet(message),
        }
    }

    fn recv(&self, message: &mut Incoming<'_>) -> Result<usize> {
        if message.flags & MSG_OOB != 0 {
            return Err(if self.kind == Kind::Stream { Errno::EINVAL } else { Errno::EOPNOTSUPP });
        }
        let mut spent = Vec::new();
        let mut state = self.state.lock();
        if !state.connected {
            match self.kind {
                Kind::Stream => return Err(Errno::EINVAL),
                Kind::SeqPacket => return Err(Errno::ENOTCONN),
                _ => {}
            }
        }
        let read = match self.kind {
            Kind::Stream => state.inbox.read_stream(message, self.options.pass_cred(), &mut spent),
            _ => state.inbox.read_packet(message, &mut spent),
        };
        let result = match read {
            Some(result) => {
                if self.kind == Kind::Datagram {
                    message.control.extend(self.options.stamp(message.time));
                }
                result
            }
            None => match state.error.take() {
                Some(error) => Err(error),
                None if state.shut.receive && self.kind != Kind::Datagram => Ok(0),
                None => Err(Errno::EAGAIN),
            },
        };
        drop(state);
        if !spent.is_empty() && self.kind == Kind::Datagram {
            self.space.room.wake_all();
        }
        drop(spent);
        result
    }

    fn shutdown(&self, how: Shut) -> Result<()> {
        let peer = {
            let mut state = self.state.lock();
            state.shut.add(how);
            state.peer.clone()
        };
        if let Some(peer) = peer.filter(|_| connected_kind(self.kind)) {
            peer.state.lock().shut.add(how.mirrored());
            peer.wake_peer(how.mirrored());
        }
        self.wake();
        Ok(())
    }

    fn name(&self) -> Result<Vec<u8>> {
        Ok(self.name_bytes())
    }

    fn peer(&self) -> Result<Vec<u8>> {
        let peer = self.state.lock().peer.clone().ok_or(Errno::ENOTCONN)?;
        Ok(peer.name_bytes())
    }

    fn get_option(&self, level: u32, name: u32) -> Result<Vec<u8>> {
        match (level, name) {
            (SOL_SOCKET, SO_PEERCRED) => {
                let state = self.state.lock();
                let nobody = Ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
                let listener = state.pending.as_ref().map(|pending| pending.cred);
                Ok(state.peer_cred.or(listener).unwrap_or(nobody).to_bytes())
            }
            (SOL_SOCKET, SO_PEERGROUPS) => Err(Errno::ENODATA),
            (SOL_SOCKET, _) => Err(Errno::ENOPROTOOPT),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    fn set_option(&self, _cx: &mut Ctx<'_>, level: u32, name: u32, _value: &[u8]) -> Result<()> {
        match (level, name) {
            (SOL_SOCKET, SO_SNDBUF) => {
                self.account.set_limit(self.options.send_buffer());
                Ok(())
            }
            (SOL_SOCKET, _) => Err(Errno::ENOPROTOOPT),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    /// unix_poll(), unix_dgram_poll().
    fn poll(&self, table: &mut PollTable) -> Events {
        table.watch(&self.readable);
        table.watch_for(&self.account.writable, Events::WRITE | Events::WRBAND);
        // Who is connected both ways does not wait for others' queues.
        let settled = connected_kind(self.kind) && self.state.lock().connected;
        if !settled {
            table.watch_for(&self.space.room, Events::WRITE | Events::WRBAND);
        }
        let state = self.state.lock();
        let mut ready = Events::empty();
        ready.set(Events::ERR, state.error.is_some());
        ready.set(Events::HUP, state.shut.both());
        if state.shut.receive {
            ready |= Events::RDHUP | Events::READ;
        }
        if let Some(pending) = &state.pending {
            if !pending.queue.is_empty() {
                ready |= Events::READ;
            }
            return ready;
        }
        if !state.inbox.is_empty() {
            ready |= Events::READ;
        }
        if connected_kind(self.kind) && !state.connected {
            ready |= Events::HUP;
        }
        let peer = state.peer.clone().filter(|_| self.kind == Kind::Datagram);
        drop(state);
        if self.account.is_writable() && peer.is_none_or(|peer| self.peer_has_room(&peer)) {
            ready |= Events::WRITE | Events::WRBAND;
        }
        ready
    }

    fn take_error(&self) -> Option<Errno> {
        self.state.lock().error.take()
    }

    fn listening(&self) -> bool {
        self.state.lock().pending.is_some()
    }

    fn queued(&self) -> Result<(usize, usize)> {
        let state = self.state.lock();
        if state.pending.is_some() {
            return Err(Errno::EINVAL);
        }
        let waiting = if self.kind == Kind::Datagram { state.inbox.first_len() } else { state.inbox.bytes() };
        Ok((waiting, self.account.used()))
    }

    fn ioctl(&self, cx: &mut Ctx<'_>, command: u32, argument: u64) -> SysResult {
        super::inet::interface_ioctl(cx, command, argument)
    }

    /// unix_release_sock().
    fn close(&self) {
        let (peer, pending, spent, name, node) = {
            let mut state = self.state.lock();
            state.closed = true;
            state.shut = Shut { receive: true, send: true };
            let pending = state.pending.take().map(|pending| pending.queue).unwrap_or_default();
            (state.peer.take(), pending, state.inbox.drain(), state.name.clone(), state.node.take())
        };
        if let Some(Name::Abstract(name)) = &name {
            // Accepted sockets share the listener's name without owning it.
            if self.space.find(name).is_ok_and(|owner| std::ptr::eq(&*owner, self)) {
                self.space.unbind(name);
            }
        }
        if let Some(slot) = node.as_ref().and_then(|node| node.slot()) {
            slot.set(None);
        }
        if let Some(peer) = &peer
            && connected_kind(self.kind)
        {
            let mut state = peer.state.lock();
            state.shut = Shut { receive: true, send: true };
            if !spent.is_empty() {
                state.error = Some(Errno::ECONNRESET);
            }
            drop(state);
            peer.wake_peer(Shut { receive: true, send: true });
        }
        for socket in pending {
            socket.abort();
        }
        self.wake();
        self.space.room.wake_all();
        drop((peer, spent));
        self.space.in_flight.collect_if_any();
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl UnixSocket {
    /// The listener closed before it was accepted.
    fn abort(&self) {
        let peer = self.state.lock().peer.clone();
        self.close();
        if let Some(peer) = peer {
            peer.state.lock().error = Some(Errno::ECONNRESET);
            peer.wake();
        }
    }
}
