//! What makes guests fast or slow here.

use coracle_platform::probe;

use super::{Finding, Level, Probe, in_child, read};

pub(super) fn findings() -> Vec<Finding> {
    let mut found = vec![kvm()];
    found.extend([fsgsbase(), clock(), rseq(), huge_pages(), memory(), cpus()]);
    found
}

/// An exit that costs less than this is hardware's own; a nested machine pays ten times as much.
const CHEAP_EXIT_NS: u64 = 5_000;

fn kvm() -> Finding {
    const TOPIC: &str = "/dev/kvm";
    let version = match probe::kvm_api_version() {
        Ok(12) => 12,
        Ok(other) => {
            let found = format!("interface version {other} instead of 12");
            return Finding::new(TOPIC, Level::Note, found, "the kvm platform cannot be used; seccomp can");
        }
        Err(err) => return without_kvm(&err),
    };
    match in_child(Probe::KvmExit).map(|text| text.parse::<u64>()) {
        Ok(Ok(ns)) if ns < CHEAP_EXIT_NS => {
            let found = format!("version {version}, an exit costs {:.1} us", to_us(ns));
            Finding::new(TOPIC, Level::Ok, found, "exits are cheap: this machine runs virtual machines by itself")
        }
        Ok(Ok(ns)) => {
            let found = format!("version {version}, an exit costs {:.1} us", to_us(ns));
            let means =
                "exits are dear, as in a virtual machine inside another: seccomp is the better platform here";
            Finding::new(TOPIC, Level::Note, found, means)
        }
        Ok(Err(_)) => Finding::new(TOPIC, Level::Note, "no figure", "the cost of an exit could not be measured"),
        Err(why) => {
            Finding::new(TOPIC, Level::Note, why, "there, but it runs no machine; seccomp is used instead")
        }
    }
}

fn without_kvm(err: &std::io::Error) -> Finding {
    const TOPIC: &str = "/dev/kvm";
    match err.kind() {
        std::io::ErrorKind::NotFound => {
            Finding::new(TOPIC, Level::Note, "not there", "not needed: the seccomp platform runs everywhere")
                .mend("where the processor has it: modprobe kvm_amd or kvm_intel")
        }
        std::io::ErrorKind::PermissionDenied => Finding::new(
            TOPIC,
            Level::Note,
            "not yours to open",
            "not needed: the seccomp platform runs everywhere",
        )
        .mend("to use it: usermod -aG kvm $USER, then log in again"),
        _ => Finding::new(TOPIC, Level::Note, err.to_string(), "not needed: the seccomp platform runs everywhere"),
    }
}

fn to_us(ns: u64) -> f64 {
    std::time::Duration::from_nanos(ns).as_secs_f64() * 1e6
}

/// AT_HWCAP2 on x86 (arch/x86/include/uapi/asm/hwcap2.h).
const HWCAP2_FSGSBASE: usize = 1 << 1;

fn fsgsbase() -> Finding {
    const TOPIC: &str = "FSGSBASE";
    let (_, hwcap2) = rustix::param::linux_hwcap();
    if hwcap2 & HWCAP2_FSGSBASE != 0 {
        Finding::new(TOPIC, Level::Ok, "enabled", "the shim finds its port without a system call")
    } else {
        Finding::new(
            TOPIC,
            Level::Bad,
            "disabled",
            "the shim cannot find its port: it needs Linux 5.9 and a processor since 2012",
        )
        .mend("remove `nofsgsbase` from the kernel's command line")
    }
}

fn clock() -> Finding {
    const TOPIC: &str = "clock";
    match read("/sys/devices/system/clocksource/clocksource0/current_clocksource").as_str() {
        "tsc" => Finding::new(TOPIC, Level::Ok, "tsc", "guests read the time without any call"),
        "" => Finding::new(TOPIC, Level::Note, "unknown", "guests may need a call to read the time"),
        other => Finding::new(TOPIC, Level::Poor, other, "guests need a call to read the time").mend(
            "in a virtual machine: have the host offer an invariant TSC; elsewhere: boot with tsc=reliable if the \
             counters are known to agree",
        ),
    }
}

fn rseq() -> Finding {
    if probe::rseq() {
        Finding::new("rseq", Level::Ok, "there", "guests may keep per-CPU data as they do on Linux")
    } else {
        let means = "programs that need restartable sequences (tcmalloc) use slower ways";
        Finding::new("rseq", Level::Note, "not there", means).mend("run a kernel with CONFIG_RSEQ")
    }
}

fn huge_pages() -> Finding {
    const TOPIC: &str = "huge pages";
    let setting = read("/sys/kernel/mm/transparent_hugepage/enabled");
    let chosen = setting.split(['[', ']']).nth(1).unwrap_or_default().to_owned();
    match chosen.as_str() {
        "always" | "madvise" => Finding::new(
            TOPIC,
            Level::Ok,
            chosen,
            "memory of guests comes in big pages, which makes fork much cheaper",
        ),
        _ => Finding::new(TOPIC, Level::Poor, "never", "fork of big guests is several times dearer")
            .mend("echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"),
    }
}

fn memory() -> Finding {
    let field = |name: &str| {
        let info = read("/proc/meminfo");
        let line = info.lines().find_map(|line| line.strip_prefix(name).map(str::to_owned));
        line.and_then(|rest| rest.trim_start_matches(':').trim().strip_suffix(" kB")?.parse::<u64>().ok())
    };
    match (field("MemTotal"), field("MemAvailable")) {
        (Some(total), Some(free)) => {
            let found = format!("{} MiB, {} MiB available", total / 1024, free / 1024);
            if free < 256 * 1024 {
                let means = "guests will be short of memory, or be killed for it";
                Finding::new("memory", Level::Poor, found, means).mend("end other programs or add memory")
            } else {
                Finding::new(
                    "memory",
                    Level::Ok,
                    found,
                    "guests use the host's memory directly; a started sandbox adds less than 10 MiB",
                )
            }
        }
        _ => Finding::new("memory", Level::Note, "unknown", "/proc/meminfo cannot be read"),
    }
}

fn cpus() -> Finding {
    let usable = std::thread::available_parallelism().map_or(1, usize::from);
    let found = format!("{usable} usable");
    if usable > 1 {
        Finding::new(
            "CPUs",
            Level::Ok,
            found,
            "guest and kernel can run side by side: calls through shared memory take about 0.1 us",
        )
    } else {
        Finding::new(
            "CPUs",
            Level::Poor,
            found,
            "guest and kernel take turns on one CPU: a call costs several microseconds",
        )
        .mend("give it a second CPU")
    }
}
