//! `/proc/PID/maps`, from the host's answer to what Linux would show.

use std::collections::HashMap;
use std::sync::Arc;

use coracle_platform::{MapMemory, Mapping, Special};

use super::{AddressSpace, MappedFile};
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
    /// What it holds, where that was asked for.
    pub memory: MapMemory,
    /// Of files: by what the host knows it, for [`AddressSpace::mapped_file`].
    pub host: Option<(u64, u64)>,
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
    /// Path of a file. A thousand mappings of one file share it.
    Path(Arc<[u8]>),
}

impl AddressSpace {
    /// All mappings in address order, with paths as seen from `root`.
    pub fn maps(&self, root: &PathRef) -> Vec<MapEntry> {
        self.shown(self.space.mappings(), root)
    }

    /// As `maps`, with what each holds.
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
        let mut paths: HashMap<(u64, u64), Arc<[u8]>> = HashMap::new();
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
                    memory: MapMemory {
                        resident: mapping.memory.resident.min(end - start),
                        own: mapping.memory.own.min(end - start),
                        ..mapping.memory
                    },
                    host: None,
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
                    let path = paths.entry((mapping.dev, mapping.ino)).or_insert_with(|| file.shown_at(root));
                    entry.name = MapName::Path(path.clone());
                    entry.host = Some((mapping.dev, mapping.ino));
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

impl MappedFile {
    /// It has no name, or none any more.
    pub(super) fn nameless(&self) -> bool {
        self.place.as_ref().is_none_or(|place| place.dentry.nameless())
    }

    fn shown_at(&self, root: &PathRef) -> Arc<[u8]> {
        match &self.place {
            Some(place) => place.display(root).into(),
            None => self.description.clone().into_bytes().into(),
        }
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
