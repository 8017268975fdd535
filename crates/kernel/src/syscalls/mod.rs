//! Handlers, grouped by area. Each reads like its man page; the table is data.

mod attr;
mod dirs;
mod epoll;
mod event;
mod fcntl;
mod file;
pub mod futex;
mod identity;
mod inotify;
mod limits;
mod memory;
mod mqueue;
pub mod names;
pub mod path;
mod pipe;
mod poll;
mod prctl;
mod process;
mod process_vm;
pub mod rw;
pub mod sched;
mod signal;
mod socket;
mod splice;
mod stat;
pub mod system;
mod sysv;
mod time;
mod timer;
mod xattr;

use crate::call::Call;

/// Every area's calls.
const AREAS: &[&[Call]] = &[
    attr::CALLS,
    dirs::CALLS,
    epoll::CALLS,
    event::CALLS,
    fcntl::CALLS,
    file::CALLS,
    identity::CALLS,
    inotify::CALLS,
    limits::CALLS,
    memory::CALLS,
    names::CALLS,
    path::CALLS,
    mqueue::CALLS,
    pipe::CALLS,
    poll::CALLS,
    prctl::CALLS,
    process::CALLS,
    process_vm::CALLS,
    rw::CALLS,
    sched::CALLS,
    socket::CALLS,
    sysv::CALLS,
    splice::CALLS,
    stat::CALLS,
    system::CALLS,
    xattr::CALLS,
    futex::CALLS,
    signal::CALLS,
    time::CALLS,
    timer::CALLS,
];

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
