//! inotify(7): who watches which nodes, and what they are told (fs/notify/inotify).
//!
//! Lock order: the map of watches, then one instance's queue.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::{PathRef, Vfs};
use crate::abi::types::Stat;
use crate::call::Ctx;
use crate::fd::fasync::Request;
use crate::fd::{Band, Fasync, File, Io, OpenFile};
use crate::mem::Sink;
use crate::task::Task;
use crate::wait::{Events, PollTable, WaitQueue};
use crate::{Errno, Result, SysResult};

pub const IN_ACCESS: u32 = 0x1;
pub const IN_MODIFY: u32 = 0x2;
pub const IN_ATTRIB: u32 = 0x4;
pub const IN_CLOSE_WRITE: u32 = 0x8;
pub const IN_CLOSE_NOWRITE: u32 = 0x10;
pub const IN_OPEN: u32 = 0x20;
pub const IN_MOVED_FROM: u32 = 0x40;
pub const IN_MOVED_TO: u32 = 0x80;
pub const IN_CREATE: u32 = 0x100;
pub const IN_DELETE: u32 = 0x200;
pub const IN_DELETE_SELF: u32 = 0x400;
pub const IN_MOVE_SELF: u32 = 0x800;
pub const IN_ALL_EVENTS: u32 = 0xfff;
const IN_Q_OVERFLOW: u32 = 0x4000;
const IN_IGNORED: u32 = 0x8000;
pub const IN_MASK_CREATE: u32 = 0x1000_0000;
pub const IN_MASK_ADD: u32 = 0x2000_0000;
const IN_ISDIR: u32 = 0x4000_0000;
pub const IN_ONESHOT: u32 = 0x8000_0000;

/// `fs.inotify.max_queued_events`.
const MAX_QUEUED: usize = 16384;

/// `fs.inotify.max_user_instances`.
pub const MAX_INSTANCES: usize = 128;
/// `fs.inotify.max_user_watches`.
pub const MAX_WATCHES: usize = 65536;

/// Device and inode number.
type Id = (u64, u64);

/// All watches of a sandbox.
#[derive(Default)]
pub struct Watches {
    by_node: Mutex<HashMap<Id, Vec<Watch>>>,
    /// So that nobody pays while nobody watches.
    watches: AtomicUsize,
    instances: AtomicUsize,
    cookie: AtomicU32,
    /// Who is told by signal.
    pub dnotify: super::dnotify::Table,
}

struct Watch {
    instance: Weak<Inotify>,
    wd: i32,
    mask: u32,
}

/// An inotify instance: the file that events are read from.
pub struct Inotify {
    state: Mutex<State>,
    readable: WaitQueue,
    fasync: Fasync,
    table: Arc<Watches>,
}

#[derive(Default)]
struct State {
    events: VecDeque<Event>,
    /// What these take when they are read.
    bytes: usize,
    last_wd: i32,
    nodes: HashMap<i32, Id>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Event {
    wd: i32,
    mask: u32,
    cookie: u32,
    name: Vec<u8>,
}

impl Event {
    /// `struct inotify_event`: the name is padded to the structure's size, with at least one zero byte.
    fn size(&self) -> usize {
        16 + if self.name.is_empty() { 0 } else { (self.name.len() + 1).next_multiple_of(16) }
    }
}

impl Watches {
    /// Nobody is to be told of anything.
    fn idle(&self) -> bool {
        self.watches.load(Ordering::SeqCst) == 0 && self.dnotify.is_empty()
    }

    /// Somebody watches `node`.
    pub(super) fn watched(&self, node: Id) -> bool {
        self.watches.load(Ordering::SeqCst) > 0 && self.by_node.lock().contains_key(&node)
    }

    /// Tells who watches `node`.
    pub(super) fn tell(&self, node: Id, mask: u32, cookie: u32, name: &[u8], directory: bool) {
        self.dnotify.tell(node, mask);
        // Dropped after the lock: an instance that ends takes it.
        let mut told = Vec::new();
        let mut by_node = self.by_node.lock();
        let Some(list) = by_node.get_mut(&node) else { return };
        // Of a directory itself these two never said so (inotify_handle_inode_event()).
        let flag = if directory && mask & (IN_DELETE_SELF | IN_MOVE_SELF) == 0 { IN_ISDIR } else { 0 };
        list.retain(|watch| {
            if watch.mask & mask & IN_ALL_EVENTS == 0 {
                return true;
            }
            let Some(instance) = watch.instance.upgrade() else { return true };
            instance.push(Event { wd: watch.wd, mask: mask | flag, cookie, name: name.to_vec() });
            let once = watch.mask & IN_ONESHOT != 0;
            if once {
                self.gone(&instance, watch.wd);
            }
            told.push(instance);
            !once
        });
        if mask & IN_DELETE_SELF != 0 {
            for watch in by_node.remove(&node).unwrap_or_default() {
                if let Some(instance) = watch.instance.upgrade() {
                    self.gone(&instance, watch.wd);
                    told.push(instance);
                }
            }
        }
        drop(by_node);
        told.iter().for_each(|instance| instance.fasync.kill(Band::In));
    }

    /// A watch ended by itself.
    fn gone(&self, instance: &Inotify, wd: i32) {
        if instance.state.lock().nodes.remove(&wd).is_some() {
            self.watches.fetch_sub(1, Ordering::SeqCst);
        }
        instance.push(Event { wd, mask: IN_IGNORED, cookie: 0, name: Vec::new() });
    }
}

impl Inotify {
    /// `inotify_init`; `EMFILE` if there are [`MAX_INSTANCES`].
    pub fn new(table: &Arc<Watches>) -> Result<Arc<Inotify>> {
        let more = |count: usize| (count < MAX_INSTANCES).then_some(count + 1);
        table.instances.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).map_err(|_| Errno::EMFILE)?;
        Ok(Arc::new(Inotify {
            state: Mutex::default(),
            readable: WaitQueue::new(),
            fasync: Fasync::default(),
            table: table.clone(),
        }))
    }

    /// The instance behind an open file; `EINVAL` for others.
    pub fn of(file: &OpenFile) -> Result<Arc<Inotify>> {
        let any: Arc<dyn Any + Send + Sync> = file.file.clone().as_inotify().ok_or(Errno::EINVAL)?;
        any.downcast().map_err(|_| Errno::EINVAL)
    }

    /// `inotify_add_watch`: one watch per node; returns its descriptor.
    pub fn watch(self: &Arc<Inotify>, node: Id, mask: u32) -> Result<i32> {
        let mut by_node = self.table.by_node.lock();
        let full = self.table.watches.load(Ordering::SeqCst) >= MAX_WATCHES;
        if full && !by_node.contains_key(&node) {
            return Err(Errno::ENOSPC);
        }
        let list = by_node.entry(node).or_default();
        let mine = |watch: &&mut Watch| std::ptr::eq(watch.instance.as_ptr(), Arc::as_ptr(self));
        if let Some(watch) = list.iter_mut().find(mine) {
            if mask & IN_MASK_CREATE != 0 {
                return Err(Errno::EEXIST);
            }
            watch.mask = if mask & IN_MASK_ADD != 0 { watch.mask | mask } else { mask };
            return Ok(watch.wd);
        }
        if full {
            return Err(Errno::ENOSPC);
        }
        let mut state = self.state.lock();
        state.last_wd = state.last_wd.checked_add(1).ok_or(Errno::ENOSPC)?;
        let wd = state.last_wd;
        state.nodes.insert(wd, node);
        list.push(Watch { instance: Arc::downgrade(self), wd, mask });
        self.table.watches.fetch_add(1, Ordering::SeqCst);
        Ok(wd)
    }

    /// `inotify_rm_watch`.
    pub fn unwatch(&self, wd: i32) -> Result<()> {
        let mut by_node = self.table.by_node.lock();
        let node = self.state.lock().nodes.get(&wd).copied().ok_or(Errno::EINVAL)?;
        if let Some(list) = by_node.get_mut(&node) {
            list.retain(|watch| watch.wd != wd || !std::ptr::eq(watch.instance.as_ptr(), self));
            if list.is_empty() {
                by_node.remove(&node);
            }
        }
        self.table.gone(self, wd);
        drop(by_node);
        self.fasync.kill(Band::In);
        Ok(())
    }

    fn push(&self, event: Event) {
        let mut state = self.state.lock();
        // What is the same as the last unread event is not told again.
        if state.events.back() == Some(&event) {
            return;
        }
        let event = match state.events.len() {
            MAX_QUEUED => Event { wd: -1, mask: IN_Q_OVERFLOW, cookie: 0, name: Vec::new() },
            len if len > MAX_QUEUED => return,
            _ => event,
        };
        state.bytes += event.size();
        state.events.push_back(event);
        drop(state);
        self.readable.wake_all();
    }
}

impl Drop for Inotify {
    fn drop(&mut self) {
        let nodes = std::mem::take(&mut self.state.get_mut().nodes);
        self.table.watches.fetch_sub(nodes.len(), Ordering::SeqCst);
        self.table.instances.fetch_sub(1, Ordering::SeqCst);
        let this: *const Inotify = self;
        let mut by_node = self.table.by_node.lock();
        for node in nodes.values() {
            if let Some(list) = by_node.get_mut(node) {
                list.retain(|watch| !std::ptr::eq(watch.instance.as_ptr(), this));
                if list.is_empty() {
                    by_node.remove(node);
                }
            }
        }
    }
}

impl Inotify {
    /// Its watches: descriptor, mask, node.
    fn watched(&self) -> Vec<(i32, u32, Id)> {
        let nodes = self.table.by_node.lock();
        let own = |watch: &&Watch| std::ptr::eq(watch.instance.as_ptr(), self);
        let all = nodes.iter().flat_map(|(id, list)| list.iter().filter(own).map(|watch| (watch, *id)));
        let mut list: Vec<_> = all.map(|(watch, id)| (watch.wd, watch.mask, id)).collect();
        // The latest first, as Linux keeps them.
        list.sort_unstable_by(|a, b| b.cmp(a));
        list
    }
}

impl File for Inotify {
    /// `inotify_fdinfo()` in fs/notify/fdinfo.c, without the handle of the node.
    fn fdinfo(&self, text: &mut String) {
        for (wd, mask, (dev, ino)) in self.watched() {
            let (major, minor) = super::split_dev(dev);
            let sdev = u64::from(major) << 20 | u64::from(minor);
            let _ = writeln!(text, "inotify wd:{wd:x} ino:{ino:x} sdev:{sdev:x} mask:{mask:x} ignored_mask:0 ");
        }
    }

    /// As many whole events as fit; `EINVAL` if not even the first does.
    fn read(&self, _io: &Io<'_>, _offset: u64, into: &mut dyn Sink) -> Result<usize> {
        let mut state = self.state.lock();
        let first = state.events.front().ok_or(Errno::EAGAIN)?;
        if first.size() > into.remaining() {
            return Err(Errno::EINVAL);
        }
        let mut bytes = Vec::new();
        while let Some(event) = state.events.front()
            && bytes.len() + event.size() <= into.remaining()
        {
            let (start, end) = (bytes.len(), bytes.len() + event.size());
            bytes.extend_from_slice(&event.wd.to_ne_bytes());
            bytes.extend_from_slice(&event.mask.to_ne_bytes());
            bytes.extend_from_slice(&event.cookie.to_ne_bytes());
            bytes.extend_from_slice(&(event.size() as u32 - 16).to_ne_bytes());
            bytes.extend_from_slice(&event.name);
            bytes.resize(end, 0);
            state.events.pop_front();
            state.bytes -= end - start;
        }
        drop(state);
        into.put(&bytes)
    }

    fn seeks_nowhere(&self) -> bool {
        true
    }

    fn poll(&self, table: &mut PollTable) -> Events {
        table.watch_for(&self.readable, Events::READ);
        if self.state.lock().events.is_empty() { Events::empty() } else { Events::READ }
    }

    fn stat(&self) -> Result<Stat> {
        Ok(crate::ipc::glue::anon_inode_stat())
    }

    fn ioctl(&self, cx: &mut Ctx<'_>, command: u32, argument: u64) -> SysResult {
        const FIONREAD: u32 = 0x541b;
        if command != FIONREAD {
            return Err(Errno::ENOTTY);
        }
        let bytes = self.state.lock().bytes;
        cx.mem().write(argument, &i32::try_from(bytes).unwrap_or(i32::MAX))?;
        Ok(0)
    }

    fn fasync(&self, request: &Request<'_>) -> bool {
        self.fasync.apply(request);
        true
    }

    fn description(&self) -> String {
        String::from("anon_inode:inotify")
    }

    fn as_inotify(self: Arc<Self>) -> Option<Arc<dyn Any + Send + Sync>> {
        Some(self)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Something happened to the node at `place`: told to its watchers and, with its name, to its directory's.
pub fn event(vfs: &Vfs, place: &PathRef, mask: u32) {
    let watches = &vfs.watches;
    if watches.idle() {
        return;
    }
    let directory = place.inode().is_dir();
    if let Some(parent) = place.dentry.parent()
        && mask & (IN_DELETE_SELF | IN_MOVE_SELF) == 0
        && let Ok(id) = parent.inode().id()
    {
        watches.tell(id, mask, 0, &place.dentry.name(), directory);
    }
    if let Ok(id) = place.inode().id() {
        watches.tell(id, mask, 0, b"", directory);
    }
}

/// Something happened to `name` in the directory at `parent`.
pub fn child(vfs: &Vfs, parent: &PathRef, name: &[u8], mask: u32, directory: bool, cookie: u32) {
    if !vfs.watches.idle()
        && let Ok(id) = parent.inode().id()
    {
        vfs.watches.tell(id, mask, cookie, name, directory);
    }
}

/// A node has more names or fewer: told to those who watch itself, not its directory (`fsnotify_link_count()`).
pub fn linked(vfs: &Vfs, node: &PathRef) {
    if !vfs.watches.idle()
        && let Ok(id) = node.inode().id()
    {
        vfs.watches.tell(id, IN_ATTRIB, 0, b"", false);
    }
}

/// A name was removed and its node may be gone.
pub fn removed(vfs: &Vfs, parent: &PathRef, name: &[u8], node: &PathRef) {
    if vfs.watches.idle() {
        return;
    }
    let directory = node.inode().is_dir();
    let Ok(id) = node.inode().id() else { return };
    if !directory {
        vfs.watches.tell(id, IN_ATTRIB, 0, b"", false);
    }
    // The node first (`d_delete_notify()` in include/linux/fsnotify.h), unless somebody still has it: it is told of when
    // that is over.
    if Arc::strong_count(&node.dentry) == 1
        && (directory || node.inode().stat().is_ok_and(|stat| stat.st_nlink == 0))
    {
        vfs.watches.tell(id, IN_DELETE_SELF, 0, b"", directory);
    }
    child(vfs, parent, name, IN_DELETE, directory, 0);
}

/// A name was renamed.
pub fn moved(vfs: &Vfs, from: (&PathRef, &[u8]), to: (&PathRef, &[u8]), node: &PathRef) {
    if vfs.watches.idle() {
        return;
    }
    let cookie = vfs.watches.cookie.fetch_add(1, Ordering::Relaxed) + 1;
    let directory = node.inode().is_dir();
    child(vfs, from.0, from.1, IN_MOVED_FROM, directory, cookie);
    child(vfs, to.0, to.1, IN_MOVED_TO, directory, cookie);
    if let (Ok(old), Ok(new)) = (from.0.inode().id(), to.0.inode().id())
        && old == new
    {
        vfs.watches.dnotify.tell(old, super::dnotify::RENAMED);
    }
    if let Ok(id) = node.inode().id() {
        vfs.watches.tell(id, IN_MOVE_SELF, 0, b"", directory);
    }
}

/// A file was opened; its closing will be told too. Only files opened while there is an inotify instance tell
/// of their closing.
pub fn opened(task: &Arc<Task>, place: &PathRef, open: &Arc<OpenFile>) {
    let vfs = &task.world.vfs;
    if vfs.watches.instances.load(Ordering::SeqCst) == 0 {
        return;
    }
    event(vfs, place, IN_OPEN);
    let mask = if open.writable() { IN_CLOSE_WRITE } else { IN_CLOSE_NOWRITE };
    let (world, place) = (Arc::downgrade(&task.world), place.clone());
    open.at_drop(move |_| {
        if let Some(world) = world.upgrade() {
            event(&world.vfs, &place, mask);
        }
    });
}

/// An open file was written to.
pub fn modified(vfs: &Vfs, open: &OpenFile) {
    used(vfs, open, IN_MODIFY);
}

/// An open file was read from.
pub fn accessed(vfs: &Vfs, open: &OpenFile) {
    used(vfs, open, IN_ACCESS);
}

fn used(vfs: &Vfs, open: &OpenFile, mask: u32) {
    if !vfs.watches.idle()
        && let Some(place) = &open.path
    {
        event(vfs, place, mask);
    }
}
