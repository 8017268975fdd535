use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::Duration;

use super::*;
use crate::fs::FileSystem;
use crate::fs::host::{HostFs, View};
use crate::fs::mem::{Budget, MemFs};
use crate::fs::{NewNode, S_IFSOCK, SetAttr};
use crate::mem::SliceSource;

/// An overlay over nothing.
fn fresh() -> Arc<OverlayFs> {
    OverlayFs::new(MemFs::new("tmpfs", 7, 0o755, Budget::new(u64::MAX)), Budget::new(u64::MAX)).unwrap()
}

fn new(mode: u32) -> NewNode<'static> {
    NewNode { mode, uid: 0, gid: 0, rdev: 0, target: b"" }
}

fn write(inode: &Arc<dyn Inode>, at: u64, bytes: &[u8]) {
    let node = inode.as_any().downcast_ref::<Node>().unwrap();
    let upper = node.contents_up(u64::MAX).unwrap();
    upper.data().unwrap().write(at, &mut SliceSource(bytes)).unwrap();
}

fn limits(bytes: u64, time: Duration) -> SaveLimits {
    SaveLimits { bytes, until: Instant::now() + time }
}

type Lefts = Vec<(String, Left)>;

fn save(fs: &OverlayFs, into: &Path, limits: SaveLimits) -> Result<(u64, Lefts), Stopped> {
    let mut lefts = Vec::new();
    let mut left = |path: &[u8], left| lefts.push((String::from_utf8_lossy(path).into_owned(), left));
    let bytes = fs.save(into, Path::new("/"), &[], limits, &mut left)?;
    Ok((bytes, lefts))
}

fn all(fs: &OverlayFs, into: &Path) -> (u64, Lefts) {
    save(fs, into, limits(1 << 40, Duration::from_secs(60))).unwrap()
}

/// The standard library holds a descriptor for each level.
fn remove(directory: tempfile::TempDir) {
    let path = directory.keep();
    assert!(std::process::Command::new("rm").arg("-rf").arg(path).status().unwrap().success());
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Far beyond PATH_MAX and what a process may hold open; the way back up is needed at every level.
#[test]
fn a_deep_tree_is_taken_out_level_by_level() {
    const DEPTH: usize = 1200;
    let fs = fresh();
    let name = [b'd'; 255];
    let mut at: Arc<dyn Inode> = fs.root();
    for _ in 0..DEPTH {
        let next = at.make(&name, &new(S_IFDIR | 0o750)).unwrap();
        at.make(b"z", &new(S_IFREG | 0o640)).unwrap();
        at = next;
    }
    let out = tempfile::tempdir().unwrap();
    let (bytes, left) = all(&fs, out.path());
    assert_eq!((bytes, left), (2 * DEPTH as u64 * NODE_COST, vec![]));
    let mut at = rustix::fs::open(out.path(), OFlags::PATH, Mode::empty()).unwrap();
    for _ in 0..DEPTH {
        let stat = rustix::fs::statat(&at, "z", AtFlags::SYMLINK_NOFOLLOW).unwrap();
        assert_eq!(stat.st_mode, S_IFREG | 0o640);
        at = rustix::fs::openat(&at, &name[..], OFlags::PATH, Mode::empty()).unwrap();
        assert_eq!(rustix::fs::fstat(&at).unwrap().st_mode, S_IFDIR | 0o750);
    }
    remove(out);
}

#[test]
fn names_of_one_file_are_names_of_one_copy_and_nothing_else_is_left() {
    let fs = fresh();
    let (root, other) = (fs.root(), fs.root().make(b"other", &new(S_IFDIR | 0o755)).unwrap());
    let files: Vec<_> =
        (0..3).map(|n| root.make(format!("f{n}").as_bytes(), &new(S_IFREG | 0o600)).unwrap()).collect();
    for (n, file) in files.iter().enumerate() {
        write(file, 0, format!("file {n}").as_bytes());
        for m in 0..4 {
            other.link(format!("l{n}{m}").as_bytes(), file).unwrap();
        }
    }
    let out = tempfile::tempdir().unwrap();
    all(&fs, out.path());
    assert_eq!(names(out.path()), ["f0", "f1", "f2", "other"]);
    for n in 0..3 {
        let first = std::fs::metadata(out.path().join(format!("f{n}"))).unwrap();
        assert_eq!(first.nlink(), 5);
        for m in 0..4 {
            let path = out.path().join(format!("other/l{n}{m}"));
            assert_eq!(std::fs::metadata(&path).unwrap().ino(), first.ino());
            assert_eq!(std::fs::read_to_string(path).unwrap(), format!("file {n}"));
        }
    }
}

#[test]
fn a_copy_ends_at_its_limits_and_says_where() {
    let fs = fresh();
    for name in [b"a", b"b", b"c"] {
        let file = fs.root().make(name, &new(S_IFREG | 0o644)).unwrap();
        write(&file, 0, &[1; 3 << 20]);
    }
    let out = tempfile::tempdir().unwrap();
    let most = 2 * (NODE_COST + (3 << 20));
    let stopped = save(&fs, out.path(), limits(most, Duration::from_secs(60))).unwrap_err();
    assert_eq!((stopped.path.as_slice(), matches!(stopped.why, Stop::Bytes)), (&b"/c"[..], true));
    assert_eq!(names(out.path()), ["a", "b"]);
    let out = tempfile::tempdir().unwrap();
    let stopped = save(&fs, out.path(), limits(u64::MAX, Duration::ZERO)).unwrap_err();
    assert_eq!((stopped.path.as_slice(), matches!(stopped.why, Stop::Time)), (&b"/a"[..], true));
}

#[test]
fn holes_stay_holes_and_links_and_fifos_what_they_are() {
    let fs = fresh();
    let file = fs.root().make(b"sparse", &new(S_IFREG | 0o4755)).unwrap();
    write(&file, 1 << 33, b"end");
    fs.root().make(b"fifo", &new(S_IFIFO | 0o622)).unwrap();
    fs.root().make(b"link", &NewNode { target: b"/nowhere\n", ..new(S_IFLNK | 0o777) }).unwrap();
    fs.root().make(b"socket", &new(S_IFSOCK | 0o777)).unwrap();
    let out = tempfile::tempdir().unwrap();
    let (_, left) = all(&fs, out.path());
    assert_eq!(left, [("/socket".to_owned(), Left::Kind)]);
    let mode = |name: &str| std::fs::symlink_metadata(out.path().join(name)).unwrap().mode();
    assert_eq!((mode("sparse"), mode("fifo")), (S_IFREG | 0o755, S_IFIFO | 0o622));
    let stat = std::fs::metadata(out.path().join("sparse")).unwrap();
    assert_eq!((stat.len(), stat.blocks() < 64), ((1 << 33) + 3, true));
    assert_eq!(std::fs::read_link(out.path().join("link")).unwrap().to_str(), Some("/nowhere\n"));
}

/// What was moved is read where it lies; what the host keeps closed is not taken along.
#[test]
fn of_a_moved_tree_what_everybody_may_read_is_taken_out() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("open"), vec![b'o'; 100_000]).unwrap();
    std::fs::write(tree.join("closed"), b"secret").unwrap();
    std::fs::create_dir(tree.join("private")).unwrap();
    std::fs::write(tree.join("private/within"), b"secret").unwrap();
    for (name, mode) in [("closed", 0o600), ("private", 0o700)] {
        std::fs::set_permissions(tree.join(name), PermissionsExt::from_mode(mode)).unwrap();
    }
    for path in [dir.path(), &tree] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    }
    let view = View { shared: true, hidden: Vec::new() };
    let budget = Budget::new(16 << 10);
    let fs = OverlayFs::new(HostFs::open(dir.path(), &view).unwrap(), budget.clone()).unwrap();
    fs.root().rename(b"tree", &fs.root(), b"moved", 0).unwrap();
    // Attributes that a guest gives it open nothing.
    let closed = fs.root().lookup(b"moved").unwrap().lookup(b"closed").unwrap();
    closed.set_attr(&SetAttr { mode: Some(0o644), ..SetAttr::default() }).unwrap();
    let used = budget.state().1;
    let out = tempfile::tempdir().unwrap();
    let (bytes, left) = all(&fs, out.path());
    let expected = [
        ("/moved/closed", Left::Closed),
        ("/moved/private", Left::Unlisted(Errno::EACCES)),
        ("/tree", Left::Deleted),
    ];
    assert_eq!(left, expected.map(|(path, left)| (path.to_owned(), left)));
    assert_eq!(names(&out.path().join("moved/private")), Vec::<String>::new());
    assert_eq!(std::fs::read(out.path().join("moved/open")).unwrap(), vec![b'o'; 100_000]);
    assert_eq!((names(&out.path().join("moved")).len(), budget.state().1), (2, used));
    assert_eq!(bytes, 4 * NODE_COST + 100_000);
}

/// A guest can put a link where the place of another overlay's copy begins, and a name that is there already.
#[test]
fn nothing_leads_out_of_the_copy() {
    let (out, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    symlink(elsewhere.path(), out.path().join("home")).unwrap();
    let fs = fresh();
    fs.root().make(b"file", &new(S_IFREG | 0o644)).unwrap();
    let far = limits(u64::MAX, Duration::from_secs(60));
    let stopped = fs.save(out.path(), Path::new("/home/me"), &[], far, &mut |_, _| ()).unwrap_err();
    assert!(matches!(stopped.why, Stop::Host(_)));
    assert_eq!(names(elsewhere.path()), Vec::<String>::new());
    let fs = fresh();
    let home = fs.root().make(b"home", &new(S_IFDIR | 0o755)).unwrap();
    home.make(b"file", &new(S_IFREG | 0o644)).unwrap();
    assert!(matches!(save(&fs, out.path(), far).unwrap_err().why, Stop::Host(_)));
    assert_eq!(names(elsewhere.path()), Vec::<String>::new());
}

/// Somebody moves a directory of the copy away while the walk is far below it.
#[test]
fn the_way_back_up_is_checked() {
    let (out, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut way = Way::new(out.path(), Path::new("/")).unwrap();
    for _ in 0..40 {
        way.enter(b"d", None);
        way.here().unwrap();
    }
    std::fs::rename(out.path().join("d/d"), elsewhere.path().join("d")).unwrap();
    let outcome: Result<(), Stop> = (0..40).try_for_each(|_| way.leave());
    assert!(matches!(outcome, Err(Stop::Host(_))));
}
