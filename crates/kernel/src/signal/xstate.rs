//! Extended processor state in signal frames (arch/x86/kernel/fpu/signal.c): an XSAVE area whose legacy part
//! says in its last 48 bytes how long the whole is, and a magic word behind it.

use crate::{Errno, Result};

const FP_XSTATE_MAGIC1: u32 = 0x4650_5853;
const FP_XSTATE_MAGIC2: u32 = 0x4650_5845;
/// The FXSAVE area.
const LEGACY: usize = 512;
/// Where `struct _fpx_sw_bytes` lies in it.
const SW: usize = 464;
/// FXSAVE area and XSAVE header.
const SMALLEST: usize = LEGACY + 64;
/// `XFEATURE_MASK_FPSSE`.
const FP_SSE: u64 = 3;
/// Larger areas than any processor has are not believed.
const LARGEST: usize = 64 << 10;
/// Bits that MXCSR may have.
const MXCSR_MASK: u32 = 0xffff;

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|part| part.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|part| part.try_into().ok()).map_or(0, u64::from_le_bytes)
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

/// `struct _fpx_sw_bytes`.
fn put_sw_bytes(area: &mut [u8], features: u64) {
    let size = area.len() as u32;
    put(area, SW, &[0; 48]);
    put(area, SW, &FP_XSTATE_MAGIC1.to_le_bytes());
    put(area, SW + 4, &(size + 4).to_le_bytes());
    put(area, SW + 8, &features.to_le_bytes());
    put(area, SW + 16, &size.to_le_bytes());
}

/// The state after a reset: x87 masked and empty, MXCSR all masked, everything else zero.
fn initial() -> Vec<u8> {
    let mut area = vec![0; SMALLEST];
    put(&mut area, 0, &0x37f_u16.to_le_bytes());
    put(&mut area, 24, &0x1f80_u32.to_le_bytes());
    put(&mut area, 28, &MXCSR_MASK.to_le_bytes());
    put_sw_bytes(&mut area, FP_SSE);
    area
}

/// The bytes that go into a frame, with the magic at the end.
pub(super) fn to_frame(state: &[u8]) -> Vec<u8> {
    let mut bytes = if state.len() < SMALLEST { initial() } else { state.to_vec() };
    if u32_at(&bytes, SW) != FP_XSTATE_MAGIC1 || u32_at(&bytes, SW + 16) as usize != bytes.len() {
        let features = u64_at(&bytes, LEGACY) | FP_SSE;
        put_sw_bytes(&mut bytes, features);
    }
    bytes.extend_from_slice(&FP_XSTATE_MAGIC2.to_le_bytes());
    bytes
}

/// As a core holds it: where signal frames say how long the state is, there it says what the processor has
/// (`XSTATE_FX_SW_OFFSET`).
pub fn core_xstate(state: &[u8]) -> Vec<u8> {
    let mut bytes = if state.len() < SMALLEST { initial() } else { state.to_vec() };
    let told = u32_at(&bytes, SW) == FP_XSTATE_MAGIC1;
    let features = u64_at(&bytes, if told { SW + 8 } else { LEGACY }) | FP_SSE;
    put(&mut bytes, SW, &[0; 48]);
    put(&mut bytes, SW, &features.to_le_bytes());
    bytes
}

/// Bytes that the state takes in a frame of this processor, with the magic; `now` is the state as it is.
pub(super) fn frame_len(now: &[u8]) -> u64 {
    (now.len().max(SMALLEST) + 4) as u64
}

/// Reads guest memory; returns how many bytes could be read.
type Read<'a> = &'a dyn Fn(u64, &mut [u8]) -> usize;

/// Takes the state back from a frame (`__fpu_restore_sig()`). `now` is the state as it is, which tells what the
/// processor has. A frame that does not look like an XSAVE one is a legacy one; bits that the processor would
/// refuse make the frame bad.
pub(super) fn from_frame(read: Read<'_>, address: u64, now: &[u8]) -> Result<Vec<u8>> {
    if address == 0 {
        return Ok(Vec::new());
    }
    let mut legacy = [0; LEGACY];
    crate::mem::check_range(address, LEGACY as u64)?;
    if read(address, &mut legacy) < LEGACY {
        return Err(Errno::EFAULT);
    }
    if u32_at(&legacy, 24) & !MXCSR_MASK != 0 {
        return Err(Errno::EFAULT);
    }
    let (known, room) = match now.len() {
        0..SMALLEST => (u64::MAX, LARGEST),
        len => (u64_at(now, SW + 8) | FP_SSE, len),
    };
    let Some(size) = extended_size(read, address, &legacy, room)? else { return Ok(legacy_only(&legacy)) };
    let mut area = vec![0; size];
    if read(address, &mut area) < size {
        return Err(Errno::EFAULT);
    }
    // XRSTOR refuses a compacted area, reserved bits of the header, and features that are not there.
    let header = area.get(LEGACY + 8..LEGACY + 64).unwrap_or_default();
    let features = u64_at(&legacy, SW + 8);
    let present = u64_at(&area, LEGACY);
    if header.iter().any(|byte| *byte != 0) || present & !known != 0 {
        return Err(Errno::EFAULT);
    }
    put(&mut area, LEGACY, &(present & (features | FP_SSE)).to_le_bytes());
    put(&mut area, 24, &u32_at(&legacy, 24).to_le_bytes());
    put_sw_bytes(&mut area, features & known | FP_SSE);
    Ok(area)
}

/// `check_xstate_in_sigframe()`: size of the XSAVE area, `None` if only the legacy part is to be believed.
fn extended_size(read: Read<'_>, address: u64, legacy: &[u8], room: usize) -> Result<Option<usize>> {
    let (magic, extended, size) =
        (u32_at(legacy, SW), u32_at(legacy, SW + 4) as usize, u32_at(legacy, SW + 16) as usize);
    if magic != FP_XSTATE_MAGIC1 || size < SMALLEST || size > room.min(LARGEST) || size > extended {
        return Ok(None);
    }
    let mut tail = [0; 4];
    crate::mem::check_range(address, size as u64 + 4)?;
    if read(address.wrapping_add(size as u64), &mut tail) < 4 {
        return Err(Errno::EFAULT);
    }
    Ok((u32::from_le_bytes(tail) == FP_XSTATE_MAGIC2).then_some(size))
}

/// x87 and SSE from the legacy part, everything else initial.
fn legacy_only(legacy: &[u8]) -> Vec<u8> {
    let mut area = vec![0; SMALLEST];
    put(&mut area, 0, legacy);
    put(&mut area, LEGACY, &FP_SSE.to_le_bytes());
    put_sw_bytes(&mut area, FP_SSE);
    area
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_platform::Space;
    use coracle_platform::mock::MockSpace;

    fn frame(state: &[u8]) -> (MockSpace, u64) {
        let space = MockSpace::default();
        space.map(0x1_0000, 0x4000, 3);
        let bytes = to_frame(state);
        assert_eq!(space.write(0x1_0000, &bytes), bytes.len());
        (space, 0x1_0000)
    }

    /// An area with one more feature (AVX: 256 bytes at 576).
    fn with_avx() -> Vec<u8> {
        let mut area = initial();
        area.resize(SMALLEST + 256, 0xaa);
        put(&mut area, LEGACY, &7_u64.to_le_bytes());
        put_sw_bytes(&mut area, 7);
        area
    }

    #[test]
    fn a_whole_area_survives() {
        let state = with_avx();
        let (space, at) = frame(&state);
        assert_eq!(from_frame(&|at, into| space.read(at, into), at, &state).unwrap(), state);
    }

    #[test]
    fn a_missing_magic_leaves_the_legacy_part() {
        let state = with_avx();
        let (space, at) = frame(&state);
        space.write(at + state.len() as u64, &[0; 4]);
        let taken = from_frame(&|at, into| space.read(at, into), at, &state).unwrap();
        assert_eq!((taken.len(), u64_at(&taken, LEGACY)), (SMALLEST, 3));
        // Longer than what the processor has: likewise.
        let (space, at) = frame(&state);
        assert_eq!(from_frame(&|at, into| space.read(at, into), at, &initial()).unwrap().len(), SMALLEST);
    }

    #[test]
    fn what_the_processor_refuses_is_a_bad_frame() {
        let state = with_avx();
        for (offset, value) in [(24_u64, 0x1_0000_u64), (512, 1 << 40), (520, 1), (544, 1)] {
            let (space, at) = frame(&state);
            space.write(at + offset, &value.to_le_bytes());
            assert_eq!(from_frame(&|at, into| space.read(at, into), at, &state), Err(Errno::EFAULT), "{offset}");
        }
    }

    #[test]
    fn no_area_is_the_initial_state() {
        let space = MockSpace::default();
        assert_eq!(from_frame(&|at, into| space.read(at, into), 0, &[]).unwrap(), Vec::<u8>::new());
        assert_eq!(from_frame(&|at, into| space.read(at, into), 0x5000, &[]), Err(Errno::EFAULT));
    }
}
