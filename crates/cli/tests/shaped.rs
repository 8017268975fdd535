//! What guests have shaped (trees, names, archives) costs no more than it may, and passes for nothing else.

mod common;

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::{Running, Source, compiled, inside, open_to_all, text};

fn program() -> Option<(tempfile::TempDir, PathBuf)> {
    compiled(&["-O1", "-static"], Source::File("tests/hostile/shaped.c"))
}

fn run(program: &Path, options: &[&str], args: &[&str]) -> Output {
    let options = [&["--user", "0", "--timeout", "100s"], options].concat();
    inside(program.parent().unwrap(), &options, program).args(args).output().unwrap()
}

fn done(output: &Output, status: i32) -> String {
    let said = text(&output.stderr);
    let end: String = said.chars().skip(said.chars().count().saturating_sub(600)).collect();
    assert_eq!((text(&output.stdout).as_str(), output.status.code()), ("done\n", Some(status)), "{end}");
    said
}

/// What the process has taken at most, in KiB.
fn peak(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The standard library holds a descriptor for each level.
fn remove(directory: tempfile::TempDir) {
    assert!(Command::new("rm").arg("-rf").arg(directory.keep()).status().unwrap().success());
}

/// As a list of full paths this would be 1.1 GB.
#[test]
fn a_deep_tree_is_listed_as_far_as_there_is_room() {
    let Some((_dir, program)) = program() else { return };
    let options = ["--user", "0", "--memory", "64M", "--diff"];
    let mut command = inside(program.parent().unwrap(), &options, &program);
    command.args(["deep", "/opt", "3000", "255"]).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = Running(command.spawn().unwrap());
    let mut error = child.0.stderr.take().unwrap();
    // It waits for somebody to read on when it has come far.
    let mut said = vec![0; 15 << 20];
    error.read_exact(&mut said).unwrap();
    let peak = peak(child.0.id());
    error.read_to_end(&mut said).unwrap();
    assert_eq!(child.0.wait().unwrap().code(), Some(125));
    assert!(peak < 64 << 10, "{peak} KiB");
    assert!(said.len() <= (16 << 20) + 1000, "{} bytes", said.len());
    let last = text(said.rsplit(|byte| *byte == b'\n').nth(1).unwrap());
    assert!(last.starts_with("coracle: --diff stopped at /opt/ddd"), "{last}");
    assert!(last.ends_with("it is as long as it may be (--diff-limit); the rest is missing"), "{last}");
}

#[test]
fn a_wide_tree_is_listed_as_far_as_there_is_room() {
    let Some((_dir, program)) = program() else { return };
    let said = done(&run(&program, &["--diff", "--diff-limit", "64K"], &["wide", "/opt", "50000"]), 125);
    let lines: Vec<_> = said.lines().filter(|line| line.starts_with("A /opt/n")).collect();
    let bytes: usize = lines.iter().map(|line| line.len() + 1).sum();
    assert!((60_000..=64 << 10).contains(&bytes), "{bytes} bytes");
    assert!(lines.is_sorted(), "in order");
    assert!(said.ends_with("(--diff-limit); the rest is missing\n"));
    // With more room all are there.
    let said = done(&run(&program, &["--diff", "--diff-limit", "2M"], &["wide", "/opt", "50000"]), 0);
    assert_eq!(said.lines().filter(|line| line.starts_with("A /opt/n")).count(), 50_000);
}

/// No path leads to its end: it is taken out level by level.
#[test]
fn a_deep_tree_is_taken_out() {
    use rustix::fs::{CWD, Mode, OFlags, openat};
    let Some((_dir, program)) = program() else { return };
    let out = tempfile::tempdir_in("/tmp").unwrap();
    let save = out.path().to_str().unwrap();
    done(&run(&program, &["--memory", "64M", "--save", save], &["deep", "/opt", "1500", "255"]), 0);
    let open = |at: &dyn std::os::fd::AsFd, name: &Path| {
        openat(at.as_fd(), name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap()
    };
    let mut at = open(&CWD, &out.path().join("opt"));
    for _ in 0..1500 {
        open(&at, Path::new("f"));
        at = open(&at, Path::new(&"d".repeat(255)));
    }
    drop(at);
    remove(out);
}

#[test]
fn a_copy_ends_where_it_must_and_says_so() {
    let Some((_dir, program)) = program() else { return };
    for (option, value, limit) in
        [("--save-limit", "1M", "--save-limit"), ("--report-timeout", "0s", "--report-timeout")]
    {
        let out = tempfile::tempdir_in("/tmp").unwrap();
        let save = out.path().to_str().unwrap();
        let said = done(&run(&program, &["--save", save, option, value], &["wide", "/opt", "5000"]), 125);
        let last = said.lines().last().unwrap();
        assert!(last.starts_with("coracle: --save stopped at /opt"), "{last}");
        assert!(last.ends_with(&format!("({limit}); the rest is missing")), "{last}");
        let there = fs::read_dir(out.path().join("opt")).map_or(0, |list| list.count());
        assert!(there < 2000, "{there}");
    }
    // What --disk grants can be taken out.
    let out = tempfile::tempdir_in("/tmp").unwrap();
    let save = out.path().to_str().unwrap();
    done(&run(&program, &["--save", save, "--disk", "8M"], &["wide", "/opt", "5000"]), 0);
    assert_eq!(fs::read_dir(out.path().join("opt")).unwrap().count(), 5000);
}

fn is_tame(said: &str) -> bool {
    said.chars().all(|c| c == '\n' || !c.is_control() && !matches!(c, '\u{202a}'..='\u{202e}'))
}

#[test]
fn names_say_nothing_else() {
    let Some((_dir, program)) = program() else { return };
    let said = done(&run(&program, &["--diff"], &["names", "/opt"]), 0);
    assert!(is_tame(&said), "{said:?}");
    let mut lines: Vec<_> = said.lines().filter(|line| line.starts_with("A ")).collect();
    lines.sort_unstable();
    let expected = [
        "A /opt/\\033]0;owned\\a\\033[31mred",
        "A /opt/\\302\\23331m",
        "A /opt/\\342\\200\\256txt",
        "A /opt/\\377",
        "A /opt/\\b\\b\\b\\r",
        "A /opt/a\\ b\\\\",
        "A /opt/x\\nD\\ etc",
    ];
    assert_eq!(lines, expected);
    assert_eq!(said.lines().filter(|line| line.starts_with("D ")).count(), 0);
}

/// Where a program is not there, where it is none, and in a line for programs.
#[test]
fn words_of_errors_say_nothing_else() {
    for (name, shown) in [("no\x1b[2J", "no\\033[2J: "), ("/no\nx\u{9b}y", "/no\\nx\\302\\233y: ")] {
        for options in [&[][..], &["--json"]] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_coracle"));
            let output = command.arg("run").args(options).args(["--", name]).output().unwrap();
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(127), "{said}");
            assert!(is_tame(&said) && said.contains(shown), "{said:?}");
        }
    }
}

/// The copy of the current directory's tree does not go where a link of the guest leads.
#[test]
fn a_copy_follows_no_link_of_the_guest() {
    let Some((_dir, program)) = program() else { return };
    // Hidden from guests, but for a current directory in it.
    let Ok(place) = tempfile::tempdir_in("/run") else { return eprintln!("skipped: needs a writable /run") };
    open_to_all(place.path());
    // With the walls around the kernel process and without.
    for confine in ["auto", "off"] {
        let (out, elsewhere) = (tempfile::tempdir_in("/tmp").unwrap(), tempfile::tempdir_in("/tmp").unwrap());
        let save = out.path().to_str().unwrap();
        let options = ["--user", "0", "--confine", confine, "--save", save];
        let mut command = inside(program.parent().unwrap(), &options, &program);
        command.args(["diverted", "/run"]).arg(elsewhere.path()).current_dir(place.path());
        let said = done(&command.output().unwrap(), 125);
        assert!(said.contains("--save stopped at") && said.contains("; the rest is missing"), "{said}");
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
        assert!(fs::symlink_metadata(out.path().join("run")).unwrap().is_symlink());
    }
}

/// A directory of the host that was deep is let go without a stack as deep.
#[test]
fn a_deep_tree_of_the_host_is_let_go() {
    let Some((_dir, program)) = program() else { return };
    let tree = tempfile::tempdir_in("/tmp").unwrap();
    let path = tree.path().to_str().unwrap();
    done(&run(&program, &["--write", path], &["gone", path, "4000"]), 0);
    done(&run(&program, &[], &["gone", "/opt", "20000"]), 0);
    done(&run(&program, &[], &["gone", "/var/tmp", "20000"]), 0);
    remove(tree);
}

/// A small archive that unpacks to much: contents, holes, and names.
#[test]
fn an_archive_unpacks_to_what_fits() {
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    let sh = |script: &str| {
        assert!(
            Command::new("sh").args(["-c", script]).current_dir(dir.path()).status().unwrap().success(),
            "{script}"
        );
    };
    sh("truncate -s 400M z; tar cf - z | gzip -1 >zeros.tar.gz; tar -S -cf holes.tar z");
    sh("mkdir n; cd n; seq 20000 | xargs touch; cd ..; tar czf names.tar.gz n");
    let unpack = |archive: &str, options: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coracle"));
        command.arg("run").args(options).arg("--rootfs").arg(dir.path().join(archive)).args(["--", "/nothing"]);
        let output = command.output().unwrap();
        (output.status.code(), text(&output.stderr))
    };
    assert!(fs::metadata(dir.path().join("zeros.tar.gz")).unwrap().size() < 4 << 20);
    for (archive, options, told) in [
        ("zeros.tar.gz", &["--memory", "64M", "--disk", "10M"][..], "more than 10485760 bytes (--disk)"),
        ("zeros.tar.gz", &["--memory", "64M"], "more than 67108864 bytes (--memory)"),
        ("zeros.tar.gz", &["--memory", "64M", "--disk", "1G"], "more than 67108864 bytes (--memory)"),
        ("names.tar.gz", &["--disk", "10M"], "more than 10485760 bytes (--disk)"),
    ] {
        let (status, said) = unpack(archive, options);
        assert_eq!(status, Some(125), "{said}");
        assert!(said.contains("it does not fit: it unpacks to") && said.contains(told), "{said}");
    }
    // Holes are none, and what fits is there: but not that program.
    for (archive, options) in [("holes.tar", &["--disk", "1M"][..]), ("names.tar.gz", &["--disk", "20M"])] {
        let (status, said) = unpack(archive, options);
        assert_eq!(status, Some(127), "{said}");
    }
}
