//! Identifiers, keys and permissions, the same for all three kinds.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;

use super::{IPC_CREAT, IPC_EXCL, IPC_PRIVATE};
use crate::task::{Caps, Task};
use crate::{Errno, Result};

/// Places in a table (`IPCMNI`); a kind may have fewer objects.
const PLACES: u32 = 32768;
/// Reuses of a place before numbers repeat.
const MAX_SEQUENCE: u32 = i32::MAX as u32 / PLACES;

/// `struct kern_ipc_perm`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Perm {
    pub key: i32,
    pub uid: u32,
    pub gid: u32,
    pub cuid: u32,
    pub cgid: u32,
    /// Permission bits, and for shared memory `SHM_DEST`, `SHM_LOCKED`.
    pub mode: u32,
    pub seq: u32,
    /// The place in the table, which the identifier is made of with `seq`.
    place: u32,
}

impl Perm {
    fn new(task: &Task, key: i32, flags: u32) -> Perm {
        let cred = task.cred();
        let (uid, gid) = (cred.euid, cred.egid);
        Perm { key, uid, gid, cuid: uid, cgid: gid, mode: flags & 0o777, seq: 0, place: 0 }
    }

    /// ipcperms(): `wanted` has read (4), write (2) bits in any of the three places.
    pub fn check(&self, task: &Task, wanted: u32) -> Result<()> {
        let cred = task.cred();
        let wanted = (wanted >> 6 | wanted >> 3 | wanted) & 0o7;
        let granted = if cred.euid == self.cuid || cred.euid == self.uid {
            self.mode >> 6
        } else if cred.in_effective_group(self.cgid) || cred.in_effective_group(self.gid) {
            self.mode >> 3
        } else {
            self.mode
        };
        if wanted & !granted == 0 || cred.capable(Caps::IPC_OWNER) { Ok(()) } else { Err(Errno::EACCES) }
    }

    /// Only owner, creator and the privileged may change or remove it (ipcctl_obtain_check()).
    pub fn check_owner(&self, task: &Task) -> Result<()> {
        let cred = task.cred();
        let owns = cred.euid == self.cuid || cred.euid == self.uid;
        if owns || cred.capable(Caps::SYS_ADMIN) { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// `IPC_SET` (ipc_update_perm()).
    pub fn update(&mut self, uid: u32, gid: u32, mode: u32) -> Result<()> {
        if uid == u32::MAX || gid == u32::MAX {
            return Err(Errno::EINVAL);
        }
        (self.uid, self.gid) = (uid, gid);
        self.mode = (self.mode & !0o777) | (mode & 0o777);
        Ok(())
    }

    /// `struct ipc64_perm` in words: 48 bytes.
    pub fn words(&self) -> [u32; 12] {
        let seq = self.seq & 0xffff;
        [self.key as u32, self.uid, self.gid, self.cuid, self.cgid, self.mode, seq, 0, 0, 0, 0, 0]
    }
}

/// Something with an identifier.
pub trait Object: Send + Sync {
    /// Objects of the kind at most (`SHMMNI` and its like).
    const MOST: usize;

    fn perm(&self) -> Perm;

    /// Changes it.
    fn edit_perm(&self, change: &mut dyn FnMut(&mut Perm));
}

/// Identifiers of one kind. Keys and places are looked up, not searched for: a guest chooses how many there are.
pub struct Registry<T>(Mutex<Table<T>>);

struct Table<T> {
    objects: BTreeMap<u32, Arc<T>>,
    /// Sequence numbers of all places that were ever in use.
    sequences: Vec<u32>,
    /// Of those, the ones that are free.
    free: BTreeSet<u32>,
    /// Places of objects that are found by a key.
    keys: HashMap<i32, u32>,
}

impl<T> Default for Registry<T> {
    fn default() -> Self {
        let table =
            Table { objects: BTreeMap::new(), sequences: Vec::new(), free: BTreeSet::new(), keys: HashMap::new() };
        Registry(Mutex::new(table))
    }
}

/// What `shmget` and its like ask for.
pub struct Wanted {
    pub key: i32,
    pub flags: u32,
}

impl<T: Object> Registry<T> {
    /// ipcget(): the object of that key if it suits (`fits`), or a new one.
    pub fn get(
        &self,
        task: &Task,
        wanted: &Wanted,
        fits: impl FnOnce(&T) -> Result<()>,
        make: impl FnOnce(Perm) -> Result<T>,
    ) -> Result<u32> {
        let mut table = self.0.lock();
        let make = || make(Perm::new(task, wanted.key, wanted.flags));
        let found = if wanted.key == IPC_PRIVATE { None } else { table.by_key(wanted.key) };
        match found {
            None if wanted.key != IPC_PRIVATE && wanted.flags & IPC_CREAT == 0 => Err(Errno::ENOENT),
            None => table.add(make),
            Some(_) if wanted.flags & IPC_CREAT != 0 && wanted.flags & IPC_EXCL != 0 => Err(Errno::EEXIST),
            Some((id, object)) => {
                fits(&object)?;
                object.perm().check(task, wanted.flags)?;
                Ok(id)
            }
        }
    }

    /// The object with this identifier: `EINVAL` if there is none, `EIDRM` if its number was used anew.
    pub fn find(&self, id: i32) -> Result<Arc<T>> {
        let id = u32::try_from(id).map_err(|_| Errno::EINVAL)?;
        let table = self.0.lock();
        let object = table.objects.get(&(id % PLACES)).ok_or(Errno::EINVAL)?;
        if table.id(id % PLACES) == id { Ok(object.clone()) } else { Err(Errno::EIDRM) }
    }

    /// The object in this place (`SHM_STAT` and its like), with its identifier.
    pub fn at(&self, place: i32) -> Result<(u32, Arc<T>)> {
        let place = u32::try_from(place).map_err(|_| Errno::EINVAL)?;
        let table = self.0.lock();
        let object = table.objects.get(&place).ok_or(Errno::EINVAL)?;
        Ok((table.id(place), object.clone()))
    }

    /// Takes the identifier away; `false` if it had none any more.
    pub fn remove(&self, object: &Arc<T>) -> bool {
        let perm = object.perm();
        let mut table = self.0.lock();
        if !table.objects.get(&perm.place).is_some_and(|it| Arc::ptr_eq(it, object)) {
            return false;
        }
        table.forget_key(&perm);
        let gone = table.objects.remove(&perm.place);
        if let Some(seq) = table.sequences.get_mut(perm.place as usize) {
            *seq = if *seq >= MAX_SEQUENCE { 0 } else { *seq + 1 };
        }
        table.free.insert(perm.place);
        drop(table);
        gone.is_some()
    }

    /// It is not found by its key any more.
    pub fn hide(&self, object: &Arc<T>) {
        self.0.lock().forget_key(&object.perm());
        object.edit_perm(&mut |perm| perm.key = IPC_PRIVATE);
    }

    /// Everything there is, with identifiers.
    pub fn list(&self) -> Vec<(u32, Arc<T>)> {
        let table = self.0.lock();
        table.objects.iter().map(|(place, object)| (table.id(*place), object.clone())).collect()
    }

    /// Number of objects.
    pub fn count(&self) -> usize {
        self.0.lock().objects.len()
    }

    /// The highest place in use, zero if there is none.
    pub fn highest(&self) -> u64 {
        self.0.lock().objects.last_key_value().map_or(0, |(place, _)| u64::from(*place))
    }
}

impl<T: Object> Table<T> {
    fn id(&self, place: u32) -> u32 {
        self.sequences.get(place as usize).copied().unwrap_or(0) * PLACES + place
    }

    fn by_key(&self, key: i32) -> Option<(u32, Arc<T>)> {
        let place = *self.keys.get(&key)?;
        Some((self.id(place), self.objects.get(&place)?.clone()))
    }

    fn forget_key(&mut self, perm: &Perm) {
        if perm.key != IPC_PRIVATE && self.keys.get(&perm.key) == Some(&perm.place) {
            self.keys.remove(&perm.key);
        }
    }

    fn add(&mut self, make: impl FnOnce() -> Result<T>) -> Result<u32> {
        let next = self.sequences.len() as u32;
        let place = self.free.first().copied().unwrap_or(next);
        // What is to be made is looked at first (`newary()` and its like).
        let object = make()?;
        if self.objects.len() >= T::MOST || place >= PLACES {
            return Err(Errno::ENOSPC);
        }
        if !self.free.remove(&place) {
            self.sequences.push(0);
        }
        let seq = self.id(place) / PLACES;
        object.edit_perm(&mut |perm| (perm.seq, perm.place) = (seq, place));
        let key = object.perm().key;
        if key != IPC_PRIVATE {
            self.keys.insert(key, place);
        }
        self.objects.insert(place, Arc::new(object));
        Ok(self.id(place))
    }
}
