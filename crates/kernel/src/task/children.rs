//! The children of a process, in the order in which it got them. A guest chooses how many there are, so the ones that are
//! over, those of one thread, and a certain one are found without a look at the others.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Process;

#[derive(Default)]
pub struct Children {
    next: u64,
    living: BTreeMap<u64, Arc<Process>>,
    zombies: BTreeMap<u64, Arc<Process>>,
    /// Those that a thread made, or has taken over.
    of_thread: HashMap<u32, BTreeSet<u64>>,
}

impl Children {
    /// The last of them from now on, as a child of the thread `tid`.
    pub(super) fn add(&mut self, child: Arc<Process>, tid: u32) {
        let number = self.next;
        self.next += 1;
        child.birth.store(number, Ordering::Relaxed);
        self.of_thread.entry(tid).or_default().insert(number);
        if child.is_zombie() { &mut self.zombies } else { &mut self.living }.insert(number, child);
    }

    /// It has become a zombie.
    pub(super) fn bury(&mut self, child: &Process) {
        let number = child.birth.load(Ordering::Relaxed);
        if let Some(child) = self.living.remove(&number) {
            self.zombies.insert(number, child);
        }
    }

    /// It is a child of the thread `tid` no more, and nobody's here.
    pub(super) fn remove(&mut self, child: &Process, tid: u32) -> Option<Arc<Process>> {
        let number = child.birth.load(Ordering::Relaxed);
        if let Some(numbers) = self.of_thread.get_mut(&tid) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.of_thread.remove(&tid);
            }
        }
        self.living.remove(&number).or_else(|| self.zombies.remove(&number))
    }

    /// The thread `heir` takes over what `tid` has; returns these children.
    pub(super) fn inherit(&mut self, tid: u32, heir: u32) -> Vec<Arc<Process>> {
        let Some(numbers) = self.of_thread.remove(&tid) else { return Vec::new() };
        let found = |number| self.living.get(number).or_else(|| self.zombies.get(number)).cloned();
        let children = numbers.iter().filter_map(found).collect();
        self.of_thread.entry(heir).or_default().extend(numbers);
        children
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Process>> {
        let (mut living, mut zombies) = (self.living.iter().peekable(), self.zombies.iter().peekable());
        std::iter::from_fn(move || {
            let first = match (living.peek(), zombies.peek()) {
                (Some((one, _)), Some((other, _))) => one < other,
                (one, _) => one.is_some(),
            };
            if first { living.next() } else { zombies.next() }.map(|(_, child)| child)
        })
    }

    /// Those that are over, in order.
    pub(super) fn zombies(&self) -> impl Iterator<Item = &Arc<Process>> {
        self.zombies.values()
    }

    pub fn is_empty(&self) -> bool {
        self.living.is_empty() && self.zombies.is_empty()
    }
}
