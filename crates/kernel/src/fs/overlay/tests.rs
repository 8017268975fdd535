use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::Errno;
use crate::fs::host::{HostFs, View};
use crate::fs::{NewNode, S_IFDIR, S_IFREG, SetAttr};
use crate::mem::{SliceSource, VecSink};

fn tree() -> (tempfile::TempDir, Arc<OverlayFs>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    std::fs::create_dir(path.join("d")).unwrap();
    std::fs::write(path.join("d/f"), b"lower").unwrap();
    std::fs::write(path.join("a"), b"a").unwrap();
    std::fs::hard_link(path.join("a"), path.join("b")).unwrap();
    std::os::unix::fs::symlink("d/f", path.join("l")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let lower = HostFs::open(path, &View::default()).unwrap();
    let fs = OverlayFs::new(lower, Budget::new(u64::MAX)).unwrap();
    (dir, fs)
}

fn new(mode: u32) -> NewNode<'static> {
    NewNode { mode, uid: 0, gid: 0, rdev: 0, target: b"" }
}

fn listing(inode: &Arc<dyn Inode>) -> Vec<String> {
    let mut names: Vec<String> =
        inode.list().unwrap().iter().map(|l| String::from_utf8_lossy(&l.name).into_owned()).collect();
    names.sort();
    names
}

fn contents(inode: &Arc<dyn Inode>) -> Vec<u8> {
    let node = inode.as_any().downcast_ref::<Node>().unwrap();
    let upper = node.contents_up(u64::MAX).unwrap();
    let mut sink = VecSink { bytes: Vec::new(), limit: 1 << 20 };
    upper.data().unwrap().read(0, &mut sink).unwrap();
    sink.bytes
}

fn write(inode: &Arc<dyn Inode>, bytes: &[u8]) {
    let node = inode.as_any().downcast_ref::<Node>().unwrap();
    let upper = node.contents_up(0).unwrap();
    upper.data().unwrap().write(0, &mut SliceSource(bytes)).unwrap();
}

fn changed(fs: &OverlayFs) -> Vec<(String, Kind)> {
    let mut changes = fs.changes(&[]);
    let mut found = Vec::new();
    while let Some(step) = changes.step() {
        if let Step::Name(Found { kind: Some(kind), .. }) = step {
            found.push((String::from_utf8_lossy(changes.path()).into_owned(), kind));
        }
    }
    found
}

#[test]
fn a_change_keeps_the_identity_and_leaves_the_lower_file() {
    let (dir, fs) = tree();
    let d = fs.root().lookup(b"d").unwrap();
    let f = d.lookup(b"f").unwrap();
    let before = f.stat().unwrap();
    f.set_attr(&SetAttr { mode: Some(0o600), ..SetAttr::default() }).unwrap();
    let after = f.stat().unwrap();
    assert_eq!((before.st_dev, before.st_ino, before.st_size), (after.st_dev, after.st_ino, after.st_size));
    assert_eq!(after.st_mode & 0o777, 0o600);
    write(&f, b"upper!");
    assert_eq!(std::fs::read(dir.path().join("d/f")).unwrap(), b"lower");
    // Found anew, it is the changed node.
    let again = fs.root().lookup(b"d").unwrap().lookup(b"f").unwrap();
    assert_eq!(again.stat().unwrap().st_size, 6);
    assert_eq!(contents(&again), b"upper!");
    assert_eq!(changed(&fs), [("/d/f".to_owned(), Kind::Modified)]);
}

#[test]
fn names_go_and_come_back_opaque() {
    let (dir, fs) = tree();
    let root = fs.root();
    let d = root.lookup(b"d").unwrap();
    assert_eq!(root.rmdir(b"d", &d), Err(Errno::ENOTEMPTY));
    let f = d.lookup(b"f").unwrap();
    d.unlink(b"f", &f).unwrap();
    assert_eq!(f.stat().unwrap().st_nlink, 0);
    assert_eq!(d.lookup(b"f").err(), Some(Errno::ENOENT));
    root.rmdir(b"d", &d).unwrap();
    assert_eq!(listing(&root), ["a", "b", "l"]);
    assert_eq!(root.stat().unwrap().st_nlink, 2);
    let d = root.make(b"d", &new(S_IFDIR | 0o755)).unwrap();
    assert_eq!(listing(&d), Vec::<String>::new());
    assert_eq!(listing(&root), ["a", "b", "d", "l"]);
    assert!(dir.path().join("d/f").exists());
}

#[test]
fn a_lower_directory_moves_with_its_contents() {
    let (_dir, fs) = tree();
    let root = fs.root();
    let e = root.make(b"e", &new(S_IFDIR | 0o755)).unwrap();
    root.rename(b"d", &e, b"moved", 0).unwrap();
    assert_eq!(root.lookup(b"d").err(), Some(Errno::ENOENT));
    let moved = e.lookup(b"moved").unwrap();
    assert_eq!(listing(&moved), ["f"]);
    let f = moved.lookup(b"f").unwrap();
    write(&f, b"x");
    assert_eq!(contents(&moved.lookup(b"f").unwrap()), b"x");
    let expected =
        [("/d", Kind::Deleted), ("/e", Kind::Added), ("/e/moved", Kind::Added), ("/e/moved/f", Kind::Added)];
    assert_eq!(changed(&fs), expected.map(|(path, kind)| (path.to_string(), kind)));
}

#[test]
fn lower_hard_links_stay_links() {
    let (_dir, fs) = tree();
    let root = fs.root();
    let a = root.lookup(b"a").unwrap();
    assert_eq!(a.stat().unwrap().st_nlink, 2);
    write(&a, b"both");
    assert_eq!(contents(&root.lookup(b"b").unwrap()), b"both");
    root.unlink(b"a", &a).unwrap();
    assert_eq!(root.lookup(b"b").unwrap().stat().unwrap().st_nlink, 1);
}

#[test]
fn an_unlinked_file_that_is_changed_does_not_come_back() {
    let (_dir, fs) = tree();
    let root = fs.root();
    let d = root.lookup(b"d").unwrap();
    let f = d.lookup(b"f").unwrap();
    d.unlink(b"f", &f).unwrap();
    write(&f, b"ghost");
    assert_eq!(d.lookup(b"f").err(), Some(Errno::ENOENT));
    assert_eq!(contents(&f), b"ghost");
}

#[test]
fn a_rename_moves_the_node_that_is_open() {
    let (_dir, fs) = tree();
    let root = fs.root();
    let open = root.lookup(b"a").unwrap();
    root.rename(b"a", &root, b"z", 0).unwrap();
    write(&open, b"same");
    assert!(Arc::ptr_eq(&open, &root.lookup(b"z").unwrap()));
    assert_eq!(contents(&root.lookup(b"z").unwrap()), b"same");
}

#[test]
fn changes_come_in_order_with_directories_first() {
    let (dir, fs) = tree();
    for name in ["x", "y", "z"] {
        std::fs::write(dir.path().join("d").join(name), b"").unwrap();
    }
    let root = fs.root();
    let d = root.lookup(b"d").unwrap();
    let y = d.lookup(b"y").unwrap();
    d.unlink(b"y", &y).unwrap();
    write(&d.lookup(b"x").unwrap(), b"x");
    for name in [b"g", b"y", b"w"] {
        d.make(name, &new(S_IFREG | 0o644)).unwrap();
    }
    assert_eq!(
        changed(&fs),
        [("/d/g", Kind::Added), ("/d/w", Kind::Added), ("/d/x", Kind::Modified), ("/d/y", Kind::Added)]
            .map(|(path, kind)| (path.to_owned(), kind))
    );
    // Names of both trees, merged.
    let z = d.lookup(b"z").unwrap();
    d.unlink(b"z", &z).unwrap();
    root.rename(b"d", &root, b"d!", 0).unwrap();
    let names: Vec<_> = changed(&fs).into_iter().map(|(path, _)| path).collect();
    assert_eq!(names, ["/d", "/d!", "/d!/f", "/d!/g", "/d!/w", "/d!/x", "/d!/y"]);
}

#[test]
fn every_name_of_a_large_directory_comes_once_and_in_order() {
    let (_dir, fs) = tree();
    let d = fs.root().lookup(b"d").unwrap();
    let mut names: Vec<_> = (0..5000).map(|n| format!("/d/{}", n * 7919 % 5000)).collect();
    for name in &names {
        d.make(&name.as_bytes()[3..], &new(S_IFREG | 0o644)).unwrap();
    }
    names.sort();
    assert_eq!(changed(&fs).into_iter().map(|(path, _)| path).collect::<Vec<_>>(), names);
}

#[test]
fn a_name_that_the_lower_tree_never_had_leaves_nothing() {
    let (_dir, fs) = tree();
    let root = fs.root();
    let d = root.lookup(b"d").unwrap();
    let node = d.as_any().downcast_ref::<Node>().unwrap();
    let names = || node.names().map.len();
    for n in 0..1000 {
        let name = format!("n{n}");
        let file = d.make(name.as_bytes(), &new(S_IFREG | 0o644)).unwrap();
        d.rename(name.as_bytes(), &d, b"moved", 0).unwrap();
        d.unlink(b"moved", &file).unwrap();
        let directory = d.make(name.as_bytes(), &new(S_IFDIR | 0o755)).unwrap();
        d.rmdir(name.as_bytes(), &directory).unwrap();
    }
    assert_eq!((names(), node.names().map.capacity() <= 128), (0, true));
    // One that it has leaves a whiteout, however often it comes back.
    for _ in 0..3 {
        let f = d.lookup(b"f").unwrap();
        d.unlink(b"f", &f).unwrap();
        assert_eq!((names(), d.lookup(b"f").err()), (1, Some(Errno::ENOENT)));
        d.make(b"g", &new(S_IFREG | 0o644)).unwrap();
        d.rename(b"g", &d, b"f", 0).unwrap();
    }
    let f = d.lookup(b"f").unwrap();
    root.rename(b"a", &d, b"f", 0).unwrap();
    assert_eq!(f.stat().unwrap().st_nlink, 0);
    let moved = d.lookup(b"f").unwrap();
    d.unlink(b"f", &moved).unwrap();
    assert_eq!((listing(&d), listing(&root)), (Vec::<String>::new(), vec!["b".into(), "d".into(), "l".into()]));
}

#[test]
fn a_node_that_nobody_uses_is_forgotten() {
    let (_dir, fs) = tree();
    let root = fs.root();
    let node = root.as_any().downcast_ref::<Node>().unwrap();
    let f = root.lookup(b"d").unwrap().lookup(b"f").unwrap();
    assert_eq!(node.seen_count(), 1);
    drop(f);
    assert_eq!(node.seen_count(), 0);
    // Changed files with two names are found by each, until both are gone.
    let a = root.lookup(b"a").unwrap();
    write(&a, &[1; 100_000]);
    let used = || fs.shared.budget.state().1;
    root.unlink(b"a", &a).unwrap();
    assert_eq!(fs.shared.linked.lock().len(), 1);
    root.unlink(b"b", &a).unwrap();
    assert_eq!(fs.shared.linked.lock().len(), 0);
    let with = used();
    drop(a);
    assert!(with > 100_000 && with - used() >= 100_000, "{with}, {}", used());
}
