//! Core dumps (core(5), fs/coredump.c): what a process was when it died, as an ELF file.
//!
//! Instants, to which comments here refer:
//! 1. a thread takes a signal whose default action is to dump core: the end of its process begins
//!    ([`Process::begin_core`]), and its other threads are told;
//! 2. each of them, on its way out, leaves its registers here and waits ([`join`]);
//! 3. when all have, the file is made and written by the kernel thread that serves the dying one; others than the
//!    process itself do not wait for it;
//! 4. the wait status is settled, and all threads go on to their ends.
//!
//! SIGKILL at any time before 4 ends the dump and is what the process died of.
//!
//! Lock order: `Process::group`, then `Process::core`; what a [`CoreDump`] locks is a leaf.

mod helper;
mod name;
mod notes;
mod segments;
mod write;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use coracle_platform::{Regs, Thread};
use parking_lot::Mutex;

use super::{Process, Task};
use crate::SysResult;
use crate::abi::PAGE_SIZE;
use crate::abi::linux::{RLIMIT_CORE, SIGKILL};
use crate::call::Ctx;
use crate::fd::OpenFile;
use crate::shown::Name;
use crate::signal::SigInfo;
use crate::wait::WaitQueue;

pub use name::{PATTERN_MAX, Settings};
use notes::{Dying, ThreadState};
pub use segments::FILTER;
use segments::Part;
use write::Writer;

/// `WCOREFLAG` of a wait status.
const WCOREFLAG: i32 = 0x80;

/// One dump on its way.
pub struct CoreDump {
    /// Tid of the thread that writes.
    dumper: u32,
    gathered: Mutex<Gathered>,
    /// Where the writer waits for the others, and they for the writer.
    queue: WaitQueue,
    /// SIGKILL has come.
    cancelled: AtomicBool,
    /// Instant 4 has come.
    done: AtomicBool,
}

/// The other threads, as far as they have come by.
#[derive(Default)]
struct Gathered {
    count: usize,
    /// Fewer than `count` if one has lost its worker.
    threads: Vec<ThreadState>,
}

impl CoreDump {
    fn new(dumper: u32) -> Arc<CoreDump> {
        Arc::new(CoreDump {
            dumper,
            gathered: Mutex::default(),
            queue: WaitQueue::new(),
            cancelled: AtomicBool::new(false),
            done: AtomicBool::new(false),
        })
    }

    /// It has neither been finished nor given up.
    pub fn goes_on(&self) -> bool {
        !self.done.load(Ordering::SeqCst) && !self.cancelled()
    }

    fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    fn gather(&self, state: Option<ThreadState>) {
        let mut gathered = self.gathered.lock();
        gathered.count += 1;
        gathered.threads.extend(state);
    }
}

impl Process {
    /// The dump that was begun, if one was.
    pub fn core(&self) -> Option<Arc<CoreDump>> {
        self.core.lock().clone()
    }

    /// Instant 1. `None`: its end had begun before, and that is what it dies of (`zap_threads()`).
    fn begin_core(&self, signal: i32, dumper: u32) -> Option<Arc<CoreDump>> {
        let dump = CoreDump::new(dumper);
        {
            let mut group = self.group.lock();
            if group.exit.is_some() || group.zombie {
                return None;
            }
            // Whoever sees the exit finds the dump.
            *self.core.lock() = Some(dump.clone());
            self.mark_exit(&mut group, signal);
        }
        self.tell_exit(signal);
        Some(dump)
    }

    /// SIGKILL has come upon a process whose end has begun: a dump is given up, and the signal is what it dies of
    /// (`complete_signal()` with `core_state`). Called with `group` locked; yields what is to be woken without.
    pub(super) fn cancel_core(&self, exit: &mut Option<i32>) -> Option<WaitQueue> {
        let dump = self.core()?;
        if !dump.goes_on() {
            return None;
        }
        *exit = Some(SIGKILL as i32);
        dump.cancelled.store(true, Ordering::SeqCst);
        Some(dump.queue.clone())
    }
}

/// Instant 4, whatever became of the dump.
struct End<'a> {
    process: &'a Process,
    dump: &'a CoreDump,
    written: bool,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        {
            let mut group = self.process.group.lock();
            if self.written && !self.dump.cancelled() {
                group.exit = group.exit.map(|status| status | WCOREFLAG);
            }
            self.dump.done.store(true, Ordering::SeqCst);
        }
        self.dump.queue.wake_all();
    }
}

/// Ends the process with the signal that `info` tells of, and dumps core where it may (`do_coredump()`). `call` is
/// the result of the system call that the thread stands in, if it stands in one.
pub fn dump(cx: &mut Ctx<'_>, info: &SigInfo, call: Option<SysResult>) {
    let task = cx.task.clone();
    let process = &task.process;
    let (dumpable, filter) = {
        let mm = task.mm();
        let image = mm.image.lock();
        (image.dumpable, image.dump_filter)
    };
    let limit = task.rlimit(RLIMIT_CORE);
    let piped = name::is_piped(&task);
    // `min_coredump`: less than a page is nothing. A program may have all, whatever the limit. (SUID_DUMP_ROOT, 2, does
    // not occur: prctl refuses it.)
    if dumpable != 1 || !piped && limit < PAGE_SIZE {
        process.begin_exit(info.signo);
        return;
    }
    let Some(dump) = process.begin_core(info.signo, task.tid()) else { return };
    let mut end = End { process, dump: &dump, written: false };
    let call = call.map(|result| (cx.number, result));
    let Some(state) = ThreadState::take(&task, cx.thread, call) else { return };
    if !await_others(&task, &dump) {
        return;
    }
    // As in Linux the flag says that a dump was begun, not that there was room for all of it.
    let (helper, file) = if piped {
        helper::start(&task, info.signo, limit).map_or((None, None), |(helper, file)| (Some(helper), Some(file)))
    } else {
        (None, name::open(&task, info.signo, limit))
    };
    if let Some(file) = file {
        end.written = true;
        let mut threads = std::mem::take(&mut dump.gathered.lock().threads);
        threads.sort_by_key(|thread| thread.tid);
        let dying = Dying { task: &task, info, first: state, others: threads };
        let mut writer =
            if piped { Writer::piped(&task, &dump, &file) } else { Writer::new(&task, &dump, &file, limit) };
        // What could not be written is missing.
        let _ = write_all(&mut writer, &dying, filter);
        writer.finish();
        log::info!("process {} ({}): core dumped", process.pid, Name(&task.comm()));
        close(&task, &file);
    }
    // The program's input ended with the last use of `file`.
    if let Some(helper) = helper {
        helper.wait(&task, &dump);
    }
}

/// Waits until every other thread has come by or gone; `false` if SIGKILL came first.
fn await_others(task: &Task, dump: &CoreDump) -> bool {
    let process = &task.process;
    let all = task.block_until(
        None,
        || dump.cancelled(),
        |table| {
            table.watch(&dump.queue);
            table.watch(&process.leave_queue);
            let gathered = dump.gathered.lock().count;
            (gathered + 1 >= process.tasks.lock().len()).then_some(())
        },
    );
    all.is_ok() && !dump.cancelled()
}

fn write_all(writer: &mut Writer<'_>, dying: &Dying<'_>, filter: u32) -> Result<(), write::Stop> {
    let mm = dying.task.mm();
    let maps = mm.maps_resident(&dying.task.fs().root());
    let parts = segments::plan(&mm, &maps, filter);
    let head = dying.head(&mm, &maps);
    drop(maps);
    let layout: Vec<_> = parts.iter().map(|Part { segment, .. }| *segment).collect();
    let notes = head.len() as u64 + dying.rest_size();
    writer.emit(&coracle_elf::corefile::core_headers(notes, &layout))?;
    writer.emit(&head)?;
    drop(head);
    for thread in &dying.others {
        writer.emit(&dying.thread_notes(thread))?;
    }
    writer.align();
    for part in &parts {
        segments::copy(writer, &*mm.space, part)?;
    }
    writer.emit(&coracle_elf::corefile::core_trailer(layout.len()))
}

/// As when a descriptor is closed.
fn close(task: &Arc<Task>, file: &Arc<OpenFile>) {
    if let Some(place) = &file.path {
        crate::fs::inotify::event(&task.world.vfs, place, crate::fs::inotify::IN_MODIFY);
    }
    let _ = file.file.flush(task);
}

/// Instant 2: a thread on its way out waits until the dump of its process, if there is one, is done
/// (`coredump_task_exit()`).
pub(super) fn join(task: &Arc<Task>, thread: &mut dyn Thread) {
    let Some(dump) = task.process.core() else { return };
    if dump.dumper == task.tid() || dump.done.load(Ordering::SeqCst) {
        return;
    }
    let call = task.left_call.lock().take();
    let state = if task.worker_is_gone() { None } else { ThreadState::take(task, thread, call) };
    dump.gather(state);
    dump.queue.wake_all();
    let _ = task.block_until(
        None,
        || false,
        |table| {
            table.watch(&dump.queue);
            dump.done.load(Ordering::SeqCst).then_some(())
        },
    );
}

/// `struct user_regs_struct` (arch/x86/include/asm/user_64.h). `call` is the number that `orig_rax` shows.
fn user_regs(regs: &Regs, call: Option<u64>) -> [u64; 27] {
    const USER_CS: u64 = 0x33;
    const USER_DS: u64 = 0x2b;
    [
        regs.r15,
        regs.r14,
        regs.r13,
        regs.r12,
        regs.rbp,
        regs.rbx,
        regs.r11,
        regs.r10,
        regs.r9,
        regs.r8,
        regs.rax,
        regs.rcx,
        regs.rdx,
        regs.rsi,
        regs.rdi,
        call.unwrap_or(u64::MAX),
        regs.rip,
        USER_CS,
        regs.rflags,
        regs.rsp,
        USER_DS,
        regs.fs_base,
        regs.gs_base,
        0,
        0,
        0,
        0,
    ]
}
