//! Open files and descriptor tables.

mod file;
mod table;

pub use file::{File, Io, OpenFile};
pub use table::{FdEntry, FdTable};
