//! One case: run natively, run inside in a fresh copy of the same directory, compare.

use crate::case::Case;
use crate::exec::{self, End, Outcome};
use crate::target::Target;
use crate::tree::Tree;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a run leaves behind.
struct Run {
    outcome: Outcome,
    tree: Tree,
    command: String,
}

pub(crate) fn run(case: &Case, guest: Option<&Path>, target: &Target) -> Result<(), String> {
    // The same path for both runs, because programs print it; the name is short because sun_path is.
    let name = case.name.replace("::", "-").replace('/', "_");
    let bench = Bench { case, guest, target, dir: target.scratch.join(name) };
    let result = bench.compare();
    if !target.keep {
        let _ = remove(&bench.dir);
    }
    result
}

/// Everything about a case that its runs share.
struct Bench<'a> {
    case: &'a Case,
    guest: Option<&'a Path>,
    target: &'a Target,
    dir: PathBuf,
}

impl Bench<'_> {
    fn compare(&self) -> Result<(), String> {
        let name = &self.case.name;
        let native = self.perform(false)?;
        if let End::Hang(report) = &native.outcome.end {
            let tail = tail(&native.outcome);
            return Err(format!("{name} hangs natively:\n{report}{tail}"));
        }
        if native.outcome.orphans {
            return Err(format!("{name} leaves processes behind natively"));
        }
        for round in 0..self.target.repeat {
            let second = self.perform(!self.target.is_native())?;
            let text = differences(&native, &second, self.target);
            if !text.is_empty() {
                let again = match round {
                    0 => String::new(),
                    n => format!(" in round {n}"),
                };
                let tail = tail(&second.outcome);
                let command = second.command;
                return Err(format!("{name} differs{again}\n$ {command}\n{text}{tail}"));
            }
        }
        Ok(())
    }

    fn perform(&self, inside: bool) -> Result<Run, String> {
        let failed = |what: &str, error: io::Error| format!("cannot {what}: {error}");
        let stdin = self.dir.with_extension("stdin");
        set_up(self.case, self.guest, &self.dir, &stdin).map_err(|e| failed("prepare the directory", e))?;
        let mut command = if inside {
            inside_command(self.case, self.target, &self.dir)
        } else {
            native_command(self.case, self.target, &self.dir)
        };
        let shown = show(&command);
        command.stdin(match File::open(&stdin) {
            Ok(file) => Stdio::from(file),
            Err(_) => Stdio::null(),
        });
        let outcome = exec::run(command, self.case.timeout.saturating_mul(self.target.long))
            .map_err(|e| failed(&format!("run {shown}"), e))?;
        let _ = fs::remove_file(stdin);
        if self.target.keep {
            let kept = self.dir.with_extension(if inside { "inside" } else { "native" });
            let _ = fs::write(kept, &outcome.stdout);
        }
        let mut tree = Tree::read(&self.dir).map_err(|e| failed("read the tree that is left", e))?;
        tree.forget(&self.case.may_differ);
        Ok(Run { outcome, tree, command: shown })
    }
}

fn set_up(case: &Case, guest: Option<&Path>, dir: &Path, input: &Path) -> io::Result<()> {
    remove(dir)?;
    fs::DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    for file in &case.files {
        let path = dir.join(&file.path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, file.content.bytes())?;
        fs::set_permissions(&path, fs::Permissions::from_mode(file.mode))?;
    }
    if let (Some(built), Some(guest)) = (guest, &case.guest) {
        fs::copy(built, dir.join(guest.name()))?;
    }
    if let Some(content) = &case.stdin {
        fs::write(input, content.bytes())?;
    }
    Ok(())
}

/// Removes a tree in which a program may have taken away its own rights.
fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            let _ = Command::new("/bin/chmod").arg("-R").arg("u+rwX").arg(dir).status();
            fs::remove_dir_all(dir)
        }
        other => other,
    }
}

fn environment(case: &Case, target: &Target, dir: &Path) -> Vec<(String, String)> {
    let mut env: Vec<(String, String)> =
        [("PATH", "/usr/bin:/bin:/usr/sbin:/sbin"), ("LC_ALL", "C.UTF-8"), ("TZ", "UTC"), ("TERM", "dumb")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
    env.push(("HOME".to_owned(), dir.to_string_lossy().into_owned()));
    env.extend(case.env.iter().cloned());
    if target.long > 1 {
        env.push(("CORACLE_TEST_LONG".to_owned(), target.long.to_string()));
    }
    env
}

fn native_command(case: &Case, target: &Target, dir: &Path) -> Command {
    let (program, args) = case.argv.split_first().map_or(("", &[][..]), |(p, a)| (p.as_str(), a));
    let mut command = Command::new(program);
    command.args(args).current_dir(dir).env_clear();
    command.envs(environment(case, target, dir));
    command
}

fn inside_command(case: &Case, target: &Target, dir: &Path) -> Command {
    let mut command = Command::new(&target.coracle);
    command.arg("run").arg("--json");
    if target.platform != "auto" {
        command.arg("--platform").arg(&target.platform);
    }
    command.arg("--write").arg(dir).arg("--workdir").arg(dir).arg("--env-clear");
    for (key, value) in environment(case, target, dir) {
        command.arg("--env").arg(format!("{key}={value}"));
    }
    command.args(&target.options).args(&case.options).arg("--").args(&case.argv);
    command.current_dir(dir);
    command
}

/// A command line to paste into a shell.
fn show(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| {
            let word = word.to_string_lossy();
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@+".contains(c);
            if !word.is_empty() && word.chars().all(plain) {
                word.into_owned()
            } else {
                format!("'{}'", word.replace('\'', r"'\''"))
            }
        })
        .collect::<Vec<_>>()
        .join(" ")
}

fn differences(native: &Run, second: &Run, target: &Target) -> String {
    let names = ("native", if target.is_native() { "again" } else { "inside" });
    let mut out = String::new();
    let (a, b) = (&native.outcome, &second.outcome);
    match (&a.end, &b.end) {
        (x, y) if x == y => {}
        (_, End::Hang(report)) => {
            let _ = writeln!(out, "{} hangs; its tasks when the time was up:\n{report}", names.1);
        }
        (End::Status(x), End::Status(y)) => {
            let (x, y) = (status(*x), status(*y));
            let _ = writeln!(out, "exit status: {} {x}, {} {y}", names.0, names.1);
        }
        (End::Hang(_), End::Status(_)) => {}
    }
    if a.stdout != b.stdout {
        let _ = writeln!(out, "stdout ({} '-', {} '+'):", names.0, names.1);
        out += &line_diff(&a.stdout, &b.stdout);
    }
    if a.orphans != b.orphans {
        let _ = writeln!(out, "left processes behind: {} {}, {} {}", names.0, a.orphans, names.1, b.orphans);
    }
    let trees = native.tree.diff(&second.tree, names);
    if !trees.is_empty() {
        let _ = writeln!(out, "files:\n{}", clip(&trees, 40));
    }
    out
}

fn status(code: i32) -> String {
    match code {
        129..=192 => format!("{code} (signal {})", code - 128),
        _ => code.to_string(),
    }
}

/// The lines that differ, each with its number, and a little context.
fn line_diff(native: &[u8], inside: &[u8]) -> String {
    const SHOWN: usize = 60;
    let split = |bytes: &[u8]| -> Vec<String> {
        bytes.split_inclusive(|&b| b == b'\n').map(|l| l.escape_ascii().to_string()).collect()
    };
    let (a, b) = (split(native), split(inside));
    let mut out = String::new();
    let mut shown = 0;
    let mut context: Option<(usize, &String)> = None;
    for (number, mark, line) in edits(&a, &b) {
        if mark == ' ' {
            context = Some((number, line));
            continue;
        }
        if shown == SHOWN {
            out += "        … and more\n";
            break;
        }
        shown += 1;
        if let Some((number, line)) = context.take() {
            let _ = writeln!(out, "  {number:>5}   {}", line.chars().take(300).collect::<String>());
        }
        let _ = writeln!(out, "  {number:>5} {mark} {}", line.chars().take(300).collect::<String>());
    }
    out
}

/// A longest common subsequence of what lies between the common start and the common end; where that would
/// be large, all of it counts as different.
fn edits<'a>(a: &'a [String], b: &'a [String]) -> Vec<(usize, char, &'a String)> {
    const LARGE: usize = 4 << 20;
    let head = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let most = a.len().min(b.len()) - head;
    let foot = a.iter().rev().zip(b.iter().rev()).take(most).take_while(|(x, y)| x == y).count();
    let (x, y) = (&a[head..a.len() - foot], &b[head..b.len() - foot]);
    let mut all: Vec<_> = a.iter().take(head).enumerate().map(|(i, l)| (i + 1, ' ', l)).collect();
    let width = y.len() + 1;
    let mut length = vec![0u32; if x.len() * y.len() < LARGE { (x.len() + 1) * width } else { 0 }];
    if !length.is_empty() {
        for i in (0..x.len()).rev() {
            for j in (0..y.len()).rev() {
                length[i * width + j] = if x[i] == y[j] {
                    length[(i + 1) * width + j + 1] + 1
                } else {
                    length[(i + 1) * width + j].max(length[i * width + j + 1])
                };
            }
        }
    }
    let at = |i: usize, j: usize| length.get(i * width + j).copied().unwrap_or_default();
    let (mut i, mut j) = (0, 0);
    while i < x.len() || j < y.len() {
        if i < x.len() && j < y.len() && !length.is_empty() && x[i] == y[j] {
            all.push((head + i + 1, ' ', &x[i]));
            (i, j) = (i + 1, j + 1);
        } else if i < x.len() && (j == y.len() || at(i + 1, j) >= at(i, j + 1)) {
            all.push((head + i + 1, '-', &x[i]));
            i += 1;
        } else {
            all.push((head + j + 1, '+', &y[j]));
            j += 1;
        }
    }
    all
}

fn clip(text: &str, lines: usize) -> String {
    let mut shown: Vec<&str> = text.lines().take(lines).collect();
    if text.lines().count() > lines {
        shown.push("  …");
    }
    shown.join("\n")
}

fn tail(outcome: &Outcome) -> String {
    let text = String::from_utf8_lossy(&outcome.stderr);
    let lines: Vec<&str> = text.lines().collect();
    let start = lines.len().saturating_sub(30);
    let shown = lines.get(start..).unwrap_or_default().join("\n  ");
    match shown.as_str() {
        "" => "(nothing on stderr)\n".to_owned(),
        shown => format!("stderr, last lines:\n  {shown}\n"),
    }
}
