//! Many pieces of guest memory by one host call.
//!
//! What the host copies of a list is what it would copy piece by piece: it goes through the list in order and ends with
//! the first page that it cannot have (process_vm_rw_core() in mm/process_vm_access.c). Each range of its list costs
//! some 0.45 us, for its pages are looked up anew. So neighbours are one range where that cannot be told apart.

use std::io::{IoSlice, IoSliceMut};

use coracle_abi::{PAGE_SIZE, page_floor};

use super::child::Held;

/// Most ranges of one host call (`UIO_MAXIOV`).
const RANGES: usize = 1024;
/// A piece no longer than this may be copied twice, and so many bytes between two pieces may be copied in vain: either is
/// cheaper than a range.
const SMALL: usize = 1024;

/// Reads pieces in order, up to the first bad page; `clip` says how much of a range may be touched at all.
pub fn read(process: &Held<'_>, pieces: &mut [(u64, &mut [u8])], clip: impl Fn(u64, usize) -> usize) -> usize {
    let mut done = 0;
    for list in pieces.chunks_mut(RANGES) {
        let want: usize = list.iter().map(|(_, into)| into.len()).sum();
        let count = read_list(process, list, &clip);
        done += count;
        if count < want {
            break;
        }
    }
    done
}

fn read_list(process: &Held<'_>, list: &mut [(u64, &mut [u8])], clip: &impl Fn(u64, usize) -> usize) -> usize {
    let runs = runs(list.iter().map(|(address, into)| (*address, into.len())));
    let between: usize = runs.iter().filter(|run| run.pieces > 1).map(|run| run.len).sum();
    let mut buffer = vec![0; between];
    let mut remote = Vec::with_capacity(runs.len());
    let mut local = Vec::with_capacity(runs.len());
    let (mut room, mut rest) = (buffer.as_mut_slice(), &mut *list);
    for run in &runs {
        let (its, more) = std::mem::take(&mut rest).split_at_mut(run.pieces);
        rest = more;
        let place = match its {
            [(_, only)] => &mut **only,
            _ => {
                let (place, more) = std::mem::take(&mut room).split_at_mut(run.len);
                room = more;
                place
            }
        };
        remote.push(range(run.start, clip(run.start, place.len())));
        local.push(IoSliceMut::new(place));
    }
    let (remote, want) = up_to_cut(remote, |index| runs.get(index).map_or(0, |run| run.len));
    let got = counted(want, || {
        // SAFETY: `IoSliceMut` has the layout of `iovec`, and each holds what its range yields; the host checks the
        // remote side.
        unsafe {
            let (count, from) = (local.len() as u64, remote.len() as u64);
            libc::process_vm_readv(process.number(), local.as_ptr().cast(), count, remote.as_ptr(), from, 0)
        }
    });
    drop(local);
    hand_out(&runs, list, &buffer, got)
}

/// Brings what was read of whole runs to its places; returns the bytes in front of the first that is missing.
fn hand_out(runs: &[Run], list: &mut [(u64, &mut [u8])], buffer: &[u8], mut got: usize) -> usize {
    let (mut rest, mut read, mut done) = (list, buffer, 0);
    for run in runs {
        let (its, more) = std::mem::take(&mut rest).split_at_mut(run.pieces);
        rest = more;
        let here = run.len.min(got);
        got -= here;
        if run.pieces == 1 {
            done += here;
        } else {
            let (bytes, more) = read.split_at(run.len);
            read = more;
            for (address, into) in its {
                let at = (*address - run.start) as usize;
                let count = here.saturating_sub(at).min(into.len());
                into[..count].copy_from_slice(&bytes[at..at + count]);
                done += count;
                if count < into.len() {
                    return done;
                }
            }
        }
        if here < run.len {
            break;
        }
    }
    done
}

/// Writes pieces in order, up to the first bad page, obeying protections; `clip` as above.
pub fn write(process: &Held<'_>, pieces: &[(u64, &[u8])], clip: impl Fn(u64, usize) -> usize) -> usize {
    let mut done = 0;
    for list in pieces.chunks(RANGES) {
        let whole: usize = list.iter().map(|(_, from)| from.len()).sum();
        let mut lens = Vec::with_capacity(list.len());
        let mut remote: Vec<libc::iovec> = Vec::with_capacity(list.len());
        for (address, from) in list {
            match (remote.last_mut(), lens.last_mut()) {
                (Some(last), Some(len)) if (last.iov_base as u64).checked_add(*len as u64) == Some(*address) => {
                    *len += from.len();
                    last.iov_len = clip(last.iov_base as u64, *len);
                }
                _ => {
                    lens.push(from.len());
                    remote.push(range(*address, clip(*address, from.len())));
                }
            }
        }
        let local: Vec<_> = list.iter().map(|(_, from)| IoSlice::new(from)).collect();
        let (remote, want) = up_to_cut(remote, |index| lens.get(index).copied().unwrap_or(0));
        let count = counted(want, || {
            // SAFETY: as above; the local side is read only.
            unsafe {
                let (from, count) = (local.len() as u64, remote.len() as u64);
                libc::process_vm_writev(process.number(), local.as_ptr().cast(), from, remote.as_ptr(), count, 0)
            }
        });
        done += count;
        if count < whole {
            break;
        }
    }
    done
}

/// Guest memory that is read as one range: what its pieces cover and the bytes between them.
struct Run {
    start: u64,
    len: usize,
    pieces: usize,
}

impl Run {
    /// Takes a piece in, if every page of the run is then still one that a piece touches, and pieces that touch an
    /// earlier page do not come after those that touch a later one only: so the first bad page of the run ends it where
    /// it would end the pieces.
    fn takes(&mut self, address: u64, len: usize) -> bool {
        let (end, its_end) = (self.start + self.len as u64, address + len as u64);
        let last_page = page_floor(end - 1);
        let one_page = page_floor(self.start) == last_page && page_floor(address) == page_floor(its_end - 1);
        let within = one_page && page_floor(address) == last_page;
        let near = address >= end && address - end <= SMALL as u64;
        let follows = near && page_floor(address) <= last_page + PAGE_SIZE;
        if !within && !follows {
            return false;
        }
        self.start = self.start.min(address);
        self.len = (end.max(its_end) - self.start) as usize;
        self.pieces += 1;
        true
    }
}

/// Runs of small pieces; a large one is a run of its own, and so is an empty one.
fn runs(pieces: impl Iterator<Item = (u64, usize)>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::with_capacity(pieces.size_hint().0);
    let mut mergeable = false;
    for (address, len) in pieces {
        // What is below half of all addresses can be added to.
        let small = (1..=SMALL).contains(&len) && address < u64::MAX / 2;
        if !(small && mergeable && runs.last_mut().is_some_and(|run| run.takes(address, len))) {
            runs.push(Run { start: address, len, pieces: 1 });
        }
        mergeable = small;
    }
    runs
}

fn range(address: u64, len: usize) -> libc::iovec {
    libc::iovec { iov_base: address as *mut libc::c_void, iov_len: len }
}

/// The ranges up to the first that was cut short, and how many bytes they are.
fn up_to_cut(mut ranges: Vec<libc::iovec>, whole: impl Fn(usize) -> usize) -> (Vec<libc::iovec>, usize) {
    if let Some(cut) = (0..ranges.len()).find(|index| ranges[*index].iov_len < whole(*index)) {
        ranges.truncate(cut + 1);
    }
    let bytes = ranges.iter().map(|range| range.iov_len).sum();
    (ranges, bytes)
}

/// What a call says that it has copied; it is not made for nothing.
fn counted(want: usize, call: impl FnOnce() -> isize) -> usize {
    if want == 0 { 0 } else { usize::try_from(call()).unwrap_or(0) }
}

#[cfg(test)]
mod tests {
    use super::super::child::Child;
    use super::*;

    const PAGES: usize = 8;

    /// Pages of this process, of which some cannot be touched: start, and which.
    fn pages(bad: u64) -> u64 {
        let len = PAGES * PAGE_SIZE as usize;
        // SAFETY: fresh memory of our own, filled before pages of it are taken away.
        unsafe {
            let anywhere = std::ptr::null_mut();
            let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            let at = libc::mmap(anywhere, len, prot, flags, -1, 0).cast::<u8>();
            for index in 0..len {
                at.add(index).write((index * 31 + index / 251) as u8);
            }
            for page in (0..PAGES).filter(|page| bad >> page & 1 != 0) {
                libc::mprotect(at.add(page * PAGE_SIZE as usize).cast(), PAGE_SIZE as usize, libc::PROT_NONE);
            }
            at as u64
        }
    }

    fn unmap(at: u64) {
        // SAFETY: what `pages` mapped.
        unsafe { libc::munmap(at as *mut _, PAGES * PAGE_SIZE as usize) };
    }

    /// Lists of all kinds: small steps forwards, the same page over and over, anywhere, now and then a large piece.
    fn list(random: &mut impl FnMut(u64) -> u64, start: u64) -> Vec<(u64, usize)> {
        let len = PAGES as u64 * PAGE_SIZE;
        let (mut at, way) = (random(len), random(3));
        (0..1 + random(40))
            .map(|_| {
                let size = if random(12) == 0 { random(3 * PAGE_SIZE) } else { random(100) };
                at = match way {
                    0 => at + size + random(50),
                    1 => at / PAGE_SIZE * PAGE_SIZE + random(PAGE_SIZE),
                    _ => random(len),
                };
                let size = size.min(len.saturating_sub(at));
                (start + at.min(len), size as usize)
            })
            .collect()
    }

    /// As piece by piece, whatever is bad and however the pieces lie.
    #[test]
    fn as_one_by_one() {
        let mut state = 1u64;
        let mut random = move |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below.max(1)
        };
        let myself = Child::myself();
        let own = myself.hold().unwrap();
        for _ in 0..3000 {
            let bad = random(1 << PAGES) & random(1 << PAGES) & random(1 << PAGES);
            let start = pages(bad);
            let top = start + random(PAGES as u64 * PAGE_SIZE + 1) + random(2) * 2 * PAGES as u64 * PAGE_SIZE;
            let clip = |address: u64, len: usize| usize::try_from(top.saturating_sub(address)).unwrap().min(len);
            let list = list(&mut random, start);
            let total = list.iter().map(|(_, len)| len).sum();

            let (mut one_by_one, mut expected) = (vec![0xee; total], 0);
            for (address, len) in &list {
                let room = &mut one_by_one[expected..expected + len];
                let inside = clip(*address, *len);
                let count = super::super::memory::read(&own, *address, &mut room[..inside]);
                expected += count;
                if count < *len {
                    break;
                }
            }
            let mut at_once = vec![0xee; total];
            let mut rest = at_once.as_mut_slice();
            let mut places = Vec::new();
            for (address, len) in &list {
                let (place, more) = rest.split_at_mut(*len);
                places.push((*address, place));
                rest = more;
            }
            assert_eq!(read(&own, &mut places, clip), expected, "{list:x?}, bad {bad:b}");
            assert_eq!(at_once[..expected], one_by_one[..expected], "{list:x?}, bad {bad:b}");

            let bytes: Vec<u8> = (0..total).map(|_| random(256) as u8).collect();
            let mut copies = Vec::new();
            for gathered in [false, true] {
                let memory = pages(bad);
                let (mut from, mut done) = (bytes.as_slice(), 0);
                let clip = |address: u64, len: usize| clip(address - memory + start, len);
                let mut pieces = Vec::new();
                for (address, len) in &list {
                    let (part, more) = from.split_at(*len);
                    pieces.push((*address - start + memory, part));
                    from = more;
                }
                if gathered {
                    done = write(&own, &pieces, clip);
                } else {
                    for (address, part) in &pieces {
                        let inside = clip(*address, part.len());
                        let count = super::super::memory::write(&own, *address, &part[..inside]);
                        done += count;
                        if count < part.len() {
                            break;
                        }
                    }
                }
                let mut after = vec![0; PAGES * PAGE_SIZE as usize];
                for (page, place) in after.chunks_mut(PAGE_SIZE as usize).enumerate() {
                    super::super::memory::read(&own, memory + page as u64 * PAGE_SIZE, place);
                }
                copies.push((done, after));
                unmap(memory);
            }
            assert!(copies[0] == copies[1], "{list:x?}, bad {bad:b}");
            unmap(start);
        }
    }

    /// More than the host takes at once.
    #[test]
    fn longer_than_a_list() {
        let (start, myself) = (pages(0), Child::myself());
        let own = myself.hold().unwrap();
        let mut bytes = vec![0; 5000 * 3];
        let mut pieces: Vec<_> =
            bytes.chunks_mut(3).zip(0..).map(|(part, at)| (start + at * 7 % 32000, part)).collect();
        assert_eq!(read(&own, &mut pieces, |_, len| len), 15000);
        let given: Vec<_> = pieces.iter().map(|(address, part)| (*address, &**part)).collect();
        assert_eq!(write(&own, &given, |_, len| len), 15000);
        let expected: Vec<u8> = (0..5000)
            .flat_map(|at| (at * 7 % 32000..).take(3))
            .map(|index: usize| (index * 31 + index / 251) as u8)
            .collect();
        assert_eq!(bytes, expected);
        unmap(start);
    }
}
