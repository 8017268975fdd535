//! TCP over the loopback interface: tcp(7). Segments, windows and timers are left out; what programs can see of
//! them (order, readiness, end of file, resets) is as on Linux.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::address::{Endpoint, family};
use super::core::Core;
use super::lo;
use super::ports::{Owner, Space};
use super::urgent::Urgent;
use crate::abi::net::{AF_UNSPEC, MSG_ERRQUEUE, MSG_NOSIGNAL, MSG_OOB, SO_OOBINLINE};
use crate::call::Ctx;
use crate::fd::Band;
use crate::ipc::glue;
use crate::ipc::socket::inbox::take_bytes;
use crate::ipc::socket::unix::SOMAXCONN;
use crate::ipc::socket::{Account, Inbox, Incoming, Kind, Notice, Options, Outgoing, Packet, Shut, Socket};
use crate::wait::{Events, PollTable};
use crate::{Errno, Result, SysResult};

/// Bytes that a connection holds in each direction, about what Linux grows its buffers to.
const BUFFER: usize = 2_500_000;
/// One side's part of that when the other side's is chosen (`tcp_wmem`, `tcp_rmem`).
const SEND_BUFFER: usize = 87_040;
const RECEIVE_BUFFER: usize = 131_072;
/// Whether the next byte is urgent (sockatmark(3)).
const SIOCATMARK: u32 = 0x8905;
/// Bytes of one packet.
const CHUNK: usize = 65536;

/// One socket.
pub struct TcpSocket {
    me: Weak<TcpSocket>,
    core: Core,
    state: Mutex<State>,
    account: Arc<Account>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) inbox: Inbox,
    /// Bytes that ever came (`rcv_nxt`).
    pub(super) received: u64,
    pub(super) urgent: Option<Urgent>,
    remote: Option<Endpoint>,
    other: Option<Arc<TcpSocket>>,
    pending: Option<(VecDeque<Arc<TcpSocket>>, usize)>,
    pub(super) shut: Shut,
    error: Option<Errno>,
    /// A connection that was made without waiting, and not reported yet.
    in_progress: bool,
    pub(super) connected: bool,
    /// The other end has torn the connection down: there is no peer any more (`TCP_CLOSE`).
    was_reset: bool,
    closed: bool,
}

impl TcpSocket {
    pub fn new(space: &Arc<Space>, domain: u32) -> Arc<TcpSocket> {
        TcpSocket::with_options(space, domain, Options::default())
    }

    fn with_options(space: &Arc<Space>, domain: u32, options: Options) -> Arc<TcpSocket> {
        Arc::new_cyclic(|me| TcpSocket {
            me: me.clone(),
            core: Core::new(space, domain, options, Owner::Tcp(me.clone())),
            state: Mutex::default(),
            account: Account::new(BUFFER),
        })
    }

    pub fn is_listening(&self) -> bool {
        self.state.lock().pending.is_some()
    }

    fn wake(&self) {
        self.core.readable.wake_all();
        self.account.writable.wake_all();
    }

    /// Finds a listener and enters its queue.
    fn connect_to(&self, to: Endpoint, nonblocking: bool) -> Result<()> {
        let remote = to.route()?;
        let listener = self.core.space.listener(remote);
        let local = self.core.connect_from(remote)?;
        let me = self.me.upgrade().ok_or(Errno::EINVAL)?;
        let listener = listener.ok_or(Errno::ECONNREFUSED)?;
        let server =
            TcpSocket::with_options(&self.core.space, listener.core.domain, listener.core.options.inherit());
        server.core.accepted_at(remote);
        {
            let mut state = server.state.lock();
            state.remote = Some(local);
            state.other = Some(me);
            state.connected = true;
        }
        {
            let mut state = listener.state.lock();
            let (queue, backlog) = state.pending.as_mut().ok_or(Errno::ECONNREFUSED)?;
            if queue.len() > *backlog && !nonblocking {
                return Err(Errno::EAGAIN);
            }
            queue.push_back(server.clone());
        }
        {
            let mut state = self.state.lock();
            state.remote = Some(remote);
            state.other = Some(server);
            state.connected = true;
        }
        listener.core.readable.wake_all();
        listener.account.notice.tell(Band::In);
        self.wake();
        self.account.notice.tell(Band::Out);
        Ok(())
    }

    /// What may be on its way: as much as the buffers hold that the two sides have chosen.
    fn set_room(&self, other: &TcpSocket) {
        let room = match (self.core.options.chosen_buffers().0, other.core.options.chosen_buffers().1) {
            (None, None) => BUFFER,
            (send, receive) => send.unwrap_or(SEND_BUFFER).saturating_add(receive.unwrap_or(RECEIVE_BUFFER)),
        };
        if room != self.account.limit() {
            self.account.set_limit(room);
        }
    }

    /// The other end is gone for good.
    fn reset(&self, error: Errno) {
        let mut state = self.state.lock();
        state.error = Some(error);
        state.shut = Shut { receive: true, send: true };
        state.was_reset = true;
        drop(state);
        self.wake();
        self.account.notice.tell(Band::Err);
    }

    /// The other end sends no more (tcp_fin()).
    fn finish(&self) {
        let mut state = self.state.lock();
        state.shut.receive = true;
        let band = if state.shut.both() { Band::Hup } else { Band::In };
        drop(state);
        self.wake();
        self.account.notice.tell(band);
    }

    fn takes_urgent_inline(&self) -> bool {
        self.core.options.is_on(SO_OOBINLINE)
    }

    fn broken(&self, message: &Outgoing<'_>) -> Errno {
        let error = self.state.lock().error.take().unwrap_or(Errno::EPIPE);
        if error == Errno::EPIPE && message.flags & MSG_NOSIGNAL == 0 {
            glue::broken_pipe(message.task);
        }
        error
    }
}

impl Socket for TcpSocket {
    fn domain(&self) -> u32 {
        self.core.domain
    }

    fn kind(&self) -> Kind {
        Kind::Stream
    }

    fn protocol(&self) -> u32 {
        super::IPPROTO_TCP
    }

    fn options(&self) -> &Options {
        &self.core.options
    }

    fn notice(&self) -> Option<&Notice> {
        Some(&self.account.notice)
    }

    fn bind(&self, cx: &mut Ctx<'_>, address: &[u8]) -> Result<()> {
        self.core.bind(cx, address)
    }

    /// __inet_stream_connect().
    fn connect(&self, _cx: &mut Ctx<'_>, address: &[u8], nonblocking: bool) -> Result<()> {
        if family(address) == Some(AF_UNSPEC) {
            self.close_connection();
            return Ok(());
        }
        {
            let mut state = self.state.lock();
            if std::mem::take(&mut state.in_progress) {
                return state.error.take().map_or(Ok(()), Err);
            }
            if state.connected || state.pending.is_some() {
                return Err(Errno::EISCONN);
            }
            state.shut = Shut::default();
            state.was_reset = false;
        }
        let to = Endpoint::parse(self.core.domain, address)?;
        match self.connect_to(to, nonblocking) {
            Err(Errno::ECONNREFUSED) if nonblocking => {
                let mut state = self.state.lock();
                state.in_progress = true;
                state.error = Some(Errno::ECONNREFUSED);
                state.shut = Shut { receive: true, send: true };
                Err(Errno::EINPROGRESS)
            }
            Ok(()) if nonblocking => {
                self.state.lock().in_progress = true;
                Err(Errno::EINPROGRESS)
            }
            other => other,
        }
    }

    fn listen(&self, _cx: &mut Ctx<'_>, backlog: i32) -> Result<()> {
        if self.state.lock().connected {
            return Err(Errno::EINVAL);
        }
        let backlog = (backlog as u32).min(SOMAXCONN) as usize;
        let start = || match &mut self.state.lock().pending {
            Some((_, old)) => *old = backlog,
            none => *none = Some((VecDeque::new(), backlog)),
        };
        if self.is_listening() {
            start()
        } else {
            self.core.listen(start)?
        }
        self.core.space.room.wake_all();
        Ok(())
    }

    fn accept(&self) -> Result<Arc<dyn Socket>> {
        let mut state = self.state.lock();
        let (queue, _) = state.pending.as_mut().ok_or(Errno::EINVAL)?;
        let socket = queue.pop_front().ok_or(Errno::EAGAIN)?;
        drop(state);
        self.core.space.room.wake_all();
        Ok(socket)
    }

    /// tcp_sendmsg(), without its waiting.
    fn send(&self, message: &mut Outgoing<'_>) -> Result<usize> {
        let (other, shut, failed) = {
            let state = self.state.lock();
            (state.other.clone(), state.shut, state.error.is_some())
        };
        let Some(other) = other.filter(|_| !shut.send && !failed) else { return Err(self.broken(message)) };
        self.set_room(&other);
        let urgent = message.flags & MSG_OOB != 0;
        let mut done = 0;
        while message.source.remaining() > 0 {
            let room = self.account.limit().saturating_sub(self.account.used());
            if room == 0 {
                self.account.notice.lacks_space();
                return if done > 0 { Ok(done) } else { Err(Errno::EAGAIN) };
            }
            let len = message.source.remaining().min(CHUNK).min(room);
            let data = match take_bytes(message.source, len) {
                Ok(data) => data,
                Err(error) => return if done > 0 { Ok(done) } else { Err(error) },
            };
            let last = data.last().copied().filter(|_| urgent);
            let charge = self.account.charge(len);
            let packet = Packet::new(data, Arc::default(), message.cred, Some(charge));
            let mut spent = Vec::new();
            let mut state = other.state.lock();
            if state.closed {
                // The first bytes are sent and answered with a reset; the next call sees it.
                drop(state);
                drop(packet);
                self.reset(Errno::EPIPE);
                return Ok(done + len);
            }
            if urgent {
                state.forget_urgent(other.takes_urgent_inline(), &mut spent);
            }
            state.inbox.push_bytes(packet);
            state.received += len as u64;
            if let Some(byte) = last {
                state.mark_urgent(byte);
            }
            drop(state);
            drop(spent);
            if urgent {
                other.account.notice.urgent();
            }
            other.core.readable.wake_all();
            other.account.notice.tell(Band::In);
            done += len;
        }
        Ok(done)
    }

    /// tcp_recvmsg(), without its waiting.
    fn recv(&self, message: &mut Incoming<'_>) -> Result<usize> {
        let inline = self.takes_urgent_inline();
        let mut spent = Vec::new();
        let mut state = self.state.lock();
        if message.flags & MSG_ERRQUEUE != 0 {
            return Err(Errno::EAGAIN);
        }
        if message.flags & MSG_OOB != 0 {
            // Of a listener nothing is read.
            return if state.pending.is_some() {
                Err(Errno::ENOTCONN)
            } else {
                state.receive_urgent(message, inline)
            };
        }
        let result = match state.read(message, inline, &mut spent) {
            Some(result) => result,
            None if state.shut.receive && state.error != Some(Errno::ECONNRESET) => Ok(0),
            None => match state.error.take() {
                Some(error) => Err(error),
                None if state.shut.receive => Ok(0),
                None if !state.connected => Err(Errno::ENOTCONN),
                None => Err(Errno::EAGAIN),
            },
        };
        drop(state);
        drop(spent);
        result
    }

    fn shutdown(&self, how: Shut) -> Result<()> {
        let other = {
            let mut state = self.state.lock();
            if state.pending.is_some() {
                drop(state);
                if how.receive {
                    self.close_connection();
                }
                return Ok(());
            }
            if !state.connected {
                return Err(Errno::ENOTCONN);
            }
            state.shut.add(how);
            state.other.clone()
        };
        if let Some(other) = other.filter(|_| how.send) {
            other.finish();
        }
        self.wake();
        Ok(())
    }

    fn name(&self) -> Result<Vec<u8>> {
        Ok(self.core.name())
    }

    fn peer(&self) -> Result<Vec<u8>> {
        let state = self.state.lock();
        let remote = state.remote.filter(|_| state.connected && !state.was_reset).ok_or(Errno::ENOTCONN)?;
        Ok(remote.to_bytes(self.core.domain))
    }

    fn get_option(&self, level: u32, name: u32) -> Result<Vec<u8>> {
        self.core.get_option(level, name)
    }

    fn set_option(&self, _cx: &mut Ctx<'_>, level: u32, name: u32, value: &[u8]) -> Result<()> {
        self.core.set_option(level, name, value)
    }

    /// tcp_poll().
    fn poll(&self, table: &mut PollTable) -> Events {
        table.watch(&self.core.readable);
        table.watch_for(&self.account.writable, Events::WRITE);
        // Only who has yet to be let into a listener's queue.
        let settled = self.state.lock().connected;
        if !settled {
            table.watch_for(&self.core.space.room, Events::WRITE);
        }
        let state = self.state.lock();
        let mut ready = Events::empty();
        if let Some((queue, _)) = &state.pending {
            return if queue.is_empty() { ready } else { Events::READ };
        }
        ready.set(Events::ERR, state.error.is_some());
        ready.set(Events::HUP, state.shut.both() || !state.connected);
        if state.shut.receive {
            ready |= Events::READ | Events::RDHUP;
        }
        let inline = self.takes_urgent_inline();
        if state.inbox.bytes() >= self.core.options.low_water().saturating_add(state.at_urgent(inline).into()) {
            ready |= Events::READ;
        }
        ready.set(Events::PRI, state.urgent.is_some_and(|urgent| urgent.byte.is_some()));
        if state.shut.send || self.account.is_writable() {
            ready |= Events::WRITE;
        }
        ready
    }

    fn take_error(&self) -> Option<Errno> {
        let mut state = self.state.lock();
        // A failed attempt is over once it was told.
        state.in_progress &= state.error.is_none();
        state.error.take()
    }

    fn listening(&self) -> bool {
        self.is_listening()
    }

    fn queued(&self) -> Result<(usize, usize)> {
        let state = self.state.lock();
        if state.pending.is_some() {
            return Err(Errno::EINVAL);
        }
        Ok((state.readable(self.takes_urgent_inline()), self.account.used()))
    }

    fn ioctl(&self, cx: &mut Ctx<'_>, command: u32, argument: u64) -> SysResult {
        if command != SIOCATMARK {
            return lo::ioctl(cx, command, argument);
        }
        let at_mark = self.state.lock().at_urgent(false);
        cx.mem().write(argument, &i32::from(at_mark))?;
        Ok(0)
    }

    fn close(&self) {
        self.close_connection();
        self.state.lock().closed = true;
        self.core.unbind();
        self.wake();
        self.core.space.room.wake_all();
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl TcpSocket {
    /// Ends the connection, or stops listening: unread bytes, or `SO_LINGER` with zero, make it a reset.
    fn close_connection(&self) {
        let (other, spent, pending) = {
            let mut state = self.state.lock();
            state.connected = false;
            state.remote = None;
            let pending = state.pending.take().map(|(queue, _)| queue).unwrap_or_default();
            (state.other.take(), state.inbox.drain(), pending)
        };
        if let Some(other) = other {
            if !spent.is_empty() || self.core.options.resets_on_close() {
                other.reset(Errno::ECONNRESET);
            } else {
                other.finish();
            }
        }
        for socket in pending {
            let other = socket.state.lock().other.clone();
            socket.close();
            if let Some(other) = other {
                other.reset(Errno::ECONNRESET);
            }
        }
    }
}
