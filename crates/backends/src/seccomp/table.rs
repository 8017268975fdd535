//! Where the fast path goes for each call number: which calls take which lane, and what is staged.

use coracle_abi::port::{NO_FILE, RANDOM_FILES, RANDOM_SIZE, word};
use coracle_blobs::label;

use super::ports::Port;

/// Calls that the thread answers itself.
const LANE1: &[(libc::c_long, u64)] = &[
    (libc::SYS_getpid, label::LANE1_GETPID),
    (libc::SYS_gettid, label::LANE1_GETTID),
    (libc::SYS_getppid, label::LANE1_GETPPID),
    (libc::SYS_getuid, label::LANE1_GETUID),
    (libc::SYS_geteuid, label::LANE1_GETEUID),
    (libc::SYS_getgid, label::LANE1_GETGID),
    (libc::SYS_getegid, label::LANE1_GETEGID),
    (libc::SYS_uname, label::LANE1_UNAME),
    (libc::SYS_sched_getaffinity, label::LANE1_GETAFFINITY),
    (libc::SYS_getrandom, label::LANE1_GETRANDOM),
];

/// Calls that the thread makes to the host itself, as far as the filter lets it.
const LANE2: &[(libc::c_long, u64)] = &[
    (libc::SYS_mmap, label::LANE2_MMAP),
    (libc::SYS_futex, label::LANE2_FUTEX),
    (libc::SYS_munmap, label::LANE2),
    (libc::SYS_mprotect, label::LANE2),
    (libc::SYS_madvise, label::LANE2),
    (libc::SYS_mremap, label::LANE2),
    (libc::SYS_mincore, label::LANE2),
    (libc::SYS_membarrier, label::LANE2),
    (libc::SYS_sched_yield, label::LANE2),
    (libc::SYS_clock_gettime, label::LANE2_CLOCK),
    (libc::SYS_getcpu, label::LANE2),
];

/// The time, where it is the host's for guests too. Else these calls must say what the vDSO says: the kernel answers.
const LANE2_TIME: &[(libc::c_long, u64)] = &[
    (libc::SYS_clock_gettime, label::LANE2),
    (libc::SYS_gettimeofday, label::LANE2),
    (libc::SYS_time, label::LANE2),
];

/// Calls with a path in the first argument.
const PATH0: &[libc::c_long] = &[
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_unlink,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_chdir,
    libc::SYS_creat,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_truncate,
    libc::SYS_statfs,
    libc::SYS_getxattr,
    libc::SYS_lgetxattr,
    libc::SYS_memfd_create,
];

/// Calls with a path in the second argument.
const PATH1: &[libc::c_long] = &[
    libc::SYS_openat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_unlinkat,
    libc::SYS_mkdirat,
    libc::SYS_fchmodat,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_openat2,
];

/// Calls with bytes in the second argument, as many as the third says.
const BYTES1: &[libc::c_long] = &[libc::SYS_write, libc::SYS_pwrite64, libc::SYS_sendto];

/// Calls with a list of ranges in the second argument, as long as the third says.
const PAIRS1: &[libc::c_long] = &[
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
];

/// Calls with one word at the second argument, or none: a set of signals.
const WORD1: &[libc::c_long] = &[libc::SYS_rt_sigprocmask];

/// Calls for which the kernel needs the complete registers.
const TRAPPED: &[libc::c_long] = &[
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_exit,
    libc::SYS_rt_sigreturn,
    libc::SYS_arch_prctl,
    libc::SYS_rt_sigsuspend,
    libc::SYS_rseq,
];

/// Writes the table of a port. Without `short_cuts` every call takes the trap; with `host_time` guests have no clocks
/// but the host's.
pub fn fill(port: &Port, base: u64, short_cuts: bool, host_time: bool) {
    let put = |number: usize, target: u64| port.set64(word::TABLE + number * 8, base + target);
    let start = if short_cuts { label::LANE3 } else { label::FAST_FOREIGN };
    for number in 0..512 {
        put(number, start);
    }
    if !short_cuts {
        return;
    }
    for (number, target) in LANE1.iter().chain(LANE2) {
        put(*number as usize, *target);
    }
    if host_time {
        for (number, target) in LANE2_TIME {
            put(*number as usize, *target);
        }
    }
    for (list, target) in [
        (PATH0, label::LANE3_PATH0),
        (PATH1, label::LANE3_PATH1),
        (BYTES1, label::LANE3_BYTES1),
        (PAIRS1, label::LANE3_PAIRS1),
        (WORD1, label::LANE3_WORD1),
        (TRAPPED, label::FAST_FOREIGN),
    ] {
        for number in list {
            put(*number as usize, target);
        }
    }
}

/// The thread may give out random bytes.
pub fn gives_random(port: &Port, base: u64) -> bool {
    let number = libc::SYS_getrandom as usize;
    port.get64(word::TABLE + number * 8) == base + label::LANE1_GETRANDOM
}

/// The thread looks, before it asks the kernel to read, whether the descriptor is one that gives random bytes; or does so
/// no longer, which spares other reads the look.
pub fn random_reads(port: &Port, base: u64, on: bool) {
    let place = word::TABLE + libc::SYS_read as usize * 8;
    let (from, to) = if on { (label::LANE3, label::LANE1_READ) } else { (label::LANE1_READ, label::LANE3) };
    // Otherwise there are no short cuts.
    if port.get64(place) == base + from {
        port.set64(place, base + to);
    }
}

/// The thread maps and moves memory of its own by itself, or asks the kernel, which counts it.
pub fn maps_memory(port: &Port, base: u64, on: bool) {
    for (number, own) in LANE2.iter().filter(|(number, _)| [libc::SYS_mmap, libc::SYS_mremap].contains(number)) {
        let place = word::TABLE + *number as usize * 8;
        let (from, to) = if on { (label::LANE3, *own) } else { (*own, label::LANE3) };
        // Otherwise there are no short cuts.
        if port.get64(place) == base + from {
            port.set64(place, base + to);
        }
    }
}

/// Nothing that a thread before had stays in the port.
pub fn no_random(port: &Port) {
    port.set64(word::RANDOM_LEFT, 0);
    port.write(word::RANDOM, &[0; RANDOM_SIZE]);
    for place in 0..RANDOM_FILES {
        port.set32(word::RANDOM_FILE + place * 4, NO_FILE);
    }
}

/// The host's clock of this thread counts what others have used before: the kernel answers.
pub fn no_thread_clock(port: &Port, base: u64) {
    let number = libc::SYS_clock_gettime as usize;
    if [label::LANE2, label::LANE2_CLOCK].contains(&port.get64(word::TABLE + number * 8).wrapping_sub(base)) {
        port.set64(word::TABLE + number * 8, base + label::LANE3);
    }
}
