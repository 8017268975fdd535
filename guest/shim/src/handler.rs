//! Where the host's signals arrive: trapped calls, faults, interrupts. Each either repairs the shim's own
//! doing or becomes a request to the kernel, which then has the complete frame in the port's signal stack.
//!
//! The interrupt signal is masked in here before anything is posted, so a request is never interrupted by another.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use crate::label;
use crate::port::{
    BATCH_MAX, CALL_SIZE, COLD, HEAT_WAYS, HOT, INTERRUPT_SIGNAL, POSTED, REPLIED, SENT, TURN, UNCONFINED, action, kind,
    reply, request, heat_set, word,
};
use crate::raw::{self, Frame, Port, reg};

const SIGSEGV: i32 = 11;
const SIGBUS: i32 = 7;
const SIGILL: i32 = 4;
const SIGTRAP: i32 = 5;
/// The page at this address, the host's, holds three system calls at fixed addresses.
const VSYSCALL: u64 = 0xffff_ffff_ff60_0000;
/// Looks for the reply before the first `pause`, as in `entry.rs`.
const EAGER: u32 = 200;
const EINTR: u64 = -4i64 as u64;
const EFAULT: u64 = -14i64 as u64;
const ENOMEM: u64 = -12i64 as u64;

/// Called by `signal_entry`; `stack` is the signal stack pointer, which lies in the thread's port.
pub unsafe extern "C" fn handler(signal: i32, info: u64, frame: Frame, stack: u64) {
    let port = Port::around(stack);
    let request = match signal {
        INTERRUPT_SIGNAL => interrupted(port, frame),
        _ => faulted(port, signal, frame),
    };
    let Some(kind) = request else { return };
    port.u32(word::SIGNAL).store(signal as u32, Relaxed);
    port.u64(word::FRAME).store(frame.0, Relaxed);
    port.u64(word::INFO).store(info, Relaxed);
    serve(port, kind, Some(frame));
}

/// Called by `trap_entry`, with interrupts not masked. Whether to go on with what `frame` says by loading registers,
/// instead of by `rt_sigreturn`.
pub unsafe extern "C" fn trap(signal: i32, info: u64, frame: Frame, stack: u64) -> u32 {
    let port = Port::around(stack);
    port.u64(word::FRAME).store(frame.0, Relaxed);
    let request = trapped(port, info, frame);
    if request.is_none() && frame.get(reg::RIP) == label!(fast_entry) && loads(port, frame) {
        return 1;
    }
    // SAFETY: the call is made for this.
    unsafe { raw::mask_call() };
    let Some(kind) = request else {
        // If an interrupt came before, it came where the frame says.
        interrupted(port, frame);
        return 0;
    };
    port.u32(word::SIGNAL).store(signal as u32, Relaxed);
    port.u64(word::INFO).store(info, Relaxed);
    let home = frame.get(reg::RIP);
    serve(port, kind, Some(frame));
    if called(info) >= VSYSCALL && frame.get(reg::RIP) == home && frame.get(reg::RAX) == EFAULT {
        // A bad pointer is a fault here, before the return (check_fault in emulate_vsyscall()): the host gives it, with
        // what Linux says of it, for a place in the page that is no entry.
        frame.set(reg::RIP, called(info) + 1);
        frame.set(reg::RSP, frame.get(reg::RSP).wrapping_sub(8));
    }
    0
}

/// Loading registers does all that `rt_sigreturn` would.
fn loads(port: Port, frame: Frame) -> bool {
    const SINGLE_STEP: u64 = 1 << 8;
    /// `xfeatures` of `struct _fpx_sw_bytes`.
    const FEATURES: u64 = 464 + 8;
    let state = frame.extended_state();
    port.u32(word::XSAVE_SIZE).load(Relaxed) != 0
        && frame.get(reg::EFLAGS) & SINGLE_STEP == 0
        && state != 0
        // SAFETY: the host has just written this frame.
        && unsafe { ((state + FEATURES) as *const u64).read() } == port.u64(word::XSAVE_FEATURES).load(Relaxed)
}

/// An interrupt came while a trapped call was on its way to the fast path.
pub unsafe extern "C" fn late(port: Port, frame: Frame) {
    interrupted(port, frame);
}

/// Where a trapped call was made. For one through the vsyscall page this is its entry, while RIP is behind the
/// program's `call` instruction already (emulate_vsyscall() in arch/x86/entry/vsyscall/vsyscall_64.c).
fn called(info: u64) -> u64 {
    // SAFETY: `si_call_addr` of a siginfo that the host has written for SIGSYS.
    unsafe { ((info + 16) as *const u64).read() }
}

/// First thing that a new address space does; returns when the kernel has made the frame to start from.
pub unsafe extern "C" fn ready(port: Port) {
    if port.u32(word::DOCK).load(Relaxed) != 0 {
        // The kernel answers when it knows the program. The descriptors to map have arrived by then.
        // SAFETY: the call is made for this; the host filter bounds what it can do.
        let answer = unsafe { raw::notify_call(0) };
        let result = if answer < 0 { answer } else { batch(port) };
        port.u64(word::RESULT).store(result as u64, Relaxed);
    }
    serve(port, kind::READY, None);
}

/// The kernel has asked a thread in the fast path for all its registers, and [`crate::freeze`] has written them
/// down.
pub unsafe extern "C" fn frozen(port: Port, frame: Frame) {
    port.u64(word::FRAME).store(frame.0, Relaxed);
    serve(port, kind::TRAP, Some(frame));
}

/// The same thread was about to go on when the kernel wanted it to stop.
pub unsafe extern "C" fn frozen_again(port: Port, frame: Frame) {
    port.u64(word::FRAME).store(frame.0, Relaxed);
    port.u32(word::INTERRUPTED_CALL).store(0, Relaxed);
    serve(port, kind::INTERRUPT, Some(frame));
}

/// The first worker, just confined: sends the listener of its filter, and makes the zygote as a clone of itself while it
/// has run nothing yet. Then it is a new address space like any other.
pub unsafe fn begin(port: Port, listener: i64) -> ! {
    // SAFETY: the call is made for this. The kernel alone is to have the listener, and no worker a socket.
    let sent = if listener < 0 { listener } else { unsafe { raw::send_listener() } };
    for descriptor in [0, 1] {
        let close = [3, descriptor, 0, 0, 0, 0, 0];
        // SAFETY: nothing uses them any more.
        unsafe { raw::order_call(close.as_ptr() as u64) };
    }
    port.u64(word::RESULT).store(sent as u64, Relaxed);
    port.u32(word::CONFINED).store(if sent < 0 { UNCONFINED } else { SENT }, SeqCst);
    // SAFETY: wakes waiters of a word of the port; clones as the kernel has laid down before it started us.
    let result = unsafe {
        raw::port_futex(port.0 + word::CONFINED as u64, 1, 1);
        if sent < 0 { sent } else { raw::clone_call(port.0) }
    };
    if result < 0 {
        port.u64(word::RESULT).store(result as u64, SeqCst);
        // SAFETY: nothing works without a listener and a zygote.
        unsafe { raw::exit_call(1) };
    }
    // SAFETY: on this port's stack, as that code wants it.
    unsafe { raw::go_to_first_orders() }
}

/// Makes the calls of a batch, until one fails.
fn batch(port: Port) -> i64 {
    let count = port.u32(word::BATCH_COUNT).load(Relaxed) as usize;
    for index in 0..count.min(BATCH_MAX) {
        let call = port.0 + (word::BATCH + index * CALL_SIZE) as u64;
        // SAFETY: seven words within the port; the filter bounds what the call can do.
        let result = unsafe { raw::order_call(call) };
        if (-4095..0).contains(&result) {
            return result;
        }
    }
    0
}

/// A system call was trapped.
fn trapped(port: Port, info: u64, frame: Frame) -> Option<u32> {
    if frame.get(reg::RIP) == label!(landing) {
        frame.set(reg::RIP, port.u64(word::HOME).load(Relaxed));
        port.u32(word::FORCE_TRAP).store(1, Relaxed);
    } else if frame.get(reg::RIP) == label!(lane2_after) {
        // The filter refused what lane 2 tried: the kernel shall answer.
        frame.set(reg::RIP, back(port, port.u64(word::RETURN).load(Relaxed)));
        port.u32(word::FORCE_TRAP).store(1, Relaxed);
    }
    if frame.get(reg::RIP) == label!(order_after) || frame.get(reg::RIP) == label!(order_fast) {
        // The filter refused an order: it named an address that is not the guest's.
        frame.set(reg::RAX, ENOMEM);
        return None;
    }
    // SAFETY: `si_syscall` of the siginfo that the host has just written.
    let number = i64::from(unsafe { ((info + 24) as *const i32).read() }) as u64;
    let count = port.u64(word::LANE4);
    count.store(count.load(Relaxed).wrapping_add(1), Relaxed);
    // No `syscall` stands before the place where the program goes on that the fast path could fall back on.
    let forced = port.u32(word::FORCE_TRAP).swap(0, Relaxed) != 0 || called(info) >= VSYSCALL;
    let countable = !forced && takes_fast_path(port, number);
    let hot = countable && shows_site(port, frame.get(reg::RIP));
    if countable && !hot {
        // As if the site were a trampoline: RCX is where the program goes on, the `syscall` lies before that.
        port.u64(word::SITE).store(frame.get(reg::RIP), Relaxed);
        frame.set(reg::RCX, frame.get(reg::RIP));
        frame.set(reg::RAX, number);
        frame.set(reg::RIP, label!(fast_entry));
        return None;
    }
    port.u32(word::NUMBER).store(number as u32, Relaxed);
    for (index, register) in [reg::RDI, reg::RSI, reg::RDX, reg::R10, reg::R8, reg::R9].into_iter().enumerate() {
        port.u64(word::ARGS + index * 8).store(frame.get(register), Relaxed);
    }
    Some(if hot { kind::HOT_TRAP } else { kind::TRAP })
}

/// Whether the fast path has a way for this call other than the trap.
fn takes_fast_path(port: Port, number: u64) -> bool {
    number < 512
        && port.u64(word::TABLE + number as usize * 8).load(Relaxed) != label!(fast_foreign)
        && raw::read_gs() == port.0
}

/// Counts the trap; `true` when the kernel shall look at the site.
fn shows_site(port: Port, rip: u64) -> bool {
    const ADDRESS: u64 = (1 << 48) - 1;
    let (first, set) = (port.first(), heat_set(rip));
    let (mut coldest, mut least) = (set, u64::MAX);
    for place in (0..HEAT_WAYS).map(|way| set + way * 8) {
        let entry = first.u64(place).load(Relaxed);
        let heat = entry >> 48;
        if entry & ADDRESS == rip & ADDRESS {
            if heat != COLD {
                first.u64(place).store((rip & ADDRESS) | (heat + 1).min(HOT) << 48, Relaxed);
            }
            return heat != COLD && heat >= HOT;
        }
        if heat < least {
            (coldest, least) = (place, heat);
        }
    }
    first.u64(coldest).store((rip & ADDRESS) | 1 << 48, Relaxed);
    false
}

/// The address where the program goes on, when a crossing had been redirected to `landing`.
fn back(port: Port, address: u64) -> u64 {
    if address == label!(landing) { port.u64(word::HOME).load(Relaxed) } else { address }
}

/// The kernel wants this thread to stop. See the table in `entry.rs`.
fn interrupted(port: Port, frame: Frame) -> Option<u32> {
    if port.u32(word::INTERRUPT_ASKED).load(SeqCst) == port.u32(word::INTERRUPT_DONE).load(SeqCst) {
        return None; // Late: signals merge, and a request was the stopping point.
    }
    let rip = frame.get(reg::RIP);
    if rip < label!(_start) || rip - label!(_start) >= crate::port::SHIM_ALIGN {
        port.u32(word::INTERRUPTED_CALL).store(0, Relaxed);
        return Some(kind::INTERRUPT);
    }
    let within = |from: u64, to: u64| rip >= from && rip < to;
    if within(label!(fast_entry), label!(fast_foreign))
        || within(label!(lane1_begin), label!(lane1_end))
        || within(label!(fast_return), label!(fast_end))
        || within(label!(local_return), label!(local_end))
        || within(label!(lane2_return), label!(lane2_end))
        || rip == label!(trap_jump)
    {
        let home = frame.get(reg::RCX);
        if home != label!(landing) {
            port.u64(word::HOME).store(home, Relaxed);
            port.u32(word::INTERRUPTED_CALL).store(0, Relaxed);
            frame.set(reg::RCX, label!(landing));
        }
    } else if within(label!(local_begin), label!(local_return)) {
        restore_direction(frame);
        frame.set(reg::RIP, label!(local_undo));
    } else if within(label!(lane2_begin), label!(lane2_after)) {
        frame.set(reg::RIP, label!(lane2_undo));
    } else if rip == label!(lane2_after) || within(label!(lane2_after), label!(lane2_return)) {
        let cut_short = rip == label!(lane2_after) && frame.get(reg::RAX) == EINTR;
        let call = if cut_short { port.u32(word::LOCAL_NUMBER).load(Relaxed) + 1 } else { 0 };
        redirect(port, call);
    } else if within(label!(freeze_leave), label!(freeze_left)) {
        frame.set(reg::RIP, label!(freeze_again));
    } else if within(label!(trap_leave), label!(trap_jump)) {
        frame.set(reg::RBX, port.u64(word::FRAME).load(Relaxed));
        frame.set(reg::R12, port.0);
        frame.set(reg::RIP, label!(trap_late));
    } else if (within(label!(fast_posted), label!(fast_return)) || within(label!(copy_failed), label!(act_trap)))
        && port.u32(word::STATE).load(SeqCst) & TURN == REPLIED
    {
        redirect(port, 0);
    }
    None
}

/// A copy that is given up between its `cld` and its `std` leaves the guest's direction flag as it was.
fn restore_direction(frame: Frame) {
    const CLD: u8 = 0xfc;
    const STD: u8 = 0xfd;
    const REP_MOVSB: [u8; 2] = [0xf3, 0xa4];
    const DIRECTION: u64 = 1 << 10;
    let rip = frame.get(reg::RIP);
    // SAFETY: callers have seen that RIP is in the shim's text, with more text around it.
    let text = |offset: i64| unsafe { (rip.wrapping_add_signed(offset) as *const u8).read() };
    let copying = text(-1) == CLD && [text(0), text(1)] == REP_MOVSB;
    let copied = [text(-2), text(-1)] == REP_MOVSB && text(0) == STD;
    if copying || copied {
        frame.set(reg::EFLAGS, frame.get(reg::EFLAGS) | DIRECTION);
    }
}

/// What would return to the program comes to `landing` instead.
fn redirect(port: Port, call: u32) {
    let home = port.u64(word::RETURN).load(Relaxed);
    if home != label!(landing) {
        port.u64(word::HOME).store(home, Relaxed);
        port.u64(word::RETURN).store(label!(landing), Relaxed);
        port.u32(word::INTERRUPTED_CALL).store(call, Relaxed);
    }
}

/// A processor exception: of the guest, or of the shim while it touched guest memory.
fn faulted(port: Port, signal: i32, frame: Frame) -> Option<u32> {
    let rip = frame.get(reg::RIP);
    let within = |from: u64, to: u64| rip >= from && rip < to;
    if signal == SIGILL && rip == label!(landing) {
        frame.set(reg::RIP, port.u64(word::HOME).load(Relaxed));
        frame.set(reg::RCX, frame.get(reg::RIP));
        let stale = port.u32(word::INTERRUPT_ASKED).load(SeqCst) == port.u32(word::INTERRUPT_DONE).load(SeqCst);
        return if stale { None } else { Some(kind::INTERRUPT) };
    }
    if signal == SIGTRAP && rip.wrapping_sub(label!(_start)) < crate::port::SHIM_ALIGN {
        return None; // A program that single-steps itself does not see the shim.
    }
    if signal == SIGSEGV || signal == SIGBUS {
        let repaired = if within(label!(stage_begin), label!(stage_end)) {
            label!(stage_failed)
        } else if within(label!(copy_begin), label!(copy_end)) {
            label!(copy_failed)
        } else if within(label!(local_copy), label!(local_return)) {
            label!(local_undo)
        } else if within(label!(guarded_begin), label!(guarded_end)) {
            label!(guarded_failed)
        } else if within(label!(fast_flags), label!(fast_foreign)) && raw::read_gs() != port.0 {
            label!(fast_foreign)
        } else {
            0
        };
        if repaired != 0 {
            restore_direction(frame);
            frame.set(reg::RIP, repaired);
            return None;
        }
    }
    Some(kind::FAULT)
}

/// Posts a request and carries out what the kernel orders until it lets the guest go on.
fn serve(port: Port, mut kind: u32, frame: Option<Frame>) {
    port.u64(word::FS_BASE).store(raw::read_fs(), Relaxed);
    port.u64(word::GS_BASE).store(raw::read_gs(), Relaxed);
    loop {
        let reply = post_and_wait(port, kind);
        let result = match reply >> reply::ACTION_SHIFT & 0xff {
            action::RETURN => {
                finish(frame, port.u64(word::RESULT).load(Relaxed));
                return;
            }
            action::ORDER_RETURN => {
                finish(frame, order(port) as u64);
                return;
            }
            action::CONTINUE => return,
            action::CONTINUE_BASES => {
                raw::write_fs(port.u64(word::FS_BASE).load(Relaxed));
                raw::write_gs(port.u64(word::GS_BASE).load(Relaxed));
                return;
            }
            action::ORDER => order(port),
            // SAFETY: the calls in `entry` are made for this; the host filter bounds what they can do.
            action::NOTIFY => unsafe { raw::notify_call(0) },
            action::NOTIFY_ORDER => {
                // SAFETY: as above.
                let descriptor = unsafe { raw::notify_call(0) };
                port.u64(word::ORDER + 5 * 8).store(descriptor as u64, Relaxed);
                if descriptor < 0 { descriptor } else { order(port) }
            }
            // SAFETY: as above.
            action::CLONE => unsafe { raw::clone_call(port.0) },
            action::EXCHANGE => {
                let value = |index: usize| port.u64(word::GUARDED + index * 8).load(Relaxed);
                // SAFETY: a fault in there is repaired by `faulted`.
                unsafe { raw::guarded_exchange(value(0), value(1), value(2)) }
            }
            action::FAREWELL => farewell(port),
            // SAFETY: the thread is over.
            action::EXIT => unsafe { raw::exit_call(0) },
            _ => -38,
        };
        port.u64(word::RESULT).store(result as u64, Relaxed);
        kind = kind::DONE;
    }
}

fn finish(frame: Option<Frame>, result: u64) {
    if let Some(frame) = frame {
        frame.set(reg::RAX, result);
    }
}

/// Makes the ordered call, after closing what the kernel wants closed.
fn order(port: Port) -> i64 {
    let close = port.u32(word::CLOSE).load(Relaxed);
    if close != 0 {
        let call = [3, u64::from(close - 1), 0, 0, 0, 0, 0];
        // SAFETY: closes one of the descriptors that the kernel has put into this worker.
        unsafe { raw::order_call(call.as_ptr() as u64) };
        port.u32(word::CLOSE).store(0, Relaxed);
    }
    // SAFETY: the seven words of the order; the filter bounds what the call can do.
    unsafe { raw::order_call(port.0 + word::ORDER as u64) }
}

/// The last that a guest thread does (`mm_release()` in kernel/fork.c).
fn farewell(port: Port) -> i64 {
    if port.u64(word::ORDER).load(Relaxed) != 0 {
        order(port);
    }
    let cleared = port.u64(word::GUARDED).load(Relaxed);
    if cleared == 0 {
        return 0;
    }
    // SAFETY: a fault in there is repaired by `faulted`.
    let result = unsafe { raw::guarded_clear(cleared) };
    if result == 0 {
        let call = [202, cleared, 1, 1, 0, 0, 0];
        // SAFETY: wakes a waiter of a word of the guest.
        unsafe { raw::order_call(call.as_ptr() as u64) };
    }
    result
}

/// Hands the request over, waits for the reply and returns it.
fn post_and_wait(port: Port, kind: u32) -> u32 {
    if port.u32(word::HAS_RDPID).load(Relaxed) != 0 {
        port.u32(word::GUEST_CPU).store(raw::current_cpu(), Relaxed);
    }
    let state = port.u32(word::STATE);
    let address = port.0 + word::STATE as u64;
    let posted = POSTED | kind << request::KIND_SHIFT;
    state.swap(posted, SeqCst);
    if port.u32(word::KERNEL_SLEEPS).load(SeqCst) != 0 {
        port.u64(word::STAMP).store(raw::time_stamp(), Relaxed);
        // SAFETY: wakes waiters of a word of the port.
        unsafe { raw::port_futex(address, 1, 1) };
    }
    let beside = port.u32(word::KERNEL_CPU).load(Relaxed) != port.u32(word::GUEST_CPU).load(Relaxed);
    let mut rounds = if beside { port.u32(word::SPIN).load(Relaxed) } else { 0 };
    let mut eager = if rounds > 0 { EAGER } else { 0 };
    while eager + rounds > 0 {
        let value = state.load(SeqCst);
        if value & TURN == REPLIED {
            return value;
        }
        if eager > 0 {
            eager -= 1;
        } else {
            rounds -= 1;
            raw::pause();
        }
    }
    port.u32(word::GUEST_SLEEPS).swap(1, SeqCst);
    let mut value = state.load(SeqCst);
    while value & TURN != REPLIED {
        // SAFETY: waits on a word of the port.
        unsafe { raw::port_futex(address, 0, u64::from(value)) };
        value = state.load(SeqCst);
    }
    port.u32(word::GUEST_SLEEPS).store(0, SeqCst);
    port.u64(word::WOKEN).store(raw::time_stamp(), Relaxed);
    value
}
