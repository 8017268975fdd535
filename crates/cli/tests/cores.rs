//! Cores that go to a program inside (core(5)). Natively only root could set that, for the whole machine.

use std::process::Command;

/// What a shell as root inside says; `/tmp/take` stands for the program that takes cores.
fn shell(taker: &str, script: &str) -> String {
    let whole = format!(
        "cat >/tmp/take <<'END'\n#!/bin/sh\n{taker}\nEND\nchmod +x /tmp/take; ulimit -c 0\n\
         until_there() {{ n=0; while ! test -e $1 && test $n -lt 3000; do sleep 0.02; n=$((n+1)); done; }}\n{script}"
    );
    let output = Command::new(env!("CARGO_BIN_EXE_coracle"))
        .args(["run", "-u", "0", "--timeout", "120", "--", "/bin/sh", "-c", &whole])
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_program_takes_the_core() {
    // As root at the top of the tree, without an environment. Specifiers do not split words.
    let taker = "head -c 4 | tail -c 3 >/tmp/magic; cat >/dev/null\n\
                 echo \"$# $1 $2 $3; $(id -u) $(pwd) $(ulimit -c) $(wc -c </proc/$$/environ)\" >/tmp/part\n\
                 mv /tmp/part /tmp/told";
    let told = shell(
        taker,
        "echo '|/tmp/take %s%% %e x%q' >/proc/sys/kernel/core_pattern; cat /proc/sys/kernel/core_pattern\n\
         cp /bin/sh '/tmp/a b'; '/tmp/a b' -c 'kill -SEGV $$'; echo $?; until_there /tmp/told\n\
         cat /tmp/magic; echo; cat /tmp/told",
    );
    assert_eq!(told, "|/tmp/take %s%% %e x%q\n139\nELF\n3 11% a b x; 0 / 0 0\n");
}

#[test]
fn with_a_limit_the_dead_process_waits_for_the_program() {
    let taker = "cat >/tmp/core; test -e /proc/$1/stat && echo there >/tmp/told";
    let told = shell(
        taker,
        "echo 1 >/proc/sys/kernel/core_pipe_limit; echo '|/tmp/take %p' >/proc/sys/kernel/core_pattern\n\
         sh -c 'kill -ABRT $$'; echo $?; cat /tmp/told; test $(wc -c </tmp/core) -gt 100000 && echo large",
    );
    assert_eq!(told, "134\nthere\nlarge\n");
}

#[test]
fn without_the_program_there_is_no_core() {
    let told = shell(
        "exit 1",
        "echo '|/nothing' >/proc/sys/kernel/core_pattern; sh -c 'kill -SEGV $$' 2>&1; echo $?\n\
         echo '|/tmp/take' >/proc/sys/kernel/core_pattern; sh -c 'kill -SEGV $$'; echo $?",
    );
    assert_eq!(told.replace("Segmentation fault\n", "").trim_end(), "139\n139", "{told}");
}
