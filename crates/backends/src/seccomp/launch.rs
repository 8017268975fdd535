//! Executes the first worker: a static program of one segment, the shim, at a base that differs per sandbox.

use std::ffi::{CStr, c_int, c_void};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use coracle_abi::Errno;
use coracle_abi::port::{PORTS_OFFSET, SENT, SHIM_ALIGN, STAGE_IN_SIZE, VDSO_SIZE, word};
use coracle_blobs::{SHIM, label};
use coracle_platform::{PlatformError, Waiting};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg,
    socketpair,
};

use super::child::Child;
use super::ports::Ports;
use super::vvar::{self, Vvar};
use super::worker::Worker;
use super::{filter, random};

/// The shim lies in `[LOWEST, HIGHEST)`, in units of [`SHIM_ALIGN`]: below the lowest place where the host's
/// search for free memory may start (`mmap_base`: at most 1 TiB of randomness and a stack below the top), so
/// that the reservation above the shim always covers that start.
const LOWEST: u64 = 0x7a00;
const HIGHEST: u64 = 0x7e80;
/// Where `boot` expects its socket, its ports, and the vvar.
const SOCKET_FD: i32 = 0;
const PORTS_FD: i32 = 3;
const VVAR_FD: i32 = 4;
/// Where the program's descriptors wait meanwhile.
const ASIDE_FD: i32 = 10;

/// Where the shim of a new sandbox lies.
pub fn choose_base() -> u64 {
    (LOWEST + random() % (HIGHEST - LOWEST)) * SHIM_ALIGN
}

/// The first worker has its filter, or could not get it.
pub fn is_confined(worker: &Worker) -> bool {
    worker.ports.port(0).get32(word::CONFINED) != 0
}

/// Waits until the first worker is confined, and takes its filter's listener from the socket.
pub fn listener(worker: &Arc<Worker>, socket: &OwnedFd, waiting: &Waiting) -> Result<OwnedFd, PlatformError> {
    let port = worker.ports.port(0);
    let confined = port.atomic(word::CONFINED);
    let patience = libc::timespec { tv_sec: 0, tv_nsec: 20_000_000 };
    waiting.look(|| confined.load(Ordering::SeqCst) != 0);
    loop {
        match confined.load(Ordering::SeqCst) {
            0 => {}
            SENT => return receive(socket),
            _ => return Err(unconfined(port.get64(word::RESULT))),
        }
        if let Some(death) = worker.death() {
            return Err(PlatformError::Died(death));
        }
        // SAFETY: the word is mapped as long as it is borrowed. Death wakes nobody here, so look now and then.
        unsafe { libc::syscall(libc::SYS_futex, confined.as_ptr(), libc::FUTEX_WAIT, 0, &raw const patience) };
    }
}

/// What the host must have for any of this.
pub fn require() -> Result<(), PlatformError> {
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

/// Lays the filter out in the port for the first worker to install: `struct sock_fprog`, then the instructions.
pub fn put_filter(port: &super::ports::Port, base: u64) {
    let instructions = filter::build(base);
    let at = word::STAGE_IN;
    port.set64(at, instructions.len() as u64);
    port.set64(at + 8, base + PORTS_OFFSET + at as u64 + 16);
    // Its first orders may be laid down beside it before it is read.
    assert!(16 + instructions.len() * 8 <= STAGE_IN_SIZE, "the filter fits into the staging area");
    for (index, instruction) in instructions.iter().enumerate() {
        port.write(at + 16 + index * 8, &instruction.bytes());
    }
}

/// An ELF executable in memory: the vDSO's image and, directly above, the shim at `base`.
pub fn program(base: u64) -> std::io::Result<OwnedFd> {
    const HEADERS: u64 = 0x1000;
    let shim_len = (SHIM.len() as u64).next_multiple_of(0x1_0000);
    let mut elf = Vec::with_capacity(64 + 2 * 56);
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
    let file = memfd_create("coracle-worker", MemfdFlags::CLOEXEC)?;
    // What is not written takes no memory and is never touched.
    ftruncate(&file, HEADERS + VDSO_SIZE + shim_len)?;
    let file = std::fs::File::from(file);
    let shim = completed(base);
    for (part, at) in [(&elf[..], 0), (&vvar::image(), HEADERS), (&shim, HEADERS + VDSO_SIZE)] {
        file.write_all_at(part, at)?;
    }
    // A file that is open for writing cannot be executed.
    Ok(std::fs::File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?.into())
}

/// The shim with what it cannot know before: addresses within its message, and who is the kernel.
fn completed(base: u64) -> Vec<u8> {
    const IOV: u64 = std::mem::offset_of!(libc::msghdr, msg_iov) as u64;
    const CONTROL: u64 = std::mem::offset_of!(libc::msghdr, msg_control) as u64;
    let mut shim = SHIM.to_vec();
    for (at, value) in [
        (label::LISTENER_MESSAGE + IOV, base + label::LISTENER_IOV),
        (label::LISTENER_MESSAGE + CONTROL, base + label::LISTENER_CONTROL),
        (label::LISTENER_IOV, base + label::LISTENER_IOV),
        (label::KERNEL_NUMBER, std::process::id().into()),
    ] {
        shim[at as usize..][..8].copy_from_slice(&value.to_le_bytes());
    }
    shim
}

/// What the child works with between `clone` and `execveat`. It shares our memory and may not allocate.
struct Exec {
    /// Our process.
    kernel: i32,
    program: i32,
    /// Descriptors to hand over, and the numbers that `boot` expects.
    given: [(i32, i32); 3],
    errno: i32,
}

/// Executes the program in a new session with a clean environment; returns its pid. As vfork(2): a copy of our
/// page tables, and the faults that follow on it, would cost more than all the rest.
///
/// Also returns the socket that the listener of its filter will come over.
pub fn execute(program: &OwnedFd, ports: &Ports, vvar: &Vvar) -> std::io::Result<(Child, OwnedFd)> {
    const STACK: usize = 16 << 10;
    let (here, there) = socketpair(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    keep_dead_children()?;
    let given = [
        (there.as_raw_fd(), SOCKET_FD),
        (ports.file().as_raw_fd(), PORTS_FD),
        (vvar.memory.fd().as_raw_fd(), VVAR_FD),
    ];
    let kernel = std::process::id() as i32;
    let mut exec = Exec { kernel, program: program.as_raw_fd(), given, errno: 0 };
    let mut stack = Vec::<MaybeUninit<u128>>::with_capacity(STACK / 16);
    let top = stack.spare_capacity_mut().as_mut_ptr_range().end;
    // SAFETY: signal sets are plain data. The child runs `exec_program` on a stack of its own while this thread
    // is suspended (CLONE_VFORK), with all signals blocked so that no handler of ours runs in it.
    let pid = unsafe {
        let mut all = std::mem::zeroed::<libc::sigset_t>();
        let mut old = std::mem::zeroed::<libc::sigset_t>();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, &raw mut old);
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        let pid = libc::clone(exec_program, top.cast(), flags, (&raw mut exec).cast());
        let error = std::io::Error::last_os_error();
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const old, std::ptr::null_mut());
        if pid < 0 { Err(error) } else { Ok(pid) }
    }?;
    drop(stack);
    // SAFETY: the child wrote before it ended, and this thread slept until then.
    match unsafe { (&raw const exec.errno).read_volatile() } {
        0 => Ok((Child::prove(pid)?, here)),
        errno => {
            Child::prove(pid)?.release();
            Err(std::io::Error::from_raw_os_error(errno))
        }
    }
}

/// A caller that ignores SIGCHLD (which `execve` keeps) has the host reap children at once, whose numbers then mean nothing.
fn keep_dead_children() -> std::io::Result<()> {
    // SAFETY: all zeros is the default action. No handler of this process is replaced by it.
    let done = unsafe {
        let (mut old, usual): (libc::sigaction, libc::sigaction) = std::mem::zeroed();
        let asked = libc::sigaction(libc::SIGCHLD, std::ptr::null(), &raw mut old);
        if old.sa_sigaction != libc::SIG_IGN && old.sa_flags & libc::SA_NOCLDWAIT == 0 {
            asked
        } else {
            libc::sigaction(libc::SIGCHLD, &raw const usual, std::ptr::null_mut())
        }
    };
    if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

extern "C" fn exec_program(exec: *mut c_void) -> c_int {
    let exec = exec.cast::<Exec>();
    let empty: &CStr = c"";
    let argv = [c"coracle-worker".as_ptr(), std::ptr::null()];
    let envp = [std::ptr::null::<libc::c_char>()];
    // SAFETY: system calls with valid arguments; `exec` lives in the suspended parent.
    unsafe {
        libc::setsid();
        // From now on it dies with the kernel: if that has happened already, here.
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        if libc::getppid() != (*exec).kernel {
            libc::_exit(127);
        }
        // The default stack makes the host search for free memory from the top down.
        let stack = libc::rlimit { rlim_cur: 8 << 20, rlim_max: libc::RLIM_INFINITY };
        libc::setrlimit(libc::RLIMIT_STACK, &raw const stack);
        // Aside first: a source may have a number that another is to have.
        let aside = |source| libc::fcntl(source, libc::F_DUPFD_CLOEXEC, ASIDE_FD);
        let program = aside((*exec).program);
        let given = (*exec).given.map(|(source, number)| (aside(source), number));
        if given.iter().all(|(source, number)| libc::dup2(*source, *number) >= 0) {
            let flags = libc::AT_EMPTY_PATH;
            libc::syscall(libc::SYS_execveat, program, empty.as_ptr(), argv.as_ptr(), envp.as_ptr(), flags);
        }
        (*exec).errno = *libc::__errno_location();
        libc::_exit(127)
    }
}

/// Takes the listener from the first worker, which has sent it.
fn receive(socket: &OwnedFd) -> Result<OwnedFd, PlatformError> {
    let host = |source: std::io::Error| PlatformError::Host {
        what: "cannot take the filter's listener over from the first worker",
        source,
    };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, flags).map_err(|error| host(error.into()))?;
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    descriptor.ok_or_else(|| host(std::io::ErrorKind::InvalidData.into()))
}

/// Why there is no filter.
fn unconfined(result: u64) -> PlatformError {
    let errno = Errno::check(result).err().unwrap_or(Errno::EINVAL);
    let what = match errno {
        Errno::EBUSY => {
            "a seccomp supervisor around this process already answers for it (a filter with a listener, as some container \
             runtimes install), and Linux allows one only"
        }
        _ => "the first worker could not install its filter",
    };
    PlatformError::Host { what, source: std::io::Error::from_raw_os_error(errno.raw()) }
}
