//! `coracle ps`: which sandboxes run.

use std::borrow::Cow;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Args;
use coracle::control::{self, Sandbox, Status};
use coracle::shown::Text;
use serde::Serialize;

use crate::json;

/// List your running sandboxes.
///
/// MEMORY is what their programs hold resident, CPU what these have used. The ID, or as much of its beginning
/// as tells it apart, is what `coracle kill` and `coracle exec` want.
#[derive(Debug, Args)]
pub struct PsArgs {
    /// Print one JSON object per line instead of a table.
    #[arg(long)]
    json: bool,

    /// Print only the ids, as in `coracle kill $(coracle ps -q)`.
    #[arg(long, short, conflicts_with = "json")]
    quiet: bool,
}

/// Field names are a promise.
#[derive(Serialize)]
struct JsonLine<'a> {
    id: &'a str,
    pid: u32,
    argv: Vec<Cow<'a, str>>,
    hostname: &'a str,
    /// Seconds since the epoch.
    started: u64,
    processes: u32,
    memory: u64,
    cpu_ns: u64,
}

impl<'a> JsonLine<'a> {
    fn new(sandbox: &'a Sandbox, status: &'a Status) -> JsonLine<'a> {
        let Status { argv, hostname, pid, started, processes, memory, cpu_ns } = status;
        JsonLine {
            id: sandbox.id(),
            pid: *pid,
            argv: argv.iter().map(|word| word.to_string_lossy()).collect(),
            hostname,
            started: *started,
            processes: *processes,
            memory: *memory,
            cpu_ns: *cpu_ns,
        }
    }
}

pub fn run(args: PsArgs) -> ExitCode {
    let sandboxes = match control::list() {
        Ok(sandboxes) => sandboxes,
        Err(err) => {
            crate::complain(&err);
            return ExitCode::from(crate::FAILED);
        }
    };
    if !args.json && !args.quiet {
        println!("{:<9} {:>8} {:>9} {:>6} {:>9} {:>9}  PROGRAM", "ID", "PID", "AGE", "PROCS", "MEMORY", "CPU");
    }
    for (sandbox, status) in &sandboxes {
        if args.quiet {
            println!("{}", sandbox.id());
        } else if args.json {
            println!("{}", json::line(&JsonLine::new(sandbox, status)));
        } else {
            println!("{}", line(sandbox, status));
        }
    }
    ExitCode::SUCCESS
}

fn line(sandbox: &Sandbox, status: &Status) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let age = now.saturating_sub(Duration::from_secs(status.started));
    format!(
        "{:<9} {:>8} {:>9} {:>6} {:>9} {:>9}  {}",
        sandbox.id(),
        status.pid,
        span(age),
        status.processes,
        bytes(status.memory),
        format!("{:.2}s", Duration::from_nanos(status.cpu_ns).as_secs_f64()),
        command(status),
    )
}

/// The words of the command; control characters cannot reach the terminal.
fn command(status: &Status) -> String {
    let words: Vec<_> = status.argv.iter().map(|word| word.to_string_lossy()).collect();
    Text(&words.join(" ")).to_string()
}

/// The two largest units.
fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, s) => format!("{s}s"),
        (0, 0, m, s) => format!("{m}m{s:02}s"),
        (0, h, m, _) => format!("{h}h{m:02}m"),
        (d, h, _, _) => format!("{d}d{h:02}h"),
    }
}

fn bytes(bytes: u64) -> String {
    match bytes {
        0..0x10_0000 => format!("{}K", bytes >> 10),
        0x10_0000..0x4000_0000 => format!("{}M", bytes >> 20),
        _ => format!("{}.{}G", bytes >> 30, ((bytes >> 20) & 0x3ff) * 10 / 1024),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_for_people() {
        assert_eq!(span(Duration::from_secs(59)), "59s");
        assert_eq!(span(Duration::from_secs(61)), "1m01s");
        assert_eq!(span(Duration::from_secs(2 * 3600 + 180)), "2h03m");
        assert_eq!(span(Duration::from_secs(90_000)), "1d01h");
        assert_eq!(bytes(2048), "2K");
        assert_eq!(bytes(5 << 20), "5M");
        assert_eq!(bytes(3 << 29), "1.5G");
    }

    #[test]
    fn a_command_cannot_steer_the_terminal() {
        let argv = vec!["sh".into(), "-c".into(), "\x1b[2J\n".into()];
        let status =
            Status { argv, hostname: String::new(), pid: 1, started: 0, processes: 1, memory: 0, cpu_ns: 0 };
        assert_eq!(command(&status), "sh -c \\033[2J\\n");
    }
}
