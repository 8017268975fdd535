//! The processor's caches, from CPUID (Intel's leaf 4, AMD's 0x8000001d).

use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::sync::OnceLock;

/// One cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    pub level: u32,
    pub kind: &'static str,
    pub line: u32,
    pub ways: u32,
    pub sets: u32,
    /// Most logical CPUs that share it.
    pub shared_by: usize,
}

impl Cache {
    /// Bytes.
    pub fn size(&self) -> u64 {
        u64::from(self.line) * u64::from(self.ways) * u64::from(self.sets)
    }
}

/// Of the host, asked once: it is the same for all sandboxes.
static CACHES: OnceLock<Vec<Cache>> = OnceLock::new();

/// All caches, lowest level first.
pub fn caches() -> &'static [Cache] {
    CACHES.get_or_init(ask)
}

const AMD: u32 = u32::from_le_bytes(*b"Auth");
const HYGON: u32 = u32::from_le_bytes(*b"Hygo");

fn ask() -> Vec<Cache> {
    let vendor = __cpuid(0);
    let leaf = if vendor.ebx == AMD || vendor.ebx == HYGON { 0x8000_001d } else { 4 };
    if leaf > __cpuid(leaf & 0x8000_0000).eax {
        return Vec::new();
    }
    (0..5).map_while(|index| decode(__cpuid_count(leaf, index))).collect()
}

fn decode(answer: std::arch::x86_64::CpuidResult) -> Option<Cache> {
    let kind = match answer.eax & 0x1f {
        1 => "Data",
        2 => "Instruction",
        3 => "Unified",
        _ => return None,
    };
    Some(Cache {
        level: (answer.eax >> 5) & 7,
        kind,
        line: (answer.ebx & 0xfff) + 1,
        ways: (answer.ebx >> 22) + 1,
        sets: answer.ecx.wrapping_add(1),
        shared_by: ((answer.eax >> 14) & 0xfff) as usize + 1,
    })
}
