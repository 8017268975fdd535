//! What both sides of the sandbox agree on: Linux's numbers and structures as programs see them, and
//! the layout of the pages shared between guest and kernel. `no_std`, so that guest code can use it.
#![no_std]
#![forbid(unsafe_code)]

pub mod errno;
pub mod port;
pub mod pvclock;
pub mod seq;
pub mod types;
pub mod vvar;

pub use errno::Errno;
/// Linux's own constants (`O_*`, `S_*`, `MAP_*`, …).
pub use linux_raw_sys::general as linux;

/// Numbers of `ioctl(2)` commands.
pub use linux_raw_sys::ioctl;
/// Constants of sockets and of the network.
pub use linux_raw_sys::{net, netlink};

/// Size of a page. x86-64 has one base page size.
pub const PAGE_SIZE: u64 = 4096;

/// Rounds down to a page boundary.
pub const fn page_floor(address: u64) -> u64 {
    address & !(PAGE_SIZE - 1)
}

/// Rounds up to a page boundary; `None` where that would overflow.
pub const fn page_ceil(address: u64) -> Option<u64> {
    match address.checked_add(PAGE_SIZE - 1) {
        Some(sum) => Some(page_floor(sum)),
        None => None,
    }
}
