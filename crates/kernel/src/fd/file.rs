//! The [`File`] trait, which every kind of open file implements, and [`OpenFile`], which Linux calls an open
//! file description.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use coracle_platform::MapSource;
use parking_lot::Mutex;

use super::fasync::{Fown, Request};
use crate::abi::linux::{FASYNC, O_ACCMODE, O_APPEND, O_NONBLOCK, O_PATH, O_RDONLY, O_WRONLY};
use crate::abi::types::Stat;
use crate::call::Ctx;
use crate::fs::lock::LockTable;
use crate::mem::{Sink, Source};
use crate::task::Task;
use crate::wait::{Events, PollTable};
use crate::{Errno, Result, SysResult};

/// Who does I/O and how.
pub struct Io<'a> {
    pub task: &'a Arc<Task>,
    /// `O_*` status flags of the open file, plus what `RWF_*` added.
    pub flags: u32,
}

/// One kind of open file. Operations never block: they say `EAGAIN`, and the caller waits with `poll`.
/// Defaults are what Linux says for files without the operation.
pub trait File: Send + Sync + 'static {
    /// Reads at `offset` (streams ignore it). Zero is the end of the file.
    fn read(&self, _io: &Io<'_>, _offset: u64, _into: &mut dyn Sink) -> Result<usize> {
        Err(Errno::EINVAL)
    }

    /// Writes at `offset` (streams ignore it).
    fn write(&self, _io: &Io<'_>, _offset: u64, _from: &mut dyn Source) -> Result<usize> {
        Err(Errno::EINVAL)
    }

    /// Writes at the end, as one step; returns the count and the offset behind it.
    fn append(&self, io: &Io<'_>, from: &mut dyn Source) -> Result<(usize, u64)> {
        self.write(io, 0, from).map(|count| (count, 0))
    }

    /// A blocking write goes on until everything is taken (pipes, stream sockets, terminals).
    fn writes_all(&self) -> bool {
        false
    }

    /// How long a blocking `read` or `write` waits at most (`SO_RCVTIMEO`, `SO_SNDTIMEO`); then `EAGAIN`.
    fn io_timeout(&self, _write: bool) -> Option<std::time::Duration> {
        None
    }

    /// A read that runs into its timeout finds the end of the file rather than `EAGAIN` (`VTIME`, termios(3)).
    fn timeout_is_end(&self) -> bool {
        false
    }

    /// A read that has `count` bytes goes on for as long as more of them come within the time given, if there is one
    /// (`VMIN`, `VTIME`); `None`: it is done.
    fn reads_on(&self, _count: usize) -> Option<Option<std::time::Duration>> {
        None
    }

    /// A read gives random bytes, as any other source of such would.
    fn gives_random(&self) -> bool {
        false
    }

    /// Has a position: `lseek`, `pread` and `pwrite` work.
    fn seekable(&self) -> bool {
        false
    }

    /// `lseek` succeeds, and stays at 0 whatever is asked (`noop_llseek()`, `null_lseek()`).
    fn seeks_nowhere(&self) -> bool {
        false
    }

    /// The new position for `lseek(offset, whence)` with `current` as the present one.
    fn seek(&self, _current: u64, _offset: i64, _whence: u32) -> Result<u64> {
        Err(Errno::ESPIPE)
    }

    /// What is ready now. Must watch its queue in the table first.
    fn poll(&self, _table: &mut PollTable) -> Events {
        Events::READ | Events::WRITE
    }

    /// Whether `epoll` and friends may watch it at all (regular files and directories: `EPERM`).
    fn pollable(&self) -> bool {
        true
    }

    /// `fstat`.
    fn stat(&self) -> Result<Stat>;

    /// `ioctl`; common ones (`FIONBIO`, `FIOCLEX`, …) are done by the caller.
    fn ioctl(&self, _cx: &mut Ctx<'_>, _command: u32, _argument: u64) -> SysResult {
        Err(Errno::ENOTTY)
    }

    /// `ftruncate`; write access was checked.
    fn truncate(&self, _len: u64) -> Result<()> {
        Err(Errno::EINVAL)
    }

    /// `fallocate`.
    fn allocate(&self, _mode: u32, _offset: u64, _len: u64) -> Result<()> {
        Err(Errno::ENODEV)
    }

    /// It may be added to and no more (`IS_APPEND()`): flags that say otherwise are refused (`EPERM`).
    fn append_only(&self) -> bool {
        false
    }

    /// `fsync` and `fdatasync`.
    fn sync(&self, _data_only: bool) -> Result<()> {
        Err(Errno::EINVAL)
    }

    /// Seals keep it from being written to by mappings (`F_SEAL_WRITE`, `F_SEAL_FUTURE_WRITE`).
    fn write_sealed(&self) -> bool {
        false
    }

    /// A host file that `mmap` may use. `writable_shared`: the mapping is shared and may be written to.
    fn map(&self, _key: u64, _writable_shared: bool) -> Result<Mapped> {
        Err(Errno::ENODEV)
    }

    /// `getdents64`: calls `emit` for entries from position `from` on until it says `false`; returns the
    /// position to go on from.
    fn read_directory(&self, _from: u64, _emit: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<u64> {
        Err(Errno::ENOTDIR)
    }

    /// Called when the flags change (`F_SETFL`), for kinds that care.
    fn flags_changed(&self, _flags: u32) -> Result<()> {
        Ok(())
    }

    /// Enters or leaves `O_ASYNC` mode; `false`: this kind of file has none.
    fn fasync(&self, _request: &Request<'_>) -> bool {
        false
    }

    /// The open file has an owner now, for kinds that signal it without `O_ASYNC` (sockets: `SIGURG`).
    fn owned(&self, _owner: &Arc<Fown>) {}

    /// Called at every `close` of a descriptor (`flush` in Linux), even if others remain.
    fn flush(&self, _task: &Arc<Task>) -> Result<()> {
        Ok(())
    }

    /// The inode behind it, where there is one in a file system.
    fn inode(&self) -> Option<Arc<dyn crate::fs::Inode>> {
        None
    }

    /// What `readlink /proc/self/fd/N` shows for files without a path, such as `pipe:[123]`.
    fn description(&self) -> String {
        String::from("anon_inode:[unknown]")
    }

    /// Lines of `/proc/PID/fdinfo/N` beyond those that every file has (`show_fdinfo`).
    fn fdinfo(&self, _text: &mut String) {}

    /// Opens the same object once more, through `/proc/self/fd/N`. `within`: the descriptor it goes through has
    /// all the rights asked for. Objects whose ends differ (pipes) decide for themselves.
    fn reopen(self: Arc<Self>, _flags: u32, _within: bool) -> Result<Arc<dyn File>> {
        Err(Errno::ENXIO)
    }

    /// Itself, for calls that keep an inotify instance beyond the call.
    fn as_inotify(self: Arc<Self>) -> Option<Arc<dyn Any + Send + Sync>> {
        None
    }

    /// For calls that work on one kind only.
    fn as_any(&self) -> &dyn Any;
}

/// What `mmap` maps.
pub enum Mapped {
    /// This host file.
    File(MapSource),
    /// Fresh zero pages (`/dev/zero`).
    Zero,
}

/// One entry of a directory.
#[derive(Clone, Copy, Debug)]
pub struct DirEntry<'a> {
    pub ino: u64,
    /// The position after this entry (`d_off`).
    pub next: u64,
    /// `DT_*`.
    pub kind: u8,
    pub name: &'a [u8],
}

/// An open file description: what `dup` and `fork` share.
pub struct OpenFile {
    pub file: Arc<dyn File>,
    /// `O_*` access mode and status flags. The access mode never changes.
    flags: AtomicU32,
    /// The position; held for the whole of a `read` or `write` as Linux's `f_pos_lock` is.
    pub position: Mutex<u64>,
    /// Where it was opened, for `/proc/self/fd` and `fchdir`.
    pub path: Option<crate::fs::PathRef>,
    /// Unique among all open files of the kernel, never reused.
    pub key: u64,
    /// `F_SETOWN`, `F_SETSIG`.
    owner: OnceLock<Arc<Fown>>,
    /// Called once when the last reference goes.
    on_drop: Mutex<DropActions>,
    /// It may have locks, which go then.
    locked: AtomicBool,
}

/// What to run at the end, by ticket.
#[derive(Default)]
struct DropActions {
    next: u64,
    list: BTreeMap<u64, DropAction>,
}

type DropAction = Box<dyn FnOnce(u64) + Send>;

static NEXT_KEY: AtomicU64 = AtomicU64::new(1);

impl OpenFile {
    /// An open file without a path.
    pub fn new(file: Arc<dyn File>, flags: u32) -> Arc<OpenFile> {
        OpenFile::with_path(file, flags, None)
    }

    /// An open file that was opened at `path`.
    pub fn with_path(file: Arc<dyn File>, flags: u32, path: Option<crate::fs::PathRef>) -> Arc<OpenFile> {
        Arc::new(OpenFile {
            file,
            flags: AtomicU32::new(flags),
            position: Mutex::new(0),
            path,
            key: NEXT_KEY.fetch_add(1, Ordering::Relaxed),
            owner: OnceLock::new(),
            on_drop: Mutex::default(),
            locked: AtomicBool::new(false),
        })
    }

    /// Access mode and status flags.
    pub fn flags(&self) -> u32 {
        self.flags.load(Ordering::Relaxed)
    }

    /// Replaces the status flags that `F_SETFL` may change, keeping the others.
    pub fn set_flags(&self, changeable: u32, value: u32) -> Result<()> {
        let new = (self.flags() & !changeable) | (value & changeable);
        if new & O_APPEND == 0 && self.flags() & O_APPEND != 0 && self.file.append_only() {
            return Err(Errno::EPERM);
        }
        self.file.flags_changed(new)?;
        self.flags.store(new, Ordering::Relaxed);
        Ok(())
    }

    /// Who is signalled about this file.
    pub fn owner(&self) -> &Arc<Fown> {
        self.owner.get_or_init(|| {
            let owner = Arc::default();
            self.file.owned(&owner);
            owner
        })
    }

    /// `O_ASYNC`, asked for through descriptor `fd`; `false`: this kind of file has none.
    pub fn set_async(&self, task: &Arc<Task>, fd: i32, on: bool) -> bool {
        let request = Request { on, key: self.key, fd, owner: self.owner(), task: Some(task) };
        let has = self.file.fasync(&request);
        if has {
            match on {
                true => self.flags.fetch_or(FASYNC, Ordering::Relaxed),
                false => self.flags.fetch_and(!FASYNC, Ordering::Relaxed),
            };
        }
        has
    }

    /// `O_NONBLOCK` is set.
    pub fn nonblocking(&self) -> bool {
        self.flags() & O_NONBLOCK != 0
    }

    /// Opened for reading.
    pub fn readable(&self) -> bool {
        self.flags() & O_PATH == 0 && self.flags() & O_ACCMODE != O_WRONLY
    }

    /// Opened for writing.
    pub fn writable(&self) -> bool {
        self.flags() & O_PATH == 0 && self.flags() & O_ACCMODE != O_RDONLY
    }

    /// Runs `action` with this file's key when the last reference goes. The ticket takes it back.
    pub fn at_drop(&self, action: impl FnOnce(u64) + Send + 'static) -> u64 {
        let mut actions = self.on_drop.lock();
        let ticket = actions.next;
        actions.next += 1;
        actions.list.insert(ticket, Box::new(action));
        ticket
    }

    /// It has locks of the inode, which go with it.
    pub fn holds_locks(&self, id: (u64, u64), locks: &Arc<LockTable>) {
        if !self.locked.swap(true, Ordering::Relaxed) {
            let locks = locks.clone();
            self.at_drop(move |key| locks.release_file(id, key));
        }
    }

    /// Takes an action of `at_drop` back.
    pub fn cancel_at_drop(&self, ticket: u64) {
        let action = self.on_drop.lock().list.remove(&ticket);
        drop(action);
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        if self.flags() & FASYNC != 0
            && let Some(owner) = self.owner.get()
        {
            self.file.fasync(&Request { on: false, key: self.key, fd: -1, owner, task: None });
        }
        for action in std::mem::take(&mut self.on_drop.get_mut().list).into_values() {
            action(self.key);
        }
    }
}
