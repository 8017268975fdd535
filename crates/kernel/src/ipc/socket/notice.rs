//! Who is told by signal of what happens to a socket: SIGIO and SIGURG (socket(7), sock_wake_async() in
//! net/socket.c).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use crate::fd::{Band, Fasync, Fown};

/// Part of a socket. Tell it of events holding no lock of the socket.
#[derive(Default)]
pub struct Notice {
    pub fasync: Fasync,
    /// The open file's owner, once there is one.
    owner: OnceLock<Arc<Fown>>,
    /// Somebody found no room to send (`SOCKWQ_ASYNC_NOSPACE`): only then is it told of.
    no_space: AtomicBool,
}

impl Notice {
    pub fn set_owner(&self, owner: &Arc<Fown>) {
        let _ = self.owner.set(owner.clone());
    }

    /// `SOCK_WAKE_IO`, `SOCK_WAKE_WAITD`.
    pub fn tell(&self, band: Band) {
        self.fasync.kill(band);
    }

    /// There was no room for more.
    pub fn lacks_space(&self) {
        self.no_space.store(true, Ordering::Relaxed);
    }

    /// There is room again (`SOCK_WAKE_SPACE`).
    pub fn has_space(&self) {
        if self.no_space.swap(false, Ordering::Relaxed) {
            self.fasync.kill(Band::Out);
        }
    }

    /// Urgent data came (sk_send_sigurg()).
    pub fn urgent(&self) {
        if self.owner.get().is_some_and(|owner| owner.send_sigurg()) {
            self.fasync.kill_urgent();
        }
    }
}
