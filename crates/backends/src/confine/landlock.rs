//! The files, sockets and processes that the kernel process may reach: a Landlock domain (landlock(7)).
//!
//! Entered while there is one thread, before the zygote: a process in a domain can read, write and signal only what was
//! born inside of it, and workers are. What a rule does not name cannot be opened, made, renamed or removed any more,
//! whatever rights the user has. `stat`, `O_PATH` descriptors and reopened memfds are outside of Landlock's scope.

use std::os::fd::AsFd;
use std::path::PathBuf;

use ::landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, make_bitflags,
};

use crate::host_proc;

/// What is asked for. Older hosts enforce what they know of it: 5.13 files, 6.2 truncation too, 6.7 TCP, 6.10 devices,
/// 6.12 signals and abstract sockets.
const ABI_WANTED: ABI = ABI::V6;

/// What the kernel process may do to a path and everything below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// List directories.
    List,
    /// Read a file that is not a directory.
    ReadFile,
    /// Read files, list directories.
    ReadTree,
    /// Change a file that is not a directory.
    WriteFile,
    /// Read, change, make and remove, but no devices.
    WriteTree,
    /// Make sockets, remove them.
    Sockets,
    /// Remove directories, which must be empty for that: control groups.
    Groups,
}

impl Right {
    fn bits(self) -> BitFlags<AccessFs> {
        match self {
            Right::List => AccessFs::ReadDir.into(),
            Right::ReadFile => AccessFs::ReadFile.into(),
            Right::ReadTree => make_bitflags!(AccessFs::{ReadFile | ReadDir}),
            Right::WriteFile => make_bitflags!(AccessFs::{ReadFile | WriteFile | Truncate}),
            Right::WriteTree => make_bitflags!(AccessFs::{
                ReadFile | ReadDir | WriteFile | Truncate | RemoveDir | RemoveFile | MakeDir | MakeReg | MakeSock
                    | MakeFifo | MakeSym | Refer
            }),
            Right::Sockets => make_bitflags!(AccessFs::{MakeSock | RemoveFile}),
            Right::Groups => AccessFs::RemoveDir.into(),
        }
    }
}

/// How much of [`ABI_WANTED`] this host enforces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enforced {
    All,
    /// What the host's version, the number, has of it.
    Part(i32),
    /// There is no Landlock here.
    Nothing,
}

/// Confines this thread, and all that it will start, to these places. TCP stays possible only with `network`. `alone`: it
/// will not be root.
pub fn enter(places: &[(PathBuf, Right)], network: bool, alone: bool) -> Result<Enforced, RulesetError> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI_WANTED))?
        .scope(Scope::from_all(ABI_WANTED))?;
    if !network {
        ruleset = ruleset.handle_access(AccessNet::from_all(ABI_WANTED))?;
    }
    let mut ruleset = ruleset.create()?;
    for (path, right) in places {
        // What cannot be opened now cannot be used later either; whoever needs it says so then.
        if let Ok(place) = PathFd::new(path) {
            ruleset = allow(ruleset, &place, right.bits())?;
        }
    }
    // The standard library opens it for the zygote's streams.
    if let Ok(null) = PathFd::new("/dev/null") {
        ruleset = allow(ruleset, &null, make_bitflags!(AccessFs::{ReadFile | WriteFile}))?;
    }
    if let Some(proc) = host_proc::directory() {
        let write =
            if alone || host_proc::may_write() { BitFlags::from(AccessFs::WriteFile) } else { BitFlags::EMPTY };
        ruleset = allow(ruleset, proc, write | AccessFs::ReadFile)?;
    }
    // Guests are shown what the host says of its CPUs (`fs/proc/shared.rs` of the kernel).
    if let Ok(cpuinfo) = PathFd::new("/proc/cpuinfo") {
        ruleset = allow(ruleset, &cpuinfo, AccessFs::ReadFile.into())?;
    }
    let status = ruleset.restrict_self()?;
    Ok(match (status.ruleset, status.landlock) {
        (RulesetStatus::FullyEnforced, _) => Enforced::All,
        (RulesetStatus::PartiallyEnforced, LandlockStatus::Available { effective_abi, .. }) => {
            Enforced::Part(effective_abi as i32)
        }
        _ => Enforced::Nothing,
    })
}

fn allow(
    ruleset: RulesetCreated,
    place: impl AsFd,
    right: BitFlags<AccessFs>,
) -> Result<RulesetCreated, RulesetError> {
    ruleset.add_rule(PathBeneath::new(place, right))
}
