//! `/proc/PID/maps`, from the host's answer to what Linux would show.

use coracle_platform::{Mapping, Special};

use super::AddressSpace;
use crate::fs::PathRef;

/// A mapping as the guest may see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapEntry {
    pub start: u64,
    pub end: u64,
    /// `PROT_*` bits.
    pub prot: u32,
    pub shared: bool,
    pub offset: u64,
    /// As the guest's `stat` gives them.
    pub dev: u64,
    pub ino: u64,
    pub name: MapName,
    /// Bytes resident, where known.
    pub resident: u64,
}

/// What stands at the end of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapName {
    None,
    Heap,
    Stack,
    /// The data and the image of the vDSO.
    Vvar,
    Vdso,
    Vsyscall,
    /// Path of a file.
    Path(Vec<u8>),
}

impl AddressSpace {
    /// All mappings in address order, with paths as seen from `root`.
    pub fn maps(&self, root: &PathRef) -> Vec<MapEntry> {
        self.shown(self.space.mappings(), root)
    }

    /// As `maps`, with what is resident of each.
    pub fn maps_resident(&self, root: &PathRef) -> Vec<MapEntry> {
        self.shown(self.space.mappings_resident(), root)
    }

    fn shown(&self, mappings: Vec<Mapping>, root: &PathRef) -> Vec<MapEntry> {
        let (stack, heap) = {
            let image = self.image.lock();
            (image.stack, (image.start_brk, image.brk))
        };
        let hidden = self.hidden.lock().clone();
        let files = self.files.lock().clone();
        let mut entries: Vec<MapEntry> = Vec::new();
        for mapping in mappings {
            for (start, end) in without(mapping.start, mapping.end, &hidden, mapping.prot == 0) {
                let mut entry = MapEntry {
                    start,
                    end,
                    prot: mapping.prot,
                    shared: mapping.shared,
                    offset: mapping.offset,
                    dev: 0,
                    ino: 0,
                    name: MapName::None,
                    resident: mapping.resident.min(end - start),
                };
                if let Some(special) = mapping.special {
                    entry.shared = false;
                    entry.name = match special {
                        Special::Vvar => MapName::Vvar,
                        Special::Vdso => MapName::Vdso,
                        Special::Vsyscall => MapName::Vsyscall,
                    };
                } else if let Some(file) = files.get(&(mapping.dev, mapping.ino)) {
                    (entry.dev, entry.ino) = (file.dev, file.ino);
                    let path = match &file.place {
                        Some(place) => place.display(root),
                        None => file.description.clone().into_bytes(),
                    };
                    entry.name = MapName::Path(path);
                    entry.offset += start - mapping.start;
                } else if start < heap.1 && heap.0 < end && heap.0 < heap.1 {
                    entry.name = MapName::Heap;
                } else if start < stack.1 && stack.0 < end {
                    entry.name = MapName::Stack;
                }
                entries.push(entry);
            }
        }
        entries
    }
}

/// What is left of a range without the hidden ones, which only hide inaccessible memory: a guest that maps
/// something there sees it.
fn without(start: u64, end: u64, hidden: &[(u64, u64)], inaccessible: bool) -> Vec<(u64, u64)> {
    let mut left = vec![(start, end)];
    if !inaccessible {
        return left;
    }
    for (from, to) in hidden {
        left = left
            .into_iter()
            .flat_map(|(start, end)| [(start, end.min(*from)), (start.max(*to), end)])
            .filter(|(start, end)| start < end)
            .collect();
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_vanish_and_split() {
        assert_eq!(without(0, 100, &[(20, 30), (90, 120)], true), vec![(0, 20), (30, 90)]);
        assert_eq!(without(0, 100, &[(20, 30)], false), vec![(0, 100)]);
        assert_eq!(without(20, 30, &[(10, 40)], true), vec![]);
    }
}
