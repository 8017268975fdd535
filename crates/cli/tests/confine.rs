//! The walls around the kernel process: what stands behind them, seen from outside; attempts to get out; the same for
//! an ordinary user.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

mod common;
use common::{Running, text};

/// Nobody: an ordinary user for whom nothing was prepared.
const NOBODY: u32 = 65534;

/// Who runs the command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum User {
    Caller,
    Nobody,
}

/// Both, where we may choose; otherwise the caller is an ordinary user already.
fn users() -> Vec<User> {
    if is_root() { vec![User::Caller, User::Nobody] } else { vec![User::Caller] }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A place for everybody with a copy of the command, which may lie where nobody else may look.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        open(dir.path(), 0o755);
        // By another process: a file that is open for writing in this one, or in a child that another test starts
        // meanwhile, cannot be executed.
        let copy = dir.path().join("coracle");
        let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_coracle")).arg(copy).status().unwrap();
        assert!(copied.success());
        for user in ["Caller", "Nobody"] {
            let own = dir.path().join(user);
            fs::create_dir(&own).unwrap();
            open(&own, 0o700);
            if user == "Nobody" && is_root() {
                std::os::unix::fs::chown(&own, Some(NOBODY), Some(NOBODY)).unwrap();
            }
        }
        Place { dir }
    }

    /// A directory of that user's own.
    fn own(&self, user: User) -> PathBuf {
        self.dir.path().join(format!("{user:?}"))
    }

    fn coracle(&self, user: User, args: &[&str]) -> Command {
        let mut command = Command::new(self.dir.path().join("coracle"));
        command.args(args).env("XDG_RUNTIME_DIR", self.own(user)).env_remove("CORACLE_STARTUP_TRACE");
        command.current_dir("/").stdin(Stdio::null());
        if user == User::Nobody {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    fn output(&self, user: User, args: &[&str]) -> Output {
        self.coracle(user, args).output().unwrap()
    }
}

/// Fields of every thread of a process, as in proc_pid_status(5).
fn threads(pid: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks.map(|task| fs::read_to_string(task.unwrap().path().join("status")).unwrap()).collect()
}

fn field(status: &str, name: &str) -> String {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_default().trim().to_owned()
}

#[test]
fn every_thread_stands_behind_the_filter() {
    let place = Place::new();
    for user in users() {
        // A guest with threads and processes, so that the kernel process has many of its own.
        let script = "sleep 300 & sleep 300 & echo ready; wait";
        let mut command = place.coracle(user, &["run", "--", "sh", "-c", script]);
        let mut running = Running(command.stdout(Stdio::piped()).spawn().unwrap());
        let mut ready = String::new();
        BufReader::new(running.0.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        assert_eq!(ready, "ready\n");
        let threads = threads(running.0.id());
        assert!(threads.len() > 4, "{} threads", threads.len());
        for status in threads {
            let found = ["Seccomp", "NoNewPrivs", "CapEff", "CapPrm"].map(|name| field(&status, name));
            let none = "0000000000000000";
            assert_eq!(found, ["2", "1", none, none], "{user:?}: {}", field(&status, "Name"));
        }
    }
}

#[test]
fn nothing_gets_out() {
    let place = Place::new();
    for user in users() {
        let tried = place.output(user, &["doctor", "--probe", "confine"]);
        let said = text(&tried.stdout);
        assert!(tried.status.success(), "{user:?}: {said}{}", text(&tried.stderr));
        // What needs no particular host.
        for call in ["execve", "fork", "socket of the network", "ptrace", "mount", "bpf", "executable memory"] {
            assert!(said.contains(&format!("{call}: Operation not permitted")), "{user:?}: {said}");
        }
        assert!(said.contains("read a file that was named: done"), "{said}");
    }
}

#[test]
fn a_refused_call_is_named_and_ends_the_process() {
    let place = Place::new();
    let ended = place.output(User::Caller, &["doctor", "--probe", "confine-end"]);
    let said = text(&ended.stderr);
    assert_eq!(ended.status.code(), Some(125), "{said}");
    assert!(said.contains("call 59 (execve), which its filter does not allow"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert_eq!(text(&ended.stdout), "its last words\n");
}

#[test]
fn confinement_can_be_required_and_be_off() {
    let place = Place::new();
    let complete = coracle_platform::probe::landlock_abi().is_ok_and(|version| version >= 6);
    let required = place.output(User::Caller, &["run", "--confine", "required", "--", "echo", "in"]);
    if complete {
        assert_eq!((text(&required.stdout).as_str(), required.status.code()), ("in\n", Some(0)));
    } else {
        assert_eq!(required.status.code(), Some(125));
        assert!(text(&required.stderr).contains("no Landlock"), "{}", text(&required.stderr));
    }
    let off = place.output(User::Caller, &["run", "--confine", "off", "--", "echo", "in"]);
    assert_eq!(text(&off.stdout), "in\n");
}

/// Programs of every kind, run by a user without any right: same output, same status as without Coracle.
#[test]
fn an_ordinary_user_can_do_everything() {
    let place = Place::new();
    let scripts = [
        "echo $((6 * 7)); id -u; cat /etc/hostname >/dev/null; exit 3",
        "seq 20000 | sort -rn | head -3; ls / | wc -l | tr -d 0-9",
        "x=$(mktemp) && echo kept >$x && cat $x && rm $x && mkdir -p /tmp/a/b && mv /tmp/a/b /tmp/a/c && ls /tmp/a; rm -r /tmp/a",
        "trap 'echo caught' TERM; kill -TERM $$; (exit 4); echo $?; kill -KILL $$",
        "for i in 1 2 3 4 5 6 7 8; do (sleep 0.01; echo $i) & done | sort; wait",
        "cat /etc/shadow 2>/dev/null; echo $?",
        "grep -c ^processor /proc/cpuinfo; nproc; sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1",
        "ps -o comm= -p $$; grep -c . /proc/self/maps >/dev/null; tr -d '\\0' </proc/self/comm; cat /proc/$$/stat | wc -w",
        "command -v python3 >/dev/null || exit 0; python3 -c 'import threading, subprocess, json, mmap, os, sqlite3
t = [threading.Thread(target=sum, args=(range(10000),)) for _ in range(8)]
[x.start() for x in t]; [x.join() for x in t]
m = mmap.mmap(-1, 1 << 20); m[:5] = b\"hello\"; print(m[:5], os.getuid())
print(subprocess.run([\"echo\", \"sub\"], capture_output=True).stdout)
c = sqlite3.connect(\":memory:\"); print(c.execute(\"select 40 + 2\").fetchone(), json.dumps({\"a\": [1, None]}))'",
        "command -v perl >/dev/null || exit 0; perl -e 'my $p = fork; if (!$p) { exit 5 } waitpid $p, 0; print $? >> 8, qq(\\n)'",
        "command -v git >/dev/null || exit 0; cd $(mktemp -d) && git init -q . && git -c user.name=a -c user.email=b commit -q --allow-empty -m first && git log --format=%s",
    ];
    for user in users() {
        for script in scripts {
            let mut native = Command::new("sh");
            native
                .args(["-c", script])
                .current_dir("/")
                .env_clear()
                .env("PATH", "/usr/bin:/bin")
                .stdin(Stdio::null());
            if user == User::Nobody {
                native.uid(NOBODY).gid(NOBODY);
            }
            let native = native.output().unwrap();
            let args = ["run", "--env-clear", "--env", "PATH=/usr/bin:/bin", "--", "sh", "-c", script];
            let inside = place.output(user, &args);
            let status = |output: &Output| {
                use std::os::unix::process::ExitStatusExt;
                output.status.code().or(output.status.signal().map(|signal| 128 + signal))
            };
            let (want, got) = ((text(&native.stdout), status(&native)), (text(&inside.stdout), status(&inside)));
            // Root reads /etc/shadow on the host; inside nobody does.
            if !(user == User::Caller && script.contains("shadow") && is_root()) {
                assert_eq!(got, want, "{user:?}: {script}\n{}", text(&inside.stderr));
            }
        }
        // What it may change, and what it wrote, reach the host as its own files.
        let own = place.own(user);
        let out = own.join("out");
        let script = format!(
            "echo one >{0}/one && mkdir {0}/d && mv {0}/one {0}/d/two && chmod 600 {0}/d/two && echo x >/srv-x; mkdir /made; echo y >/made/y",
            own.display()
        );
        let args = [
            "run",
            "--write",
            own.to_str().unwrap(),
            "--save",
            out.to_str().unwrap(),
            "--diff",
            "--user",
            "0",
            "--",
            "sh",
            "-c",
            &script,
        ];
        let wrote = place.output(user, &args);
        assert!(wrote.status.success(), "{user:?}: {}", text(&wrote.stderr));
        assert_eq!(fs::read_to_string(own.join("d/two")).unwrap(), "one\n");
        assert_eq!(fs::metadata(own.join("d/two")).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_to_string(out.join("made/y")).unwrap(), "y\n", "{}", text(&wrote.stderr));
        assert!(text(&wrote.stderr).contains("A /made/y"), "{}", text(&wrote.stderr));
    }
}

#[test]
fn an_ordinary_user_reaches_a_running_sandbox() {
    let place = Place::new();
    for user in users() {
        let mut command =
            place.coracle(user, &["run", "--timeout", "200s", "--", "sh", "-c", "echo ready; sleep 300"]);
        let mut running = Running(command.stdout(Stdio::piped()).spawn().unwrap());
        BufReader::new(running.0.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
        let listed = (0..500).find_map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            text(&place.output(user, &["ps", "-q"]).stdout).lines().next().map(str::to_owned)
        });
        let id = listed.expect("it is never listed");
        let socket = fs::metadata(place.own(user).join(format!("coracle/{id}.sock"))).unwrap();
        assert_eq!(socket.permissions().mode() & 0o777, 0o600);
        let inside = place.output(user, &["exec", &id, "--", "sh", "-c", "echo $((1 + 1)) | cat; exit 9"]);
        assert_eq!(
            (text(&inside.stdout).as_str(), inside.status.code()),
            ("2\n", Some(9)),
            "{}",
            text(&inside.stderr)
        );
        assert!(place.output(user, &["kill", &id]).status.success());
        running.0.wait().unwrap();
        assert!(!place.own(user).join(format!("coracle/{id}.sock")).exists(), "its socket is left behind");
    }
}

/// A home is private wherever it lies; what lies beside it is shown.
#[test]
fn homes_outside_of_home_are_hidden() {
    if !is_root() {
        return println!("skipped: needs root to give a directory to somebody else");
    }
    let place = Place::new();
    let homes = tempfile::tempdir_in("/opt").unwrap();
    common::open_to_all(homes.path());
    for name in ["own", "other"] {
        let home = homes.path().join(name);
        fs::create_dir(&home).unwrap();
        fs::write(home.join("file"), name).unwrap();
        common::open_to_all(&home);
    }
    std::os::unix::fs::chown(homes.path().join("own"), Some(NOBODY), Some(NOBODY)).unwrap();
    let script = format!("cd {}; ls own; cat other/file; cat own/file", homes.path().display());
    let mut command = place.coracle(User::Nobody, &["run", "--", "sh", "-c", &script]);
    let output = command.env("HOME", homes.path().join("own")).output().unwrap();
    assert_eq!(
        (text(&output.stdout).as_str(), output.status.code()),
        ("other", Some(1)),
        "{}",
        text(&output.stderr)
    );
}
