//! Rewriting of hot call sites: the `syscall` instruction becomes a jump to a trampoline.

use coracle_platform::Gone;

use super::thread::SeccompThread;

/// The rewritten sites of one address space.
#[derive(Clone, Default)]
pub struct Sites {}

impl Sites {
    /// The program's own address for one in a trampoline.
    pub fn to_site(&self, rip: u64) -> u64 {
        rip
    }

    /// Where a thread goes on that stood behind a `syscall` which is no longer there.
    pub fn to_trampoline(&self, rip: u64) -> u64 {
        rip
    }

    /// The place in a trampoline that stands for an address inside a rewritten site.
    pub fn inside(&self, _rip: u64) -> Option<u64> {
        None
    }
}

/// A thread trapped; perhaps its site is worth rewriting.
pub fn trapped(_thread: &mut SeccompThread) -> Result<(), Gone> {
    Ok(())
}
