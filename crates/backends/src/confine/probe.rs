//! The walls tried out: a process that stands behind them attempts what a kernel process never does. `coracle doctor` and
//! the tests run this in a child, since there is no way back.

use std::ffi::c_long;
use std::io;
use std::path::PathBuf;

use super::{ConfineError, Enforced, Entered, LastWords, Needs, Reach, Right, close, enter};

/// One attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    pub what: &'static str,
    /// What came of it: 0, or the number of an error.
    pub got: i32,
    /// What should.
    pub want: i32,
    /// The wall that should be in the way is one that this host has.
    pub counts: bool,
}

/// A file that was named, and files that were not.
const NAMED: &str = "/usr/bin/env\0";
const OTHERS: [&str; 2] = ["/etc/passwd\0", "/etc/shadow\0"];

/// Confines this process as if it served `/usr` alone, and makes the attempts.
pub fn attempts() -> Result<(Enforced, Vec<Attempt>), ConfineError> {
    let reach = Reach { places: vec![(PathBuf::from("/usr"), Right::ReadTree)], ..Reach::default() };
    let Entered { enforced, .. } = enter(&reach, |_| ())?;
    close(reach.needs, LastWords { go_on: true, ..LastWords::default() })?;
    let files = enforced != Enforced::Nothing;
    let signals = enforced == Enforced::All;
    let mut made = Vec::new();
    let mut attempt = |what, counts, want, got| made.push(Attempt { what, got, want, counts });

    attempt("read a file that was named", true, 0, open(NAMED, libc::O_RDONLY));
    for path in OTHERS {
        attempt(path.trim_end_matches('\0'), files, libc::EACCES, open(path, libc::O_RDONLY));
    }
    // An ordinary user has no procfs of its own (`host_proc.rs`).
    let root = rustix::process::geteuid().is_root();
    attempt("read of other processes", files && root, libc::EACCES, open("/proc/1/cmdline\0", libc::O_RDONLY));
    attempt("write a file", files, libc::EACCES, open(NAMED, libc::O_WRONLY));
    let create = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
    attempt("make a file", files, libc::EACCES, open("/usr/coracle-was-here\0", create));
    attempt("signal process 1", signals, libc::EPERM, call(libc::SYS_kill, [1, 0, 0, 0, 0, 0]));
    attempt("a thread", true, 0, std::thread::Builder::new().spawn(|| ()).map_or_else(errno, |_| 0));

    let path = c"/bin/true".as_ptr() as u64;
    let execute = (libc::PROT_READ | libc::PROT_EXEC) as u64;
    let anonymous = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
    let calls: [(&str, c_long, [u64; 6]); 19] = [
        ("execve", libc::SYS_execve, [path, 0, 0, 0, 0, 0]),
        ("fork", libc::SYS_fork, [0; 6]),
        ("clone of a process", libc::SYS_clone, [libc::SIGCHLD as u64, 0, 0, 0, 0, 0]),
        ("clone into a namespace", libc::SYS_clone, [libc::CLONE_NEWUSER as u64, 0, 0, 0, 0, 0]),
        ("socket of the network", libc::SYS_socket, [libc::AF_INET as u64, libc::SOCK_STREAM as u64, 0, 0, 0, 0]),
        ("socket of the host", libc::SYS_socket, [libc::AF_UNIX as u64, libc::SOCK_STREAM as u64, 0, 0, 0, 0]),
        ("raw socket", libc::SYS_socket, [libc::AF_PACKET as u64, libc::SOCK_RAW as u64, 0, 0, 0, 0]),
        ("connect", libc::SYS_connect, [0, path, 2, 0, 0, 0]),
        ("ptrace", libc::SYS_ptrace, [0; 6]),
        ("executable memory", libc::SYS_mmap, [0, 4096, execute, anonymous, u64::MAX, 0]),
        ("TIOCSTI", libc::SYS_ioctl, [0, libc::TIOCSTI, path, 0, 0, 0]),
        ("F_SETOWN", libc::SYS_fcntl, [0, libc::F_SETOWN as u64, 1, 0, 0, 0]),
        ("mount", libc::SYS_mount, [0; 6]),
        ("unshare", libc::SYS_unshare, [libc::CLONE_NEWNS as u64, 0, 0, 0, 0, 0]),
        ("setuid", libc::SYS_setuid, [0; 6]),
        ("bpf", libc::SYS_bpf, [0; 6]),
        ("io_uring_setup", libc::SYS_io_uring_setup, [1, 0, 0, 0, 0, 0]),
        ("finit_module", libc::SYS_finit_module, [u64::MAX, path, 0, 0, 0, 0]),
        ("x32 getpid", 0x4000_0000 | libc::SYS_getpid, [0; 6]),
    ];
    for (what, number, args) in calls {
        attempt(what, true, libc::EPERM, call(number, args));
    }
    attempt("chmod", true, libc::EPERM, call(libc::SYS_chmod, [path, 0o755, 0, 0, 0, 0]));
    Ok((enforced, made))
}

/// Confines this process and makes a call that ends it; `report` is said on stdout then.
pub fn last_call(report: Vec<u8>, name: fn(u64) -> Option<&'static str>) -> Result<(), ConfineError> {
    let words = LastWords { report: Some((1, report)), exit_status: 125, name: Some(name), go_on: false };
    close(Needs::default(), words)?;
    call(libc::SYS_execve, [c"/bin/true".as_ptr() as u64, 0, 0, 0, 0, 0]);
    Ok(())
}

fn open(path: &'static str, flags: i32) -> i32 {
    // A descriptor that was made is no error; it closes with the process.
    call(libc::SYS_openat, [libc::AT_FDCWD as u64, path.as_ptr() as u64, flags as u64, 0o600, 0, 0])
}

/// The error of a call, 0 if there was none. (A child that should not be here ends at once.)
fn call(number: c_long, args: [u64; 6]) -> i32 {
    let [a, b, c, d, e, f] = args;
    // SAFETY: calls of this file only: their pointers are null or strings that live for ever, and what they make, if
    // the walls let them, changes no memory of this process.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result == 0 && matches!(number, libc::SYS_fork | libc::SYS_clone) {
        // SAFETY: does not return.
        unsafe { libc::_exit(0) };
    }
    if result == -1 { errno(io::Error::last_os_error()) } else { 0 }
}

fn errno(error: io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}
