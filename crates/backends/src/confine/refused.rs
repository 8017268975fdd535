//! What happens when the kernel process makes a host call that its filter does not allow: a line that says which, and
//! the end of the sandbox. Either Coracle has a bug or something has taken the process over.

use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::RawFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Said by a process that ends here, after its line on stderr.
#[derive(Debug, Default)]
pub struct LastWords {
    /// Where, and the bytes; for whoever waits for a report.
    pub report: Option<(RawFd, Vec<u8>)>,
    pub exit_status: u8,
    /// Names of host calls, for the line. Called in a signal handler.
    pub name: Option<fn(u64) -> Option<&'static str>>,
    /// Only say so and refuse with `EPERM`: for probes.
    pub go_on: bool,
}

static WORDS: OnceLock<LastWords> = OnceLock::new();
/// The first thread to come here speaks for all.
static SPOKEN: AtomicBool = AtomicBool::new(false);

/// Installs the handler. The first caller's words count.
pub fn prepare(words: LastWords) -> io::Result<()> {
    let _ = WORDS.set(words);
    // SAFETY: all zeros is a valid action, made complete below; the handler only does what a handler may.
    let done = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = refused as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut())
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

extern "C" fn refused(_signal: c_int, _info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the host passes a ucontext, which is this thread's alone.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    // The host has put the number back into RAX (`syscall_rollback()`).
    let number = registers[libc::REG_RAX as usize] as u64;
    let words = WORDS.get();
    if words.is_some_and(|words| words.go_on) {
        registers[libc::REG_RAX as usize] = -i64::from(libc::EPERM);
        return;
    }
    if !SPOKEN.swap(true, Ordering::SeqCst) {
        let mut line = Line::default();
        line.text(b"coracle: error: the kernel process asked the host for call ");
        line.number(number);
        if let Some(name) = words.and_then(|words| words.name).and_then(|name| name(number)) {
            line.text(b" (");
            line.text(name.as_bytes());
            line.text(b")");
        }
        line.text(b", which its filter does not allow; the sandbox is ended. Please report this\n");
        put(2, line.bytes());
        if let Some((fd, bytes)) = words.and_then(|words| words.report.as_ref()) {
            put(*fd, bytes);
        }
    }
    // Guests end with this process. SAFETY: does not return.
    unsafe { libc::_exit(words.map_or(1, |words| i32::from(words.exit_status))) }
}

fn put(fd: RawFd, bytes: &[u8]) {
    // SAFETY: bytes of ours. If it fails there is nobody left to tell.
    unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
}

/// A line put together without memory from the heap, whose locks the interrupted thread may hold.
struct Line {
    bytes: [u8; 256],
    len: usize,
}

impl Default for Line {
    fn default() -> Line {
        Line { bytes: [0; 256], len: 0 }
    }
}

impl Line {
    fn text(&mut self, text: &[u8]) {
        for byte in text {
            if let Some(place) = self.bytes.get_mut(self.len) {
                *place = *byte;
                self.len += 1;
            }
        }
    }

    fn number(&mut self, mut number: u64) {
        let mut digits = [0; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.text(&digits[at..]);
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_put_together_without_a_heap() {
        let mut line = Line::default();
        line.text(b"call ");
        line.number(0);
        line.text(b" and ");
        line.number(u64::MAX);
        assert_eq!(line.bytes(), format!("call 0 and {}", u64::MAX).as_bytes());
        line.text(&[b'x'; 300]);
        assert_eq!(line.bytes().len(), 256);
    }
}
