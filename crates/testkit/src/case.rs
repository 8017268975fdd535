//! What a case is: a program, its input, and what may differ between two runs of it.

use crate::guests::Guest;
use crate::input::Content;
use std::path::Path;
use std::time::Duration;

/// A Debian package and the file that shows it is installed.
#[derive(Clone, Copy, Debug)]
pub struct Package {
    pub name: &'static str,
    pub proof: &'static str,
}

impl Package {
    pub const fn new(name: &'static str, proof: &'static str) -> Self {
        Package { name, proof }
    }

    pub fn is_installed(&self) -> bool {
        Path::new(self.proof).exists()
    }
}

/// An input file, made anew before each run.
#[derive(Clone, Debug)]
pub(crate) struct InputFile {
    pub path: String,
    pub content: Content,
    pub mode: u32,
}

/// One program with its input. `Case::sh("group::name", script)` is a whole case; the rest is optional.
#[derive(Clone, Debug)]
pub struct Case {
    pub(crate) name: String,
    pub(crate) argv: Vec<String>,
    pub(crate) files: Vec<InputFile>,
    pub(crate) stdin: Option<Content>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) needs: Vec<Package>,
    pub(crate) guest: Option<Guest>,
    pub(crate) may_differ: Vec<String>,
    pub(crate) timeout: Duration,
    pub(crate) expected_failure: Option<String>,
    pub(crate) dumps_core: bool,
    pub(crate) options: Vec<String>,
}

impl Case {
    /// `argv[0]` is an absolute path, or starts with `./` and names an input file or the guest program.
    pub fn new(name: impl Into<String>, argv: &[&str]) -> Self {
        Case {
            name: name.into(),
            argv: argv.iter().map(|&a| a.to_owned()).collect(),
            files: Vec::new(),
            stdin: None,
            env: Vec::new(),
            needs: Vec::new(),
            guest: None,
            may_differ: Vec::new(),
            timeout: Duration::from_secs(30),
            expected_failure: None,
            dumps_core: false,
            options: Vec::new(),
        }
    }

    /// A script for the system's `/bin/sh`.
    pub fn sh(name: impl Into<String>, script: &str) -> Self {
        Case::new(name, &["/bin/sh", "-c", script])
    }

    /// A script for `/bin/bash`.
    pub fn bash(name: impl Into<String>, script: &str) -> Self {
        Case::new(name, &["/bin/bash", "-c", script]).needs(Package::new("bash", "/bin/bash"))
    }

    /// A Python script, run from a file so that its tracebacks have lines.
    pub fn python(name: impl Into<String>, script: &str) -> Self {
        Case::new(name, &["/usr/bin/python3", "script.py"])
            .file("script.py", script)
            .needs(Package::new("python3", "/usr/bin/python3"))
    }

    /// A program of `guests/`, compiled by the testkit and copied into the case's directory as `./NAME`.
    pub fn guest(name: impl Into<String>, guest: Guest, args: &[&str]) -> Self {
        let program = format!("./{}", guest.name());
        let mut case = Case::new(name, &[]);
        case.argv = std::iter::once(program).chain(args.iter().map(|&a| a.to_owned())).collect();
        case.guest = Some(guest);
        case
    }

    /// This script runs instead, beside the program.
    pub fn script(mut self, script: &str) -> Self {
        self.argv = ["/bin/sh", "-c", script].map(str::to_owned).into();
        self
    }

    /// Adds an input file, mode 644. The path is relative; missing directories are made.
    pub fn file(self, path: &str, content: impl Into<Content>) -> Self {
        self.file_mode(path, content, 0o644)
    }

    pub fn file_mode(mut self, path: &str, content: impl Into<Content>, mode: u32) -> Self {
        self.files.push(InputFile { path: path.to_owned(), content: content.into(), mode });
        self
    }

    /// 48 files with text in 9 directories, 120 KiB in all, with differing modes.
    pub fn file_tree(mut self, root: &str) -> Self {
        for i in 0..48usize {
            let path = match i % 9 {
                0 => format!("{root}/f{i}.txt"),
                d @ 1..=4 => format!("{root}/d{d}/f{i}.txt"),
                d => format!("{root}/d1/deep{d}/f{i}.dat"),
            };
            let mode = [0o644, 0o600, 0o755, 0o440][i % 4];
            self = self.file_mode(&path, Content::Text(1 + i % 4), mode);
        }
        self
    }

    /// What the program reads from standard input (empty otherwise).
    pub fn stdin(mut self, content: impl Into<Content>) -> Self {
        self.stdin = Some(content.into());
        self
    }

    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Without the package the case is skipped, and the skip names it.
    pub fn needs(mut self, package: Package) -> Self {
        self.needs.push(package);
        self
    }

    /// A path (relative) whose content may differ between two native runs: it must exist in both trees.
    /// Everything below a directory named with a final `/` may differ, and may be missing.
    pub fn may_differ(mut self, path: &str) -> Self {
        self.may_differ.push(path.to_owned());
        self
    }

    pub fn timeout(mut self, seconds: u64) -> Self {
        self.timeout = Duration::from_secs(seconds);
        self
    }

    /// More options for `coracle run`.
    pub fn options(mut self, options: &[String]) -> Self {
        self.options.extend_from_slice(options);
        self
    }

    /// Its native run looks for a core in the current directory. Where the host sends cores is the host's to say,
    /// so the case is skipped if that is elsewhere.
    pub fn dumps_core(mut self) -> Self {
        self.dumps_core = true;
        self
    }

    /// The case is known to fail inside, for this reason. Passing is then a failure, so that the mark goes.
    pub fn expected_failure(mut self, reason: &str) -> Self {
        self.expected_failure = Some(reason.to_owned());
        self
    }
}
