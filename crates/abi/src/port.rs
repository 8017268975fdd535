//! The port: what one guest thread and the kernel share (DESIGN.md sections 4 and 17), and where the shim's
//! parts lie relative to its base. Guest code and kernel are built from this one file.
//!
//! Everything in a port is hostile to the kernel: it copies a word once, checks the copy and uses the copy.
#![allow(missing_docs)]

/// Size and alignment of a port: words, staging space, and the thread's signal stack.
pub const PORT_SIZE: u64 = 0x1_0000;
/// Ports per address space, so guest threads per worker.
pub const PORT_COUNT: u64 = 4096;

/// The shim's base is a multiple of this, so that one compare of the upper half decides "in the shim".
pub const SHIM_ALIGN: u64 = 1 << 32;
/// Offset of the ports from the shim's base.
pub const PORTS_OFFSET: u64 = 0x1000_0000;

/// Size of the vDSO's image in memory.
pub const VDSO_SIZE: u64 = 0x3000;
/// Size of the vvar pages, which lie directly below the image.
pub const VVAR_SIZE: u64 = 0x5000;
/// How far below the shim the zygote has the vvar pages and the image; a program's loader moves them from there.
pub const VVAR_BELOW: u64 = VVAR_SIZE + VDSO_SIZE;
/// The call number by which the vDSO asks for fresh clocks. No kernel knows it.
pub const REFRESH_CALL: u32 = 0x1001;

/// Value of [`word::MAGIC`]; tells the fast path that GS is its own and not the guest's.
pub const MAGIC: u32 = 0x4372_6c31;

/// Offset of a page that workers can only read: what calls of theirs take from memory and a filter cannot see.
pub const SEALED_OFFSET: u64 = 0x0800_0000;
/// Its size. It lies behind the vvar pages in their file.
pub const SEALED_SIZE: u64 = 0x1000;
/// Sets of CPUs in that page, and the bytes of each.
pub const CPU_SET_SIZE: usize = 128;
pub const CPU_SETS: usize = SEALED_SIZE as usize / CPU_SET_SIZE;

/// The call by which a worker asks for a descriptor or announces itself: `getppid`, whose arguments mean nothing. A filter
/// of somebody else's around the sandbox lets it pass, where an unknown number would get an error that outranks the
/// notification; and if it is ever carried out, it tells nothing.
pub const NOTIFY_CALL: u32 = 110;

/// The host signal that interrupts guest code (S in DESIGN.md section 17).
pub const INTERRUPT_SIGNAL: i32 = 10;

/// Offsets of words in a port.
///
/// What a call costs is how often a cache line changes hands between two processors, at about 25 ns each. So each
/// line (64 bytes) belongs to one of: the exchange, the guest, the kernel; and a side stores to a line that the
/// other one reads only when the value changes. A call without memory operands moves the exchange alone, once each
/// way.
pub mod word {
    // The exchange: written by the guest with a request, by the kernel with the reply.
    /// u32: see [`super::request`] and [`super::reply`].
    pub const STATE: usize = 0x00;
    /// u32: number of the call.
    pub const NUMBER: usize = 0x04;
    /// Six u64.
    pub const ARGS: usize = 0x08;
    /// u64: result of the call, or of an order.
    pub const RESULT: usize = 0x38;

    // The guest's own; none of the kernel's business.
    /// u64: where the fast path returns to.
    pub const RETURN: usize = 0x40;
    /// u64: where an interrupted crossing goes on in the program.
    pub const HOME: usize = 0x48;
    /// u64: a trapped call goes on through the fast path; it was made before this address.
    pub const SITE: usize = 0x50;
    /// u32: flags saved by the fast path: AH as LAHF stores it, AL the overflow flag.
    pub const FLAGS: usize = 0x58;
    /// u32: the next trapped call is to be posted with its frame, whatever it is.
    pub const FORCE_TRAP: usize = 0x5c;
    /// Number (u32) and result (u64) of a call that lanes 1 and 2 serve, and two arguments that lane 1 loses.
    pub const LOCAL_NUMBER: usize = 0x60;
    pub const LOCAL_VERSION: usize = 0x64;
    pub const LOCAL_RESULT: usize = 0x68;
    pub const LOCAL_RDI: usize = 0x70;
    pub const LOCAL_RSI: usize = 0x78;

    // The kernel's, read by the guest in every call.
    /// u32: the kernel's thread sleeps on `STATE`.
    pub const KERNEL_SLEEPS: usize = 0x80;
    /// u32: how many rounds the guest may spin for a reply.
    pub const SPIN: usize = 0x84;
    /// u32: CPU on which the kernel's thread last ran.
    pub const KERNEL_CPU: usize = 0x88;
    /// u32: interrupts asked for.
    pub const INTERRUPT_ASKED: usize = 0x8c;
    /// u32: interrupts served.
    pub const INTERRUPT_DONE: usize = 0x90;
    /// u32
    pub const MAGIC: usize = 0x94;
    /// u32: `RDPID` may be used.
    pub const HAS_RDPID: usize = 0x98;
    /// u64: the port's own address.
    pub const SELF: usize = 0xa0;
    /// u32 each: what identity calls answer.
    pub const PID: usize = 0xa8;
    pub const TID: usize = 0xac;
    pub const PPID: usize = 0xb0;
    pub const UID: usize = 0xb4;
    pub const EUID: usize = 0xb8;
    pub const GID: usize = 0xbc;

    // The guest's, read by the kernel in every call.
    /// u32: the guest's thread sleeps on `STATE`.
    pub const GUEST_SLEEPS: usize = 0xc0;
    /// u32: CPU on which the guest's thread last ran.
    pub const GUEST_CPU: usize = 0xc4;
    /// u64: time stamp counter when a sleeping kernel thread was woken.
    pub const STAMP: usize = 0xc8;
    /// u64: the same when the guest's thread last woke up with a reply.
    pub const WOKEN: usize = 0xd0;

    // With requests by handlers.
    /// u64: address of the `ucontext` in the signal stack.
    pub const FRAME: usize = 0x100;
    /// u64: address of the `siginfo`.
    pub const INFO: usize = 0x108;
    /// u64: segment bases as found in, or to be set from, a handler.
    pub const FS_BASE: usize = 0x110;
    pub const GS_BASE: usize = 0x118;
    /// u32: signal number of a fault.
    pub const SIGNAL: usize = 0x120;
    /// u32: the call of a lane 2 interruption, plus one; 0 if none.
    pub const INTERRUPTED_CALL: usize = 0x124;
    /// u32: size of the extended state that `XSAVE` writes; 0 if the shim is not to make frames itself.
    pub const XSAVE_SIZE: usize = 0x128;
    /// u64: which features that is.
    pub const XSAVE_FEATURES: usize = 0x130;
    /// u32, first worker only: [`super::SENT`] once the filter's listener is on its way, or [`super::UNCONFINED`].
    pub const CONFINED: usize = 0x138;
    /// u32: a new address space waits, in a notifying call, for the program that it is to load.
    pub const DOCK: usize = 0x13c;
    /// u32: number of calls in `BATCH`, each laid out as `ORDER`.
    pub const BATCH_COUNT: usize = 0x140;
    /// u32: the outputs of the last reply met a bad address, and its call is made again by trap.
    pub const COPY_FAILED: usize = 0x144;
    /// u64, first worker only: the host's number of the guardian, or why there is none.
    pub const GUARDIAN: usize = 0x148;

    // With orders.
    /// The call that an action tells the guest's thread to make: u64 number, six u64 arguments.
    pub const ORDER: usize = 0x180;
    /// u64: argument of a notifying call: 0, or the cookie of a new address space.
    pub const COOKIE: usize = 0x1b8;
    /// u64: address of the frame that a new thread starts from.
    pub const START_FRAME: usize = 0x1c8;
    /// u64 each: address, expected and new value, shared by the guarded operations.
    pub const GUARDED: usize = 0x1d0;
    /// u32: a descriptor to close before the next order, plus one; 0 if none.
    pub const CLOSE: usize = 0x1f0;
    /// u32: host thread id, written and cleared by the host.
    pub const HOST_TID: usize = 0x1f4;

    // The guest's counters.
    /// u64 each: calls by lane.
    pub const LANE1: usize = 0x200;
    pub const LANE2: usize = 0x208;
    pub const LANE3: usize = 0x210;
    pub const LANE4: usize = 0x218;
    /// u64: bytes the guest staged.
    pub const STAGED: usize = 0x220;

    // The kernel's, for lane 1.
    /// u32, as `PID`.
    pub const EGID: usize = 0x240;
    /// u32: odd while the two answers below change, and even but another number afterwards.
    pub const VERSION: usize = 0x244;
    /// u32: length of the answer to `sched_getaffinity` for the thread itself; 0 if the kernel answers.
    pub const AFFINITY_LEN: usize = 0x248;
    /// u32: `uname` is answered.
    pub const HAS_UNAME: usize = 0x24c;
    /// u32 each, [`super::RANDOM_FILES`] of them: descriptors whose short reads are random bytes; [`super::NO_FILE`].
    pub const RANDOM_FILE: usize = 0x250;
    /// u64: how many bytes at the end of `RANDOM` nobody had yet. The guest counts down.
    pub const RANDOM_LEFT: usize = 0x258;
    /// The mask, [`super::AFFINITY_MAX`] bytes.
    pub const AFFINITY: usize = 0x280;
    /// In the first port, for all threads: [`super::HEAT_SETS`] times [`super::HEAT_WAYS`] u64, each an address behind a
    /// site, and in the upper 16 bits how often it has trapped.
    pub const HEAT: usize = 0x400;
    /// `struct new_utsname`.
    pub const UNAME: usize = 0x600;
    /// Random bytes for the thread to give out, [`super::RANDOM_SIZE`].
    pub const RANDOM: usize = 0x800;

    // With replies. A short first output lies in the line of its entry.
    /// Where the outputs of a reply go: u64 guest address, u32 offset in the port, u32 length each, downwards.
    pub const OUT: usize = 0xfc0;
    /// Room for a short first output.
    pub const STAGE_SHORT: usize = 0xfd0;
    /// 512 u64: where the fast path goes for each call number.
    pub const TABLE: usize = 0x1000;
    /// Staged input.
    pub const STAGE_IN: usize = 0x2000;
    /// Output of replies.
    pub const STAGE_OUT: usize = 0x4000;
    /// Calls for a docked address space: it has no outputs.
    pub const BATCH: usize = STAGE_OUT;
    /// The signal stack, up to the end of the port.
    pub const STACK: usize = 0x8000;
}

/// Offset in the first port of the set that counts traps before `rip`.
pub const fn heat_set(rip: u64) -> usize {
    // Low bits alone are much alike: what follows a call is often aligned.
    let hash = rip.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    word::HEAT + (hash % HEAT_SETS) as usize * HEAT_WAYS * 8
}

/// Size of `struct new_utsname` (include/uapi/linux/utsname.h).
pub const UNAME_SIZE: usize = 390;
/// Random bytes that a thread is given at a time.
pub const RANDOM_SIZE: usize = 0x600;
/// Most that lane 1 gives out in one call.
pub const RANDOM_MAX: usize = 256;
/// Descriptors that lane 1 knows to give random bytes, and the value for none (which is no descriptor).
pub const RANDOM_FILES: usize = 2;
pub const NO_FILE: u32 = u32::MAX;
/// Longest mask of CPUs that lane 1 answers.
pub const AFFINITY_MAX: usize = 128;

/// Traps are counted by site, in any place of the set that its address falls into; the coldest gives way. All threads
/// of an address space count together, without care for each other: what is lost is counted the next time.
pub const HEAT_SETS: u64 = 16;
pub const HEAT_WAYS: usize = 4;
/// A site that trapped so often is shown to the kernel, which may rewrite it …
pub const HOT: u64 = 8;
/// … or mark it with this as never to be shown again.
pub const COLD: u64 = 0xffff;

/// Most outputs in one reply.
pub const OUT_MAX: usize = 4;
/// Sizes of the staging areas.
pub const STAGE_IN_SIZE: usize = 0x2000;
pub const STAGE_SHORT_SIZE: usize = 0x30;
pub const STAGE_OUT_SIZE: usize = 0x4000;

/// Most calls in a batch, and the size of one.
pub const BATCH_MAX: usize = STAGE_OUT_SIZE / CALL_SIZE;
pub const CALL_SIZE: usize = 56;
/// Value of [`word::CONFINED`] when the listener of the filter was sent.
pub const SENT: u32 = 1;
/// Value of [`word::CONFINED`] when the filter was refused, or its listener could not be sent; `RESULT` says why.
pub const UNCONFINED: u32 = u32::MAX;

/// The low byte of [`word::STATE`].
pub const POSTED: u32 = 1;
pub const REPLIED: u32 = 2;
pub const TURN: u32 = 0xff;

/// The rest of [`word::STATE`] with [`POSTED`].
pub mod request {
    /// Where the [`super::kind`] lies.
    pub const KIND_SHIFT: u32 = 8;
    pub const KIND_MASK: u32 = 0xf;
    /// The bytes at the second argument are staged, not those at the first.
    pub const STAGED_SECOND: u32 = 1 << 12;
    /// The call was trapped and sent on through the fast path.
    pub const TRAPPED: u32 = 1 << 13;
    /// How many bytes are staged.
    pub const LENGTH_SHIFT: u32 = 16;
}

/// The rest of [`word::STATE`] with [`REPLIED`].
pub mod reply {
    /// Where the [`super::action`] lies, a byte.
    pub const ACTION_SHIFT: u32 = 8;
    /// How many outputs there are.
    pub const OUTPUTS_SHIFT: u32 = 16;
}

/// What a request is.
pub mod kind {
    /// A new thread waits for its first orders.
    pub const READY: u32 = 1;
    /// A call by the fast path.
    pub const FAST: u32 = 2;
    /// A trapped call, with a frame.
    pub const TRAP: u32 = 3;
    /// A fault, with a frame.
    pub const FAULT: u32 = 4;
    /// An interrupt, with a frame.
    pub const INTERRUPT: u32 = 5;
    /// An order was carried out; `RESULT` holds what it gave.
    pub const DONE: u32 = 6;
    /// As `TRAP`, at a site that has become hot.
    pub const HOT_TRAP: u32 = 7;
}

/// What a reply says to do.
pub mod action {
    /// The call's result is in `RESULT`; go on.
    pub const RETURN: u32 = 0;
    /// The kernel has edited the frame; go on with it (handlers only).
    pub const CONTINUE: u32 = 1;
    /// Come back with a frame (fast path only).
    pub const TRAP: u32 = 2;
    /// Make the call in `ORDER`; its result is the call's result.
    pub const ORDER_RETURN: u32 = 3;
    /// Make the call in `ORDER` and report the result (handlers only, like all below).
    pub const ORDER: u32 = 4;
    /// Get a descriptor by a notifying call and report it.
    pub const NOTIFY: u32 = 5;
    /// Get a descriptor, use it as the fifth argument of the call in `ORDER`, report.
    pub const NOTIFY_ORDER: u32 = 6;
    /// `clone` as in `ORDER`, by the notifying instruction; report. The child starts from `START_FRAME`.
    pub const CLONE: u32 = 7;
    /// Compare and exchange a guest word; report the old value or `EFAULT`.
    pub const EXCHANGE: u32 = 8;
    /// The host thread ends.
    pub const EXIT: u32 = 9;
    /// Set FS and GS from the port, then as `CONTINUE`.
    pub const CONTINUE_BASES: u32 = 10;
    /// The thread is over: make the call in `ORDER` (if any), clear the first word of `GUARDED` (if any) and wake
    /// one who waits for it; report.
    pub const FAREWELL: u32 = 11;
}
