//! Who is told by signal of what happens to a file: `F_SETOWN`, `F_SETSIG`, `O_ASYNC` of fcntl(2), fs/fcntl.c.
//!
//! Objects keep a [`Fasync`] and call `kill` on it, holding no lock of theirs: sending takes those of processes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::signal::{self, SigInfo, Signal};
use crate::task::{Process, Task};
use crate::wait::Events;
use crate::world::World;
use crate::{Errno, Result};

/// What happened: `si_code` of the signal (`POLL_IN` and its like in asm-generic/siginfo.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Band {
    In = 1,
    Out = 2,
    Msg = 3,
    Err = 4,
    Pri = 5,
    Hup = 6,
}

impl Band {
    /// `si_band` (`band_table` in fs/fcntl.c).
    fn events(self) -> i64 {
        const MSG: u32 = 0x400;
        let events = match self {
            Band::In => Events::READ.bits(),
            Band::Out => (Events::WRITE | Events::WRBAND).bits(),
            Band::Msg => Events::READ.bits() | MSG,
            Band::Err => Events::ERR.bits(),
            Band::Pri => (Events::PRI | Events::RDBAND).bits(),
            Band::Hup => (Events::HUP | Events::ERR).bits(),
        };
        i64::from(events)
    }
}

/// `si_code` where `POLL_IN` and its like would mean something else.
const SI_SIGIO: i32 = -5;

/// `F_OWNER_*`.
const F_OWNER_TID: i32 = 0;
const F_OWNER_PID: i32 = 1;
const F_OWNER_PGRP: i32 = 2;

/// Whom the signals are for.
#[derive(Clone, Default)]
enum Target {
    #[default]
    Nobody,
    Task(Weak<Task>),
    Process(Weak<Process>),
    Group(Weak<World>, u32),
}

/// `struct fown_struct`: the owner of an open file, who made it so, and the signal chosen.
#[derive(Default)]
pub struct Fown(Mutex<Owned>);

#[derive(Clone, Default)]
struct Owned {
    target: Target,
    /// `F_OWNER_*` as told back.
    kind: i32,
    uid: u32,
    euid: u32,
    /// `F_SETSIG`.
    signal: i32,
}

impl Fown {
    /// `F_SETOWN` (f_setown()): negative numbers are process groups, 0 nobody.
    pub fn set(&self, task: &Task, who: i32) -> Result<()> {
        let id = who.checked_neg().ok_or(Errno::EINVAL)?;
        if who < 0 { self.set_kind(task, F_OWNER_PGRP, id) } else { self.set_kind(task, F_OWNER_PID, who) }
    }

    /// `F_SETOWN_EX` (f_setown_ex()).
    pub fn set_kind(&self, task: &Task, kind: i32, id: i32) -> Result<()> {
        if !(F_OWNER_TID..=F_OWNER_PGRP).contains(&kind) {
            return Err(Errno::EINVAL);
        }
        let target = match u32::try_from(id).map_err(|_| Errno::ESRCH)? {
            0 => Target::Nobody,
            id => find(&task.world, kind, id).ok_or(Errno::ESRCH)?,
        };
        let cred = task.cred();
        let mut owned = self.0.lock();
        *owned = Owned { target, kind, uid: cred.uid, euid: cred.euid, signal: owned.signal };
        Ok(())
    }

    /// The process or group `id` becomes the owner if there is none (`__f_setown()` without force).
    pub fn set_if_none(&self, task: &Task, group: bool, id: u32) {
        if matches!(self.0.lock().target, Target::Nobody) {
            let kind = if group { F_OWNER_PGRP } else { F_OWNER_PID };
            let _ = self.set_kind(task, kind, id as i32);
        }
    }

    /// `F_GETOWN_EX`: kind and number; 0 for who is gone (f_getown_ex()).
    pub fn get_kind(&self) -> (i32, i32) {
        let owned = self.0.lock().clone();
        let id = match owned.target {
            Target::Nobody => 0,
            Target::Task(task) => alive(&task).map_or(0, |task| task.tid()),
            Target::Process(process) => there(&process).map_or(0, |process| process.pid),
            Target::Group(world, id) => {
                let members = world.upgrade().is_some_and(|world| !world.group(id).is_empty());
                if members { id } else { 0 }
            }
        };
        (owned.kind, id as i32)
    }

    /// `F_GETOWN`.
    pub fn get(&self) -> i32 {
        match self.get_kind() {
            (F_OWNER_PGRP, id) => -id,
            (_, id) => id,
        }
    }

    /// `F_SETSIG`.
    pub fn set_signal(&self, signal: u64) -> Result<()> {
        let signal = i32::try_from(signal).ok().filter(|signal| (0..=64).contains(signal)).ok_or(Errno::EINVAL)?;
        self.0.lock().signal = signal;
        Ok(())
    }

    /// `F_GETSIG`.
    pub fn signal(&self) -> i32 {
        self.0.lock().signal
    }

    /// send_sigio().
    pub fn send_sigio(&self, fd: i32, band: Band) {
        let owned = self.0.lock().clone();
        let send = |to: &Recipient| {
            if let Ok(chosen) = Signal::new(owned.signal) {
                let specific = chosen != Signal::SIGIO && has_codes(chosen);
                let code = if specific { SI_SIGIO } else { band as i32 };
                // A full queue falls back on the plain signal.
                if to.send(chosen, SigInfo::poll(chosen, code, band.events(), fd)).is_ok() {
                    return;
                }
            }
            let _ = to.send(Signal::SIGIO, SigInfo::kernel(Signal::SIGIO));
        };
        owned.for_each(send);
    }

    /// send_sigurg(): `true` if there is an owner.
    pub fn send_sigurg(&self) -> bool {
        let owned = self.0.lock().clone();
        owned.for_each(|to| _ = to.send(Signal::SIGURG, SigInfo::kernel(Signal::SIGURG)));
        !matches!(owned.target, Target::Nobody)
    }
}

/// find_vpid(), for what the kind means by it.
fn find(world: &Arc<World>, kind: i32, id: u32) -> Option<Target> {
    match kind {
        F_OWNER_PGRP => (!world.group(id).is_empty()).then(|| Target::Group(Arc::downgrade(world), id)),
        F_OWNER_TID => {
            let task = world.task(id)?;
            Some(Target::Task(Arc::downgrade(&task)))
        }
        _ => {
            let process = world.process(id).or_else(|| Some(world.task(id)?.process.clone()))?;
            Some(Target::Process(Arc::downgrade(&process)))
        }
    }
}

/// The thread, if it has not ended.
fn alive(task: &Weak<Task>) -> Option<Arc<Task>> {
    let task = task.upgrade()?;
    let known = task.world.task(task.tid())?;
    Arc::ptr_eq(&known, &task).then_some(task)
}

/// The process, if nobody has waited for it yet.
fn there(process: &Weak<Process>) -> Option<Arc<Process>> {
    let process = process.upgrade()?;
    let known = process.world.process(process.pid)?;
    Arc::ptr_eq(&known, &process).then_some(process)
}

/// Signals with `si_code`s of their own (`sig_specific_sicodes()`), which `POLL_IN` would be mistaken for.
fn has_codes(signal: Signal) -> bool {
    const OWN: [Signal; 7] = [
        Signal::SIGILL,
        Signal::SIGFPE,
        Signal::SIGSEGV,
        Signal::SIGBUS,
        Signal::SIGTRAP,
        Signal::SIGCHLD,
        Signal::SIGSYS,
    ];
    OWN.contains(&signal)
}

/// One that a signal goes to.
enum Recipient {
    Task(Arc<Task>),
    Process(Arc<Process>),
}

impl Recipient {
    fn send(&self, signal: Signal, info: SigInfo) -> Result<()> {
        match self {
            Recipient::Task(task) => signal::send_to_task(task, signal, info),
            Recipient::Process(process) => signal::send_to_process(process, signal, info),
        }
    }

    /// sigio_perm(): who became owner for others may signal them now, too.
    fn allows(&self, owned: &Owned) -> bool {
        let task = match self {
            Recipient::Task(task) => Some(task.clone()),
            Recipient::Process(process) => process.any_task(),
        };
        task.is_some_and(|task| {
            let cred = task.cred();
            let own = [cred.suid, cred.uid];
            owned.euid == 0 || own.contains(&owned.euid) || own.contains(&owned.uid)
        })
    }
}

impl Owned {
    fn for_each(&self, send: impl Fn(&Recipient)) {
        let recipients: Vec<Recipient> = match &self.target {
            Target::Nobody => Vec::new(),
            Target::Task(task) => alive(task).map(Recipient::Task).into_iter().collect(),
            Target::Process(process) => there(process).map(Recipient::Process).into_iter().collect(),
            Target::Group(world, id) => {
                let members = world.upgrade().map(|world| world.group(*id)).unwrap_or_default();
                members.into_iter().map(Recipient::Process).collect()
            }
        };
        recipients.iter().filter(|one| one.allows(self)).for_each(send);
    }
}

/// Open files of one object that are in `O_ASYNC` mode (`struct fasync_struct`).
#[derive(Default)]
pub struct Fasync {
    /// So that nobody pays while there are none.
    any: AtomicBool,
    /// By the key of the open file.
    list: Mutex<BTreeMap<u64, Async>>,
}

struct Async {
    /// The descriptor through which it was asked for, told as `si_fd`.
    fd: i32,
    owner: Arc<Fown>,
}

/// One open file enters or leaves `O_ASYNC` mode.
pub struct Request<'a> {
    pub on: bool,
    pub key: u64,
    pub fd: i32,
    pub owner: &'a Arc<Fown>,
    /// Who asks; nobody when the file is closed.
    pub task: Option<&'a Arc<Task>>,
}

impl Fasync {
    /// fasync_helper().
    pub fn apply(&self, request: &Request<'_>) {
        let mut list = self.list.lock();
        list.remove(&request.key);
        if request.on {
            list.insert(request.key, Async { fd: request.fd, owner: request.owner.clone() });
        }
        self.any.store(!list.is_empty(), Ordering::SeqCst);
    }

    /// kill_fasync() with SIGIO.
    pub fn kill(&self, band: Band) {
        if self.any.load(Ordering::Relaxed) {
            self.tell(band, |_| true);
        }
    }

    /// kill_fasync() with SIGURG, which has a way of its own: only who has chosen a signal hears of it here.
    pub fn kill_urgent(&self) {
        if self.any.load(Ordering::Relaxed) {
            self.tell(Band::Pri, |owner| owner.signal() != 0);
        }
    }

    fn tell(&self, band: Band, wanted: impl Fn(&Fown) -> bool) {
        let list: Vec<_> = self.list.lock().values().map(|entry| (entry.fd, entry.owner.clone())).collect();
        for (fd, owner) in list.iter().filter(|(_, owner)| wanted(owner)) {
            owner.send_sigio(*fd, band);
        }
    }
}
