//! Permission checks (fs/namei.c, fs/attr.c).

use bitflags::bitflags;

use super::{Inode, S_IFDIR, S_IFMT};
use crate::task::{Caps, Cred};
use crate::{Errno, Result};

bitflags! {
    /// What is to be done with a node (`MAY_*`), with the values of `access(2)`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Access: u32 {
        const EXEC = 1;
        const WRITE = 2;
        const READ = 4;
    }
}

/// `inode_owner_or_capable()`.
pub fn owns(cred: &Cred, uid: u32) -> bool {
    cred.fsuid == uid || cred.capable(Caps::FOWNER)
}

/// `generic_permission()`.
pub fn generic(cred: &Cred, mode: u32, uid: u32, gid: u32, access: Access) -> Result<()> {
    let shift = if cred.fsuid == uid {
        6
    } else if cred.in_group(gid) {
        3
    } else {
        0
    };
    let granted = Access::from_bits_truncate((mode >> shift) & 7);
    if granted.contains(access) {
        return Ok(());
    }
    let directory = mode & S_IFMT == S_IFDIR;
    let reads_only = !access.contains(Access::WRITE) && (directory || access == Access::READ);
    if reads_only && cred.capable(Caps::DAC_READ_SEARCH) {
        return Ok(());
    }
    // Executing a file needs an execute bit somewhere even for root.
    let overridable = directory || !access.contains(Access::EXEC) || mode & 0o111 != 0;
    if overridable && cred.capable(Caps::DAC_OVERRIDE) { Ok(()) } else { Err(Errno::EACCES) }
}

/// `may_delete()` without the type checks: `EACCES` without write permission, `EPERM` in a sticky directory
/// where neither it nor the node is one's own.
pub fn may_remove(who: super::Who<'_>, dir: &dyn Inode, child: &dyn Inode) -> Result<()> {
    dir.permission(who, Access::WRITE | Access::EXEC)?;
    let (mode, uid, _) = dir.access_info()?;
    if mode & 0o1000 != 0 && uid != who.cred.fsuid && !who.cred.capable(Caps::FOWNER) {
        let (_, child_uid, _) = child.access_info()?;
        if child_uid != who.cred.fsuid {
            return Err(Errno::EPERM);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_do_not_fall_through() {
        // The owner is refused by the owner's bits even if others may.
        let owner = Cred::new(10, 10, vec![]);
        assert_eq!(generic(&owner, 0o100_007, 10, 5, Access::READ), Err(Errno::EACCES));
        assert_eq!(generic(&Cred::new(11, 10, vec![]), 0o100_007, 10, 5, Access::READ), Ok(()));
        assert_eq!(generic(&Cred::new(11, 5, vec![]), 0o100_007, 10, 5, Access::READ), Err(Errno::EACCES));
    }

    #[test]
    fn root_needs_an_execute_bit_for_files_only() {
        let root = Cred::new(0, 0, vec![]);
        assert_eq!(generic(&root, 0o100_644, 10, 5, Access::EXEC), Err(Errno::EACCES));
        assert_eq!(generic(&root, 0o100_645, 10, 5, Access::EXEC), Ok(()));
        assert_eq!(generic(&root, 0o040_600, 10, 5, Access::EXEC), Ok(()));
    }
}
