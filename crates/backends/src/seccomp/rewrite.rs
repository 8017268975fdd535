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
use coracle_platform::{Gone, Mapping, MemoryCall, Space};

use super::plan::{self, AFTER, AREA, Area, BEFORE, CALL, FROM, MOV, Plan, SLOT, Site, displacement};
use super::texts::{FileKey, Text};
use super::thread::SeccompThread;
use super::worker::Worker;

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
    /// Executable mappings of files, with what the sandbox knows of them.
    texts: Vec<Text>,
    /// Trampolines of shared text.
    shared_areas: Vec<u64>,
    /// The program sees the text of files as it is.
    exact: bool,
}

impl Sites {
    /// The rewritten site at this address.
    fn site(&self, address: u64) -> Option<Site> {
        self.sites.get(&address).copied().or_else(|| self.texts.iter().find_map(|text| text.site(address)))
    }

    /// The site whose trampoline `rip` lies in, that trampoline, and the site as it was rewritten.
    fn around(&self, rip: u64) -> Option<(u64, Site)> {
        if let Some(area) = self.areas.iter().find(|area| rip.wrapping_sub(area.start) < AREA) {
            let trampoline = rip - (rip - area.start) % SLOT;
            let site = *self.trampolines.get(&trampoline)?;
            return Some((site, *self.sites.get(&site)?));
        }
        self.texts.iter().find_map(|text| text.site_of_trampoline(rip))
    }

    /// The program's own address for one in a trampoline.
    pub fn to_site(&self, rip: u64) -> u64 {
        let Some((site, Site { trampoline, before })) = self.around(rip) else { return rip };
        match rip - trampoline {
            0 => site - before,
            at if at <= before + CALL => site,
            at => site + 2 + (at - before - AFTER),
        }
    }

    /// Where a thread goes on that stood behind a `syscall` which is no longer there.
    pub fn to_trampoline(&self, rip: u64) -> u64 {
        match self.site(rip.wrapping_sub(2)) {
            Some(site) if site.before == 0 => site.after(),
            _ => rip,
        }
    }

    /// The place in a trampoline that stands for an address inside a rewritten site: behind the old `syscall`, or
    /// behind the breakpoint that stands there for a moment.
    pub fn inside(&self, rip: u64) -> Option<u64> {
        let site = |address: u64, before: u64| self.site(address).filter(|site| site.before == before);
        let behind = site(rip.wrapping_sub(2), 0).map(|site| site.after());
        let broken = || site(rip.wrapping_sub(1), 0).or_else(|| site(rip.wrapping_sub(1).wrapping_add(MOV), MOV));
        behind.or_else(|| broken().map(|site| site.trampoline))
    }

    /// Areas are no mappings of the guest.
    pub fn hides(&self, start: u64) -> bool {
        self.areas.iter().any(|area| area.start == start) || self.shared_areas.contains(&start)
    }

    /// Shared text is shown as the file that it stands for.
    pub fn show(&self, mapping: &mut Mapping) {
        if let Some(text) = self.texts.iter().find(|text| text.contains(mapping.start)) {
            text.show(mapping);
        }
    }

    /// The address space between these bounds has new contents: what was known of it is void.
    pub fn forget(&mut self, start: u64, len: u64) {
        let within = |address: &u64| address.wrapping_sub(start) < len;
        self.refused.retain(|site| !within(site));
        self.sites.retain(|site, _| !within(site));
        self.trampolines.retain(|_, site| !within(site));
        self.texts.retain(|text| !text.overlaps(start, len));
    }

    /// A file is mapped for execution.
    pub fn add(&mut self, text: Text) {
        self.shared_areas.extend(text.area());
        self.texts.push(text);
    }

    /// No more shared text is wanted here: its trampolines stay where they are for good.
    pub fn is_full(&self) -> bool {
        const MOST: usize = 32;
        self.shared_areas.len() >= MOST
    }

    /// Text is no longer mapped in its shared form.
    pub fn map_exactly(&mut self) {
        self.exact = true;
    }

    pub fn is_exact(&self) -> bool {
        self.exact
    }

    /// The file and the place in it where a site comes from.
    pub fn in_file(&self, site: u64) -> Option<(FileKey, u64)> {
        self.texts.iter().find(|text| text.contains(site)).map(|text| text.in_file(site))
    }

    fn in_area(&self, address: u64) -> bool {
        let mut starts = self.areas.iter().map(|area| area.start).chain(self.shared_areas.iter().copied());
        starts.any(|start| address.wrapping_sub(start) < AREA)
    }

    fn find_slot(&mut self, jump: u64, hidden: bool) -> Option<u64> {
        let near = self.areas.iter_mut().filter(|area| area.start.abs_diff(jump) < REACH);
        near.into_iter().find_map(|area| area.take(jump, hidden))
    }
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
        sites.in_area(site) || sites.refused.contains(&site) || sites.site(site).is_some()
    };
    let rewritten = !known
        && match plan_here(&worker, site, number) {
            Some(plan) => {
                thread.learn(rip, number);
                rewrite(thread, &worker, site, &plan)?
            }
            None => false,
        };
    let mut sites = worker.sites.lock();
    sites.busy.remove(&site);
    if !rewritten {
        sites.refused.insert(site);
    }
    drop(sites);
    thread.forget_heat(rip, !rewritten);
    Ok(())
}

/// From what stands in memory.
fn plan_here(worker: &Worker, site: u64, number: u64) -> Option<Plan> {
    let mut bytes = [0; BEFORE + FROM];
    let start = site.checked_sub(BEFORE as u64)?;
    let got = worker.read(start, &mut bytes);
    if got > BEFORE {
        return plan::plan(&bytes[..BEFORE], &bytes[BEFORE..got], site, number);
    }
    // At the beginning of a mapping.
    let got = worker.read(site, &mut bytes[..FROM]);
    plan::plan(&[], &bytes[..got], site, number)
}

fn rewrite(thread: &mut SeccompThread, worker: &Arc<Worker>, site: u64, plan: &Plan) -> Result<bool, Gone> {
    // Only text that the program itself cannot change under our hands: private, from a file, not writable.
    let text = worker.mapping_at(site);
    if !text.is_some_and(|text| text.prot & 2 == 0 && text.ino != 0 && !text.shared && site + 5 <= text.end) {
        return Ok(false);
    }
    let before = plan.before.len() as u64;
    let (jump, hidden) = (site - before, before == 0);
    let slot = worker.sites.lock().find_slot(jump, hidden);
    let trampoline = match slot {
        Some(slot) => slot,
        None => {
            let Some(start) = place(&worker.all_mappings(), site) else { return Ok(false) };
            // PROT_READ | PROT_EXEC; MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE
            let area = MemoryCall::MapAnonymous { address: start, len: AREA, prot: 5, flags: 0x10_0022 };
            if coracle_platform::Thread::memory(thread, &area)? != Ok(start) {
                return Ok(false);
            }
            if worker.poke(start, &(worker.base + label::FAST_ENTRY).to_le_bytes()) != 8 {
                return Ok(false);
            }
            let mut sites = worker.sites.lock();
            sites.areas.push(Area::new(start));
            let Some(slot) = sites.find_slot(jump, hidden) else { return Ok(false) };
            slot
        }
    };
    let start = trampoline - (trampoline % AREA);
    let code = plan::trampoline_code(trampoline, start, site, plan);
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
    fn addresses_map_both_ways() {
        let mut sites = Sites::default();
        let (site, area) = (0x7000_0000_1000, 0x6fff_f000_0000);
        sites.areas.push(Area::new(area));
        let trampoline = sites.find_slot(site, true).unwrap();
        assert!(plan::INVALID.contains(&displacement(site, trampoline)[1]));
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
