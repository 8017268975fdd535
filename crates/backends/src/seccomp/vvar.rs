//! What the vDSO needs from outside: its image with the host's version in it, and what its data says from the start.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use coracle_abi::vvar::{MAP_DROPPABLE, TRIES, cpu_source, mode, word};
use coracle_blobs::{VDSO, label, vdso};
use coracle_platform::{Special, VvarMemory};

/// The vvar of a sandbox, and how its mappings are recognised.
pub struct Vvar {
    pub memory: Arc<VvarMemory>,
    /// Host device and inode of the vvar and of the zygote's program.
    ids: [(u64, u64); 2],
}

impl Vvar {
    /// Data for a shim at `base`, in `memory`; `program` is what workers run.
    pub fn new(memory: Arc<VvarMemory>, base: u64, program: &OwnedFd) -> std::io::Result<Vvar> {
        let page = memory.page();
        page.fast_entry.store(base + label::FAST_ENTRY, Ordering::Relaxed);
        let source = if super::has_rdpid() { cpu_source::RDPID } else { cpu_source::LSL };
        page.cpu_source.store(source, Ordering::Relaxed);
        page.random_map.store(random_map(), Ordering::Relaxed);
        let id = |fd| rustix::fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
        let ids = [id(memory.fd())?, id(std::os::fd::AsFd::as_fd(program))?];
        Ok(Vvar { memory, ids })
    }

    /// Guests have no clocks but the host's.
    pub fn host_time(&self) -> bool {
        let mode = self.memory.page().clocks.read(TRIES, |words| words.get::<{ word::MODE }>());
        mode == Some(mode::NONE)
    }

    /// What the mapping of this file below the shim is.
    pub fn special(&self, dev: u64, ino: u64) -> Option<Special> {
        match self.ids.iter().position(|id| *id == (dev, ino)) {
            Some(0) => Some(Special::Vvar),
            Some(_) => Some(Special::Vdso),
            None => None,
        }
    }
}

/// How memory for random states is to be mapped. Of `MAP_DROPPABLE` (Linux 6.11) a forked child sees nothing but zeros;
/// where the host does not know it, the kernel process voids all states at each fork.
fn random_map() -> u64 {
    const PAGE: usize = 4096;
    let flags = libc::MAP_ANONYMOUS | MAP_DROPPABLE as i32;
    // SAFETY: a new mapping at an address of the host's choice, which nobody uses before it goes again.
    unsafe {
        let memory = libc::mmap(std::ptr::null_mut(), PAGE, libc::PROT_READ, flags, -1, 0);
        if memory == libc::MAP_FAILED {
            return (libc::MAP_ANONYMOUS | libc::MAP_PRIVATE) as u64;
        }
        libc::munmap(memory, PAGE);
    }
    flags as u64
}

/// The vDSO's image for a kernel of the host's version.
pub fn image() -> Vec<u8> {
    let mut image = VDSO.to_vec();
    let release = rustix::system::uname();
    let version = version_code(&release.release().to_string_lossy());
    let at = vdso::VERSION as usize;
    image[at..at + 4].copy_from_slice(&version.to_le_bytes());
    image
}

/// `LINUX_VERSION_CODE`: a byte each for patch level and sublevel, which sticks at 255.
fn version_code(release: &str) -> u32 {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit()).map(|word| word.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0u32).min(255);
    next() << 16 | next() << 8 | next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_coded_as_linux_codes_them() {
        assert_eq!(version_code("6.18.44-fc-v445"), 0x06_12_2c);
        assert_eq!(version_code("4.4.302+"), 0x04_04_ff);
        assert_eq!(version_code("7.0.1-rc1"), 0x07_00_01);
    }
}
