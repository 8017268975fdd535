//! The host calls that threads of the kernel process may make once guests run. This file is the complete list;
//! docs/security.md shows it.
//!
//! Paths are Landlock's business (`landlock.rs`), not this filter's: it cannot see them. Calls of the first table are
//! allowed whatever their arguments are, which the host decides without running the filter (`seccomp_cache_prepare()`
//! in kernel/seccomp.c); those of `checked` have rules about arguments and cost some tens of nanoseconds more.

use libc::c_long;

use crate::bpf::{ALLOW, ARCH, AUDIT_ARCH_X86_64, Instruction, NUMBER, Program, high, low};

/// Host calls for one purpose.
#[derive(Clone, Copy)]
pub struct Group {
    pub purpose: &'static str,
    /// libc's name of the number, and the number.
    calls: &'static [(&'static str, c_long)],
}

impl Group {
    /// Names as in syscalls(2).
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.calls.iter().map(|(name, _)| name.trim_start_matches("SYS_"))
    }
}

macro_rules! group {
    ($purpose:literal: $($name:ident)*) => {
        Group { purpose: $purpose, calls: &[$((stringify!($name), libc::$name)),*] }
    };
}

/// For every sandbox, hottest first.
pub const ALWAYS: &[Group] = &[
    group!("wait for guests and wake them":
        SYS_futex),
    group!("guest memory, of workers only (the domain sees to that)":
        SYS_process_vm_readv SYS_process_vm_writev),
    group!("descriptors it holds":
        SYS_read SYS_write SYS_pread64 SYS_pwrite64 SYS_lseek SYS_fstat SYS_close SYS_poll SYS_ppoll
        SYS_readv SYS_writev SYS_preadv SYS_pwritev SYS_pwritev2 SYS_dup SYS_ftruncate SYS_fallocate
        SYS_fsync SYS_fdatasync SYS_fstatfs SYS_getdents64),
    group!("look at files and open them, as the domain allows":
        SYS_statx SYS_openat2 SYS_openat SYS_open SYS_newfstatat SYS_readlinkat SYS_getxattr SYS_listxattr),
    group!("readiness and files in memory":
        SYS_memfd_create SYS_eventfd2 SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_wait SYS_epoll_pwait
        SYS_epoll_pwait2),
    group!("hold, stop and reap workers; signals to itself":
        SYS_pidfd_open SYS_pidfd_send_signal SYS_waitid SYS_getpgid SYS_tgkill SYS_kill),
    group!("place its own threads":
        SYS_sched_setaffinity SYS_sched_getaffinity SYS_sched_yield),
    group!("clocks, sleep, random bytes":
        SYS_clock_gettime SYS_clock_getres SYS_clock_nanosleep SYS_nanosleep SYS_getrandom
        SYS_restart_syscall),
    group!("its own memory, without new code":
        SYS_munmap SYS_mremap SYS_madvise SYS_brk),
    group!("its own threads and signal handlers":
        SYS_gettid SYS_getpid SYS_rseq SYS_set_robust_list SYS_sigaltstack SYS_rt_sigprocmask
        SYS_rt_sigaction SYS_rt_sigreturn SYS_exit SYS_exit_group SYS_membarrier),
    group!("facts about itself and the host":
        SYS_getuid SYS_geteuid SYS_getgid SYS_getegid SYS_getgroups SYS_getcwd SYS_sysinfo SYS_uname
        SYS_getrusage),
    group!("the control socket: made before, named and removed where the domain allows":
        SYS_bind SYS_listen SYS_accept4 SYS_recvmsg SYS_sendmsg SYS_recvfrom SYS_sendto SYS_shutdown
        SYS_getsockopt SYS_setsockopt SYS_unlink SYS_unlinkat),
];

/// With a directory that may be changed (`--write`, `--bind` without `:ro`, `--save`).
pub const WRITABLE: &[Group] = &[group!("change the trees that were named":
        SYS_mkdir SYS_mkdirat SYS_mknodat SYS_symlinkat SYS_linkat SYS_renameat2 SYS_fchmod
        SYS_fchmodat SYS_fchownat SYS_utimensat SYS_setxattr SYS_removexattr)];

/// With `--net host`.
pub const NETWORK: &[Group] = &[group!("the host's network":
        SYS_connect SYS_getsockname SYS_getpeername)];

/// What the filter depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Host files may be made, changed and removed.
    pub writable: bool,
    /// Host sockets may be opened.
    pub network: bool,
}

/// Calls with rules about their arguments; the comment of each says what they are.
pub const CHECKED: &[(&str, &str)] = &[
    (
        "ioctl",
        "decide what the filter of workers asks; what a terminal answers; bytes waiting; one mapping of a worker; which of its pages hold something",
    ),
    ("fcntl", "flags and copies of descriptors, seals of files in memory; no owners, signals, leases or locks"),
    ("mmap", "no executable memory"),
    ("mprotect", "no executable memory"),
    ("clone", "threads of this process only; clone3 says ENOSYS, so that libc uses clone"),
    ("prctl", "names of threads, the auxiliary vector"),
    ("prlimit64", "ask about its own limits"),
    ("socketpair", "AF_UNIX streams"),
    ("socket", "with --net host: AF_INET and AF_INET6, streams and datagrams"),
];

const SECCOMP_IOCTL_NOTIF_RECV: u32 = 0xc050_2100;
const SECCOMP_IOCTL_NOTIF_SEND: u32 = 0xc018_2101;
const SECCOMP_IOCTL_NOTIF_ADDFD: u32 = 0x4018_2103;
const SECCOMP_IOCTL_NOTIF_ID_VALID: u32 = 0x4008_2102;
const SECCOMP_IOCTL_NOTIF_SET_FLAGS: u32 = 0x4008_2104;
/// Settings and size of terminals; never TIOCSTI. (`struct termios2` forms first, which is what rustix asks for.)
const TERMINAL: [u32; 9] = [
    0x802c_542a, // TCGETS2
    0x402c_542b, // TCSETS2, TCSETSW2, TCSETSF2
    0x402c_542c,
    0x402c_542d,
    libc::TCGETS as u32,
    libc::TCSETS as u32,
    libc::TCSETSW as u32,
    libc::TCSETSF as u32,
    libc::TIOCGWINSZ as u32,
];
const PR_GET_AUXV: u32 = 0x4155_5856;
/// What pthread_create asks for: glibc, and musl with the forgotten CLONE_DETACHED.
const THREAD: u32 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID) as u32;
const ENOSYS: u32 = 0x0005_0000 | libc::ENOSYS as u32;

/// What is done about a number.
#[derive(Clone, Copy)]
enum Rule {
    Allow,
    /// Ends every path with a verdict.
    Check(fn(&mut Program)),
}

/// Numbers that are compared one by one, below the tree.
const LEAF: usize = 8;

/// The filter. What it does not allow is trapped.
pub fn filter(needs: Needs) -> Vec<Instruction> {
    let mut p = Program { code: Vec::new(), base: 0 };
    p.load(ARCH);
    p.need_equal(AUDIT_ARCH_X86_64);
    // x32 numbers equal none of these.
    p.load(NUMBER);
    let mut rules = rules(needs);
    rules.sort_unstable_by_key(|(number, _)| *number);
    tree(&mut p, &rules);
    p.code
}

/// A tree of comparisons: the host tries every number when the filter is installed, and that is start-up time.
fn tree(p: &mut Program, rules: &[(u32, Rule)]) {
    if rules.len() > LEAF {
        let (below, above) = rules.split_at(rules.len() / 2);
        p.branch(above[0].0, |p| tree(p, below));
        return tree(p, above);
    }
    let mut allowed = Vec::with_capacity(LEAF);
    for (number, rule) in rules {
        match rule {
            Rule::Allow => allowed.push(*number),
            Rule::Check(check) => p.when(*number, check),
        }
    }
    p.need_one_of(&allowed);
    p.finish(ALLOW);
}

fn rules(needs: Needs) -> Vec<(u32, Rule)> {
    let mut groups: Vec<&Group> = ALWAYS.iter().collect();
    groups.extend(WRITABLE.iter().filter(|_| needs.writable));
    groups.extend(NETWORK.iter().filter(|_| needs.network));
    let mut rules: Vec<(u32, Rule)> =
        groups.iter().flat_map(|group| group.calls).map(|(_, number)| (*number as u32, Rule::Allow)).collect();
    let mut check = |number: c_long, check| rules.push((number as u32, Rule::Check(check)));
    check(libc::SYS_ioctl, ioctl);
    check(libc::SYS_fcntl, fcntl);
    check(libc::SYS_mmap, no_code);
    check(libc::SYS_mprotect, no_code);
    check(libc::SYS_clone, clone);
    // Its flags lie in memory, where a filter cannot look.
    check(libc::SYS_clone3, |p| p.finish(ENOSYS));
    check(libc::SYS_prctl, prctl);
    check(libc::SYS_prlimit64, prlimit);
    check(libc::SYS_socketpair, socketpair);
    if needs.network {
        check(libc::SYS_socket, socket);
    }
    rules
}

fn ioctl(p: &mut Program) {
    p.load(high(1));
    p.need_equal(0);
    p.load(low(1));
    let notify = [
        SECCOMP_IOCTL_NOTIF_RECV,
        SECCOMP_IOCTL_NOTIF_SEND,
        SECCOMP_IOCTL_NOTIF_ADDFD,
        SECCOMP_IOCTL_NOTIF_ID_VALID,
        SECCOMP_IOCTL_NOTIF_SET_FLAGS,
    ];
    let others = [libc::FIONREAD as u32, libc::FIONBIO as u32, libc::FIOCLEX as u32];
    let others = [&others[..], &[crate::seccomp::PROCMAP_QUERY, crate::seccomp::PAGEMAP_SCAN]].concat();
    p.need_one_of(&[&notify[..], &TERMINAL, &others].concat());
    p.finish(ALLOW);
}

fn fcntl(p: &mut Program) {
    let allowed = [
        libc::F_GETFD,
        libc::F_SETFD,
        libc::F_GETFL,
        libc::F_SETFL,
        libc::F_DUPFD_CLOEXEC,
        libc::F_ADD_SEALS,
        libc::F_GET_SEALS,
    ];
    p.load(low(1));
    p.need_one_of(&allowed.map(|command| command as u32));
    p.finish(ALLOW);
}

/// mmap and mprotect.
fn no_code(p: &mut Program) {
    p.load(low(2));
    p.need_clear(libc::PROT_EXEC as u32);
    p.finish(ALLOW);
}

fn clone(p: &mut Program) {
    p.load(high(0));
    p.need_equal(0);
    p.load(low(0));
    p.need_one_of(&[THREAD, THREAD | libc::CLONE_DETACHED as u32]);
    p.finish(ALLOW);
}

fn prctl(p: &mut Program) {
    p.load(low(0));
    p.need_one_of(&[libc::PR_SET_NAME as u32, libc::PR_GET_NAME as u32, PR_GET_AUXV]);
    p.finish(ALLOW);
}

/// Of this process, and with no new limit.
fn prlimit(p: &mut Program) {
    for word in [low(0), low(2), high(2)] {
        p.load(word);
        p.need_equal(0);
    }
    p.finish(ALLOW);
}

fn socketpair(p: &mut Program) {
    p.load(low(0));
    p.need_equal(libc::AF_UNIX as u32);
    socket_type(p, &[libc::SOCK_STREAM]);
}

fn socket(p: &mut Program) {
    p.load(low(0));
    p.need_one_of(&[libc::AF_INET as u32, libc::AF_INET6 as u32]);
    socket_type(p, &[libc::SOCK_STREAM, libc::SOCK_DGRAM]);
}

/// A socket's type, whatever its flags.
fn socket_type(p: &mut Program, types: &[i32]) {
    p.load(low(1));
    p.and(!(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) as u32);
    let types: Vec<u32> = types.iter().map(|kind| *kind as u32).collect();
    p.need_one_of(&types);
    p.finish(ALLOW);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_call_is_listed_twice() {
        let mut numbers: Vec<u32> =
            rules(Needs { writable: true, network: true }).into_iter().map(|(number, _)| number).collect();
        let all = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), all);
    }

    #[test]
    fn the_page_on_security_lists_every_call() {
        let page = include_str!("../../../../docs/security.md");
        let groups = [ALWAYS, WRITABLE, NETWORK].concat();
        for name in groups.iter().flat_map(Group::names).chain(CHECKED.iter().map(|(name, _)| *name)) {
            assert!(page.contains(&format!("`{name}`")), "docs/security.md does not list {name}");
        }
    }
}
