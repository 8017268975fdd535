//! Device files, and the streams that the sandbox inherits.
pub mod stream;
