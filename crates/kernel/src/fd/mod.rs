//! Open files and descriptor tables.

pub mod fasync;
pub mod file;
mod numbers;
mod table;

pub use fasync::{Band, Fasync, Fown};
pub use file::{DirEntry, File, Io, Mapped, OpenFile};
pub(crate) use numbers::Numbers;
pub use table::{FdEntry, FdTable};
