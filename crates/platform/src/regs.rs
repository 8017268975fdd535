//! The complete register file of a stopped guest thread.

/// General registers, segment bases and extended state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Regs {
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub rdx: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rsp: u64,
    pub rip: u64,
    pub rflags: u64,
    pub fs_base: u64,
    pub gs_base: u64,
    /// XSAVE area in the standard (not compacted) format, as in a signal frame, including Linux's
    /// `fpx_sw_bytes` at offset 464 but not the trailing magic. Empty: the processor's initial state.
    pub xstate: Vec<u8>,
}
