//! `/proc/PID/map_files`: a link for each mapping of a file (proc_map_files_operations in fs/proc/base.c); and `pagemap`.

use std::any::Any;
use std::sync::{Arc, Weak};

use super::{About, Entry, Names, What, access, memory};
use crate::abi::PAGE_SIZE;
use crate::abi::types::Stat;
use crate::fd::{File, Io};
use crate::fs::synth::Node;
use crate::fs::{Inode, Opening, S_IFLNK, Target, Who};
use crate::mem::{Sink, Source};
use crate::mm::{AddressSpace, MapEntry, MapName};
use crate::task::Caps;
use crate::{Errno, Result};

pub const LINKS: Names = Names { list, find, kind: S_IFLNK };

static LINK: Entry = Entry { name: "N", mode: 0o700, what: What::Magic(show, follow) };

fn files(about: &About) -> Result<Vec<MapEntry>> {
    let Some(mm) = about.live()?.mm() else { return Ok(Vec::new()) };
    let mut maps = mm.maps(&about.world.vfs.mounts.root());
    maps.retain(|entry| entry.host.is_some());
    Ok(maps)
}

fn list(about: &About) -> Result<Vec<String>> {
    Ok(files(about)?.iter().map(|entry| format!("{:x}-{:x}", entry.start, entry.end)).collect())
}

/// The number is the mapping's first address. Permissions show how the file was opened, which was at least so.
fn find(about: &About, name: &str) -> Result<(About, &'static Entry)> {
    const PROT_WRITE: u32 = 2;
    let entry = files(about)?.into_iter().find(|entry| format!("{:x}-{:x}", entry.start, entry.end) == name);
    let entry = entry.ok_or(Errno::ENOENT)?;
    let write = if entry.shared && entry.prot & PROT_WRITE != 0 { 0o200 } else { 0 };
    let number = usize::try_from(entry.start).map_err(|_| Errno::ENOENT)?;
    Ok((About { number, mode: Some(0o400 | write), ..about.clone() }, &LINK))
}

fn entry(about: &About) -> Result<MapEntry> {
    files(about)?.into_iter().find(|entry| entry.start == about.number as u64).ok_or(Errno::ENOENT)
}

fn show(about: &About, who: Who<'_>) -> Result<Vec<u8>> {
    access::may_read(who, about.live()?).map_err(|_| Errno::EACCES)?;
    match entry(about)?.name {
        MapName::Path(path) => Ok(path.to_vec()),
        _ => Err(Errno::ENOENT),
    }
}

/// Opening the file by it takes a capability (proc_map_files_get_link()).
fn follow(about: &About, who: Who<'_>) -> Result<Target> {
    if !who.cred.capable(Caps::SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    access::may_read(who, about.live()?).map_err(|_| Errno::EACCES)?;
    let mm = about.live()?.mm().ok_or(Errno::ENOENT)?;
    let place = entry(about)?.host.and_then(|host| mm.mapped_place(host));
    place.map(Target::Place).ok_or(Errno::ENOENT)
}

/// An open `/proc/PID/pagemap`.
struct PageMap {
    mm: Weak<AddressSpace>,
    node: Arc<Node>,
}

/// Bytes of an entry.
const ENTRY: u64 = 8;
/// End of what programs may map, in pages.
const END: u64 = 0x7fff_ffff_f000 / PAGE_SIZE;
/// Entries that are fetched at a time.
const STEP: usize = 4096;

pub fn open_page_map(node: Arc<Node>, how: &Opening<'_>) -> Result<Arc<dyn File>> {
    let process = node.about()?.live()?.clone();
    access::may_read(how.who, &process).map_err(|_| Errno::EACCES)?;
    let mm = process.mm().as_ref().map(Arc::downgrade).unwrap_or_default();
    Ok(Arc::new(PageMap { mm, node }))
}

impl File for PageMap {
    /// pagemap_read(): whole entries only. Nobody is told frame numbers, as nobody is without `CAP_SYS_ADMIN`.
    fn read(&self, _io: &Io<'_>, offset: u64, into: &mut dyn Sink) -> Result<usize> {
        if !offset.is_multiple_of(ENTRY) || !(into.remaining() as u64).is_multiple_of(ENTRY) {
            return Err(Errno::EINVAL);
        }
        let Some(mm) = self.mm.upgrade() else { return Ok(0) };
        let (mut page, mut done) = (offset / ENTRY, 0);
        while into.remaining() > 0 && page < END {
            let left = usize::try_from(END - page).unwrap_or(usize::MAX);
            let mut entries = vec![0_u64; (into.remaining() / ENTRY as usize).min(STEP).min(left)];
            mm.space.page_map(page, &mut entries);
            let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.to_ne_bytes()).collect();
            done += match into.put(&bytes) {
                Err(_) if done > 0 => break,
                other => other?,
            };
            page += entries.len() as u64;
        }
        Ok(done)
    }

    fn write(&self, _io: &Io<'_>, _offset: u64, _from: &mut dyn Source) -> Result<usize> {
        Err(Errno::EINVAL)
    }

    fn seekable(&self) -> bool {
        true
    }

    fn seek(&self, current: u64, offset: i64, whence: u32) -> Result<u64> {
        memory::seek(current, offset, whence)
    }

    fn pollable(&self) -> bool {
        false
    }

    fn stat(&self) -> Result<Stat> {
        self.node.stat()
    }

    fn inode(&self) -> Option<Arc<dyn Inode>> {
        Some(self.node.clone())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
