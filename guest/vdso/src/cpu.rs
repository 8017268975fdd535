//! `getcpu`.

use core::arch::asm;
use core::sync::atomic::Ordering::Relaxed;

use crate::vvar::cpu_source;
use crate::{alias, page, raw};

const SYS_GETCPU: usize = 309;
/// What Linux keeps in `IA32_TSC_AUX` and in the limit of a segment: the CPU, and above these bits the node
/// (arch/x86/include/asm/segment.h).
const CPU_BITS: u32 = 12;
const CPU_MASK: u32 = (1 << CPU_BITS) - 1;
/// `__CPUNODE_SEG`.
const CPUNODE_SEGMENT: u32 = 15 * 8 + 3;

alias!("getcpu", "__vdso_getcpu");

/// The CPU, and above its bits the node; `None` if only a system call knows.
#[inline(always)]
fn both() -> Option<u32> {
    match page().cpu_source.load(Relaxed) {
        cpu_source::RDPID => {
            let value: u64;
            // SAFETY: reads a register; the kernel has seen that the processor has the instruction.
            unsafe { asm!("rdpid {}", out(reg) value, options(nomem, nostack, preserves_flags)) };
            Some(value as u32)
        }
        cpu_source::LSL => Some(limit()),
        _ => None,
    }
}

#[inline(always)]
fn limit() -> u32 {
    let both: u32;
    // SAFETY: reads the limit of a segment, which Linux has for this.
    unsafe {
        asm!("lsl {1:e}, {0:e}", out(reg) both, in(reg) CPUNODE_SEGMENT, options(nomem, nostack, att_syntax));
    }
    both
}

/// The CPU, on any processor.
#[inline(always)]
pub fn by_segment() -> u32 {
    limit() & CPU_MASK
}

/// The CPU, for readers of per-CPU pages; a number that no CPU has if it is not known.
pub fn current() -> u32 {
    both().map_or(u32::MAX, |both| both & CPU_MASK)
}

/// getcpu(2). The third argument has no use since Linux 2.6.24.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __vdso_getcpu(cpu: *mut u32, node: *mut u32, _unused: usize) -> isize {
    let Some(both) = both() else {
        // SAFETY: the call checks its pointers.
        return unsafe { raw::call(SYS_GETCPU, cpu as usize, node as usize, 0) };
    };
    // SAFETY: the caller's pointers, if it gave any.
    unsafe {
        if !cpu.is_null() {
            cpu.write(both & CPU_MASK);
        }
        if !node.is_null() {
            node.write(both >> CPU_BITS);
        }
    }
    0
}
