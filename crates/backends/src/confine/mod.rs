//! The walls around the kernel process itself, for the case that a guest finds a fault in it.
//!
//! In this order: [`enter`] while there is one thread (no new privileges, a Landlock domain, capabilities given up),
//! then the zygote, so that workers are born inside the domain; [`close`] when the kernel's threads run and before any
//! guest does: the seccomp filter, for all threads at once and those to come.
//!
//! | module | what |
//! |---|---|
//! | `landlock` | files, TCP, signals |
//! | `identity` | the user that root becomes |
//! | `capabilities` | what root keeps |
//! | `calls` | the host calls |
//! | `refused` | the end of a process that makes another |
//! | `probe` | all of it tried out |

mod calls;
mod capabilities;
mod identity;
mod landlock;
pub mod probe;
mod refused;

use std::io;
use std::path::PathBuf;

pub use calls::{ALWAYS, CHECKED, Group, NETWORK, Needs, WRITABLE};
pub use identity::{NotAlone, hide_memory, is_sandbox};
pub use landlock::{Enforced, Right};
pub use refused::LastWords;

use crate::host_proc;

/// What the kernel process must reach on the host.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    /// Paths, and what it may do to them and below them.
    pub places: Vec<(PathBuf, Right)>,
    /// Trees that were named by the caller are read with the caller's rights, root's included.
    pub as_caller: bool,
    pub needs: Needs,
}

/// Why a wall could not be put up.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    #[error("the kernel process cannot be confined to its files: {0}")]
    Landlock(#[from] ::landlock::RulesetError),
    #[error("{what}: {source}")]
    Host { what: &'static str, source: io::Error },
    #[error("a thread ({0}) has a seccomp filter of its own, so that the kernel process cannot have one")]
    Thread(i64),
}

/// What [`enter`] has put up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entered {
    pub enforced: Enforced,
    /// The user that root has become, or why it has not. `None` where it had no need to.
    pub user: Option<Result<u32, NotAlone>>,
}

/// Leaves everything behind that is not in reach. To be called while the process has one thread. `before` is done before
/// root becomes the user that it is told.
pub fn enter(reach: &Reach, before: impl FnOnce(u32)) -> Result<Entered, ConfineError> {
    let host = |what| move |source| ConfineError::Host { what, source };
    let alone = rustix::process::geteuid().is_root() && !reach.as_caller;
    // `/proc` tells who can be had, and is out of reach soon.
    let user = alone.then(identity::own_user);
    let enforced = landlock::enter(&reach.places, reach.needs.network, matches!(user, Some(Ok(_))))?;
    let user = user.map(|user| {
        let user = user?;
        before(user);
        identity::become_alone(user, || capabilities::give_up(reach))
    });
    capabilities::give_up(reach).map_err(host("capabilities cannot be given up"))?;
    hide_memory().map_err(host("PR_SET_DUMPABLE"))?;
    Ok(Entered { enforced, user })
}

/// What can wait until the walls are up; best done by a thread that nobody waits for.
pub fn settle() {
    host_proc::detach();
}

/// From here on all threads make only the host calls in [`calls`]. With `words` a process ends that makes another.
pub fn close(needs: Needs, words: LastWords) -> Result<(), ConfineError> {
    refused::prepare(words).map_err(|source| ConfineError::Host { what: "no handler for SIGSYS", source })?;
    let host = |what| ConfineError::Host { what, source: io::Error::last_os_error() };
    let filter = calls::filter(needs);
    let len = u16::try_from(filter.len()).unwrap_or(u16::MAX);
    // `Instruction` has the layout of `struct sock_filter`.
    let program = libc::sock_fprog { len, filter: filter.as_ptr().cast_mut().cast() };
    // SAFETY: a plain switch.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(host("PR_SET_NO_NEW_PRIVS"));
    }
    // SAFETY: the program lives until the call returns; the host copies it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_TSYNC,
            &raw const program,
        )
    };
    match result {
        0 => Ok(()),
        1.. => Err(ConfineError::Thread(result)),
        _ => Err(host("the kernel process cannot have a seccomp filter")),
    }
}
