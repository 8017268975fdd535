//! epoll(7), fs/eventpoll.c.
//!
//! An [`Item`] enters the wait queues of its file once, when it is added, and stays. A wake puts it on the
//! ready list; `epoll_wait` takes it from there and asks the file what is really ready. Files backed by
//! host descriptors are watched by an inner epoll of the host, which is itself one host descriptor.
//!
//! Lock order: `World`'s nesting lock, `items`, an item's `state`, the watched object, `ready`. The last reference to
//! an open file is never dropped under these (its end removes items, see [`OpenFile::at_drop`]).

mod inner;
mod item;
mod nesting;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use self::inner::Inner;
use self::item::Item;
use super::glue;
use crate::abi::types::Stat;
use crate::fd::{File, OpenFile};
use crate::ipc::quota::Quota;
use crate::wait::{Events, PollTable, WaitQueue};
use crate::{Errno, Result};

pub const EPOLLEXCLUSIVE: u32 = 1 << 28;
pub const EPOLLWAKEUP: u32 = 1 << 29;
pub const EPOLLONESHOT: u32 = 1 << 30;
pub const EPOLLET: u32 = 1 << 31;
/// The bits that are no events (`EP_PRIVATE_BITS`).
const PRIVATE: u32 = EPOLLEXCLUSIVE | EPOLLWAKEUP | EPOLLONESHOT | EPOLLET;
/// What may accompany `EPOLLEXCLUSIVE` (`EPOLLEXCLUSIVE_OK_BITS`).
const EXCLUSIVE_OK: u32 = Events::IN.bits()
    | Events::OUT.bits()
    | Events::ERR.bits()
    | Events::HUP.bits()
    | EPOLLWAKEUP
    | EPOLLET
    | EPOLLEXCLUSIVE;
/// `struct epoll_event` without its packing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    pub events: u32,
    pub data: u64,
}

/// An epoll instance.
pub struct Epoll {
    me: Weak<Epoll>,
    items: Mutex<HashMap<(i32, u64), Arc<Item>>>,
    /// Those of them that are epolls.
    nested: Mutex<HashMap<(i32, u64), Weak<OpenFile>>>,
    ready: Mutex<VecDeque<Arc<Item>>>,
    /// Removed items that may still be on the ready list.
    stale: AtomicUsize,
    queue: WaitQueue,
    inner: Inner,
    /// Epolls that watch this one.
    parents: Mutex<Vec<Weak<Epoll>>>,
    /// The sandbox's count of items, and how many there may be.
    watches: Arc<Quota>,
    most: u64,
}

/// What `epoll_wait` is to report.
#[derive(Default)]
pub struct Collected {
    pub events: Vec<Event>,
    /// Of each event.
    items: Vec<Arc<Item>>,
}

/// `fs.epoll.max_user_watches`: a twenty-fifth of memory, at what an item takes (eventpoll_init()).
pub fn max_watches(memory: u64) -> u64 {
    memory / 25 / 160
}

impl Epoll {
    /// One whose items count among `watches`, of which there may be `most`.
    pub fn new(watches: &Arc<Quota>, most: u64) -> Arc<Epoll> {
        Arc::new_cyclic(|me| Epoll {
            watches: watches.clone(),
            most,
            me: me.clone(),
            items: Mutex::default(),
            nested: Mutex::default(),
            ready: Mutex::default(),
            stale: AtomicUsize::new(0),
            queue: WaitQueue::new(),
            inner: Inner::default(),
            parents: Mutex::default(),
        })
    }

    /// The epoll behind an open file, if it is one.
    pub fn of(file: &OpenFile) -> Option<&Epoll> {
        file.file.as_any().downcast_ref()
    }

    /// `EPOLL_CTL_ADD`. `nesting` guards the shape of nested epolls.
    pub fn add(&self, nesting: &Mutex<()>, fd: i32, file: &Arc<OpenFile>, event: Event) -> Result<()> {
        let nested = Epoll::of(file);
        if event.events & EPOLLEXCLUSIVE != 0 && (nested.is_some() || event.events & !EXCLUSIVE_OK != 0) {
            return Err(Errno::EINVAL);
        }
        let _nesting = nested.map(|_| nesting.lock());
        if let Some(nested) = nested {
            self.check_nesting(nested)?;
        }
        let item = {
            let mut items = self.items.lock();
            if items.contains_key(&(fd, file.key)) {
                return Err(Errno::EEXIST);
            }
            if !self.watches.take(1, self.most) {
                return Err(Errno::ENOSPC);
            }
            let item = Item::new(self.me.clone(), fd, file, event);
            items.insert((fd, file.key), item.clone());
            item
        };
        if let Some(nested) = nested {
            if let Err(error) = nested.adopt(&self.me) {
                self.items.lock().remove(&(fd, file.key));
                self.watches.give(1);
                return Err(error);
            }
            self.nested.lock().insert((fd, file.key), Arc::downgrade(file));
        }
        let (epoll, key) = (self.me.clone(), (fd, file.key));
        let ticket = file.at_drop(move |_| {
            if let Some(epoll) = epoll.upgrade() {
                epoll.forget(key);
            }
        });
        item.arm(&self.inner, file, Some(ticket))
    }

    /// `EPOLL_CTL_MOD`.
    pub fn modify(&self, fd: i32, file: &Arc<OpenFile>, event: Event) -> Result<()> {
        let item = self.items.lock().get(&(fd, file.key)).cloned().ok_or(Errno::ENOENT)?;
        item.change(event)?;
        item.arm(&self.inner, file, None)
    }

    /// `EPOLL_CTL_DEL`.
    pub fn delete(&self, fd: i32, file: &Arc<OpenFile>) -> Result<()> {
        let item = self.items.lock().remove(&(fd, file.key)).ok_or(Errno::ENOENT)?;
        self.retire(&item, Some(file));
        if let Some(nested) = Epoll::of(file) {
            self.nested.lock().remove(&(fd, file.key));
            nested.disown(&self.me);
        }
        Ok(())
    }

    /// The watched file is gone.
    fn forget(&self, key: (i32, u64)) {
        let item = self.items.lock().remove(&key);
        if let Some(item) = item {
            self.nested.lock().remove(&key);
            self.retire(&item, None);
        }
    }

    fn retire(&self, item: &Arc<Item>, file: Option<&Arc<OpenFile>>) {
        self.watches.give(1);
        if let (Some(ticket), Some(file)) = (item.end(&self.inner), file) {
            file.cancel_at_drop(ticket);
        }
        if item.is_queued() {
            self.sweep();
        }
    }

    /// A queued item was removed. It says nothing any more, so it can wait on the ready list until it is one of many:
    /// going through the list for each makes removing n ready items cost n squared.
    fn sweep(&self) {
        let stale = self.stale.fetch_add(1, Ordering::Relaxed) + 1;
        let mut ready = self.ready.lock();
        if stale > ready.len() / 2 {
            ready.retain(|item| !item.is_gone());
            self.stale.store(0, Ordering::Relaxed);
        }
    }

    /// What `epoll_wait` reports now, at most `max`; level-triggered items stay on the ready list.
    pub fn collect(&self, max: usize) -> Collected {
        self.pull_inner();
        let mut collected = Collected::default();
        let mut again = Vec::new();
        // Once round at most: those that woke meanwhile come behind.
        let count = self.ready.lock().len();
        for _ in 0..count {
            if collected.events.len() >= max {
                break;
            }
            let Some(item) = self.ready.lock().pop_front() else { break };
            let (event, still) = item.take();
            if still && item.queue() {
                again.push(item.clone());
            }
            if let Some(event) = event {
                collected.events.push(event);
                collected.items.push(item);
            }
        }
        let mut ready = self.ready.lock();
        ready.extend(again);
        let more = !ready.is_empty();
        drop(ready);
        if more {
            // Another waiter may have found the list empty meanwhile.
            self.queue.wake_all();
        }
        collected
    }

    /// Where to wait for something to collect.
    pub fn watch(&self, table: &mut PollTable) {
        table.watch_for(&self.queue, Events::READ);
        if let Some(host) = self.inner.fd() {
            table.watch_host(host, Events::IN);
        }
    }

    /// Takes back what `collect` returned and could not be delivered.
    pub fn uncollect(&self, collected: &Collected) {
        collected.items.iter().filter(|item| !item.is_gone()).for_each(|item| self.push(item));
    }

    /// Some item is ready. Those at the head of the list that are not leave it.
    fn any_ready(&self) -> bool {
        let count = self.ready.lock().len();
        for _ in 0..count {
            let Some(item) = self.ready.lock().front().cloned() else { return false };
            if item.is_ready() {
                return true;
            }
            let taken = {
                let mut ready = self.ready.lock();
                ready.pop_front_if(|front| Arc::ptr_eq(front, &item)).is_some()
            };
            // Who wakes from now on queues it again; who woke before is seen by the second look.
            if taken && item.unqueue() && item.is_ready() {
                self.push(&item);
                return true;
            }
        }
        false
    }

    /// Descriptor, events and data of every item, for `/proc/PID/fdinfo`.
    pub fn list(&self) -> Vec<(i32, Event)> {
        let items = self.items.lock();
        let mut list: Vec<_> = items.iter().map(|((fd, _), item)| (*fd, item.event())).collect();
        list.sort_by_key(|(fd, _)| *fd);
        list
    }

    /// Puts an item on the ready list and tells who waits.
    fn push(&self, item: &Arc<Item>) {
        if item.queue() {
            self.ready.lock().push_back(item.clone());
        }
        self.queue.wake_all();
    }

    fn pull_inner(&self) {
        for item in self.inner.ready() {
            if item.queue() {
                self.ready.lock().push_back(item);
            }
        }
    }
}

impl Drop for Epoll {
    fn drop(&mut self) {
        let items = mem::take(self.items.get_mut());
        self.watches.give(items.len() as u64);
        for item in items.into_values() {
            let ticket = item.end(&self.inner);
            let file = item.file();
            if let (Some(file), Some(ticket)) = (&file, ticket) {
                file.cancel_at_drop(ticket);
                if let Some(nested) = Epoll::of(file) {
                    nested.disown(&self.me);
                }
            }
        }
    }
}

impl File for Epoll {
    fn seeks_nowhere(&self) -> bool {
        true
    }

    /// Ready to read when an item is: nested epolls.
    fn poll(&self, table: &mut PollTable) -> Events {
        self.watch(table);
        self.pull_inner();
        if self.any_ready() { Events::READ } else { Events::empty() }
    }

    fn stat(&self) -> Result<Stat> {
        Ok(glue::anon_inode_stat())
    }

    /// `ep_show_fdinfo()`.
    fn fdinfo(&self, text: &mut String) {
        // Files are looked at without the lock: this may be the last hold on one of them.
        let mut items: Vec<Arc<Item>> = self.items.lock().values().cloned().collect();
        items.sort_unstable_by_key(|item| item.fd);
        for item in items {
            let Some(file) = item.file() else { continue };
            let (event, stat) = (item.event(), file.file.stat().unwrap_or_default());
            let position = file.position.try_lock().map_or(0, |position| *position);
            text.push_str(&format!(
                "tfd: {:8} events: {:8x} data: {:16x}  pos:{position} ino:{:x} sdev:{:x}\n",
                item.fd, event.events, event.data, stat.st_ino, stat.st_dev
            ));
        }
    }

    fn description(&self) -> String {
        String::from("anon_inode:[eventpoll]")
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
