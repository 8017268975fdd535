//! Credentials (credentials(7), capabilities(7)). A task's credentials are an immutable value that calls
//! replace as a whole, as Linux's `struct cred`.

use bitflags::bitflags;

bitflags! {
    /// Capability sets, bit numbers as in include/uapi/linux/capability.h.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Caps: u64 {
        const CHOWN = 1 << 0;
        const DAC_OVERRIDE = 1 << 1;
        const DAC_READ_SEARCH = 1 << 2;
        const FOWNER = 1 << 3;
        const FSETID = 1 << 4;
        const KILL = 1 << 5;
        const SETGID = 1 << 6;
        const SETUID = 1 << 7;
        const SETPCAP = 1 << 8;
        const LINUX_IMMUTABLE = 1 << 9;
        const NET_BIND_SERVICE = 1 << 10;
        const NET_ADMIN = 1 << 12;
        const NET_RAW = 1 << 13;
        const IPC_LOCK = 1 << 14;
        const IPC_OWNER = 1 << 15;
        const SYS_CHROOT = 1 << 18;
        const SYS_PTRACE = 1 << 19;
        const SYS_ADMIN = 1 << 21;
        const SYS_BOOT = 1 << 22;
        const SYS_NICE = 1 << 23;
        const SYS_RESOURCE = 1 << 24;
        const SYS_TIME = 1 << 25;
        const SYS_TTY_CONFIG = 1 << 26;
        const MKNOD = 1 << 27;
        const LEASE = 1 << 28;
        const SETFCAP = 1 << 31;
        const _ = !0;
    }
}

/// Highest capability (`CAP_LAST_CAP`, CAP_CHECKPOINT_RESTORE).
pub const CAP_LAST: u32 = 40;

impl Caps {
    /// Every capability there is.
    pub const FULL: Caps = Caps::from_bits_retain((1 << (CAP_LAST + 1)) - 1);
}

/// Who a task is. `fsuid` and `fsgid` decide about files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cred {
    pub uid: u32,
    pub euid: u32,
    pub suid: u32,
    pub fsuid: u32,
    pub gid: u32,
    pub egid: u32,
    pub sgid: u32,
    pub fsgid: u32,
    /// Supplementary groups, sorted.
    pub groups: Vec<u32>,
    pub permitted: Caps,
    pub effective: Caps,
    pub inheritable: Caps,
    pub bounding: Caps,
    pub ambient: Caps,
    /// `SECBIT_*` (include/uapi/linux/securebits.h).
    pub securebits: u32,
}

impl Cred {
    /// A user with one set of ids; user 0 has every capability.
    pub fn new(uid: u32, gid: u32, groups: Vec<u32>) -> Cred {
        let caps = if uid == 0 { Caps::FULL } else { Caps::empty() };
        let mut groups = groups;
        groups.sort_unstable();
        Cred {
            uid,
            euid: uid,
            suid: uid,
            fsuid: uid,
            gid,
            egid: gid,
            sgid: gid,
            fsgid: gid,
            groups,
            permitted: caps,
            effective: caps,
            inheritable: Caps::empty(),
            bounding: Caps::FULL,
            ambient: Caps::empty(),
            securebits: 0,
        }
    }

    /// The effective set holds `cap` (`capable()`).
    pub fn capable(&self, cap: Caps) -> bool {
        self.effective.contains(cap)
    }

    /// `in_group_p()`: the file system group or a supplementary one.
    pub fn in_group(&self, gid: u32) -> bool {
        self.fsgid == gid || self.groups.binary_search(&gid).is_ok()
    }

    /// `in_egroup_p()`: the effective group or a supplementary one.
    pub fn in_effective_group(&self, gid: u32) -> bool {
        self.egid == gid || self.groups.binary_search(&gid).is_ok()
    }

    /// `kill_ok_by_cred()` of kernel/signal.c: may these credentials signal a task with those?
    pub fn may_signal(&self, target: &Cred) -> bool {
        self.euid == target.suid
            || self.euid == target.uid
            || self.uid == target.suid
            || self.uid == target.uid
            || self.capable(Caps::KILL)
    }
}
