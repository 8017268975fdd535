//! The hypervisor clock ABI (`struct pvclock_vcpu_time_info`, arch/x86/include/asm/pvclock-abi.h): publisher and readers.
//!
//! Each virtual CPU has a slot that turns its time stamp counter into nanoseconds. While the stable bit is set, all
//! counters agree, and every reader may use the slot of virtual CPU 0: one cache line, no question which CPU it is.
//! Without it a reader must use its own CPU's slot, and ask for its CPU before and after, since it may be moved.
//!
//! What a regime of all virtual CPUs promises (stable or not, which line) must change for all of them at once. So
//! [`publish`] shuts every slot, that of virtual CPU 0 first, before it opens any, and [`Opening`] is the moment
//! between, in which counters may change: no reader can combine an old slot with a new counter, nor meet the old
//! regime after it has met the new one. `tests/models.rs` shows what happens to a publisher that goes slot by slot.

use core::mem::size_of;

use super::seq::{Reading, SeqCell, Word, Writing};

/// `PVCLOCK_TSC_STABLE_BIT`: all virtual CPUs' counters agree.
pub const TSC_STABLE: u8 = 1;
/// `PVCLOCK_GUEST_STOPPED`.
pub const GUEST_STOPPED: u8 = 2;

/// A slot: the ABI's 32 bytes in a cache line of their own, as Linux lays them out (`struct pvclock_vsyscall_time_info`).
///
/// The ABI's 32-bit version is the lower half of the sequence number, which runs on into the padding behind it.
#[repr(C, align(64))]
pub struct Slot<A> {
    info: SeqCell<A, 3>,
    /// Ours, behind the ABI's: a reader must not follow the line for this many cycles or more.
    limit: A,
    rest: [u64; 3],
}

const _: () = assert!(size_of::<Slot<core::sync::atomic::AtomicU64>>() == 64);

/// Offsets in a slot, for code that cannot use the type.
pub mod slot {
    use core::mem::offset_of;
    use core::sync::atomic::AtomicU64;

    pub const TIMESTAMP: usize = 8;
    pub const SYSTEM_TIME: usize = 16;
    /// Multiplier, shift and flags in one word, from the lowest bit on.
    pub const SCALE: usize = 24;
    pub const LIMIT: usize = offset_of!(super::Slot<AtomicU64>, limit);
    /// Of that word, `TSC_STABLE`.
    pub const STABLE_BIT: u32 = 40 + super::TSC_STABLE.trailing_zeros();
}

/// What a slot says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    pub tsc_timestamp: u64,
    /// Nanoseconds at that reading of the counter.
    pub system_time: u64,
    pub tsc_to_system_mul: u32,
    pub tsc_shift: i8,
    pub flags: u8,
    /// Cycles it may be followed for.
    pub limit: u64,
}

/// Why a slot gives no time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It changed meanwhile, the counter reading is older than it, or the reader was moved: another attempt may do.
    Again,
    /// It is out of date, or was never written.
    Stale,
    /// The stable bit is off, and it is not the reader's own slot.
    Unstable,
}

/// `pvclock_scale_delta()`.
#[inline(always)]
fn scale(delta: u64, mul: u32, shift: i8) -> u64 {
    let by = u32::from(shift.unsigned_abs());
    let delta = if shift < 0 { delta.wrapping_shr(by) } else { delta.wrapping_shl(by) };
    ((u128::from(delta) * u128::from(mul)) >> 32) as u64
}

impl Line {
    /// `mult` (nanoseconds per cycle, 32 fractional bits) in the ABI's form: a multiplier with its top bit set.
    pub const fn scale_of(mult: u64) -> (u32, i8) {
        if mult == 0 {
            return (0, 0);
        }
        let shift = 32 - mult.leading_zeros() as i8;
        // Rounded up, so that this form never shows less than the other.
        if shift < 0 {
            ((mult << shift.unsigned_abs()) as u32, shift)
        } else {
            let up = (1u64 << shift) - 1;
            match mult.checked_add(up) {
                Some(sum) if (sum >> shift) <= u32::MAX as u64 => ((sum >> shift) as u32, shift),
                _ => (u32::MAX, shift),
            }
        }
    }

    /// The time at `tsc`.
    pub fn at(&self, tsc: u64) -> u64 {
        let delta = tsc.wrapping_sub(self.tsc_timestamp);
        self.system_time.wrapping_add(scale(delta, self.tsc_to_system_mul, self.tsc_shift))
    }

    fn word2(&self) -> u64 {
        let [m0, m1, m2, m3] = self.tsc_to_system_mul.to_le_bytes();
        let [shift] = self.tsc_shift.to_le_bytes();
        u64::from_le_bytes([m0, m1, m2, m3, shift, self.flags, 0, 0])
    }
}

impl<A: Word> Slot<A> {
    /// A slot of these words: version, timestamp, system time, scale and flags, limit.
    pub const fn new(version: A, words: [A; 3], limit: A) -> Slot<A> {
        Slot { info: SeqCell::new(version, words), limit, rest: [0; 3] }
    }

    /// The time at `tsc` and the flags that went with it. Right for a counter that was read shortly before and for
    /// one that means the same on all CPUs; else see `at_with`.
    #[inline(always)]
    pub fn at(&self, tsc: u64) -> Result<(u64, u8), Trouble> {
        self.at_with(|| tsc)
    }

    /// As `at`, with the counter read inside the version-checked section.
    #[inline(always)]
    pub fn at_with(&self, tsc: impl FnOnce() -> u64) -> Result<(u64, u8), Trouble> {
        let limit = self.limit.load(core::sync::atomic::Ordering::Relaxed);
        let take = |words: Reading<'_, A, 3>| {
            let tsc = tsc();
            let (timestamp, system_time, scales) = (words.get::<0>(), words.get::<1>(), words.get::<2>());
            let delta = tsc.wrapping_sub(timestamp);
            let time = system_time.wrapping_add(scale(delta, scales as u32, (scales >> 32) as i8));
            (time, (scales >> 40) as u8, delta)
        };
        match self.info.try_read(take) {
            None => Err(Trouble::Again),
            Some((time, flags, delta)) if delta < limit => Ok((time, flags)),
            Some((_, _, delta)) if delta as i64 >= 0 => Err(Trouble::Stale),
            Some(_) => Err(Trouble::Again),
        }
    }

    fn fill(&self, slot: &Writing<'_, A, 3>, line: &Line) {
        self.limit.store(line.limit, core::sync::atomic::Ordering::Relaxed);
        slot.set::<0>(line.tsc_timestamp);
        slot.set::<1>(line.system_time);
        slot.set::<2>(line.word2());
    }
}

/// Reader (a): virtual CPU 0's slot, for as long as the stable bit is set. The flag comes from inside the
/// version-checked section: read outside, it could be that of another regime than the line.
#[inline(always)]
pub fn one_page<A: Word>(slots: &[Slot<A>], tsc: u64) -> Result<u64, Trouble> {
    match slots.first().ok_or(Trouble::Stale)?.at(tsc)? {
        (time, flags) if flags & TSC_STABLE != 0 => Ok(time),
        _ => Err(Trouble::Unstable),
    }
}

/// Reader (b): the slot of the CPU that the reader runs on, asked for before and after, with `cpu` (`rdpid`, or `lsl`
/// of the segment whose limit Linux sets to the CPU's number) and the counter, `tsc`, read in between.
#[inline(always)]
pub fn per_cpu<A: Word>(
    slots: &[Slot<A>],
    mut cpu: impl FnMut() -> u32,
    tsc: impl FnOnce() -> u64,
) -> Result<u64, Trouble> {
    let before = cpu();
    let slot = slots.get(before as usize).ok_or(Trouble::Stale)?;
    let (time, _) = slot.at_with(tsc)?;
    if cpu() == before { Ok(time) } else { Err(Trouble::Again) }
}

/// All slots shut: the one moment in which counters may change their meaning. Dropped, it leaves them shut.
#[must_use = "readers are shut out until it is opened"]
pub struct Opening<'a, A: Word>(&'a [Slot<A>]);

/// Shuts out the readers of all slots, those of virtual CPU 0's first: theirs may be on any CPU.
pub fn shut<A: Word>(slots: &[Slot<A>]) -> Opening<'_, A> {
    for slot in slots {
        // Not finished: shut it stays.
        let _ = slot.info.begin();
    }
    Opening(slots)
}

impl<A: Word> Opening<'_, A> {
    /// Writes the line of each virtual CPU, and only then lets readers in again.
    pub fn open(self, mut line: impl FnMut(usize) -> Line) {
        for (cpu, slot) in self.0.iter().enumerate() {
            slot.fill(&slot.info.resume(), &line(cpu));
        }
        for slot in self.0 {
            slot.info.resume().finish();
        }
    }
}

/// The same line for all virtual CPUs, from one moment on.
pub fn publish<A: Word>(slots: &[Slot<A>], line: Line) {
    shut(slots).open(|_| line);
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::AtomicU64;

    use super::*;

    const fn slot() -> Slot<AtomicU64> {
        Slot::new(AtomicU64::new(0), [const { AtomicU64::new(0) }; 3], AtomicU64::new(0))
    }

    fn line(flags: u8) -> Line {
        let (tsc_to_system_mul, tsc_shift) = Line::scale_of(0x68b3_5a1c);
        Line {
            tsc_timestamp: 1000,
            system_time: 5_000_000_000,
            tsc_to_system_mul,
            tsc_shift,
            flags,
            limit: 1 << 40,
        }
    }

    #[test]
    fn the_abi_is_the_hypervisors() {
        let slots = [slot()];
        publish(&slots, line(TSC_STABLE));
        // version, pad, timestamp, system time, multiplier, shift, flags
        assert_eq!(slots[0].info.try_read(|words| words.get::<0>()), Some(1000));
        let scales = slots[0].info.try_read(|words| words.get::<2>()).unwrap().to_le_bytes();
        assert_eq!(u32::from_le_bytes([scales[0], scales[1], scales[2], scales[3]]) >> 31, 1, "normalised");
        assert_eq!((scales[4] as i8, scales[5]), (-1, TSC_STABLE));
    }

    #[test]
    fn scales_agree_with_the_multiplication() {
        for mult in
            [1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0x1_0000_0001, 0x68b3_5a1c, 1 << 40, 0x123_4567_89ab]
        {
            let (mul, shift) = Line::scale_of(mult);
            let delta = 1_000_000_u64;
            let exact = (u128::from(delta) * u128::from(mult)) >> 32;
            let here = u128::from(scale(delta, mul, shift));
            let allowed = 2 + (exact >> 30);
            assert!(here + allowed >= exact && here <= exact + allowed, "{mult:#x}: {here} {exact}");
        }
    }

    #[test]
    fn readers_obey_flag_limit_and_cpu() {
        let slots = [slot(), slot()];
        assert_eq!(one_page(&slots, 2000), Err(Trouble::Stale), "never written");
        publish(&slots, line(TSC_STABLE));
        let time = line(0).at(1_000_000);
        assert_eq!(one_page(&slots, 1_000_000), Ok(time));
        assert_eq!(per_cpu(&slots, || 1, || 1_000_000), Ok(time));
        assert_eq!(one_page(&slots, 999), Err(Trouble::Again), "the slot is newer than the reading");
        assert_eq!(one_page(&slots, 1000 + (1 << 40)), Err(Trouble::Stale));
        let mut cpus = [0, 1].into_iter();
        assert_eq!(per_cpu(&slots, || cpus.next().unwrap(), || 1_000_000), Err(Trouble::Again), "moved");
        assert_eq!(per_cpu(&slots, || 2, || 1_000_000), Err(Trouble::Stale), "no such slot");
        publish(&slots, line(0));
        assert_eq!(one_page(&slots, 1_000_000), Err(Trouble::Unstable));
        assert_eq!(per_cpu(&slots, || 1, || 1_000_000), Ok(time));
    }

    #[test]
    fn a_publisher_that_dies_leaves_no_page_to_read() {
        let slots = [slot(), slot()];
        publish(&slots, line(TSC_STABLE));
        let _ = shut(&slots);
        assert_eq!(one_page(&slots, 1_000_000), Err(Trouble::Again));
        assert_eq!(per_cpu(&slots, || 1, || 1_000_000), Err(Trouble::Again));
        publish(&slots, line(TSC_STABLE));
        assert!(one_page(&slots, 1_000_000).is_ok());
    }
}
