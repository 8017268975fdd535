//! Births, ends and groups, by calls on the mock platform. A mock child has no program: its worker "exits by
//! itself", which ends the process with SIGKILL.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::testing::{Guest, MEMORY, world};
use crate::abi::linux::{
    __NR_clone, __NR_clone3, __NR_fork, __NR_getpgid, __NR_getppid, __NR_prctl, __NR_prlimit64,
    __NR_sched_getaffinity, __NR_setpgid, __NR_setresuid, __NR_setsid, __NR_setuid, __NR_wait4, __NR_waitid,
    CLONE_FS, CLONE_NEWNET, CLONE_NEWNS, CLONE_PARENT_SETTID, CLONE_PIDFD, CLONE_SIGHAND, CLONE_THREAD, CLONE_VM,
    SIGCHLD, WEXITED, WNOHANG, WNOWAIT,
};
use crate::task::{Children, PID_MAX, Tree};
use crate::{Errno, SysResult};

const FORK: u64 = __NR_fork as u64;
const WAIT4: u64 = __NR_wait4 as u64;

fn clone(guest: &mut Guest, flags: u32) -> SysResult {
    guest.call(__NR_clone.into(), &[u64::from(flags | SIGCHLD), 0, MEMORY, MEMORY, 0])
}

/// Polls until `look` says so.
fn eventually(mut look: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !look() {
        assert!(Instant::now() < until, "it never came");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn flags_of_clone_that_contradict_each_other() {
    let mut guest = Guest::new();
    for flags in [
        CLONE_THREAD,
        CLONE_SIGHAND,
        CLONE_THREAD | CLONE_SIGHAND,
        CLONE_NEWNS | CLONE_FS,
        CLONE_PIDFD | CLONE_PARENT_SETTID,
    ] {
        assert_eq!(clone(&mut guest, flags), Err(Errno::EINVAL), "{flags:#x}");
    }
    assert_eq!(clone(&mut guest, CLONE_NEWNET), Err(Errno::EPERM));
    assert_eq!(clone(&mut guest, CLONE_NEWNET | CLONE_SIGHAND), Err(Errno::EINVAL), "flags come first");
    assert_eq!(guest.task.world.tree.lock().thread_count(), 1, "numbers were given back");
}

#[test]
fn clone3_checks_size_before_contents() {
    let mut guest = Guest::new();
    let mut call = |address: u64, size: u64| guest.call(__NR_clone3.into(), &[address, size]);
    assert_eq!(call(0, 63), Err(Errno::EINVAL));
    assert_eq!(call(0, 4097), Err(Errno::E2BIG));
    assert_eq!(call(0, 64), Err(Errno::EFAULT));
    let mut args = [0u64; 16];
    args[12] = 1;
    guest.put(MEMORY, &args);
    assert_eq!(guest.call(__NR_clone3.into(), &[MEMORY, 128]), Err(Errno::E2BIG));
    let set_tid = [0, 0, 0, 0, 17, 0, 0, 0, MEMORY + 512, 1, 0u64];
    guest.put(MEMORY, &set_tid);
    assert_eq!(guest.call(__NR_clone3.into(), &[MEMORY, 88]), Err(Errno::EPERM));
    let vm_thread = u64::from(CLONE_VM | CLONE_SIGHAND | CLONE_THREAD);
    guest.put(MEMORY, &[vm_thread, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0u64]);
    assert_eq!(guest.call(__NR_clone3.into(), &[MEMORY, 88]), Err(Errno::EINVAL), "threads send no exit signal");
}

#[test]
fn a_child_is_waited_for_once() {
    let mut guest = Guest::new();
    let child = guest.call(FORK, &[]).unwrap();
    let info = MEMORY + 0x100;
    let keep = u64::from(WEXITED | WNOWAIT);
    assert_eq!(guest.call(__NR_waitid.into(), &[1, child, info, keep, 0]), Ok(0));
    assert_eq!(guest.get::<[i32; 7]>(info), [17, 0, 2, 0, child as i32, 0, 9]);
    assert_eq!(guest.call(WAIT4, &[child, MEMORY, 0, 0]), Ok(child));
    assert_eq!(guest.get::<i32>(MEMORY), 9);
    assert_eq!(guest.call(WAIT4, &[u64::MAX, MEMORY, 0, 0]), Err(Errno::ECHILD));
    assert!(guest.task.world.process(child as u32).is_none());
}

#[test]
fn errors_of_wait_in_order() {
    let mut guest = Guest::new();
    assert_eq!(guest.call(WAIT4, &[u64::MAX, 0, 0x100, 0]), Err(Errno::EINVAL));
    assert_eq!(guest.call(WAIT4, &[i32::MIN as u64, 0, 0, 0]), Err(Errno::ESRCH));
    assert_eq!(guest.call(WAIT4, &[u64::MAX, 0, WNOHANG.into(), 0]), Err(Errno::ECHILD));
    assert_eq!(guest.call(__NR_waitid.into(), &[0, 0, 0, 0, 0]), Err(Errno::EINVAL), "waits for nothing");
    assert_eq!(guest.call(__NR_waitid.into(), &[9, 0, 0, WEXITED.into(), 0]), Err(Errno::EINVAL));
    assert_eq!(guest.call(__NR_waitid.into(), &[3, 77, 0, WEXITED.into(), 0]), Err(Errno::EBADF));
}

#[test]
fn the_end_of_a_parent_hands_its_children_on() {
    let world = world();
    let init = world.init();
    let mut guest = Guest::in_world(&world, 2);
    guest.task.process.links.lock().parent = Arc::downgrade(&init);
    let child = guest.call(FORK, &[]).unwrap() as u32;
    eventually(|| world.process(child).is_some_and(|process| process.is_zombie()));
    let thread = Box::new(coracle_platform::mock::MockThread::new(guest.space.clone()));
    guest.task.set_exit_status(3 << 8);
    super::exit::finish(&guest.task, thread);
    // Init waits for both at once.
    assert!(world.process(child).is_none());
    assert!(world.process(2).is_none());
    assert_eq!(world.wait_end(Some(Duration::ZERO)).map(|end| end.status), Some(3 << 8));
}

#[test]
fn groups_and_sessions() {
    let world = world();
    let mut leader = Guest::in_world(&world, 5);
    let mut stranger = Guest::in_world(&world, 9);
    assert_eq!(leader.call(__NR_getpgid.into(), &[0]), Ok(5));
    assert_eq!(leader.call(__NR_getpgid.into(), &[1234]), Err(Errno::ESRCH));
    assert_eq!(leader.call(__NR_setpgid.into(), &[0, u64::MAX]), Err(Errno::EINVAL));
    assert_eq!(leader.call(__NR_setpgid.into(), &[77, 0]), Err(Errno::ESRCH));
    assert_eq!(leader.call(__NR_setpgid.into(), &[9, 0]), Err(Errno::ESRCH), "not a child");
    assert_eq!(leader.call(__NR_setpgid.into(), &[0, 0]), Err(Errno::EPERM), "leads a session");
    assert_eq!(leader.call(__NR_setsid.into(), &[]), Err(Errno::EPERM), "leads a group");
    {
        let mut tree = world.tree.lock();
        tree.set_group(&stranger.task.process, 5);
        tree.set_session(&stranger.task.process, leader.task.process.session());
    }
    assert_eq!(stranger.call(__NR_setsid.into(), &[]), Ok(9));
    assert_eq!(stranger.task.process.sid(), 9);
    assert_eq!(stranger.call(__NR_getppid.into(), &[]), Ok(0));
}

#[test]
fn user_ids_change_by_the_rules() {
    let mut guest = Guest::new();
    let keep = u64::from(u32::MAX);
    assert_eq!(guest.call(__NR_setresuid.into(), &[1000, 1000, 0]), Ok(0));
    let cred = guest.task.cred();
    assert!(cred.effective.is_empty() && !cred.permitted.is_empty(), "a saved root keeps what it may have");
    assert_eq!(guest.call(__NR_setuid.into(), &[5]), Err(Errno::EPERM));
    assert_eq!(guest.call(__NR_setresuid.into(), &[keep, 0, keep]), Ok(0));
    assert!(!guest.task.cred().effective.is_empty());
    assert_eq!(guest.call(__NR_setuid.into(), &[1000]), Ok(0));
    assert_eq!(guest.call(__NR_setresuid.into(), &[keep, 0, keep]), Err(Errno::EPERM));
    assert!(guest.task.cred().permitted.is_empty());
}

#[test]
fn limits_and_masks() {
    let mut guest = Guest::new();
    guest.put(MEMORY, &[10u64, 5]);
    assert_eq!(guest.call(__NR_prlimit64.into(), &[0, 7, MEMORY, 0]), Err(Errno::EINVAL));
    guest.put(MEMORY, &[10u64, 50]);
    assert_eq!(guest.call(__NR_prlimit64.into(), &[0, 7, MEMORY, MEMORY + 16]), Ok(0));
    assert_eq!(guest.get::<[u64; 2]>(MEMORY + 16), [1024, 4096]);
    assert_eq!(guest.call(__NR_prlimit64.into(), &[0, 99, 0, MEMORY]), Err(Errno::EINVAL));
    assert_eq!(guest.call(__NR_prlimit64.into(), &[4711, 7, 0, 0]), Err(Errno::ESRCH));
    assert_eq!(guest.call(__NR_sched_getaffinity.into(), &[0, 4, MEMORY]), Err(Errno::EINVAL));
    assert_eq!(guest.call(__NR_sched_getaffinity.into(), &[0, 8, MEMORY]), Ok(8));
    assert_eq!(guest.get::<u64>(MEMORY), 1);
    guest.put(MEMORY, b"a name that is too long\0");
    assert_eq!(guest.call(__NR_prctl.into(), &[15, MEMORY]), Ok(0));
    assert_eq!(guest.task.comm(), b"a name that is ");
}

#[test]
fn children_of_who_ignores_them_leave_no_zombies() {
    let mut guest = Guest::new();
    let action = crate::abi::types::Sigaction { handler: 1, ..Default::default() };
    guest.put(MEMORY, &action);
    assert_eq!(guest.call(crate::abi::linux::__NR_rt_sigaction.into(), &[17, MEMORY, 0, 8]), Ok(0));
    let child = guest.call(FORK, &[]).unwrap() as u32;
    assert_eq!(guest.call(WAIT4, &[u64::from(child), 0, 0, 0]), Err(Errno::ECHILD));
    assert!(guest.task.world.process(child).is_none());
}

/// Numbers run out with an error, whether all are in use or as many as are granted, and asking again is no search.
#[test]
fn numbers_run_out() {
    let (world, begun) = (world(), std::time::Instant::now());
    let mut tree = world.tree.lock();
    let count = std::iter::from_fn(|| tree.allocate(None).ok()).count();
    assert_eq!(count as u32, PID_MAX - 1);
    for _ in 0..100_000 {
        assert_eq!(tree.allocate(Some(100)), Err(Errno::EAGAIN));
    }
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
}

#[test]
fn groups_sessions_and_users_are_counted() {
    let world = world();
    let one = Guest::in_world(&world, 5);
    let two = Guest::in_world(&world, 6);
    let mut tree = world.tree.lock();
    let group = |tree: &Tree, pgid| tree.group(pgid).map(|process| process.pid).collect::<Vec<_>>();
    tree.set_group(&two.task.process, 5);
    assert_eq!((group(&tree, 5), group(&tree, 6)), (vec![5, 6], vec![]));
    assert_eq!((tree.threads_of(0), tree.threads_of(7)), (2, 0));
    drop(tree);
    let mut cred = (*one.task.cred()).clone();
    cred.uid = 7;
    one.task.set_cred(cred);
    let mut tree = world.tree.lock();
    assert_eq!((tree.threads_of(0), tree.threads_of(7)), (1, 1));
    tree.remove_task(&one.task);
    assert_eq!((tree.threads_of(0), tree.threads_of(7), tree.charged()), (1, 0, 1));
    tree.bury(&one.task.process);
    assert_eq!(tree.charged(), 2);
    tree.remove(&one.task.process);
    assert_eq!((group(&tree, 5), tree.charged()), (vec![6], 1));
    // Its number still names a group.
    assert!(std::iter::from_fn(|| tree.allocate(None).ok()).all(|number| number != 5));
}

#[test]
fn children_are_found_by_what_they_are() {
    let world = world();
    let guests: Vec<_> = (10..60).map(|pid| Guest::in_world(&world, pid)).collect();
    let process = |index: usize| guests[index].task.process.clone();
    let mut children = Children::default();
    (0..50).for_each(|index| children.add(process(index), 2 + index as u32 % 2));
    for index in [30, 7] {
        process(index).group.lock().zombie = true;
        children.bury(&process(index));
    }
    let pids = |children: &Children| children.iter().map(|child| child.pid).collect::<Vec<_>>();
    assert_eq!(pids(&children), (10..60).collect::<Vec<_>>(), "in the order in which they came");
    assert_eq!(children.zombies().map(|child| child.pid).collect::<Vec<_>>(), [17, 40]);
    assert!(children.remove(&process(7), 3).is_some() && children.remove(&process(7), 3).is_none());
    let inherited = children.inherit(3, 2);
    assert_eq!((inherited.len(), inherited[0].pid, children.inherit(3, 2).len()), (24, 11, 0));
    (0..50).filter(|index| *index != 7).for_each(|index| assert!(children.remove(&process(index), 2).is_some()));
    assert!(children.is_empty());
}
