//! Runs one program natively and then inside Coracle, and says precisely how the two runs differ.
//!
//! Native Linux is the oracle: a case holds no expected output, only a program, its input and what may
//! differ. `tests/programs.rs` is the table of real programs, `tests/fixtures.rs` finds the C fixtures
//! of `guests/c`. See docs/testing.md.
#![forbid(unsafe_code)]

mod case;
mod compare;
mod exec;
mod guests;
mod harness;
mod input;
mod target;
mod tree;

pub use case::{Case, Package};
pub use guests::{Guest, Variant, fixtures};
pub use harness::run;
pub use input::Content;
