//! Device files, and the streams that the sandbox inherits.
