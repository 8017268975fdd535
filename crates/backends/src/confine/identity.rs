//! Who the kernel process is on the host. Started by root it becomes a user that nobody else is, before workers are born:
//! a fault in it then meets the host's permissions, as those of a stranger.

use std::io;
use std::os::unix::fs::MetadataExt;

use libc::c_long;

/// Users that no system gives to anybody: above what is assigned to containers (systemd's `uid-range`, up to 0x6fff_ffff),
/// below what programs take for negative numbers.
const FREE: u32 = 0x7000_0000;
/// Bits for the process's number (`PID_MAX_LIMIT` is 2^22) and for its namespace's.
const PID_BITS: u32 = 22;
const NAMESPACE_BITS: u32 = 5;
/// Where few are mapped: those that systemd gives to services for as long as they run, of which a container has none.
const FEW: std::ops::Range<u32> = 61184..65520;

/// Why there is no user for the sandbox alone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAlone {
    #[error("it may not change its user (CAP_SETUID, CAP_SETGID)")]
    Capability,
    #[error("this user namespace has no user to spare (see /proc/self/uid_map)")]
    Mapping,
    #[error("{0}")]
    Host(String),
}

/// Becomes this user, the group of the same number, and nothing else. `keep` is done when root's capabilities are all that
/// is left of it.
pub fn become_alone(user: u32, keep: impl FnOnce() -> io::Result<()>) -> Result<u32, NotAlone> {
    // What the process asked to be told of its parent's death is lost with its user.
    let (parent, signal) = (rustix::process::getppid(), parent_death_signal());
    let host = |what: &str| {
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EPERM) => NotAlone::Capability,
            Some(libc::EINVAL) => NotAlone::Mapping,
            _ => NotAlone::Host(format!("{what}: {error}")),
        }
    };
    let user_id = i64::from(user);
    call(libc::SYS_setgroups, [0, 0, 0]).map_err(|()| host("setgroups"))?;
    call(libc::SYS_setresgid, [user_id; 3]).map_err(|()| host("setresgid"))?;
    call(libc::SYS_prctl, [libc::PR_SET_KEEPCAPS.into(), 1, 0]).map_err(|()| host("PR_SET_KEEPCAPS"))?;
    call(libc::SYS_setresuid, [user_id; 3]).map_err(|()| host("setresuid"))?;
    keep().map_err(|error| NotAlone::Host(format!("capset: {error}")))?;
    if signal != 0 {
        call(libc::SYS_prctl, [libc::PR_SET_PDEATHSIG.into(), signal.into(), 0]).map_err(|()| host("prctl"))?;
        if rustix::process::getppid() != parent {
            // It has died meanwhile. SAFETY: does not return.
            unsafe { libc::_exit(1) };
        }
    }
    Ok(user)
}

/// Whether sandboxes run as this user.
pub fn is_sandbox(user: u32) -> bool {
    (FREE..FREE + (1 << (PID_BITS + NAMESPACE_BITS))).contains(&user) || FEW.contains(&user)
}

/// Memory of this process is nobody's to look at, itself through `/proc/self/mem` included: that would pass protections.
pub fn hide_memory() -> io::Result<()> {
    call(libc::SYS_prctl, [libc::PR_SET_DUMPABLE.into(), 0, 0]).map_err(|()| io::Error::last_os_error())
}

/// A user that no other process on this host has: a process's number is its own as long as it lives, and everything that
/// is born in the sandbox ends with it.
pub fn own_user() -> Result<u32, NotAlone> {
    let pid = std::process::id();
    let namespace = std::fs::metadata("/proc/self/ns/pid").map_or(0, |meta| meta.ino()) as u32;
    let chosen = FREE + ((namespace % (1 << NAMESPACE_BITS)) << PID_BITS) + pid % (1 << PID_BITS);
    let few = FEW.start + pid % (FEW.end - FEW.start);
    let read = |path| std::fs::read_to_string(path).map_err(|error| NotAlone::Host(format!("{path}: {error}")));
    let (users, groups) = (read("/proc/self/uid_map")?, read("/proc/self/gid_map")?);
    let free = [chosen, few].into_iter().find(|user| is_mapped(&users, *user) && is_mapped(&groups, *user));
    free.ok_or(NotAlone::Mapping)
}

/// Whether a map has this number (user_namespaces(7)): first inside, first outside, how many.
fn is_mapped(map: &str, number: u32) -> bool {
    map.lines().any(|line| {
        let mut fields = line.split_ascii_whitespace().map(|word| word.parse::<u64>().unwrap_or(0));
        let (first, count) = (fields.next().unwrap_or(0), fields.nth(1).unwrap_or(0));
        (first..first.saturating_add(count)).contains(&number.into())
    })
}

fn parent_death_signal() -> i32 {
    let mut signal = 0;
    // SAFETY: the host writes one integer.
    unsafe { libc::prctl(libc::PR_GET_PDEATHSIG, &raw mut signal) };
    signal
}

/// A call of this thread's, which is the process's only one: not by libc, which would look for others.
fn call(number: c_long, args: [i64; 3]) -> Result<(), ()> {
    let [a, b, c] = args;
    // SAFETY: calls that change who this process is, and take no pointers but null.
    if unsafe { libc::syscall(number, a, b, c, 0, 0) } == 0 { Ok(()) } else { Err(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_read() {
        let all = "         0          0 4294967295\n";
        assert!(is_mapped(all, 0) && is_mapped(all, FREE));
        let container = "0 100000 65536\n";
        assert!(is_mapped(container, FEW.start) && is_mapped(container, FEW.end) && !is_mapped(container, FREE));
        assert!(!is_mapped("0 1000 1\n", FEW.start) && !is_mapped("", 0) && !is_mapped("x y z\n", 5));
    }

    #[test]
    fn a_sandbox_is_nobody_else() {
        let user = own_user().unwrap_or(FEW.start);
        assert!(is_sandbox(user) && user != 65534 && !is_sandbox(65534) && !is_sandbox(0) && !is_sandbox(1000));
    }
}
