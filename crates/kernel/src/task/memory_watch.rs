//! `--memory` and `--disk`, as far as they are sampled.
//!
//! Memory: what guests have resident, their files in memory, and what the kernel process itself has on their behalf
//! (queues, names, buffers). Beyond the limit the largest guest is ended, as Linux's OOM killer does. Where the host
//! limits the workers as well, that one may be faster.
//!
//! Files: a mapping makes a file grow without asking. Whoever does so beyond the limit gets the SIGBUS that a full tmpfs
//! would have sent it.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use coracle_platform::Usage;

use super::Process;
use crate::abi::linux::{SIGBUS, SIGKILL};
use crate::world::World;

/// How fast a guest may plausibly fill memory, in bytes per millisecond.
const SPEED: u64 = 4 << 20;
const SHORTEST: u64 = 2;
const LONGEST: u64 = 250;
/// What the kernel process may take for itself before it counts, beyond what it had at the start.
const ALLOWANCE: u64 = 32 << 20;

/// What one look leaves for the next.
struct Watch {
    /// `--memory`, and what the kernel process may have.
    memory: Option<(u64, u64)>,
    /// Files may take less than there is memory (`--disk`).
    files: bool,
    /// Bytes in files when somebody was last ended for them; zero: there was room since.
    ended_at: u64,
}

impl World {
    /// Starts the sampling thread once, if there is a limit.
    pub(super) fn start_memory_watch(self: &Arc<World>) {
        let files = self.vfs.budget.state().0 < self.config.memory;
        if !files && self.config.memory_limit.is_none() || self.memory_watched.swap(true, Ordering::SeqCst) {
            return;
        }
        let allowed = self.platform.own_memory().saturating_add(ALLOWANCE);
        let memory = self.config.memory_limit.map(|limit| (limit, allowed));
        let mut state = Watch { memory, files, ended_at: 0 };
        let world = Arc::downgrade(self);
        let watch = move || {
            while let Some(world) = world.upgrade() {
                if world.ending() {
                    return;
                }
                let pause = world.look(&mut state);
                drop(world);
                std::thread::sleep(Duration::from_millis(pause));
            }
        };
        if let Err(error) = std::thread::Builder::new().name("memory".into()).spawn(watch) {
            log::warn!("the limits of memory and files are not enforced, no thread for it: {error}");
        }
    }

    /// Looks once; returns milliseconds until the next look.
    fn look(&self, state: &mut Watch) -> u64 {
        let grown = self.vfs.budget.recount();
        let pause = if state.files { self.check_files(state, &grown) } else { LONGEST };
        state.memory.map_or(pause, |(limit, allowed)| pause.min(self.check_memory(limit, allowed)))
    }

    /// Lets go of files that are mapped no more; whether there is more room for files now.
    pub(crate) fn reclaim(&self) -> bool {
        let before = self.vfs.budget.state().1;
        let spaces = self.processes().into_iter().filter_map(|process| process.mm());
        spaces.for_each(|mm| mm.forget_unmapped());
        self.vfs.budget.state().1 < before
    }

    fn check_files(&self, state: &mut Watch, grown: &[(u64, u64)]) -> u64 {
        let (limit, used) = self.vfs.budget.state();
        if used <= limit {
            state.ended_at = 0;
            return pause(limit - used);
        }
        if used <= state.ended_at || self.reclaim() {
            return SHORTEST;
        }
        let maps_one = |process: &Arc<Process>| {
            let mm = process.mm().filter(|mm| !process.exiting() && mm.has_mapped(grown))?;
            Some(mm.space.usage().resident_shared)
        };
        let victim = self.processes().into_iter().filter_map(|process| Some((maps_one(&process)?, process)));
        if let Some((_, victim)) = victim.max_by_key(|(shared, _)| *shared) {
            log::warn!("no space: {used} bytes in files, {limit} granted; process {} gets SIGBUS", victim.pid);
            victim.begin_exit(SIGBUS as i32);
            state.ended_at = used;
            return SHORTEST;
        }
        pause(limit)
    }

    /// `process` was killed, and not from here. If the host has ended somebody for want of memory whom nobody has been
    /// blamed for yet, it was this one.
    pub(super) fn blame_memory(&self, process: &Process) {
        let Some(count) = &self.config.host_oom_kills else { return };
        let all = count();
        let next = |blamed: u64| (blamed < all).then_some(blamed.saturating_add(1));
        let blamed = self.stats.host_oom_kills.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next).is_ok();
        if blamed && !process.oom_killed.swap(true, Ordering::SeqCst) {
            log::warn!("out of memory: the host has ended process {}", process.pid);
            self.stats.oom_kills.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Bytes that all guests together have resident, without pages of files.
    pub fn memory_used(&self) -> u64 {
        let mut seen = HashSet::new();
        let spaces = self.processes().into_iter().filter_map(|process| process.mm());
        let fresh = spaces.filter(|mm| seen.insert(Arc::as_ptr(mm) as usize));
        fresh.map(|mm| own_memory(&mm.space.usage())).fold(0, u64::saturating_add)
    }

    fn check_memory(&self, limit: u64, allowed: u64) -> u64 {
        let limit = crate::decisions::memory(limit);
        let mut seen = HashSet::new();
        let (mut anonymous, mut shared) = (0u64, 0u64);
        let mut largest: Option<(u64, Arc<Process>)> = None;
        let mut dying = false;
        for process in self.processes() {
            let Some(mm) = process.mm() else { continue };
            if !seen.insert(Arc::as_ptr(&mm) as usize) {
                continue;
            }
            let used = mm.space.usage();
            let own = own_memory(&used);
            dying |= process.oom_killed.load(Ordering::SeqCst);
            anonymous = anonymous.saturating_add(own.saturating_sub(used.resident_shared));
            shared = shared.saturating_add(used.resident_shared);
            let badness = i128::from(own)
                + i128::from(process.oom_score_adj.load(Ordering::Relaxed)) * i128::from(limit / 1000);
            let badness = u64::try_from(badness).unwrap_or(0);
            if !process.exiting() && largest.as_ref().is_none_or(|(most, _)| badness > *most) {
                largest = Some((badness, process));
            }
        }
        let mut total = anonymous.saturating_add(self.shared_memory(shared, allowed));
        if total > limit && !dying {
            self.reclaim();
            self.platform.give_back();
            total = anonymous.saturating_add(self.shared_memory(shared, allowed));
        }
        self.stats.peak_memory.fetch_max(total, Ordering::Relaxed);
        if dying {
            // What it holds is about to be free (`oom_evaluate_task()` in mm/oom_kill.c waits, too).
            return SHORTEST;
        }
        if total > limit
            && let Some((_, victim)) = largest
        {
            log::warn!("out of memory: {total} bytes in use, {limit} granted; process {} is ended", victim.pid);
            self.stats.oom_kills.fetch_add(1, Ordering::Relaxed);
            victim.oom_killed.store(true, Ordering::SeqCst);
            victim.begin_exit(SIGKILL as i32);
            return SHORTEST;
        }
        pause(limit.saturating_sub(total))
    }

    /// What belongs to no guest alone, of whose shared pages so many are resident.
    fn shared_memory(&self, resident: u64, allowed: u64) -> u64 {
        let (_, files) = self.vfs.budget.state();
        let hosted = self.vfs.budget.hosted();
        // What is mapped of a file is among the shared pages already; what is not is in our own memory.
        let own = self.platform.own_memory().saturating_sub(allowed);
        resident.max(hosted).saturating_add(own.max(files.saturating_sub(hosted)))
    }
}

/// Until so many bytes may be gone.
fn pause(left: u64) -> u64 {
    (left / SPEED).clamp(SHORTEST, LONGEST)
}

/// Pages of files are the host's cache; it takes them back when it needs them.
fn own_memory(used: &Usage) -> u64 {
    match used.resident_anonymous.saturating_add(used.resident_shared) {
        0 => used.resident,
        own => own,
    }
}
