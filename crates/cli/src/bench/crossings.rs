//! `coracle bench crossings`: what entering and leaving costs, from a function call to ptrace, in one table.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueHint};
use serde::Serialize;

use super::launch::{Job, Side, argv};
use super::measure::{Problem, parse_line};
use super::stats::median;
use super::{BenchError, guest, progress, stats};

/// Compare what it costs to cross from a program into whoever answers it, in ns and in CPU cycles.
///
/// Cycles are those of the time stamp counter. The figures are medians of rounds, in which all rows take turns.
#[derive(Debug, Args)]
pub struct CrossingsArgs {
    /// Run only these rows.
    #[arg(long, value_delimiter = ',', value_name = "ROW,…")]
    rows: Vec<String>,

    /// How often each row is measured.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,

    /// Milliseconds of each measurement.
    #[arg(long, value_name = "MS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(10..=10_000))]
    span: u32,

    /// Write a bar chart (SVG, logarithmic).
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    plot: Option<PathBuf>,

    /// Write [{"name", "ns", "cycles", "ratio_to_native_syscall"}].
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    json: Option<PathBuf>,
}

/// Where a row is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Native,
    /// With this `--clock`.
    Inside(&'static str),
}

struct Row {
    name: &'static str,
    /// The guest program's name for it.
    of: &'static str,
    at: At,
    what: &'static str,
}

const fn native(name: &'static str, of: &'static str, what: &'static str) -> Row {
    Row { name, of, at: At::Native, what }
}

const fn inside(name: &'static str, of: &'static str, clock: &'static str, what: &'static str) -> Row {
    Row { name, of, at: At::Inside(clock), what }
}

const ROWS: &[Row] = &[
    native("function_call", "function_call", "a call that does nothing"),
    native("rdtsc", "rdtsc", "the time stamp counter"),
    native("rdtsc_ordered", "rdtsc_ordered", "lfence; rdtsc: the bound of every exact clock"),
    native("host_vdso", "clock_gettime", "clock_gettime(MONOTONIC) of the host's vDSO"),
    inside("our_vdso", "clock_gettime", "auto", "the same of ours"),
    inside("vsyscall_page", "vsyscall_page", "auto", "time() at its fixed address, which traps"),
    inside("lane1", "getpid", "auto", "getpid(), answered by the shim"),
    inside("lane2", "getcpu_call", "auto", "getcpu by system call, made by the guest's own thread"),
    inside("lane3_hot", "null_port", "auto", "getpriority(), back to back"),
    inside("lane3_cold", "null_port_cold", "auto", "the same after a rest of 2 ms"),
    inside("lane4", "null_trap", "auto", "the same from a site that cannot be rewritten"),
    native("native_syscall", "null_port", "getpriority()"),
    native("native_clock_gettime", "clock_gettime_call", "clock_gettime(MONOTONIC) by system call"),
    native("ptrace", "ptrace", "getpriority() of a traced child, stopped before and after"),
    inside("clock_tsc", "clock_gettime", "tsc", "clock_gettime(MONOTONIC) from the counter alone"),
    inside("clock_pvclock_one_page", "clock_gettime", "pvclock", "… from virtual CPU 0's page"),
    inside(
        "clock_pvclock_per_cpu",
        "clock_gettime",
        "pvclock-per-cpu",
        "… from the CPU's own page, asked for twice (rdpid where there is one)",
    ),
    inside("clock_pvclock_per_cpu_lsl", "clock_gettime", "pvclock-per-cpu-lsl", "… the same, asked for by lsl"),
];

#[derive(Debug, Serialize)]
struct Figure {
    name: &'static str,
    ns: f64,
    cycles: f64,
    ratio_to_native_syscall: Option<f64>,
    #[serde(skip)]
    what: &'static str,
}

/// False: some row could not be measured.
pub fn run(args: CrossingsArgs) -> Result<bool, BenchError> {
    if let Some(unknown) = args.rows.iter().find(|name| ROWS.iter().all(|row| row.name != name.as_str())) {
        return Err(BenchError::NoSuchRow(unknown.clone()));
    }
    super::warn_of_debug_build();
    let guest = guest::build()?;
    let chosen: Vec<&Row> =
        ROWS.iter().filter(|row| args.rows.is_empty() || args.rows.iter().any(|name| name == row.name)).collect();
    let mut taken: Vec<Vec<f64>> = chosen.iter().map(|_| Vec::new()).collect();
    let mut problems: Vec<Option<Problem>> = chosen.iter().map(|_| None).collect();
    // Nanoseconds of a thousand cycles.
    let thousand =
        (0..5).filter_map(|_| once(&guest, 10, "thousand_cycles", At::Native).ok()).min_by(f64::total_cmp);
    for _ in 0..args.rounds {
        for ((row, taken), problem) in chosen.iter().zip(&mut taken).zip(&mut problems) {
            progress(&format!("{} …", row.name));
            match once(&guest, args.span, row.of, row.at) {
                Ok(ns) => taken.push(ns),
                Err(why) => *problem = Some(why),
            }
            progress("");
        }
    }
    let medians: Vec<Option<f64>> = taken.iter().map(|taken| median(taken)).collect();
    let base = chosen.iter().zip(&medians).find(|(row, _)| row.name == "native_syscall").and_then(|(_, ns)| *ns);
    println!("{:<26} {:>10} {:>10}  to native", "crossing", "time", "cycles");
    let mut figures = Vec::new();
    let mut complete = true;
    for ((row, ns), problem) in chosen.iter().zip(&medians).zip(&problems) {
        let Some(ns) = *ns else {
            complete = false;
            let why = problem.as_ref().map(Problem::to_string).unwrap_or_default();
            println!("{:<26} failed: {why}", row.name);
            continue;
        };
        let cycles = thousand.map_or(f64::NAN, |thousand| ns * 1000.0 / thousand);
        let ratio = base.map(|base| ns / base);
        let shown = ratio.map_or(String::new(), stats::ratio);
        println!("{:<26} {:>10} {cycles:>10.0}  {shown:<8} {}", row.name, stats::nanos(ns), row.what);
        let round = |value: f64| (value * 1e3).round() / 1e3;
        let ratio_to_native_syscall = ratio.map(|ratio| (ratio * 1e4).round() / 1e4);
        let (ns, cycles) = (round(ns), round(cycles));
        figures.push(Figure { name: row.name, ns, cycles, ratio_to_native_syscall, what: row.what });
    }
    let write = |path: &PathBuf, text: String| {
        std::fs::write(path, text).map_err(|source| BenchError::Json { path: path.clone(), source })
    };
    if let Some(path) = &args.json {
        // Strings and numbers only: this cannot fail.
        write(path, serde_json::to_string_pretty(&figures).unwrap_or_default() + "\n")?;
    }
    if let Some(path) = &args.plot {
        write(path, plot(&figures))?;
    }
    Ok(complete)
}

/// Nanoseconds per operation.
fn once(guest: &guest::Guest, span: u32, of: &str, at: At) -> Result<f64, Problem> {
    let side = match at {
        At::Native => Side::Native,
        At::Inside(clock) => Side::Coracle(vec!["--clock", clock]),
    };
    let (data, hello) = (guest.data.to_string_lossy(), guest.hello_static.to_string_lossy());
    let argv = argv(&guest.bench, &[of, &span.to_string(), &data, &hello]);
    let limit = Duration::from_millis(u64::from(span)).saturating_mul(10) + Duration::from_secs(10);
    let finished = side.run(&Job { argv, dir: &guest.dir, one_cpu: false, limit })?;
    Ok(parse_line(&finished.stdout, of)?.0)
}

/// Bars on a logarithmic axis from 0.1 ns on.
fn plot(figures: &[Figure]) -> String {
    const LINE: usize = 26;
    const LEFT: f64 = 190.0;
    const DECADE: f64 = 110.0;
    let x = |ns: f64| (ns.max(0.1).log10() + 1.0) * DECADE;
    let height = figures.len() * LINE + 50;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"1040\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (decade, label) in ["0.1 ns", "1 ns", "10 ns", "100 ns", "1 us", "10 us", "100 us"].iter().enumerate() {
        let at = LEFT + decade as f64 * DECADE;
        let (bottom, text) = (height - 30, height - 12);
        let _ = writeln!(
            svg,
            "<line x1=\"{at}\" y1=\"8\" x2=\"{at}\" y2=\"{bottom}\" stroke=\"#ddd\"/>\
             <text x=\"{at}\" y=\"{text}\" text-anchor=\"middle\">{label}</text>"
        );
    }
    for (index, figure) in figures.iter().enumerate() {
        let (top, width, text) = (index * LINE + 12, x(figure.ns), index * LINE + 26);
        let (name, after) = (LEFT - 8.0, LEFT + width + 6.0);
        let _ = writeln!(
            svg,
            "<text x=\"{name}\" y=\"{text}\" text-anchor=\"end\">{}</text><rect x=\"{LEFT}\" y=\"{top}\" \
             width=\"{width:.1}\" height=\"18\" fill=\"#4477aa\"><title>{}</title></rect>\
             <text x=\"{after:.1}\" y=\"{text}\">{}, {:.0} cycles</text>",
            figure.name,
            figure.what,
            stats::nanos(figure.ns),
            figure.cycles
        );
    }
    svg + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_in_the_guest() {
        for row in ROWS {
            assert!(guest::SOURCE.contains(&format!("{{\"{}\",", row.of)), "{}", row.of);
        }
    }

    #[test]
    fn the_chart_has_a_bar_for_each_row() {
        let figure =
            |name, ns| Figure { name, ns, cycles: ns * 2.4, ratio_to_native_syscall: Some(1.0), what: "x" };
        let svg = plot(&[figure("a", 1.5), figure("b", 15_000.0)]);
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert_eq!(svg.matches("<title>").count(), 2);
    }
}
