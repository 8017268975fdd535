//! The CPUs of a guest thread. The host knows no safe way to set those of another: its call takes a number, which may be
//! somebody else's by the time it arrives. So the thread sets its own, as an order, and takes the set from a page that it
//! can only read ([`SEALED_OFFSET`]).
//!
//! Sets in that page are sets that guests may have. So a guest that takes another than it was told has gained nothing.

use std::sync::Arc;

use coracle_abi::port::{CPU_SET_SIZE, CPU_SETS, SEALED_OFFSET};
use coracle_platform::VvarMemory;
use parking_lot::Mutex;

/// A set of CPUs as the host reads it.
pub type CpuBits = [u64; CPU_SET_SIZE / 8];

/// The sets that are in the page.
pub struct CpuSets {
    memory: Arc<VvarMemory>,
    sets: Mutex<Sets>,
}

#[derive(Default)]
struct Sets {
    known: Vec<CpuBits>,
    /// The place that the next one takes, once all are taken.
    next: usize,
}

impl CpuSets {
    pub fn new(memory: Arc<VvarMemory>) -> CpuSets {
        CpuSets { memory, sets: Mutex::default() }
    }

    /// The bits of these CPUs; more than the page has room for cannot be had.
    pub fn bits(cpus: &[usize]) -> CpuBits {
        let mut bits = CpuBits::default();
        for cpu in cpus {
            if let Some(word) = bits.get_mut(cpu / 64) {
                *word |= 1 << (cpu % 64);
            }
        }
        bits
    }

    /// Where a worker whose shim lies at `base` finds this set. When there are more than there is room for, the oldest
    /// makes room: who was about to take that one gets this.
    pub fn address(&self, bits: &CpuBits, base: u64) -> u64 {
        let mut sets = self.sets.lock();
        let place = match sets.known.iter().position(|known| known == bits) {
            Some(place) => place,
            None => {
                let place = sets.next;
                sets.next = (place + 1) % CPU_SETS;
                match sets.known.get_mut(place) {
                    Some(known) => *known = *bits,
                    None => sets.known.push(*bits),
                }
                self.memory.seal(place * CPU_SET_SIZE / 8, bits);
                place
            }
        };
        base + SEALED_OFFSET + (place * CPU_SET_SIZE) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_shared_and_the_oldest_makes_room() {
        let sets = CpuSets::new(VvarMemory::new().unwrap());
        let place = |cpu: usize| sets.address(&CpuSets::bits(&[cpu]), 1 << 40);
        let first = place(0);
        assert_eq!(first, (1 << 40) + SEALED_OFFSET);
        for cpu in 1..CPU_SETS {
            assert_eq!(place(cpu), first + (cpu * CPU_SET_SIZE) as u64);
        }
        assert_eq!(place(5), first + 5 * CPU_SET_SIZE as u64);
        assert_eq!(place(CPU_SETS), first);
        assert_eq!(place(0), first + CPU_SET_SIZE as u64);
        let mut seen = vec![0u8; 2 * CPU_SET_SIZE];
        rustix::io::pread(sets.memory.fd(), &mut seen, coracle_abi::vvar::VVAR_SIZE as u64).unwrap();
        assert_eq!(seen[CPU_SETS / 8], 1 << (CPU_SETS % 8));
        assert_eq!(seen[CPU_SET_SIZE], 1);
    }

    #[test]
    fn cpus_beyond_the_page_are_left_out() {
        assert_eq!(CpuSets::bits(&[0, 65, 1 << 20])[..2], [1, 2]);
    }
}
