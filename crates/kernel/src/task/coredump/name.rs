//! Where a core goes: `/proc/sys/kernel/core_pattern` (core(5), `format_corename()` and `do_coredump()` in
//! fs/coredump.c).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::Task;
use super::helper::Pipes;
use crate::abi::linux::{O_CREAT, O_EXCL, O_NOFOLLOW, O_WRONLY};
use crate::fd::OpenFile;
use crate::fs::{Resolve, S_IFMT, S_IFREG, now};
use crate::shown::Short;
use crate::syscalls::names;
use crate::syscalls::path::{AT_FDCWD, Env, open_in};
use crate::{Errno, Result};

/// Longest pattern (`CORENAME_MAX_SIZE`, less the zero byte).
pub const PATTERN_MAX: usize = 127;

/// `kernel.core_pattern` and `kernel.core_uses_pid`.
pub struct Settings {
    pub pattern: Mutex<Vec<u8>>,
    pub uses_pid: AtomicBool,
    pub pipes: Pipes,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            pattern: Mutex::new(b"core".to_vec()),
            uses_pid: AtomicBool::new(false),
            pipes: Pipes::default(),
        }
    }
}

/// Cores go to a program.
pub fn is_piped(task: &Task) -> bool {
    task.world.cores.pattern.lock().first() == Some(&b'|')
}

/// That program and its arguments, split before anything is filled in.
pub fn words(task: &Task, signal: i32, limit: u64) -> Vec<Vec<u8>> {
    let pattern = task.world.cores.pattern.lock().clone();
    let line = pattern.strip_prefix(b"|").unwrap_or_default();
    let words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    words.map(|word| format(word, false, &|what| value(task, what, signal, limit))).collect()
}

/// Makes the file; `None` if there is to be none.
pub fn open(task: &Arc<Task>, signal: i32, limit: u64) -> Option<Arc<OpenFile>> {
    let settings = &task.world.cores;
    let pattern = settings.pattern.lock().clone();
    if pattern.first() == Some(&b'@') {
        log::warn!(
            "process {} dumps no core: sockets in /proc/sys/kernel/core_pattern ({}) are not served; write a file's name \
             or | and a program's there",
            task.pid(),
            Short(&pattern)
        );
        return None;
    }
    let name =
        format(&pattern, settings.uses_pid.load(Ordering::Relaxed), &|what| value(task, what, signal, limit));
    match make(task, &name) {
        Ok(file) => Some(file),
        Err(error) => {
            log::info!("process {} dumps no core: {}: {error}", task.pid(), Short(&name));
            None
        }
    }
}

/// The path: `value` says what stands for a letter.
fn format(pattern: &[u8], uses_pid: bool, value: &dyn Fn(u8) -> Option<Vec<u8>>) -> Vec<u8> {
    let mut name = Vec::new();
    let mut has_pid = false;
    let mut letters = pattern.iter();
    while let Some(letter) = letters.next() {
        if *letter != b'%' {
            name.push(*letter);
            continue;
        }
        match letters.next() {
            Some(b'%') => name.push(b'%'),
            Some(what) => {
                has_pid |= *what == b'p';
                name.extend(value(*what).unwrap_or_default());
            }
            // A single % at the end is dropped, as is what is unknown.
            None => {}
        }
    }
    if uses_pid && !has_pid {
        name.push(b'.');
        name.extend(value(b'p').unwrap_or_default());
    }
    name
}

fn value(task: &Task, what: u8, signal: i32, limit: u64) -> Option<Vec<u8>> {
    let number = |number: u64| Some(number.to_string().into_bytes());
    let cred = task.cred();
    match what {
        b'p' | b'P' => number(task.pid().into()),
        b'i' | b'I' => number(task.tid().into()),
        b'u' => number(cred.uid.into()),
        b'g' => number(cred.gid.into()),
        b'd' => number(task.mm().image.lock().dumpable.into()),
        b's' => number(u64::from(signal.unsigned_abs())),
        b't' => number(u64::try_from(now().tv_sec).unwrap_or(0)),
        b'h' => Some(one_name(&task.world.hostname.lock())),
        b'e' => Some(one_name(&task.comm())),
        b'f' | b'E' => {
            let exe = task.mm().image.lock().exe.clone();
            let from = if what == b'f' { exe.rsplit(|byte| *byte == b'/').next() } else { None };
            Some(one_name(from.unwrap_or(&exe)))
        }
        b'c' => number(limit),
        b'C' => number(task.control().last_cpu() as u64),
        _ => None,
    }
}

/// What a guest chooses must not lead elsewhere (`cn_esc_printf()`).
fn one_name(text: &[u8]) -> Vec<u8> {
    let mut name: Vec<u8> = text.iter().map(|byte| if *byte == b'/' { b'!' } else { *byte }).collect();
    if matches!(name.as_slice(), b"" | b"." | b"..") {
        match name.first_mut() {
            Some(first) => *first = b'!',
            None => name.push(b'!'),
        }
    }
    name
}

/// A new file that nobody else has a name for or may read: whatever stood there goes first.
fn make(task: &Arc<Task>, name: &[u8]) -> Result<Arc<OpenFile>> {
    let env = Env::of(task, AT_FDCWD, name)?;
    // If that fails, the opening will.
    let _ = names::remove(&env, name, false);
    let mode = 0o600 & !task.fs().umask();
    let file = open_in(&env, name, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW, mode, Resolve::empty())?;
    let stat = file.file.stat()?;
    let regular = stat.st_mode & S_IFMT == S_IFREG && stat.st_nlink == 1;
    // A file system that gives files owners or modes of its own (fat) would show it to others.
    let private = stat.st_uid == env.cred.fsuid && stat.st_mode & 0o677 == 0o600;
    if regular && private { Ok(file) } else { Err(Errno::EACCES) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(pattern: &[u8], uses_pid: bool) -> String {
        let value = |what: u8| match what {
            b'p' => Some(b"42".to_vec()),
            b'e' => Some(one_name(b"a/b")),
            _ => None,
        };
        String::from_utf8(format(pattern, uses_pid, &value)).unwrap()
    }

    #[test]
    fn patterns() {
        assert_eq!(name(b"core", false), "core");
        assert_eq!(name(b"core", true), "core.42");
        assert_eq!(name(b"/x/%e.%p%", true), "/x/a!b.42");
        assert_eq!(name(b"%%%q.%p", false), "%.42");
        assert_eq!(name(b"", true), ".42");
    }

    #[test]
    fn names_stay_in_their_directory() {
        assert_eq!(one_name(b".."), b"!.");
        assert_eq!(one_name(b"../../x"), b"..!..!x");
        assert_eq!(one_name(b""), b"!");
    }
}
