//! Does seccomp's user notification work here, with a descriptor injected as the answer of a call?

use std::ffi::{c_long, c_ulong};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::mpsc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use super::Refusal;

/// An answer that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(2);

/// One instruction of classic BPF.
const fn op(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

/// A thread takes a filter that notifies of getppid and calls it; this one injects a descriptor as the
/// answer. Filters are per thread, so nothing remains when the thread has ended.
pub fn seccomp_addfd() -> Result<(), Refusal> {
    let (to_us, listener) = mpsc::channel();
    let asking = std::thread::Builder::new()
        .spawn(move || {
            let listener = install();
            let installed = listener.is_ok();
            // The other end waits until it has this.
            let _ = to_us.send(listener);
            installed.then(getppid)
        })
        .map_err(Refusal::at("starting a thread"))?;
    let listener = listener.recv().map_err(|_| io::Error::other("the thread ended early"));
    let listener = listener.map_err(Refusal::at("asking"))?;
    // Dropping the listener wakes a thread that still waits, with ENOSYS (seccomp_unotify(2)).
    let injected = listener.and_then(|listener| inject(&listener));
    let answer = asking.join().ok().flatten();
    injected?;
    match answer.map(RawFd::try_from) {
        Some(Ok(fd)) if fd >= 0 => {
            // SAFETY: the descriptor was made by the injection, as the answer says, and nobody else has it.
            let injected = unsafe { OwnedFd::from_raw_fd(fd) };
            rustix::io::fcntl_getfd(&injected).map_err(Refusal::at("the injected descriptor"))?;
            Ok(())
        }
        _ => Err(Refusal { step: "the answer", source: io::Error::other("the call did not get the descriptor") }),
    }
}

fn getppid() -> c_long {
    // SAFETY: a call without arguments.
    unsafe { libc::syscall(libc::SYS_getppid) }
}

/// Gives this thread the filter.
fn install() -> Result<OwnedFd, Refusal> {
    const NR: u32 = std::mem::offset_of!(libc::seccomp_data, nr) as u32;
    let mut program = [
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, NR),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_getppid as u32),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_USER_NOTIF),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    rustix::thread::set_no_new_privs(true).map_err(Refusal::at("PR_SET_NO_NEW_PRIVS"))?;
    let program = libc::sock_fprog { len: 4, filter: program.as_mut_ptr() };
    // SAFETY: the program outlives the call, which copies it. It lets everything but getppid pass.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            c_ulong::from(libc::SECCOMP_SET_MODE_FILTER),
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        )
    };
    match RawFd::try_from(fd) {
        // SAFETY: a descriptor that the call has just made.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(Refusal::last("installing a filter with a listener")),
    }
}

/// Takes the one notification and answers it with a new descriptor.
fn inject(listener: &OwnedFd) -> Result<(), Refusal> {
    let patience = rustix::time::Timespec::try_from(PATIENCE).unwrap_or_default();
    let ready = poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&patience));
    if ready.map_err(Refusal::at("waiting for the notification"))? == 0 {
        return Err(Refusal { step: "waiting for the notification", source: io::ErrorKind::TimedOut.into() });
    }
    // SAFETY: a struct of integers, for which zeroes are values; the call below wants it zeroed.
    let mut notification: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the struct is the one that this request fills, and lives on.
    let got = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut notification) };
    if got != 0 {
        return Err(Refusal::last("taking the notification"));
    }
    let source = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty());
    let source = source.map_err(Refusal::at("/dev/null"))?;
    let order = libc::seccomp_notif_addfd {
        id: notification.id,
        flags: libc::SECCOMP_ADDFD_FLAG_SEND as u32,
        srcfd: source.as_raw_fd() as u32,
        newfd: 0,
        newfd_flags: libc::O_CLOEXEC as u32,
    };
    // SAFETY: the struct is the one that this request reads.
    let fd = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ADDFD, &raw const order) };
    if fd >= 0 { Ok(()) } else { Err(Refusal::last("SECCOMP_ADDFD_FLAG_SEND")) }
}
