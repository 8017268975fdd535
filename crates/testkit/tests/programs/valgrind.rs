//! A program that translates others instead of running them.

use coracle_testkit::{Case, Guest, Package, Variant};

pub fn cases() -> Vec<Case> {
    let valgrind = |name: &str, command: &str| {
        let guest = Guest::C {
            dir: "programs".to_owned(),
            name: "leak".to_owned(),
            variant: Variant::Dynamic,
            libraries: Vec::new(),
        };
        // The same programs first, so that their text is known by then. Pids and addresses differ.
        let script = format!(
            "for i in 1 2 3 4 5 6 7 8; do ls / >/dev/null; ./leak >/dev/null; done\n\
             valgrind {command} >out 2>&1; echo $?\n\
             sed -E 's/==[0-9]+==/==/; s/0x[0-9A-F]+/0x/g' out; rm out"
        );
        Case::guest(format!("valgrind::{name}"), guest, &[])
            .script(&script)
            .needs(Package::new("valgrind", "/usr/bin/valgrind"))
            .timeout(120)
    };
    vec![
        valgrind("true", "/bin/true"),
        valgrind("ls", "-q ls -R /etc/alternatives"),
        valgrind("memcheck", "--leak-check=full --error-exitcode=9 ./leak"),
        valgrind("helgrind", "-q --tool=helgrind ./leak"),
        valgrind("children", "-q --trace-children=yes sh -c 'ls /etc/ssl | sort -r; ./leak; exit 7'"),
        valgrind("nothing", "./nothing"),
    ]
}
