//! System V IPC: sysvipc(7).

mod msg;
mod sem;
mod shm;

use crate::call::Ctx;
use crate::ipc::sysv::{IPC_64, IPC_STAT, Object, Perm, Registry};
use crate::{Errno, Result};
use std::sync::Arc;

crate::calls! {
    29 shmget shm::shmget, 3 Full;
    30 shmat shm::shmat, 3 Full;
    31 shmctl shm::shmctl, 3 Full;
    64 semget sem::semget, 3 Full;
    65 semop sem::semop, 3 Full;
    66 semctl sem::semctl, 4 Full;
    67 shmdt shm::shmdt, 1 Full;
    68 msgget msg::msgget, 2 Full;
    69 msgsnd msg::msgsnd, 4 Full;
    70 msgrcv msg::msgrcv, 5 Full;
    71 msgctl msg::msgctl, 3 Full;
    220 semtimedop sem::semtimedop, 4 Full;
}

/// Size of `struct ipc64_perm`.
const PERM_SIZE: usize = 48;

/// What the three `ctl` calls have in common: the command without `IPC_64`.
fn command(raw: u32) -> u32 {
    raw & !IPC_64
}

/// The object that `IPC_STAT`, `*_STAT` and `*_STAT_ANY` mean, and what the call returns.
fn stat_object<T: Object>(
    cx: &Ctx<'_>,
    registry: &Registry<T>,
    id: i32,
    command: u32,
    any: u32,
) -> Result<(u64, Arc<T>)> {
    let (result, object) = match command {
        IPC_STAT => (0, registry.find(id)?),
        _ => {
            let (id, object) = registry.at(id)?;
            (u64::from(id), object)
        }
    };
    if command != any {
        object.perm().check(&cx.task, 0o444)?;
    }
    Ok((result, object))
}

/// `struct ipc64_perm` followed by 64-bit words.
fn record(perm: &Perm, words: &[u64]) -> Vec<u8> {
    let mut bytes: Vec<u8> = perm.words().iter().flat_map(|word| word.to_ne_bytes()).collect();
    bytes.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
    bytes
}

/// What `IPC_SET` takes from a `_ds` structure: user, group, mode.
fn read_set(cx: &mut Ctx<'_>, at: u64) -> Result<(u32, u32, u32)> {
    let words: [u32; PERM_SIZE / 4] = cx.mem().read(at)?;
    Ok((words[1], words[2], words[5]))
}

/// Two 32-bit fields in one word of a record.
fn two(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

/// The structures of `*_INFO`: words of 32 bits.
fn write_words(cx: &mut Ctx<'_>, at: u64, words: &[u32]) -> Result<()> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    cx.mem().write_bytes(at, &bytes)
}

/// A wait that a signal ended is not restarted here (signal(7)).
fn interrupted(error: Errno) -> Errno {
    if error == Errno::ERESTARTSYS { Errno::EINTR } else { error }
}
