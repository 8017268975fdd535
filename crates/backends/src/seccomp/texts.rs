//! Rewritten text that all workers of a sandbox share.
//!
//! Rewriting in each process pays for long ones only. So the kernel remembers at which places of a file calls have
//! trapped, whoever made them. When the file is mapped for execution again, what is mapped is a sealed copy of that
//! text in which these places are rewritten already, private as the file would be; its trampolines follow in the
//! same copy and go to a fixed distance below. The pages are shared until somebody writes to them.
//!
//! Processes of a sandbox need not trust each other, and one can make a call trap anywhere in its own memory. What
//! is rewritten is therefore decided by the file's own bytes: a place counts only if an instruction certainly
//! begins there. A file is known by device, inode, size and times; files in memory, whose times say little, are
//! left alone.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use coracle_platform::{MapSource, Mapping, MemoryCall};
use parking_lot::Mutex;
use rustix::fs::{MemfdFlags, SealFlags};

use super::plan::{self, AREA, Area, BEFORE, FROM, Site};

/// Files whose places are remembered, those that were looked for last, and bytes of copies, at most.
const FILES: usize = 64;
const BYTES: u64 = 32 << 20;
/// Longer text is not copied.
const LONGEST: u64 = 4 << 20;
/// A copy is made for so many places, and made again when so many have come to half of what it has.
const WORTH: usize = 4;
/// Between the first byte of a file's mapping and the trampolines below: room for what is mapped there meanwhile.
const MARGIN: u64 = 1 << 20;
/// Bytes before a place that show whether an instruction begins there.
const STEPS: usize = 256;
/// Keys of descriptors of our own; the kernel counts its from zero.
const OWN_KEYS: u64 = 1 << 63;

const PAGE: u64 = 4096;

/// What identifies the contents of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileKey {
    dev: u64,
    ino: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileKey {
    /// `None` for files whose contents can change without their times.
    fn of(file: &OwnedFd) -> Option<FileKey> {
        const TMPFS_MAGIC: i64 = 0x0102_1994;
        if rustix::fs::fstatfs(file).ok()?.f_type == TMPFS_MAGIC {
            return None;
        }
        let stat = rustix::fs::fstat(file).ok()?;
        Some(FileKey {
            dev: stat.st_dev,
            ino: stat.st_ino,
            size: u64::try_from(stat.st_size).ok()?,
            modified: (stat.st_mtime, stat.st_mtime_nsec as i64),
            changed: (stat.st_ctime, stat.st_ctime_nsec as i64),
        })
    }
}

/// A place in a file where calls trap.
struct Place {
    number: u64,
    /// What stood there in memory: text that was relocated differs from the file.
    bytes: [u8; FROM],
}

#[derive(Default)]
struct Known {
    /// By offset in the file.
    places: BTreeMap<u64, Place>,
    image: Option<Arc<Image>>,
    /// Places there were when a copy was last tried.
    tried: usize,
    /// When it was last looked for.
    used: u64,
}

#[derive(Default)]
struct State {
    files: HashMap<FileKey, Known>,
    /// Of all copies that somebody has.
    bytes: Arc<AtomicU64>,
    images: u64,
    turn: u64,
}

impl State {
    /// What is known of the file, which counts as used now.
    fn find(&mut self, key: &FileKey) -> Option<&mut Known> {
        self.turn += 1;
        let turn = self.turn;
        let known = self.files.get_mut(key)?;
        known.used = turn;
        Some(known)
    }

    /// As `find`; one that is not known takes the place of the one that was not used for longest.
    fn find_or_add(&mut self, key: FileKey) -> &mut Known {
        self.turn += 1;
        if self.files.len() >= FILES && !self.files.contains_key(&key) {
            let oldest = self.files.iter().min_by_key(|(_, known)| known.used).map(|(key, _)| *key);
            oldest.and_then(|oldest| self.files.remove(&oldest));
        }
        let known = self.files.entry(key).or_default();
        known.used = self.turn;
        known
    }
}

/// What a sandbox knows of the text of files.
pub struct Texts {
    /// Address of the fast path.
    entry: u64,
    state: Mutex<State>,
}

/// A sealed copy of text, and behind it its trampolines. All places are relative to the start of the text.
struct Image {
    source: MapSource,
    ino: u64,
    offset: u64,
    len: u64,
    sites: HashMap<u64, Site>,
    /// By trampoline, relative to the area.
    trampolines: HashMap<u64, u64>,
    /// What it counts towards.
    bytes: Arc<AtomicU64>,
}

impl Drop for Image {
    fn drop(&mut self) {
        self.bytes.fetch_sub(self.len, Ordering::Relaxed);
    }
}

/// An executable mapping of a file in one address space.
#[derive(Clone)]
pub struct Text {
    start: u64,
    len: u64,
    offset: u64,
    key: FileKey,
    image: Option<Arc<Image>>,
}

impl Texts {
    pub fn new(entry: u64) -> Texts {
        Texts { entry, state: Mutex::default() }
    }

    /// What a call maps, if it is text that can be known, and in its rewritten form if there is one.
    pub fn find(&self, call: &MemoryCall) -> Option<Text> {
        const KIND: u32 = (libc::MAP_PRIVATE | libc::MAP_FIXED) as u32;
        let MemoryCall::MapFile { address, len, prot, flags, ref file, offset } = *call else { return None };
        let executable = prot & (libc::PROT_EXEC | libc::PROT_WRITE) as u32 == libc::PROT_EXEC as u32;
        if !executable || flags & KIND != KIND {
            return None;
        }
        let key = FileKey::of(&file.file)?;
        let len = len.next_multiple_of(PAGE);
        let image = self.image(key, &file.file, offset, len).filter(|image| image.area(address) >= PAGE * 16);
        Some(Text { start: address, len, offset, key, image })
    }

    fn image(&self, key: FileKey, file: &OwnedFd, offset: u64, len: u64) -> Option<Arc<Image>> {
        let mut state = self.state.lock();
        let own_key = OWN_KEYS | (state.images + 1);
        let bytes = state.bytes.clone();
        let room = len <= LONGEST && bytes.load(Ordering::Relaxed).saturating_add(len) <= BYTES;
        let known = state.find(&key)?;
        let count = known.places.len();
        if count >= WORTH.max(known.tried + known.tried / 2 + WORTH) && room {
            known.tried = count;
            let image = Image::make(key, file, (offset, len), &known.places, self.entry, (own_key, bytes));
            known.image = image.map(Arc::new).or(known.image.take());
            state.images += 1;
        }
        let known = state.files.get(&key)?;
        known.image.clone().filter(|image| (image.offset, image.len) == (offset, len))
    }

    /// Whether this place need not be told.
    pub fn knows(&self, key: &FileKey, offset: u64) -> bool {
        self.state.lock().files.get(key).is_some_and(|known| known.places.contains_key(&offset))
    }

    /// A call has trapped here.
    pub fn learn(&self, key: FileKey, offset: u64, number: u64, bytes: [u8; FROM]) {
        const MOST: usize = 1000;
        let mut state = self.state.lock();
        let known = state.find_or_add(key);
        if known.places.len() < MOST {
            known.places.entry(offset).or_insert(Place { number, bytes });
        }
    }
}

impl Image {
    fn make(
        key: FileKey,
        file: &OwnedFd,
        (offset, len): (u64, u64),
        places: &BTreeMap<u64, Place>,
        entry: u64,
        (own_key, bytes): (u64, Arc<AtomicU64>),
    ) -> Option<Image> {
        if offset.checked_add(len)? > key.size.next_multiple_of(PAGE) {
            return None;
        }
        let original = read(file, offset, usize::try_from(len).ok()?)?;
        // Changed meanwhile?
        if FileKey::of(file)? != key {
            return None;
        }
        let mut text = original.clone();
        let mut trampolines = vec![0; AREA as usize];
        trampolines.get_mut(..8)?.copy_from_slice(&entry.to_le_bytes());
        // As if the text lay at some address: only distances count.
        let start = 1 << 40;
        let area_start = start - distance(offset);
        let mut area = Area::new(area_start);
        let (mut sites, mut back) = (HashMap::new(), HashMap::new());
        for (at, place) in places {
            let Some(at) = at.checked_sub(offset).filter(|at| *at < len) else { continue };
            let Some((site, jump, code)) = rewrite(&original, start, at, place, &mut area) else { continue };
            let behind = jump..jump + 5;
            let room = usize::try_from(site.trampoline - area_start).ok()?;
            // Not over another one.
            if text.get(behind.clone())? != original.get(behind.clone())? {
                continue;
            }
            text.get_mut(behind)?.copy_from_slice(&jump_code(start + jump as u64, site.trampoline));
            trampolines.get_mut(room..room + code.len())?.copy_from_slice(&code);
            let trampoline = site.trampoline - area_start;
            sites.insert(at, Site { trampoline, ..site });
            back.insert(trampoline, at);
        }
        if sites.is_empty() {
            return None;
        }
        let memory = sealed(&[&text, &trampolines]).ok()?;
        let ino = rustix::fs::fstat(&memory).ok()?.st_ino;
        let source = MapSource { file: Arc::new(memory), key: own_key };
        bytes.fetch_add(len, Ordering::Relaxed);
        Some(Image { source, ino, offset, len, sites, trampolines: back, bytes })
    }

    /// Where the trampolines of a text at `start` lie.
    fn area(&self, start: u64) -> u64 {
        start.saturating_sub(distance(self.offset))
    }
}

/// From the trampolines up to the text: the file's mapping begins `offset` before the text, as linkers lay it out.
fn distance(offset: u64) -> u64 {
    offset + MARGIN + AREA
}

/// The place rewritten: trampoline (by address), offset of the jump in the text, code of the trampoline.
fn rewrite(text: &[u8], start: u64, at: u64, place: &Place, area: &mut Area) -> Option<(Site, usize, Vec<u8>)> {
    let index = usize::try_from(at).ok()?;
    let (before, from) = text.split_at_checked(index)?;
    let from = from.get(..FROM)?;
    let site = start + at;
    if from != place.bytes || !plan::begins_instruction(tail(before, STEPS), site) {
        return None;
    }
    let plan = plan::plan(tail(before, BEFORE), from, site, place.number)?;
    let length = plan.before.len() as u64;
    let jump = site - length;
    let trampoline = area.take(jump, length == 0)?;
    let code = plan::trampoline_code(trampoline, area.start, site, &plan);
    Some((Site { trampoline, before: length }, usize::try_from(jump - start).ok()?, code))
}

fn jump_code(from: u64, to: u64) -> [u8; 5] {
    let [r0, r1, r2, r3] = plan::displacement(from, to);
    [0xe9, r0, r1, r2, r3]
}

fn tail(bytes: &[u8], len: usize) -> &[u8] {
    bytes.get(bytes.len().saturating_sub(len)..).unwrap_or_default()
}

fn read(file: &OwnedFd, offset: u64, len: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; len];
    let mut done = 0;
    while done < len {
        match rustix::io::pread(file, bytes.get_mut(done..)?, offset + done as u64) {
            // The rest of the last page.
            Ok(0) => break,
            Ok(count) => done += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
    }
    Some(bytes)
}

/// Memory with these contents that nobody can change any more.
fn sealed(parts: &[&[u8]]) -> std::io::Result<OwnedFd> {
    let memory = rustix::fs::memfd_create("coracle-text", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut at = 0;
    rustix::fs::ftruncate(&memory, parts.iter().map(|part| part.len() as u64).sum())?;
    for page in parts.iter().flat_map(|part| part.chunks(PAGE as usize)) {
        // Pages of trampolines that are not used take no memory.
        if page.iter().any(|byte| *byte != 0) && rustix::io::pwrite(memory.as_fd(), page, at)? != page.len() {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        at += page.len() as u64;
    }
    rustix::fs::fcntl_add_seals(
        &memory,
        SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
    )?;
    Ok(memory)
}

impl Text {
    pub fn is_shared(&self) -> bool {
        self.image.is_some()
    }

    /// As the file itself is mapped, for want of a place for the trampolines.
    pub fn plain(self) -> Text {
        Text { image: None, ..self }
    }

    /// Where its trampolines are.
    pub fn area(&self) -> Option<u64> {
        self.image.as_ref().map(|image| image.area(self.start))
    }

    /// The calls that map trampolines and text instead of `call`.
    pub fn calls(&self, call: &MemoryCall) -> Option<[MemoryCall; 2]> {
        let image = self.image.as_ref()?;
        let MemoryCall::MapFile { prot, flags, .. } = *call else { return None };
        let source = || MapSource { file: image.source.file.clone(), key: image.source.key };
        let kept = (libc::MAP_PRIVATE | libc::MAP_FIXED_NOREPLACE) as u32;
        let executable = (libc::PROT_READ | libc::PROT_EXEC) as u32;
        Some([
            MemoryCall::MapFile {
                address: image.area(self.start),
                len: AREA,
                prot: executable,
                flags: kept,
                file: source(),
                offset: image.len,
            },
            MemoryCall::MapFile { address: self.start, len: self.len, prot, flags, file: source(), offset: 0 },
        ])
    }

    pub fn contains(&self, address: u64) -> bool {
        address.wrapping_sub(self.start) < self.len
    }

    pub fn overlaps(&self, start: u64, len: u64) -> bool {
        start < self.start.saturating_add(self.len) && self.start < start.saturating_add(len)
    }

    /// The place in the file that `address` shows.
    pub fn in_file(&self, address: u64) -> (FileKey, u64) {
        (self.key, address.wrapping_sub(self.start).wrapping_add(self.offset))
    }

    /// The rewritten site at `address`.
    pub fn site(&self, address: u64) -> Option<Site> {
        let image = self.image.as_ref().filter(|_| self.contains(address))?;
        let site = image.sites.get(&(address - self.start))?;
        Some(Site { trampoline: site.trampoline + image.area(self.start), ..*site })
    }

    /// The site, and as what it was rewritten, whose trampoline `rip` lies in.
    pub fn site_of_trampoline(&self, rip: u64) -> Option<(u64, Site)> {
        let image = self.image.as_ref()?;
        let at = rip.checked_sub(image.area(self.start)).filter(|at| *at < AREA)?;
        let site = self.start + image.trampolines.get(&(at - at % plan::SLOT))?;
        Some((site, self.site(site)?))
    }

    /// What `/proc/PID/maps` says of it.
    pub fn show(&self, mapping: &mut Mapping) {
        if let Some(image) = self.image.as_ref().filter(|image| image.ino == mapping.ino) {
            (mapping.dev, mapping.ino) = (self.key.dev, self.key.ino);
            mapping.offset += image.offset;
        }
    }
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Image({} sites, {})", self.sites.len(), self.source.file.as_raw_fd())
    }
}
