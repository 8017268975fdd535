//! `/proc/PID/ns`: everybody is in the one namespace of each kind (fs/nsfs.c, namespaces(7)).

use std::any::Any;
use std::sync::Arc;

use super::{About, Entry, What, access};
use crate::abi::linux::{
    CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWTIME, CLONE_NEWUSER,
    CLONE_NEWUTS,
};
use crate::abi::types::Stat;
use crate::call::Ctx;
use crate::fd::{File, OpenFile};
use crate::fs::anon::FileInode;
use crate::fs::{S_IFREG, Target, Who, make_dev};
use crate::{Errno, Result, SysResult};

/// A kind of namespace, with the number of its one member: those of the initial ones (include/linux/proc_ns.h).
struct Namespace {
    kind: &'static str,
    number: u64,
    flag: u32,
}

macro_rules! namespaces {
    ($($name:literal: $constant:ident $kind:literal $number:literal $flag:ident;)*) => {
        $(const $constant: Namespace = Namespace { kind: $kind, number: $number, flag: $flag };)*
        pub const ENTRIES: &[Entry] = &[$(Entry {
            name: $name,
            mode: 0o777,
            what: What::Magic(|about, who| text(about, who, &$constant), |about, who| follow(about, who, &$constant)),
        }),*];
    };
}

namespaces! {
    "cgroup": CGROUP "cgroup" 4_026_531_835 CLONE_NEWCGROUP;
    "ipc": IPC "ipc" 4_026_531_839 CLONE_NEWIPC;
    "mnt": MNT "mnt" 4_026_531_841 CLONE_NEWNS;
    "net": NET "net" 4_026_531_840 CLONE_NEWNET;
    "pid": PID "pid" 4_026_531_836 CLONE_NEWPID;
    "pid_for_children": PID_FOR_CHILDREN "pid" 4_026_531_836 CLONE_NEWPID;
    "time": TIME "time" 4_026_531_834 CLONE_NEWTIME;
    "time_for_children": TIME_FOR_CHILDREN "time" 4_026_531_834 CLONE_NEWTIME;
    "user": USER "user" 4_026_531_837 CLONE_NEWUSER;
    "uts": UTS "uts" 4_026_531_838 CLONE_NEWUTS;
}

/// Links of others are for those who may trace them (proc_ns_readlink()).
fn text(about: &About, who: Who<'_>, namespace: &Namespace) -> Result<Vec<u8>> {
    access::may_read(who, about.live()?).map_err(|_| Errno::EACCES)?;
    Ok(format!("{}:[{}]", namespace.kind, namespace.number).into_bytes())
}

fn follow(about: &About, who: Who<'_>, namespace: &'static Namespace) -> Result<Target> {
    let name = text(about, who, namespace)?;
    let open = OpenFile::new(Arc::new(NamespaceFile(namespace)), 0);
    Ok(Target::Place(about.world.vfs.mounts.nowhere(FileInode::new(open), &name)))
}

/// An open namespace.
struct NamespaceFile(&'static Namespace);

impl File for NamespaceFile {
    fn stat(&self) -> Result<Stat> {
        Ok(Stat {
            st_dev: make_dev(0, 4),
            st_ino: self.0.number,
            st_mode: S_IFREG | 0o444,
            st_nlink: 1,
            st_blksize: 4096,
            ..Stat::default()
        })
    }

    /// ioctl_ns(2). The initial namespaces have no parents, and their owner is not for those within.
    fn ioctl(&self, cx: &mut Ctx<'_>, command: u32, argument: u64) -> SysResult {
        const NS_GET_USERNS: u32 = 0xb701;
        const NS_GET_PARENT: u32 = 0xb702;
        const NS_GET_NSTYPE: u32 = 0xb703;
        const NS_GET_OWNER_UID: u32 = 0xb704;
        match command {
            NS_GET_USERNS if self.0.flag == CLONE_NEWUSER => Err(Errno::EPERM),
            NS_GET_USERNS => {
                let file: Arc<dyn File> = Arc::new(NamespaceFile(&USER));
                crate::ipc::glue::install(cx, file, 0, true)
            }
            NS_GET_PARENT if self.0.flag == CLONE_NEWUSER || self.0.flag == CLONE_NEWPID => Err(Errno::EPERM),
            NS_GET_PARENT => Err(Errno::EINVAL),
            NS_GET_NSTYPE => Ok(u64::from(self.0.flag)),
            NS_GET_OWNER_UID if self.0.flag == CLONE_NEWUSER => cx.mem().write(argument, &0_u32).map(|()| 0),
            NS_GET_OWNER_UID => Err(Errno::EINVAL),
            _ => Err(Errno::ENOTTY),
        }
    }

    fn pollable(&self) -> bool {
        false
    }

    fn reopen(self: Arc<Self>, _flags: u32, within: bool) -> Result<Arc<dyn File>> {
        // Not to be written to, by anybody (nsfs has no such files).
        if within { Ok(self) } else { Err(Errno::EPERM) }
    }

    fn description(&self) -> String {
        format!("{}:[{}]", self.0.kind, self.0.number)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
