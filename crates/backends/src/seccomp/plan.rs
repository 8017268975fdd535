//! What a call site is rewritten to: pure functions over bytes of text. See `rewrite` for the two forms.

use iced_x86::{Decoder, DecoderError, DecoderOptions, FlowControl, Instruction};

/// Size of an area of trampolines, and of one of them.
pub const AREA: u64 = 0x1_0000;
pub const SLOT: u64 = 48;
/// Offsets in a trampoline, behind what it begins with.
pub const CALL: u64 = 13;
pub const AFTER: u64 = 15;
/// Length of `mov $imm32,%eax`, and of a near jump.
pub const MOV: u64 = 5;
/// Bytes that no instruction begins with in 64-bit mode (Intel SDM volume 2, opcode map; none of those that
/// newer extensions have given a meaning).
pub const INVALID: [u8; 11] = [0x06, 0x07, 0x0e, 0x16, 0x17, 0x1e, 0x1f, 0x27, 0x2f, 0x37, 0x3f];
/// Bytes that a plan is made from: before a site at most, and from it on.
pub const BEFORE: usize = 96;
pub const FROM: usize = 17;
/// The instruction.
pub const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// A site and its trampoline, by address or relative to the text they belong to.
#[derive(Clone, Copy)]
pub struct Site {
    pub trampoline: u64,
    /// The jump stands in the place of a `mov` so long, before the `syscall`.
    pub before: u64,
}

impl Site {
    /// Where the program goes on behind the call.
    pub fn after(&self) -> u64 {
        self.trampoline + self.before + AFTER
    }
}

/// What a trampoline is made of.
pub struct Plan {
    pub before: Vec<u8>,
    pub after: Vec<u8>,
}

/// The displacement of a jump of five bytes at `from`.
pub fn displacement(from: u64, to: u64) -> [u8; 4] {
    (to.wrapping_sub(from).wrapping_sub(5) as u32).to_le_bytes()
}

/// What can be made of a site, whose instruction and what follows it are `from`, behind `before`. `number` is the
/// call that was made there.
pub fn plan(before: &[u8], from: &[u8], site: u64, number: u64) -> Option<Plan> {
    next_instruction(from, site).or_else(|| mov_before(before, from, site, number))
}

/// The first form: the instruction behind the site, if it can be moved and covers the jump.
fn next_instruction(from: &[u8], site: u64) -> Option<Plan> {
    let code = from.strip_prefix(&SYSCALL)?;
    let mut next = Instruction::default();
    Decoder::with_ip(64, code, site + 2, DecoderOptions::NONE).decode_out(&mut next);
    let movable =
        !next.is_invalid() && next.flow_control() == FlowControl::Next && !next.is_ip_rel_memory_operand();
    (movable && next.len() >= 3).then(|| Plan { before: Vec::new(), after: code[..next.len()].to_vec() })
}

/// The second form: the `mov $number,%eax` before the site, if it certainly is that instruction. Its bytes could
/// also be the tail of a longer one: everything that arrives at the `syscall` at all must come through the `mov`.
fn mov_before(before: &[u8], from: &[u8], site: u64, number: u64) -> Option<Plan> {
    let at = before.len().checked_sub(MOV as usize)?;
    let number = u32::try_from(number).ok()?.to_le_bytes();
    if !from.starts_with(&SYSCALL) || before[at] != 0xb8 || before[at + 1..] != number {
        return None;
    }
    let mut through = streams(before, site).into_iter().filter_map(|stream| match stream {
        Stream::Arrives { through_mov } => Some(through_mov),
        _ => None,
    });
    let certain = through.next() == Some(true) && through.all(|through| through);
    certain.then(|| Plan { before: before[at..].to_vec(), after: Vec::new() })
}

/// An instruction certainly begins at the site, by the bytes alone: decoding from many places, all that decodes
/// arrives there. (The code of x86 soon falls into step, wherever one begins.)
pub fn begins_instruction(before: &[u8], site: u64) -> bool {
    const ENOUGH: usize = 4;
    /// So close to the site it may not be in step yet.
    const STEPS: u64 = 32;
    let before_steps = before.len().saturating_sub(STEPS as usize);
    let mut streams = streams(before, site);
    streams.truncate(before_steps.div_ceil(16));
    let arrive = streams.iter().filter(|stream| matches!(stream, Stream::Arrives { .. })).count();
    arrive >= ENOUGH && !streams.iter().any(|stream| matches!(stream, Stream::Passes))
}

/// What becomes of decoding from one place.
enum Stream {
    Arrives {
        through_mov: bool,
    },
    /// Goes over the site, which lies within an instruction then.
    Passes,
    /// Ends in what is no instruction: began in data, or out of step.
    Breaks,
}

/// Compilers begin functions at multiples of 16: decodes from each such place before the site.
fn streams(before: &[u8], site: u64) -> Vec<Stream> {
    let start = site - before.len() as u64;
    let last = before.len().saturating_sub(MOV as usize);
    let mut found = Vec::new();
    for from in (0..=last).filter(|from| (start + *from as u64).is_multiple_of(16)) {
        let mut through_mov = false;
        let mut decoder = Decoder::with_ip(64, &before[from..], start + from as u64, DecoderOptions::NONE);
        let mut next = Instruction::default();
        while decoder.can_decode() {
            through_mov |= decoder.ip() == site - MOV;
            decoder.decode_out(&mut next);
            if next.is_invalid() {
                break;
            }
        }
        found.push(match next.is_invalid() {
            false if next.next_ip() == site => Stream::Arrives { through_mov },
            // Cut off by the end of the bytes: the instruction goes on into the site.
            true if decoder.last_error() == DecoderError::NoMoreBytes => Stream::Passes,
            _ => Stream::Breaks,
        });
    }
    found
}

/// Room for trampolines.
#[derive(Clone)]
pub struct Area {
    pub start: u64,
    used: Vec<bool>,
}

impl Area {
    /// The first slot holds the address of the fast path.
    pub fn new(start: u64) -> Area {
        let mut used = vec![false; (AREA / SLOT) as usize];
        used[0] = true;
        Area { start, used }
    }

    /// A free trampoline for a jump at `jump`; `hidden`: whose displacement has its second byte invalid.
    pub fn take(&mut self, jump: u64, hidden: bool) -> Option<u64> {
        let place = |index: usize| self.start + index as u64 * SLOT;
        let fits = |index: &usize| !hidden || INVALID.contains(&displacement(jump, place(*index))[1]);
        let index = (0..self.used.len()).filter(|index| !self.used[*index]).find(fits)?;
        self.used[index] = true;
        Some(place(index))
    }
}

/// A trampoline at `at`; the address of the fast path stands at `entry`.
pub fn trampoline_code(at: u64, entry: u64, site: u64, plan: &Plan) -> Vec<u8> {
    let mut code = plan.before.clone();
    code.extend_from_slice(&[0x48, 0x8d, 0x0d]);
    code.extend_from_slice(&((AFTER - 7) as u32).to_le_bytes());
    code.extend_from_slice(&[0xff, 0x25]);
    code.extend_from_slice(&(entry.wrapping_sub(at + plan.before.len() as u64 + CALL) as u32).to_le_bytes());
    code.extend_from_slice(&[0x0f, 0x05]);
    code.extend_from_slice(&plan.after);
    let back = at + code.len() as u64;
    code.push(0xe9);
    code.extend_from_slice(&displacement(back, site + 2 + plan.after.len() as u64));
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trampoline_is_what_it_says() {
        let (site, at) = (0x7000_0000_1000, 0x7000_0610_0030);
        let next = [0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff]; // cmp $-4096,%rax
        let plan = Plan { before: Vec::new(), after: next.to_vec() };
        let code = trampoline_code(at, at & !(AREA - 1), site, &plan);
        assert!(code.len() as u64 <= SLOT);
        let found: Vec<Instruction> = Decoder::with_ip(64, &code, at, DecoderOptions::NONE).into_iter().collect();
        assert_eq!(found[0].memory_displacement64(), at + AFTER);
        assert_eq!(found[1].memory_displacement64(), at & !(AREA - 1));
        assert_eq!(found[2].ip(), at + CALL);
        assert_eq!(found[4].near_branch_target(), site + 8);
    }
    #[test]
    fn the_inside_of_an_instruction_is_no_site() {
        // nop; then `mov $0x050f,%eax` and a real `syscall`, all in step from wherever one begins.
        let mut code = vec![0x90; 96];
        code.extend_from_slice(&[0xb8, 0x0f, 0x05, 0, 0]);
        let real = code.len();
        code.extend_from_slice(&[0x0f, 0x05, 0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff]);
        let base = 0x1000_u64;
        assert!(begins_instruction(&code[..real], base + real as u64));
        assert!(!begins_instruction(&code[..97], base + 97));
        assert!(plan(&code[..real], &code[real..], base + real as u64, 0x50f).is_some());
    }
}
