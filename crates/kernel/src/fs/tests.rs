//! Chains that a guest makes as long as it likes are let go on a stack that is short, and what goes leaves the ring.

use std::sync::Arc;

use super::host::{HostFs, View};
use super::mem::{Budget, MemFs};
use super::overlay::OverlayFs;
use super::{Dentry, FileSystem, Inode, MountFlags, NewNode, S_IFDIR, S_IFREG, Vfs};

fn new(mode: u32) -> NewNode<'static> {
    NewNode { mode, uid: 0, gid: 0, rdev: 0, target: b"" }
}

/// Drops it where a frame for each of a thousand would not fit.
fn drop_on_a_short_stack<T: Send + 'static>(what: T) {
    std::thread::Builder::new().stack_size(32 << 10).spawn(move || drop(what)).unwrap().join().unwrap();
}

fn memory() -> (Arc<MemFs>, Arc<Budget>) {
    let budget = Budget::new(u64::MAX);
    (MemFs::new("tmpfs", 7, 0o755, budget.clone()), budget)
}

fn chain(mut at: Arc<dyn Inode>, depth: usize) -> Arc<dyn Inode> {
    for _ in 0..depth {
        at = at.make(b"d", &new(S_IFDIR | 0o755)).unwrap();
    }
    at
}

fn descend(mut at: Arc<dyn Inode>) -> Arc<dyn Inode> {
    while let Ok(next) = at.lookup(b"d") {
        at = next;
    }
    at
}

#[test]
fn a_tree_in_memory() {
    let (fs, budget) = memory();
    chain(fs.root(), 30_000);
    drop_on_a_short_stack(fs);
    assert_eq!(budget.state().1, 0);
}

#[test]
fn a_tree_over_another() {
    // New directories hang on their parents, found ones on their children.
    let (lower, _) = memory();
    chain(lower.root(), 30_000);
    let budget = Budget::new(u64::MAX);
    let overlay = OverlayFs::new(lower.clone(), budget.clone()).unwrap();
    let end = descend(overlay.root());
    drop_on_a_short_stack(end);
    let end = descend(overlay.root());
    chain(end, 30_000);
    drop_on_a_short_stack(overlay);
    assert_eq!(budget.state().1, 0);
    drop_on_a_short_stack(lower);
}

#[test]
fn a_tree_of_the_host() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d/".repeat(500));
    std::fs::create_dir_all(path).unwrap();
    let fs = HostFs::open(dir.path(), &View::default()).unwrap();
    drop_on_a_short_stack(descend(fs.root()));
    let overlay = OverlayFs::new(fs, Budget::new(u64::MAX)).unwrap();
    drop_on_a_short_stack(descend(overlay.root()));
}

#[test]
fn names_of_a_tree() {
    let (fs, _) = memory();
    let vfs = Vfs::new(fs, MountFlags::empty(), Budget::new(u64::MAX));
    let mut at = vfs.mounts.root().dentry;
    for _ in 0..30_000 {
        let inode = at.inode().make(b"d", &new(S_IFDIR | 0o755)).unwrap();
        at = at.made(b"d", inode);
    }
    drop_on_a_short_stack(at);
}

fn used(budget: &Budget) -> u64 {
    budget.state().1
}

/// Looked up, so that the ring has it.
fn looked_up(top: &Arc<Dentry>, name: &[u8]) -> Arc<Dentry> {
    top.child(name, true, false, |_| None).unwrap()
}

#[test]
fn what_goes_leaves_the_ring_of_names() {
    let (fs, budget) = memory();
    let vfs = Vfs::new(fs, MountFlags::empty(), Budget::new(u64::MAX));
    let top = vfs.mounts.root().dentry;
    let before = used(&budget);
    for name in [&b"removed"[..], b"over", b"moved"] {
        top.inode().make(name, &new(S_IFREG | 0o644)).unwrap();
        looked_up(&top, name);
    }
    let removed = looked_up(&top, b"removed");
    top.inode().unlink(b"removed", removed.inode()).unwrap();
    top.removed(b"removed");
    top.inode().rename(b"moved", top.inode(), b"over", 0).unwrap();
    Dentry::renamed(&top, b"moved", &top, b"over", false);
    let one = used(&budget) - before;
    drop(removed);
    // Of three files one is left, which is still found.
    assert_eq!(used(&budget) - before, one / 2);
    let last = looked_up(&top, b"over");
    top.inode().unlink(b"over", last.inode()).unwrap();
    top.removed(b"over");
    drop(last);
    assert_eq!(used(&budget), before);
}

#[test]
fn the_ring_keeps_the_latest_and_what_is_in_use() {
    let (fs, _) = memory();
    let vfs = Vfs::new(fs, MountFlags::empty(), Budget::new(u64::MAX));
    let top = vfs.mounts.root().dentry;
    let name = |number: usize| number.to_string().into_bytes();
    let mut weak = Vec::new();
    for number in 0..10_000 {
        top.inode().make(&name(number), &new(S_IFREG | 0o644)).unwrap();
        weak.push(Arc::downgrade(&looked_up(&top, &name(number))));
        // One is looked for again and again.
        looked_up(&top, b"0");
    }
    let kept = |range: std::ops::Range<usize>| weak[range].iter().filter(|one| one.strong_count() > 0).count();
    assert_eq!((kept(0..1), kept(1..5000), kept(6000..10_000)), (1, 0, 4000));
    vfs.mounts.root();
    drop(vfs);
    drop(top);
    assert_eq!(kept(0..10_000), 0);
}
