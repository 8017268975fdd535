//! Values as people write them on a command line: sizes, durations, binds, users, traces. Messages say
//! what would have been right; clap puts the option's name in front.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use coracle::config::{Bind, SyscallFilter, User};

/// Why a value cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("write a size as a number with K, M, G or T, as in 512M")]
    Size,
    #[error("write a duration as a number with ms, s, m or h, as in 10s or 1.5h")]
    Duration,
    #[error("the number is too large")]
    TooLarge,
    #[error("write SRC:DST or SRC:DST:ro, as in /srv/data:/data:ro")]
    Bind,
    #[error("write a name, UID or UID:GID, as in 1000:1000")]
    User,
    #[error("write syscalls, syscalls:NAME,NAME…, syscalls:!NAME,… or startup")]
    Trace,
    #[error("write KEY=VALUE, or KEY to pass on the caller's value")]
    Env,
    #[error("write a signal as a number from 1 to 64 or a name such as TERM")]
    Signal,
}

/// Bytes: `4096`, `512K`, `512M`, `2G`, `1.5G`, `2GiB`. Letters are powers of 1024 as in `ulimit` and cgroups.
pub fn size(text: &str) -> Result<u64, ParseError> {
    let (number, unit) = split_unit(text);
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return Err(ParseError::Size),
    };
    scaled(number, factor, ParseError::Size)
}

/// `500ms`, `10s`, `1.5h`; a bare number is seconds, as for timeout(1).
pub fn duration(text: &str) -> Result<Duration, ParseError> {
    let (number, unit) = split_unit(text);
    let nanos_per_unit: u64 = match unit {
        "ns" => 1,
        "us" | "µs" => 1_000,
        "ms" => 1_000_000,
        "" | "s" => 1_000_000_000,
        "m" | "min" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        "d" => 86_400_000_000_000,
        _ => return Err(ParseError::Duration),
    };
    scaled(number, nanos_per_unit, ParseError::Duration).map(Duration::from_nanos)
}

/// A decimal number and what follows it.
fn split_unit(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim_start())
}

/// `number * factor` in integers: the fraction is cut after nine digits, so no rounding surprises.
fn scaled(number: &str, factor: u64, wrong: ParseError) -> Result<u64, ParseError> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return Err(wrong);
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| ParseError::TooLarge)? };
    let billionths: u64 = format!("{fraction:0<9.9}").parse().map_err(|_| wrong)?;
    let part = u128::from(factor) * u128::from(billionths) / 1_000_000_000;
    let total = u128::from(whole) * u128::from(factor) + part;
    u64::try_from(total).map_err(|_| ParseError::TooLarge)
}

/// `SRC:DST[:ro|:rw]`. A relative SRC is taken from the current directory.
pub fn bind(text: OsString) -> Result<Bind, ParseError> {
    let mut parts = text.as_bytes().split(|byte| *byte == b':');
    let (src, dst, mode) = (parts.next(), parts.next(), parts.next());
    let (Some(src), Some(dst), None) = (src, dst, parts.next()) else {
        return Err(ParseError::Bind);
    };
    let read_only = match mode {
        None | Some(b"rw") => false,
        Some(b"ro") => true,
        Some(_) => return Err(ParseError::Bind),
    };
    if src.is_empty() || dst.is_empty() {
        return Err(ParseError::Bind);
    }
    let path = |bytes: &[u8]| PathBuf::from(OsString::from_vec(bytes.to_vec()));
    let src = std::path::absolute(path(src)).map_err(|_| ParseError::Bind)?;
    Ok(Bind { src, dst: path(dst), read_only })
}

/// `NAME`, `UID` or `UID:GID`.
pub fn user(text: &str) -> Result<User, ParseError> {
    let id = |text: &str| text.parse::<u32>().ok().filter(|id| *id != u32::MAX).ok_or(ParseError::User);
    match text.split_once(':') {
        Some((uid, gid)) => Ok(User::Id { uid: id(uid)?, gid: Some(id(gid)?) }),
        None if text.starts_with(|c: char| c.is_ascii_digit()) => Ok(User::Id { uid: id(text)?, gid: None }),
        None if text.is_empty() => Err(ParseError::User),
        None => Ok(User::Name(text.to_owned())),
    }
}

/// One `--trace`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TraceArg {
    Syscalls(SyscallFilter),
    Startup,
}

/// `syscalls`, `syscalls:read,write`, `syscalls:!futex`, `startup`.
pub fn trace(text: &str) -> Result<TraceArg, ParseError> {
    match text.split_once(':') {
        None if text == "startup" => Ok(TraceArg::Startup),
        None if text == "syscalls" => Ok(TraceArg::Syscalls(SyscallFilter::default())),
        Some(("syscalls", list)) => {
            let (invert, list) = match list.strip_prefix('!') {
                Some(rest) => (true, rest),
                None => (false, list),
            };
            let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            let names: Vec<String> = list.split(',').map(str::to_owned).collect();
            if names.iter().any(|name| name.is_empty() || !name.chars().all(legal)) {
                return Err(ParseError::Trace);
            }
            Ok(TraceArg::Syscalls(SyscallFilter { names, invert }))
        }
        _ => Err(ParseError::Trace),
    }
}

/// `KEY=VALUE`, or `KEY` for the caller's value (`None` until looked up).
pub fn env(text: OsString) -> Result<(OsString, Option<OsString>), ParseError> {
    let bytes = text.as_bytes();
    let own = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    let (key, value) = match bytes.iter().position(|byte| *byte == b'=') {
        Some(at) => {
            let (key, rest) = bytes.split_at(at);
            (key, rest.get(1..).map(own))
        }
        None => (bytes, None),
    };
    if key.is_empty() { Err(ParseError::Env) } else { Ok((own(key), value)) }
}

/// A signal by number or name, with or without `SIG`, of signal(7) on x86-64.
pub fn signal(text: &str) -> Result<i32, ParseError> {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM",
        "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF",
        "WINCH", "IO", "PWR", "SYS",
    ];
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=64).contains(&number) { Ok(number) } else { Err(ParseError::Signal) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    (1..).zip(NAMES).find(|(_, known)| *known == name).map(|(number, _)| number).ok_or(ParseError::Signal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("512M"), Ok(512 << 20));
        assert_eq!(size("2g"), Ok(2 << 30));
        assert_eq!(size("2GiB"), Ok(2 << 30));
        assert_eq!(size("1.5K"), Ok(1536));
        for bad in ["", "M", ".", "1.2.3K", "5X", "-1", "1 2"] {
            assert_eq!(size(bad), Err(ParseError::Size), "{bad:?}");
        }
        assert_eq!(size("99999999T"), Err(ParseError::TooLarge));
        assert_eq!(size("99999999999999999999999"), Err(ParseError::TooLarge));
    }

    #[test]
    fn durations() {
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("3"), Ok(Duration::from_secs(3)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5h"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("0.1s"), Ok(Duration::from_millis(100)));
        for bad in ["", "s", "10x", "-3s"] {
            assert_eq!(duration(bad), Err(ParseError::Duration), "{bad:?}");
        }
    }

    #[test]
    fn binds() {
        let here = std::env::current_dir().unwrap();
        let bound = bind("/a:/b:ro".into()).unwrap();
        assert_eq!(bound, Bind { src: "/a".into(), dst: "/b".into(), read_only: true });
        assert_eq!(bind("x:/b".into()).unwrap().src, here.join("x"));
        assert!(!bind("/a:/b:rw".into()).unwrap().read_only);
        for bad in ["", "/a", ":/b", "/a:", "/a:/b:no", "/a:/b:ro:x"] {
            assert_eq!(bind(bad.into()), Err(ParseError::Bind), "{bad:?}");
        }
    }

    #[test]
    fn users() {
        assert_eq!(user("0"), Ok(User::Id { uid: 0, gid: None }));
        assert_eq!(user("1000:100"), Ok(User::Id { uid: 1000, gid: Some(100) }));
        assert_eq!(user("nobody"), Ok(User::Name("nobody".into())));
        for bad in ["", "1x", "1:", ":1", "4294967295", "-1:0"] {
            assert_eq!(user(bad), Err(ParseError::User), "{bad:?}");
        }
    }

    #[test]
    fn traces() {
        assert_eq!(trace("startup"), Ok(TraceArg::Startup));
        assert_eq!(trace("syscalls"), Ok(TraceArg::Syscalls(SyscallFilter::default())));
        let names = vec!["read".to_owned(), "pread64".to_owned()];
        assert_eq!(trace("syscalls:!read,pread64"), Ok(TraceArg::Syscalls(SyscallFilter { names, invert: true })));
        for bad in ["", "x", "syscalls:", "syscalls:a,,b", "syscalls:A B", "startup:x"] {
            assert_eq!(trace(bad), Err(ParseError::Trace), "{bad:?}");
        }
    }

    #[test]
    fn variables() {
        assert_eq!(env("A=b=c".into()), Ok(("A".into(), Some("b=c".into()))));
        assert_eq!(env("A=".into()), Ok(("A".into(), Some("".into()))));
        assert_eq!(env("A".into()), Ok(("A".into(), None)));
        assert_eq!(env("=x".into()), Err(ParseError::Env));
    }

    #[test]
    fn signals() {
        assert_eq!(signal("9"), Ok(9));
        assert_eq!(signal("SIGTERM"), Ok(15));
        assert_eq!(signal("usr1"), Ok(10));
        assert_eq!(signal("SYS"), Ok(31));
        for bad in ["0", "65", "FOO", ""] {
            assert_eq!(signal(bad), Err(ParseError::Signal), "{bad:?}");
        }
    }
}
