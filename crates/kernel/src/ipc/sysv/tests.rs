//! The three kinds through their calls.

use crate::Errno;
use crate::task::testing::{Guest, MEMORY};

const SHMGET: u64 = 29;
const SHMAT: u64 = 30;
const SHMCTL: u64 = 31;
const SEMGET: u64 = 64;
const SEMOP: u64 = 65;
const SEMCTL: u64 = 66;
const SHMDT: u64 = 67;
const MSGGET: u64 = 68;
const MSGSND: u64 = 69;
const MSGRCV: u64 = 70;
const MSGCTL: u64 = 71;
const CREATE: u64 = 0o1600;
const EXCLUSIVE: u64 = 0o3600;
const NO_WAIT: u64 = 0o4000;

fn operation(guest: &Guest, number: u16, change: i16, flags: u16) {
    guest.put(MEMORY, &[number, change as u16, flags]);
}

#[test]
fn segments_live_until_the_last_detach() {
    let mut guest = Guest::new();
    let id = guest.call(SHMGET, &[77, 5000, EXCLUSIVE]).unwrap();
    assert_eq!(guest.call(SHMGET, &[77, 5000, EXCLUSIVE]), Err(Errno::EEXIST));
    assert_eq!(guest.call(SHMGET, &[77, 6000, 0]), Err(Errno::EINVAL));
    assert_eq!(guest.call(SHMGET, &[77, 10, 0]), Ok(id));
    assert_eq!(guest.call(SHMGET, &[78, 10, 0]), Err(Errno::ENOENT));
    let at = 0x40_0000;
    assert_eq!(guest.call(SHMAT, &[id, at, 0]), Ok(at));
    guest.call(SHMCTL, &[id, 0, 0]).unwrap();
    guest.call(SHMCTL, &[id, 2, MEMORY]).unwrap();
    assert_eq!(guest.get::<u64>(MEMORY + 48), 5000);
    assert_eq!(guest.get::<u64>(MEMORY + 88), 1);
    assert_eq!(guest.get::<u32>(MEMORY + 20) & 0o1000, 0o1000);
    assert_eq!(guest.call(SHMDT, &[at + 4096]), Err(Errno::EINVAL));
    guest.call(SHMDT, &[at]).unwrap();
    assert_eq!(guest.call(SHMCTL, &[id, 2, MEMORY]), Err(Errno::EINVAL));
}

#[test]
fn an_address_space_that_goes_detaches() {
    let mut guest = Guest::new();
    let id = guest.call(SHMGET, &[0, 4096, CREATE]).unwrap();
    guest.call(SHMAT, &[id, 0x40_0000, 0]).unwrap();
    let copy = guest.task.mm().forked(guest.task.space());
    guest.call(SHMCTL, &[id, 2, MEMORY]).unwrap();
    assert_eq!(guest.get::<u64>(MEMORY + 88), 2);
    drop(copy);
    guest.call(SHMCTL, &[id, 2, MEMORY]).unwrap();
    assert_eq!(guest.get::<u64>(MEMORY + 88), 1);
}

#[test]
fn semaphore_operations_are_all_or_nothing_and_undone() {
    let mut guest = Guest::new();
    let id = guest.call(SEMGET, &[0, 2, CREATE]).unwrap();
    guest.call(SEMCTL, &[id, 0, 16, 3]).unwrap();
    // The second operation would block, so the first does not happen.
    guest.put(MEMORY, &[0u16, (-1i16) as u16, 0, 1, (-1i16) as u16, NO_WAIT as u16]);
    assert_eq!(guest.call(SEMOP, &[id, MEMORY, 2]), Err(Errno::EAGAIN));
    assert_eq!(guest.call(SEMCTL, &[id, 0, 12]), Ok(3));
    operation(&guest, 0, -2, 0x1000);
    guest.call(SEMOP, &[id, MEMORY, 1]).unwrap();
    assert_eq!(guest.call(SEMCTL, &[id, 0, 12]), Ok(1));
    operation(&guest, 2, 1, 0);
    assert_eq!(guest.call(SEMOP, &[id, MEMORY, 1]), Err(Errno::EFBIG));
    operation(&guest, 0, 32767, 0);
    assert_eq!(guest.call(SEMOP, &[id, MEMORY, 1]), Err(Errno::ERANGE));
    guest.task.world.ipc.sysv.process_exits(&guest.task.process);
    assert_eq!(guest.call(SEMCTL, &[id, 0, 12]), Ok(3));
    guest.call(SEMCTL, &[id, 0, 0]).unwrap();
    assert_eq!(guest.call(SEMOP, &[id, MEMORY, 1]), Err(Errno::EINVAL));
}

/// All sets together may have more semaphores, and more to be undone, than there is memory.
#[test]
fn semaphores_take_room_of_files_until_they_go() {
    let mut guest = Guest::new();
    let budget = guest.task.world.vfs.budget.clone();
    let used = || budget.state().1;
    let before = used();
    let id = guest.call(SEMGET, &[0, 32000, CREATE]).unwrap();
    assert_eq!(used() - before, 32000 * 16);
    operation(&guest, 31999, 1, 0x1000);
    guest.call(SEMOP, &[id, MEMORY, 1]).unwrap();
    guest.call(SEMOP, &[id, MEMORY, 1]).unwrap();
    assert_eq!(used() - before, 32000 * 20);
    guest.task.world.ipc.sysv.process_exits(&guest.task.process);
    assert_eq!(used() - before, 32000 * 16);
    guest.call(SEMOP, &[id, MEMORY, 1]).unwrap();
    let (limit, used_now) = budget.state();
    let rest = budget.take(limit - used_now).unwrap();
    assert_eq!(guest.call(SEMGET, &[0, 1, CREATE]), Err(Errno::ENOSPC));
    drop(rest);
    guest.call(SEMCTL, &[id, 0, 0]).unwrap();
    assert_eq!(used(), before);
}

#[test]
fn a_waiter_goes_on_when_it_may() {
    let world = crate::task::testing::world();
    let (mut one, mut two) = (Guest::in_world(&world, 2), Guest::in_world(&world, 3));
    let id = one.call(SEMGET, &[5, 1, CREATE]).unwrap();
    let waiter = std::thread::spawn(move || {
        operation(&two, 0, -1, 0);
        two.call(SEMOP, &[id, MEMORY, 1])
    });
    while one.call(SEMCTL, &[id, 0, 14]) != Ok(1) {
        std::thread::yield_now();
    }
    operation(&one, 0, 1, 0);
    one.call(SEMOP, &[id, MEMORY, 1]).unwrap();
    assert_eq!(waiter.join().unwrap(), Ok(0));
    assert_eq!(one.call(SEMCTL, &[id, 0, 14]), Ok(0));
}

#[test]
fn messages_are_chosen_by_type() {
    let mut guest = Guest::new();
    let id = guest.call(MSGGET, &[0, CREATE]).unwrap();
    for kind in [3u64, 1, 2] {
        guest.put(MEMORY, &[kind, kind * 11]);
        guest.call(MSGSND, &[id, MEMORY, 8, 0]).unwrap();
    }
    let mut receive = |size: u64, kind: i64, flags: u64| {
        let len = guest.call(MSGRCV, &[id, MEMORY + 64, size, kind as u64, flags])?;
        Ok((len, guest.get::<[u64; 2]>(MEMORY + 64)))
    };
    assert_eq!(receive(4, 0, NO_WAIT), Err(Errno::E2BIG));
    assert_eq!(receive(8, -2, NO_WAIT), Ok((8, [1, 11])));
    assert_eq!(receive(8, 9, NO_WAIT), Err(Errno::ENOMSG));
    assert_eq!(receive(8, 3, NO_WAIT | 0o20000), Ok((8, [2, 22])));
    assert_eq!(receive(8, 0, 0), Ok((8, [3, 33])));
    guest.put(MEMORY, &0u64);
    assert_eq!(guest.call(MSGSND, &[id, MEMORY, 8, 0]), Err(Errno::EINVAL));
    guest.put(MEMORY, &1u64);
    let sent = (0..10).take_while(|_| guest.call(MSGSND, &[id, MEMORY, 8000, NO_WAIT]).is_ok()).count();
    assert_eq!(sent, 2);
    guest.call(MSGCTL, &[id, 0, 0]).unwrap();
    assert_eq!(guest.call(MSGSND, &[id, MEMORY, 8, 0]), Err(Errno::EINVAL));
}
