//! Real programs, natively and then inside. A program is one entry of one of these tables.

#[path = "programs/archive.rs"]
mod archive;
#[path = "programs/busybox.rs"]
mod busybox;
#[path = "programs/compiled.rs"]
mod compiled;
#[path = "programs/coreutils.rs"]
mod coreutils;
#[path = "programs/crashes.rs"]
mod crashes;
#[path = "programs/develop.rs"]
mod develop;
#[path = "programs/languages.rs"]
mod languages;
#[path = "programs/shell.rs"]
mod shell;
#[path = "programs/stress.rs"]
mod stress;
#[path = "programs/valgrind.rs"]
mod valgrind;

use std::process::ExitCode;

fn main() -> ExitCode {
    let tables = [
        archive::cases(),
        busybox::cases(),
        compiled::cases(),
        coreutils::cases(),
        crashes::cases(),
        develop::cases(),
        languages::cases(),
        shell::cases(),
        stress::cases(),
        valgrind::cases(),
    ];
    coracle_testkit::run(tables.into_iter().flatten().collect())
}
