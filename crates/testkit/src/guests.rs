//! Compiles the programs of `guests/` into `target/guests`, each once, and finds the C fixtures.

use crate::case::{Case, Package};
use crate::target::{repository, target_dir};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

/// How a C program is linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Variant {
    /// glibc, dynamic, position-independent: the default of the system's compiler.
    Dynamic,
    /// glibc, static, not position-independent.
    Static,
    /// glibc, static and position-independent.
    StaticPie,
    /// musl, static.
    Musl,
}

/// A program of `guests/`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Guest {
    /// `guests/DIR/NAME.c`
    C { dir: String, name: String, variant: Variant, libraries: Vec<String> },
    /// The binary NAME of the nested workspace `guests/rust`.
    Rust { name: String },
    /// `guests/go/NAME.go`
    Go { name: String },
}

#[derive(Clone, Debug)]
pub(crate) enum BuildError {
    /// A reason to skip.
    NoCompiler(String),
    /// A reason to fail: what the compiler said.
    Failed(String),
}

type Built = Result<PathBuf, BuildError>;

impl Guest {
    pub fn name(&self) -> &str {
        match self {
            Guest::C { name, .. } | Guest::Rust { name } | Guest::Go { name } => name,
        }
    }

    /// The path of the compiled program. Every caller waits for the one build.
    pub(crate) fn build(&self) -> Built {
        static BUILT: Mutex<Option<HashMap<Guest, Arc<OnceLock<Built>>>>> = Mutex::new(None);
        let cell = {
            let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(built.get_or_insert_default().entry(self.clone()).or_default())
        };
        cell.get_or_init(|| self.compile()).clone()
    }

    fn compile(&self) -> Built {
        let out = target_dir().join("guests");
        let fail = |e: io::Error| BuildError::Failed(format!("cannot build {}: {e}", self.name()));
        match self {
            Guest::C { dir, name, variant, libraries } => {
                let dir = repository().join("guests").join(dir);
                let source = dir.join(format!("{name}.c"));
                let binary = out.join(format!("c/{name}-{variant:?}"));
                fs::create_dir_all(out.join("c")).map_err(fail)?;
                if is_newer(&binary, &[&source, &dir.join("fixture.h")]) {
                    return Ok(binary);
                }
                let fresh = out.join(format!("c/.{name}-{variant:?}.{}", std::process::id()));
                let mut cc = variant.compiler()?;
                cc.args(["-O1", "-g", "-Wall", "-Wextra", "-pthread", "-D_GNU_SOURCE", "-o"]);
                run(cc.arg(&fresh).arg(source).args(libraries))?;
                // Renamed when whole: another test process may be building it, too.
                fs::rename(fresh, &binary).map_err(fail)?;
                Ok(binary)
            }
            Guest::Rust { name } => {
                let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
                let mut build = Command::new(cargo);
                build.args(["build", "--quiet", "--release", "--offline", "--bin", name]);
                build.arg("--manifest-path").arg(repository().join("guests/rust/Cargo.toml"));
                build.arg("--target-dir").arg(out.join("rust"));
                run(&mut build)?;
                Ok(out.join("rust/release").join(name))
            }
            Guest::Go { name } => {
                let go = Path::new("/usr/bin/go");
                if !go.exists() {
                    return Err(no_compiler(go, "golang-go"));
                }
                let binary = out.join("go").join(name);
                let mut build = Command::new(go);
                build.env("GOCACHE", out.join("go/cache")).env("GO111MODULE", "off");
                build.env("CGO_ENABLED", "0").args(["build", "-o"]).arg(&binary);
                run(build.arg(repository().join(format!("guests/go/{name}.go"))))?;
                Ok(binary)
            }
        }
    }
}

impl Variant {
    fn compiler(self) -> Result<Command, BuildError> {
        let (path, package, flags): (_, _, &[&str]) = match self {
            Variant::Dynamic => ("/usr/bin/cc", "gcc", &[]),
            Variant::Static => ("/usr/bin/cc", "gcc", &["-static", "-no-pie"]),
            Variant::StaticPie => ("/usr/bin/cc", "gcc", &["-static-pie", "-fPIE"]),
            // Headers that musl leaves to the kernel (linux/futex.h) come from the system's, after musl's own.
            Variant::Musl => (
                "/usr/bin/musl-gcc",
                "musl-tools",
                &["-static", "-idirafter", "/usr/include", "-idirafter", "/usr/include/x86_64-linux-gnu"],
            ),
        };
        if !Path::new(path).exists() {
            return Err(no_compiler(Path::new(path), package));
        }
        let mut command = Command::new(path);
        command.args(flags);
        Ok(command)
    }

    fn from_word(word: &str) -> Option<Variant> {
        match word {
            "dynamic" => Some(Variant::Dynamic),
            "static" => Some(Variant::Static),
            "static-pie" => Some(Variant::StaticPie),
            "musl" => Some(Variant::Musl),
            _ => None,
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Variant::Dynamic => "",
            Variant::Static => "@static",
            Variant::StaticPie => "@static-pie",
            Variant::Musl => "@musl",
        }
    }
}

fn no_compiler(path: &Path, package: &str) -> BuildError {
    BuildError::NoCompiler(format!("needs {} from Debian package {package}", path.display()))
}

fn run(command: &mut Command) -> Result<(), BuildError> {
    let output = command.output().map_err(|e| BuildError::Failed(format!("cannot run {command:?}: {e}")))?;
    if output.status.success() {
        return Ok(());
    }
    let log = String::from_utf8_lossy(&output.stderr);
    Err(BuildError::Failed(format!("{command:?}\n{log}")))
}

fn is_newer(binary: &Path, sources: &[&Path]) -> bool {
    let time = |path: &Path| fs::metadata(path).and_then(|m| m.modified()).ok();
    let newest = sources.iter().filter_map(|s| time(s)).max();
    time(binary).is_some_and(|t| newest.unwrap_or(SystemTime::UNIX_EPOCH) < t)
}

/// What the head of a fixture says. Each `CASE(name)` in it is one test, for each variant.
///
/// Lines of the head comment: `build: dynamic static musl` (default: dynamic), `libs: -lrt`,
/// `timeout: 60`, `needs: PACKAGE FILE` (one package, and a file of it), `cores: yes` where cores must come
/// to lie where they are looked for, `options: --net host` (for `coracle run`), and for known failures
/// `fails: CASE REASON`.
struct Head {
    variants: Vec<Variant>,
    libraries: Vec<String>,
    timeout: u64,
    cores: bool,
    options: Vec<String>,
    needs: Option<Package>,
    cases: Vec<String>,
    fails: HashMap<String, String>,
}

impl Head {
    fn parse(source: &str) -> Result<Head, String> {
        let mut head = Head {
            variants: Vec::new(),
            libraries: Vec::new(),
            timeout: 30,
            cores: false,
            options: Vec::new(),
            needs: None,
            cases: Vec::new(),
            fails: HashMap::new(),
        };
        let comment = source.split("*/").next().unwrap_or_default();
        for line in comment.lines().map(|l| l.trim_start_matches([' ', '*', '/'])) {
            if line.contains(". build: ") {
                return Err("`build:` is not at the beginning of its line".to_owned());
            }
            let Some((key, value)) = line.split_once(':') else {
                continue;
            };
            let words = value.split_whitespace();
            match key {
                "build" => {
                    for word in words {
                        let variant = Variant::from_word(word);
                        head.variants.push(variant.ok_or(format!("unknown variant {word}"))?);
                    }
                }
                "libs" => head.libraries = words.map(str::to_owned).collect(),
                "needs" => {
                    let (name, proof) = value.trim().split_once(' ').ok_or("needs: no file")?;
                    // As long-lived as the tables of programs are.
                    head.needs = Some(Package::new(name.to_owned().leak(), proof.trim().to_owned().leak()));
                }
                "cores" => head.cores = value.trim() == "yes",
                "options" => head.options = words.map(str::to_owned).collect(),
                "timeout" => head.timeout = value.trim().parse().map_err(|_| "bad timeout")?,
                "fails" => {
                    let (case, reason) = value.trim().split_once(' ').ok_or("fails: no reason")?;
                    head.fails.insert(case.to_owned(), reason.to_owned());
                }
                _ => {}
            }
        }
        if head.variants.is_empty() {
            head.variants.push(Variant::Dynamic);
        }
        for line in source.lines() {
            if let Some(rest) = line.strip_prefix("CASE(") {
                let name = rest.split(')').next().unwrap_or_default();
                head.cases.push(name.to_owned());
            }
        }
        Ok(head)
    }
}

/// Every case of every fixture: `FILE::CASE`, with `@static` and so on for the other variants.
///
/// # Errors
/// A fixture that cannot be read, whose head is wrong, or that has no case.
pub fn fixtures() -> Result<Vec<Case>, String> {
    let dir = repository().join("guests/c");
    let entries = fs::read_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    paths.retain(|p| p.extension() == Some(OsStr::new("c")));
    paths.sort();
    let mut all = Vec::new();
    for path in paths {
        let wrong = |e: String| format!("{}: {e}", path.display());
        let source = fs::read_to_string(&path).map_err(|e| wrong(e.to_string()))?;
        let head = Head::parse(&source).map_err(wrong)?;
        if head.cases.is_empty() {
            return Err(wrong("has no CASE".to_owned()));
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        for variant in &head.variants {
            for case in &head.cases {
                all.push(fixture(&name, case, *variant, &head));
            }
        }
    }
    Ok(all)
}

fn fixture(name: &str, case: &str, variant: Variant, head: &Head) -> Case {
    let guest =
        Guest::C { dir: "c".to_owned(), name: name.to_owned(), variant, libraries: head.libraries.clone() };
    let test = format!("{name}::{case}{}", variant.suffix());
    let mut built = Case::guest(test, guest, &[case]).timeout(head.timeout).options(&head.options);
    if head.cores {
        built = built.dumps_core();
    }
    if let Some(package) = head.needs {
        built = built.needs(package);
    }
    match head.fails.get(case) {
        Some(reason) => built.expected_failure(reason),
        None => built,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_of_a_fixture_is_read() {
        let text =
            "/* What it is.\n * build: static musl\n * fails: two not yet\n */\nCASE(one) {}\nCASE(two) {}\n";
        let head = Head::parse(text).expect("a good head");
        assert_eq!(head.variants, [Variant::Static, Variant::Musl]);
        assert_eq!(head.cases, ["one", "two"]);
        assert_eq!(head.fails["two"], "not yet");
        assert!(Head::parse("/* build: neither */").is_err());
    }
}
