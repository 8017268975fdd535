//! A kernel whose heap lies: what was decided and sealed holds. A test of its own, since it is for the whole process.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Arc;

use coracle_kernel::decisions::{self, Decisions, HIDDEN};
use coracle_kernel::fs::host::{HostFs, View};
use coracle_kernel::fs::mem::Budget;
use coracle_kernel::fs::{FileSystem, Inode, MountFlags, Opening, Vfs, Who};
use coracle_kernel::task::Cred;

#[test]
fn what_the_heap_says_does_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let allow = |path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    allow(dir.path().to_owned(), 0o755);
    for (name, mode) in [("public", 0o644), ("private", 0o600)] {
        fs::write(dir.path().join(name), name).unwrap();
        allow(dir.path().join(name), mode);
    }
    let secrets = dir.path().join("secrets");
    fs::create_dir(&secrets).unwrap();
    fs::write(secrets.join("public"), "x").unwrap();
    // As one that was named by the caller is shown: with all that the caller may read.
    let tree = HostFs::open(dir.path(), &View::default()).unwrap();
    let budget = Budget::new(1 << 40);
    let vfs = Vfs::new(tree.clone(), MountFlags::empty(), budget.clone());
    let (place, cred) = (vfs.mounts.root(), Cred::new(0, 0, Vec::new()));
    let can_read = |node: &Arc<dyn Inode>| {
        let how = Opening { who: Who { cred: &cred, task: None }, flags: 0, path: &place };
        node.clone().open(&how).is_ok()
    };
    let root = tree.root();
    let (public, private) = (root.lookup(b"public").unwrap(), root.lookup(b"private").unwrap());
    let within = root.lookup(b"secrets").unwrap();
    assert!(can_read(&public) && can_read(&private) && within.lookup(b"public").is_ok());
    budget.charge(1 << 30).unwrap();
    budget.release(1 << 30);

    let meta = fs::metadata(&secrets).unwrap();
    let mut hidden = [(0, 0); HIDDEN];
    hidden[3] = (meta.dev(), meta.ino());
    let decided = Decisions {
        shared_only: true,
        hidden,
        host_network: false,
        memory: u64::MAX,
        disk: 1 << 20,
        output: u64::MAX,
        pids: u32::MAX,
    };
    decisions::seal(decided).unwrap();
    assert!(can_read(&public) && !can_read(&private), "only what everybody may read");
    assert!(within.lookup(b"public").is_err(), "it looks empty");
    assert!(budget.charge(1 << 21).is_err() && budget.charge(1 << 19).is_ok(), "the limit that was decided");
    assert_eq!(budget.state().0, 1 << 20);
    assert!(decisions::seal(decided).is_err(), "once for good");
}
