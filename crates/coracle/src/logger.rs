//! `--log`: Coracle's own messages, one line each on stderr. No more than that is needed of a logger, so there is no
//! crate for it.

use std::io::Write;

use log::{LevelFilter, Log, Metadata, Record};

use crate::config::LogLevel;

struct Stderr;

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            // One write a line, so that lines of threads do not mix; a stderr that is gone is no reason to fail.
            let _ = std::io::stderr().write_all(line(record).as_bytes());
        }
    }

    fn flush(&self) {}
}

/// Control characters (a message may quote what a guest said) cannot reach the terminal.
fn line(record: &Record<'_>) -> String {
    let level = record.level().as_str().to_ascii_lowercase();
    let text = format!("coracle: {level}: {}", record.args());
    let mut text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    text.push('\n');
    text
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
    fn a_message_is_one_line() {
        let record = |text: &'static str| {
            line(&Record::builder().level(log::Level::Warn).args(format_args!("{text}")).build())
        };
        assert_eq!(record("memory"), "coracle: warn: memory\n");
        assert_eq!(record("a\nb\x1b[2J"), "coracle: warn: a b [2J\n");
    }
}
