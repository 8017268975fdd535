//! `getrandom` (lib/vdso/getrandom.c in Linux 6.11 and later): a stream of its own for every state that the caller
//! brings, under a key from the system call.
//!
//! A state is void when its generation is not the vvar's. Memory that [`Vvar::random_map`] asks for is all zero in a
//! forked child, and may become so at any time; no generation is 0. Where the host has no such memory, the kernel
//! process changes the generation before the child of a fork runs. So the generation is looked at before a state is
//! used, and once more before anything that came of it is returned.
//!
//! Every refill begins with the key's own replacement, and what is given out is wiped from the state at once: whoever
//! reads the state later cannot tell what was given out before.
//!
//! [`Vvar::random_map`]: crate::vvar::Vvar::random_map

use core::mem::{offset_of, size_of};
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, compiler_fence};

use crate::{alias, chacha, page, raw};

const SYS_GETRANDOM: usize = 318;
const GRND_NONBLOCK: u32 = 1;
const GRND_RANDOM: u32 = 2;
const GRND_INSECURE: u32 = 4;
const EFAULT: isize = -14;
const ENOSYS: isize = -38;
const PAGE: usize = 4096;
/// `MAX_RW_COUNT`.
const MOST: usize = 0x7fff_f000;
/// Bytes under one key before the system call is asked for another, as for the kernel process's own pools. (Linux moves
/// the generation at least once a minute.)
const RESEED: u32 = 1 << 20;

const KEY: usize = 32;
const PAIR: usize = 128;
const BATCH: usize = PAIR - KEY;

/// `struct vgetrandom_state`, to the caller so many bytes.
#[repr(C)]
struct State {
    /// What is left of the last refill, from `pos` on.
    batch: [u8; BATCH],
    /// Of the next refill, which overwrites both.
    key: [u8; KEY],
    generation: AtomicU64,
    pos: AtomicU8,
    in_use: AtomicU8,
    /// Bytes given out under the keys that came of one seed.
    drawn: AtomicU32,
}

const _: () = assert!(size_of::<State>() == 144 && offset_of!(State, key) == BATCH);

/// `struct vgetrandom_opaque_params` (include/uapi/linux/random.h).
#[repr(C)]
struct Params {
    size_of_opaque_state: u32,
    mmap_prot: u32,
    mmap_flags: u32,
    reserved: [u32; 13],
}

alias!("getrandom", "__vdso_getrandom");

/// getrandom(2), and behind it the state's memory. With a length of that of ~0 and nothing else it says what memory
/// that must be.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __vdso_getrandom(
    buffer: *mut u8,
    len: usize,
    flags: u32,
    opaque: *mut u8,
    opaque_len: usize,
) -> isize {
    if opaque_len == usize::MAX && buffer.is_null() && len == 0 && flags == 0 {
        // SAFETY: the caller's pointer: it faults if it is bad, as with Linux.
        return unsafe { describe(opaque.cast()) };
    }
    // Its page may be wiped at any time, so there has to be one only.
    if (opaque as usize & (PAGE - 1)) + size_of::<State>() > PAGE {
        return EFAULT;
    }
    let known = flags & !(GRND_NONBLOCK | GRND_RANDOM | GRND_INSECURE) == 0;
    let ready = page().random_generation.load(Relaxed) != 0;
    if known && opaque_len == size_of::<State>() && ready {
        if len == 0 {
            return 0;
        }
        // SAFETY: the caller's pointers, as above.
        let drawn = unsafe { draw(buffer, len.min(MOST), opaque.cast()) };
        chacha::wipe_registers();
        if drawn {
            return len.min(MOST) as isize;
        }
    }
    // SAFETY: the call checks its pointer.
    unsafe { raw::call(SYS_GETRANDOM, buffer as usize, len, flags as usize) }
}

#[cold]
#[inline(never)]
unsafe fn describe(params: *mut Params) -> isize {
    const PROT_READ_WRITE: u32 = 3;
    let map = page().random_map.load(Relaxed) as u32;
    if map == 0 {
        return ENOSYS;
    }
    let size = size_of::<State>() as u32;
    let params_now =
        Params { size_of_opaque_state: size, mmap_prot: PROT_READ_WRITE, mmap_flags: map, reserved: [0; 13] };
    // SAFETY: the caller's pointer.
    unsafe { params.write(params_now) };
    0
}

/// Fills the buffer from the state; false if the system call has to, which then overwrites all of it.
#[inline(always)]
unsafe fn draw(buffer: *mut u8, len: usize, state: *mut State) -> bool {
    // SAFETY: the caller's pointer. The fields are atomics, for a signal handler may look at them at any time.
    let (generation, in_use, drawn) =
        unsafe { (&(*state).generation, &(*state).in_use, &(*state).drawn) };
    // A handler that has interrupted us here. It is not told apart from another thread, or from a copy made by a fork:
    // states are to be used by one thread at a time, and are wiped in a child.
    if in_use.load(Relaxed) != 0 {
        return false;
    }
    // Twice, for it might be voided again and again.
    for _ in 0..2 {
        in_use.store(1, Relaxed);
        compiler_fence(SeqCst);
        let current = page().random_generation.load(Relaxed);
        if generation.load(Relaxed) != current || drawn.load(Relaxed) >= RESEED {
            // The generation comes first: should there be a fork in between, then parent and child each get a key of
            // their own from the call.
            generation.store(current, Relaxed);
            compiler_fence(SeqCst);
            // SAFETY: the call checks its pointer.
            if !unsafe { seed(state) } {
                break;
            }
        }
        drawn.store(drawn.load(Relaxed).saturating_add(len as u32), Relaxed);
        // SAFETY: the caller's.
        unsafe { fill(buffer, len, state) };
        compiler_fence(SeqCst);
        // If the memory was wiped and a signal handler has used it since, then we are not the ones who use it.
        if in_use.load(Relaxed) != 0 && generation.load(Relaxed) == page().random_generation.load(Relaxed) {
            in_use.store(0, Relaxed);
            return true;
        }
        generation.store(0, Relaxed);
    }
    generation.store(0, Relaxed);
    compiler_fence(SeqCst);
    in_use.store(0, Relaxed);
    false
}

/// A key of the kernel's; nothing made before it is left.
#[cold]
#[inline(never)]
unsafe fn seed(state: *mut State) -> bool {
    // SAFETY: fields of the caller's state; the call checks its pointer.
    unsafe {
        let key = &raw mut (*state).key;
        (*state).pos.store(BATCH as u8, Relaxed);
        (*state).drawn.store(0, Relaxed);
        raw::call(SYS_GETRANDOM, key as usize, KEY, 0) == KEY as isize
    }
}

/// Makes bytes under the state's key.
#[inline(never)]
unsafe fn fill(mut buffer: *mut u8, mut len: usize, state: *mut State) {
    // SAFETY: the caller's pointers. A state that somebody else has written to may hold any `pos`.
    unsafe {
        let batch = (&raw mut (*state).batch).cast::<u8>();
        let key = (&raw mut (*state).key).cast::<u8>();
        let pos = &(*state).pos;
        loop {
            let at = (pos.load(Relaxed) as usize).min(BATCH);
            let count = len.min(BATCH - at);
            take(buffer, batch.add(at), count);
            pos.store((at + count) as u8, Relaxed);
            buffer = buffer.add(count);
            len -= count;
            if len == 0 {
                return;
            }
            let mut counter = 0;
            let pairs = len / PAIR;
            if pairs != 0 {
                counter = chacha::blocks(buffer, key, pairs, counter);
                buffer = buffer.add(pairs * PAIR);
                len -= pairs * PAIR;
            }
            chacha::blocks(batch, key, 1, counter);
            pos.store(0, Relaxed);
        }
    }
}

/// Moves bytes: nothing stays behind.
#[inline(always)]
unsafe fn take(to: *mut u8, from: *mut u8, len: usize) {
    // SAFETY: the caller's. Written out, for a compiler would call a function that is not there.
    unsafe {
        core::arch::asm!(
            "cmp $8, {len}",
            "jb 3f",
            "2: mov ({from}), {word}",
            "movq $0, ({from})",
            "mov {word}, ({to})",
            "add $8, {from}",
            "add $8, {to}",
            "sub $8, {len}",
            "cmp $8, {len}",
            "jae 2b",
            "3: test {len}, {len}",
            "jz 5f",
            "4: movzbl ({from}), {word:e}",
            "movb $0, ({from})",
            "movb {word:l}, ({to})",
            "inc {from}",
            "inc {to}",
            "dec {len}",
            "jnz 4b",
            "5:",
            to = inout(reg) to => _, from = inout(reg) from => _, len = inout(reg) len => _, word = out(reg) _,
            options(att_syntax, nostack),
        );
    }
}
