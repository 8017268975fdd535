//! What confines guests and lets the kernel reach them.

use std::io;

use coracle_platform::probe;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::{Finding, Level, Probe, child, in_child, read};

pub(super) fn findings() -> Vec<Finding> {
    let mut found = vec![kernel(), seccomp()];
    found.extend(reaching_workers());
    found.extend([yama(), user_namespaces(), landlock(), walls(), mseal()]);
    found.extend(sysctls());
    found.extend(cgroups());
    found
}

/// The oldest kernel with all that the seccomp platform needs: ADDFD_SEND came with it.
const OLDEST: (u32, u32) = (5, 14);

fn kernel() -> Finding {
    const MEANS: &str = "Coracle needs Linux 5.14 or newer (SECCOMP_ADDFD_FLAG_SEND) on x86-64";
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy().into_owned();
    let found = format!("Linux {release}, {}", name.machine().to_string_lossy());
    let new_enough = version(&release).is_some_and(|version| version >= OLDEST);
    if new_enough && name.machine() == c"x86_64" {
        Finding::new("kernel", Level::Ok, found, MEANS)
    } else {
        Finding::new("kernel", Level::Bad, found, MEANS).mend("run a newer kernel, or an x86-64 machine")
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn seccomp() -> Finding {
    const TOPIC: &str = "seccomp notification";
    match probe::seccomp_addfd() {
        Ok(()) => Finding::new(
            TOPIC,
            Level::Ok,
            "works, and injects descriptors",
            "calls of guests can be caught, and files mapped into them",
        ),
        Err(err) => {
            let mend = match err.source.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
                Some(rustix::io::Errno::BUSY) => {
                    "a process above this one (a container's runtime) already listens, and there can be only one \
                     listener: run outside of it, or have its profile not use SCMP_ACT_NOTIFY"
                }
                Some(rustix::io::Errno::PERM | rustix::io::Errno::NOSYS) => {
                    "the container's seccomp profile forbids it: allow seccomp(2), as `docker run --security-opt \
                     seccomp=unconfined` does"
                }
                _ => "run a kernel built with CONFIG_SECCOMP_FILTER, 5.14 or newer",
            };
            Finding::new(TOPIC, Level::Bad, err.to_string(), "without it no guest can run").mend(mend)
        }
    }
}

/// The two ways in which the kernel process touches a worker, tried on a child.
fn reaching_workers() -> Vec<Finding> {
    const MEMORY: &str = "reaching guest memory";
    const DESCRIPTORS: &str = "pidfd_getfd";
    let mut child = match child(Probe::BeRead).spawn() {
        Ok(child) => child,
        Err(err) => {
            let finding = Finding::new(MEMORY, Level::Bad, format!("no child process: {err}"), "nothing can run");
            return vec![finding.mend("raise the limit of processes (ulimit -u, the cgroup's pids.max)")];
        }
    };
    let pid = i32::try_from(child.id()).unwrap_or(0);
    let memory = mapped_address(pid).and_then(|address| probe::read_process(pid, address));
    let descriptor = Pid::from_raw(pid).ok_or(rustix::io::Errno::SRCH).and_then(|pid| {
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        pidfd_getfd(pidfd, 0, PidfdGetfdFlags::empty())
    });
    // Its stdin ends with this.
    drop(child.stdin.take());
    let _ = crate::bounded::wait(&mut child, std::time::Instant::now() + std::time::Duration::from_secs(3));
    let memory = match memory {
        Ok(()) => Finding::new(MEMORY, Level::Ok, "process_vm_readv works on children", "arguments of calls can be read"),
        Err(err) => Finding::new(MEMORY, Level::Bad, format!("process_vm_readv: {err}"), "arguments of calls cannot be read")
            .mend("kernel.yama.ptrace_scope must be 0 or 1; in a container, its seccomp profile must allow process_vm_readv"),
    };
    let descriptor = match descriptor {
        Ok(_) => Finding::new(DESCRIPTORS, Level::Ok, "works on children", "descriptors of workers can be taken"),
        Err(err) => Finding::new(
            DESCRIPTORS,
            Level::Note,
            err.to_string(),
            "usual in containers: descriptors travel over a socket instead",
        ),
    };
    vec![memory, descriptor]
}

/// An address that is mapped and readable in a process.
fn mapped_address(pid: i32) -> io::Result<u64> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let first = maps.lines().find(|line| line.contains(" r"));
    let start = first.and_then(|line| line.split('-').next());
    let start = start.and_then(|hex| u64::from_str_radix(hex, 16).ok());
    start.ok_or_else(|| io::Error::other("it has no mappings"))
}

fn yama() -> Finding {
    const TOPIC: &str = "Yama ptrace_scope";
    match read("/proc/sys/kernel/yama/ptrace_scope").as_str() {
        "" => Finding::new(TOPIC, Level::Ok, "no Yama", "processes of one user may look at each other"),
        "0" => Finding::new(TOPIC, Level::Ok, "0", "processes of one user may look at each other"),
        "1" => Finding::new(TOPIC, Level::Ok, "1", "processes may look at their children: all that Coracle needs"),
        scope => {
            let means = "only administrators, or nobody, may look at other processes: guests cannot be served";
            Finding::new(TOPIC, Level::Bad, scope, means)
                .mend("sysctl kernel.yama.ptrace_scope=1 (3 stays until the next boot)")
        }
    }
}

fn user_namespaces() -> Finding {
    const TOPIC: &str = "user namespaces";
    match in_child(Probe::UserNamespace) {
        Ok(_) => Finding::new(TOPIC, Level::Ok, "work", "a namespace without a network is the second wall around guests"),
        Err(why) => Finding::new(
            TOPIC,
            Level::Poor,
            why,
            "guests run, but one wall less stands behind Coracle's own: seccomp and the kernel's own socket layer remain",
        )
        .mend(
            "sysctl kernel.unprivileged_userns_clone=1 (Debian), kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu), \
             user.max_user_namespaces above 0",
        ),
    }
}

fn landlock() -> Finding {
    const TOPIC: &str = "Landlock";
    const MEANS: &str = "the kernel process is kept from files, sockets and processes that it has no need of";
    match probe::landlock_abi() {
        Ok(abi) if abi >= COMPLETE_LANDLOCK => Finding::new(TOPIC, Level::Ok, format!("version {abi}"), MEANS),
        Ok(abi) => Finding::new(
            TOPIC,
            Level::Note,
            format!("version {abi}"),
            "the kernel process is kept from files that it has no need of, not from all else: --confine required refuses",
        )
        .mend("run Linux 6.12 or newer: signals and abstract sockets are confined there too"),
        Err(err) => Finding::new(
            TOPIC,
            Level::Poor,
            err.to_string(),
            "guests run, but a kernel process that was taken over could open files of yours; --confine required refuses",
        )
        .mend("boot a kernel with CONFIG_SECURITY_LANDLOCK, and `landlock` in its lsm= list"),
    }
}

/// The version that has all that is asked of it: signals and abstract sockets came last.
const COMPLETE_LANDLOCK: std::ffi::c_long = 6;

fn walls() -> Finding {
    const TOPIC: &str = "kernel process";
    match in_child(Probe::Confine) {
        Ok(_) => Finding::new(
            TOPIC,
            Level::Ok,
            "confined: a child of doctor tried to get out, and could not",
            "a fault in Coracle itself does not give a guest the rights of its user",
        ),
        Err(why) => Finding::new(
            TOPIC,
            Level::Poor,
            why,
            "a kernel process that was taken over could do that on the host, with the rights of its user",
        )
        .mend("report this with the output of `coracle doctor --json`"),
    }
}

/// Each attempt on a line, with what came of it.
pub(super) fn try_walls() -> Result<(), String> {
    let (_, attempts) = coracle::confinement::attempts().map_err(|err| err.to_string())?;
    let say = |number: i32| match number {
        0 => "done".to_owned(),
        number => io::Error::from_raw_os_error(number).to_string(),
    };
    let mut holes = Vec::new();
    for attempt in attempts {
        println!("{}: {}", attempt.what, say(attempt.got));
        if attempt.counts && attempt.got != attempt.want {
            holes.push(format!("{}: {} instead of {}", attempt.what, say(attempt.got), say(attempt.want)));
        }
    }
    if holes.is_empty() { Ok(()) } else { Err(holes.join("; ")) }
}

pub(super) fn end_by_walls() -> Result<(), String> {
    let name = |number| (number == 59).then_some("execve");
    coracle::confinement::last_call(b"its last words\n".to_vec(), name).map_err(|err| err.to_string())?;
    Err("it was not ended".to_owned())
}

fn mseal() -> Finding {
    const TOPIC: &str = "mseal";
    match probe::mseal() {
        Ok(()) => Finding::new(
            TOPIC,
            Level::Ok,
            "works",
            "the shim in guests is sealed by the host as well as by the filter",
        ),
        Err(err) => Finding::new(
            TOPIC,
            Level::Note,
            err.to_string(),
            "the shim in guests is protected by the filter alone; Linux 6.10 and newer can seal it too",
        ),
    }
}

/// Settings that make ordinary operations fail.
fn sysctls() -> Vec<Finding> {
    let mut found = Vec::new();
    if read("/proc/sys/vm/memfd_noexec") == "2" {
        let means = "workers start from a file in memory, which this setting forbids to execute";
        found.push(Finding::new("memfd_noexec", Level::Bad, "2", means).mend("sysctl vm.memfd_noexec=0 (or 1)"));
    }
    if read("/proc/sys/vm/overcommit_memory") == "2" {
        let means = "the host counts reserved address space as used: big guests (Go, Java) may be refused memory";
        found.push(
            Finding::new("overcommit", Level::Poor, "vm.overcommit_memory is 2", means)
                .mend("sysctl vm.overcommit_memory=0"),
        );
    }
    found
}

fn cgroups() -> Vec<Finding> {
    vec![match coracle::confinement::memory_group() {
        Ok((version, dir)) => Finding::new(
            "cgroups",
            Level::Ok,
            format!("version {version}, writable at {}", dir.display()),
            "--memory is a limit of the host's for the workers of a sandbox, besides being sampled",
        ),
        Err(why) => sampled(why),
    }]
}

fn sampled(found: String) -> Finding {
    Finding::new(
        "cgroups",
        Level::Note,
        found,
        "--memory works by sampling: a guest may overshoot for some milliseconds",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_have_versions() {
        assert_eq!(version("6.18.44-fc-v445"), Some((6, 18)));
        assert_eq!(version("5.14"), Some((5, 14)));
        assert_eq!(version("six"), None);
    }
}
