//! `F_NOTIFY` of fcntl(2): a directory's open file has its owner signalled when something happens to what is in it
//! (fs/notify/dnotify/dnotify.c). It hears what inotify hears.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::inotify::{
    IN_ACCESS, IN_ATTRIB, IN_CREATE, IN_DELETE, IN_MODIFY, IN_MOVED_FROM, IN_MOVED_TO, MAX_WATCHES, Watches,
};
use crate::fd::{Band, Fown, OpenFile};
use crate::{Errno, Result};

const DN_ACCESS: u32 = 0x01;
const DN_MODIFY: u32 = 0x02;
const DN_CREATE: u32 = 0x04;
const DN_DELETE: u32 = 0x08;
const DN_RENAME: u32 = 0x10;
const DN_ATTRIB: u32 = 0x20;
const DN_MULTISHOT: u32 = 0x8000_0000;
/// A name in the directory changed into another one there (`FS_RENAME`).
pub const RENAMED: u32 = 0x1000_0000;

/// Device and inode number.
type Id = (u64, u64);

/// All of a sandbox, by directory.
#[derive(Default)]
pub struct Table {
    any: AtomicBool,
    list: Mutex<List>,
}

#[derive(Default)]
struct List {
    nodes: HashMap<Id, BTreeMap<Asked, Dnotify>>,
    /// Of all nodes.
    count: usize,
}

/// The key of the open file, and the descriptor table through which it was asked for: closing it there ends this.
type Asked = (u64, usize);

struct Dnotify {
    /// Told as `si_fd`.
    fd: i32,
    owner: Arc<Fown>,
    /// Nothing, once it has been told of something and was to be but once.
    mask: u32,
    many: bool,
    /// Of the open file's last action.
    ticket: u64,
}

/// convert_arg().
fn mask(argument: u32) -> u32 {
    const BITS: [(u32, u32); 6] = [
        (DN_ACCESS, IN_ACCESS),
        (DN_MODIFY, IN_MODIFY),
        (DN_CREATE, IN_CREATE | IN_MOVED_TO),
        (DN_DELETE, IN_DELETE | IN_MOVED_FROM),
        (DN_RENAME, RENAMED),
        (DN_ATTRIB, IN_ATTRIB),
    ];
    BITS.iter().filter(|(bit, _)| argument & bit != 0).fold(0, |mask, (_, events)| mask | events)
}

impl Table {
    /// Nobody has asked for anything.
    pub fn is_empty(&self) -> bool {
        !self.any.load(Ordering::SeqCst)
    }

    /// fcntl_dirnotify(): `files` stands for the caller's descriptor table.
    pub fn ask(
        watches: &Arc<Watches>,
        file: &OpenFile,
        node: Id,
        files: usize,
        fd: i32,
        argument: u32,
    ) -> Result<()> {
        let this = &watches.dnotify;
        let mut list = this.list.lock();
        if list.count >= MAX_WATCHES {
            return Err(Errno::ENOSPC);
        }
        let entries = list.nodes.entry(node).or_default();
        let many = argument & DN_MULTISHOT != 0;
        match entries.get_mut(&(file.key, files)) {
            Some(entry) => {
                entry.fd = fd;
                entry.mask |= mask(argument);
                entry.many |= many;
            }
            None => {
                let (owner, held) = (file.owner().clone(), Arc::downgrade(watches));
                let ticket = file.at_drop(move |key| {
                    if let Some(watches) = held.upgrade() {
                        watches.dnotify.remove(node, (key, files));
                    }
                });
                entries.insert((file.key, files), Dnotify { fd, owner, mask: mask(argument), many, ticket });
                list.count += 1;
            }
        }
        this.any.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// dnotify_flush(): a descriptor of `file` was closed, or nothing is asked for any more.
    pub fn flush(&self, file: &OpenFile, files: usize) {
        if !self.is_empty()
            && let Some(node) = file.file.inode().and_then(|inode| inode.id().ok())
            && let Some(gone) = self.remove(node, (file.key, files))
        {
            file.cancel_at_drop(gone.ticket);
        }
    }

    fn remove(&self, node: Id, asked: Asked) -> Option<Dnotify> {
        let mut list = self.list.lock();
        let entries = list.nodes.get_mut(&node)?;
        let gone = entries.remove(&asked)?;
        if entries.is_empty() {
            list.nodes.remove(&node);
        }
        list.count -= 1;
        self.any.store(list.count > 0, Ordering::SeqCst);
        Some(gone)
    }

    /// Something happened to `node` or in it (dnotify_handle_event()).
    pub fn tell(&self, node: Id, event: u32) {
        if self.is_empty() {
            return;
        }
        let mut told = Vec::new();
        let mut list = self.list.lock();
        let entries = list.nodes.get_mut(&node).into_iter().flat_map(BTreeMap::values_mut);
        for entry in entries.filter(|entry| entry.mask & event != 0) {
            told.push((entry.owner.clone(), entry.fd));
            if !entry.many {
                entry.mask = 0;
            }
        }
        drop(list);
        told.iter().for_each(|(owner, fd)| owner.send_sigio(*fd, Band::Msg));
    }
}
