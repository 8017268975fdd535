//! `--diff` and `--save`: what the run wrote, listed on stderr and taken out. The limits of the run are over by then, and a
//! guest has shaped all of it, so both have limits of their own.

use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use coracle_kernel::fs::overlay::{Found, Kind, Left, SaveLimits, Step, Stop};
use coracle_kernel::shown::{self, Short};
use coracle_platform::child;
use signal_hook::consts::{SIGINT, SIGQUIT, SIGTERM, SIGTSTP};

use super::bytes;
use super::view::Upper;
use crate::Error;
use crate::config::Config;

/// Mount points, where what was made belongs to the sandbox and not to the run.
const SKIPPED: [&[u8]; 5] = [b"/dev", b"/proc", b"/sys", b"/tmp", b"/var/tmp"];
/// Bytes of the list that are written at once.
const CHUNK: usize = 64 << 10;

/// What was asked for of the two. One that has to stop does not keep the other from its work.
pub fn report(upper: &Upper, config: &Config) -> Result<(), Error> {
    if config.diff || config.save.is_some() {
        // There is nobody left to pass them on to.
        child::take_signals(&[SIGINT, SIGQUIT, SIGTERM, SIGTSTP]);
    }
    let diff = if config.diff { list(upper, config) } else { Ok(()) };
    let saved = config.save.as_ref().map_or(Ok(()), |into| save(upper, config, into));
    if let (Err(first), Err(_)) = (&diff, &saved) {
        log::error!("{first}");
    }
    saved.and(diff)
}

/// Names that do not count as changed in the overlay at `place`: others are mounted there.
fn skipped<'a>(upper: &'a Upper, place: &Path) -> Vec<&'a [u8]> {
    let inner = upper.0.iter().filter(|(other, _)| other != place && other.starts_with(place));
    SKIPPED.iter().copied().chain(inner.map(|(other, _)| bytes(other.as_os_str()))).collect()
}

fn unfinished(option: &'static str, place: &Path, path: &[u8], why: &dyn Display) -> Error {
    let place = bytes(place.as_os_str());
    let at = Short(&[place.strip_suffix(b"/").unwrap_or(place), path].concat()).to_string();
    Error::Unfinished { option, at, why: why.to_string() }
}

/// What a stop by a limit means for whoever set it.
fn limit(stop: &Stop, bytes: &str) -> String {
    match stop {
        Stop::Bytes => format!("{stop} (--{bytes})"),
        Stop::Time => format!("{stop} (--report-timeout)"),
        Stop::Host(_) => stop.to_string(),
    }
}

fn list(upper: &Upper, config: &Config) -> Result<(), Error> {
    let until = end(config);
    let mut list = List { out: Vec::with_capacity(2 * CHUNK), room: config.report.diff };
    for (place, overlay) in &upper.0 {
        let skip = skipped(upper, place);
        let mut changes = overlay.changes(&skip);
        let stopped = loop {
            let Some(step) = changes.step() else { break None };
            if Instant::now() >= until {
                break Some(Stop::Time);
            }
            let Step::Name(found) = step else { continue };
            if let Some(errno) = found.unlisted {
                log::warn!("not listed: what was in {}: {}", Short(changes.path()), errno.name());
            }
            if let Err(stop) = list.change(bytes(place.as_os_str()), changes.path(), &found) {
                break Some(stop);
            }
        };
        if let Some(stop) = stopped {
            // Nobody reads it any more; that is no failure.
            let told = list.flush().is_ok() && !matches!(stop, Stop::Host(_));
            let why = limit(&stop, "diff-limit");
            return if told { Err(unfinished("--diff", place, changes.path(), &why)) } else { Ok(()) };
        }
    }
    let _ = list.flush();
    Ok(())
}

/// The list on its way to stderr.
struct List {
    out: Vec<u8>,
    /// Bytes that may still come.
    room: u64,
}

impl List {
    fn change(&mut self, place: &[u8], path: &[u8], found: &Found) -> Result<(), Stop> {
        let letter = match found.kind {
            Some(Kind::Added) => b'A',
            Some(Kind::Modified) => b'M',
            Some(Kind::Deleted) => b'D',
            None => return Ok(()),
        };
        let before = self.out.len();
        self.out.extend_from_slice(&[letter, b' ']);
        shown::push(&mut self.out, place.strip_suffix(b"/").unwrap_or(place));
        shown::push(&mut self.out, path);
        self.out.extend_from_slice(if found.is_directory() { b"/\n" } else { b"\n" });
        match self.room.checked_sub((self.out.len() - before) as u64) {
            Some(room) => self.room = room,
            None => {
                self.out.truncate(before);
                return Err(Stop::Bytes);
            }
        }
        if self.out.len() >= CHUNK { Ok(self.flush()?) } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        let done = io::stderr().write_all(&self.out);
        self.out.clear();
        done
    }
}

fn save(upper: &Upper, config: &Config, into: &Path) -> Result<(), Error> {
    let most = config.report.save.or(config.limits.disk).unwrap_or_else(|| super::granted_memory(config));
    std::fs::create_dir_all(into).map_err(|source| Error::Save { path: into.to_owned(), source })?;
    let mut limits = SaveLimits { bytes: most, until: end(config) };
    for (place, overlay) in &upper.0 {
        let saved = overlay.save(into, place, &skipped(upper, place), limits, &mut not_saved);
        let bytes = saved.map_err(|stopped| {
            let why = limit(&stopped.why, "save-limit");
            unfinished("--save", place, &stopped.path, &why)
        })?;
        limits.bytes = limits.bytes.saturating_sub(bytes);
    }
    Ok(())
}

fn not_saved(path: &[u8], what: Left) {
    let path = Short(path);
    match what {
        Left::Deleted => {}
        Left::Kind => log::warn!("not saved: {path}: only files, directories, links and FIFOs are"),
        Left::Closed => log::warn!("not saved: {path}: not readable for everybody on the host"),
        Left::Unlisted(errno) => log::warn!("not saved: what was in {path}: {}", errno.name()),
    }
}

/// When each of the two stops.
fn end(config: &Config) -> Instant {
    const AGES: Duration = Duration::from_secs(1 << 31);
    let now = Instant::now();
    now.checked_add(config.report.time).unwrap_or(now + AGES)
}
