//! The results for people and for programs.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};

use super::launch::Peer;
use super::machine::Machine;
use super::measure::Measured;
use super::rows::{Goal, ROWS, Row};
use super::stats;

/// Explains every row.
pub fn list() {
    for row in ROWS {
        println!("{:<22} {}", row.name, row.what);
    }
}

pub fn header(peers: &[Peer]) -> String {
    let mut text =
        format!("{:<22} {:>5} {:>10} {:>10} {:>8}  {:<10}", "row", "lane", "native", "coracle", "ratio", "goal");
    for peer in peers {
        text.push_str(&format!(" {:>10} {:>8}", peer.name(), "ratio"));
    }
    text
}

/// One row; a goal that was missed is marked.
pub fn line(row: &Row, measured: &Measured) -> String {
    let goal = match row.goal {
        Goal::Ratio(most) => format!("{}{}", mark(row, measured), stats::ratio(most)),
        Goal::Nanos(most) => format!("{}{}", mark(row, measured), stats::nanos(most)),
        Goal::Free => String::new(),
    };
    let mut text = format!(
        "{:<22} {:>5} {:>10} {:>10} {:>8}  {goal:<10}",
        row.name,
        measured.lane,
        stats::nanos(measured.native_ns),
        stats::nanos(measured.coracle_ns),
        stats::ratio(measured.ratio),
    );
    for (_, ns) in &measured.peers {
        let (figure, ratio) = match ns {
            Some(ns) => (stats::nanos(*ns), stats::ratio(ns / measured.native_ns)),
            None => ("-".to_owned(), "-".to_owned()),
        };
        text.push_str(&format!(" {figure:>10} {ratio:>8}"));
    }
    text.trim_end().to_owned()
}

fn mark(row: &Row, measured: &Measured) -> &'static str {
    match row.goal.met(measured.coracle_ns, measured.ratio) {
        Some(false) => "! ",
        _ => "  ",
    }
}

pub fn footer(results: &[(&Row, Measured)], took: Duration) -> String {
    let met = results.iter().filter_map(|(row, measured)| row.goal.met(measured.coracle_ns, measured.ratio));
    let (mut reached, mut of) = (0, 0);
    for met in met {
        of += 1;
        reached += u32::from(met);
    }
    let beaten = |(_, measured): &&(&Row, Measured)| {
        measured
            .peers
            .iter()
            .any(|(peer, ns)| *peer == Peer::Runsc && ns.is_some_and(|ns| ns < measured.coracle_ns))
    };
    let slower = results.iter().filter(beaten).map(|(row, _)| row.name).collect::<Vec<_>>();
    let slower =
        if slower.is_empty() { String::new() } else { format!("; slower than runsc: {}", slower.join(", ")) };
    format!("{reached} of {of} goals reached (`!` marks the others), {:.0} s{slower}", took.as_secs_f64())
}

/// One row of the file. Peers are added only where they were asked for.
#[derive(Serialize)]
struct JsonRow<'a> {
    name: &'a str,
    lane: &'a str,
    native_ns: f64,
    coracle_ns: f64,
    ratio: f64,
    samples: usize,
    #[serde(flatten)]
    peers: Map<String, Value>,
}

#[derive(Serialize)]
struct JsonFile<'a> {
    machine: &'a Machine,
    rows: Vec<JsonRow<'a>>,
}

pub fn json(machine: &Machine, results: &[(&Row, Measured)]) -> String {
    let rows = results.iter().map(|(row, measured)| JsonRow {
        name: row.name,
        lane: &measured.lane,
        native_ns: round(measured.native_ns, 1e2),
        coracle_ns: round(measured.coracle_ns, 1e2),
        ratio: round(measured.ratio, 1e4),
        samples: measured.samples,
        peers: measured
            .peers
            .iter()
            .map(|(peer, ns)| (format!("{}_ns", peer.name()), Value::from(ns.map(|ns| round(ns, 1e2)))))
            .collect(),
    });
    let file = JsonFile { machine, rows: rows.collect() };
    // Strings and finite numbers only: this cannot fail.
    serde_json::to_string_pretty(&file).unwrap_or_default() + "\n"
}

fn round(value: f64, places: f64) -> f64 {
    (value * places).round() / places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(peers: Vec<(Peer, Option<f64>)>) -> Measured {
        Measured { native_ns: 150.0, coracle_ns: 3.0, ratio: 0.02, lane: "1".into(), samples: 7, peers }
    }

    #[test]
    fn the_file_has_the_promised_shape() {
        let machine = Machine::here();
        let row = &ROWS[0];
        let text = json(&machine, &[(row, measured(Vec::new()))]);
        let value: Value = serde_json::from_str(&text).unwrap();
        assert!(value["machine"]["kernel"].is_string());
        let want = serde_json::json!({
            "name": "getpid", "lane": "1", "native_ns": 150.0, "coracle_ns": 3.0, "ratio": 0.02, "samples": 7
        });
        assert_eq!(value["rows"][0], want);
        let text = json(&machine, &[(row, measured(vec![(Peer::Runsc, Some(2000.0)), (Peer::Bwrap, None)]))]);
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["rows"][0]["runsc_ns"], 2000.0);
        assert!(value["rows"][0]["bwrap_ns"].is_null());
    }

    #[test]
    fn missed_goals_are_marked() {
        let row = &ROWS[0];
        assert!(!line(row, &measured(Vec::new())).contains('!'));
        let slow = Measured { ratio: 1.0, ..measured(Vec::new()) };
        assert!(line(row, &slow).contains('!'));
        assert!(footer(&[(row, slow)], Duration::from_secs(3)).starts_with("0 of 1"));
        let footer = footer(&[(row, measured(vec![(Peer::Runsc, Some(2.0))]))], Duration::from_secs(3));
        assert!(footer.starts_with("1 of 1") && footer.ends_with("slower than runsc: getpid"), "{footer}");
    }
}
