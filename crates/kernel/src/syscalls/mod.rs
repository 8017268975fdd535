//! Handlers, grouped by area. Each reads like its man page; the table is data.

mod epoll;
mod event;
mod pipe;
mod poll;
mod process;
mod socket;

mod attr;
mod dirs;
mod fcntl;
mod file;
pub mod names;
pub mod path;
pub mod rw;
mod splice;
mod stat;
mod xattr;

use crate::call::Call;

/// Every area's calls.
<<<<<<< HEAD
const AREAS: &[&[Call]] = &[epoll::CALLS, event::CALLS, pipe::CALLS, poll::CALLS, process::CALLS, socket::CALLS];
=======
const AREAS: &[&[Call]] = &[
    attr::CALLS,
    dirs::CALLS,
    fcntl::CALLS,
    file::CALLS,
    names::CALLS,
    path::CALLS,
    rw::CALLS,
    splice::CALLS,
    stat::CALLS,
    xattr::CALLS,
    epoll::CALLS,
    event::CALLS,
    pipe::CALLS,
    poll::CALLS,
];
>>>>>>> 7333c7d (File calls: open, read, write, names, attributes, locks, splice)

/// The call with this number.
pub fn find(number: u64) -> Option<&'static Call> {
    static TABLE: std::sync::LazyLock<Vec<Option<&'static Call>>> = std::sync::LazyLock::new(|| {
        let mut table = vec![None; 512];
        for call in AREAS.iter().copied().flatten() {
            if let Some(slot) = table.get_mut(usize::from(call.number)) {
                *slot = Some(call);
            }
        }
        table
    });
    TABLE.get(usize::try_from(number).ok()?).copied().flatten()
}

/// All calls, by number.
pub fn all() -> impl Iterator<Item = &'static Call> {
    (0..512).filter_map(find)
}
