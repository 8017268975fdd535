//! Children of this process that are this program again: code before `main`, one inherited descriptor, death with
//! the parent.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

/// Calls a function before `main`, as C's `__attribute__((constructor))` does. The standard library has its
/// arguments by then: its own entry in `.init_array` has a priority, and so comes first.
#[macro_export]
macro_rules! before_main {
    ($name:ident, $function:path) => {
        #[used]
        #[unsafe(link_section = ".init_array")]
        static $name: extern "C" fn() = {
            extern "C" fn call() {
                $function()
            }
            call
        };
    };
}

/// Starts a child that inherits `passed` under its own number. With `mortal` it is killed when the calling *thread*
/// ends (`PR_SET_PDEATHSIG`), so that has to be one that lasts.
pub fn spawn(command: &mut Command, passed: BorrowedFd<'_>, mortal: bool) -> io::Result<Child> {
    let number = passed.as_raw_fd();
    let parent = std::process::id();
    // SAFETY: system calls only, all async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            if libc::fcntl(number, libc::F_SETFD, 0) < 0 {
                return Err(io::Error::last_os_error());
            }
            if mortal && libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) < 0 {
                return Err(io::Error::last_os_error());
            }
            // It may have died before the call above.
            if mortal && libc::getppid() as u32 != parent {
                libc::_exit(1);
            }
            Ok(())
        });
    }
    command.spawn()
}

/// A copy of an inherited descriptor; the inherited one is no longer inherited by others.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    if number < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: only asks about, and marks, a number that may or may not be open.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, as was just seen, and nobody in this new process closes it.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    borrowed.try_clone_to_owned()
}

pub use crate::inherit::note_broken_pipes;

/// What Rust's runtime does before `main`: writing to a closed pipe is an error and no signal.
pub fn ignore_broken_pipes() {
    note_broken_pipes();
    // SAFETY: no handler is installed, only the disposition changes.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// What Rust's runtime does for every program, for one that runs before its `main`: descriptors 0 to 2 are open, so that
/// no file gets their numbers, and broken pipes are errors.
pub fn stand_in_for_runtime() {
    for number in 0..3 {
        // SAFETY: asks about a number; the file that takes its place, the lowest free one, is nobody else's.
        unsafe {
            if libc::fcntl(number, libc::F_GETFD) < 0 {
                libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
            }
        }
    }
    ignore_broken_pipes();
}

/// The calling thread, and those that it will start, leave these signals to others.
pub fn leave_signals(list: &[i32]) {
    // SAFETY: a set on the stack; what is changed is this thread's mask.
    unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut set);
        for signal in list {
            libc::sigaddset(&raw mut set, *signal);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
    }
}

/// These signals do again to this process what they do to any, and the calling thread takes them.
pub fn take_signals(list: &[i32]) {
    // SAFETY: no handler is installed, dispositions and this thread's mask change.
    unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut set);
        for signal in list {
            libc::signal(*signal, libc::SIG_DFL);
            libc::sigaddset(&raw mut set, *signal);
        }
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
    }
}

/// Ends the process without the exit handlers of a program whose `main` never ran.
pub fn exit_at_once(status: u8) -> ! {
    // SAFETY: does not return.
    unsafe { libc::_exit(i32::from(status)) }
}
