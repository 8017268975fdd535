//! Open files and descriptor tables.

pub mod file;
mod table;

pub use file::{DirEntry, File, Io, Mapped, OpenFile};
pub use table::{FdEntry, FdTable};
