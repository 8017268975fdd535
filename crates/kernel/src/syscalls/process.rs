//! Processes: birth, programs, end, waiting, groups and sessions.

use std::sync::atomic::Ordering;

use crate::abi::linux::{
    __WALL, __WCLONE, __WNOTHREAD, AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW, CLONE_VFORK, CLONE_VM, CSIGNAL,
    P_ALL, P_PGID, P_PID, P_PIDFD, SIGCHLD, WCONTINUED, WEXITED, WNOHANG, WNOWAIT, WSTOPPED, WUNTRACED,
};
use crate::abi::types::Rusage;
use crate::call::{Addr, After, Ctx, Fd};
use crate::fd::FdEntry;
use crate::fs::{Resolve, proc};
use crate::signal::info::SI_TKILL;
use crate::signal::{self, SigInfo, Signal};
use crate::task::clone::{self, CloneArgs};
use crate::task::exec::{self, Request, Strings, rlimit_stack};
use crate::task::pidfd::PidFd;
use crate::task::wait::{self, Waited, Whom};
use crate::task::{Caps, Process};
use crate::{Errno, Result, SysResult};

crate::calls! {
    56 clone clone_call, 5 Full;
    57 fork fork, 0 Full;
    58 vfork vfork, 0 Full;
    59 execve execve, 3 Full;
    60 exit exit, 1 Full;
    61 wait4 wait4, 4 Full;
    109 setpgid setpgid, 2 Full;
    110 getppid getppid, 0 Full;
    111 getpgrp getpgrp, 0 Full;
    112 setsid setsid, 0 Full;
    121 getpgid getpgid, 1 Full;
    124 getsid getsid, 1 Full;
    39 getpid getpid, 0 Full;
    186 gettid gettid, 0 Full;
    218 set_tid_address set_tid_address, 1 Full;
    231 exit_group exit_group, 1 Full;
    247 waitid waitid, 5 Full;
    272 unshare unshare, 1 Partial("CLONE_FILES, CLONE_FS and CLONE_SYSVSEM only; namespaces are EPERM");
    273 set_robust_list set_robust_list, 2 Full;
    274 get_robust_list get_robust_list, 3 Full;
    308 setns setns, 2 Refused("no namespaces");
    322 execveat execveat, 5 Full;
    424 pidfd_send_signal pidfd_send_signal, 4 Full;
    434 pidfd_open pidfd_open, 2 Full;
    435 clone3 clone3, 2 Partial("no set_tid, no cgroup, no namespaces");
    438 pidfd_getfd pidfd_getfd, 3 Full;
}

fn clone_call(cx: &mut Ctx<'_>, flags: u64, stack: u64, parent_tid: u64, child_tid: u64, tls: u64) -> SysResult {
    // CLONE_PIDFD stores where CLONE_PARENT_SETTID would.
    let both = u64::from(crate::abi::linux::CLONE_PIDFD | crate::abi::linux::CLONE_PARENT_SETTID);
    if flags & both == both {
        return Err(Errno::EINVAL);
    }
    let args = CloneArgs {
        flags: flags & 0xffff_ffff & !u64::from(CSIGNAL),
        exit_signal: (flags & u64::from(CSIGNAL)) as i32,
        stack,
        tls,
        pidfd: parent_tid,
        child_tid,
        parent_tid,
    };
    clone::clone(cx, &args)
}

fn fork(cx: &mut Ctx<'_>) -> SysResult {
    clone::clone(cx, &CloneArgs { exit_signal: SIGCHLD as i32, ..CloneArgs::default() })
}

fn vfork(cx: &mut Ctx<'_>) -> SysResult {
    let flags = u64::from(CLONE_VFORK | CLONE_VM);
    clone::clone(cx, &CloneArgs { flags, exit_signal: SIGCHLD as i32, ..CloneArgs::default() })
}

/// `struct clone_args`, in words.
const CLONE_ARGS_WORDS: usize = 11;
const CLONE_ARGS_VER0: usize = 64;
const CLONE_CLEAR_SIGHAND: u64 = 1 << 32;
const CLONE_INTO_CGROUP: u64 = 1 << 33;
const CLONE_DETACHED: u64 = 0x0040_0000;
const CLONE_NEWTIME: u64 = 0x80;

/// `copy_clone_args_from_user()` and `clone3_args_valid()` in kernel/fork.c.
fn clone3(cx: &mut Ctx<'_>, address: u64, size: usize) -> SysResult {
    let words = clone3_words(cx, address, size)?;
    let [flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup] =
        words;
    if set_tid_size > 32 || (set_tid == 0) != (set_tid_size == 0) {
        return Err(Errno::EINVAL);
    }
    if exit_signal & !u64::from(CSIGNAL) != 0 || exit_signal > 64 {
        return Err(Errno::EINVAL);
    }
    if flags & CLONE_INTO_CGROUP != 0 && (cgroup > i32::MAX as u64 || size < 88) {
        return Err(Errno::EINVAL);
    }
    if set_tid_size > 0 {
        let _: Vec<u32> = cx.mem().read_array(set_tid, set_tid_size as usize)?;
    }
    let known = 0xffff_ffff | CLONE_CLEAR_SIGHAND | CLONE_INTO_CGROUP;
    let has = |flag: u32| flags & u64::from(flag) != 0;
    let bad = flags & !known != 0
        || flags & (CLONE_DETACHED | (u64::from(CSIGNAL) & !CLONE_NEWTIME)) != 0
        || (has(crate::abi::linux::CLONE_SIGHAND) && flags & CLONE_CLEAR_SIGHAND != 0)
        || ((has(crate::abi::linux::CLONE_THREAD) || has(crate::abi::linux::CLONE_PARENT)) && exit_signal != 0)
        || (stack == 0) != (stack_size == 0);
    if bad {
        return Err(Errno::EINVAL);
    }
    crate::mem::check_range(stack, stack_size).map_err(|_| Errno::EINVAL)?;
    if set_tid_size > 0 {
        return Err(Errno::EPERM);
    }
    if flags & CLONE_INTO_CGROUP != 0 {
        // No descriptor here is one of a cgroup directory.
        return Err(Errno::EBADF);
    }
    let args = CloneArgs {
        flags,
        exit_signal: exit_signal as i32,
        stack: stack.wrapping_add(stack_size),
        tls,
        pidfd,
        child_tid,
        parent_tid,
    };
    clone::clone(cx, &args)
}

/// `copy_struct_from_user()`: what is beyond our version must be zero.
fn clone3_words(cx: &mut Ctx<'_>, address: u64, size: usize) -> Result<[u64; CLONE_ARGS_WORDS]> {
    if size > crate::abi::PAGE_SIZE as usize {
        return Err(Errno::E2BIG);
    }
    if size < CLONE_ARGS_VER0 {
        return Err(Errno::EINVAL);
    }
    let mut bytes = vec![0; size];
    cx.mem().read_bytes(address, &mut bytes)?;
    if bytes.iter().skip(CLONE_ARGS_WORDS * 8).any(|byte| *byte != 0) {
        return Err(Errno::E2BIG);
    }
    bytes.resize(CLONE_ARGS_WORDS * 8, 0);
    let mut words = [0; CLONE_ARGS_WORDS];
    for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = chunk.first_chunk::<8>().map_or(0, |chunk| u64::from_le_bytes(*chunk));
    }
    Ok(words)
}

fn execve(cx: &mut Ctx<'_>, path: Addr, argv: u64, envp: u64) -> SysResult {
    execute(cx, Fd(AT_FDCWD), path, argv, envp, 0)
}

fn execveat(cx: &mut Ctx<'_>, dir: Fd, path: Addr, argv: u64, envp: u64, flags: u32) -> SysResult {
    execute(cx, dir, path, argv, envp, flags)
}

fn execute(cx: &mut Ctx<'_>, dir: Fd, path: Addr, argv: u64, envp: u64, flags: u32) -> SysResult {
    let path = cx.mem().read_path(path.0)?;
    if path.is_empty() && flags & AT_EMPTY_PATH == 0 {
        return Err(Errno::ENOENT);
    }
    let filename = match (path.first(), dir.0) {
        (Some(b'/'), _) | (_, AT_FDCWD) => path.clone(),
        (None, fd) => format!("/dev/fd/{fd}").into_bytes(),
        (Some(_), fd) => [format!("/dev/fd/{fd}/").as_bytes(), &path].concat(),
    };
    let limit = rlimit_stack(&cx.task);
    let (argv, envp) = Strings::new(cx.mem()).arguments(&filename, argv, envp, limit)?;
    if flags & !(AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) != 0 {
        return Err(Errno::EINVAL);
    }
    let mut how = if flags & AT_SYMLINK_NOFOLLOW != 0 { Resolve::empty() } else { Resolve::FOLLOW };
    how.set(Resolve::EMPTY, flags & AT_EMPTY_PATH != 0);
    let mut inaccessible = false;
    let base = if dir.0 == AT_FDCWD || path.first() == Some(&b'/') {
        cx.task.fs().cwd()
    } else {
        let entry = cx.task.files().entry(dir.0)?;
        inaccessible = entry.close_on_exec;
        match &entry.file.path {
            Some(place) => place.clone(),
            None => return Err(if path.is_empty() { Errno::EACCES } else { Errno::ENOTDIR }),
        }
    };
    exec::exec(cx, Request { base, path, how, filename, inaccessible, argv, envp })
}

fn exit(cx: &mut Ctx<'_>, code: i32) -> SysResult {
    cx.task.set_exit_status((code & 0xff) << 8);
    cx.after = After::Exit;
    Ok(0)
}

fn exit_group(cx: &mut Ctx<'_>, code: i32) -> SysResult {
    cx.task.process.begin_exit((code & 0xff) << 8);
    cx.after = After::Exit;
    Ok(0)
}

/// `kernel_wait4()`: a negative pid is a process group.
fn wait4(cx: &mut Ctx<'_>, pid: i32, status: Addr, options: u32, rusage: Addr) -> SysResult {
    if options & !(WNOHANG | WUNTRACED | WCONTINUED | __WNOTHREAD | __WCLONE | __WALL) != 0 {
        return Err(Errno::EINVAL);
    }
    let whom = match pid {
        i32::MIN => return Err(Errno::ESRCH),
        -1 => Whom::Any,
        0 => Whom::Group(cx.task.process.pgid()),
        group if group < 0 => Whom::Group(group.unsigned_abs()),
        pid => Whom::Pid(pid.unsigned_abs()),
    };
    let Some(found) = wait::wait(&cx.task, &whom, options | WEXITED)? else { return Ok(0) };
    if let Some(status) = status.non_null() {
        cx.mem().write(status, &found.status)?;
    }
    if let Some(rusage) = rusage.non_null() {
        cx.mem().write(rusage, &found.rusage)?;
    }
    Ok(u64::from(found.pid))
}

/// `kernel_waitid()`.
fn waitid(cx: &mut Ctx<'_>, which: u32, id: i32, info: Addr, options: u32, rusage: Addr) -> SysResult {
    let known = WNOHANG | WNOWAIT | WEXITED | WSTOPPED | WCONTINUED | __WNOTHREAD | __WCLONE | __WALL;
    if options & !known != 0 || options & (WEXITED | WSTOPPED | WCONTINUED) == 0 {
        return Err(Errno::EINVAL);
    }
    let mut options = options;
    let whom = match which {
        P_ALL => Whom::Any,
        P_PID if id > 0 => Whom::Pid(id.unsigned_abs()),
        P_PGID if id > 0 => Whom::Group(id.unsigned_abs()),
        P_PGID if id == 0 => Whom::Group(cx.task.process.pgid()),
        P_PIDFD if id >= 0 => {
            let file = cx.file(Fd(id))?;
            if file.nonblocking() {
                options |= WNOHANG;
            }
            Whom::Process(PidFd::of(&file)?.process().map_err(|_| Errno::ECHILD)?)
        }
        _ => return Err(Errno::EINVAL),
    };
    let found = wait::wait(&cx.task, &whom, options)?;
    // A non-blocking pidfd says so where WNOHANG would be silent.
    if found.is_none()
        && matches!(whom, Whom::Process(_))
        && options & WNOHANG != 0
        && cx.args[3] as u32 & WNOHANG == 0
    {
        return Err(Errno::EAGAIN);
    }
    if let (Some(address), Some(found)) = (rusage.non_null(), &found) {
        cx.mem().write::<Rusage>(address, &found.rusage)?;
    }
    if let Some(address) = info.non_null() {
        cx.mem().write_bytes(address, &waitid_info(found.as_ref()))?;
    }
    Ok(0)
}

/// The fields of `siginfo_t` that `waitid` fills in, up to `si_status`; all zero for nothing found.
fn waitid_info(found: Option<&Waited>) -> [u8; 28] {
    let mut bytes = [0; 28];
    if let Some(found) = found {
        let words = [SIGCHLD as i32, 0, found.code, 0, found.pid as i32, found.uid as i32, found.value];
        for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
    }
    bytes
}

fn getpid(cx: &mut Ctx<'_>) -> SysResult {
    Ok(u64::from(cx.task.pid()))
}

fn gettid(cx: &mut Ctx<'_>) -> SysResult {
    Ok(u64::from(cx.task.tid()))
}

fn getppid(cx: &mut Ctx<'_>) -> SysResult {
    Ok(u64::from(cx.task.process.ppid()))
}

fn getpgrp(cx: &mut Ctx<'_>) -> SysResult {
    Ok(u64::from(cx.task.process.pgid()))
}

/// `find_task_by_vpid()`, as a process: 0 is the caller, a thread's id stands for its process.
fn process_of(cx: &Ctx<'_>, pid: i32) -> Result<std::sync::Arc<Process>> {
    if pid == 0 {
        return Ok(cx.task.process.clone());
    }
    let pid = u32::try_from(pid).map_err(|_| Errno::ESRCH)?;
    let tree = cx.task.world.tree.lock();
    let process = tree.process(pid).or_else(|| tree.task(pid).map(|task| &task.process));
    process.cloned().ok_or(Errno::ESRCH)
}

fn getpgid(cx: &mut Ctx<'_>, pid: i32) -> SysResult {
    Ok(u64::from(process_of(cx, pid)?.pgid()))
}

fn getsid(cx: &mut Ctx<'_>, pid: i32) -> SysResult {
    Ok(u64::from(process_of(cx, pid)?.sid()))
}

/// `SYSCALL_DEFINE2(setpgid)` in kernel/sys.c.
fn setpgid(cx: &mut Ctx<'_>, pid: i32, pgid: i32) -> SysResult {
    let caller = &cx.task.process;
    let pid = if pid == 0 { caller.pid as i32 } else { pid };
    let pgid = if pgid == 0 { pid } else { pgid };
    if pgid < 0 {
        return Err(Errno::EINVAL);
    }
    crate::task::set_group(caller, pid as u32, pgid as u32)?;
    Ok(0)
}

fn setsid(cx: &mut Ctx<'_>) -> SysResult {
    crate::task::new_session(&cx.task.process).map(u64::from)
}

fn set_tid_address(cx: &mut Ctx<'_>, address: u64) -> SysResult {
    cx.task.clear_child_tid.store(address, Ordering::Relaxed);
    Ok(u64::from(cx.task.tid()))
}

/// `sizeof(struct robust_list_head)`.
const ROBUST_HEAD: u64 = 24;

fn set_robust_list(cx: &mut Ctx<'_>, head: u64, len: u64) -> SysResult {
    if len != ROBUST_HEAD {
        return Err(Errno::EINVAL);
    }
    cx.task.robust_list.store(head, Ordering::Relaxed);
    Ok(0)
}

fn get_robust_list(cx: &mut Ctx<'_>, tid: i32, head: u64, len: u64) -> SysResult {
    let task = match tid {
        0 => cx.task.clone(),
        tid => cx.task.world.task(tid as u32).ok_or(Errno::ESRCH)?,
    };
    let (mine, theirs) = (cx.task.cred(), task.cred());
    let same = mine.uid == theirs.euid && mine.uid == theirs.suid && mine.uid == theirs.uid;
    if !same && !mine.capable(Caps::SYS_PTRACE) {
        return Err(Errno::EPERM);
    }
    let address = task.robust_list.load(Ordering::Relaxed);
    cx.mem().write(len, &ROBUST_HEAD)?;
    cx.mem().write(head, &address)?;
    Ok(0)
}

/// `ksys_unshare()`: what can be unshared without namespaces.
fn unshare(cx: &mut Ctx<'_>, flags: u64) -> SysResult {
    use crate::abi::linux::{
        CLONE_FILES, CLONE_FS, CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID,
        CLONE_NEWTIME, CLONE_NEWUSER, CLONE_NEWUTS, CLONE_SIGHAND, CLONE_SYSVSEM, CLONE_THREAD,
    };
    let namespaces = u64::from(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET)
        | u64::from(CLONE_NEWCGROUP | CLONE_NEWUSER | CLONE_NEWTIME);
    let threads = u64::from(CLONE_THREAD | CLONE_SIGHAND | CLONE_VM);
    let plain = u64::from(CLONE_FILES | CLONE_FS | CLONE_SYSVSEM);
    if flags & !(namespaces | threads | plain) != 0 {
        return Err(Errno::EINVAL);
    }
    if flags & threads != 0 && cx.task.process.tasks().len() > 1 {
        return Err(Errno::EINVAL);
    }
    if flags & namespaces != 0 {
        return Err(Errno::EPERM);
    }
    if flags & u64::from(CLONE_FILES) != 0 {
        cx.task.unshare_files();
    }
    if flags & u64::from(CLONE_FS) != 0 {
        cx.task.unshare_fs();
    }
    Ok(0)
}

fn setns(cx: &mut Ctx<'_>, fd: Fd, _kind: u32) -> SysResult {
    cx.file(fd)?;
    Err(Errno::EINVAL)
}

fn pidfd_open(cx: &mut Ctx<'_>, pid: i32, flags: u32) -> SysResult {
    use crate::abi::linux::O_NONBLOCK;
    if flags & !O_NONBLOCK != 0 || pid <= 0 {
        return Err(Errno::EINVAL);
    }
    let pid = pid as u32;
    let process = {
        let tree = cx.task.world.tree.lock();
        match (tree.process(pid), tree.task(pid)) {
            (Some(process), _) => process.clone(),
            // A thread that leads no process (before PIDFD_THREAD).
            (None, Some(_)) => return Err(Errno::EINVAL),
            (None, None) => return Err(Errno::ESRCH),
        }
    };
    let file = PidFd::open(&process, flags & O_NONBLOCK != 0);
    let fd = cx.task.files().install(FdEntry { file, close_on_exec: true }, 0, cx.task.nofile())?;
    Ok(fd as u64)
}

fn pidfd_send_signal(cx: &mut Ctx<'_>, pidfd: Fd, number: i32, info: Addr, flags: u32) -> SysResult {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let file = cx.file(pidfd)?;
    // An open /proc/PID will do as well.
    let target = match proc::process_of(&file) {
        Some(process) if process.is_reaped() => Err(Errno::ESRCH),
        Some(process) => Ok(process),
        None => PidFd::of(&file)?.process(),
    };
    let own = target.as_ref().is_ok_and(|process| std::sync::Arc::ptr_eq(process, &cx.task.process));
    let info = match info.non_null() {
        None => None,
        Some(info) => {
            let info: SigInfo = cx.mem().read(info)?;
            if info.signo != number {
                return Err(Errno::EINVAL);
            }
            if !own && (info.code >= 0 || info.code == SI_TKILL) {
                return Err(Errno::EPERM);
            }
            Some(info)
        }
    };
    let process = target?;
    let signal = Signal::or_probe(number)?;
    signal::check_permission(&cx.task, &process, signal)?;
    if let Some(signal) = signal {
        let plain = SigInfo::user(signal, cx.task.pid(), cx.task.cred().uid);
        signal::send_to_process(&process, signal, info.unwrap_or(plain))?;
    }
    Ok(0)
}

/// Duplicates a descriptor of another process, as who may trace it may (`PTRACE_MODE_ATTACH_REALCREDS`).
fn pidfd_getfd(cx: &mut Ctx<'_>, pidfd: Fd, target: i32, flags: u32) -> SysResult {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let process = PidFd::of(&*cx.file(pidfd)?)?.process()?;
    let task = process.any_task().ok_or(Errno::ESRCH)?;
    let (mine, theirs) = (cx.task.cred(), task.cred());
    let same = [theirs.uid, theirs.euid, theirs.suid].iter().all(|uid| *uid == mine.uid)
        && [theirs.gid, theirs.egid, theirs.sgid].iter().all(|gid| *gid == mine.gid);
    if !same && !mine.capable(Caps::SYS_PTRACE) {
        return Err(Errno::EPERM);
    }
    let file = task.files().get(target)?;
    let fd = cx.task.files().install(FdEntry { file, close_on_exec: true }, 0, cx.task.nofile())?;
    Ok(fd as u64)
}
