//! A child of this process, held so that its number cannot become another's while somebody uses it.
//!
//! A number proves nothing: the host gives it away again as soon as its owner was reaped. What does not change is a
//! pidfd, and a child that nobody has reaped yet keeps its number. So a child is proven when its pidfd is made, calls
//! that know numbers only (`process_vm_readv`, `tgkill`, paths of `/proc`) take the number from a [`Held`], and who lets
//! go of it last, after the child has ended, reaps.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use coracle_platform::Death;
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_open, pidfd_send_signal, waitid,
};

/// In `users`: it has ended, and gets no new ones.
const ENDED: u32 = 1 << 31;

/// One child.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    fd: OwnedFd,
    /// Who uses its number, and [`ENDED`].
    users: AtomicU32,
}

/// Its number means this child as long as this lives.
pub struct Held<'a>(&'a Child);

impl Child {
    /// The child that has this number. It must not have been reaped before it was proven here: whoever calls this has
    /// just cloned it, or shows afterwards that it was alive all the time ([`super::notify`]). A thread that is no
    /// leader, and what is no child of this process, is an error.
    pub fn prove(number: i32) -> Result<Child, Errno> {
        let pid = Pid::from_raw(number).ok_or(Errno::SRCH)?;
        let child = Child { pid, fd: pidfd_open(pid, PidfdFlags::empty())?, users: AtomicU32::new(0) };
        // ECHILD of all that is not a child.
        child.look()?;
        Ok(child)
    }

    /// This process, for tests that copy within it.
    #[cfg(test)]
    pub fn myself() -> Child {
        let pid = rustix::process::getpid();
        Child { pid, fd: pidfd_open(pid, PidfdFlags::empty()).unwrap(), users: AtomicU32::new(0) }
    }

    /// Its number, to be compared and shown. For calls there is [`Child::hold`].
    pub fn number(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// The number for as long as it is used; `None` once it has ended.
    pub fn hold(&self) -> Option<Held<'_>> {
        let mut users = self.users.load(Ordering::Relaxed);
        while users & ENDED == 0 {
            match self.users.compare_exchange_weak(users, users + 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Some(Held(self)),
                Err(now) => users = now,
            }
        }
        None
    }

    /// How it ended, if it has. It stays as it is.
    pub fn death(&self) -> Option<Death> {
        let status = self.look().ok().flatten()?;
        Some(match status.terminating_signal() {
            Some(signal) => Death::Signal(signal),
            None => Death::Exited(status.exit_status().unwrap_or(0)),
        })
    }

    /// It has ended: whoever uses its number now is the last, and it is reaped.
    pub fn release(&self) {
        if self.users.fetch_or(ENDED, Ordering::AcqRel) == 0 {
            self.reap();
        }
    }

    /// Kills it, whatever it does.
    pub fn kill(&self) {
        // It may have ended.
        let _ = pidfd_send_signal(&self.fd, Signal::KILL);
    }

    fn look(&self) -> Result<Option<WaitIdStatus>, Errno> {
        waitid(
            WaitId::PidFd(self.fd.as_fd()),
            WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT,
        )
    }

    fn reap(&self) {
        let _ = waitid(WaitId::PidFd(self.fd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    }
}

impl AsFd for Child {
    /// A pidfd: readable once the child has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Held<'_> {
    /// The number.
    pub fn number(&self) -> i32 {
        self.0.number()
    }

    /// Whether this number is one of its threads', now.
    pub fn has_thread(&self, tid: u32) -> bool {
        self.signal_thread(tid, 0)
    }

    /// Signals one of its threads; `false` if it has none with this number.
    pub fn signal_thread(&self, tid: u32, signal: i32) -> bool {
        // SAFETY: a plain system call. The host looks for the number among the threads of the group only.
        unsafe { libc::syscall(libc::SYS_tgkill, self.number(), tid, signal) == 0 }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if self.0.users.fetch_sub(1, Ordering::AcqRel) == ENDED | 1 {
            self.0.reap();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn sleeper() -> (std::process::Child, i32) {
        let child = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
        let number = child.id() as i32;
        (child, number)
    }

    fn exists(number: i32) -> bool {
        std::fs::exists(format!("/proc/{number}")).unwrap()
    }

    #[test]
    fn only_children_are_proven() {
        assert_eq!(Child::prove(1).unwrap_err(), Errno::CHILD);
        assert_eq!(Child::prove(0).unwrap_err(), Errno::SRCH);
        // Ourselves, and a thread of ours.
        assert_eq!(Child::prove(std::process::id() as i32).unwrap_err(), Errno::CHILD);
        let thread = std::thread::spawn(|| {
            let own = rustix::thread::gettid().as_raw_nonzero().get();
            Child::prove(own).unwrap_err()
        });
        // ENOENT since Linux 6.9, EINVAL before.
        assert!(matches!(thread.join().unwrap(), Errno::NOENT | Errno::INVAL));
    }

    #[test]
    fn a_number_stays_as_long_as_it_is_held() {
        let (_process, number) = sleeper();
        let child = Child::prove(number).unwrap();
        assert_eq!(child.death(), None);
        let (first, second) = (child.hold().unwrap(), child.hold().unwrap());
        assert!(first.has_thread(number as u32) && !first.has_thread(1));
        child.kill();
        while child.death().is_none() {
            std::thread::yield_now();
        }
        assert_eq!(child.death(), Some(Death::Signal(9)));
        child.release();
        assert!(child.hold().is_none());
        drop(first);
        assert!(exists(number));
        drop(second);
        assert!(!exists(number));
    }
}
