//! From a trapped system call to its handler: the table, the typed arguments, the context.

use std::sync::Arc;

use coracle_platform::{MemoryCall, Space, Thread, Vessel};

use crate::mem::UserMemory;
use crate::mm::Noted;
use crate::task::Task;
use crate::wait::{Deadline, Events, PollTable};
use crate::{Errno, Result, SysResult, fd};

/// How well a call is supported; printed in docs and by `--stats`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// As on Linux.
    Full,
    /// With a caveat worth knowing.
    Partial(&'static str),
    /// Fails always with what Linux gives where the feature is not built in.
    Refused(&'static str),
}

/// One system call.
pub struct Call {
    pub number: u16,
    pub name: &'static str,
    pub arity: u8,
    pub support: Support,
    /// Decodes the arguments in the context, and carries the call out.
    pub handler: fn(&mut Ctx<'_>) -> SysResult,
}

/// Lists calls of one area: `number name handler arity support`. The handler's parameters say how the raw
/// registers are decoded.
///
/// ```text
/// calls! { 0 read read/3 Full; 1 write write/3 Full; }
/// ```
#[macro_export]
macro_rules! calls {
    ($($number:literal $name:ident $handler:path, $arity:tt $support:expr;)*) => {
        /// The calls of this area.
        pub const CALLS: &[$crate::call::Call] = &[$($crate::call::Call {
            number: $number,
            name: stringify!($name),
            arity: $arity,
            support: { #[allow(unused_imports)] use $crate::call::Support::*; $support },
            handler: $crate::calls!(@decode $handler, $arity),
        },)*];
    };
    (@decode $h:path, 0) => { |cx| $h(cx) };
    (@decode $h:path, 1) => { $crate::calls!(@with $h, 0) };
    (@decode $h:path, 2) => { $crate::calls!(@with $h, 0 1) };
    (@decode $h:path, 3) => { $crate::calls!(@with $h, 0 1 2) };
    (@decode $h:path, 4) => { $crate::calls!(@with $h, 0 1 2 3) };
    (@decode $h:path, 5) => { $crate::calls!(@with $h, 0 1 2 3 4) };
    (@decode $h:path, 6) => { $crate::calls!(@with $h, 0 1 2 3 4 5) };
    (@with $h:path, $($at:tt)*) => { |cx| { let a = cx.args; $h(cx, $($crate::call::Arg::decode(a[$at])?),*) } };
}

/// A type that a raw argument register decodes to. Decoding may fail only with what Linux checks first;
/// use `Flags` types of `bitflags` in the handler where the order of errors matters.
pub trait Arg: Sized {
    fn decode(raw: u64) -> Result<Self>;
}

macro_rules! integer_args {
    ($($ty:ty),*) => { $(
        impl Arg for $ty {
            /// Takes the low bits, as the calling convention does.
            fn decode(raw: u64) -> Result<Self> { Ok(raw as $ty) }
        }
    )* };
}
integer_args!(i8, i16, i32, i64, u8, u16, u32, u64, usize);

/// A guest address; may be null, may be anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addr(pub u64);

impl Addr {
    /// `None` for a null pointer.
    pub fn non_null(self) -> Option<u64> {
        (self.0 != 0).then_some(self.0)
    }

    /// The address `offset` bytes on.
    pub fn plus(self, offset: u64) -> u64 {
        self.0.wrapping_add(offset)
    }
}

impl Arg for Addr {
    fn decode(raw: u64) -> Result<Self> {
        Ok(Addr(raw))
    }
}

/// A file descriptor number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fd(pub i32);

impl Arg for Fd {
    fn decode(raw: u64) -> Result<Self> {
        Ok(Fd(raw as i32))
    }
}

/// What the guest does when a handler is done, other than getting its result.
pub enum After {
    /// RAX gets the result.
    Return,
    /// The guest's registers were set by the handler (`rt_sigreturn`, `execve`): continue with them.
    Continue,
    /// `execve`: from now on this thread in this address space is the task's; the old one retires.
    Exec(Vessel),
    /// The guest thread carries out this memory call and gets the host's result.
    Memory(MemoryCall),
    /// The task is over; it does not go on.
    Exit,
}

/// Everything a handler may touch.
pub struct Ctx<'a> {
    pub task: Arc<Task>,
    pub thread: &'a mut dyn Thread,
    /// The address space at the time of the call.
    pub space: Arc<dyn Space>,
    pub number: u64,
    pub args: [u64; 6],
    pub after: After,
    /// Where the last read began, if that was at its file's position: should its bytes not reach the guest.
    pub read_from: Option<u64>,
    /// A file that the thread is about to map.
    pub noted: Option<Noted>,
}

impl Ctx<'_> {
    /// Guest memory, with what was staged for this call.
    pub fn mem(&mut self) -> UserMemory<'_> {
        UserMemory { thread: self.thread, space: &*self.space }
    }

    /// The open file behind a descriptor, or `EBADF`.
    pub fn file(&self, fd: Fd) -> Result<Arc<fd::OpenFile>> {
        self.task.files().get(fd.0)
    }

    /// Waits until `attempt` yields something. `attempt` must watch its queues in the table before it looks.
    pub fn block<T>(&self, deadline: Deadline, attempt: impl FnMut(&mut PollTable) -> Option<T>) -> Result<T> {
        self.task.block(deadline, attempt)
    }

    /// Runs an operation that never blocks, again and again until it does not say `EAGAIN`, waiting for
    /// `interest` in between; non-blocking descriptors get the `EAGAIN`.
    pub fn retry<T>(
        &mut self,
        file: &fd::OpenFile,
        interest: Events,
        deadline: Deadline,
        mut operation: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<T> {
        match operation(self) {
            Err(Errno::EAGAIN) if !file.nonblocking() => {}
            other => return other,
        }
        let task = self.task.clone();
        // The operation itself is the test: what `poll` calls ready may still not suffice for it.
        task.block(deadline, |table| {
            if !table.registers() {
                return None;
            }
            table.set_interest(interest);
            file.file.poll(table);
            match operation(self) {
                Err(Errno::EAGAIN) => None,
                other => Some(other),
            }
        })?
    }
}
