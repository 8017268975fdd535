//! The host's epoll inside ours, for files that only the host knows the readiness of.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::fcntl_dupfd_cloexec;

use super::item::Item;
use crate::wait::Events;
use crate::{Errno, Result};

/// A host epoll that is made when first needed.
#[derive(Default)]
pub(super) struct Inner {
    fd: OnceLock<Arc<OwnedFd>>,
    watches: Mutex<Watches>,
}

#[derive(Default)]
struct Watches {
    next: u64,
    items: HashMap<u64, Weak<Item>>,
}

/// A host descriptor in the inner epoll. It is a duplicate: the host keys its items by number and file, and
/// several of ours may watch the same one.
pub(super) struct HostWatch {
    fd: OwnedFd,
    token: u64,
}

impl Inner {
    /// The host epoll, if anything ever needed it.
    pub(super) fn fd(&self) -> Option<&Arc<OwnedFd>> {
        self.fd.get()
    }

    /// Watches a host descriptor for `item`; `flags` are `EPOLLET` and `EPOLLONESHOT`.
    pub(super) fn watch(
        &self,
        item: &Arc<Item>,
        fd: &Arc<OwnedFd>,
        events: Events,
        flags: u32,
    ) -> Result<HostWatch> {
        let epoll = self.open()?;
        let fd = fcntl_dupfd_cloexec(fd, 0).map_err(host)?;
        let token = {
            let mut watches = self.watches.lock();
            watches.next += 1;
            let token = watches.next;
            watches.items.insert(token, Arc::downgrade(item));
            token
        };
        let events = EventFlags::from_bits_retain(events.bits() | flags);
        let added = epoll::add(epoll, &fd, EventData::new_u64(token), events);
        let watch = HostWatch { fd, token };
        match added {
            Ok(()) => Ok(watch),
            Err(error) => {
                self.watches.lock().items.remove(&token);
                Err(host(error))
            }
        }
    }

    /// Ends watches.
    pub(super) fn unwatch(&self, list: &mut Vec<HostWatch>) {
        for watch in list.drain(..) {
            self.watches.lock().items.remove(&watch.token);
            if let Some(epoll) = self.fd.get() {
                // Closing alone would not do: the file has other descriptors.
                let _ = epoll::delete(epoll, &watch.fd);
            }
        }
    }

    /// Items whose host descriptors have something to say.
    pub(super) fn ready(&self) -> Vec<Arc<Item>> {
        let Some(epoll) = self.fd.get() else { return Vec::new() };
        let count = self.watches.lock().items.len();
        let mut events = Vec::with_capacity(count.clamp(1, 1024));
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        if epoll::wait(epoll, rustix::buffer::spare_capacity(&mut events), Some(&now)).is_err() {
            return Vec::new();
        }
        let watches = self.watches.lock();
        events.iter().filter_map(|event| watches.items.get(&event.data.u64())?.upgrade()).collect()
    }

    fn open(&self) -> Result<&Arc<OwnedFd>> {
        if self.fd.get().is_none() {
            let fd = epoll::create(CreateFlags::CLOEXEC).map_err(host)?;
            // Losing a race closes the second one.
            let _ = self.fd.set(Arc::new(fd));
        }
        self.fd.get().ok_or(Errno::ENOMEM)
    }
}

fn host(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error())
}
