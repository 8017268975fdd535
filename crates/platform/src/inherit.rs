//! What `exec` hands on to a program besides descriptors: the umask and the signals that are ignored (execve(2)).
//!
//! This process is one that stands for another: what its caller ignores, the guest's program ignores. What it ignores for
//! itself is not the caller's: writing to a closed pipe is an error for Rust programs, whose runtime has SIGPIPE ignored
//! before `main`. So that one is remembered as it was before ([`note_broken_pipes`], [`crate::child`]). Programs that nobody
//! asked so early start others with the default (`std::process::Command` does so, too).

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// SIGPIPE was ignored when this process began.
static PIPES_IGNORED: AtomicBool = AtomicBool::new(false);

/// What signals did when somebody first asked.
static IGNORED: OnceLock<u64> = OnceLock::new();

/// Last signal (`_NSIG`).
const LAST: i32 = 64;

/// Remembers what SIGPIPE does. To be called before something ignores it.
pub fn note_broken_pipes() {
    PIPES_IGNORED.store(does_ignore(libc::SIGPIPE), Ordering::Relaxed);
}

/// The signals that were ignored when this was first called, as a set of bits: signal N is bit N - 1. To be called before
/// any handler is installed.
pub fn ignored() -> u64 {
    *IGNORED.get_or_init(|| {
        let ignores = |signal: &i32| match *signal {
            libc::SIGPIPE => PIPES_IGNORED.load(Ordering::Relaxed),
            libc::SIGKILL | libc::SIGSTOP => false,
            signal => does_ignore(signal),
        };
        (1..=LAST).filter(ignores).fold(0, |set, signal| set | 1 << (signal - 1))
    })
}

/// One of them.
pub fn ignores(signal: i32) -> bool {
    (1..=LAST).contains(&signal) && ignored() & (1 << (signal - 1)) != 0
}

/// Asks the host itself: libc keeps some numbers to itself.
fn does_ignore(signal: i32) -> bool {
    // `struct sigaction` of the kernel: handler, flags, restorer, mask.
    let mut action = [0u64; 4];
    // SAFETY: nothing is set; the buffer has the size of what is filled in, for a mask of eight bytes.
    let result = unsafe {
        libc::syscall(
            libc::SYS_rt_sigaction,
            signal,
            std::ptr::null::<u64>(),
            action.as_mut_ptr(),
            size_of::<u64>(),
        )
    };
    result == 0 && action[0] == libc::SIG_IGN as u64
}

/// The umask of this process. It can only be asked for by setting it, which other threads would notice; `/proc` tells
/// (proc_pid_status(5)).
pub fn umask() -> u32 {
    const USUAL: u32 = 0o022;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.and_then(|text| u32::from_str_radix(text.trim(), 8).ok()).unwrap_or(USUAL)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

    /// In a process of its own: dispositions are everybody's.
    #[test]
    fn what_the_host_says_is_what_is_set() {
        const BEGUN: &str = "CORACLE_TEST_BEGUN";
        if std::env::var_os(BEGUN).is_some() {
            return as_begun();
        }
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "inherit::tests::what_the_host_says_is_what_is_set"]).env(BEGUN, "1");
        // SAFETY: async-signal-safe calls only.
        unsafe {
            command.pre_exec(|| {
                libc::signal(libc::SIGHUP, libc::SIG_IGN);
                libc::signal(libc::SIGUSR2, libc::SIG_IGN);
                for signal in [libc::SIGUSR1, libc::SIGINT, libc::SIGQUIT] {
                    libc::signal(signal, libc::SIG_DFL);
                }
                libc::umask(0o027);
                Ok(())
            });
        }
        assert!(command.status().unwrap().success());
    }

    fn as_begun() {
        assert!(ignores(libc::SIGHUP) && ignores(libc::SIGUSR2) && !ignores(libc::SIGUSR1));
        assert_eq!(ignored() & 0xff, 1 << (libc::SIGHUP - 1));
        assert!(!ignores(0) && !ignores(65) && !ignores(libc::SIGPIPE));
        assert_eq!(umask(), 0o027);
    }
}
