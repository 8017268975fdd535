//! What a thread and a process carry for signals.
//!
//! Lock order: [`ProcessSignals::shared`] (Linux's siglock), then one [`TaskSignals::own`], then the dispositions.
//! Whatever changes a queue or a mask holds the first; the sets of pending and blocked signals are published
//! as atomics, so that [`pending`] is a look without locks. Nothing outside of `signal` is locked while they are
//! held.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use coracle_platform::Fault;
use parking_lot::{Mutex, MutexGuard};

use super::{Budget, Dispositions, Pending, RestartBlock, SIG_DFL, SigInfo, SigSet, Signal};
use crate::Result;
use crate::abi::linux::{CLONE_CLEAR_SIGHAND, CLONE_SIGHAND, CLONE_VFORK, CLONE_VM};
use crate::abi::types::{SigAltStack, Sigaction};
use crate::task::{Process, Task};
use crate::wait::WaitQueue;

/// `SS_DISABLE` of sigaltstack(2).
pub const SS_DISABLE: i32 = 2;

/// Signals of one thread: pending queue, mask, alternate stack.
#[derive(Default)]
pub struct TaskSignals {
    /// Copies for a look without the lock.
    pending: AtomicU64,
    blocked: AtomicU64,
    /// This thread was chosen for what is in the process's queue (`TIF_SIGPENDING`). Others leave it alone.
    chosen: AtomicBool,
    own: Mutex<Own>,
}

#[derive(Default)]
pub(super) struct Own {
    pub pending: Pending,
    /// The mask to go back to after `sigsuspend`, `ppoll` and their like.
    pub saved: Option<SigSet>,
    /// Signals that `sigtimedwait` has unblocked only to take them (`real_blocked`).
    pub awaited: SigSet,
    pub altstack: AltStack,
    pub restart: Option<RestartBlock>,
    /// The last processor exception, for `sigcontext`.
    pub fault: Option<Fault>,
    /// Address of the last page fault.
    pub cr2: u64,
    /// On its way out; no signal is given to it any more.
    pub exiting: bool,
}

/// The alternate stack as the guest set it; `size` 0 for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AltStack {
    pub sp: u64,
    pub size: u64,
    /// `SS_*` as set.
    pub flags: i32,
}

impl AltStack {
    /// As `sas_ss_reset()` leaves it.
    pub const RESET: AltStack = AltStack { sp: 0, size: 0, flags: SS_DISABLE };

    /// As `stack_t` with these flags.
    pub fn to_guest(self, flags: i32) -> SigAltStack {
        SigAltStack { sp: self.sp, flags, pad0: 0, size: self.size }
    }
}

/// Signals of one process: shared pending queue, dispositions (an `Arc` shared by `CLONE_SIGHAND`).
#[derive(Default)]
pub struct ProcessSignals {
    pending: AtomicU64,
    shared: Mutex<Pending>,
    dispositions: Mutex<Arc<Dispositions>>,
    /// Signals queued in the whole sandbox.
    pub budget: Budget,
    /// Woken when a signal is queued: where signalfd readers wait.
    pub arrived: WaitQueue,
}

impl TaskSignals {
    /// For a new thread or process made by `parent` with these `CLONE_*` flags: the mask is inherited,
    /// nothing is pending; the alternate stack goes unless the memory is copied or it is a vfork
    /// (`sas_ss_reset()` in kernel/fork.c for `CLONE_VM` without `CLONE_VFORK`).
    pub fn cloned(parent: &TaskSignals, flags: u64) -> TaskSignals {
        let same_memory = flags & u64::from(CLONE_VM | CLONE_VFORK) == u64::from(CLONE_VM);
        let altstack = if same_memory { AltStack::RESET } else { parent.own().altstack };
        let own = Mutex::new(Own { altstack, ..Own::default() });
        TaskSignals { blocked: AtomicU64::new(parent.blocked().0), own, ..TaskSignals::default() }
    }

    /// The mask.
    pub fn blocked(&self) -> SigSet {
        SigSet(self.blocked.load(Ordering::SeqCst))
    }

    /// Signals pending for this thread alone (`SigPnd` of /proc/PID/status).
    pub fn pending_set(&self) -> SigSet {
        SigSet(self.pending.load(Ordering::SeqCst))
    }

    /// On its way out.
    pub fn exiting(&self) -> bool {
        self.own().exiting
    }

    /// The alternate stack as it was set.
    pub fn altstack(&self) -> AltStack {
        self.own().altstack
    }

    pub(super) fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock()
    }

    /// Makes the queue's set visible. The caller holds the lock of `own`.
    pub(super) fn publish(&self, own: &Own) {
        self.pending.store(own.pending.set().0, Ordering::SeqCst);
    }

    /// How an interrupted call goes on if no handler runs.
    pub fn set_restart(&self, restart: RestartBlock) {
        self.own().restart = Some(restart);
    }

    /// For `restart_syscall(2)`.
    pub fn take_restart(&self) -> Option<RestartBlock> {
        self.own().restart.take()
    }

    /// Whatever the process's queue holds is this thread's to take (`signal_wake_up()`). Before it is notified.
    pub(super) fn choose(&self) {
        self.chosen.store(true, Ordering::SeqCst);
    }

    /// `recalc_sigpending()`: after a change of the mask, a stop, or a signal taken, the thread takes whatever of
    /// the process's queue it does not block, chosen or not.
    fn recalculate(&self, shared: &Pending) {
        self.chosen.store(!shared.set().minus(self.blocked()).is_empty(), Ordering::SeqCst);
    }

    /// `wants_signal()`: does not block it and is not leaving.
    pub(super) fn wants(&self, signal: Signal) -> bool {
        !self.blocked().has(signal) && !self.own().exiting
    }
}

impl ProcessSignals {
    /// For a program that is started from outside: it ignores what it was told to.
    pub fn ignoring(set: SigSet) -> ProcessSignals {
        let dispositions = Mutex::new(Arc::new(Dispositions::ignoring(set)));
        ProcessSignals { dispositions, ..ProcessSignals::default() }
    }

    /// For a new process with these `CLONE_*` flags: dispositions are shared (`CLONE_SIGHAND`), reset
    /// (`CLONE_CLEAR_SIGHAND`) or copied; nothing is pending.
    pub fn cloned(parent: &ProcessSignals, flags: u64) -> ProcessSignals {
        let old = parent.dispositions();
        let dispositions = if flags & u64::from(CLONE_SIGHAND) != 0 {
            old
        } else if flags & CLONE_CLEAR_SIGHAND != 0 {
            Arc::new(old.after_exec())
        } else {
            Arc::new(old.duplicate())
        };
        let dispositions = Mutex::new(dispositions);
        ProcessSignals { dispositions, budget: parent.budget.clone(), ..ProcessSignals::default() }
    }

    /// The table of dispositions.
    pub fn dispositions(&self) -> Arc<Dispositions> {
        self.dispositions.lock().clone()
    }

    /// A table of its own, with handlers reset.
    pub(super) fn reset_dispositions(&self) {
        let mut dispositions = self.dispositions.lock();
        *dispositions = Arc::new(dispositions.after_exec());
    }

    /// Signals queued in the whole sandbox (`SigQ` of /proc/PID/status).
    pub fn queued(&self) -> u64 {
        self.budget.used()
    }

    /// Signals pending for the process as a whole (`ShdPnd` of /proc/PID/status).
    pub fn pending_set(&self) -> SigSet {
        SigSet(self.pending.load(Ordering::SeqCst))
    }

    pub(super) fn shared(&self) -> MutexGuard<'_, Pending> {
        self.shared.lock()
    }

    /// Makes the queue's set visible. The caller holds the lock.
    pub(super) fn publish(&self, shared: &Pending) {
        self.pending.store(shared.set().0, Ordering::SeqCst);
    }

    /// Sets of ignored and of caught signals (`SigIgn` and `SigCgt` of /proc/PID/status).
    pub fn ignored_and_caught(&self) -> (SigSet, SigSet) {
        let dispositions = self.dispositions();
        let (mut ignored, mut caught) = (SigSet::EMPTY, SigSet::EMPTY);
        for signal in Signal::all() {
            match dispositions.get(signal).handler {
                SIG_DFL => {}
                super::SIG_IGN => ignored = ignored.with(signal),
                _ => caught = caught.with(signal),
            }
        }
        (ignored, caught)
    }
}

/// A signal that `task` is to act upon is pending: its own, or one of the process's that it was chosen for, and
/// that it does not block.
pub fn pending(task: &Task) -> bool {
    let chosen = task.signals.chosen.load(Ordering::SeqCst);
    let shared = if chosen { task.process.signals.pending_set() } else { SigSet::EMPTY };
    !task.signals.pending_set().union(shared).minus(task.signals.blocked()).is_empty()
}

/// The thread goes on after a stop, for which nobody was chosen.
pub(crate) fn resumed(task: &Task) {
    task.signals.recalculate(&task.process.signals.shared());
}

/// Signals pending for this thread or its process (`sigpending(2)` before masking).
pub fn pending_for(task: &Task) -> SigSet {
    task.signals.pending_set().union(task.process.signals.pending_set())
}

/// Takes the next signal of `among` that is pending for this thread or its process (`dequeue_signal()`).
fn dequeue(task: &Task, among: SigSet) -> Option<(Signal, SigInfo, Option<u64>)> {
    let signals = &task.process.signals;
    let mut shared = signals.shared();
    let mut own = task.signals.own();
    let taken = match own.pending.take(among) {
        Some(taken) => {
            task.signals.publish(&own);
            taken
        }
        None => {
            let taken = shared.take(among)?;
            signals.publish(&shared);
            taken
        }
    };
    task.signals.recalculate(&shared);
    Some(taken)
}

/// Takes the next signal of `among`, and has the timer go on that sent it.
pub(crate) fn take(task: &Task, among: SigSet) -> Option<(Signal, SigInfo)> {
    loop {
        let (signal, info, timer) = dequeue(task, among)?;
        match timer {
            Some(key) => {
                if let Some(info) = crate::time::posix::delivered(task, key, info) {
                    return Some((signal, info));
                }
                // The timer was deleted meanwhile.
            }
            None => {
                crate::time::itimer::taken(task, signal);
                return Some((signal, info));
            }
        }
    }
}

/// Runs `wait` while signals of `set` end waits although they are blocked, for `sigtimedwait` to take.
pub(crate) fn await_signals<T>(task: &Task, set: SigSet, wait: impl FnOnce() -> Result<T>) -> Result<T> {
    let old = task.signals.blocked();
    task.signals.own().awaited = set.intersection(old);
    set_blocked(task, old.minus(set));
    let result = wait();
    task.signals.own().awaited = SigSet::EMPTY;
    set_blocked(task, old);
    result
}

/// Forgets what the POSIX timer `key` has sent and nobody has taken.
pub(crate) fn forget_timer(process: &Process, key: u64) {
    let threads = process.tasks();
    let mut shared = process.signals.shared();
    shared.flush_timer(key);
    process.signals.publish(&shared);
    for thread in threads {
        let mut own = thread.signals.own();
        own.pending.flush_timer(key);
        thread.signals.publish(&own);
    }
}

/// Replaces the mask; returns the old one. `SIGKILL` and `SIGSTOP` stay unblocked.
pub fn set_blocked(task: &Task, mask: SigSet) -> SigSet {
    let orphans = {
        let shared = task.process.signals.shared();
        let old = SigSet(task.signals.blocked.swap(mask.blockable().0, Ordering::SeqCst));
        task.signals.recalculate(&shared);
        let newly = mask.blockable().minus(old);
        let orphans = shared.set().intersection(newly);
        if orphans.is_empty() {
            return old;
        }
        (old, orphans)
    };
    retarget(task, orphans.1);
    orphans.0
}

/// `retarget_shared_pending()`: signals that this thread was woken for and takes no longer may have other takers.
pub(super) fn retarget(task: &Task, orphans: SigSet) {
    if orphans.is_empty() {
        return;
    }
    for other in task.process.tasks() {
        if !std::ptr::eq(&*other, task) && orphans.iter().any(|signal| other.signals.wants(signal)) {
            other.signals.choose();
            other.notify();
        }
    }
}

/// Blocks `mask` for the time of one call (`set_user_sigmask()`); the old mask comes back when the call ends
/// or goes into the handler's frame.
pub fn set_temporary_mask(task: &Task, mask: SigSet) {
    let old = set_blocked(task, mask);
    task.signals.own().saved.get_or_insert(old);
}

/// Ends what `set_temporary_mask` began, unless the call was `interrupted`: then delivery needs the mask as
/// it is, and restores the old one itself (`restore_saved_sigmask_unless()`).
pub fn restore_mask_unless(task: &Task, interrupted: bool) {
    if !interrupted && let Some(saved) = take_saved(task) {
        set_blocked(task, saved);
    }
}

fn take_saved(task: &Task) -> Option<SigSet> {
    task.signals.own().saved.take()
}

/// Sets a disposition. What is ignored from now on is forgotten where it is pending (`do_sigaction()`).
pub fn set_action(task: &Task, signal: Signal, action: Sigaction) -> Sigaction {
    let signals = &task.process.signals;
    let dispositions = signals.dispositions();
    let old = dispositions.set(signal, action);
    if dispositions.ignores(signal) {
        let threads = task.process.tasks();
        let mut shared = signals.shared();
        flush(task, &threads, &mut shared, SigSet::one(signal));
    }
    old
}

/// Forgets `set` in every queue of the process.
pub(super) fn flush(task: &Task, threads: &[Arc<Task>], shared: &mut Pending, set: SigSet) {
    shared.flush(set);
    task.process.signals.publish(shared);
    for thread in threads {
        let mut own = thread.signals.own();
        own.pending.flush(set);
        thread.signals.publish(&own);
    }
}
