//! Finding the other side: names, `connect` (net/unix/af_unix.c).

use std::sync::Arc;

use super::{Bound, Name, UnixSocket};
use crate::fd::Band;
use crate::ipc::glue;
use crate::task::Task;
use crate::{Errno, Result};

impl UnixSocket {
    /// unix_find_other().
    pub(super) fn find(&self, task: &Arc<Task>, address: &[u8]) -> Result<Arc<UnixSocket>> {
        let other = match Name::parse(address)? {
            Name::Unnamed => return Err(Errno::ECONNREFUSED),
            Name::Abstract(name) => self.space.find(&name)?,
            Name::Path(path) => {
                let node = glue::socket_node(task, &path)?;
                let bound = node.slot().and_then(|slot| slot.get::<Bound>());
                bound.and_then(|bound| bound.0.upgrade()).ok_or(Errno::ECONNREFUSED)?
            }
        };
        if other.state.lock().closed {
            return Err(Errno::ECONNREFUSED);
        }
        if other.kind == self.kind { Ok(other) } else { Err(Errno::EPROTOTYPE) }
    }

    pub(super) fn autobind(&self) -> Result<()> {
        if self.state.lock().name.is_some() {
            return Ok(());
        }
        let name = self.space.autobind(&self.me)?;
        self.state.lock().name = Some(Name::Abstract(name));
        Ok(())
    }

    /// unix_dgram_connect(): only remembers where to send to.
    pub(super) fn connect_datagram(&self, task: &Arc<Task>, address: &[u8]) -> Result<()> {
        let unspecified = address.get(..2) == Some(&[0, 0]);
        let (peer, old);
        if unspecified {
            peer = None;
        } else {
            let other = self.find(task, address)?;
            if self.options.pass_cred() {
                self.autobind()?;
            }
            if !other.accepts_from(self) {
                return Err(Errno::EPERM);
            }
            peer = Some(other);
        }
        {
            let mut state = self.state.lock();
            state.peer_cred = None;
            state.connected = peer.is_some();
            old = std::mem::replace(&mut state.peer, peer);
        }
        drop(old);
        self.account.writable.wake_all();
        Ok(())
    }

    /// unix_may_send(): a connected datagram socket hears its peer only.
    pub(super) fn accepts_from(&self, sender: &UnixSocket) -> bool {
        self.state.lock().peer.as_ref().is_none_or(|peer| std::ptr::eq(&**peer, sender))
    }

    /// unix_stream_connect().
    pub(super) fn connect_stream(&self, task: &Arc<Task>, address: &[u8]) -> Result<()> {
        if self.options.pass_cred() {
            self.autobind()?;
        }
        let listener = self.find(task, address)?;
        {
            let state = self.state.lock();
            if state.pending.is_some() {
                return Err(Errno::EINVAL);
            }
            if state.peer.is_some() || state.connected {
                return Err(Errno::EISCONN);
            }
        }
        let server = UnixSocket::new(&self.space, self.kind);
        let me = self.me.upgrade().ok_or(Errno::EINVAL)?;
        {
            let mut state = server.state.lock();
            state.peer = Some(me);
            state.peer_cred = Some(glue::ucred(task));
            state.connected = true;
        }
        let cred = {
            let mut state = listener.state.lock();
            let name = state.name.clone();
            if state.closed || state.shut.receive {
                return Err(Errno::ECONNREFUSED);
            }
            let pending = state.pending.as_mut().ok_or(Errno::ECONNREFUSED)?;
            if pending.queue.len() > pending.backlog {
                return Err(Errno::EAGAIN);
            }
            // Before anybody can accept it.
            server.state.lock().name = name;
            pending.queue.push_back(server.clone());
            pending.cred
        };
        {
            let mut state = self.state.lock();
            state.peer = Some(server);
            state.peer_cred = Some(cred);
            state.connected = true;
        }
        listener.readable.wake_all();
        listener.account.notice.tell(Band::In);
        self.wake();
        Ok(())
    }
}
