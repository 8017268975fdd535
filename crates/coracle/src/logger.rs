//! `--log`: Coracle's own messages, one line each on stderr. No more than that is needed of a logger, so there is no
//! crate for it.

use std::io::Write;
use std::sync::atomic::{AtomicU32, Ordering};

use coracle_kernel::shown::Text;
use log::{LevelFilter, Log, Metadata, Record};

use crate::config::LogLevel;

/// Most messages at the levels that are shown by default: guests can cause them, and nobody counts those bytes.
const MOST: u32 = 1000;

static SHOWN: AtomicU32 = AtomicU32::new(0);

struct Stderr;

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let number = SHOWN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |number| number.checked_add(1));
        if let Some(text) = shown(record, number.unwrap_or(u32::MAX), log::max_level()) {
            // One write a line, so that lines of threads do not mix; a stderr that is gone is no reason to fail.
            let _ = std::io::stderr().write_all(text.as_bytes());
        }
    }

    fn flush(&self) {}
}

/// What is shown of message `number`: whoever has asked for more than warnings gets all.
fn shown(record: &Record<'_>, number: u32, level: LevelFilter) -> Option<String> {
    match number {
        _ if level > LevelFilter::Warn || number < MOST => Some(line(record)),
        MOST => Some("coracle: warn: further messages are left out (--log info shows all)\n".to_owned()),
        _ => None,
    }
}

/// Control characters (a message may quote what a guest said) cannot reach the terminal.
fn line(record: &Record<'_>) -> String {
    let level = record.level().as_str().to_ascii_lowercase();
    format!("coracle: {level}: {}\n", Text(&record.args().to_string()))
}

/// Messages from this level up go to stderr, unless the program has a logger of its own.
pub fn install(level: LogLevel) {
    if log::set_logger(&Stderr).is_ok() {
        log::set_max_level(match level {
            LogLevel::Off => LevelFilter::Off,
            LogLevel::Error => LevelFilter::Error,
            LogLevel::Warn => LevelFilter::Warn,
            LogLevel::Info => LevelFilter::Info,
            LogLevel::Debug => LevelFilter::Debug,
            LogLevel::Trace => LevelFilter::Trace,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_messages_ends() {
        let record = Record::builder().level(log::Level::Warn).args(format_args!("x")).build();
        let lines = |level| (0..MOST + 50).filter_map(|number| shown(&record, number, level)).collect::<Vec<_>>();
        let few = lines(LevelFilter::Warn);
        assert_eq!(few.len(), MOST as usize + 1);
        assert!(few.last().unwrap().contains("left out"));
        assert_eq!(lines(LevelFilter::Info).len(), MOST as usize + 50);
    }

    #[test]
    fn a_message_is_one_line() {
        let record = |text: &'static str| {
            line(&Record::builder().level(log::Level::Warn).args(format_args!("{text}")).build())
        };
        assert_eq!(record("memory"), "coracle: warn: memory\n");
        assert_eq!(record("a\nb\x1b[2J"), "coracle: warn: a\\nb\\033[2J\n");
    }
}
