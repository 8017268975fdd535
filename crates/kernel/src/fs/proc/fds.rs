//! `/proc/PID/fd` and `fdinfo` (fs/proc/fd.c).

use std::sync::Arc;

use super::{About, Access, Entry, Names, Node, What, access};
use crate::abi::linux::{O_CLOEXEC, O_PATH};
use crate::fd::{FdEntry, OpenFile};
use crate::fs::anon::FileInode;
use crate::fs::{Inode, PathRef, S_IFLNK, S_IFREG, Target, Who};
use crate::{Errno, Result};

pub const LINKS: Names = Names { list, find: find_link, kind: S_IFLNK };
pub const INFOS: Names = Names { list, find: find_info, kind: S_IFREG };

static LINK: Entry = Entry { name: "N", mode: 0o700, what: What::Magic(show_link, follow) };
static INFO: Entry = Entry::text("N", 0o400, show_info);

fn list(about: &About) -> Result<Vec<String>> {
    match about.thread() {
        Ok(task) => Ok(task.files().list().iter().map(|(fd, _)| fd.to_string()).collect()),
        Err(_) => about.live().map(|_| Vec::new()),
    }
}

fn entry(about: &About) -> Result<FdEntry> {
    let fd = i32::try_from(about.number).map_err(|_| Errno::ENOENT)?;
    about.thread()?.files().entry(fd).map_err(|_| Errno::ENOENT)
}

fn find(about: &About, name: &str) -> Result<(About, FdEntry)> {
    let number = super::number(name).ok_or(Errno::ENOENT)?;
    let about = About { number: number as usize, ..about.clone() };
    let entry = entry(&about).map_err(|_| Errno::ENOENT)?;
    Ok((about, entry))
}

/// The link's permissions show how the file was opened (`tid_fd_update_inode()`).
fn find_link(about: &About, name: &str) -> Result<(About, &'static Entry)> {
    let (about, entry) = find(about, name)?;
    let read = if entry.file.readable() { 0o500 } else { 0 };
    let write = if entry.file.writable() { 0o300 } else { 0 };
    Ok((About { mode: Some(read | write), ..about }, &LINK))
}

fn find_info(about: &About, name: &str) -> Result<(About, &'static Entry)> {
    find(about, name).map(|(about, _)| (about, &INFO))
}

/// One's own descriptors are always one's to see (`proc_fd_permission()`).
pub fn permission(about: &About, node: &Node, who: Who<'_>, access: Access) -> Result<()> {
    let (mode, uid, gid) = node.access_info()?;
    let owner = about.process.as_ref();
    let own = owner.is_some_and(|owner| who.task.is_some_and(|task| Arc::ptr_eq(&task.process, owner)));
    match crate::fs::perm::generic(who.cred, mode, uid, gid, access) {
        Err(_) if own => Ok(()),
        other => other,
    }
}

fn permitted(about: &About, who: Who<'_>) -> Result<FdEntry> {
    access::may_read(who, about.live()?).map_err(|_| Errno::EACCES)?;
    entry(about)
}

/// The text of a link to an open file, as seen from `root`.
pub fn text(file: &OpenFile, root: Option<&PathRef>) -> Vec<u8> {
    match (&file.path, root) {
        (Some(path), Some(root)) => path.display(root),
        (Some(path), None) => path.path_from(path).0,
        (None, _) => file.file.description().into_bytes(),
    }
}

fn show_link(about: &About, who: Who<'_>) -> Result<Vec<u8>> {
    let entry = permitted(about, who)?;
    let root = who.task.map(|task| task.fs().root());
    Ok(text(&entry.file, root.as_ref()))
}

/// Files with a path are opened anew at it; others are dressed as inodes.
fn follow(about: &About, who: Who<'_>) -> Result<Target> {
    let entry = permitted(about, who)?;
    let place = match &entry.file.path {
        Some(path) => path.clone(),
        None => {
            let name = entry.file.file.description().into_bytes();
            about.world.vfs.mounts.nowhere(FileInode::new(entry.file), &name)
        }
    };
    Ok(Target::Place(place))
}

/// `seq_show()` of fs/proc/fd.c.
fn show_info(about: &About, who: Who<'_>) -> Result<Vec<u8>> {
    let entry = permitted(about, who)?;
    let file = &entry.file;
    let flags = file.flags() | if entry.close_on_exec { O_CLOEXEC } else { 0 };
    let mount = file.path.as_ref().map_or(about.world.vfs.mounts.anonymous.id, |path| path.mount.id);
    let ino = if file.flags() & O_PATH != 0 {
        file.path.as_ref().and_then(|path| path.inode().id().ok()).map_or(0, |(_, ino)| ino)
    } else {
        file.file.stat().map_or(0, |stat| stat.st_ino)
    };
    let position = file.position.try_lock().map_or(0, |position| *position);
    let mut text = format!("pos:\t{position}\nflags:\t0{flags:o}\nmnt_id:\t{mount}\nino:\t{ino}\n");
    file.file.fdinfo(&mut text);
    Ok(text.into_bytes())
}
