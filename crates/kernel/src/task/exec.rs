//! `execve`: finding out what to run, and becoming it (fs/exec.c).
//!
//! The new program is built in an address space of its own ([`super::load`]) while the old one still stands,
//! so every failure up to then returns to the caller. What comes after cannot fail:
//! 1. the other threads of the process end, and this one becomes the leader (`de_thread()`);
//! 2. the old address space is let go (robust futexes, `clear_child_tid`, a parent in vfork);
//! 3. descriptors, signals and credentials change as the call says;
//! 4. the run loop swaps the threads.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use coracle_elf::{ArgSpace, BINPRM_BUF_SIZE, Image, MAX_ARG_STRLEN, MAX_INTERPRETERS, ReadAt, Script};
use coracle_platform::{Space, Thread, Vessel};

use super::load::{self, Program};
use super::{Task, robust, usage};
use crate::abi::linux::{O_RDONLY, RLIMIT_STACK, SIGCHLD};
use crate::abi::{PAGE_SIZE, page_floor};
use crate::call::{After, Ctx};
use crate::fd::{Io, OpenFile};
use crate::fs::{Access, MountFlags, Opening, PathRef, Resolve, S_IFREG, Walk, Who, anew};
use crate::mem::{UserMemory, VecSink};
use crate::mm::{self, AddressSpace};
use crate::shown::Short;
use crate::task::Caps;
use crate::{Errno, Result, SysResult, signal};

/// Why a program cannot be run: the errno for the guest, and words for whoever started the sandbox.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct ExecError {
    pub errno: Errno,
    /// For people.
    pub reason: String,
}

impl From<Errno> for ExecError {
    fn from(errno: Errno) -> Self {
        ExecError { errno, reason: String::from(errno.name()) }
    }
}

impl ExecError {
    /// It is the dynamic loader or a script's interpreter that is missing, not the program.
    pub(super) fn is_interpreter(&self) -> bool {
        self.reason.contains("interpreter")
    }

    pub(super) fn new(errno: Errno, path: &[u8], reason: &dyn std::fmt::Display) -> ExecError {
        ExecError { errno, reason: format!("{}: {reason}", Short(path)) }
    }
}

/// What to run, as the caller named it.
pub struct Request {
    /// Where a relative path starts from.
    pub base: PathRef,
    pub path: Vec<u8>,
    /// `FOLLOW` and `EMPTY` as the flags of `execveat` say.
    pub how: Resolve,
    /// `bprm->filename`: what `AT_EXECFN` shows and the name of the task is taken from.
    pub filename: Vec<u8>,
    /// `filename` will be gone after the exec: no interpreter could open it.
    pub inaccessible: bool,
    pub argv: Vec<Vec<u8>>,
    pub envp: Vec<Vec<u8>>,
}

/// Reads an open file at an offset, for the parser.
pub(super) struct Reader<'a> {
    pub task: &'a Arc<Task>,
    pub file: &'a OpenFile,
}

impl ReadAt for Reader<'_> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, i32> {
        let io = Io { task: self.task, flags: self.file.flags() };
        let mut sink = VecSink { bytes: Vec::with_capacity(buf.len()), limit: buf.len() };
        let count = self.file.file.read(&io, offset, &mut sink).map_err(Errno::raw)?;
        for (to, from) in buf.iter_mut().zip(&sink.bytes) {
            *to = *from;
        }
        Ok(count.min(buf.len()))
    }
}

/// `do_open_execat()`: a regular file that the caller may execute.
fn open(task: &Arc<Task>, base: &PathRef, path: &[u8], how: Resolve) -> Result<Arc<OpenFile>> {
    anew(|| try_open(task, base, path, how))
}

fn try_open(task: &Arc<Task>, base: &PathRef, path: &[u8], how: Resolve) -> Result<Arc<OpenFile>> {
    let cred = task.cred();
    let root = task.fs().root();
    let who = Who { cred: &cred, task: Some(task) };
    let place = Walk { vfs: &task.world.vfs, who, root: &root, base }.find(path, how)?;
    if place.inode().is_link() {
        return Err(Errno::ELOOP);
    }
    if place.inode().kind() != S_IFREG || place.mount.flags().contains(MountFlags::NOEXEC) {
        return Err(Errno::EACCES);
    }
    place.inode().permission(who, Access::EXEC)?;
    deny_write(task, &place)?;
    let file = place.inode().clone().open(&Opening { who, flags: O_RDONLY, path: &place })?;
    Ok(OpenFile::with_path(file, O_RDONLY, Some(place)))
}

/// `deny_write_access()`: what somebody has open for writing is not run.
fn deny_write(task: &Task, place: &PathRef) -> Result<()> {
    let writes = |file: &OpenFile| {
        file.writable() && file.path.as_ref().is_some_and(|path| Arc::ptr_eq(path.inode(), place.inode()))
    };
    let mut seen = Vec::new();
    for process in task.world.processes() {
        let Some(other) = process.any_task() else { continue };
        let table = other.files();
        if seen.iter().any(|known| Arc::ptr_eq(known, &table)) {
            continue;
        }
        if table.list().iter().any(|(_, entry)| writes(&entry.file)) {
            return Err(Errno::ETXTBSY);
        }
        seen.push(table);
    }
    Ok(())
}

/// The first bytes of a file, as many as Linux looks at.
fn head(reader: &Reader<'_>) -> Result<Vec<u8>> {
    let mut bytes = vec![0; BINPRM_BUF_SIZE];
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match reader.read_at(rest, done as u64).map_err(Errno::from_raw)? {
            0 => break,
            count => done += count,
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}

/// `exec_binprm()`: follows `#!` lines to a program that can be loaded.
pub(super) fn find(task: &Arc<Task>, request: Request) -> Result<Program, ExecError> {
    let Request { base, mut path, mut how, filename, inaccessible, mut argv, envp } = request;
    let mut at = base;
    for depth in 0.. {
        let file = open(task, &at, &path, how).map_err(|errno| {
            let reason = match (errno, depth) {
                (Errno::ENOENT, 0) => "no such program",
                (Errno::ENOENT, _) => "the interpreter that a script names does not exist",
                (Errno::EACCES, _) => "may not be executed",
                _ => errno.name(),
            };
            ExecError::new(errno, &path, &reason)
        })?;
        let reader = Reader { task, file: &file };
        let head = head(&reader)?;
        match Script::parse(&head) {
            Ok(script) => {
                if depth >= MAX_INTERPRETERS {
                    return Err(ExecError::new(Errno::ELOOP, &path, &"too many interpreters in a row"));
                }
                if inaccessible {
                    return Err(ExecError::new(Errno::ENOENT, &path, &"a script behind a close-on-exec file"));
                }
                let name = if depth == 0 { &filename } else { &path };
                argv = script.argv(name, &argv);
                path = script.interp;
                at = task.fs().cwd();
                how = Resolve::FOLLOW;
            }
            Err(_) => {
                let image = Image::parse(&head, &reader).map_err(|error| elf_error(&path, &error))?;
                let interpreter = interpreter(task, &image)?;
                return Ok(Program { file, image, interpreter, filename, argv, envp });
            }
        }
    }
    Err(Errno::ELOOP.into())
}

pub(super) fn elf_error(path: &[u8], error: &coracle_elf::ElfError) -> ExecError {
    ExecError::new(Errno::from_raw(error.errno()), path, error)
}

/// Opens and reads what `PT_INTERP` names.
fn interpreter(task: &Arc<Task>, image: &Image) -> Result<Option<(Arc<OpenFile>, Image)>, ExecError> {
    let Some(path) = &image.interp else { return Ok(None) };
    let cwd = task.fs().cwd();
    let file = open(task, &cwd, path, Resolve::FOLLOW).map_err(|errno| {
        ExecError::new(errno, path, &"the program's interpreter (dynamic loader) cannot be opened")
    })?;
    let reader = Reader { task, file: &file };
    let head = head(&reader)?;
    let parsed = Image::parse_interpreter(&head, &reader).map_err(|error| elf_error(path, &error))?;
    Ok(Some((file, parsed)))
}

/// Arguments or environment.
type StringList = Vec<Vec<u8>>;

/// Reads strings of the guest, most of which lie side by side: a page at a time.
pub struct Strings<'a> {
    memory: UserMemory<'a>,
    page: u64,
    bytes: Vec<u8>,
}

impl<'a> Strings<'a> {
    pub fn new(memory: UserMemory<'a>) -> Strings<'a> {
        Strings { memory, page: u64::MAX, bytes: Vec::new() }
    }

    /// Bytes from `address` to the end of its page, or as many as can be read.
    fn rest_of_page(&mut self, address: u64) -> Result<&[u8]> {
        let page = page_floor(address);
        if page != self.page {
            let mut bytes = vec![0; PAGE_SIZE as usize];
            let count = self.memory.read_some(page, &mut bytes);
            bytes.truncate(count);
            (self.page, self.bytes) = (page, bytes);
        }
        let offset = usize::try_from(address - page).map_err(|_| Errno::EFAULT)?;
        self.bytes.get(offset..).filter(|rest| !rest.is_empty()).ok_or(Errno::EFAULT)
    }

    /// The addresses in a list that ends with NULL (`count()`).
    fn pointers(&mut self, list: u64) -> Result<Vec<u64>> {
        /// More would not fit into any stack.
        const MOST: usize = 1 << 20;
        let mut pointers = Vec::new();
        if list == 0 {
            return Ok(pointers);
        }
        while pointers.len() < MOST {
            let at = list.checked_add(pointers.len() as u64 * 8).ok_or(Errno::EFAULT)?;
            let pointer = match self.rest_of_page(at)?.first_chunk::<8>() {
                Some(bytes) => u64::from_le_bytes(*bytes),
                // Across the border of a page.
                None => self.memory.read::<u64>(at)?,
            };
            if pointer == 0 {
                return Ok(pointers);
            }
            pointers.push(pointer);
        }
        Err(Errno::E2BIG)
    }

    fn string(&mut self, address: u64) -> Result<Vec<u8>> {
        let mut string = Vec::new();
        while string.len() < MAX_ARG_STRLEN {
            let at = address.checked_add(string.len() as u64).ok_or(Errno::EFAULT)?;
            let rest = self.rest_of_page(at)?;
            match rest.iter().position(|byte| *byte == 0) {
                Some(end) => {
                    string.extend_from_slice(rest.get(..end).unwrap_or_default());
                    return Ok(string);
                }
                None => string.extend_from_slice(rest),
            }
        }
        Err(Errno::E2BIG)
    }

    /// Strings from the last to the first (`copy_strings()`), charged as they come.
    fn strings(&mut self, pointers: &[u64], space: &mut ArgSpace) -> Result<Vec<Vec<u8>>> {
        let mut strings = Vec::with_capacity(pointers.len());
        for pointer in pointers.iter().rev() {
            let string = self.string(*pointer)?;
            space.charge(string.len()).map_err(|error| Errno::from_raw(error.errno()))?;
            strings.push(string);
        }
        strings.reverse();
        Ok(strings)
    }

    /// `argv` and `envp`, with errors in Linux's order.
    pub fn arguments(
        &mut self,
        filename: &[u8],
        argv: u64,
        envp: u64,
        rlimit_stack: u64,
    ) -> Result<(StringList, StringList)> {
        let argv = self.pointers(argv)?;
        let envp = self.pointers(envp)?;
        let fault = |error: coracle_elf::ArgError| Errno::from_raw(error.errno());
        let mut space = ArgSpace::new(argv.len(), envp.len(), rlimit_stack).map_err(fault)?;
        space.charge(filename.len()).map_err(fault)?;
        let envp = self.strings(&envp, &mut space)?;
        let argv = self.strings(&argv, &mut space)?;
        Ok((argv, envp))
    }
}

/// The call itself, with everything fetched from the guest.
pub fn exec(cx: &mut Ctx<'_>, request: Request) -> SysResult {
    let task = cx.task.clone();
    let program = find(&task, request).map_err(|error| {
        log::debug!("execve by process {}: {}", task.pid(), error.reason);
        error.errno
    })?;
    let Vessel { space, mut thread } = task.world.platform.spawn().map_err(|error| {
        log::warn!("no worker for execve: {error}");
        Errno::EAGAIN
    })?;
    match become_program(cx, &task, &program, &space, &mut *thread) {
        Ok(()) => {
            cx.after = After::Exec(Vessel { space, thread });
            Ok(0)
        }
        Err(errno) => {
            thread.retire();
            Err(errno)
        }
    }
}

fn become_program(
    cx: &mut Ctx<'_>,
    task: &Arc<Task>,
    program: &Program,
    space: &Arc<dyn Space>,
    thread: &mut dyn Thread,
) -> Result<()> {
    let mm = load::build(task, program, space, thread).map_err(|error| error.errno)?;
    if !de_thread(task) {
        // The process ends, or another thread's execve was first.
        return Err(Errno::EAGAIN);
    }
    let old = task.mm();
    let alone = old.has_one_user();
    let _ = robust::release(task, &*old.space, cx.thread, alone);
    super::exit::account_thread(task);
    usage::settle_space(&task.process, &old);
    *task.rseq.lock() = None;
    *task.control.lock() = thread.control();
    *task.mm.lock() = mm::User::of(mm.clone());
    *task.process.mm.lock() = Some(mm);
    if let Some(vfork) = task.process.vfork.lock().take() {
        vfork.fulfil();
    }
    change_identity(task, program);
    signal::exec(task);
    task.unshare_files();
    for entry in task.files().remove_if(|_, entry| entry.close_on_exec) {
        let _ = entry.file.file.flush(task);
    }
    let affinity = task.sched.lock().affinity.clone();
    if affinity != task.world.config.cpus {
        let _ = task.control().set_affinity(&affinity);
    }
    Ok(())
}

/// A program that was started from outside is in place; the task has not run.
pub(super) fn become_first(task: &Arc<Task>, program: &Program, mm: Arc<AddressSpace>) {
    *task.mm.lock() = mm::User::of(mm.clone());
    *task.process.mm.lock() = Some(mm);
    change_identity(task, program);
}

/// What changes with the program (`begin_new_exec()`, `cap_bprm_creds_from_file()`). Set-user-id bits do nothing
/// here, as on a mount with `nosuid`.
fn change_identity(task: &Arc<Task>, program: &Program) {
    const SECURE_NOROOT: u32 = 1;
    const SECURE_KEEP_CAPS: u32 = 1 << 4;
    let process = &task.process;
    let name = program.filename.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    task.set_comm(name);
    process.did_exec.store(true, Ordering::Relaxed);
    process.exit_signal.store(SIGCHLD as i32, Ordering::Relaxed);
    let mut cred = (*task.cred()).clone();
    cred.suid = cred.euid;
    cred.fsuid = cred.euid;
    cred.sgid = cred.egid;
    cred.fsgid = cred.egid;
    let root = cred.securebits & SECURE_NOROOT == 0 && (cred.euid == 0 || cred.uid == 0);
    if root {
        cred.permitted = cred.bounding | cred.inheritable;
        cred.effective = if cred.euid == 0 { cred.permitted } else { Caps::empty() };
    } else {
        cred.permitted = cred.ambient;
        cred.effective = cred.ambient;
    }
    cred.securebits &= !SECURE_KEEP_CAPS;
    // The run loop publishes once the new thread is in place.
    process.last_uid.store(cred.uid, Ordering::Relaxed);
    *task.cred.lock() = Arc::new(cred);
}

/// Ends the other threads of the process; this one becomes the leader. `false` if it must end itself instead.
fn de_thread(task: &Arc<Task>) -> bool {
    let process = &task.process;
    {
        // One of several threads that call execve at a time wins; the others find themselves dying.
        let tasks = process.tasks.lock();
        if task.must_exit() {
            return false;
        }
        for other in tasks.iter().filter(|other| !Arc::ptr_eq(other, task)) {
            other.dying.store(true, Ordering::SeqCst);
        }
    }
    process.notify_all();
    process.stop_queue.wake_all();
    let alone = task.block_killable(None, |table| {
        table.watch(&process.leave_queue);
        let others: Vec<_> = process.tasks().into_iter().filter(|other| !Arc::ptr_eq(other, task)).collect();
        // A thread that was being born when the others were told.
        for late in others.iter().filter(|other| !other.dying.swap(true, Ordering::SeqCst)) {
            late.notify();
        }
        others.is_empty().then_some(())
    });
    if alone.is_err() {
        return false;
    }
    if task.tid() != process.pid {
        let mut tree = task.world.tree.lock();
        tree.remove_task(task);
        task.tid.store(process.pid, Ordering::SeqCst);
        tree.add_task(task.clone());
    }
    true
}

/// What the strings of a call may take.
pub fn rlimit_stack(task: &Task) -> u64 {
    task.rlimit(RLIMIT_STACK)
}
