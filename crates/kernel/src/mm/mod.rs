//! What the kernel knows of a guest's address space beyond what the host does: the heap's bounds, where the
//! program's strings lie, and which file is behind which mapping.

mod maps;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use coracle_platform::{MapSource, Space, Usage};
use parking_lot::Mutex;

use crate::fd::OpenFile;
use crate::fs::PathRef;
use crate::fs::text::Text;

pub use maps::{MapEntry, MapName};

/// One guest address space, shared by all tasks with `CLONE_VM`.
pub struct AddressSpace {
    pub space: Arc<dyn Space>,
    pub image: Mutex<Image>,
    /// Held over a whole `brk`.
    pub brk_turn: Mutex<()>,
    /// What was mapped, by the host's device and inode numbers.
    files: Mutex<HashMap<(u64, u64), MappedFile>>,
    /// So many more may be mapped before it is looked which are mapped still.
    look_after: AtomicUsize,
    /// Open files that the platform was told to forget when they are closed.
    watched: Mutex<HashSet<u64>>,
    /// Ranges that are ours, not the guest's: gaps that make places random. Start and end.
    hidden: Mutex<Vec<(u64, u64)>>,
    /// Tasks that run in it (`mm_users`).
    users: AtomicUsize,
    /// System V segments that are attached, by address.
    pub shm: Mutex<BTreeMap<u64, crate::ipc::sysv::shm::Attachment>>,
}

/// How a mapped file shows in `/proc/PID/maps`.
#[derive(Clone)]
struct MappedFile {
    place: Option<PathRef>,
    description: String,
    dev: u64,
    ino: u64,
    /// Held by who has noted it and not mapped it yet.
    noted: Arc<()>,
    /// How often it was noted.
    times: u64,
}

/// A file is about to be mapped: it is not taken for one that is mapped no more.
pub struct Noted(#[allow(dead_code)] Arc<()>);

/// Files that are mapped between two looks at which still are, at least: those without a name take room until then.
const PERIOD: usize = 8;
/// Entries of files with a name that are kept without a look.
const MAPPED: usize = 256;

/// What `execve` left: `/proc/PID/{exe,cmdline,environ,auxv,stat}`.
#[derive(Clone, Default)]
pub struct Image {
    /// Path of the program as the guest names it.
    pub exe: Vec<u8>,
    /// The opened program, for `/proc/PID/exe`.
    pub exe_file: Option<Arc<OpenFile>>,
    /// Keeps others from writing to it.
    pub text: Option<Arc<Text>>,
    /// Addresses of the argument strings: start, end.
    pub args: (u64, u64),
    /// Addresses of the environment strings: start, end.
    pub env: (u64, u64),
    /// The auxiliary vector as it was put on the stack.
    pub auxv: Vec<(u64, u64)>,
    pub code: (u64, u64),
    pub data: (u64, u64),
    /// The stack's mapping: start, end.
    pub stack: (u64, u64),
    /// Initial stack pointer.
    pub start_stack: u64,
    pub start_brk: u64,
    pub brk: u64,
    /// `PR_SET_DUMPABLE`.
    pub dumpable: u32,
    /// What goes into a core: bits of `/proc/PID/coredump_filter`.
    pub dump_filter: u32,
    /// `PR_SET_THP_DISABLE`; recorded only.
    pub no_huge_pages: bool,
}

impl Image {
    /// The part of the stack's mapping that has been grown into is not known; the first 132 KiB are, as a fresh
    /// program has them.
    pub fn stack_size(&self) -> u64 {
        self.stack.1.saturating_sub(self.stack.0).min(132 << 10)
    }
}

/// `MMF_DUMP_FILTER_DEFAULT`: anonymous memory, ELF headers, huge pages that are private.
pub const DUMP_FILTER: u32 = 0x33;

/// A task in an address space. Whoever looks at the space meanwhile holds it, but does not count.
pub(crate) struct User {
    pub mm: Arc<AddressSpace>,
    gone: AtomicBool,
}

impl User {
    pub fn of(mm: Arc<AddressSpace>) -> User {
        mm.users.fetch_add(1, Ordering::SeqCst);
        User { mm, gone: AtomicBool::new(false) }
    }

    /// The task runs there no more; what is left of it may still be asked about the space.
    pub fn leave(&self) {
        if !self.gone.swap(true, Ordering::SeqCst) && self.mm.users.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.mm.let_go();
        }
    }
}

impl Drop for User {
    fn drop(&mut self) {
        self.leave();
    }
}

impl AddressSpace {
    /// Nothing is known of it yet.
    pub fn new(space: Arc<dyn Space>) -> Arc<AddressSpace> {
        Arc::new(AddressSpace {
            space,
            image: Mutex::new(Image { dumpable: 1, dump_filter: DUMP_FILTER, ..Image::default() }),
            brk_turn: Mutex::default(),
            files: Mutex::default(),
            look_after: AtomicUsize::new(PERIOD),
            watched: Mutex::default(),
            hidden: Mutex::default(),
            users: AtomicUsize::new(0),
            shm: Mutex::default(),
        })
    }

    /// The copy that `fork` makes.
    pub(crate) fn forked(&self, space: Arc<dyn Space>) -> Arc<AddressSpace> {
        let mut files = self.files.lock().clone();
        // Nobody is about to map them there.
        files.values_mut().for_each(|file| file.noted = Arc::default());
        Arc::new(AddressSpace {
            space,
            image: Mutex::new(self.image.lock().clone()),
            brk_turn: Mutex::default(),
            files: Mutex::new(files),
            look_after: AtomicUsize::new(self.look_after.load(Ordering::Relaxed)),
            watched: Mutex::default(),
            hidden: Mutex::new(self.hidden.lock().clone()),
            users: AtomicUsize::new(0),
            shm: Mutex::new(self.shm.lock().clone()),
        })
    }

    /// Only one task runs in it.
    pub(crate) fn has_one_user(&self) -> bool {
        self.users.load(Ordering::SeqCst) == 1
    }

    /// Its last user has gone: segments are detached, the program's file may be written again (`mmput()`).
    fn let_go(&self) {
        let segments = std::mem::take(&mut *self.shm.lock());
        let text = self.image.lock().text.take();
        drop((segments, text));
    }

    /// `source` is about to be mapped on behalf of `file`: remembers what it shows as. To be held until it is mapped.
    pub(crate) fn note_file(&self, source: &MapSource, file: &OpenFile) -> Option<Noted> {
        let host = rustix::fs::fstat(&*source.file).ok()?;
        let id = (host.st_dev, host.st_ino);
        if let Some(known) = self.files.lock().get_mut(&id) {
            known.times += 1;
            return Some(Noted(known.noted.clone()));
        }
        let guest = file.file.stat().unwrap_or_default();
        let place = file.path.clone();
        let description = if place.is_some() { String::new() } else { file.file.description() };
        let noted = Arc::new(());
        let (dev, ino) = (guest.st_dev, guest.st_ino);
        let shown = MappedFile { place, description, dev, ino, noted: noted.clone(), times: 1 };
        let old = self.files.lock().insert(id, shown);
        drop(old);
        let left = |count: usize| count.checked_sub(1).filter(|left| *left > 0);
        if self.look_after.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left).is_err() {
            self.forget_unmapped();
            // In proportion to what a look costs.
            let next = PERIOD.max(self.files.lock().len() / 2);
            self.look_after.store(next, Ordering::Relaxed);
        }
        Some(Noted(noted))
    }

    /// Lets go of files that are mapped no more. Nobody says when a mapping goes: the guest's thread does that alone.
    pub(crate) fn forget_unmapped(&self) {
        let anything =
            |files: &HashMap<_, MappedFile>| files.len() > MAPPED || files.values().any(MappedFile::nameless);
        // 1. Those that nobody is about to map. 2. The mappings. 3. Of those, what nobody has noted since and is not mapped.
        let known: HashMap<(u64, u64), u64> = {
            let files = self.files.lock();
            if !anything(&files) {
                return;
            }
            let idle = files.iter().filter(|(_, file)| Arc::strong_count(&file.noted) == 1);
            idle.map(|(id, file)| (*id, file.times)).collect()
        };
        let Some(mapped) = self.mapped_now() else { return };
        if known.keys().all(|id| mapped.contains(id)) {
            return;
        }
        // The host reads them a part at a time: a mapping that moves meanwhile can be missed once.
        let Some(again) = self.mapped_now() else { return };
        let forgotten: Vec<MappedFile> = {
            let gone = |id: &(u64, u64), file: &mut MappedFile| {
                !mapped.contains(id) && !again.contains(id) && known.get(id) == Some(&file.times)
            };
            self.files.lock().extract_if(gone).map(|(_, file)| file).collect()
        };
        // Each may be the last hold on a file.
        drop(forgotten);
    }

    /// The files that are mapped; `None` if nothing can be said, of a space that is ending.
    fn mapped_now(&self) -> Option<HashSet<(u64, u64)>> {
        let mappings = self.space.mappings();
        (!mappings.is_empty()).then(|| mappings.iter().map(|mapping| (mapping.dev, mapping.ino)).collect())
    }

    /// Some file that the host knows by one of these was mapped here.
    pub(crate) fn has_mapped(&self, ids: &[(u64, u64)]) -> bool {
        let files = self.files.lock();
        ids.iter().any(|id| files.contains_key(id))
    }

    /// Mode and number of links of the file that the host knows by `id`; one without a place in a file system has
    /// no links.
    pub(crate) fn mapped_file(&self, id: (u64, u64)) -> Option<(u32, u64)> {
        let file = self.files.lock().get(&id)?.clone();
        let stat = file.place.and_then(|place| place.inode().stat().ok());
        Some(stat.map_or((0, 0), |stat| (stat.st_mode, stat.st_nlink)))
    }

    /// Where the file is that the host knows by `id`, if it is in a file system.
    pub(crate) fn mapped_place(&self, id: (u64, u64)) -> Option<PathRef> {
        self.files.lock().get(&id)?.place.clone()
    }

    /// By what the host knows the files that were mapped.
    pub(crate) fn mapped_files(&self) -> Vec<(u64, u64)> {
        self.files.lock().keys().copied().collect()
    }

    /// Tells the platform when `file` is closed for good, once.
    pub(crate) fn watch_close(self: &Arc<Self>, file: &OpenFile) {
        if self.watched.lock().insert(file.key) {
            let this: Weak<AddressSpace> = Arc::downgrade(self);
            file.at_drop(move |key| {
                if let Some(mm) = this.upgrade() {
                    mm.watched.lock().remove(&key);
                    mm.space.forget_file(key);
                }
            });
        }
    }

    /// Bytes of address space that are the guest's. The whole of a stack is mapped, and counts for what is used of it.
    pub fn virtual_size(&self, used: &Usage) -> u64 {
        let hidden: u64 = self.hidden.lock().iter().map(|(start, end)| end - start).sum();
        let image = self.image.lock();
        let (start, end) = image.stack;
        let unused = end.saturating_sub(start).saturating_sub(image.stack_size());
        used.virtual_size.saturating_sub(hidden).saturating_sub(unused)
    }

    /// The range is not the guest's and does not show.
    pub(crate) fn hide(&self, start: u64, end: u64) {
        if start < end {
            self.hidden.lock().push((start, end));
        }
    }
}
