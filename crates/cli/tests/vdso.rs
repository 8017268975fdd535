//! The vDSO in a live worker: it passes for the host's, and libc's clocks, and the number of one's CPU, need no system
//! call (the host's strace, not our own counters, says so).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

mod common;
use common::{Source, compile, compiled, inside};

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
        compile(compiler, &[&["-O1"], flags].concat(), &source, &program);
        let log = traced(dir.path(), &program);
        // strace sees system calls before any filter does, so none can hide.
        assert!(log.contains("SIGSYS"), "strace has seen no worker: {log}");
        let asked = log.lines().filter(|line| CALLS.iter().any(|call| line.contains(call))).count();
        // 140,000 readings; the kernel's own and those by which the clocks are kept fresh.
        assert!(asked < 1000, "{compiler} {flags:?}: {asked} system calls for time and CPU");
    }
}

/// Asks each clock by turns through the vDSO and by system call, and counts answers that are out of order.
const ORDER: &str = r#"
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static long long of(struct timespec t) { return t.tv_sec * 1000000000LL + t.tv_nsec; }

int main(void)
{
	static const clockid_t clocks[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_TAI};
	long wrong = 0;
	for (int c = 0; c < 4; c++) {
		struct timespec t = {0, 0};
		long long last = 0;
		for (int i = 0; i < 1500000; i++) {
			if (i % 1000 ? clock_gettime(clocks[c], &t) : syscall(SYS_clock_gettime, clocks[c], &t))
				wrong++;
			// Steps of more than ten seconds are no steps of a clock that runs.
			long long now = of(t);
			wrong += now < last || (last && now - last > 10000000000LL);
			wrong += t.tv_nsec < 0 || t.tv_nsec >= 1000000000;
			last = now;
		}
	}
	printf("%ld wrong\n", wrong);
	return 0;
}
"#;

#[test]
fn every_source_of_time_agrees_with_the_system_call() {
    let Some((dir, program)) = compiled(&["-O1"], Source::Text(ORDER)) else { return };
    for clock in ["tsc", "pvclock", "pvclock-per-cpu", "pvclock-per-cpu-lsl"] {
        let output = inside(dir.path(), &["--clock", clock], &program).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said, "0 wrong\n", "--clock={clock}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Writes the image that the program was told of to its output.
const DUMP: &str = r#"
#include <link.h>
#include <sys/auxv.h>
#include <unistd.h>

int main(void)
{
	const char *base = (const char *)getauxval(AT_SYSINFO_EHDR);
	const ElfW(Ehdr) *header = (const void *)base;
	size_t len = header->e_shoff + header->e_shnum * sizeof(ElfW(Shdr));
	for (size_t done = 0; done < len;) {
		ssize_t put = write(1, base + done, len - done);
		if (put <= 0)
			return 1;
		done += put;
	}
	return 0;
}
"#;

/// Type, binding, visibility and name with version of each symbol, and the lines that define versions: what
/// `readelf -sVW` shows, without addresses and sizes.
fn outline(dir: &Path, name: &str, image: &[u8]) -> BTreeSet<String> {
    let file = dir.join(name);
    std::fs::write(&file, image).unwrap();
    let shown = Command::new("readelf").arg("-sVW").arg(&file).output().unwrap();
    assert!(shown.status.success() && shown.stderr.is_empty(), "{}", String::from_utf8_lossy(&shown.stderr));
    let text = String::from_utf8(shown.stdout).unwrap();
    let mut lines = BTreeSet::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [number, _, _, kind, bind, visibility, section, symbol]
                if number.strip_suffix(':').is_some_and(|number| number.parse::<u32>().is_ok()) =>
            {
                let section = if section.parse::<u32>().is_ok() { "defined" } else { section };
                lines.insert([kind, bind, visibility, section, symbol].join(" "));
            }
            // `0x001c: Rev: 1  Flags: none  Index: 2  Cnt: 1  Name: LINUX_2.6`
            [_, "Rev:", ref rest @ ..] => _ = lines.insert(rest.join(" ")),
            _ => {}
        }
    }
    lines
}

#[test]
fn symbols_and_versions_are_those_of_the_hosts_vdso() {
    let Some((dir, program)) = compiled(&[], Source::Text(DUMP)) else { return };
    let host = Command::new(&program).output().unwrap();
    let inside = inside(dir.path(), &[], &program).output().unwrap();
    assert!(inside.status.success(), "{}", String::from_utf8_lossy(&inside.stderr));
    assert_ne!(host.stdout, inside.stdout, "the sandbox has an image of its own");
    let mut host = outline(dir.path(), "host", &host.stdout);
    let ours = outline(dir.path(), "inside", &inside.stdout);
    assert!(host.len() > 10 && ours.iter().any(|line| line == "FUNC WEAK DEFAULT defined getrandom@@LINUX_2.6"));
    // Enclaves are the host's business; the random function came with Linux 6.11.
    host.retain(|line| !line.contains("__vdso_sgx_enter_enclave@"));
    for name in ["GLOBAL DEFAULT defined __vdso_getrandom", "WEAK DEFAULT defined getrandom"] {
        host.insert(format!("FUNC {name}@@LINUX_2.6"));
    }
    assert_eq!(host, ours);
}

/// Memory of random states that the host wipes while they are in use, and that a signal handler uses then: Linux's own
/// function may give bytes out twice there, so it is no oracle.
#[test]
fn a_state_that_was_wiped_and_used_meanwhile_is_not_gone_on_with() {
    let flags = &["-D_GNU_SOURCE", "-DONLY_INSIDE", "-O1", "-pthread"];
    let Some((dir, program)) = compiled(flags, Source::File("../../guests/c/getrandom.c")) else { return };
    let mut command = inside(dir.path(), &["--timeout", "60"], &program);
    let output = command.arg("wiped_and_used").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said, "0 twice, 0 with zeros, not in use\n", "{}", String::from_utf8_lossy(&output.stderr));
}
