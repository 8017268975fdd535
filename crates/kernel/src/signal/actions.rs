//! Dispositions: what a process does about each signal (`struct sighand_struct`).

use parking_lot::Mutex;

use super::{DefaultAction, SigSet, Signal};
use crate::abi::linux as raw;
use crate::abi::types::Sigaction;

pub const SIG_DFL: u64 = 0;
pub const SIG_IGN: u64 = 1;

pub const SA_NOCLDSTOP: u64 = raw::SA_NOCLDSTOP as u64;
pub const SA_NOCLDWAIT: u64 = raw::SA_NOCLDWAIT as u64;
pub const SA_SIGINFO: u64 = raw::SA_SIGINFO as u64;
pub const SA_RESTORER: u64 = raw::SA_RESTORER as u64;
pub const SA_ONSTACK: u64 = raw::SA_ONSTACK as u64;
pub const SA_RESTART: u64 = raw::SA_RESTART as u64;
pub const SA_NODEFER: u64 = raw::SA_NODEFER as u64;
pub const SA_RESETHAND: u64 = raw::SA_RESETHAND as u64;
/// What `sigaction(2)` keeps of a program's flags (`UAPI_SA_FLAGS`, plus x86's `SA_RESTORER`); others read back
/// as zero, which tells programs that they are not known.
pub const SA_KNOWN: u64 = SA_NOCLDSTOP
    | SA_NOCLDWAIT
    | SA_SIGINFO
    | SA_RESTORER
    | SA_ONSTACK
    | SA_RESTART
    | SA_NODEFER
    | SA_RESETHAND
    | 0x800; // SA_EXPOSE_TAGBITS

/// The table of dispositions; `CLONE_SIGHAND` shares it.
pub struct Dispositions(Mutex<[Sigaction; 64]>);

impl Default for Dispositions {
    fn default() -> Self {
        Dispositions(Mutex::new([Sigaction::default(); 64]))
    }
}

impl Dispositions {
    /// With these ignored, and nothing else set.
    pub fn ignoring(set: SigSet) -> Dispositions {
        let table = Dispositions::default();
        for signal in set.blockable().iter() {
            table.set(signal, Sigaction { handler: SIG_IGN, ..Sigaction::default() });
        }
        table
    }

    /// What is set for `signal`.
    pub fn get(&self, signal: Signal) -> Sigaction {
        self.0.lock().get(signal.index()).copied().unwrap_or_default()
    }

    /// Replaces what is set for `signal`; returns what was.
    pub fn set(&self, signal: Signal, action: Sigaction) -> Sigaction {
        let mut table = self.0.lock();
        table.get_mut(signal.index()).map_or_else(Sigaction::default, |slot| std::mem::replace(slot, action))
    }

    /// The signal would have no effect if it were not blocked (`sig_handler_ignored()`).
    pub fn ignores(&self, signal: Signal) -> bool {
        let handler = self.get(signal).handler;
        handler == SIG_IGN
            || handler == SIG_DFL
                && matches!(signal.default_action(), DefaultAction::Ignore | DefaultAction::Continue)
    }

    /// A copy, for `fork`.
    pub fn duplicate(&self) -> Dispositions {
        Dispositions(Mutex::new(*self.0.lock()))
    }

    /// A table for a new program: handlers become the default, what is ignored stays so
    /// (`flush_signal_handlers()`).
    pub fn after_exec(&self) -> Dispositions {
        let mut table = *self.0.lock();
        for slot in &mut table {
            let handler = if slot.handler == SIG_IGN { SIG_IGN } else { SIG_DFL };
            *slot = Sigaction { handler, ..Sigaction::default() };
        }
        Dispositions(Mutex::new(table))
    }

    /// A table for `CLONE_CLEAR_SIGHAND`: as `after_exec`.
    pub fn cleared(&self) -> Dispositions {
        self.after_exec()
    }
}
