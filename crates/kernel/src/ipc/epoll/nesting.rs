//! The shape of epolls that watch epolls: no loops, no long chains, and not too many ways from one to the top, for a wake
//! goes all of them (`ep_loop_check()` and `reverse_path_check()` in fs/eventpoll.c). The world's nesting lock guards it.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use super::Epoll;
use crate::fd::OpenFile;
use crate::{Errno, Result};

/// Most epolls in a chain of epolls, less one (`EP_MAX_NESTS`).
const MAX_NESTS: usize = 4;
/// Most ways of each length from a file (`path_limits`); there may be any number of epolls that watch it directly.
const PATHS: [usize; MAX_NESTS + 1] = [usize::MAX, 500, 100, 50, 10];

/// Epolls that were seen, by address, and the longest chain from each.
#[derive(Default)]
struct Seen {
    depths: HashMap<usize, usize>,
    /// Keeps the addresses theirs.
    files: Vec<Arc<OpenFile>>,
}

impl Epoll {
    /// Adding `nested` here makes neither a loop nor too long a chain: `ELOOP` (ep_loop_check()).
    pub(super) fn check_nesting(&self, nested: &Epoll) -> Result<()> {
        if std::ptr::eq(self, nested) {
            return Err(Errno::EINVAL);
        }
        let below = nested.depth(Some(self), 0, &mut Seen::default())?;
        let above = self.height(0, &mut HashMap::new());
        if below + 1 + above > MAX_NESTS { Err(Errno::ELOOP) } else { Ok(()) }
    }

    /// From now on `parent` watches this one; `EINVAL` if there would be too many ways up from something below.
    pub(super) fn adopt(&self, parent: &Weak<Epoll>) -> Result<()> {
        self.parents.lock().push(parent.clone());
        let mut seen = Seen::default();
        // Its own ways, and those of all below it, which the walk finds.
        let walked = self.depth(None, 0, &mut seen).is_ok();
        let mut all = seen.files.iter().filter_map(|file| Epoll::of(file)).chain([self]);
        if walked && all.all(|epoll| epoll.count_paths(1, &mut [0; MAX_NESTS + 1]).is_some()) {
            return Ok(());
        }
        self.disown(parent);
        Err(Errno::EINVAL)
    }

    /// `parent` watches this one no more.
    pub(super) fn disown(&self, parent: &Weak<Epoll>) {
        let mut parents = self.parents.lock();
        if let Some(at) = parents.iter().position(|other| other.ptr_eq(parent)) {
            parents.swap_remove(at);
        }
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Longest chain of epolls below; `ELOOP` if `target` is among them.
    fn depth(&self, target: Option<&Epoll>, level: usize, seen: &mut Seen) -> Result<usize> {
        if target.is_some_and(|target| std::ptr::eq(self, target)) || level > MAX_NESTS {
            return Err(Errno::ELOOP);
        }
        if let Some(known) = seen.depths.get(&self.address()) {
            return Ok(*known);
        }
        let files: Vec<_> = self.nested.lock().values().filter_map(Weak::upgrade).collect();
        let mut deepest = 0;
        for file in files {
            if let Some(nested) = Epoll::of(&file) {
                deepest = deepest.max(1 + nested.depth(target, level + 1, seen)?);
                seen.files.push(file);
            }
        }
        seen.depths.insert(self.address(), deepest);
        Ok(deepest)
    }

    fn parents(&self) -> Vec<Arc<Epoll>> {
        self.parents.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// Longest chain of epolls above.
    fn height(&self, level: usize, seen: &mut HashMap<usize, usize>) -> usize {
        if level > MAX_NESTS {
            return level;
        }
        if let Some(known) = seen.get(&self.address()) {
            return *known;
        }
        let height = self.parents().iter().map(|parent| 1 + parent.height(level + 1, seen)).max().unwrap_or(0);
        seen.insert(self.address(), height);
        height
    }

    /// Counts the ways up by their lengths (reverse_path_check_proc()); `None` if there are too many.
    fn count_paths(&self, level: usize, counts: &mut [usize; MAX_NESTS + 1]) -> Option<()> {
        for parent in self.parents() {
            if parent.parents.lock().is_empty() {
                let count = counts.get_mut(level)?;
                *count += 1;
                PATHS.get(level).filter(|most| *count <= **most)?;
            } else {
                parent.count_paths(level + 1, counts)?;
            }
        }
        Some(())
    }
}
