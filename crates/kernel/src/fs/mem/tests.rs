use super::*;
use crate::abi::linux::{RENAME_EXCHANGE, RENAME_NOREPLACE};

fn fresh() -> (Arc<MemFs>, Arc<dyn Inode>) {
    let fs = MemFs::new("tmpfs", 7, 0o1777, Budget::new(u64::MAX));
    let root = fs.root();
    (fs, root)
}

fn node(mode: u32) -> NewNode<'static> {
    NewNode { mode, uid: 5, gid: 6, rdev: 0, target: b"" }
}

fn nlink(inode: &Arc<dyn Inode>) -> u64 {
    inode.stat().unwrap().st_nlink
}

#[test]
fn directories_count_their_links() {
    let (_fs, root) = fresh();
    let a = root.make(b"a", &node(S_IFDIR | 0o755)).unwrap();
    let b = root.make(b"b", &node(S_IFDIR | 0o755)).unwrap();
    a.make(b"sub", &node(S_IFDIR | 0o755)).unwrap();
    assert_eq!((nlink(&root), nlink(&a), nlink(&b)), (4, 3, 2));
    a.rename(b"sub", &b, b"moved", 0).unwrap();
    assert_eq!((nlink(&root), nlink(&a), nlink(&b)), (4, 2, 3));
    assert_eq!(root.rmdir(b"b", &b), Err(Errno::ENOTEMPTY));
    root.rmdir(b"a", &a).unwrap();
    assert_eq!((nlink(&root), nlink(&a)), (3, 0));
    assert_eq!(a.make(b"x", &node(S_IFREG)).err(), Some(Errno::ENOENT));
}

#[test]
fn exchange_swaps_and_noreplace_refuses() {
    let (_fs, root) = fresh();
    let dir = root.make(b"d", &node(S_IFDIR | 0o755)).unwrap();
    let file = root.make(b"f", &node(S_IFREG | 0o644)).unwrap();
    assert_eq!(root.rename(b"f", &root, b"d", RENAME_NOREPLACE), Err(Errno::EEXIST));
    root.rename(b"f", &root, b"d", RENAME_EXCHANGE).unwrap();
    assert_eq!(root.lookup(b"d").unwrap().id(), file.id());
    assert_eq!(root.lookup(b"f").unwrap().id(), dir.id());
    let inner = dir.make(b"x", &node(S_IFREG | 0o644)).unwrap();
    dir.rename(b"x", &root, b"d", RENAME_EXCHANGE).unwrap();
    assert_eq!(dir.lookup(b"x").unwrap().id(), file.id());
    assert_eq!(root.lookup(b"d").unwrap().id(), inner.id());
}

#[test]
fn hard_links_share_the_node() {
    let (_fs, root) = fresh();
    let file = root.make(b"f", &node(S_IFREG | 0o644)).unwrap();
    root.link(b"g", &file).unwrap();
    assert_eq!(nlink(&file), 2);
    // Renaming one name of a file to another does nothing.
    root.rename(b"f", &root, b"g", 0).unwrap();
    assert_eq!(nlink(&file), 2);
    root.unlink(b"f", &file).unwrap();
    root.unlink(b"g", &file).unwrap();
    assert_eq!(nlink(&file), 0);
}

#[test]
fn a_very_deep_tree_is_dropped_without_recursion() {
    let (fs, root) = fresh();
    let mut at = root;
    for _ in 0..200_000 {
        at = at.make(b"d", &node(S_IFDIR | 0o755)).unwrap();
    }
    drop(at);
    let budget = fs.shared.budget.clone();
    drop(fs);
    assert_eq!(budget.state().1, 0);
}

/// A worker may keep a descriptor of before, and make mappings by itself: the host keeps the seals, too.
#[test]
fn seals_against_writing_bind_descriptors_that_were_given_out() {
    use crate::abi::linux::{F_SEAL_FUTURE_WRITE, F_SEAL_WRITE, O_RDWR};
    use crate::fd::{File, Mapped};
    for (seal, mapped_before) in [(F_SEAL_FUTURE_WRITE, true), (F_SEAL_WRITE, true), (F_SEAL_WRITE, false)] {
        let (fs, _root) = fresh();
        let inode = fs.orphan(&node(S_IFREG | 0o600)).unwrap();
        inode.seals.store(0, Ordering::SeqCst);
        let file = MemFile::new(inode, O_RDWR);
        let source = |writable| match file.map(1, writable) {
            Ok(Mapped::File(source)) => Ok(source.file),
            other => Err(other.err()),
        };
        file.truncate(PAGE_SIZE).unwrap();
        let before = mapped_before.then(|| source(true).unwrap());
        file.add_seals(seal).unwrap();
        assert_eq!(source(true).err(), Some(Some(Errno::EPERM)));
        let after = source(false).unwrap();
        for fd in [before, Some(after)].into_iter().flatten() {
            assert!(rustix::io::pwrite(&*fd, b"x", 0).is_err());
        }
    }
}

#[test]
fn names_and_attributes_take_room() {
    use super::NODE_COST;
    let budget = Budget::new(1 << 20);
    let fs = MemFs::new("tmpfs", 7, 0o1777, budget.clone());
    let root = fs.root();
    let before = budget.state().1;
    let file = root.make(b"f", &node(S_IFREG | 0o644)).unwrap();
    let names = (0..).find(|n| root.link(format!("n{n}").as_bytes(), &file) == Err(Errno::ENOSPC)).unwrap();
    assert_eq!(names, ((1 << 20) - before) / NODE_COST - 1);
    (0..names).for_each(|n| root.unlink(format!("n{n}").as_bytes(), &file).unwrap());
    assert_eq!(budget.state().1, before + NODE_COST);
    // One that had none gets its first for nothing.
    let unnamed = root.make_unnamed(&node(S_IFREG | 0o644)).unwrap();
    root.link(b"u", &unnamed).unwrap();
    assert_eq!(budget.state().1, before + 2 * NODE_COST);
    root.unlink(b"u", &unnamed).unwrap();
    drop(unnamed);
    file.set_xattr(b"user.a", &[1; 1000], 0).unwrap();
    file.set_xattr(b"user.a", &[1; 10], 0).unwrap();
    assert_eq!(budget.state().1, before + NODE_COST + 16);
    file.set_xattr(b"user.b", &[1; 10], 0).unwrap();
    file.remove_xattr(b"user.a").unwrap();
    root.unlink(b"f", &file).unwrap();
    drop(file);
    assert_eq!(budget.state().1, before);
    let begun = std::time::Instant::now();
    let file = fs.orphan(&node(S_IFREG)).unwrap();
    // A million bytes of them, of which each was added up at every change.
    let many = MemFs::new("tmpfs", 7, 0o1777, Budget::new(u64::MAX)).orphan(&node(S_IFREG)).unwrap();
    let count =
        (0..).find(|n| many.set_xattr(format!("user.{n}").as_bytes(), b"", 0) == Err(Errno::ENOSPC)).unwrap();
    assert!(count > 90_000 && begun.elapsed().as_secs() < 30, "{count} {:?}", begun.elapsed());
    drop(file);
}

#[test]
fn a_directory_that_was_large_is_small_again() {
    let (_fs, root) = fresh();
    for n in 0..100_000 {
        root.make(format!("n{n}").as_bytes(), &node(S_IFREG)).unwrap();
    }
    for n in 0..100_000 {
        let name = format!("n{n}");
        let file = root.lookup(name.as_bytes()).unwrap();
        root.unlink(name.as_bytes(), &file).unwrap();
    }
    let root = root.as_any().downcast_ref::<MemInode>().unwrap();
    assert!(root.capacity() <= 128, "{}", root.capacity());
}
