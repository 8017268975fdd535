//! Rewriting of hot call sites: a near jump leads to a trampoline instead of the host's kernel.
//!
//! There are two forms. Mostly the jump takes the place of the `syscall` itself and of what follows:
//!
//! ```text
//!   site:  syscall            (2 bytes)   ->   jmp trampoline   (5 bytes: e9 r0 r1 r2 r3)
//!          next instruction   (3 or more)
//!
//!   trampoline:  lea  after(%rip),%rcx    RCX is lost by a system call anyway
//!                jmp  *entry(%rip)        the shim's fast path
//!                syscall                  taken by the fast path to make the call by trap after all
//!   after:       next instruction, copied
//!                jmp  behind it
//! ```
//!
//! What stood before the `syscall` (`mov $nr,%eax`, `xor %eax,%eax`, or nothing near) stays. Code that jumps to
//! the `syscall` finds the jump. Code that jumps behind it finds r1, which is chosen (by the trampoline's place)
//! to be no instruction at all: the fault leads to `after`. Nothing else can be a jump target, because the next
//! instruction covers the rest.
//!
//! Where too little follows (`syscall; ret`, as in libc's getpid), the jump takes the place of a `mov $nr,%eax`
//! right before the `syscall`, if that certainly is an instruction; the trampoline begins with it. The `syscall`
//! and all behind it stay as they are.
//!
//! A site is left alone unless all of this holds. While several threads share the text, the bytes change in an
//! order in which every state is safe to execute, with a core-serialising `membarrier` between the steps (as
//! text_poke_bp() in arch/x86/kernel/alternative.c).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use coracle_blobs::label;
use coracle_platform::{Gone, MemoryCall, Space};
use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction};

use super::thread::SeccompThread;
use super::worker::Worker;

/// Size of an area of trampolines, and of one of them.
const AREA: u64 = 0x1_0000;
const SLOT: u64 = 48;
/// Offsets in a trampoline, behind what it begins with.
const CALL: u64 = 13;
const AFTER: u64 = 15;
/// Length of `mov $imm32,%eax`, and of a near jump.
const MOV: u64 = 5;
/// Bytes that no instruction begins with in 64-bit mode (Intel SDM volume 2, opcode map; none of those that
/// newer extensions have given a meaning).
const INVALID: [u8; 11] = [0x06, 0x07, 0x0e, 0x16, 0x17, 0x1e, 0x1f, 0x27, 0x2f, 0x37, 0x3f];
/// How far an area may lie from a site: well within a 32-bit displacement.
const REACH: u64 = 1 << 30;

/// The rewritten sites of one address space.
#[derive(Clone, Default)]
pub struct Sites {
    /// Sites that are left alone, by address of the `syscall`.
    refused: HashSet<u64>,
    /// Sites that some thread's kernel thread is rewriting just now: two at once would mix their bytes.
    busy: HashSet<u64>,
    /// By address of the site.
    sites: HashMap<u64, Site>,
    /// By address of the trampoline.
    trampolines: HashMap<u64, u64>,
    areas: Vec<Area>,
}

#[derive(Clone, Copy)]
struct Site {
    trampoline: u64,
    /// The jump stands in the place of a `mov` so long, before the `syscall`.
    before: u64,
}

impl Site {
    /// Where the program goes on behind the call.
    fn after(&self) -> u64 {
        self.trampoline + self.before + AFTER
    }
}

/// What a trampoline is made of.
struct Plan {
    before: Vec<u8>,
    after: Vec<u8>,
}

#[derive(Clone)]
struct Area {
    start: u64,
    used: Vec<bool>,
}

impl Sites {
    /// The program's own address for one in a trampoline.
    pub fn to_site(&self, rip: u64) -> u64 {
        let Some(area) = self.areas.iter().find(|area| rip.wrapping_sub(area.start) < AREA) else { return rip };
        let at = (rip - area.start) % SLOT;
        let Some(site) = self.trampolines.get(&(rip - at)) else { return rip };
        let before = self.sites.get(site).map_or(0, |site| site.before);
        match at {
            0 => site - before,
            at if at <= before + CALL => *site,
            at => site + 2 + (at - before - AFTER),
        }
    }

    /// Where a thread goes on that stood behind a `syscall` which is no longer there.
    pub fn to_trampoline(&self, rip: u64) -> u64 {
        match self.sites.get(&rip.wrapping_sub(2)) {
            Some(site) if site.before == 0 => site.after(),
            _ => rip,
        }
    }

    /// The place in a trampoline that stands for an address inside a rewritten site: behind the old `syscall`, or
    /// behind the breakpoint that stands there for a moment.
    pub fn inside(&self, rip: u64) -> Option<u64> {
        let site = |address: u64, before: u64| self.sites.get(&address).filter(|site| site.before == before);
        let behind = site(rip.wrapping_sub(2), 0).map(Site::after);
        let broken = || site(rip.wrapping_sub(1), 0).or_else(|| site(rip.wrapping_sub(1).wrapping_add(MOV), MOV));
        behind.or_else(|| broken().map(|site| site.trampoline))
    }

    /// Areas are no mappings of the guest.
    pub fn hides(&self, start: u64) -> bool {
        self.areas.iter().any(|area| area.start == start)
    }

    /// The address space between these bounds has new contents: what was known of it is void.
    pub fn forget(&mut self, start: u64, len: u64) {
        let within = |address: &u64| address.wrapping_sub(start) < len;
        self.refused.retain(|site| !within(site));
        self.sites.retain(|site, _| !within(site));
        self.trampolines.retain(|_, site| !within(site));
    }

    /// A free trampoline for a jump at `jump`; `hidden`: whose displacement has its second byte invalid.
    fn find_slot(&mut self, jump: u64, hidden: bool) -> Option<u64> {
        for area in self.areas.iter_mut().filter(|area| area.start.abs_diff(jump) < REACH) {
            // The first slot holds the address of the fast path.
            for index in 1..area.used.len() {
                let trampoline = area.start + index as u64 * SLOT;
                let [_, second, ..] = displacement(jump, trampoline);
                if !area.used[index] && (!hidden || INVALID.contains(&second)) {
                    area.used[index] = true;
                    return Some(trampoline);
                }
            }
        }
        None
    }
}

/// The displacement of a jump of five bytes at `from`.
fn displacement(from: u64, to: u64) -> [u8; 4] {
    (to.wrapping_sub(from).wrapping_sub(5) as u32).to_le_bytes()
}

/// A thread shows a site at which it has trapped some times. Rewrites it, or has it not shown again.
pub fn shown(thread: &mut SeccompThread, rip: u64, number: u64) -> Result<(), Gone> {
    let worker = thread.worker().clone();
    let site = rip.wrapping_sub(2);
    if rip >= worker.base {
        return Ok(());
    }
    let known = {
        let mut sites = worker.sites.lock();
        if !sites.busy.insert(site) {
            return Ok(());
        }
        let area = sites.areas.iter().any(|area| site.wrapping_sub(area.start) < AREA);
        area || sites.refused.contains(&site) || sites.sites.contains_key(&site)
    };
    let rewritten = !known
        && match next_instruction(&worker, site).or_else(|| mov_before(&worker, site, number)) {
            Some(plan) => rewrite(thread, &worker, site, &plan)?,
            None => false,
        };
    let mut sites = worker.sites.lock();
    sites.busy.remove(&site);
    if !rewritten {
        sites.refused.insert(site);
        thread.mark_cold(rip);
    }
    Ok(())
}

/// The first form: the instruction behind the site, if it can be moved and covers the jump.
fn next_instruction(worker: &Worker, site: u64) -> Option<Plan> {
    let mut bytes = [0; 17];
    let got = worker.read(site, &mut bytes);
    let code = bytes.get(2..got)?;
    if bytes[..2] != [0x0f, 0x05] {
        return None;
    }
    let mut next = Instruction::default();
    Decoder::with_ip(64, code, site + 2, DecoderOptions::NONE).decode_out(&mut next);
    let movable =
        !next.is_invalid() && next.flow_control() == FlowControl::Next && !next.is_ip_rel_memory_operand();
    (movable && next.len() >= 3).then(|| Plan { before: Vec::new(), after: code[..next.len()].to_vec() })
}

/// The second form: the `mov $number,%eax` before the site, if it certainly is that instruction. Its bytes could
/// also be the tail of a longer one. Compilers begin functions at multiples of 16: decoding from each such place
/// nearby, everything that arrives at the `syscall` at all must come through the `mov`.
fn mov_before(worker: &Worker, site: u64, number: u64) -> Option<Plan> {
    const LOOK: usize = 96;
    let mut bytes = [0; LOOK + 2];
    let start = site - LOOK as u64;
    if worker.read(start, &mut bytes) != bytes.len() || bytes[LOOK..] != [0x0f, 0x05] {
        return None;
    }
    let at = LOOK - MOV as usize;
    let number = u32::try_from(number).ok()?.to_le_bytes();
    if bytes[at] != 0xb8 || bytes[at + 1..LOOK] != number {
        return None;
    }
    let mut arrives = false;
    let aligned = (0..=at).filter(|from| (start + *from as u64).is_multiple_of(16));
    for from in aligned {
        let mut through = false;
        let mut decoder = Decoder::with_ip(64, &bytes[from..LOOK], start + from as u64, DecoderOptions::NONE);
        let mut next = Instruction::default();
        while decoder.can_decode() {
            through |= decoder.ip() == start + at as u64;
            decoder.decode_out(&mut next);
            if next.is_invalid() {
                break;
            }
        }
        if !next.is_invalid() && next.next_ip() == site {
            if !through {
                return None;
            }
            arrives = true;
        }
    }
    arrives.then(|| Plan { before: bytes[at..LOOK].to_vec(), after: Vec::new() })
}

fn rewrite(thread: &mut SeccompThread, worker: &Arc<Worker>, site: u64, plan: &Plan) -> Result<bool, Gone> {
    // Only text that the program itself cannot change under our hands: private, from a file, not writable.
    let mappings = worker.all_mappings();
    let text = mappings.iter().find(|mapping| site.wrapping_sub(mapping.start) < mapping.end - mapping.start);
    if !text.is_some_and(|text| text.prot & 2 == 0 && text.ino != 0 && !text.shared && site + 5 <= text.end) {
        return Ok(false);
    }
    let before = plan.before.len() as u64;
    let (jump, hidden) = (site - before, before == 0);
    let slot = worker.sites.lock().find_slot(jump, hidden);
    let trampoline = match slot {
        Some(slot) => slot,
        None => {
            let Some(start) = place(&mappings, site) else { return Ok(false) };
            // PROT_READ | PROT_EXEC; MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE
            let area = MemoryCall::MapAnonymous { address: start, len: AREA, prot: 5, flags: 0x10_0022 };
            if coracle_platform::Thread::memory(thread, &area)? != Ok(start) {
                return Ok(false);
            }
            if worker.poke(start, &(worker.base + label::FAST_ENTRY).to_le_bytes()) != 8 {
                return Ok(false);
            }
            let mut sites = worker.sites.lock();
            sites.areas.push(Area { start, used: vec![false; (AREA / SLOT) as usize] });
            let Some(slot) = sites.find_slot(jump, hidden) else { return Ok(false) };
            slot
        }
    };
    let start = trampoline - (trampoline % AREA);
    let code = trampoline_code(trampoline, start, site, plan);
    if worker.poke(trampoline, &code) != code.len() {
        return Ok(false);
    }
    // From here on a thread that faults in the site is led right.
    {
        let mut sites = worker.sites.lock();
        sites.sites.insert(site, Site { trampoline, before });
        sites.trampolines.insert(trampoline, site);
    }
    let [r0, r1, r2, r3] = displacement(jump, trampoline);
    if worker.threads.load(Ordering::SeqCst) == 1 {
        // The only thread is in our hands; returning from its handler serialises.
        worker.poke(jump, &[0xe9, r0, r1, r2, r3]);
        return Ok(true);
    }
    // 1. behind the `syscall`: invalid. 2. the first byte: a breakpoint. 3. the rest. 4. the jump. (In the second
    // form nobody stands between its bytes, so the first step may come with the third.)
    let steps: [(u64, &[u8]); 5] = match hidden {
        true => [(2, &[r1]), (0, &[0xcc]), (1, &[r0]), (3, &[r2, r3]), (0, &[0xe9])],
        false => [(0, &[0xcc]), (1, &[r0]), (2, &[r1]), (3, &[r2, r3]), (0, &[0xe9])],
    };
    for (offset, bytes) in steps {
        worker.poke(jump + offset, bytes);
        thread.synchronise_cores()?;
    }
    Ok(true)
}

fn trampoline_code(at: u64, entry: u64, site: u64, plan: &Plan) -> Vec<u8> {
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

/// A free place for an area near `site`: in the nearest gap below it, away from what may grow into it.
fn place(mappings: &[coracle_platform::Mapping], site: u64) -> Option<u64> {
    const MARGIN: u64 = 1 << 20;
    let below: Vec<_> = mappings.iter().rev().filter(|mapping| mapping.start <= site).collect();
    for (index, upper) in below.iter().enumerate() {
        let floor = below.get(index + 1).map_or(AREA, |lower| lower.end);
        let gap = upper.start.saturating_sub(floor);
        if gap >= 2 * MARGIN + 2 * AREA {
            let start = (upper.start - MARGIN - AREA) & !(AREA - 1);
            return (site - start < REACH).then_some(start);
        }
    }
    None
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
    fn addresses_map_both_ways() {
        let mut sites = Sites::default();
        let (site, area) = (0x7000_0000_1000, 0x6fff_f000_0000);
        sites.areas.push(Area { start: area, used: vec![false; (AREA / SLOT) as usize] });
        let trampoline = sites.find_slot(site, true).unwrap();
        assert!(INVALID.contains(&displacement(site, trampoline)[1]));
        sites.sites.insert(site, Site { trampoline, before: 0 });
        sites.trampolines.insert(trampoline, site);
        assert_eq!(sites.to_site(trampoline), site);
        assert_eq!(sites.to_site(trampoline + 7), site);
        assert_eq!(sites.to_site(trampoline + AFTER), site + 2);
        assert_eq!(sites.to_site(trampoline + AFTER + 6), site + 8);
        assert_eq!(sites.to_trampoline(site + 2), trampoline + AFTER);
        assert_eq!(sites.inside(site + 1), Some(trampoline));
        sites.forget(site, 1);
        assert_eq!(sites.to_trampoline(site + 2), site + 2);
    }
}
