//! The vvar pages: what the vDSO reads, what the kernel process publishes (DESIGN.md section 9).
//!
//! A clock is a line: at `cycles` of the time stamp counter it showed `sec` and `sub`, and since then it has run at
//! `mult`. `sub` and `mult` are fixed-point numbers of nanoseconds with [`SHIFT`] fractional bits, so that reading a
//! clock is one multiplication, one addition and one shift. `limit` bounds how far the line may be followed. It also
//! says that it cannot be followed at all (0), and catches a counter that stands before the anchor: one compare for
//! everything that can be wrong. What MONOTONIC and REALTIME need shares one cache line with the sequence number.
//!
//! The counter is to be read *before* the words: the loads then take place while the processor still reads the counter.
//! A counter older than the anchor looks like one beyond the limit, and asks for another attempt.

use core::mem::{offset_of, size_of};
use core::sync::atomic::{AtomicU32, AtomicU64};

use super::pvclock::{self, Slot, Trouble};
use super::seq::{Reading, SeqCell};

/// Fractional bits of `sub` and `mult`.
pub const SHIFT: u32 = 32;
/// Size of the clocks' page and of the pages for [`super::pvclock`].
pub const VVAR_SIZE: usize = 5 * 4096;
/// Virtual CPUs that have a slot.
pub const VCPUS: usize = 256;
/// Attempts of a reader before it makes the system call.
pub const TRIES: u32 = 64;

const NSEC_PER_SEC: u32 = 1_000_000_000;

/// Words of the clocks' cell, by index. Their offsets in the page are eight times one more.
pub mod word {
    pub const CYCLES: usize = 0;
    /// No delta of this size or more may be used; 0: none at all.
    pub const LIMIT: usize = 1;
    pub const MULT: usize = 2;
    pub const MONO_SEC: usize = 3;
    pub const MONO_SUB: usize = 4;
    pub const REAL_SEC: usize = 5;
    pub const REAL_SUB: usize = 6;
    pub const BOOT_SEC: usize = 7;
    pub const BOOT_SUB: usize = 8;
    /// Its `sub` is that of real time.
    pub const TAI_SEC: usize = 9;
    /// MONOTONIC_RAW has a slope of its own.
    pub const RAW_MULT: usize = 10;
    pub const RAW_SEC: usize = 11;
    pub const RAW_SUB: usize = 12;
    /// [`super::mode`].
    pub const MODE: usize = 13;
    /// Resolution of the coarse clocks in nanoseconds.
    pub const TICK: usize = 14;
    /// 1: somebody keeps the coarse clocks going.
    pub const COARSE_VALID: usize = 15;
    pub const COARSE_MONO_SEC: usize = 16;
    pub const COARSE_MONO_NSEC: usize = 17;
    pub const COARSE_REAL_SEC: usize = 18;
    pub const COARSE_REAL_NSEC: usize = 19;
    /// What to add to MONOTONIC for REALTIME and BOOTTIME, and to REALTIME for TAI; nanoseconds in `[0, 1e9)`.
    pub const REAL_OFF_SEC: usize = 20;
    pub const REAL_OFF_NSEC: usize = 21;
    pub const BOOT_OFF_SEC: usize = 22;
    pub const BOOT_OFF_NSEC: usize = 23;
    pub const TAI_OFF_SEC: usize = 24;
    pub const COUNT: usize = 31;
}

/// Where the time comes from.
pub mod mode {
    /// From the system call.
    pub const NONE: u64 = 0;
    /// From the time stamp counter and the words here.
    pub const TSC: u64 = 1;
    /// From the page of virtual CPU 0, as long as its clock is stable.
    pub const PVCLOCK: u64 = 2;
    /// From the page of the CPU the reader runs on.
    pub const PVCLOCK_PER_CPU: u64 = 3;
    /// The same, with the CPU's number from the limit of a segment whatever else the processor offers.
    pub const PVCLOCK_PER_CPU_LSL: u64 = 4;
}

/// Values of [`Vvar::seed`].
pub mod seed {
    pub const EMPTY: u32 = 0;
    pub const SEEDING: u32 = 1;
    pub const READY: u32 = 2;
}

/// Values of [`Vvar::cpu_source`]: how the vDSO learns which CPU it runs on.
pub mod cpu_source {
    /// By the system call.
    pub const CALL: u64 = 0;
    pub const RDPID: u64 = 1;
    /// From the limit of a segment.
    pub const LSL: u64 = 2;
}

/// For [`Vvar::random_map`]: memory that the host may wipe at any time, and does for a forked child (mmap(2)).
pub const MAP_DROPPABLE: u32 = 0x08;

/// The pages.
#[repr(C, align(4096))]
pub struct Vvar {
    pub clocks: SeqCell<AtomicU64, { word::COUNT }>,
    /// Whether the clocks were ever published.
    pub seed: AtomicU32,
    spare: AtomicU32,
    /// Random states made under another number are void. Never 0.
    pub random_generation: AtomicU64,
    /// Address of the shim's fast path: where the vDSO's system calls go.
    pub fast_entry: AtomicU64,
    /// [`cpu_source`].
    pub cpu_source: AtomicU64,
    /// Flags with which memory for random states is to be mapped; 0: the vDSO keeps none.
    pub random_map: AtomicU64,
    rest: [u64; (4096 - 256 - 40) / 8],
    /// Hypervisor clock ABI, by virtual CPU.
    pub vcpus: [Slot<AtomicU64>; VCPUS],
}

/// Offsets for code that cannot use the type.
pub const SEQUENCE_OFFSET: usize = offset_of!(Vvar, clocks);
pub const RANDOM_GENERATION_OFFSET: usize = offset_of!(Vvar, random_generation);
pub const VCPUS_OFFSET: usize = offset_of!(Vvar, vcpus);

const _: () = assert!(size_of::<Vvar>() == VVAR_SIZE && align_of::<Vvar>() == 4096);
const _: () = assert!(SEQUENCE_OFFSET == 0 && offset_of!(Vvar, seed) == 256);
const _: () = assert!(RANDOM_GENERATION_OFFSET == 264 && VCPUS_OFFSET == 4096);
// MONOTONIC and REALTIME live in the first cache line.
const _: () = assert!(8 * (word::REAL_SUB + 2) == 64);

/// A moment on a clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    pub sec: i64,
    pub nsec: u32,
}

/// A clock that a counter reading can be turned into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fine {
    Realtime,
    Monotonic,
    Boottime,
    Tai,
    Raw,
}

/// Words of the cell while they are read.
pub type Words<'a> = Reading<'a, AtomicU64, { word::COUNT }>;

/// Follows a line. The caller has checked the delta against the limit, so nothing overflows and there is at most
/// one second to carry.
#[inline(always)]
pub fn follow(delta: u64, mult: u64, sec: u64, sub: u64) -> Moment {
    let ns = delta.wrapping_mul(mult).wrapping_add(sub) >> SHIFT;
    // Below 2e9: see `limit_for`.
    let (sec, ns) = (sec as i64, ns as u32);
    if ns >= NSEC_PER_SEC {
        Moment { sec: sec.wrapping_add(1), nsec: ns.wrapping_sub(NSEC_PER_SEC) }
    } else {
        Moment { sec, nsec: ns }
    }
}

/// The largest limit that [`follow`] bears at these slopes: deltas stay below a second.
pub const fn limit_for(mult: u64) -> u64 {
    match ((NSEC_PER_SEC as u64) << SHIFT).checked_div(mult) {
        Some(limit) => limit,
        None => 0,
    }
}

impl Fine {
    /// The clock's time at `tsc`; `None` if the line does not reach that far. Believe it only if the attempt succeeds.
    #[inline(always)]
    pub fn at(self, words: &Words<'_>, tsc: u64) -> Option<Moment> {
        let delta = tsc.wrapping_sub(words.get::<{ word::CYCLES }>());
        if delta >= words.get::<{ word::LIMIT }>() {
            return None;
        }
        let mult = words.get::<{ word::MULT }>();
        Some(match self {
            Fine::Monotonic => {
                follow(delta, mult, words.get::<{ word::MONO_SEC }>(), words.get::<{ word::MONO_SUB }>())
            }
            Fine::Realtime => {
                follow(delta, mult, words.get::<{ word::REAL_SEC }>(), words.get::<{ word::REAL_SUB }>())
            }
            Fine::Boottime => {
                follow(delta, mult, words.get::<{ word::BOOT_SEC }>(), words.get::<{ word::BOOT_SUB }>())
            }
            Fine::Tai => follow(delta, mult, words.get::<{ word::TAI_SEC }>(), words.get::<{ word::REAL_SUB }>()),
            Fine::Raw => {
                let mult = words.get::<{ word::RAW_MULT }>();
                follow(delta, mult, words.get::<{ word::RAW_SEC }>(), words.get::<{ word::RAW_SUB }>())
            }
        })
    }
}

/// What came of looking at a clock within one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    Is(Moment),
    /// The counter reading is older than the line.
    Again,
    /// Not to be had without a system call.
    Not,
}

impl Look {
    fn map(self, change: impl FnOnce(Moment) -> Moment) -> Look {
        match self {
            Look::Is(moment) => Look::Is(change(moment)),
            other => other,
        }
    }
}

impl Vvar {
    /// A clock's time, by whichever way is open; `None`: ask the kernel.
    pub fn fine(&self, clock: Fine, tries: u32, mut tsc: impl FnMut() -> u64) -> Option<Moment> {
        self.attempts(tries, |words| {
            let now = tsc();
            self.look(&words, clock, now)
        })
    }

    /// A coarse clock's time. While nobody keeps them going they follow the fine ones at a distance of one tick, and
    /// so are never ahead of what somebody who does would publish.
    pub fn coarse(&self, real: bool, tries: u32, mut tsc: impl FnMut() -> u64) -> Option<Moment> {
        self.attempts(tries, |words| {
            let last = if real {
                (words.get::<{ word::COARSE_REAL_SEC }>(), words.get::<{ word::COARSE_REAL_NSEC }>())
            } else {
                (words.get::<{ word::COARSE_MONO_SEC }>(), words.get::<{ word::COARSE_MONO_NSEC }>())
            };
            let last = Moment { sec: last.0 as i64, nsec: last.1 as u32 };
            if words.get::<{ word::COARSE_VALID }>() != 0 {
                return Look::Is(last);
            }
            let now = tsc();
            let tick = words.get::<{ word::TICK }>() as u32;
            let clock = if real { Fine::Realtime } else { Fine::Monotonic };
            self.look(&words, clock, now).map(|moment| moment.before(tick).max(last))
        })
    }

    fn attempts(&self, tries: u32, mut look: impl FnMut(Words<'_>) -> Look) -> Option<Moment> {
        for _ in 0..tries {
            match self.clocks.try_read(&mut look) {
                Some(Look::Is(moment)) => return Some(moment),
                Some(Look::Not) => return None,
                Some(Look::Again) | None => <AtomicU64 as super::seq::Word>::relax(),
            }
        }
        None
    }

    /// Within one attempt.
    fn look(&self, words: &Words<'_>, clock: Fine, tsc: u64) -> Look {
        if let Some(moment) = clock.at(words, tsc) {
            return Look::Is(moment);
        }
        let delta = tsc.wrapping_sub(words.get::<{ word::CYCLES }>());
        match words.get::<{ word::MODE }>() {
            mode::TSC if words.get::<{ word::LIMIT }>() != 0 && (delta as i64) < 0 => Look::Again,
            mode::PVCLOCK | mode::PVCLOCK_PER_CPU | mode::PVCLOCK_PER_CPU_LSL => {
                match pvclock::one_page(&self.vcpus, tsc) {
                    Ok(monotonic) => hypervisors(words, clock, monotonic),
                    Err(Trouble::Again) => Look::Again,
                    Err(Trouble::Stale | Trouble::Unstable) => Look::Not,
                }
            }
            _ => Look::Not,
        }
    }
}

/// A clock's time, given MONOTONIC in nanoseconds as the hypervisor clock has it.
pub fn hypervisors(words: &Words<'_>, clock: Fine, monotonic: u64) -> Look {
    const SECOND: u64 = NSEC_PER_SEC as u64;
    let monotonic = Moment { sec: (monotonic / SECOND) as i64, nsec: (monotonic % SECOND) as u32 };
    let real = || {
        let (sec, nsec) = (words.get::<{ word::REAL_OFF_SEC }>(), words.get::<{ word::REAL_OFF_NSEC }>());
        monotonic.after(sec as i64, nsec as u32)
    };
    match clock {
        Fine::Monotonic => Look::Is(monotonic),
        Fine::Realtime => Look::Is(real()),
        Fine::Tai => Look::Is(real().after(words.get::<{ word::TAI_OFF_SEC }>() as i64, 0)),
        Fine::Boottime => {
            let (sec, nsec) = (words.get::<{ word::BOOT_OFF_SEC }>(), words.get::<{ word::BOOT_OFF_NSEC }>());
            Look::Is(monotonic.after(sec as i64, nsec as u32))
        }
        // It has another slope.
        Fine::Raw => Look::Not,
    }
}

/// Whether a reader of a coarse clock that nobody keeps going asks the kernel to have it kept going: one in 512, so that
/// who asks often soon need not read the counter, and who asks rarely causes nothing to tick.
#[inline]
pub fn starts_ticking(tsc: u64) -> bool {
    tsc.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 55 == 0
}

impl Moment {
    /// Nanoseconds earlier (less than a second).
    #[inline]
    pub fn before(self, nsec: u32) -> Moment {
        match self.nsec.checked_sub(nsec) {
            Some(nsec) => Moment { sec: self.sec, nsec },
            None => Moment {
                sec: self.sec.wrapping_sub(1),
                nsec: self.nsec.wrapping_add(NSEC_PER_SEC).wrapping_sub(nsec),
            },
        }
    }

    /// Later by an offset whose nanoseconds are in `[0, 1e9)`.
    #[inline]
    pub fn after(self, sec: i64, nsec: u32) -> Moment {
        let nsec = self.nsec.wrapping_add(nsec);
        let carry = nsec >= NSEC_PER_SEC;
        Moment {
            sec: self.sec.wrapping_add(sec).wrapping_add(i64::from(carry)),
            nsec: if carry { nsec.wrapping_sub(NSEC_PER_SEC) } else { nsec },
        }
    }
}
