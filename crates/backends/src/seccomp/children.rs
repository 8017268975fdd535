//! All host processes of a sandbox, from birth to reaping. The kernel process is the parent of each.
//!
//! A worker is known from the moment it announces itself ([`super::notify`]), and watched by its pidfd. Its end goes in
//! this order: it is marked dead, then its number is let go ([`Child::release`]).
//!
//! A guest can have its worker cloned and keep the clone from announcing itself. So whenever a clone was allowed and
//! nothing came of it that is known, there is a *census*: no clone is allowed until all others have announced themselves,
//! and what the host then counts as a child of this process in the sandbox's process group, but is not known here, is
//! killed. No process can leave that group, for no rule of the workers' filter allows it.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, getpgid, kill_process_group, waitid};

use super::child::Child;
use super::notify::Notifier;
use super::worker::Worker;
use crate::host_proc;

/// What the bell says among the numbers of processes.
const BELL: u64 = 0;

/// The processes of a sandbox.
pub struct Children {
    epoll: OwnedFd,
    /// Wakes the thread for something else than a death.
    bell: OwnedFd,
    known: Mutex<HashMap<i32, Known>>,
    /// The leader of the group of all of them.
    first: OnceLock<Arc<Child>>,
    /// The thread in whose name they are made.
    parent: Pid,
    /// There is to be a census.
    unsettled: AtomicBool,
    closing: AtomicBool,
    /// It has a thread.
    serving: Mutex<bool>,
}

/// What is known of a process.
enum Known {
    /// It has announced itself; its worker is still to be made.
    Announced(Arc<Child>),
    Worker(Arc<Child>, Weak<Worker>),
    /// Without it nothing would end the others, were the kernel process killed.
    Guardian(Arc<Child>),
    /// It was killed.
    Condemned(Arc<Child>),
}

impl Known {
    fn child(&self) -> &Arc<Child> {
        match self {
            Known::Announced(child)
            | Known::Worker(child, _)
            | Known::Guardian(child)
            | Known::Condemned(child) => child,
        }
    }
}

impl Children {
    pub fn new() -> std::io::Result<Children> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &bell, EventData::new_u64(BELL), EventFlags::IN)?;
        Ok(Children {
            epoll,
            bell,
            known: Mutex::default(),
            first: OnceLock::new(),
            parent: rustix::thread::gettid(),
            unsettled: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            serving: Mutex::new(false),
        })
    }

    /// Starts the thread that waits for their ends, unless there is one.
    pub fn serve(self: &Arc<Children>, notifier: &Arc<Notifier>) -> std::io::Result<()> {
        let mut serving = self.serving.lock();
        if *serving {
            return Ok(());
        }
        let (own, notifier) = (self.clone(), notifier.clone());
        let serve = move || while own.wait(&notifier) {};
        std::thread::Builder::new().name("reaper".into()).stack_size(256 << 10).spawn(serve)?;
        *serving = true;
        Ok(())
    }

    /// The first of them, which leads the group. It is never reaped before the end, so that the group's number stays.
    pub fn found(&self, first: &Arc<Child>) {
        let _ = self.first.set(first.clone());
    }

    /// A process has announced itself, or was just made. An error if it is known already, or is not in the group.
    pub fn announce(&self, child: &Arc<Child>) -> Option<()> {
        if !self.is_member(child.number()) {
            return None;
        }
        let mut known = self.known.lock();
        if known.contains_key(&child.number()) {
            return None;
        }
        self.watch(child).ok()?;
        known.insert(child.number(), Known::Announced(child.clone()));
        Some(())
    }

    /// From now on its death is this worker's.
    pub fn adopt(&self, worker: &Arc<Worker>) {
        let child = worker.child();
        let mut known = self.known.lock();
        match known.get_mut(&child.number()) {
            Some(entry) if Arc::ptr_eq(entry.child(), child) => {
                *entry = Known::Worker(child.clone(), Arc::downgrade(worker));
            }
            // It has ended, and its number may be another's already.
            _ => {
                drop(known);
                worker.died(child.death().unwrap_or(coracle_platform::Death::Killed));
            }
        }
    }

    /// The guardian has been made.
    pub fn guarded_by(&self, guardian: Arc<Child>) -> std::io::Result<()> {
        self.watch(&guardian)?;
        self.known.lock().insert(guardian.number(), Known::Guardian(guardian));
        Ok(())
    }

    /// A clone was allowed that nobody has announced.
    pub fn unsettled(&self) {
        self.unsettled.store(true, Ordering::SeqCst);
        self.ring();
    }

    /// Something that the thread waits for has changed.
    pub fn ring(&self) {
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    /// A thread asked for what nobody expects. Its process is ended, provided that `still` it is the one that asked.
    pub fn punish(&self, tid: u32, still: impl Fn() -> bool) {
        let workers: Vec<Arc<Worker>> = self.workers();
        let owner = workers.iter().find_map(|worker| {
            let held = worker.child().hold()?;
            held.has_thread(tid).then_some((worker, held))
        });
        match owner {
            Some((worker, _held)) if still() => worker.lied("asked for what nobody expects"),
            Some(_) => {}
            // Nobody has heard of its process.
            None => {
                if let Ok(child) = Child::prove(tid as i32)
                    && still()
                {
                    self.condemn(&Arc::new(child));
                }
            }
        }
    }

    fn workers(&self) -> Vec<Arc<Worker>> {
        let known = self.known.lock();
        let workers = known.values().filter_map(|known| match known {
            Known::Worker(_, worker) => worker.upgrade(),
            _ => None,
        });
        workers.collect()
    }

    /// Kills all that was ever born here, in one step that excludes every clone (copy_process() in kernel/fork.c looks for
    /// fatal signals once it has `tasklist_lock`, which kill_pgrp() holds).
    pub fn end(&self) {
        if let Some(group) = self.first.get().and_then(|first| Pid::from_raw(first.number())) {
            // There may be nobody left.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }

    /// As `end`, and waits until nothing is left: what this process does not reap stays a zombie where process 1 is no
    /// good parent, as in many containers.
    pub fn close(&self, patience: Duration) {
        if self.closing.swap(true, Ordering::SeqCst) {
            return;
        }
        self.end();
        self.ring();
        let until = Instant::now() + patience;
        loop {
            let Some(child) = self.known.lock().values().next().map(|known| known.child().clone()) else { break };
            if !has_ended(&child, until) {
                log::warn!("a worker does not end although it was killed");
                return;
            }
            self.ended(child.number());
        }
        let Some(first) = self.first.get() else { return };
        first.release();
        // Those that never announced themselves. Nobody knows their numbers.
        let group = Pid::from_raw(first.number());
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        while let Ok(ended) = waitid(WaitId::Pgid(group), options)
            && Instant::now() < until
        {
            if ended.is_none() {
                std::thread::sleep(Duration::from_micros(100));
            }
        }
    }

    fn watch(&self, child: &Child) -> rustix::io::Result<()> {
        let number = EventData::new_u64(child.number() as u64);
        epoll::add(&self.epoll, child, number, EventFlags::IN | EventFlags::ONESHOT)
    }

    fn is_member(&self, number: i32) -> bool {
        let group = getpgid(Pid::from_raw(number)).ok();
        group.is_some_and(|group| self.is_first(group.as_raw_nonzero().get()))
    }

    /// Waits for one round of events; `false` at the end.
    fn wait(&self, notifier: &Notifier) -> bool {
        const ROUND: usize = 32;
        let mut events: Vec<Event> = Vec::with_capacity(ROUND);
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                log::error!("the deaths of workers cannot be learnt: {error}");
                self.end();
                return false;
            }
        }
        if self.closing.load(Ordering::SeqCst) {
            return false;
        }
        for event in events {
            match event.data.u64() {
                BELL => _ = rustix::io::read(&self.bell, &mut [0; 8]),
                number => self.ended(number as i32),
            }
        }
        if self.unsettled.load(Ordering::SeqCst) && notifier.close_gate() {
            self.unsettled.store(false, Ordering::SeqCst);
            self.census();
            notifier.open_gate();
        }
        true
    }

    fn ended(&self, number: i32) {
        let Some(known) = self.known.lock().remove(&number) else { return };
        let child = known.child();
        let death = child.death();
        match &known {
            Known::Worker(_, worker) => {
                if let (Some(worker), Some(death)) = (worker.upgrade(), death) {
                    worker.died(death);
                }
            }
            Known::Guardian(_) if !self.closing.load(Ordering::SeqCst) => {
                log::error!("the process that guards the sandbox was ended by something else; so is the sandbox");
                self.end();
            }
            Known::Guardian(_) | Known::Announced(_) | Known::Condemned(_) => {}
        }
        // The group's number is the first one's.
        if !self.is_first(number) {
            child.release();
        }
    }

    /// Ends who is not known. No clone is on its way.
    fn census(&self) {
        let Some(children) = host_proc::children(self.parent) else {
            log::error!("processes that do not announce themselves cannot be found without /proc; all is ended");
            return self.end();
        };
        for number in children {
            if !self.known.lock().contains_key(&number)
                && self.is_member(number)
                && !self.is_first(number)
                && let Ok(child) = Child::prove(number)
            {
                self.condemn(&Arc::new(child));
            }
        }
    }

    fn is_first(&self, number: i32) -> bool {
        self.first.get().is_some_and(|first| first.number() == number)
    }

    fn condemn(&self, child: &Arc<Child>) {
        if self.is_member(child.number()) {
            child.kill();
            let mut known = self.known.lock();
            if !known.contains_key(&child.number()) && self.watch(child).is_ok() {
                known.insert(child.number(), Known::Condemned(child.clone()));
            }
        }
    }
}

/// Waits for its end.
fn has_ended(child: &Child, until: Instant) -> bool {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let limit = Timespec::try_from(left).ok();
        match poll(&mut [PollFd::new(child, PollFlags::IN)], limit.as_ref()) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(_) if left.is_zero() => return false,
            Err(_) => {}
        }
    }
}
