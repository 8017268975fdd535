//! File systems whose contents are made up when somebody looks: `/proc` and `/sys`.
//!
//! Their directories are tables of [`Entry`]s. A [`Node`] is an entry applied to an [`About`]: the same table
//! of `/proc/PID` serves every process.

mod text;

use std::any::Any;
use std::sync::{Arc, Weak};

pub use text::TextFile;

use super::{
    Access, DirFile, FileSystem, Inode, Listed, Opening, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, SetAttr, Target, Who,
    dirent_kind,
};
use crate::abi::types::{Stat, Statfs, Timespec};
use crate::fd::File;
use crate::task::{Process, Task};
use crate::world::World;
use crate::{Errno, Result};

/// What a node tells of.
#[derive(Clone)]
pub struct About {
    pub world: Arc<World>,
    pub process: Option<Arc<Process>>,
    /// Below `/proc/PID/task/TID` only.
    pub task: Option<Arc<Task>>,
    /// Number of a descriptor or a CPU.
    pub number: usize,
    /// Instead of the entry's permission bits.
    pub mode: Option<u32>,
}

impl About {
    /// About the sandbox as a whole.
    pub fn world(world: Arc<World>) -> About {
        About { world, process: None, task: None, number: 0, mode: None }
    }

    /// About a process.
    pub fn process(process: &Arc<Process>) -> About {
        About { process: Some(process.clone()), ..About::world(process.world.clone()) }
    }

    /// The process, or `ESRCH` where there is none or it has been waited for.
    pub fn live(&self) -> Result<&Arc<Process>> {
        self.process.as_ref().filter(|process| !process.is_reaped()).ok_or(Errno::ESRCH)
    }

    /// The thread itself, or the first one of the process; `ESRCH` if it is gone.
    pub fn thread(&self) -> Result<Arc<Task>> {
        let process = self.live()?;
        match &self.task {
            Some(task) if self.world.task(task.tid()).is_some_and(|live| Arc::ptr_eq(&live, task)) => {
                Ok(task.clone())
            }
            Some(_) => Err(Errno::ESRCH),
            None => process.any_task().ok_or(Errno::ESRCH),
        }
    }
}

/// As an [`About`], without the world: what nodes keep, which are themselves kept by the world's mounts.
#[derive(Clone)]
struct Seed {
    process: Option<Arc<Process>>,
    task: Option<Arc<Task>>,
    number: usize,
    mode: Option<u32>,
}

impl From<About> for Seed {
    fn from(about: About) -> Seed {
        Seed { process: about.process, task: about.task, number: about.number, mode: about.mode }
    }
}

/// Makes the text of a file. `Who` is the reader.
pub type Show = fn(&About, Who<'_>) -> Result<Vec<u8>>;
/// Takes what is written to a file by one call. `Who` is the writer.
pub type Store = fn(&About, Who<'_>, &[u8]) -> Result<()>;

/// Where a link leads.
pub type Follow = fn(&About, Who<'_>) -> Result<Target>;

/// One name in a directory.
pub struct Entry {
    pub name: &'static str,
    /// Permission bits.
    pub mode: u32,
    pub what: What,
}

/// Opens a node in a way of its own.
pub type OpenIt = fn(Arc<Node>, &Opening<'_>) -> Result<Arc<dyn File>>;

/// What is behind a name.
pub enum What {
    Text(Show),
    /// As `Text`; may be polled for changes.
    Polled(Show),
    /// May be written to.
    Control(Show, Store),
    /// Opened in a way of its own.
    Special(OpenIt),
    Dir(&'static [&'static [Entry]]),
    /// As `Dir`, and names that come and go.
    Varying(&'static [&'static [Entry]], Names),
    /// A symbolic link: its text, and where it leads.
    Link(Follow),
    /// A symbolic link to a place: what `readlink` shows and where it leads.
    Magic(Show, Follow),
}

/// Names that come and go.
#[derive(Clone, Copy)]
pub struct Names {
    pub list: fn(&About) -> Result<Vec<String>>,
    pub find: fn(&About, &str) -> Result<(About, &'static Entry)>,
    /// The kind of all of them, for listings: `S_IFDIR`, `S_IFREG` or `S_IFLNK`.
    pub kind: u32,
}

impl Entry {
    /// A readable file.
    pub const fn text(name: &'static str, mode: u32, show: Show) -> Entry {
        Entry { name, mode, what: What::Text(show) }
    }

    /// A file that may be written to.
    pub const fn control(name: &'static str, mode: u32, show: Show, store: Store) -> Entry {
        Entry { name, mode, what: What::Control(show, store) }
    }

    /// A directory.
    pub const fn dir(name: &'static str, entries: &'static [&'static [Entry]]) -> Entry {
        Entry { name, mode: 0o555, what: What::Dir(entries) }
    }

    fn kind(&self) -> u32 {
        match self.what {
            What::Text(_) | What::Polled(_) | What::Control(..) | What::Special(_) => S_IFREG,
            What::Dir(_) | What::Varying(..) => S_IFDIR,
            What::Link(_) | What::Magic(..) => S_IFLNK,
        }
    }

    fn tables(&self) -> &'static [&'static [Entry]] {
        match self.what {
            What::Dir(tables) | What::Varying(tables, _) => tables,
            _ => &[],
        }
    }
}

/// Rules that differ between the file systems.
pub struct Rules {
    pub kind: &'static str,
    pub magic: i64,
    pub dev: u64,
    pub volatile: bool,
    /// Owner and group of what tells of this.
    pub owner: fn(&About) -> (u32, u32),
    /// Access beyond the permission bits: `None` leaves it to them.
    pub permission: fn(&Node, Who<'_>, Access) -> Option<Result<()>>,
    pub block_size: i64,
}

/// One mounted `/proc` or `/sys`.
pub struct SynthFs {
    world: Weak<World>,
    rules: &'static Rules,
    stamp: Timespec,
}

impl SynthFs {
    /// Tells of `world`.
    fn new(world: &Arc<World>, rules: &'static Rules) -> Arc<SynthFs> {
        Arc::new(SynthFs { world: Arc::downgrade(world), rules, stamp: super::now() })
    }
}

/// [`FileSystem`] is implemented for the shared pointer, so that nodes can hold their file system.
pub struct Mounted {
    fs: Arc<SynthFs>,
    root: Arc<dyn Inode>,
}

impl Mounted {
    /// Ready to be mounted.
    pub fn new(world: &Arc<World>, rules: &'static Rules, top: &'static Entry) -> Arc<Mounted> {
        let fs = SynthFs::new(world, rules);
        let seed = About::world(world.clone()).into();
        let root = Arc::new(Node { fs: fs.clone(), seed, entry: top, ino: 1 });
        Arc::new(Mounted { fs, root })
    }
}

impl FileSystem for Mounted {
    fn root(&self) -> Arc<dyn Inode> {
        self.root.clone()
    }

    fn kind(&self) -> &'static str {
        self.fs.rules.kind
    }

    fn source(&self) -> String {
        self.fs.rules.kind.to_owned()
    }

    fn dev(&self) -> u64 {
        self.fs.rules.dev
    }

    fn statfs(&self) -> Result<Statfs> {
        let size = self.fs.rules.block_size;
        let magic = self.fs.rules.magic;
        Ok(Statfs { f_type: magic, f_bsize: size, f_namelen: 255, f_frsize: size, ..Statfs::default() })
    }

    fn volatile(&self) -> bool {
        self.fs.rules.volatile
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// An entry applied to what it tells of.
pub struct Node {
    fs: Arc<SynthFs>,
    seed: Seed,
    pub entry: &'static Entry,
    ino: u64,
}

impl Node {
    /// What it tells of; `ENOENT` at the end of the world.
    pub fn about(&self) -> Result<About> {
        let Seed { process, task, number, mode } = self.seed.clone();
        Ok(About { world: self.fs.world.upgrade().ok_or(Errno::ENOENT)?, process, task, number, mode })
    }

    fn child(&self, name: &str, about: About, entry: &'static Entry) -> Arc<dyn Inode> {
        Arc::new(Node { fs: self.fs.clone(), seed: about.into(), entry, ino: child_ino(self.ino, name) })
    }

    fn mode(&self) -> u32 {
        self.entry.kind() | self.seed.mode.unwrap_or(self.entry.mode)
    }

    fn fixed(&self) -> impl Iterator<Item = &'static Entry> {
        self.entry.tables().iter().flat_map(|table| table.iter())
    }

    /// Its text now.
    pub fn show(&self, who: Who<'_>) -> Result<Vec<u8>> {
        match self.entry.what {
            What::Text(show) | What::Polled(show) | What::Control(show, _) => show(&self.about()?, who),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Takes what was written; `EIO` for files that take nothing (fs/proc/inode.c).
    pub fn store(&self, who: Who<'_>, text: &[u8]) -> Result<()> {
        match self.entry.what {
            What::Control(_, store) => store(&self.about()?, who, text),
            _ => Err(Errno::EIO),
        }
    }
}

/// Inode numbers are made from the path, so that they are the same at every look (FNV-1a).
fn child_ino(parent: u64, name: &str) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ parent;
    for byte in name.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    // Small enough for programs that keep it in 32 bits, and never one of the first few.
    ((hash ^ (hash >> 32)) & 0x7fff_ffff) | 0x4000_0000
}

impl Inode for Node {
    fn stat(&self) -> Result<Stat> {
        let (uid, gid) = (self.fs.rules.owner)(&self.about()?);
        let stamp = self.fs.stamp;
        let size = match self.entry.what {
            // The number of descriptors, since Linux 6.2 (proc_readfd_count, fs/proc/fd.c).
            What::Varying(_, names) if self.entry.name == "fd" => {
                (names.list)(&self.about()?).map_or(0, |list| list.len() as i64)
            }
            What::Link(_) | What::Magic(..) if self.seed.mode.is_some() => 64,
            _ => 0,
        };
        let folders = self.fixed().filter(|entry| entry.kind() == S_IFDIR).count() as u64;
        Ok(Stat {
            st_dev: self.fs.rules.dev,
            st_ino: self.ino,
            st_nlink: if self.is_dir() { 2 + folders } else { 1 },
            st_mode: self.mode(),
            st_uid: uid,
            st_gid: gid,
            st_size: size,
            st_blksize: if self.fs.rules.block_size == 4096 { 4096 } else { 1024 },
            st_atime: stamp.tv_sec,
            st_atime_nsec: stamp.tv_nsec,
            st_mtime: stamp.tv_sec,
            st_mtime_nsec: stamp.tv_nsec,
            st_ctime: stamp.tv_sec,
            st_ctime_nsec: stamp.tv_nsec,
            ..Stat::default()
        })
    }

    fn kind(&self) -> u32 {
        self.entry.kind()
    }

    fn access_info(&self) -> Result<(u32, u32, u32)> {
        let (uid, gid) = (self.fs.rules.owner)(&self.about()?);
        Ok((self.mode(), uid, gid))
    }

    fn id(&self) -> Result<(u64, u64)> {
        Ok((self.fs.rules.dev, self.ino))
    }

    fn permission(&self, who: Who<'_>, access: Access) -> Result<()> {
        if let Some(answer) = (self.fs.rules.permission)(self, who, access) {
            return answer;
        }
        let (mode, uid, gid) = self.access_info()?;
        super::perm::generic(who.cred, mode, uid, gid, access)
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        if !self.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        let name = std::str::from_utf8(name).map_err(|_| Errno::ENOENT)?;
        let about = self.about()?;
        if about.process.is_some() {
            about.live().map_err(|_| Errno::ENOENT)?;
        }
        if let Some(entry) = self.fixed().find(|entry| entry.name == name) {
            let about = About { mode: None, ..about };
            return Ok(self.child(name, about, entry));
        }
        match self.entry.what {
            What::Varying(_, names) => {
                let (about, entry) = (names.find)(&about, name)?;
                Ok(self.child(name, about, entry))
            }
            _ => Err(Errno::ENOENT),
        }
    }

    fn list(&self) -> Result<Vec<Listed>> {
        if !self.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        let listed = |name: &str, kind| Listed {
            name: name.as_bytes().into(),
            ino: child_ino(self.ino, name),
            kind: dirent_kind(kind & S_IFMT),
        };
        let mut all: Vec<Listed> = self.fixed().map(|entry| listed(entry.name, entry.kind())).collect();
        if let What::Varying(_, names) = self.entry.what {
            all.extend((names.list)(&self.about()?)?.iter().map(|name| listed(name, names.kind)));
        }
        Ok(all)
    }

    fn open(self: Arc<Self>, how: &Opening<'_>) -> Result<Arc<dyn File>> {
        match self.entry.what {
            What::Dir(_) | What::Varying(..) => DirFile::open(self, how),
            What::Special(open) => open(self, how),
            What::Text(_) | What::Control(..) => Ok(TextFile::open(self, how, false)),
            What::Polled(_) => Ok(TextFile::open(self, how, true)),
            What::Link(_) | What::Magic(..) => Err(Errno::ELOOP),
        }
    }

    fn readlink(&self, who: Who<'_>) -> Result<Vec<u8>> {
        match self.entry.what {
            What::Link(follow) => match follow(&self.about()?, who)? {
                Target::Text(text) => Ok(text),
                Target::Place(_) => Err(Errno::EINVAL),
            },
            What::Magic(show, _) => show(&self.about()?, who),
            _ => Err(Errno::EINVAL),
        }
    }

    fn follow(&self, who: Who<'_>) -> Result<Target> {
        match self.entry.what {
            What::Link(follow) | What::Magic(_, follow) => follow(&self.about()?, who),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Truncation on open and new times are taken and forgotten; the rest is refused (`proc_setattr()`).
    fn set_attr(&self, attr: &SetAttr) -> Result<()> {
        if attr.mode.is_some() || attr.uid.is_some() || attr.gid.is_some() { Err(Errno::EPERM) } else { Ok(()) }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
