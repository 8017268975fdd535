//! Starts the zygote: a static program of one segment, the shim, at a base that differs per sandbox.

use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use coracle_abi::port::{PORT_SIZE, PORTS_OFFSET, REPLIED, SHIM_ALIGN, VDSO_SIZE, word};
use coracle_blobs::SHIM;
use coracle_platform::{PlatformError, startup};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::notify::Notifier;
use super::ports::Ports;
use super::reaper::Reaper;
use super::thread::SeccompThread;
use super::vvar::{self, Vvar};
use super::worker::Worker;
use super::{Shared, filter, frame, has_rdpid, random};

/// The shim lies in `[LOWEST, HIGHEST)`, in units of [`SHIM_ALIGN`]: below the lowest place where the host's
/// search for free memory may start (`mmap_base`: at most 1 TiB of randomness and a stack below the top), so
/// that the reservation above the shim always covers that start.
const LOWEST: u64 = 0x7a00;
const HIGHEST: u64 = 0x7e80;
/// Where `boot` expects its ports, and the vvar.
const PORTS_FD: i32 = 3;
const VVAR_FD: i32 = 4;
/// Where the program's descriptors wait meanwhile.
const ASIDE_FD: i32 = 10;

/// The zygote, ready for orders, and what all workers share. `meanwhile` is done while the zygote makes itself ready, on
/// the thread that has started it.
pub fn start(meanwhile: impl FnOnce() + Send + 'static) -> Result<(Arc<Shared>, Arc<Worker>), PlatformError> {
    require()?;
    let host = |what| move |source| PlatformError::Host { what, source };
    let base = (LOWEST + random() % (HIGHEST - LOWEST)) * SHIM_ALIGN;
    let ports = Ports::new().map_err(host("cannot make ports"))?;
    let port = ports.port(0);
    port.set32(word::STATE, REPLIED);
    port.set64(word::SELF, base + PORTS_OFFSET);
    put_filter(&port, base);
    let program = program(base).map_err(host("cannot make the zygote's program"))?;
    let vvar = Arc::new(Vvar::new(base, &program).map_err(host("cannot make the vDSO's data"))?);
    startup::step("filter and zygote's program built");

    let (report, started) = sync_channel(1);
    let reaper = Arc::<Reaper>::default();
    let (served, its_ports, its_vvar) = (reaper.clone(), ports.clone(), vvar.clone());
    // One thread starts the zygote and then waits for children: workers are told of the death of the thread that
    // started them, so it must last.
    let run = move || {
        let pid = execute(&program, &its_ports, &its_vvar);
        drop((program, its_ports, its_vvar));
        let alive = pid.is_ok();
        if alive {
            // Before the report, which wakes a thread that would then wait for this one's CPU.
            meanwhile();
        }
        let _ = report.send(pid);
        if alive {
            served.serve();
        }
    };
    std::thread::Builder::new()
        .name("reaper".into())
        .stack_size(256 << 10)
        .spawn(run)
        .map_err(host("cannot start a thread"))?;
    let pid = started.recv().unwrap_or(Err(std::io::ErrorKind::Other.into()));
    let pid = pid.map_err(host("cannot start the zygote"))?;
    startup::step("zygote executed");

    let worker = Worker::new(pid, base, ports, 0, vvar);
    reaper.adopt(&worker);
    let listener = SeccompThread::first_result(&worker)
        .map_err(|_| PlatformError::Died(worker.death().unwrap_or(coracle_platform::Death::Killed)))?;
    startup::step("zygote confined");
    let listener = fetch_listener(pid, listener)?;
    let notifier = Notifier::start(listener).map_err(host("cannot start a thread"))?;
    Ok((Arc::new(Shared { notifier, reaper, has_rdpid: has_rdpid(), xstate: xstate() }), worker))
}

/// What the host must have for any of this.
fn require() -> Result<(), PlatformError> {
    const HWCAP2_FSGSBASE: u64 = 2;
    // SAFETY: reads the auxiliary vector.
    if unsafe { libc::getauxval(libc::AT_HWCAP2) } & HWCAP2_FSGSBASE == 0 {
        return Err(PlatformError::Missing {
            feature: "FSGSBASE",
            hint: "it needs Linux 5.9 or newer on a processor that has it (Intel since 2012, AMD since 2018)",
        });
    }
    Ok(())
}

/// Features that XSAVE saves for the guest, and how long that gets (Intel SDM volume 1, section 13.4). Not AMX:
/// its tiles are a program's only after it asked for them.
fn xstate() -> (u64, u32) {
    const FP_SSE: u64 = 3;
    const AMX: u64 = 3 << 17;
    const OSXSAVE: u32 = 1 << 27;
    if core::arch::x86_64::__cpuid(1).ecx & OSXSAVE == 0 {
        return (0, 0);
    }
    let (low, high): (u32, u32);
    // SAFETY: XGETBV of XCR0 exists where OSXSAVE says so.
    unsafe { std::arch::asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack)) };
    let features = (u64::from(low) | u64::from(high) << 32) & !AMX;
    let end = |feature: u32| {
        let leaf = core::arch::x86_64::__cpuid_count(0xd, feature);
        leaf.ebx + leaf.eax
    };
    let size = (2..63).filter(|feature| features >> feature & 1 == 1).map(end).fold(512 + 64, u32::max);
    if features & FP_SSE == FP_SSE && size <= frame::XSTATE_MAX as u32 { (features, size) } else { (0, 0) }
}

/// Lays the filter out in the port for the zygote to install: `struct sock_fprog`, then the instructions.
fn put_filter(port: &super::ports::Port, base: u64) {
    let instructions = filter::build(base);
    let at = word::STAGE_IN;
    port.set64(at, instructions.len() as u64);
    port.set64(at + 8, base + PORTS_OFFSET + at as u64 + 16);
    assert!(at + 16 + instructions.len() * 8 <= PORT_SIZE as usize / 2, "the filter fits into the staging areas");
    for (index, instruction) in instructions.iter().enumerate() {
        port.write(at + 16 + index * 8, &instruction.bytes());
    }
}

/// An ELF executable in memory: the vDSO's image and, directly above, the shim at `base`.
fn program(base: u64) -> std::io::Result<OwnedFd> {
    const HEADERS: u64 = 0x1000;
    let shim_len = (SHIM.len() as u64).next_multiple_of(0x1_0000);
    let mut elf = Vec::with_capacity((HEADERS + VDSO_SIZE + shim_len) as usize);
    elf.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    for half in [2u16, 62] {
        elf.extend_from_slice(&half.to_le_bytes()); // ET_EXEC, EM_X86_64
    }
    elf.extend_from_slice(&1u32.to_le_bytes());
    for word in [base, 64, 0] {
        elf.extend_from_slice(&word.to_le_bytes()); // entry, program headers, section headers
    }
    elf.extend_from_slice(&0u32.to_le_bytes());
    for half in [64u16, 56, 2, 0, 0, 0] {
        elf.extend_from_slice(&half.to_le_bytes());
    }
    for (offset, at, len) in [(HEADERS, base - VDSO_SIZE, VDSO_SIZE), (HEADERS + VDSO_SIZE, base, shim_len)] {
        for half in [1u32, 5] {
            elf.extend_from_slice(&half.to_le_bytes()); // PT_LOAD, read and execute
        }
        for word in [offset, at, at, len, len, 0x1000] {
            elf.extend_from_slice(&word.to_le_bytes());
        }
    }
    debug_assert_eq!(elf.len(), 64 + 2 * 56);
    for (part, len) in [(&[][..], HEADERS), (&vvar::image(), HEADERS + VDSO_SIZE)] {
        elf.extend_from_slice(part);
        elf.resize(len as usize, 0);
    }
    elf.extend_from_slice(SHIM);
    elf.resize((HEADERS + VDSO_SIZE + shim_len) as usize, 0xcc);
    let file = memfd_create("coracle-worker", MemfdFlags::CLOEXEC)?;
    let mut file = std::fs::File::from(file);
    file.write_all(&elf)?;
    // A file that is open for writing cannot be executed.
    Ok(std::fs::File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?.into())
}

/// Executes the program in a new session with a clean environment; returns its pid.
fn execute(program: &OwnedFd, ports: &Ports, vvar: &Vvar) -> std::io::Result<i32> {
    let sources = [(ports.file().as_raw_fd(), PORTS_FD), (vvar.memory.fd().as_raw_fd(), VVAR_FD)];
    let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
    command.arg0("coracle-worker").env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: only async-signal-safe system calls.
    unsafe {
        command.pre_exec(move || {
            libc::setsid();
            // The default stack makes the host search for free memory from the top down.
            let stack = libc::rlimit { rlim_cur: 8 << 20, rlim_max: libc::RLIM_INFINITY };
            libc::setrlimit(libc::RLIMIT_STACK, &raw const stack);
            // Aside first: a source may have a number that another is to have.
            let mut aside = [0; 2];
            for (to, (source, _)) in aside.iter_mut().zip(sources) {
                *to = libc::fcntl(source, libc::F_DUPFD_CLOEXEC, ASIDE_FD);
            }
            for (source, (_, number)) in aside.into_iter().zip(sources) {
                if libc::dup2(source, number) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    Ok(command.spawn()?.id() as i32)
}

/// Fetches the filter's listener out of the zygote, which has just installed it.
fn fetch_listener(pid: i32, number: u64) -> Result<OwnedFd, PlatformError> {
    const HINT: &str =
        "the zygote could not install its filter (is another seccomp supervisor active? see coracle doctor)";
    let number = coracle_abi::Errno::check(number).map_err(|errno| PlatformError::Host {
        what: HINT,
        source: std::io::Error::from_raw_os_error(errno.raw()),
    })?;
    let host = |source: rustix::io::Errno| PlatformError::Host {
        what: "cannot fetch the filter's listener from the zygote",
        source: source.into(),
    };
    let process = Pid::from_raw(pid).ok_or(PlatformError::Died(coracle_platform::Death::Killed))?;
    let pidfd = pidfd_open(process, PidfdFlags::empty()).map_err(host)?;
    pidfd_getfd(&pidfd, number as i32, PidfdGetfdFlags::empty()).map_err(host)
}
