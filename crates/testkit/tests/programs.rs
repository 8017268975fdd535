//! Real programs, natively and then inside. A program is one entry of one of these tables.

#[path = "programs/coreutils.rs"]
mod coreutils;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut cases = Vec::new();
    cases.extend(coreutils::cases());
    coracle_testkit::run(cases)
}
