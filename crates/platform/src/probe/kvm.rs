//! What an exit of a virtual machine costs here: a machine of one page that does nothing but port output.

use std::ffi::{c_int, c_ulong, c_void};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use super::Refusal;

// linux/kvm.h. `_IO(KVMIO, n)` is 0xae00 | n; the others carry direction and size.
const KVM_GET_API_VERSION: c_ulong = 0xae00;
const KVM_CREATE_VM: c_ulong = 0xae01;
const KVM_GET_VCPU_MMAP_SIZE: c_ulong = 0xae04;
const KVM_CREATE_VCPU: c_ulong = 0xae41;
const KVM_SET_USER_MEMORY_REGION: c_ulong = 0x4020_ae46;
const KVM_SET_TSS_ADDR: c_ulong = 0xae47;
const KVM_RUN: c_ulong = 0xae80;
const KVM_SET_REGS: c_ulong = 0x4090_ae82;
const KVM_GET_SREGS: c_ulong = 0x8138_ae83;
const KVM_SET_SREGS: c_ulong = 0x4138_ae84;
const KVM_EXIT_IO: u32 = 2;

/// `struct kvm_userspace_memory_region`.
#[repr(C)]
struct MemoryRegion {
    slot: u32,
    flags: u32,
    guest_phys_addr: u64,
    memory_size: u64,
    userspace_addr: u64,
}

/// `struct kvm_regs`: rax … r15, rip, rflags.
#[repr(C)]
struct Regs([u64; 18]);
const RIP: usize = 16;
const RFLAGS: usize = 17;

/// `struct kvm_sregs`, of which only CS is touched: base at byte 0, selector at byte 12.
#[repr(C, align(8))]
struct Sregs([u8; 312]);

const PAGE: usize = 4096;

fn open() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open("/dev/kvm")
}

/// Version of the interface; it has been 12 ever since.
pub fn kvm_api_version() -> io::Result<c_int> {
    let kvm = open()?;
    // SAFETY: a request without argument.
    let version = unsafe { libc::ioctl(kvm.as_raw_fd(), KVM_GET_API_VERSION, 0) };
    if version < 0 { Err(io::Error::last_os_error()) } else { Ok(version) }
}

/// Mean time of one entry and exit, over this many.
pub fn kvm_exit_cost(rounds: u32) -> Result<Duration, Refusal> {
    let kvm = open().map_err(Refusal::at("/dev/kvm"))?;
    let vm = made(&kvm, KVM_CREATE_VM, "KVM_CREATE_VM")?;
    // SAFETY: three free pages of guest-physical space, as Intel hosts want for real mode; others ignore it.
    unsafe { libc::ioctl(vm.as_raw_fd(), KVM_SET_TSS_ADDR, 0xfffb_d000_u64) };
    let code = Mapping::new(None, PAGE)?;
    // out %al, $0x80; jmp back to it.
    code.write(&[0xe6, 0x80, 0xeb, 0xfc]);
    let region = MemoryRegion {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: PAGE as u64,
        userspace_addr: code.address.addr() as u64,
    };
    // SAFETY: the mapping outlives the machine, which is dropped first (declared later, and closed by then).
    done(unsafe { libc::ioctl(vm.as_raw_fd(), KVM_SET_USER_MEMORY_REGION, &raw const region) }, "memory")?;
    let vcpu = made(&vm, KVM_CREATE_VCPU, "KVM_CREATE_VCPU")?;
    // SAFETY: a request without argument.
    let size = unsafe { libc::ioctl(kvm.as_raw_fd(), KVM_GET_VCPU_MMAP_SIZE, 0) };
    let size = usize::try_from(size).map_err(|_| Refusal::last("KVM_GET_VCPU_MMAP_SIZE"))?;
    let run = Mapping::new(Some(&vcpu), size)?;
    start_at_zero(&vcpu)?;
    let mut started = Instant::now();
    for round in 0..=rounds {
        // SAFETY: the machine reaches nothing but its one page.
        done(unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_RUN, 0) }, "KVM_RUN")?;
        let reason = run.exit_reason();
        if reason != KVM_EXIT_IO {
            let source = io::Error::other(format!("unexpected exit {reason}"));
            return Err(Refusal { step: "KVM_RUN", source });
        }
        if round == 0 {
            // The first entry builds everything.
            started = Instant::now();
        }
    }
    Ok(started.elapsed() / rounds.max(1))
}

fn start_at_zero(vcpu: &OwnedFd) -> Result<(), Refusal> {
    let mut sregs = Sregs([0; 312]);
    // SAFETY: the buffer has the size that the request's number carries.
    done(unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_GET_SREGS, &raw mut sregs) }, "KVM_GET_SREGS")?;
    sregs.0[..8].fill(0);
    sregs.0[12..14].fill(0);
    // SAFETY: as above.
    done(unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_SET_SREGS, &raw const sregs) }, "KVM_SET_SREGS")?;
    let mut regs = Regs([0; 18]);
    regs.0[RIP] = 0;
    regs.0[RFLAGS] = 2; // the bit that is always set
    // SAFETY: as above.
    done(unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_SET_REGS, &raw const regs) }, "KVM_SET_REGS")
}

fn done(answer: c_int, step: &'static str) -> Result<(), Refusal> {
    if answer < 0 { Err(Refusal::last(step)) } else { Ok(()) }
}

fn made(from: &impl AsRawFd, request: c_ulong, step: &'static str) -> Result<OwnedFd, Refusal> {
    // SAFETY: requests with the argument 0 (a machine type, a vCPU number).
    let fd: RawFd = unsafe { libc::ioctl(from.as_raw_fd(), request, 0) };
    done(fd, step)?;
    // SAFETY: a descriptor that the call has just made.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Shared memory of ours, unmapped when dropped.
struct Mapping {
    address: *mut c_void,
    size: usize,
}

impl Mapping {
    fn new(of: Option<&OwnedFd>, size: usize) -> Result<Self, Refusal> {
        let (flags, fd) = match of {
            Some(fd) => (libc::MAP_SHARED, fd.as_raw_fd()),
            None => (libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1),
        };
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh mapping at a place of the host's choice.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), size, access, flags, fd, 0) };
        if address == libc::MAP_FAILED { Err(Refusal::last("mmap")) } else { Ok(Self { address, size }) }
    }

    fn write(&self, bytes: &[u8]) {
        let fits = bytes.len().min(self.size);
        // SAFETY: within the mapping; no machine runs on it yet.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.address.cast::<u8>(), fits) };
    }

    /// `exit_reason` of `struct kvm_run`: the third 32-bit word.
    fn exit_reason(&self) -> u32 {
        if self.size < 12 {
            return u32::MAX;
        }
        // SAFETY: within the mapping, aligned since mappings are; the host may write it, hence volatile.
        unsafe { self.address.cast::<u32>().add(2).read_volatile() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`; a machine that still maps it keeps only the physical page.
        unsafe { libc::munmap(self.address, self.size) };
    }
}
