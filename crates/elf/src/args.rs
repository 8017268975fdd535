//! How much argument and environment a program may be given: `bprm_stack_limits()` in Linux's `fs/exec.c`.

use crate::error::ArgError;

/// Longest single string, its NUL included (`include/uapi/linux/binfmts.h`).
pub const MAX_ARG_STRLEN: usize = 32 * 4096;
/// What every program may be given however small its stack (`include/uapi/linux/limits.h`).
pub const ARG_MAX: u64 = 131_072;

const STK_LIM: u64 = 8 * 1024 * 1024;
const POINTER: u64 = 8;

/// The budget that strings are charged to, so that a caller who fetches them from a guest can stop in time.
///
/// Linux's order, which decides between EFAULT and E2BIG: count the pointers of `argv`, then of `envp`; make the
/// budget; charge the file name; fetch and charge `envp` from its last string to its first, then `argv` likewise.
#[derive(Debug, Clone)]
pub struct ArgSpace {
    left: u64,
}

impl ArgSpace {
    /// A budget by the soft `RLIMIT_STACK` (`u64::MAX` for none): a quarter of it, at most 6 MiB, at least
    /// [`ARG_MAX`], less the pointers.
    pub fn new(argc: usize, envc: usize, rlimit_stack: u64) -> Result<Self, ArgError> {
        let limit = (STK_LIM / 4 * 3).min(rlimit_stack / 4).max(ARG_MAX);
        // An empty argv becomes one empty string.
        let pointers = (argc.max(1) as u64).checked_add(envc as u64).and_then(|count| count.checked_mul(POINTER));
        let left = pointers.and_then(|size| limit.checked_sub(size)).filter(|left| *left > 0);
        Ok(Self { left: left.ok_or(ArgError::TooLarge)? })
    }

    /// Charges a string of `len` bytes without its NUL.
    pub fn charge(&mut self, len: usize) -> Result<(), ArgError> {
        let size = len.saturating_add(1);
        if size > MAX_ARG_STRLEN {
            return Err(ArgError::StringTooLong);
        }
        self.left = self.left.checked_sub(size as u64).ok_or(ArgError::TooLarge)?;
        Ok(())
    }

    /// What is left, in bytes.
    pub fn left(&self) -> u64 {
        self.left
    }
}
