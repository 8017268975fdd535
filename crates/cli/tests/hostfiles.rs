//! Names of the host that lead elsewhere by the time that they are used: a guest changes them, or the host does.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, RenameFlags, mknodat, renameat_with};
use tempfile::TempDir;

mod common;
use common::{Source, compiled, open_to_all, text};

/// How long a race is tried, in milliseconds. Each of these was lost within a few hundred before it was mended.
const TIME: &str = "2500";

fn program() -> Option<(TempDir, PathBuf)> {
    let (dir, program) = compiled(&["-O1", "-pthread", "-static"], Source::File("tests/hostile/files.c"))?;
    open_to_all(dir.path());
    Some((dir, program))
}

fn scratch() -> TempDir {
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    open_to_all(dir.path());
    dir
}

/// `coracle run OPTIONS` of the program in `dir`, where it starts.
fn run(program: &Path, dir: &Path, options: &[&str], arguments: &[&str]) -> String {
    let shown = program.parent().unwrap().display();
    let mut command = Command::new(env!("CARGO_BIN_EXE_coracle"));
    command.args(["run", "--timeout", "60s", "--log", "error", "--bind", &format!("{shown}:/hostile:ro")]);
    command.args(options).args(["--", "/hostile/program"]).args(arguments).current_dir(dir);
    let output = command.output().unwrap();
    assert_eq!((text(&output.stderr).as_str(), output.status.code()), ("", Some(0)));
    text(&output.stdout)
}

fn write(path: &Path, text: &str, mode: u32) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// What a guest must not change.
fn print(path: &Path) -> (u32, u32, u32, u64, u64, i64, i64, i64) {
    let meta = fs::symlink_metadata(path).unwrap();
    let times = (meta.mtime(), meta.ctime(), meta.ctime_nsec());
    (meta.mode(), meta.uid(), meta.gid(), meta.nlink(), meta.size(), times.0, times.1, times.2)
}

fn a_victim_stays(arguments: &[&str]) {
    let Some((_dir, program)) = program() else { return };
    let scratch = scratch();
    let (tree, victim, directory) =
        (scratch.path().join("w"), scratch.path().join("victim"), scratch.path().join("victims"));
    fs::create_dir(&tree).unwrap();
    write(&victim, "private", 0o600);
    fs::create_dir(&directory).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
    for victim in [&victim, &directory] {
        let before = print(victim);
        let arguments = [arguments, &[victim.to_str().unwrap(), TIME]].concat();
        run(&program, &tree, &["--write", tree.to_str().unwrap()], &arguments);
        assert_eq!(print(victim), before);
    }
}

#[test]
fn a_link_in_the_place_of_a_new_fifo_is_not_followed() {
    a_victim_stays(&["links", "fifo"]);
}

#[test]
fn a_link_in_the_place_of_a_new_socket_is_not_followed() {
    a_victim_stays(&["links", "socket"]);
}

#[test]
fn a_link_in_the_place_of_a_new_directory_is_not_followed() {
    a_victim_stays(&["links", "directory"]);
}

#[test]
fn a_link_in_the_place_of_a_new_file_is_not_followed() {
    a_victim_stays(&["links", "file"]);
}

#[test]
fn attributes_are_set_by_descriptor() {
    a_victim_stays(&["attributes"]);
}

/// Started by root, what a guest makes is given to who it believes to be; nothing of root's that came to its place is.
#[test]
fn what_changes_places_with_something_new_keeps_its_owner() {
    let Some((_dir, program)) = program() else { return };
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: only root can give files away");
    }
    for kind in ["directory", "fifo", "socket", "link"] {
        let scratch = scratch();
        let tree = scratch.path();
        fs::set_permissions(tree, fs::Permissions::from_mode(0o777)).unwrap();
        let others = tree.join("r");
        match kind {
            "directory" => fs::create_dir(&others).unwrap(),
            "link" => symlink("nowhere", &others).unwrap(),
            kind => {
                let kind = if kind == "fifo" { FileType::Fifo } else { FileType::Socket };
                mknodat(CWD, &others, kind, Mode::from_raw_mode(0o644), 0).unwrap();
            }
        }
        let ino = fs::symlink_metadata(&others).unwrap().ino();
        let options = ["--write", tree.to_str().unwrap(), "--user", "1000"];
        run(&program, tree, &options, &["owners", kind, "r", TIME]);
        let mut all = fs::read_dir(tree).unwrap().map(|entry| entry.unwrap().metadata().unwrap());
        let own = all.find(|meta| meta.ino() == ino).expect("it is still there");
        assert_eq!((kind, own.uid(), own.gid()), (kind, 0, 0));
    }
}

/// The host goes on with this beside a guest.
struct Beside(Arc<AtomicBool>, Option<std::thread::JoinHandle<()>>);

impl Beside {
    fn new(mut step: impl FnMut() + Send + 'static) -> Beside {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = stop.clone();
        let work = move || {
            while !seen.load(Ordering::Relaxed) {
                step();
            }
        };
        Beside(stop, Some(std::thread::spawn(work)))
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        if let Some(thread) = self.1.take() {
            let _ = thread.join();
        }
    }
}

fn pause() {
    std::thread::sleep(Duration::from_millis(2));
}

/// What a guest can read under `path` while the host takes its steps. (The current directory is shown as `/` is: what
/// everybody may read.)
fn read_beside(path: &str, step: impl FnOnce(PathBuf) -> Box<dyn FnMut() + Send>) {
    let Some((_dir, program)) = program() else { return };
    let scratch = scratch();
    let beside = Beside::new(step(scratch.path().to_owned()));
    let told = run(&program, scratch.path(), &[], &["reads", path, TIME]);
    drop(beside);
    assert_eq!(told, "public some, secret 0, refused some, odd 0\n");
}

#[test]
fn a_private_file_that_is_renamed_over_a_public_one_is_not_served() {
    read_beside("f", |dir| {
        Box::new(move || {
            for (text, mode) in [("public", 0o644), ("secret", 0o600)] {
                write(&dir.join("new"), text, mode);
                fs::rename(dir.join("new"), dir.join("f")).unwrap();
                pause();
            }
        })
    });
}

#[test]
fn a_private_directory_in_the_place_of_a_public_one_is_not_entered() {
    read_beside("d/f", |dir| {
        for (name, text, mode) in [("d", "public", 0o755), ("p", "secret", 0o700)] {
            fs::create_dir(dir.join(name)).unwrap();
            write(&dir.join(name).join("f"), text, 0o644);
            fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        Box::new(move || {
            renameat_with(CWD, dir.join("d"), CWD, dir.join("p"), RenameFlags::EXCHANGE).unwrap();
            pause();
        })
    });
}

#[test]
fn a_new_file_in_a_directory_that_has_become_private_is_not_served() {
    read_beside("d/f", |dir| {
        let dir = dir.join("d");
        fs::create_dir(&dir).unwrap();
        Box::new(move || {
            for (text, mode) in [("public", 0o755), ("secret", 0o700)] {
                fs::set_permissions(&dir, fs::Permissions::from_mode(mode)).unwrap();
                write(&dir.join("new"), text, 0o644);
                fs::rename(dir.join("new"), dir.join("f")).unwrap();
                pause();
                fs::remove_file(dir.join("f")).unwrap();
            }
        })
    });
}

/// Somebody waits for a reader of a FIFO. A guest that opens a file must not be taken for one, whatever is put into the
/// file's place.
#[test]
fn a_fifo_in_the_place_of_a_file_is_not_opened() {
    let Some((_dir, program)) = program() else { return };
    let scratch = scratch();
    let dir = scratch.path().to_owned();
    write(&dir.join("f"), "public", 0o644);
    let fifo = dir.join("p");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap();
    // Kept under a name that stays, for the end of the test.
    fs::hard_link(&fifo, dir.join("kept")).unwrap();
    let woken = Arc::new(AtomicBool::new(false));
    let (waits, seen) = (dir.join("kept"), woken.clone());
    let waiter = std::thread::spawn(move || {
        let _writer = fs::OpenOptions::new().write(true).open(waits);
        seen.store(true, Ordering::SeqCst);
    });
    let swapping = dir.clone();
    let beside = Beside::new(move || {
        renameat_with(CWD, swapping.join("f"), CWD, swapping.join("p"), RenameFlags::EXCHANGE).unwrap();
        // Often, and not so that no instant is left for a look.
        std::thread::sleep(Duration::from_micros(20));
    });
    let told = run(&program, &dir, &[], &["reads", "f", TIME]);
    drop(beside);
    assert!(told.ends_with("secret 0, refused some, odd 0\n"), "{told}");
    assert!(!woken.load(Ordering::SeqCst), "a guest opened the FIFO");
    let _reader = fs::File::open(dir.join("kept")).unwrap();
    waiter.join().unwrap();
}

#[test]
fn no_copy_of_a_private_file_is_served() {
    let Some((_dir, program)) = program() else { return };
    let scratch = scratch();
    write(&scratch.path().join("f"), "secret", 0o600);
    let told = run(&program, scratch.path(), &[], &["copies", "f"]);
    let refused = ["opened for writing", "opened for appending", "cut off", "made public", "linked", "moved"];
    let expected: String = refused.map(|how| format!("{how}: EACCES\n")).concat();
    assert_eq!(told, expected);
    // Emptied it is the guest's own.
    let sh = |script: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coracle"));
        let output = command.args(["run", "--", "sh", "-c", script]).current_dir(scratch.path()).output().unwrap();
        text(&output.stdout)
    };
    assert_eq!(sh("echo mine > f; cat f"), "mine\n");
    assert_eq!(fs::read_to_string(scratch.path().join("f")).unwrap(), "secret");
}

#[test]
fn inner_places_are_seen_in_outer_ones_and_masks_stay() {
    let Some((_dir, program)) = program() else { return };
    let scratch = scratch();
    let tree = scratch.path().join("w");
    for directory in [&tree, &tree.join("d")] {
        fs::create_dir(directory).unwrap();
        write(&directory.join(".env"), "secret", 0o644);
    }
    let mask = scratch.path().join("mask");
    write(&mask, "public", 0o644);
    let (shown, tree_shown) = (mask.display(), tree.display());
    let bind = |place: &str| format!("{shown}:{tree_shown}/{place}:ro");
    let (outer, inner) = (bind(".env"), bind("d/.env"));
    let tree_text = tree_shown.to_string();
    for options in [
        ["--write", &tree_text, "--bind", &outer, "--bind", &inner],
        ["--bind", &inner, "--bind", &outer, "--write", &tree_text],
    ] {
        assert_eq!(run(&program, &tree, &options, &["masked", ".env", TIME]), "mask seen, secret 0\n");
        fs::remove_dir(tree.join("e")).or_else(|_| fs::rename(tree.join("e"), tree.join("d"))).unwrap();
        fs::rename(tree.join("e"), tree.join("d")).unwrap_or_default();
        assert_eq!(fs::read_to_string(tree.join("d/.env")).unwrap(), "secret");
    }
    let sh = |options: &[&str], script: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coracle"));
        command.args(["run", "--log", "error"]).args(options).args(["--", "sh", "-c", script]).current_dir(&tree);
        let output = command.output().unwrap();
        text(&output.stdout) + &text(&output.stderr)
    };
    let null = format!("/dev/null:{tree_shown}/.env");
    let script =
        "cat .env; echo swallowed > .env && cat .env; stat -c '%F %t:%T' .env; mv .env x 2>&1 | grep -c busy";
    let told = sh(&["--write", &tree_text, "--bind", &null], script);
    assert_eq!(told, "character special file 1:3\n1\n");
    assert_eq!(fs::read_to_string(tree.join(".env")).unwrap(), "secret");
    // Nothing is made in what is bound read-only.
    let (read_only, missing) = (format!("{0}:{0}:ro", tree_shown), bind("new"));
    let told = sh(&["--bind", &read_only, "--bind", &missing], "true");
    assert!(
        told.contains("it does not exist, and the directory that it would be in is bound read-only"),
        "{told}"
    );
    assert!(!tree.join("new").exists());
}
