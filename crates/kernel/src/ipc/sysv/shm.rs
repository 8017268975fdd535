//! Shared memory segments: shmget(2), ipc/shm.c. Each is a file in memory, as any other (`shmem_kernel_file_setup()`).

use std::any::Any;
use std::sync::Arc;

use coracle_platform::MapSource;
use parking_lot::Mutex;

use super::now;
use super::registry::{Object, Perm, Registry};
use crate::abi::linux::{O_RDONLY, O_RDWR};
use crate::abi::page_ceil;
use crate::abi::types::Stat;
use crate::fd::{File, Mapped, OpenFile};
use crate::fs::S_IFREG;
use crate::fs::mem::{Budget, Data};
use crate::{Errno, Result};

/// Most segments (`SHMMNI`).
pub const SHMMNI: usize = 4096;
/// Largest segment (`SHMMAX`).
pub const SHMMAX: u64 = u64::MAX - (1 << 24);
/// Marked for destruction with the last detach.
pub const SHM_DEST: u32 = 0o1000;
pub const SHM_LOCKED: u32 = 0o2000;

/// One segment.
pub struct Segment {
    pub size: u64,
    memory: Arc<Data>,
    /// The open files that mappings are of, as `/proc/PID/maps` shows them: for writing, for reading only.
    files: [Arc<OpenFile>; 2],
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct State {
    pub perm: Perm,
    pub attach_time: i64,
    pub detach_time: i64,
    pub change_time: i64,
    pub creator: u32,
    pub last: u32,
    pub attached: u64,
}

impl Segment {
    /// newseg().
    pub fn new(perm: Perm, size: u64, pid: u32, budget: &Arc<Budget>) -> Result<Segment> {
        if size == 0 || size > SHMMAX {
            return Err(Errno::EINVAL);
        }
        let len = page_ceil(size).ok_or(Errno::ENOSPC)?;
        let memory = Arc::new(Data::new(budget.clone()));
        memory.truncate(len)?;
        // The host's file is made now, while there may still be an error.
        memory.host(true).map_err(|_| Errno::ENOMEM)?;
        let name = format!("/SYSV{:08x}", perm.key);
        let files = [O_RDWR, O_RDONLY].map(|flags| {
            let file = ShmFile { memory: memory.clone(), name: name.clone(), writable: flags == O_RDWR };
            OpenFile::new(Arc::new(file), flags)
        });
        let state = State { perm, change_time: now(), creator: pid, ..State::default() };
        Ok(Segment { size, memory, files, state: Mutex::new(state) })
    }

    /// What to map, and on behalf of which file.
    pub fn source(&self, writable: bool) -> Result<(MapSource, &Arc<OpenFile>)> {
        let [whole, read_only] = &self.files;
        let file = if writable { whole } else { read_only };
        match file.file.map(file.key, writable)? {
            Mapped::File(source) => Ok((source, file)),
            Mapped::Zero => Err(Errno::ENODEV),
        }
    }

    /// Bytes of memory that it takes.
    pub fn resident(&self) -> u64 {
        self.memory.blocks().saturating_mul(512)
    }

    /// A copy of everything that `IPC_STAT` tells.
    pub fn state(&self) -> State {
        *self.state.lock()
    }

    /// Changes it.
    pub fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock();
        state.change_time = now();
        change(&mut state)
    }
}

/// A segment's memory.
struct ShmFile {
    memory: Arc<Data>,
    name: String,
    writable: bool,
}

impl File for ShmFile {
    fn map(&self, key: u64, _writable_shared: bool) -> Result<Mapped> {
        Ok(Mapped::File(MapSource { file: self.memory.host(self.writable)?, key }))
    }

    fn stat(&self) -> Result<Stat> {
        Ok(Stat { st_mode: S_IFREG | 0o777, st_nlink: 0, ..Stat::default() })
    }

    fn description(&self) -> String {
        self.name.clone()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Object for Segment {
    const MOST: usize = SHMMNI;

    fn perm(&self) -> Perm {
        self.state.lock().perm
    }

    fn edit_perm(&self, change: &mut dyn FnMut(&mut Perm)) {
        change(&mut self.state.lock().perm);
    }
}

/// `IPC_RMID` (do_shm_rmid()): gone at once, or with the last detach.
pub fn remove(registry: &Registry<Segment>, segment: &Arc<Segment>) {
    let unused = segment.change(|state| {
        state.perm.mode |= SHM_DEST;
        state.attached == 0
    });
    registry.hide(segment);
    if unused {
        registry.remove(segment);
    }
}

/// A segment in an address space. Counts as attached as long as it, or a copy, lives.
pub struct Attachment {
    pub address: u64,
    segment: Arc<Segment>,
    world: std::sync::Weak<crate::world::World>,
    /// Who attached, and is told of as the last to detach.
    pid: u32,
}

impl Attachment {
    /// Counts one attachment.
    pub fn new(world: &Arc<crate::world::World>, segment: Arc<Segment>, address: u64, pid: u32) -> Attachment {
        let mut state = segment.state.lock();
        state.attached += 1;
        state.attach_time = now();
        state.last = pid;
        drop(state);
        Attachment { address, segment, world: Arc::downgrade(world), pid }
    }

    /// Bytes of address space.
    pub fn len(&self) -> u64 {
        page_ceil(self.segment.size).unwrap_or(self.segment.size)
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// It now lies elsewhere.
    pub fn place(&mut self, address: u64) {
        self.address = address;
    }
}

impl Clone for Attachment {
    /// What `fork` does.
    fn clone(&self) -> Attachment {
        self.segment.state.lock().attached += 1;
        Attachment {
            address: self.address,
            segment: self.segment.clone(),
            world: self.world.clone(),
            pid: self.pid,
        }
    }
}

impl Drop for Attachment {
    /// shm_close().
    fn drop(&mut self) {
        let mut state = self.segment.state.lock();
        state.attached = state.attached.saturating_sub(1);
        state.detach_time = now();
        state.last = self.pid;
        let gone = state.attached == 0 && state.perm.mode & SHM_DEST != 0;
        drop(state);
        if gone && let Some(world) = self.world.upgrade() {
            world.ipc.sysv.shm.remove(&self.segment);
        }
    }
}
