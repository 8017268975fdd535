//! That libc's clocks, and the number of one's CPU, need no system call: the host's strace, not our own counters, says so.

use std::path::{Path, PathBuf};
use std::process::Command;

const PROGRAM: &str = r#"
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <sys/time.h>
#include <time.h>

int main(void)
{
	struct timespec t;
	struct timeval tv;
	long sum = 0;
	for (int i = 0; i < 20000; i++) {
		clock_gettime(CLOCK_REALTIME, &t);
		clock_gettime(CLOCK_MONOTONIC, &t);
		clock_gettime(CLOCK_BOOTTIME, &t);
		clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
		gettimeofday(&tv, NULL);
		sum += t.tv_nsec + tv.tv_usec + time(NULL) + sched_getcpu();
	}
	puts(sum ? "done" : "no time");
	return 0;
}
"#;

/// Calls that ask for the time or the CPU, as strace names them; the last is the vDSO's own, for fresh clocks.
const CALLS: [&str; 5] = ["getcpu(", "clock_gettime(", "gettimeofday(", " time(", "syscall_0x1001("];

fn traced(dir: &Path, program: &Path) -> String {
    let log = dir.join("strace");
    let output = Command::new("/usr/bin/strace")
        .args(["-f", "-o"])
        .arg(&log)
        .arg(env!("CARGO_BIN_EXE_coracle"))
        .args(["run", "--bind"])
        .arg(format!("{0}:{0}:ro", dir.display()))
        .arg("--")
        .arg(program)
        .output()
        .unwrap();
    assert_eq!(output.stdout, b"done\n", "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read_to_string(log).unwrap()
}

#[test]
fn every_libc_reads_clocks_and_its_cpu_without_system_calls() {
    if !Path::new("/usr/bin/strace").exists() {
        eprintln!("skipped: needs /usr/bin/strace from Debian package strace");
        return;
    }
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    let source = dir.path().join("clocks.c");
    std::fs::write(&source, PROGRAM).unwrap();
    let variants: [(&str, &[&str]); 4] = [
        ("/usr/bin/gcc", &[]),
        ("/usr/bin/gcc", &["-static"]),
        ("/usr/bin/musl-gcc", &[]),
        ("/usr/bin/musl-gcc", &["-static"]),
    ];
    for (index, (compiler, flags)) in variants.into_iter().enumerate() {
        if !Path::new(compiler).exists() {
            eprintln!("skipped: needs {compiler}");
            continue;
        }
        let program: PathBuf = dir.path().join(format!("clocks{index}"));
        let built =
            Command::new(compiler).args(flags).arg("-O1").arg("-o").arg(&program).arg(&source).status().unwrap();
        assert!(built.success(), "{compiler} {flags:?}");
        let log = traced(dir.path(), &program);
        // strace sees system calls before any filter does, so none can hide.
        assert!(log.contains("SIGSYS"), "strace has seen no worker: {log}");
        let asked = log.lines().filter(|line| CALLS.iter().any(|call| line.contains(call))).count();
        // 140,000 readings; the kernel's own and those by which the clocks are kept fresh.
        assert!(asked < 1000, "{compiler} {flags:?}: {asked} system calls for time and CPU");
    }
}
