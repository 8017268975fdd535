//! `siginfo_t`: 128 bytes, of which the code says how to read the rest (include/uapi/asm-generic/siginfo.h).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Signal;

/// Sent by `kill(2)`.
pub const SI_USER: i32 = 0;
/// Sent by the kernel.
pub const SI_KERNEL: i32 = 0x80;
/// Sent by `sigqueue(3)`.
pub const SI_QUEUE: i32 = -1;
/// A POSIX timer ran out.
pub const SI_TIMER: i32 = -2;
/// A message came to an empty POSIX queue.
pub const SI_MESGQ: i32 = -3;
/// Sent by `tkill(2)` or `tgkill(2)`.
pub const SI_TKILL: i32 = -6;

/// `si_code` of `SIGCHLD`.
pub const CLD_EXITED: i32 = 1;
pub const CLD_KILLED: i32 = 2;
pub const CLD_DUMPED: i32 = 3;
pub const CLD_STOPPED: i32 = 5;
pub const CLD_CONTINUED: i32 = 6;

/// A `siginfo_t` as programs see it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SigInfo {
    pub signo: i32,
    pub errno: i32,
    pub code: i32,
    pad: i32,
    /// The union `_sifields`, in words of eight bytes.
    fields: [u64; 14],
}

const _: () = assert!(size_of::<SigInfo>() == 128);

/// Two 32-bit fields that share a word.
fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

impl SigInfo {
    fn new(signal: Signal, code: i32, words: &[u64]) -> SigInfo {
        let mut info = SigInfo { signo: signal.number(), code, ..SigInfo::default() };
        for (place, word) in info.fields.iter_mut().zip(words) {
            *place = *word;
        }
        info
    }

    /// From the kernel itself, without more to say.
    pub fn kernel(signal: Signal) -> SigInfo {
        SigInfo::new(signal, SI_KERNEL, &[])
    }

    /// `kill(2)` by process `pid` of user `uid`.
    pub fn user(signal: Signal, pid: u32, uid: u32) -> SigInfo {
        SigInfo::new(signal, SI_USER, &[pair(pid, uid)])
    }

    /// `tkill(2)` and `tgkill(2)`.
    pub fn tkill(signal: Signal, pid: u32, uid: u32) -> SigInfo {
        SigInfo::new(signal, SI_TKILL, &[pair(pid, uid)])
    }

    /// `sigqueue(3)`, and what is built like it (`SI_MESGQ`).
    pub fn queue(signal: Signal, code: i32, pid: u32, uid: u32, value: u64) -> SigInfo {
        SigInfo::new(signal, code, &[pair(pid, uid), value])
    }

    /// POSIX timer `id` ran out.
    pub fn timer(signal: Signal, id: i32, overrun: i32, value: u64) -> SigInfo {
        SigInfo::new(signal, SI_TIMER, &[pair(id as u32, overrun as u32), value])
    }

    /// `SIGCHLD` (or what `clone` asked for) about a child; times in clock ticks.
    pub fn child(signal: Signal, code: i32, pid: u32, uid: u32, status: i32, utime: i64, stime: i64) -> SigInfo {
        SigInfo::new(signal, code, &[pair(pid, uid), u64::from(status as u32), utime as u64, stime as u64])
    }

    /// A processor exception at `address`.
    pub fn fault(signal: Signal, code: i32, address: u64) -> SigInfo {
        SigInfo::new(signal, code, &[address])
    }

    /// `SIGIO`-like readiness of a descriptor.
    pub fn poll(signal: Signal, code: i32, band: i64, fd: i32) -> SigInfo {
        SigInfo::new(signal, code, &[band as u64, u64::from(fd as u32)])
    }

    /// `SIGSYS` for a filtered call.
    pub fn sys(code: i32, errno: i32, call_address: u64, number: i32) -> SigInfo {
        const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
        let words = [call_address, pair(number as u32, AUDIT_ARCH_X86_64)];
        SigInfo { errno, ..SigInfo::new(Signal::SIGSYS, code, &words) }
    }

    fn word(&self, index: usize) -> u64 {
        self.fields.get(index).copied().unwrap_or(0)
    }

    /// `si_pid`.
    pub fn pid(&self) -> u32 {
        self.word(0) as u32
    }

    /// `si_uid`.
    pub fn uid(&self) -> u32 {
        (self.word(0) >> 32) as u32
    }

    /// `si_status`.
    pub fn status(&self) -> i32 {
        self.word(1) as i32
    }

    /// `si_value`, also `si_ptr` and `si_int`.
    pub fn value(&self) -> u64 {
        self.word(1)
    }

    /// `si_utime` and `si_stime`.
    pub fn times(&self) -> (u64, u64) {
        (self.word(2), self.word(3))
    }

    /// `si_addr`, and `si_call_addr`.
    pub fn address(&self) -> u64 {
        self.word(0)
    }

    /// `si_timerid` and `si_overrun`.
    pub fn timer_id(&self) -> (i32, i32) {
        (self.word(0) as i32, (self.word(0) >> 32) as i32)
    }

    /// Writes `si_overrun`, when it is known: at delivery.
    pub fn set_overrun(&mut self, overrun: i32) {
        if let Some(word) = self.fields.first_mut() {
            *word = pair(*word as u32, overrun as u32);
        }
    }

    /// `si_band` and `si_fd`.
    pub fn band(&self) -> (i64, i32) {
        (self.word(0) as i64, self.word(1) as i32)
    }

    /// `si_syscall` and `si_arch`.
    pub fn syscall(&self) -> (i32, u32) {
        (self.word(1) as i32, (self.word(1) >> 32) as u32)
    }

    /// Sent by a user program as opposed to the kernel (`SI_FROMUSER`).
    pub fn from_user(&self) -> bool {
        self.code <= 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Offsets as `offsetof(siginfo_t, …)` prints them natively.
    #[test]
    fn fields_lie_where_programs_look() {
        let info = SigInfo::child(Signal::SIGCHLD, CLD_EXITED, 7, 8, 9, 10, 11);
        let bytes = info.as_bytes();
        let at = |offset: usize| u32::from_ne_bytes(bytes[offset..offset + 4].try_into().unwrap());
        assert_eq!([at(0), at(4), at(8)], [17, 0, 1]);
        assert_eq!([at(16), at(20), at(24), at(32), at(40)], [7, 8, 9, 10, 11]);
        let info = SigInfo::timer(Signal::SIGALRM, 3, 4, 5);
        let bytes = info.as_bytes();
        assert_eq!([bytes[16], bytes[20], bytes[24]], [3, 4, 5]);
        let info = SigInfo::sys(1, 2, 0x1000, 39);
        assert_eq!((info.address(), info.syscall(), info.errno), (0x1000, (39, 0xc000_003e), 2));
    }
}
