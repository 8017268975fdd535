//! The notes of a core: threads, and what is true of the process as a whole (`fill_note_info()` and
//! `write_note_info()` in fs/binfmt_elf.c).

use std::sync::Arc;
use std::time::Duration;

use coracle_elf::corefile::{
    FileNote, NT_AUXV, NT_FILE, NT_FPREGSET, NT_PRPSINFO, NT_PRSTATUS, NT_SIGINFO, NT_X86_XSTATE, Prpsinfo,
    Prstatus,
};
use coracle_platform::Thread;
use zerocopy::IntoBytes;

use super::{Task, user_regs};
use crate::SysResult;
use crate::mm::{AddressSpace, MapEntry, MapName};
use crate::signal::{SigInfo, core_xstate};
use crate::task::usage;

/// The FXSAVE area, which is what `struct user_fpregs_struct` is.
const FPREGS: usize = 512;

/// A thread that has stopped for the dump.
pub struct ThreadState {
    pub tid: u32,
    regs: [u64; 27],
    xstate: Vec<u8>,
    pending: u64,
    blocked: u64,
    times: (Duration, Duration),
}

impl ThreadState {
    /// `call`: number and result of the call that it stands in. `None`: its worker is gone.
    pub fn take(task: &Task, thread: &mut dyn Thread, call: Option<(u64, SysResult)>) -> Option<ThreadState> {
        let value = call.map_or(0, |(_, result)| result.unwrap_or_else(crate::Errno::to_ret));
        let regs = thread.freeze(value).ok()?;
        let mut user = user_regs(regs, call.map(|(number, _)| number));
        // The handler of the call may have looked at the registers before.
        if let (Some(_), Some(rax)) = (call, user.get_mut(10)) {
            *rax = value;
        }
        // The leader's are those of the whole group (`fill_prstatus()`).
        let leads = task.tid() == task.pid();
        let times = if leads { usage::times(&task.process) } else { task.control().cpu_time() };
        Some(ThreadState {
            tid: task.tid(),
            regs: user,
            xstate: core_xstate(&regs.xstate),
            pending: task.signals.pending_set().0,
            blocked: task.signals.blocked().0,
            times,
        })
    }
}

/// The process at instant 3.
pub struct Dying<'a> {
    pub task: &'a Arc<Task>,
    pub info: &'a SigInfo,
    /// The thread that took the signal.
    pub first: ThreadState,
    pub others: Vec<ThreadState>,
}

impl Dying<'_> {
    /// The notes of the first thread, and between them those of the process.
    pub fn head(&self, mm: &AddressSpace, maps: &[MapEntry]) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 << 10);
        NT_PRSTATUS.put(&mut out, &self.status(&self.first));
        NT_PRPSINFO.put(&mut out, &self.psinfo(mm));
        NT_SIGINFO.put(&mut out, self.info.as_bytes());
        NT_AUXV.put(&mut out, &auxv(mm));
        if let Some(files) = files(maps) {
            NT_FILE.put(&mut out, &files);
        }
        put_state(&mut out, &self.first);
        out
    }

    /// The notes of another thread.
    pub fn thread_notes(&self, thread: &ThreadState) -> Vec<u8> {
        let mut out = Vec::with_capacity(4 << 10);
        NT_PRSTATUS.put(&mut out, &self.status(thread));
        put_state(&mut out, thread);
        out
    }

    /// Bytes of the notes of all other threads.
    pub fn rest_size(&self) -> u64 {
        let each = NT_PRSTATUS.size(Prstatus::SIZE) + NT_FPREGSET.size(FPREGS);
        self.others.iter().map(|thread| each + NT_X86_XSTATE.size(thread.xstate.len())).sum()
    }

    fn ids(&self, id: u32) -> [u32; 4] {
        let process = &self.task.process;
        [id, process.ppid(), process.pgid(), process.sid()]
    }

    fn status(&self, thread: &ThreadState) -> Vec<u8> {
        let children = usage::of_children(&self.task.process);
        let time = |time: Duration| (usage::timeval(time).tv_sec, usage::timeval(time).tv_usec);
        let (user, system) = thread.times;
        let status = Prstatus {
            signal: self.info.signo,
            pending: thread.pending,
            blocked: thread.blocked,
            ids: self.ids(thread.tid),
            times: [
                time(user),
                time(system),
                (children.ru_utime.tv_sec, children.ru_utime.tv_usec),
                (children.ru_stime.tv_sec, children.ru_stime.tv_usec),
            ],
            regs: thread.regs,
        };
        status.to_bytes()
    }

    fn psinfo(&self, mm: &AddressSpace) -> Vec<u8> {
        // PF_DUMPCORE | PF_SIGNALED | PF_RANDOMIZE
        const FLAGS: u64 = 0x40_0600;
        let cred = self.task.cred();
        let (start, end) = mm.image.lock().args;
        let mut args = vec![0; usize::try_from(end.saturating_sub(start)).unwrap_or(0).min(Prpsinfo::ARGS)];
        let got = mm.space.read(start, &mut args);
        args.truncate(got);
        let info = Prpsinfo {
            state: (0, b'R'),
            nice: i8::try_from(self.task.sched.lock().nice).unwrap_or(0),
            flags: FLAGS,
            owner: [cred.uid, cred.gid],
            ids: self.ids(self.task.pid()),
            name: self.task.comm(),
            args,
        };
        info.to_bytes()
    }
}

fn put_state(out: &mut Vec<u8>, thread: &ThreadState) {
    // The processor's own part, without what signal frames keep in its last bytes.
    let mut fpregs = thread.xstate.get(..FPREGS).unwrap_or_default().to_vec();
    fpregs.resize(FPREGS, 0);
    if let Some(rest) = fpregs.get_mut(FPREGS - 48..) {
        rest.fill(0);
    }
    NT_FPREGSET.put(out, &fpregs);
    NT_X86_XSTATE.put(out, &thread.xstate);
}

/// As in `/proc/PID/auxv`.
fn auxv(mm: &AddressSpace) -> Vec<u8> {
    let mut auxv = mm.image.lock().auxv.clone();
    if auxv.last().is_none_or(|(kind, _)| *kind != 0) {
        auxv.push((0, 0));
    }
    auxv.iter().flat_map(|(kind, value)| [kind.to_le_bytes(), value.to_le_bytes()].concat()).collect()
}

/// `fill_files_note()`; `None` where there are none, or too many.
fn files(maps: &[MapEntry]) -> Option<Vec<u8>> {
    let mut note = FileNote::default();
    for entry in maps {
        if let MapName::Path(path) = &entry.name {
            note.add(entry.start, entry.end, entry.offset, path);
            if note.size() > FileNote::MOST {
                return None;
            }
        }
    }
    (note.size() > FileNote::default().size()).then(|| note.to_bytes())
}
