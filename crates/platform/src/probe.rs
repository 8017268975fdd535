//! What this host can do, found out by doing it: an operation may be allowed by its permissions and refused
//! by a container's filter, or succeed and be useless. `coracle doctor` is the only user.
//!
//! Probes leave nothing behind, but [`user_namespace`] changes its process for good and [`kvm_exit_cost`] may
//! hang on a broken host: run those two in a process of their own and bound its time.

mod kvm;
mod seccomp;

use std::ffi::{CStr, c_int, c_long, c_void};
use std::io;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};

pub use kvm::{kvm_api_version, kvm_exit_cost};
pub use seccomp::seccomp_addfd;

/// The step of a probe that the host refused.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}")]
pub struct Refusal {
    pub step: &'static str,
    pub source: io::Error,
}

impl Refusal {
    fn last(step: &'static str) -> Self {
        Self { step, source: io::Error::last_os_error() }
    }

    fn at<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> Self {
        move |err| Self { step, source: err.into() }
    }
}

/// Seals a page and tries to unmap it. The page stays until the process ends.
pub fn mseal() -> Result<(), Refusal> {
    const PAGE: usize = 4096;
    // SAFETY: a fresh private mapping at a place of the host's choice; nothing else knows its address.
    let page = unsafe {
        libc::mmap(std::ptr::null_mut(), PAGE, libc::PROT_READ, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    };
    if page == libc::MAP_FAILED {
        return Err(Refusal::last("mmap"));
    }
    // SAFETY: the page mapped above.
    let sealed = unsafe { libc::syscall(libc::SYS_mseal, page, PAGE, 0_usize) };
    if sealed != 0 {
        let refusal = Refusal::last("mseal");
        // SAFETY: the page mapped above, which nobody uses.
        unsafe { libc::munmap(page, PAGE) };
        return Err(refusal);
    }
    // SAFETY: as above; it is meant to fail.
    if unsafe { libc::munmap(page, PAGE) } == 0 {
        return Err(Refusal { step: "munmap of a sealed page", source: io::Error::other("it was not refused") });
    }
    Ok(())
}

/// What the host tells its own programs of the areas that rseq(2) takes: `AT_RSEQ_FEATURE_SIZE`, `AT_RSEQ_ALIGN`.
pub fn rseq_features() -> Option<(u64, u64)> {
    // SAFETY: getauxval(3) reads a table that libc keeps, and knows every key.
    let (size, align) = unsafe { (libc::getauxval(27), libc::getauxval(28)) };
    (size != 0).then_some((size, align))
}

/// Is rseq(2) there? A registration with impossible arguments says EINVAL (or EBUSY, EPERM once libc has
/// registered), a host without it ENOSYS.
pub fn rseq() -> bool {
    let null = std::ptr::null_mut::<c_void>();
    // SAFETY: a null area of size 0 is refused before anything is looked at (kernel/rseq.c).
    let answer = unsafe { libc::syscall(libc::SYS_rseq, null, 0_u32, 0_i32, 0_u32) };
    answer == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ENOSYS)
}

/// Version of Landlock's interface, landlock_create_ruleset(2).
pub fn landlock_abi() -> io::Result<c_long> {
    const LANDLOCK_CREATE_RULESET_VERSION: u32 = 1;
    let null = std::ptr::null_mut::<c_void>();
    // SAFETY: with this flag no attributes are read and no descriptor is made.
    let answer = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, null, 0_usize, LANDLOCK_CREATE_RULESET_VERSION)
    };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

/// Reads one byte of another process, as the kernel reads guest memory.
pub fn read_process(pid: c_int, address: u64) -> io::Result<()> {
    let mut byte = 0_u8;
    let local = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let address = usize::try_from(address).map_err(io::Error::other)?;
    let remote = libc::iovec { iov_base: std::ptr::without_provenance_mut(address), iov_len: 1 };
    // SAFETY: one byte into a local variable; the remote address is the other process's.
    let got = unsafe { libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0) };
    if got == 1 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes namespaces for user, mounts and network, becomes root in them, and mounts something there.
pub fn user_namespace() -> Result<(), Refusal> {
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let flags = UnshareFlags::NEWUSER | UnshareFlags::NEWNS | UnshareFlags::NEWNET;
    // SAFETY: no CLONE_FILES or other sharing is undone that Rust code could rely on.
    unsafe { unshare_unsafe(flags) }.map_err(Refusal::at("unshare"))?;
    // user_namespaces(7): the gid map of an unprivileged process needs setgroups denied first.
    std::fs::write("/proc/self/setgroups", "deny").map_err(Refusal::at("/proc/self/setgroups"))?;
    std::fs::write("/proc/self/uid_map", format!("0 {uid} 1")).map_err(Refusal::at("/proc/self/uid_map"))?;
    std::fs::write("/proc/self/gid_map", format!("0 {gid} 1")).map_err(Refusal::at("/proc/self/gid_map"))?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(Refusal::at("making mounts private"))?;
    let options: Option<&CStr> = None;
    mount("tmpfs", "/tmp", "tmpfs", MountFlags::empty(), options).map_err(Refusal::at("mounting a tmpfs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_reads_itself_but_not_at_null() {
        let byte = 7_u8;
        let pid = c_int::try_from(std::process::id()).unwrap();
        assert!(read_process(pid, (&raw const byte).addr() as u64).is_ok());
        assert_eq!(read_process(pid, 0).unwrap_err().raw_os_error(), Some(libc::EFAULT));
    }

    /// Whatever the host answers, probing is harmless and repeatable.
    #[test]
    fn probes_answer_twice_the_same() {
        let twice = || (mseal().is_ok(), rseq(), landlock_abi().is_ok(), seccomp_addfd().is_ok());
        assert_eq!(twice(), twice());
    }
}
