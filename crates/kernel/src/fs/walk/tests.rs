use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::fs::host::{HostFs, View};
use crate::fs::mem::{Budget, MemFs};
use crate::fs::{FileSystem, MountFlags, NewNode, S_IFDIR, S_IFLNK, S_IFREG};
use crate::task::Cred;

fn new(mode: u32) -> NewNode<'static> {
    NewNode { mode, uid: 1, gid: 1, rdev: 0, target: b"" }
}

/// `/d/f`, `/d/closed/x` (mode 0700 of user 1), `/loop -> loop`, `/up -> ../d`, `/s -> d/f`, and `/m` mounted.
fn vfs() -> Vfs {
    let fs = MemFs::new("tmpfs", 7, 0o755, Budget::new(u64::MAX));
    let root = fs.root();
    let d = root.make(b"d", &new(S_IFDIR | 0o755)).unwrap();
    d.make(b"f", &new(S_IFREG | 0o644)).unwrap();
    let closed = d.make(b"closed", &new(S_IFDIR | 0o700)).unwrap();
    closed.make(b"x", &new(S_IFREG | 0o644)).unwrap();
    root.make(b"m", &new(S_IFDIR | 0o755)).unwrap();
    for (name, target) in [(&b"loop"[..], &b"loop"[..]), (b"up", b"../d"), (b"s", b"d/f")] {
        root.make(name, &NewNode { target, ..new(S_IFLNK | 0o777) }).unwrap();
    }
    let vfs = Vfs::new(fs, MountFlags::empty(), Budget::new(u64::MAX));
    let place = find(&vfs, b"/m", Resolve::FOLLOW).unwrap();
    let other = MemFs::new("tmpfs", 8, 0o755, Budget::new(u64::MAX));
    other.root().make(b"inner", &new(S_IFDIR | 0o755)).unwrap();
    vfs.mounts.mount(other, &place, MountFlags::empty()).unwrap();
    vfs
}

fn find_as(vfs: &Vfs, cred: &Cred, path: &[u8], how: Resolve) -> Result<PathRef> {
    let root = vfs.mounts.root();
    Walk { vfs, who: Who { cred, task: None }, root: &root, base: &root }.find(path, how)
}

fn find(vfs: &Vfs, path: &[u8], how: Resolve) -> Result<PathRef> {
    find_as(vfs, &Cred::new(0, 0, Vec::new()), path, how)
}

#[test]
fn errors_come_in_linux_order() {
    let vfs = vfs();
    let fails = |path: &[u8], how| find(&vfs, path, how).err();
    let follow = Resolve::FOLLOW;
    assert_eq!(fails(b"", follow), Some(Errno::ENOENT));
    assert_eq!(fails(b"/loop", follow), Some(Errno::ELOOP));
    assert_eq!(fails(b"/loop", Resolve::empty()), None);
    assert_eq!(fails(b"/loop/", Resolve::empty()), Some(Errno::ELOOP));
    assert_eq!(fails(b"/d/f/", follow), Some(Errno::ENOTDIR));
    assert_eq!(fails(b"/d/f/..", follow), Some(Errno::ENOTDIR));
    assert_eq!(fails(b"/d/none/x", follow), Some(Errno::ENOENT));
    assert_eq!(fails(b"/s", Resolve::NO_SYMLINKS | follow), Some(Errno::ELOOP));
    assert_eq!(fails(&[b'a'; 256], follow), Some(Errno::ENAMETOOLONG));
    assert_eq!(fails(&[b'/'; 4096], follow), Some(Errno::ENAMETOOLONG));
    assert_eq!(fails(b"/m/inner", Resolve::NO_XDEV), Some(Errno::EXDEV));
    assert_eq!(fails(b"/../../d/f", follow), None);
    let user = Cred::new(5, 5, Vec::new());
    assert_eq!(find_as(&vfs, &user, b"/d/closed/none", follow).err(), Some(Errno::EACCES));
    assert_eq!(find_as(&vfs, &user, b"/d/closed", follow).err(), None);
}

#[test]
fn paths_are_found_back() {
    let vfs = vfs();
    let root = vfs.mounts.root();
    let inner = find(&vfs, b"/up/../m/inner", Resolve::FOLLOW).unwrap();
    assert_eq!(inner.path_from(&root), (b"/m/inner".to_vec(), true));
    let up = find(&vfs, b"/m/inner/../../d", Resolve::FOLLOW).unwrap();
    assert_eq!(up.path_from(&root).0, b"/d");
    // A rename moves what is in use.
    let d = root.inode();
    d.rename(b"d", d, b"e", 0).unwrap();
    crate::fs::Dentry::renamed(&root.dentry, b"d", &root.dentry, b"e", false);
    assert_eq!(up.path_from(&root).0, b"/e");
    assert!(find(&vfs, b"/e/f", Resolve::FOLLOW).is_ok());
    assert_eq!(find(&vfs, b"/d/f", Resolve::FOLLOW).err(), Some(Errno::ENOENT));
}

fn component() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["..", ".", "in", "link", "abs", "up", "secret", "", "deep", "x"])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    /// Whatever is asked for, nothing outside of the tree is ever found.
    #[test]
    fn a_host_tree_is_never_left(parts in prop::collection::vec(component(), 0..12), absolute: bool, beneath: bool) {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), b"s").unwrap();
        let top = outside.path().join("tree");
        std::fs::create_dir_all(top.join("in/deep")).unwrap();
        std::os::unix::fs::symlink(outside.path(), top.join("abs")).unwrap();
        std::os::unix::fs::symlink("../../..", top.join("in/up")).unwrap();
        std::os::unix::fs::symlink("in/deep", top.join("link")).unwrap();
        let vfs = Vfs::new(HostFs::open(&top, &View::default()).unwrap(), MountFlags::empty(), Budget::new(u64::MAX));
        let path = format!("{}{}", if absolute { "/" } else { "" }, parts.join("/"));
        let mut how = Resolve::FOLLOW;
        how.set(Resolve::BENEATH, beneath);
        if let Ok(place) = find(&vfs, path.as_bytes(), how) {
            let id = place.inode().id().unwrap();
            let inside = ["", "in", "in/deep"].map(|part| {
                let stat = rustix::fs::stat(top.join(part)).unwrap();
                (stat.st_dev, stat.st_ino)
            });
            prop_assert!(inside.contains(&id), "{path} leads to {id:?}");
        }
    }
}

#[test]
fn a_file_can_be_a_mount_point_for_a_file_only() {
    let vfs = vfs();
    let file = find(&vfs, b"/d/f", Resolve::FOLLOW).unwrap();
    let other: Arc<dyn FileSystem> = MemFs::new("tmpfs", 9, 0o755, Budget::new(u64::MAX));
    assert_eq!(vfs.mounts.mount(other, &file, MountFlags::empty()).err(), Some(Errno::ENOTDIR));
}
