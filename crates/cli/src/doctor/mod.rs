//! `coracle doctor`: what this host can do for Coracle, what each finding means, how to mend it.
//!
//! Findings come from doing the thing where that is possible. What changes or endangers a process is done in
//! a child of this same program (`--probe`), for a bounded time.

mod confinement;
mod machine;

use std::io::{Read, Write};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use coracle_platform::probe;
use serde::Serialize;

/// Check what this host can do, and say how to mend what it cannot.
///
/// Everything is tried out rather than read off permissions. Each finding is `ok`, `note` (works, worth
/// knowing), `poor` (works, slower or weaker) or `bad` (nothing can run); the exit status is 1 if any is bad.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print the findings as one JSON array.
    #[arg(long)]
    json: bool,

    /// Do one probe in this process; for doctor's own children.
    #[arg(long, hide = true)]
    probe: Option<Probe>,
}

/// What children of doctor do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Probe {
    /// Enter a user namespace of one's own.
    UserNamespace,
    /// Measure what an exit of a virtual machine costs; prints nanoseconds.
    KvmExit,
    /// Be looked at, until stdin ends.
    BeRead,
    /// Stand behind the walls of a kernel process and try to get out; prints each attempt.
    Confine,
    /// Stand there and make a host call that the filter does not allow.
    ConfineEnd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Level {
    Ok,
    Note,
    Poor,
    Bad,
}

/// One thing found out.
#[derive(Debug, Serialize)]
pub(crate) struct Finding {
    pub topic: &'static str,
    pub level: Level,
    /// What was found, in a few words.
    pub found: String,
    /// What that means for Coracle.
    pub means: &'static str,
    /// What to do about it; empty when nothing needs doing.
    pub mend: &'static str,
}

impl Finding {
    pub fn new(topic: &'static str, level: Level, found: impl Into<String>, means: &'static str) -> Self {
        Self { topic, level, found: found.into(), means, mend: "" }
    }

    pub fn mend(self, mend: &'static str) -> Self {
        Self { mend, ..self }
    }
}

pub fn run(args: DoctorArgs) -> ExitCode {
    if let Some(probe) = args.probe {
        return perform(probe);
    }
    let mut findings = confinement::findings();
    findings.extend(machine::findings());
    if args.json {
        println!("{}", serde_json::to_string(&findings).unwrap_or_default());
    } else {
        print(&findings);
    }
    if findings.iter().any(|finding| finding.level == Level::Bad) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn print(findings: &[Finding]) {
    let mut out = std::io::stdout().lock();
    // A reader that has gone away wants no more.
    let _ = findings.iter().try_for_each(|finding| {
        let level = match finding.level {
            Level::Ok => "ok",
            Level::Note => "note",
            Level::Poor => "poor",
            Level::Bad => "bad",
        };
        writeln!(out, "{level:<5} {:<22} {}", finding.topic, finding.found)?;
        writeln!(out, "      {}", finding.means)?;
        if finding.mend.is_empty() { Ok(()) } else { writeln!(out, "      to mend it: {}", finding.mend) }
    });
    let worst = |level: Level| findings.iter().filter(|finding| finding.level == level).count();
    let verdict = match (worst(Level::Bad), worst(Level::Poor)) {
        (0, 0) => "Coracle can run here at its best.".to_owned(),
        (0, poor) => format!("Coracle can run here; {poor} finding(s) make it slower or weaker."),
        (bad, _) => format!("Coracle cannot run here until {bad} finding(s) marked `bad` are mended."),
    };
    let _ = writeln!(out, "\n{verdict}");
}

fn perform(probe: Probe) -> ExitCode {
    let done = match probe {
        Probe::UserNamespace => probe::user_namespace().map_err(|err| err.to_string()),
        Probe::KvmExit => probe::kvm_exit_cost(200).map_err(|err| err.to_string()).map(|cost| {
            println!("{}", cost.as_nanos());
        }),
        Probe::Confine => confinement::try_walls(),
        Probe::ConfineEnd => confinement::end_by_walls(),
        Probe::BeRead => std::io::stdin().read_to_end(&mut Vec::new()).map(drop).map_err(|err| err.to_string()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// A child of this program that performs a probe.
pub(crate) fn child(probe: Probe) -> Command {
    let name = probe.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    let mut command = Command::new("/proc/self/exe");
    command.args(["doctor", "--probe", &name]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Performs a probe in a child. What it printed, or why it failed.
pub(crate) fn in_child(probe: Probe) -> Result<String, String> {
    const LIMIT: Duration = Duration::from_secs(3);
    let mut child = child(probe).spawn().map_err(|err| format!("cannot start a child: {err}"))?;
    let status = crate::bounded::wait(&mut child, Instant::now() + LIMIT).map_err(|err| err.to_string())?;
    // Probes print a line at most: the pipes hold it.
    let mut text = String::new();
    let mut take = |from: Option<&mut dyn Read>| from.map(|from| from.read_to_string(&mut text));
    match status {
        Some(status) if status.success() => {
            take(child.stdout.as_mut().map(|out| out as &mut dyn Read));
            Ok(text.trim().to_owned())
        }
        Some(status) => {
            take(child.stderr.as_mut().map(|err| err as &mut dyn Read));
            let said = text.trim();
            Err(if said.is_empty() { status.to_string() } else { said.to_owned() })
        }
        None => Err(format!("not done after {LIMIT:?}")),
    }
}

/// A file's text without the newline at its end; empty if there is none.
pub(crate) fn read(path: &str) -> String {
    std::fs::read_to_string(path).map(|text| text.trim_end().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_well_says_how_to_mend_it() {
        // In a test `/proc/self/exe` is not coracle, so children fail: more findings, none of them silent.
        for finding in confinement::findings().into_iter().chain(machine::findings()) {
            assert!(!finding.found.is_empty() && !finding.means.is_empty(), "{finding:?}");
            if matches!(finding.level, Level::Poor | Level::Bad) {
                assert!(!finding.mend.is_empty(), "{finding:?}");
            }
        }
    }
}
