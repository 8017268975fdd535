//! Signal frames in a port: how the complete register file of a stopped thread is read and written.
//!
//! Layout: `ucontext` and `sigcontext` of arch/x86/include/uapi/asm/{ucontext,sigcontext}.h.

use coracle_abi::port::{INTERRUPT_SIGNAL, PORT_SIZE, word};
use coracle_platform::Regs;

use super::ports::Port;

/// Offset of the general registers in a `ucontext`.
const GREGS: usize = 40;
/// Offset of the pointer to the floating point state.
const FPSTATE: usize = GREGS + 23 * 8;
/// Offset of the signal mask.
const SIGMASK: usize = 296;
/// Size of a `ucontext` with its 8-byte mask.
const UCONTEXT: usize = 304;
/// Offset of `fpx_sw_bytes` in the legacy area.
const SW_BYTES: usize = 464;
const FP_XSTATE_MAGIC1: u32 = 0x4650_5853;
const FP_XSTATE_MAGIC2: u32 = 0x4650_5845;
/// Largest XSAVE area that is believed (AMX included).
pub const XSTATE_MAX: usize = 0x3000;

/// `UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS`.
const UC_FLAGS: u64 = 7;
/// User code segment, user stack segment, as 16-bit fields cs, gs, fs, ss.
const SEGMENTS: u64 = 0x2b_0000_0000_0033;

/// Where a frame lies in its port, checked.
#[derive(Clone, Copy)]
pub struct Place {
    frame: usize,
    /// The floating point state and the size of its XSAVE area, without the trailing magic.
    xstate: Option<(usize, usize)>,
}

/// Finds the frame that the guest's handler names; `None` if it names nonsense.
pub fn locate(port: &Port, port_address: u64) -> Option<Place> {
    let frame = port.get64(word::FRAME).wrapping_sub(port_address);
    if !Port::contains(frame, UCONTEXT as u64) || !frame.is_multiple_of(8) {
        return None;
    }
    let frame = frame as usize;
    let fpstate = port.get64(frame + FPSTATE).wrapping_sub(port_address);
    let xstate = if Port::contains(fpstate, 512) && fpstate.is_multiple_of(64) {
        let at = fpstate as usize;
        let magic = port.get32(at + SW_BYTES);
        let size = if magic == FP_XSTATE_MAGIC1 { port.get32(at + SW_BYTES + 16) as usize } else { 512 };
        ((512..=XSTATE_MAX).contains(&size) && Port::contains(fpstate, size as u64)).then_some((at, size))
    } else {
        None
    };
    Some(Place { frame, xstate })
}

/// Order of the general registers in a frame.
fn general(regs: &mut Regs) -> [&mut u64; 18] {
    [
        &mut regs.r8,
        &mut regs.r9,
        &mut regs.r10,
        &mut regs.r11,
        &mut regs.r12,
        &mut regs.r13,
        &mut regs.r14,
        &mut regs.r15,
        &mut regs.rdi,
        &mut regs.rsi,
        &mut regs.rbp,
        &mut regs.rbx,
        &mut regs.rdx,
        &mut regs.rax,
        &mut regs.rcx,
        &mut regs.rsp,
        &mut regs.rip,
        &mut regs.rflags,
    ]
}

/// Reads the register file. Segment bases lie elsewhere in the port.
pub fn read(port: &Port, place: Place) -> Regs {
    let mut regs = Regs::default();
    for (index, register) in general(&mut regs).into_iter().enumerate() {
        *register = port.get64(place.frame + GREGS + index * 8);
    }
    if let Some((at, size)) = place.xstate {
        regs.xstate = vec![0; size];
        port.read(at, &mut regs.xstate);
    }
    regs
}

/// The instruction pointer alone.
pub fn rip(port: &Port, place: Place) -> u64 {
    port.get64(place.frame + GREGS + 16 * 8)
}

/// Changes the instruction pointer alone.
pub fn set_rip(port: &Port, place: Place, rip: u64) {
    port.set64(place.frame + GREGS + 16 * 8, rip);
}

/// Trap number, error code and fault address of a processor exception.
pub fn exception(port: &Port, place: Place) -> (u64, u64, u64) {
    let word = |index: usize| port.get64(place.frame + GREGS + index * 8);
    (word(20), word(19), word(22))
}

/// Writes the register file back into the frame it came from.
pub fn write(port: &Port, port_address: u64, place: Place, regs: &mut Regs) {
    for (index, register) in general(regs).into_iter().enumerate() {
        port.set64(place.frame + GREGS + index * 8, *register);
    }
    port.set64(place.frame + GREGS + 18 * 8, SEGMENTS);
    port.set64(place.frame + SIGMASK, 0);
    match place.xstate {
        Some((at, size)) if regs.xstate.len() == size => port.write(at, &regs.xstate),
        // Fits where the old one was: the host put room for the largest state there.
        Some((at, size)) if !regs.xstate.is_empty() && regs.xstate.len() < size => {
            port.write(at, &regs.xstate);
            seal(port, at, regs.xstate.len());
            port.set64(place.frame + FPSTATE, port_address + at as u64);
        }
        _ => port.set64(place.frame + FPSTATE, 0),
    }
}

/// Makes a frame for a thread that has none yet, in the (unused) staging areas; returns its guest address.
/// `masked` keeps interrupts out until the next frame.
pub fn create(port: &Port, port_address: u64, regs: &mut Regs, masked: bool) -> u64 {
    let frame = word::STAGE_IN;
    port.write(frame, &[0; UCONTEXT]);
    port.set64(frame, UC_FLAGS);
    port.set64(frame + 16, port_address + word::STACK as u64);
    port.set64(frame + 32, PORT_SIZE - word::STACK as u64);
    for (index, register) in general(regs).into_iter().enumerate() {
        port.set64(frame + GREGS + index * 8, *register);
    }
    port.set64(frame + GREGS + 18 * 8, SEGMENTS);
    port.set64(frame + SIGMASK, if masked { 1 << (INTERRUPT_SIGNAL - 1) } else { 0 });
    let at = frame + UCONTEXT.next_multiple_of(64);
    let room = word::STACK - at - 4;
    if !regs.xstate.is_empty() && regs.xstate.len() <= room {
        port.write(at, &regs.xstate);
        seal(port, at, regs.xstate.len());
        port.set64(frame + FPSTATE, port_address + at as u64);
    }
    port_address + frame as u64
}

/// Writes the size words and the trailing magic by which the host recognises extended state.
fn seal(port: &Port, at: usize, size: usize) {
    if size > 512 && Port::contains(at as u64, size as u64 + 4) {
        port.set32(at + SW_BYTES, FP_XSTATE_MAGIC1);
        port.set32(at + SW_BYTES + 4, size as u32 + 4);
        port.set32(at + SW_BYTES + 16, size as u32);
        port.set32(at + size, FP_XSTATE_MAGIC2);
    }
}

/// Features that XSAVE saves for the guest, and how long that gets (Intel SDM volume 1, section 13.4). Not AMX:
/// its tiles are a program's only after it asked for them.
pub fn xstate() -> (u64, u32) {
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
    let leaf = |sub| core::arch::x86_64::__cpuid_count(0xd, sub);
    // A hypervisor makes every CPUID an exit of some microseconds: one says it all where there is no AMX.
    let size = if u64::from(low) & AMX == 0 {
        leaf(0).ebx
    } else {
        let end = |feature: u32| leaf(feature).ebx + leaf(feature).eax;
        (2..63).filter(|feature| features >> feature & 1 == 1).map(end).fold(512 + 64, u32::max)
    };
    if features & FP_SSE == FP_SSE && size <= XSTATE_MAX as u32 { (features, size) } else { (0, 0) }
}
