//! `--memory`: what guests have resident, and their files in memory, are sampled; beyond the limit the largest one is
//! ended, as Linux's OOM killer does. Where the host limits the workers as well, that one may be faster.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use coracle_platform::Usage;

use super::Process;
use crate::abi::linux::SIGKILL;
use crate::world::World;

/// How fast a guest may plausibly fill memory, in bytes per millisecond.
const SPEED: u64 = 4 << 20;
const SHORTEST: u64 = 2;
const LONGEST: u64 = 250;

impl World {
    /// Starts the sampling thread once, if there is a limit.
    pub(super) fn start_memory_watch(self: &Arc<World>) {
        let Some(limit) = self.config.memory_limit else { return };
        if self.memory_watched.swap(true, Ordering::SeqCst) {
            return;
        }
        let world = Arc::downgrade(self);
        let watch = move || {
            while let Some(world) = world.upgrade() {
                if world.ending() {
                    return;
                }
                let pause = world.check_memory(limit);
                drop(world);
                std::thread::sleep(Duration::from_millis(pause));
            }
        };
        if let Err(error) = std::thread::Builder::new().name("memory".into()).spawn(watch) {
            log::warn!("the memory limit is not enforced, no thread for it: {error}");
        }
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

    /// Looks once; returns milliseconds until the next look.
    fn check_memory(&self, limit: u64) -> u64 {
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
        // Files in memory count, but what is mapped of them is among the shared pages already.
        let total = anonymous.saturating_add(shared.max(self.vfs.budget.state().1));
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
        (limit.saturating_sub(total) / SPEED).clamp(SHORTEST, LONGEST)
    }
}

/// Pages of files are the host's cache; it takes them back when it needs them.
fn own_memory(used: &Usage) -> u64 {
    match used.resident_anonymous.saturating_add(used.resident_shared) {
        0 => used.resident,
        own => own,
    }
}
