//! Signal numbers and sets of them.

use crate::abi::linux as raw;
use crate::{Errno, Result};

/// Number of signals; they count from 1 (`_NSIG` of arch/x86/include/asm/signal.h).
pub const NSIG: u32 = 64;
/// Size in bytes of a kernel `sigset_t`; calls check it.
pub const SIGSET_SIZE: usize = 8;

/// A signal number, always 1 to 64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signal(u8);

macro_rules! signals {
    ($($name:ident)*) => {
        impl Signal { $(#[allow(missing_docs)] pub const $name: Signal = Signal(raw::$name as u8);)* }

        const NAMES: &[(u8, &str)] = &[$((raw::$name as u8, stringify!($name)),)*];
    };
}
signals! {
    SIGHUP SIGINT SIGQUIT SIGILL SIGTRAP SIGABRT SIGBUS SIGFPE SIGKILL SIGUSR1 SIGSEGV SIGUSR2 SIGPIPE SIGALRM
    SIGTERM SIGSTKFLT SIGCHLD SIGCONT SIGSTOP SIGTSTP SIGTTIN SIGTTOU SIGURG SIGXCPU SIGXFSZ SIGVTALRM SIGPROF
    SIGWINCH SIGIO SIGPWR SIGSYS
}

impl Signal {
    /// The first real-time signal as the kernel counts (`SIGRTMIN`); libc keeps two for itself.
    pub const RT_MIN: Signal = Signal(32);

    /// From a guest's number; `EINVAL` outside 1 to 64.
    pub fn new(number: i32) -> Result<Signal> {
        match u8::try_from(number) {
            Ok(small @ 1..=64) => Ok(Signal(small)),
            _ => Err(Errno::EINVAL),
        }
    }

    /// As `new`, with 0, the probe of kill(2), as `None`.
    pub fn or_probe(number: i32) -> Result<Option<Signal>> {
        if number == 0 { Ok(None) } else { Signal::new(number).map(Some) }
    }

    /// The number.
    pub fn number(self) -> i32 {
        i32::from(self.0)
    }

    /// Place in a table that starts with signal 1.
    pub fn index(self) -> usize {
        usize::from(self.0.saturating_sub(1))
    }

    /// Real-time signals are queued each; standard ones merge.
    pub fn is_realtime(self) -> bool {
        self >= Signal::RT_MIN
    }

    /// `SIGKILL` and `SIGSTOP`, which nobody catches, blocks or ignores.
    pub fn is_unblockable(self) -> bool {
        SigSet::UNBLOCKABLE.has(self)
    }

    /// What happens where there is no handler (signal(7)).
    pub fn default_action(self) -> DefaultAction {
        if SigSet::IGNORED_BY_DEFAULT.has(self) {
            DefaultAction::Ignore
        } else if self == Signal::SIGCONT {
            DefaultAction::Continue
        } else if SigSet::STOP.has(self) {
            DefaultAction::Stop
        } else if SigSet::CORE.has(self) {
            DefaultAction::Core
        } else {
            DefaultAction::Terminate
        }
    }

    /// All signals in order.
    pub fn all() -> impl Iterator<Item = Signal> {
        (1..=64).map(Signal)
    }
}

impl std::fmt::Debug for Signal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match NAMES.iter().find(|(number, _)| *number == self.0) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "SIGRT_{}", self.0.saturating_sub(32)),
        }
    }
}

/// Default actions of signal(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultAction {
    Terminate,
    /// Terminate, with the core bit in the wait status.
    Core,
    Ignore,
    Stop,
    Continue,
}

/// A kernel `sigset_t`: bit n-1 stands for signal n.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SigSet(pub u64);

impl SigSet {
    pub const EMPTY: SigSet = SigSet(0);
    pub const ALL: SigSet = SigSet(!0);
    pub const UNBLOCKABLE: SigSet = SigSet::of(&[Signal::SIGKILL, Signal::SIGSTOP]);
    /// Signals whose default action is to stop (`SIG_KERNEL_STOP_MASK`).
    pub const STOP: SigSet = SigSet::of(&[Signal::SIGSTOP, Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU]);
    /// `SIG_KERNEL_IGNORE_MASK` without `SIGCONT`.
    pub const IGNORED_BY_DEFAULT: SigSet = SigSet::of(&[Signal::SIGCHLD, Signal::SIGURG, Signal::SIGWINCH]);
    /// `SIG_KERNEL_COREDUMP_MASK`.
    pub const CORE: SigSet = SigSet::of(&[
        Signal::SIGQUIT,
        Signal::SIGILL,
        Signal::SIGTRAP,
        Signal::SIGABRT,
        Signal::SIGFPE,
        Signal::SIGSEGV,
        Signal::SIGBUS,
        Signal::SIGSYS,
        Signal::SIGXCPU,
        Signal::SIGXFSZ,
    ]);
    /// Taken before others: caused by the code that runs (`SYNCHRONOUS_MASK`).
    pub const SYNCHRONOUS: SigSet = SigSet::of(&[
        Signal::SIGSEGV,
        Signal::SIGBUS,
        Signal::SIGILL,
        Signal::SIGTRAP,
        Signal::SIGFPE,
        Signal::SIGSYS,
    ]);

    /// These signals.
    pub const fn of(list: &[Signal]) -> SigSet {
        let mut bits = 0;
        let mut rest = list;
        while let [first, tail @ ..] = rest {
            bits |= 1 << (first.0 - 1);
            rest = tail;
        }
        SigSet(bits)
    }

    /// One signal.
    pub const fn one(signal: Signal) -> SigSet {
        SigSet(1 << (signal.0 - 1))
    }

    pub fn has(self, signal: Signal) -> bool {
        self.0 & SigSet::one(signal).0 != 0
    }

    pub fn with(self, signal: Signal) -> SigSet {
        self.union(SigSet::one(signal))
    }

    pub fn union(self, other: SigSet) -> SigSet {
        SigSet(self.0 | other.0)
    }

    pub fn intersection(self, other: SigSet) -> SigSet {
        SigSet(self.0 & other.0)
    }

    pub fn minus(self, other: SigSet) -> SigSet {
        SigSet(self.0 & !other.0)
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// As a mask that a thread may have: never `SIGKILL` nor `SIGSTOP`.
    pub fn blockable(self) -> SigSet {
        self.minus(SigSet::UNBLOCKABLE)
    }

    /// The next to take: synchronous ones first, then the lowest number (`next_signal()`).
    pub fn next(self) -> Option<Signal> {
        let urgent = self.intersection(SigSet::SYNCHRONOUS);
        let from = if urgent.is_empty() { self } else { urgent };
        if from.is_empty() {
            return None;
        }
        u8::try_from(from.0.trailing_zeros() + 1).ok().map(Signal)
    }

    /// The members in order.
    pub fn iter(self) -> impl Iterator<Item = Signal> {
        Signal::all().filter(move |signal| self.has(*signal))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_count_from_one() {
        assert_eq!(SigSet::one(Signal::SIGHUP).0, 1);
        assert_eq!(SigSet::one(Signal::new(64).unwrap()).0, 1 << 63);
        assert_eq!(Signal::new(0), Err(Errno::EINVAL));
        assert_eq!(Signal::new(65), Err(Errno::EINVAL));
        assert_eq!(Signal::or_probe(0), Ok(None));
    }

    #[test]
    fn faults_come_first() {
        let set = SigSet::of(&[Signal::SIGHUP, Signal::SIGSEGV, Signal::SIGKILL]);
        assert_eq!(set.next(), Some(Signal::SIGSEGV));
        assert_eq!(SigSet::EMPTY.next(), None);
        assert_eq!(SigSet::of(&[Signal::SIGTERM, Signal::SIGINT]).next(), Some(Signal::SIGINT));
    }

    #[test]
    fn actions_are_those_of_signal_7() {
        assert_eq!(Signal::SIGCHLD.default_action(), DefaultAction::Ignore);
        assert_eq!(Signal::SIGTSTP.default_action(), DefaultAction::Stop);
        assert_eq!(Signal::SIGABRT.default_action(), DefaultAction::Core);
        assert_eq!(Signal::SIGCONT.default_action(), DefaultAction::Continue);
        assert_eq!(Signal::RT_MIN.default_action(), DefaultAction::Terminate);
        assert_eq!(Signal::SIGIO.default_action(), DefaultAction::Terminate);
    }
}
