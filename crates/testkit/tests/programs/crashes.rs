//! What a debugger makes of a core.

use coracle_testkit::{Case, Guest, Package, Variant};

const SCRIPT: &str = include_str!("crashes.py");

pub fn cases() -> Vec<Case> {
    let crash = |variant: Variant, name: &str, how: &str| {
        let guest =
            Guest::C { dir: "programs".to_owned(), name: "crash".to_owned(), variant, libraries: Vec::new() };
        // Without an answer of gdb the runs must not agree.
        let script = format!(
            "ulimit -c unlimited; ./crash {how}; echo $?; gdb -nx -batch -x look.py ./crash core >&2; \
             cat seen || cat /proc/sys/kernel/random/uuid; rm core seen"
        );
        Case::guest(format!("cores::{name}"), guest, &[])
            .script(&script)
            .file("look.py", SCRIPT)
            .needs(Package::new("gdb", "/usr/bin/gdb"))
            .dumps_core()
            .timeout(60)
    };
    vec![
        crash(Variant::Dynamic, "segv", "segv"),
        crash(Variant::Dynamic, "abort", "abort"),
        crash(Variant::Dynamic, "handler", "handler"),
        crash(Variant::Dynamic, "vdso", "vdso"),
        crash(Variant::Dynamic, "threads", "threads"),
        crash(Variant::StaticPie, "static_pie", "vdso"),
        crash(Variant::Static, "static", "segv"),
    ]
}
