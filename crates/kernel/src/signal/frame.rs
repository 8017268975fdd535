//! Signal frames on the guest's stack, as arch/x86/kernel/signal_64.c lays them out, and the way back from them.

use coracle_platform::{Fault, Regs, Space};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{AltStack, SA_ONSTACK, SA_RESTORER, SA_SIGINFO, SS_DISABLE, SigInfo, SigSet, Signal, xstate};
use crate::abi::types::{SigAltStack, Sigaction};
use crate::{Errno, Result};

/// `SS_ONSTACK`: the thread runs on its alternate stack.
pub const SS_ONSTACK: i32 = 1;
/// The alternate stack is forgotten while a handler runs on it.
pub const SS_AUTODISARM: i32 = i32::MIN;

/// The frame holds extended state; SS is saved; SS is to be restored (arch/x86/include/uapi/asm/ucontext.h).
const UC_FLAGS: u64 = 1 | 2 | 4;
/// Bytes below the stack pointer that belong to the interrupted function (System V ABI).
const RED_ZONE: u64 = 128;
/// `__USER_CS` and `__USER_DS`.
const USER_CS: u16 = 0x33;
const USER_DS: u16 = 0x2b;
/// Flags that a frame may set: AC RF OF DF TF SF ZF AF PF CF (`FIX_EFLAGS`).
const FIX_EFLAGS: u64 = 0x5_0dd5;
const EFLAGS_TF: u64 = 0x100;
const EFLAGS_DF: u64 = 0x400;
const EFLAGS_RF: u64 = 0x1_0000;

/// `struct sigcontext_64`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct SigContext {
    /// r8 to r15.
    high: [u64; 8],
    rdi: u64,
    rsi: u64,
    rbp: u64,
    rbx: u64,
    rdx: u64,
    rax: u64,
    rcx: u64,
    rsp: u64,
    rip: u64,
    rflags: u64,
    cs: u16,
    gs: u16,
    fs: u16,
    ss: u16,
    error_code: u64,
    trap_number: u64,
    old_mask: u64,
    cr2: u64,
    fpstate: u64,
    reserved: [u64; 8],
}

/// `struct rt_sigframe`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct RtSigFrame {
    /// Return address of the handler.
    pretcode: u64,
    // struct ucontext
    uc_flags: u64,
    uc_link: u64,
    uc_stack: SigAltStack,
    uc_mcontext: SigContext,
    uc_sigmask: u64,
    info: SigInfo,
}

const UC: u64 = std::mem::offset_of!(RtSigFrame, uc_flags) as u64;
const INFO: u64 = std::mem::offset_of!(RtSigFrame, info) as u64;
const FRAME: u64 = size_of::<RtSigFrame>() as u64;
/// Where the extended state begins, by the arithmetic of `place`: the frame is 8 less than a multiple of 16, the
/// state a multiple of 64 right above.
const STATE: u64 = FRAME + 16;
const _: () = {
    assert!(size_of::<SigContext>() == 256);
    assert!(UC == 8 && INFO == 312 && FRAME == 440);
};

/// What a frame tells.
pub(super) struct Plan {
    pub signal: Signal,
    pub info: SigInfo,
    pub action: Sigaction,
    /// The mask that the handler's return restores.
    pub mask: SigSet,
    pub altstack: AltStack,
    pub fault: Option<Fault>,
    /// Address of the last page fault.
    pub cr2: u64,
}

impl AltStack {
    /// `__on_sig_stack()`.
    pub fn holds(&self, sp: u64) -> bool {
        sp > self.sp && sp.wrapping_sub(self.sp) <= self.size
    }

    /// `on_sig_stack()`: an autodisarmed stack can be switched to again and again.
    pub fn is_active(&self, sp: u64) -> bool {
        self.flags & SS_AUTODISARM == 0 && self.holds(sp)
    }

    /// `sas_ss_flags()`.
    pub fn state(&self, sp: u64) -> i32 {
        if self.size == 0 {
            SS_DISABLE
        } else if self.is_active(sp) {
            SS_ONSTACK
        } else {
            0
        }
    }
}

/// Where frame and extended state go: `get_sigframe()`. Bytes of state include the trailing magic.
fn place(sp: u64, plan: &Plan, state_len: u64) -> Option<(u64, u64)> {
    let nested = plan.altstack.is_active(sp);
    let mut top = sp.wrapping_sub(RED_ZONE);
    let entering = plan.action.flags & SA_ONSTACK != 0 && plan.altstack.state(top) == 0;
    if entering {
        top = plan.altstack.sp.wrapping_add(plan.altstack.size);
    }
    let state = top.wrapping_sub(state_len) & !63;
    let frame = (state.wrapping_sub(FRAME) & !15).wrapping_sub(8);
    // Overflowing an alternate stack would clobber what lies below it.
    let fits = !(nested || entering) || plan.altstack.holds(frame);
    fits.then_some((frame, state))
}

/// Writes the frame and sets the registers for the handler. `EFAULT` if that cannot be.
pub(super) fn build(space: &dyn Space, regs: &mut Regs, plan: &Plan) -> Result<()> {
    if plan.action.flags & SA_RESTORER == 0 {
        return Err(Errno::EFAULT);
    }
    let state = xstate::to_frame(&regs.xstate);
    let (frame_at, state_at) = place(regs.rsp, plan, state.len() as u64).ok_or(Errno::EFAULT)?;
    crate::mem::check_range(frame_at, FRAME)?;
    crate::mem::check_range(state_at, state.len() as u64)?;
    let told = plan.action.flags & SA_SIGINFO != 0;
    let frame = RtSigFrame {
        pretcode: plan.action.restorer,
        uc_flags: UC_FLAGS,
        uc_link: 0,
        uc_stack: plan.altstack.to_guest(plan.altstack.flags),
        uc_mcontext: context(regs, plan, state_at),
        uc_sigmask: plan.mask.0,
        info: if told { plan.info } else { SigInfo::default() },
    };
    // Without SA_SIGINFO the place for it is left as it is.
    let bytes = frame.as_bytes();
    let bytes = if told { bytes } else { bytes.get(..INFO as usize).unwrap_or(bytes) };
    if space.write_pieces(&[(state_at, &state), (frame_at, bytes)]) < state.len() + bytes.len() {
        return Err(Errno::EFAULT);
    }
    regs.rdi = plan.signal.number() as u64;
    regs.rsi = frame_at.wrapping_add(INFO);
    regs.rdx = frame_at.wrapping_add(UC);
    regs.rax = 0;
    regs.rip = plan.action.handler;
    regs.rsp = frame_at;
    regs.rflags &= !(EFLAGS_DF | EFLAGS_RF | EFLAGS_TF);
    // fpu__clear_user_states(): handlers start with the initial state.
    regs.xstate.clear();
    Ok(())
}

fn context(regs: &Regs, plan: &Plan, fpstate: u64) -> SigContext {
    let fault = plan.fault;
    SigContext {
        high: [regs.r8, regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15],
        rdi: regs.rdi,
        rsi: regs.rsi,
        rbp: regs.rbp,
        rbx: regs.rbx,
        rdx: regs.rdx,
        rax: regs.rax,
        rcx: regs.rcx,
        rsp: regs.rsp,
        rip: regs.rip,
        rflags: regs.rflags,
        cs: USER_CS,
        gs: 0,
        fs: 0,
        ss: USER_DS,
        error_code: fault.map_or(0, |fault| fault.error_code),
        trap_number: fault.map_or(0, |fault| fault.trap_number),
        old_mask: plan.mask.0,
        cr2: plan.cr2,
        fpstate,
        reserved: [0; 8],
    }
}

/// Guest memory of which a part was copied before: what is looked at there does not change.
struct Copy<'a> {
    space: &'a dyn Space,
    at: u64,
    bytes: Vec<u8>,
}

impl Copy<'_> {
    fn read(&self, address: u64, into: &mut [u8]) -> usize {
        let known = address
            .checked_sub(self.at)
            .and_then(|offset| self.bytes.get(usize::try_from(offset).ok()?..)?.get(..into.len()));
        match known {
            Some(known) => {
                into.copy_from_slice(known);
                into.len()
            }
            None => self.space.read(address, into),
        }
    }
}

/// What `rt_sigreturn` takes from a frame.
pub(super) struct Restored {
    pub mask: SigSet,
    pub altstack: SigAltStack,
}

/// Restores the registers from the frame that the stack pointer is just above of. `EFAULT` for a bad frame.
pub(super) fn restore(space: &dyn Space, regs: &mut Regs) -> Result<Restored> {
    let at = regs.rsp.wrapping_sub(8);
    crate::mem::check_range(at, FRAME)?;
    // The extended state lies where `place` puts it, as a rule: frame and state together cost one access.
    let mut copy = Copy { space, at, bytes: vec![0; (STATE + xstate::frame_len(&regs.xstate)) as usize] };
    let got = space.read(at, &mut copy.bytes);
    copy.bytes.truncate(got);
    // The info behind the context is not needed, and may be unmapped.
    let mut whole = [0; FRAME as usize];
    let (head, _) = whole.split_at_mut(INFO as usize);
    if copy.read(at, head) < head.len() {
        return Err(Errno::EFAULT);
    }
    let frame = RtSigFrame::read_from_bytes(&whole).map_err(|_| Errno::EFAULT)?;
    let context = &frame.uc_mcontext;
    [regs.r8, regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15] = context.high;
    regs.rdi = context.rdi;
    regs.rsi = context.rsi;
    regs.rbp = context.rbp;
    regs.rbx = context.rbx;
    regs.rdx = context.rdx;
    regs.rax = context.rax;
    regs.rcx = context.rcx;
    regs.rsp = context.rsp;
    regs.rip = context.rip;
    regs.rflags = (regs.rflags & !FIX_EFLAGS) | (context.rflags & FIX_EFLAGS);
    regs.xstate = xstate::from_frame(&|at, into| copy.read(at, into), context.fpstate, &regs.xstate)?;
    Ok(Restored { mask: SigSet(frame.uc_sigmask), altstack: frame.uc_stack })
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_platform::mock::MockSpace;

    fn plan(flags: u64, altstack: AltStack) -> Plan {
        Plan {
            signal: Signal::SIGUSR1,
            info: SigInfo::user(Signal::SIGUSR1, 77, 1000),
            action: Sigaction { handler: 0x40_0000, flags, restorer: 0x41_0000, mask: 0 },
            mask: SigSet(0x1234),
            altstack,
            fault: None,
            cr2: 0,
        }
    }

    fn guest() -> (MockSpace, Regs) {
        let space = MockSpace::default();
        space.map(0x10_0000, 0x1_0000, 3);
        let regs = Regs {
            rsp: 0x10_f123,
            rip: 0x1111,
            rax: 0x2222,
            r8: 8,
            r15: 15,
            rflags: 0x246 | EFLAGS_DF,
            ..Regs::default()
        };
        (space, regs)
    }

    fn word(space: &MockSpace, at: u64) -> u64 {
        let mut bytes = [0; 8];
        assert_eq!(space.read(at, &mut bytes), 8);
        u64::from_ne_bytes(bytes)
    }

    /// Offsets as a C program prints them natively with offsetof(ucontext_t, …).
    #[test]
    fn a_frame_lies_as_on_linux() {
        let (space, mut regs) = guest();
        build(&space, &mut regs, &plan(SA_RESTORER | SA_SIGINFO, AltStack::default())).unwrap();
        let frame = regs.rsp;
        assert_eq!(frame % 16, 8);
        assert!(frame + FRAME <= 0x10_f123 - 128);
        assert_eq!((regs.rdi, regs.rsi, regs.rdx), (10, frame + 312, frame + 8));
        assert_eq!((regs.rip, regs.rax, regs.rflags), (0x40_0000, 0, 0x246));
        assert_eq!(word(&space, frame), 0x41_0000);
        let uc = regs.rdx;
        assert_eq!(word(&space, uc), 7);
        assert_eq!(word(&space, uc + 24) as u32, 0);
        let mcontext = uc + 40;
        assert_eq!(word(&space, mcontext), 8);
        assert_eq!(word(&space, mcontext + 56), 15);
        assert_eq!(word(&space, mcontext + 104), 0x2222);
        assert_eq!(word(&space, mcontext + 120), 0x10_f123);
        assert_eq!(word(&space, mcontext + 128), 0x1111);
        assert_eq!(word(&space, mcontext + 136), 0x246 | EFLAGS_DF);
        assert_eq!(word(&space, mcontext + 144), 0x2b_0000_0000_0033);
        assert_eq!(word(&space, mcontext + 168), 0x1234);
        let fpstate = word(&space, mcontext + 184);
        assert_eq!(fpstate % 64, 0);
        assert_eq!(word(&space, uc + 296), 0x1234);
        assert_eq!(word(&space, regs.rsi) as u32, 10);
        assert_eq!(word(&space, regs.rsi + 16), 77 | 1000 << 32);
        assert_eq!(word(&space, fpstate + 464) as u32, 0x4650_5853);
    }

    #[test]
    fn what_goes_in_comes_out() {
        let (space, mut regs) = guest();
        let before = regs.clone();
        build(&space, &mut regs, &plan(SA_RESTORER, AltStack::default())).unwrap();
        // The handler's `ret` pops the return address.
        regs.rsp += 8;
        let restored = restore(&space, &mut regs).unwrap();
        assert_eq!(restored.mask, SigSet(0x1234));
        regs.xstate.clear();
        assert_eq!(regs, before);
    }

    #[test]
    fn no_restorer_no_handler() {
        let (space, mut regs) = guest();
        assert_eq!(build(&space, &mut regs, &plan(SA_SIGINFO, AltStack::default())), Err(Errno::EFAULT));
    }

    #[test]
    fn an_unmapped_stack_is_a_fault() {
        let (space, mut regs) = guest();
        regs.rsp = 0x50_0000;
        assert_eq!(build(&space, &mut regs, &plan(SA_RESTORER, AltStack::default())), Err(Errno::EFAULT));
        regs.rsp = 0x10;
        assert_eq!(build(&space, &mut regs, &plan(SA_RESTORER, AltStack::default())), Err(Errno::EFAULT));
    }

    #[test]
    fn handlers_go_to_the_alternate_stack_and_stay_within() {
        let (space, mut regs) = guest();
        let altstack = AltStack { sp: 0x10_0000, size: 0x4000, flags: 0 };
        build(&space, &mut regs, &plan(SA_RESTORER | SA_ONSTACK, altstack)).unwrap();
        assert!(altstack.holds(regs.rsp));
        // Nested: below the first frame, until there is no room.
        let first = regs.rsp;
        build(&space, &mut regs, &plan(SA_RESTORER | SA_ONSTACK, altstack)).unwrap();
        assert!(regs.rsp < first);
        regs.rsp = 0x10_0100;
        assert_eq!(build(&space, &mut regs, &plan(SA_RESTORER, altstack)), Err(Errno::EFAULT));
    }
}
