//! Classic BPF, as seccomp runs it: a small assembler for filters.
//!
//! What no rule allows is trapped: in a worker it is a guest's call, in the kernel process the end of the sandbox.

/// One instruction of classic BPF, as the host reads it (`struct sock_filter`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    code: u16,
    jt: u8,
    jf: u8,
    k: u32,
}

impl Instruction {
    /// As the host reads it.
    pub fn bytes(self) -> [u8; 8] {
        let [c0, c1] = self.code.to_ne_bytes();
        let [k0, k1, k2, k3] = self.k.to_ne_bytes();
        [c0, c1, self.jt, self.jf, k0, k1, k2, k3]
    }
}

pub const LD_ABS: u16 = 0x20;
pub const LD_IMM: u16 = 0x00;
pub const LD_MEM: u16 = 0x60;
pub const ST: u16 = 0x02;
pub const TAX: u16 = 0x07;
pub const ADD_X: u16 = 0x0c;
pub const AND_K: u16 = 0x54;
pub const JA: u16 = 0x05;
pub const JEQ: u16 = 0x15;
pub const JGE: u16 = 0x35;
pub const JGE_X: u16 = 0x3d;
pub const JSET: u16 = 0x45;
pub const RET: u16 = 0x06;

pub const ALLOW: u32 = 0x7fff_0000;
pub const TRAP: u32 = 0x0003_0000;
pub const NOTIFY: u32 = 0x7fc0_0000;

pub const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
pub const NUMBER: u32 = 0;
pub const ARCH: u32 = 4;
pub const IP_LOW: u32 = 8;
pub const IP_HIGH: u32 = 12;

pub const fn low(argument: u32) -> u32 {
    16 + 8 * argument
}

pub const fn high(argument: u32) -> u32 {
    20 + 8 * argument
}

/// Writes a program front to back; jumps that are not taken fall through to what follows.
pub struct Program {
    pub code: Vec<Instruction>,
    /// Upper half of the shim's base: all guest addresses lie below, all of the shim's within. Zero where no rule
    /// speaks of guests.
    pub base: u32,
}

impl Program {
    pub fn emit(&mut self, code: u16, jt: u8, jf: u8, k: u32) {
        self.code.push(Instruction { code, jt, jf, k });
    }

    pub fn load(&mut self, offset: u32) {
        self.emit(LD_ABS, 0, 0, offset);
    }

    pub fn finish(&mut self, verdict: u32) {
        self.emit(RET, 0, 0, verdict);
    }

    pub fn need_equal(&mut self, value: u32) {
        self.emit(JEQ, 1, 0, value);
        self.finish(TRAP);
    }

    pub fn need_below(&mut self, value: u32) {
        self.emit(JGE, 0, 1, value);
        self.finish(TRAP);
    }

    pub fn need_clear(&mut self, bits: u32) {
        self.emit(JSET, 0, 1, bits);
        self.finish(TRAP);
    }

    pub fn need_one_of(&mut self, values: &[u32]) {
        for (index, value) in values.iter().enumerate() {
            self.emit(JEQ, (values.len() - index) as u8, 0, *value);
        }
        self.finish(TRAP);
    }

    pub fn and(&mut self, mask: u32) {
        self.emit(AND_K, 0, 0, mask);
    }

    /// Runs `body` if the loaded word equals `value`. The body must end every path with a verdict.
    pub fn when(&mut self, value: u32, body: impl FnOnce(&mut Program)) {
        // Two steps, because a conditional jump reaches 255 instructions and an unconditional one any number.
        self.emit(JEQ, 1, 0, value);
        let jump = self.code.len();
        self.emit(JA, 0, 0, 0);
        body(self);
        self.code[jump].k = (self.code.len() - jump - 1) as u32;
    }

    /// Runs `below` if the loaded word is less than `value`; otherwise goes on behind it. It must end every path with
    /// a verdict.
    pub fn branch(&mut self, value: u32, below: impl FnOnce(&mut Program)) {
        self.emit(JGE, 0, 1, value);
        let jump = self.code.len();
        self.emit(JA, 0, 0, 0);
        below(self);
        self.code[jump].k = (self.code.len() - jump - 1) as u32;
    }

    /// As `when`, for a call that needs no further check.
    pub fn allow(&mut self, number: u32) {
        self.when(number, |p| p.finish(ALLOW));
    }

    /// The argument is an address below the shim.
    pub fn need_guest(&mut self, address: u32) {
        self.load(high(address));
        self.need_below(self.base);
    }

    /// `address + len` lies below the shim and does not wrap: 64-bit arithmetic in 32-bit words.
    pub fn need_range(&mut self, address: u32, len: u32) {
        self.need_guest(address);
        self.need_guest(len);
        self.load(low(address));
        self.emit(TAX, 0, 0, 0);
        self.load(low(len));
        self.emit(ADD_X, 0, 0, 0);
        self.emit(ST, 0, 0, 1);
        // The sum of the lower halves is below one of them: carry.
        self.emit(JGE_X, 0, 2, 0);
        self.emit(LD_IMM, 0, 0, 0);
        self.emit(JA, 0, 0, 1);
        self.emit(LD_IMM, 0, 0, 1);
        self.emit(ST, 0, 0, 0);
        self.load(high(address));
        self.emit(TAX, 0, 0, 0);
        self.load(high(len));
        self.emit(ADD_X, 0, 0, 0);
        self.emit(TAX, 0, 0, 0);
        self.emit(LD_MEM, 0, 0, 0);
        self.emit(ADD_X, 0, 0, 0);
        // Below the shim, or up to its very first byte.
        self.emit(JGE, 0, 4, self.base);
        self.emit(JEQ, 0, 2, self.base);
        self.emit(LD_MEM, 0, 0, 1);
        self.emit(JEQ, 1, 0, 0);
        self.finish(TRAP);
    }

    /// Runs `body` if the loaded word has any of `bits`; otherwise falls through with `A` unchanged.
    pub fn when_set(&mut self, bits: u32, body: impl FnOnce(&mut Program)) {
        self.emit(JSET, 1, 0, bits);
        let jump = self.code.len();
        self.emit(JA, 0, 0, 0);
        body(self);
        self.code[jump].k = (self.code.len() - jump - 1) as u32;
    }
}
