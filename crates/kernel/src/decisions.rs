//! What was decided about the sandbox of this process before a guest ran, in memory that can only be read
//! ([`coracle_platform::sealed`]). The objects of a [`crate::world::World`] say the same, but lie in the heap: where the two
//! differ, the stricter one holds. A program that serves several worlds, as tests do, seals nothing.

use coracle_platform::sealed::Sealed;

/// Most hidden directories.
pub const HIDDEN: usize = 8;

/// What does not change while a sandbox runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decisions {
    /// Every tree of the host that is shown gives away only what everybody may read.
    pub shared_only: bool,
    /// Directories of the host that look empty, by device and inode; zeros are none.
    pub hidden: [(u64, u64); HIDDEN],
    /// Sockets may be the host's.
    pub host_network: bool,
    /// Bytes of memory, of files in memory, and of output; processes and threads. `MAX`: no limit.
    pub memory: u64,
    pub disk: u64,
    pub output: u64,
    pub pids: u32,
}

static DECISIONS: Sealed<Decisions> = Sealed::new();

/// For good, and for this whole process.
pub fn seal(decisions: Decisions) -> std::io::Result<()> {
    DECISIONS.seal(decisions)
}

/// Only what everybody may read, whatever the tree says of itself.
pub(crate) fn shared_only() -> bool {
    DECISIONS.get().is_some_and(|decisions| decisions.shared_only)
}

/// A directory that looks empty, whatever the tree says of it.
pub(crate) fn hides(dev: u64, ino: u64) -> bool {
    DECISIONS.get().is_some_and(|decisions| decisions.hidden.contains(&(dev, ino)))
}

/// No socket is the host's, whatever the world says.
pub(crate) fn own_network_only() -> bool {
    DECISIONS.get().is_some_and(|decisions| !decisions.host_network)
}

/// A limit of the heap's, or what was decided if that is less.
pub(crate) fn memory(limit: u64) -> u64 {
    DECISIONS.get().map_or(limit, |decisions| limit.min(decisions.memory))
}

/// As [`memory`], for files in memory.
pub(crate) fn disk(limit: u64) -> u64 {
    DECISIONS.get().map_or(limit, |decisions| limit.min(decisions.disk))
}

/// As [`memory`], for what is left of the output.
pub(crate) fn output(left: u64) -> u64 {
    DECISIONS.get().map_or(left, |decisions| left.min(decisions.output))
}

/// As [`memory`], for processes and threads.
pub(crate) fn pids(limit: Option<u32>) -> Option<u32> {
    let decided = DECISIONS.get().map(|decisions| decisions.pids).filter(|decided| *decided != u32::MAX);
    match (limit, decided) {
        (Some(limit), Some(decided)) => Some(limit.min(decided)),
        (limit, decided) => limit.or(decided),
    }
}
