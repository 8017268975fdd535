//! One watched file of an epoll.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::inner::{HostWatch, Inner};
use super::{EPOLLET, EPOLLEXCLUSIVE, EPOLLONESHOT, Epoll, Event, PRIVATE};
use crate::fd::OpenFile;
use crate::wait::{Entry, Events, PollTable, Wake};
use crate::{Errno, Result};

/// A file under the number it was added as.
pub(super) struct Item {
    me: Weak<Item>,
    epoll: Weak<Epoll>,
    pub(super) fd: i32,
    file: Weak<OpenFile>,
    /// On the ready list, or taken from it and about to be put back.
    queued: AtomicBool,
    /// As `State::gone`, for those who hold the ready list.
    gone: AtomicBool,
    state: Mutex<State>,
}

struct State {
    event: Event,
    /// Places in the file's wait queues.
    entries: Vec<Entry>,
    /// Host descriptors in the inner epoll.
    host: Vec<HostWatch>,
    /// For [`OpenFile::cancel_at_drop`].
    ticket: Option<u64>,
    gone: bool,
}

impl Item {
    pub(super) fn new(epoll: Weak<Epoll>, fd: i32, file: &Arc<OpenFile>, event: Event) -> Arc<Item> {
        Arc::new_cyclic(|me| Item {
            me: me.clone(),
            epoll,
            fd,
            file: Arc::downgrade(file),
            queued: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            state: Mutex::new(State {
                event: normal(event),
                entries: Vec::new(),
                host: Vec::new(),
                ticket: None,
                gone: false,
            }),
        })
    }

    pub(super) fn file(&self) -> Option<Arc<OpenFile>> {
        self.file.upgrade()
    }

    pub(super) fn event(&self) -> Event {
        self.state.lock().event
    }

    /// `EPOLL_CTL_MOD`: an exclusive item cannot be changed, and none can become exclusive.
    pub(super) fn change(&self, event: Event) -> Result<()> {
        let mut state = self.state.lock();
        if (state.event.events | event.events) & EPOLLEXCLUSIVE != 0 {
            return Err(Errno::EINVAL);
        }
        state.event = normal(event);
        Ok(())
    }

    /// Enters the file's queues for the present interest, and the ready list if there is something already.
    pub(super) fn arm(self: &Arc<Item>, inner: &Inner, file: &Arc<OpenFile>, ticket: Option<u64>) -> Result<()> {
        let mut state = self.state.lock();
        state.ticket = ticket.or(state.ticket);
        if state.gone {
            return Ok(());
        }
        let interest = interest(&state.event);
        let wake: Arc<dyn Wake> = self.clone();
        let mut table = PollTable::register_for(wake, interest);
        let ready = file.file.poll(&mut table) & interest;
        let (entries, host) = table.into_parts();
        state.entries = entries;
        inner.unwatch(&mut state.host);
        let flags = state.event.events & (EPOLLET | EPOLLONESHOT);
        for (fd, events) in host {
            let watch = inner.watch(self, &fd, events, flags)?;
            state.host.push(watch);
        }
        drop(state);
        if !ready.is_empty() {
            self.wake();
        }
        Ok(())
    }

    /// Leaves all queues; returns the ticket of the file's end.
    pub(super) fn end(&self, inner: &Inner) -> Option<u64> {
        let mut state = self.state.lock();
        state.gone = true;
        self.gone.store(true, Ordering::SeqCst);
        state.entries.clear();
        inner.unwatch(&mut state.host);
        state.ticket.take()
    }

    pub(super) fn is_queued(&self) -> bool {
        self.queued.load(Ordering::SeqCst)
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }

    /// Marks it as queued; `false` if it was.
    pub(super) fn queue(&self) -> bool {
        !self.queued.swap(true, Ordering::SeqCst)
    }

    /// Marks it as taken from the ready list; `false` if it was not there.
    pub(super) fn unqueue(&self) -> bool {
        self.queued.swap(false, Ordering::SeqCst)
    }

    /// Taken from the ready list: what to report, and whether it stays on the list (ep_send_events()).
    pub(super) fn take(&self) -> (Option<Event>, bool) {
        // Before looking: who wakes from now on queues it again.
        self.queued.store(false, Ordering::SeqCst);
        // Outlives the lock: it may be the last reference.
        let Some(file) = self.file.upgrade() else { return (None, false) };
        let mut state = self.state.lock();
        let ready = self.look(&state, &file);
        if ready.is_empty() {
            return (None, false);
        }
        let event = Event { events: ready.bits(), data: state.event.data };
        if state.event.events & EPOLLONESHOT != 0 {
            state.event.events &= PRIVATE;
            return (Some(event), false);
        }
        (Some(event), state.event.events & EPOLLET == 0)
    }

    pub(super) fn is_ready(&self) -> bool {
        let Some(file) = self.file.upgrade() else { return false };
        let state = self.state.lock();
        !self.look(&state, &file).is_empty()
    }

    fn look(&self, state: &State, file: &OpenFile) -> Events {
        if state.gone {
            return Events::empty();
        }
        file.file.poll(&mut PollTable::check()) & interest(&state.event)
    }
}

impl Wake for Item {
    fn wake(&self) {
        if let (Some(epoll), Some(me)) = (self.epoll.upgrade(), self.me.upgrade()) {
            epoll.push(&me);
        }
    }
}

/// Errors and hang-ups are always wanted.
fn normal(event: Event) -> Event {
    Event { events: event.events | (Events::ERR | Events::HUP).bits(), ..event }
}

fn interest(event: &Event) -> Events {
    // Bits that are no events here (EPOLLMSG, say) never occur.
    Events::from_bits_truncate(event.events & !PRIVATE)
}
