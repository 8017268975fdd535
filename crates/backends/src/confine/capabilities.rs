//! What root keeps of its privileges (capabilities(7)): nothing, or what the caller's own trees and network take.

use std::io;

use super::Reach;

// include/uapi/linux/capability.h
const CAP_CHOWN: u32 = 0;
const CAP_DAC_OVERRIDE: u32 = 1;
const CAP_DAC_READ_SEARCH: u32 = 2;
const CAP_FOWNER: u32 = 3;
const CAP_FSETID: u32 = 4;
const CAP_NET_BIND_SERVICE: u32 = 10;

const VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Keeps of this thread's capabilities those that `reach` takes; threads and processes to come have no more.
pub fn give_up(reach: &Reach) -> io::Result<()> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    let mut sets = [Sets::default(); 2];
    // SAFETY: capget(2) fills in two sets for version 3.
    if unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if sets.iter().all(|set| set.permitted == 0 && set.inheritable == 0) {
        return Ok(());
    }
    let keep = kept(reach);
    sets[0] = Sets { effective: sets[0].permitted & keep, permitted: sets[0].permitted & keep, inheritable: 0 };
    sets[1] = Sets::default();
    // SAFETY: capset(2) reads two sets.
    if unsafe { libc::syscall(libc::SYS_capset, &raw mut header, sets.as_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn kept(reach: &Reach) -> u32 {
    let mut keep = 0;
    if reach.as_caller {
        keep |= 1 << CAP_DAC_READ_SEARCH;
    }
    if reach.needs.writable {
        for capability in [CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER, CAP_FSETID] {
            keep |= 1 << capability;
        }
    }
    if reach.needs.network {
        keep |= 1 << CAP_NET_BIND_SERVICE;
    }
    keep
}

#[cfg(test)]
mod tests {
    use super::super::Needs;
    use super::*;

    #[test]
    fn nothing_is_kept_without_need() {
        assert_eq!(kept(&Reach::default()), 0);
        let writable = Reach { needs: Needs { writable: true, network: false }, ..Reach::default() };
        assert_eq!(kept(&writable), 0b1_1111);
    }
}
