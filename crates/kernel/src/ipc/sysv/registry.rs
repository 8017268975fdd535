//! Identifiers, keys and permissions, the same for all three kinds.

use std::sync::Arc;

use parking_lot::Mutex;

use super::{IPC_CREAT, IPC_EXCL, IPC_PRIVATE};
use crate::task::{Caps, Task};
use crate::{Errno, Result};

/// Identifiers of one kind at most (`IPCMNI`).
const MAX_OBJECTS: usize = 32768;
/// Reuses of a slot before numbers repeat.
const MAX_SEQUENCE: u32 = i32::MAX as u32 / MAX_OBJECTS as u32;

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
}

impl Perm {
    fn new(task: &Task, key: i32, flags: u32) -> Perm {
        let cred = task.cred();
        let (uid, gid) = (cred.euid, cred.egid);
        Perm { key, uid, gid, cuid: uid, cgid: gid, mode: flags & 0o777, seq: 0 }
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
    fn perm(&self) -> Perm;
    /// Learns its identifier's sequence number.
    fn set_seq(&self, seq: u32);
}

/// Identifiers of one kind.
pub struct Registry<T>(Mutex<Slots<T>>);

struct Slots<T> {
    slots: Vec<Slot<T>>,
}

struct Slot<T> {
    object: Option<Arc<T>>,
    seq: u32,
}

impl<T> Default for Registry<T> {
    fn default() -> Self {
        Registry(Mutex::new(Slots { slots: Vec::new() }))
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
        let mut slots = self.0.lock();
        let make = || make(Perm::new(task, wanted.key, wanted.flags));
        if wanted.key == IPC_PRIVATE {
            return slots.add(make()?);
        }
        let found = slots.iter().find(|(_, object)| object.perm().key == wanted.key);
        match found {
            None if wanted.flags & IPC_CREAT == 0 => Err(Errno::ENOENT),
            None => slots.add(make()?),
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
        let slots = self.0.lock();
        let slot = slots.slots.get(id as usize % MAX_OBJECTS).ok_or(Errno::EINVAL)?;
        let object = slot.object.clone().ok_or(Errno::EINVAL)?;
        if slot.seq == id / MAX_OBJECTS as u32 { Ok(object) } else { Err(Errno::EIDRM) }
    }

    /// The object in this slot (`SHM_STAT` and its like), with its identifier.
    pub fn at(&self, index: i32) -> Result<(u32, Arc<T>)> {
        let index = u32::try_from(index).map_err(|_| Errno::EINVAL)?;
        let all = self.list();
        all.into_iter().find(|(id, _)| id % MAX_OBJECTS as u32 == index).ok_or(Errno::EINVAL)
    }

    /// Takes the identifier away.
    pub fn remove(&self, object: &Arc<T>) {
        let mut slots = self.0.lock();
        for slot in &mut slots.slots {
            if slot.object.as_ref().is_some_and(|it| Arc::ptr_eq(it, object)) {
                slot.object = None;
                slot.seq = if slot.seq >= MAX_SEQUENCE { 0 } else { slot.seq + 1 };
            }
        }
    }

    /// Everything there is, with identifiers.
    pub fn list(&self) -> Vec<(u32, Arc<T>)> {
        self.0.lock().iter().collect()
    }

    /// The highest slot in use, zero if there is none.
    pub fn highest(&self) -> u64 {
        self.list().last().map_or(0, |(id, _)| u64::from(id % MAX_OBJECTS as u32))
    }
}

impl<T: Object> Slots<T> {
    fn iter(&self) -> impl Iterator<Item = (u32, Arc<T>)> + '_ {
        self.slots.iter().enumerate().filter_map(|(index, slot)| {
            let object = slot.object.clone()?;
            Some((slot.seq * MAX_OBJECTS as u32 + index as u32, object))
        })
    }

    fn add(&mut self, object: T) -> Result<u32> {
        let free = self.slots.iter().position(|slot| slot.object.is_none());
        let index = free.unwrap_or(self.slots.len());
        if index >= MAX_OBJECTS {
            return Err(Errno::ENOSPC);
        }
        if index == self.slots.len() {
            self.slots.push(Slot { object: None, seq: 0 });
        }
        let slot = self.slots.get_mut(index).ok_or(Errno::ENOSPC)?;
        object.set_seq(slot.seq);
        slot.object = Some(Arc::new(object));
        Ok(slot.seq * MAX_OBJECTS as u32 + index as u32)
    }
}
