//! The host's `/proc`, where the kernel process finds its workers: their maps, memory and times.
//!
//! One descriptor for the whole process, because what Landlock allows beneath it is a matter of the process. Root gets
//! an instance of procfs of its own that has nothing but processes in it (`subset=pid`, Linux 5.8): it must write
//! `/proc/PID/mem`, and in the host's own instance that right would open `/proc/sys` and `/proc/sysrq-trigger` as well.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::OnceLock;

use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};
use rustix::process::Pid;

use crate::seccomp::Held;

struct Proc {
    directory: OwnedFd,
    only_processes: bool,
    /// The descriptor that holds an instance of our own in its place.
    mount: Mutex<Option<OwnedFd>>,
}

const FLAGS: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

static PROC: OnceLock<Option<Proc>> = OnceLock::new();

fn proc() -> Option<&'static Proc> {
    let open = || {
        if rustix::process::geteuid().is_root()
            && let Some(mount) = own_instance()
        {
            let directory = rustix::fs::openat(&mount, ".", FLAGS, Mode::empty()).ok()?;
            return Some(Proc { directory, only_processes: true, mount: Mutex::new(Some(mount)) });
        }
        let directory = rustix::fs::open("/proc", FLAGS, Mode::empty()).ok()?;
        Some(Proc { directory, only_processes: false, mount: Mutex::new(None) })
    };
    PROC.get_or_init(open).as_ref()
}

/// The directory itself. The first call decides which one it is, and belongs before the confinement.
pub fn directory() -> Option<BorrowedFd<'static>> {
    proc().map(|proc| proc.directory.as_fd())
}

/// Takes an instance of our own out of its place, where somebody would have to at the end of the process: that waits for
/// a grace period of RCU (`namespace_unlock()` in fs/namespace.c). It lives on as long as its directory is held.
pub fn detach() {
    if let Some(proc) = PROC.get().and_then(Option::as_ref) {
        drop(proc.mount.lock().take());
    }
}

/// Whether writing below it reaches processes of ours only. Root without CAP_SYS_ADMIN (a container) may not: its
/// guests' call sites are not rewritten then, and trap.
pub fn may_write() -> bool {
    proc().is_some_and(|proc| proc.only_processes) || !rustix::process::geteuid().is_root()
}

/// A file of a worker.
pub fn open(process: &Held<'_>, name: &str, flags: OFlags) -> Option<File> {
    open_path(&format!("{}/{name}", process.number()), flags)
}

fn open_path(path: &str, flags: OFlags) -> Option<File> {
    rustix::fs::openat(directory()?, path, flags | OFlags::CLOEXEC, Mode::empty()).ok().map(File::from)
}

/// Numbers of the children that were made by this thread of this process, or in its name (`CLONE_PARENT`), dead ones that
/// nobody has reaped included.
pub fn children(thread: Pid) -> Option<Vec<i32>> {
    let path = format!("{}/task/{}/children", std::process::id(), thread.as_raw_nonzero());
    let mut text = String::new();
    std::io::Read::read_to_string(&mut open_path(&path, OFlags::RDONLY)?, &mut text).ok()?;
    text.split_ascii_whitespace().map(|number| number.parse().ok()).collect()
}

/// Bytes of memory that are this process's own: neither files nor shared (proc_pid_statm(5)).
pub fn own_memory() -> u64 {
    let mut text = String::new();
    if let Some(mut file) = open_path(&format!("{}/statm", std::process::id()), OFlags::RDONLY) {
        _ = std::io::Read::read_to_string(&mut file, &mut text);
    }
    let mut pages = text.split_ascii_whitespace().skip(1).map(|word| word.parse::<u64>().unwrap_or(0));
    let (resident, shared) = (pages.next().unwrap_or(0), pages.next().unwrap_or(0));
    resident.saturating_sub(shared).saturating_mul(coracle_abi::PAGE_SIZE)
}

/// A mount of procfs that is nowhere in the tree.
fn own_instance() -> Option<OwnedFd> {
    const CLOEXEC: u32 = 1;
    const FSCONFIG_SET_STRING: u32 = 1;
    const FSCONFIG_CMD_CREATE: u32 = 6;
    const NOSUID_NODEV_NOEXEC: u32 = 2 | 4 | 8;
    let done = |result: libc::c_long| (result >= 0).then_some(result as i32);
    // SAFETY: fsopen(2): a name; the descriptor is new and ours.
    let context =
        unsafe { OwnedFd::from_raw_fd(done(libc::syscall(libc::SYS_fsopen, c"proc".as_ptr(), CLOEXEC))?) };
    let number = std::os::fd::AsRawFd::as_raw_fd(&context);
    let configure = |command: u32, key: *const libc::c_char, value: *const libc::c_char| {
        // SAFETY: fsconfig(2): strings of ours, or null where the command takes none.
        done(unsafe { libc::syscall(libc::SYS_fsconfig, number, command, key, value, 0) })
    };
    let text = |text: &'static CStr| text.as_ptr();
    configure(FSCONFIG_SET_STRING, text(c"subset"), text(c"pid"))?;
    configure(FSCONFIG_CMD_CREATE, std::ptr::null(), std::ptr::null())?;
    // SAFETY: fsmount(2): the descriptor is new and ours.
    Some(unsafe {
        OwnedFd::from_raw_fd(done(libc::syscall(libc::SYS_fsmount, number, CLOEXEC, NOSUID_NODEV_NOEXEC))?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_touched_counts_and_what_is_given_back_does_not() {
        let before = own_memory();
        let much = std::hint::black_box(vec![1u8; 64 << 20]);
        assert!(own_memory() >= before + (60 << 20), "{before}, {}", own_memory());
        drop(much);
        assert!(own_memory() < before + (30 << 20), "{before}, {}", own_memory());
    }
}
