//! The system as a whole: its name, size and randomness, and what only administrators of a real machine do.

use zerocopy::{Immutable, IntoBytes};
use zeroize::Zeroize;

use crate::abi::PAGE_SIZE;
use crate::call::{Addr, Ctx};
use crate::task::Caps;
use crate::world::World;
use crate::{Errno, SysResult};

crate::calls! {
    63 uname uname, 1 Full;
    99 sysinfo sysinfo, 1 Full;
    103 syslog syslog, 3 Partial("an empty log");
    153 vhangup privileged, 0 Refused("EPERM");
    154 modify_ldt modify_ldt, 3 Refused("no segments of one's own in 64-bit programs");
    155 pivot_root privileged2, 2 Refused("EPERM");
    163 acct privileged1, 1 Refused("EPERM");
    165 mount privileged5, 5 Refused("EPERM");
    166 umount2 privileged2, 2 Refused("EPERM");
    167 swapon privileged2, 2 Refused("EPERM");
    168 swapoff privileged1, 1 Refused("EPERM");
    169 reboot reboot, 4 Refused("EPERM");
    170 sethostname sethostname, 2 Full;
    171 setdomainname setdomainname, 2 Full;
    172 iopl privileged1, 1 Refused("EPERM");
    173 ioperm privileged3, 3 Refused("EPERM");
    175 init_module privileged3, 3 Refused("EPERM");
    176 delete_module privileged2, 2 Refused("EPERM");
    179 quotactl privileged4, 4 Refused("EPERM");
    246 kexec_load privileged4, 4 Refused("EPERM");
    298 perf_event_open perf_event_open, 5 Refused("EACCES");
    300 fanotify_init privileged2, 2 Refused("EPERM");
    304 open_by_handle_at privileged3, 3 Refused("EPERM");
    312 kcmp kcmp, 5 Full;
    313 finit_module privileged3, 3 Refused("EPERM");
    318 getrandom getrandom, 3 Full;
    320 kexec_file_load privileged5, 5 Refused("EPERM");
    321 bpf privileged3, 3 Refused("EPERM");
    323 userfaultfd privileged1, 1 Refused("EPERM");
    428 open_tree privileged3, 3 Refused("EPERM");
    429 move_mount privileged5, 5 Refused("EPERM");
    430 fsopen privileged2, 2 Refused("EPERM");
    431 fsconfig privileged5, 5 Refused("EPERM");
    432 fsmount privileged3, 3 Refused("EPERM");
    433 fspick privileged3, 3 Refused("EPERM");
    442 mount_setattr privileged5, 5 Refused("EPERM");
}

/// What `uname -r` says: the kernel whose calls are the model.
pub const RELEASE: &str = "6.6.0-coracle";
/// And `uname -v`.
pub const VERSION: &str = "#1 SMP PREEMPT_DYNAMIC Coracle";

fn privileged(_cx: &mut Ctx<'_>) -> SysResult {
    Err(Errno::EPERM)
}

fn privileged1(_cx: &mut Ctx<'_>, _: u64) -> SysResult {
    Err(Errno::EPERM)
}

fn privileged2(_cx: &mut Ctx<'_>, _: u64, _: u64) -> SysResult {
    Err(Errno::EPERM)
}

fn privileged3(_cx: &mut Ctx<'_>, _: u64, _: u64, _: u64) -> SysResult {
    Err(Errno::EPERM)
}

/// Of those who may, Linux looks at the magic numbers next (`SYSCALL_DEFINE4(reboot)`); nobody here may.
fn reboot(cx: &mut Ctx<'_>, magic1: u32, magic2: u32, _command: u32, _argument: u64) -> SysResult {
    const MAGIC1: u32 = 0xfee1_dead;
    const MAGIC2: [u32; 4] = [672_274_793, 85_072_278, 369_367_448, 537_993_216];
    let right = magic1 == MAGIC1 && MAGIC2.contains(&magic2);
    Err(if cx.task.cred().capable(Caps::SYS_BOOT) && !right { Errno::EINVAL } else { Errno::EPERM })
}

fn privileged4(_cx: &mut Ctx<'_>, _: u64, _: u64, _: u64, _: u64) -> SysResult {
    Err(Errno::EPERM)
}

fn privileged5(_cx: &mut Ctx<'_>, _: u64, _: u64, _: u64, _: u64, _: u64) -> SysResult {
    Err(Errno::EPERM)
}

/// As with `perf_event_paranoid` at 3.
fn perf_event_open(_cx: &mut Ctx<'_>, _: u64, _: u64, _: u64, _: u64, _: u64) -> SysResult {
    Err(Errno::EACCES)
}

fn modify_ldt(_cx: &mut Ctx<'_>, _: u64, _: u64, _: u64) -> SysResult {
    Err(Errno::ENOSYS)
}

/// The six fields of `struct new_utsname`.
pub fn utsname(world: &World) -> [Vec<u8>; 6] {
    [
        b"Linux".to_vec(),
        world.hostname.lock().clone(),
        RELEASE.into(),
        VERSION.into(),
        b"x86_64".to_vec(),
        world.domainname.lock().clone(),
    ]
}

const FIELD: usize = 65;

/// `struct new_utsname` (include/uapi/linux/utsname.h).
pub fn new_utsname(world: &World) -> [u8; 6 * FIELD] {
    let mut bytes = [0; 6 * FIELD];
    for (place, field) in bytes.chunks_exact_mut(FIELD).zip(utsname(world)) {
        for (byte, value) in place.iter_mut().take(FIELD - 1).zip(field) {
            *byte = value;
        }
    }
    bytes
}

fn uname(cx: &mut Ctx<'_>, to: u64) -> SysResult {
    let bytes = new_utsname(&cx.task.world);
    cx.mem().write_bytes(to, &bytes)?;
    Ok(0)
}

/// A name has changed: threads that answer `uname` themselves learn it before the change is reported.
pub fn names_changed(world: &World) {
    for process in world.processes() {
        for task in process.tasks() {
            task.publish_answers();
        }
    }
}

fn read_name(cx: &mut Ctx<'_>, from: u64, len: i32) -> Result<Vec<u8>, Errno> {
    if !cx.task.cred().capable(Caps::SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    if !(0..FIELD as i32).contains(&len) {
        return Err(Errno::EINVAL);
    }
    let mut name = vec![0; len as usize];
    cx.mem().read_bytes(from, &mut name)?;
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    name.truncate(end);
    Ok(name)
}

fn sethostname(cx: &mut Ctx<'_>, from: u64, len: i32) -> SysResult {
    let name = read_name(cx, from, len)?;
    *cx.task.world.hostname.lock() = name;
    names_changed(&cx.task.world);
    Ok(0)
}

fn setdomainname(cx: &mut Ctx<'_>, from: u64, len: i32) -> SysResult {
    let name = read_name(cx, from, len)?;
    *cx.task.world.domainname.lock() = name;
    names_changed(&cx.task.world);
    Ok(0)
}

/// `struct sysinfo`.
#[repr(C)]
#[derive(IntoBytes, Immutable)]
struct Sysinfo {
    uptime: i64,
    loads: [u64; 3],
    totalram: u64,
    freeram: u64,
    sharedram: u64,
    bufferram: u64,
    totalswap: u64,
    freeswap: u64,
    procs: u16,
    pad: [u8; 6],
    totalhigh: u64,
    freehigh: u64,
    mem_unit: u32,
    tail: [u8; 4],
}

const _: () = assert!(size_of::<Sysinfo>() == 112);

/// Whole seconds, as `do_sysinfo()` counts them.
fn rounded_up(time: std::time::Duration) -> i64 {
    i64::try_from(time.as_secs() + u64::from(time.subsec_nanos() > 0)).unwrap_or(i64::MAX)
}

fn sysinfo(cx: &mut Ctx<'_>, to: u64) -> SysResult {
    let world = cx.task.world.clone();
    let memory = crate::fs::proc::memory(&world);
    let loads = world.proc.load.lock().look(&world);
    let info = Sysinfo {
        uptime: rounded_up(world.uptime()),
        // Fixed point with 16 bits behind the point (`SI_LOAD_SHIFT`).
        loads: loads.map(|load| (load * 65536.0) as u64),
        totalram: world.config.memory,
        freeram: memory.free,
        sharedram: memory.shared,
        bufferram: 0,
        totalswap: 0,
        freeswap: 0,
        procs: u16::try_from(world.tree.lock().thread_count()).unwrap_or(u16::MAX),
        pad: [0; 6],
        totalhigh: 0,
        freehigh: 0,
        mem_unit: 1,
        tail: [0; 4],
    };
    cx.mem().write(to, &info)?;
    Ok(0)
}

/// An empty log, to be read by whoever may (`dmesg_restrict` is on).
fn syslog(cx: &mut Ctx<'_>, kind: i32, to: Addr, len: i32) -> SysResult {
    const SIZE_BUFFER: i32 = 10;
    if !cx.task.cred().capable(Caps::SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    let reads = (2..=4).contains(&kind);
    if reads && (to.non_null().is_none() || len < 0) {
        return Err(Errno::EINVAL);
    }
    match kind {
        0..=9 => Ok(0),
        SIZE_BUFFER => Ok(1 << 18),
        _ => Err(Errno::EINVAL),
    }
}

fn getrandom(cx: &mut Ctx<'_>, to: u64, len: u64, flags: u32) -> SysResult {
    const RANDOM: u32 = 2;
    const INSECURE: u32 = 4;
    if flags & !(1 | RANDOM | INSECURE) != 0 || flags & (RANDOM | INSECURE) == RANDOM | INSECURE {
        return Err(Errno::EINVAL);
    }
    let len = usize::try_from(len).unwrap_or(usize::MAX).min(crate::mem::MAX_RW);
    crate::mem::check_range(to, len as u64)?;
    if len <= 256 {
        let mut bytes = [0; 256];
        let bytes = bytes.get_mut(..len).unwrap_or_default();
        let control = cx.task.control();
        cx.task.random.lock().serve(&*control, bytes)?;
        // What fits counts, if the rest has no page.
        let put = if to % PAGE_SIZE + len as u64 <= PAGE_SIZE {
            cx.mem().write_bytes(to, bytes).map(|()| len)
        } else {
            Some(cx.mem().write_now(to, bytes)).filter(|put| *put > 0).ok_or(Errno::EFAULT)
        };
        bytes.zeroize();
        return put.map(|put| put as u64);
    }
    let mut bytes = vec![0; len.min(1 << 16)];
    let mut done = 0;
    while done < len {
        let want = bytes.len().min(len - done);
        let part = bytes.get_mut(..want).unwrap_or_default();
        crate::world::random_bytes(part)?;
        let put = cx.mem().write_now(to.wrapping_add(done as u64), part);
        done += put;
        if put < want {
            return if done > 0 { Ok(done as u64) } else { Err(Errno::EFAULT) };
        }
        // Large requests may be interrupted after a page (`get_random_bytes_user()`).
        if cx.task.interrupted() {
            break;
        }
    }
    Ok(done as u64)
}

/// `kcmp_ptr()`: 0 same, 1 less, 2 greater.
fn order(a: usize, b: usize) -> u64 {
    match a.cmp(&b) {
        std::cmp::Ordering::Equal => 0,
        std::cmp::Ordering::Less => 1,
        std::cmp::Ordering::Greater => 2,
    }
}

fn kcmp(cx: &mut Ctx<'_>, pid1: i32, pid2: i32, kind: i32, index1: u64, index2: u64) -> SysResult {
    use std::sync::Arc;
    let find = |pid: i32| cx.task.world.task(pid as u32).ok_or(Errno::ESRCH);
    let (one, two) = (find(pid1)?, find(pid2)?);
    let mine = cx.task.cred();
    if [&one, &two].iter().any(|task| task.cred().uid != mine.uid) && !mine.capable(Caps::SYS_PTRACE) {
        return Err(Errno::EPERM);
    }
    let file = |task: &crate::task::Task, index: u64| {
        let fd = i32::try_from(index).map_err(|_| Errno::EBADF)?;
        task.files().get(fd).map(|file| Arc::as_ptr(&file) as usize)
    };
    let process = |task: &crate::task::Task| Arc::as_ptr(&task.process) as usize;
    match kind {
        0 => Ok(order(file(&one, index1)?, file(&two, index2)?)),
        1 => Ok(order(Arc::as_ptr(&one.mm()) as usize, Arc::as_ptr(&two.mm()) as usize)),
        2 => Ok(order(Arc::as_ptr(&one.files()) as usize, Arc::as_ptr(&two.files()) as usize)),
        3 => Ok(order(Arc::as_ptr(&one.fs()) as usize, Arc::as_ptr(&two.fs()) as usize)),
        // Handlers and semaphore undo lists go with the process; who has no such list has the same as others without.
        4 => Ok(order(process(&one), process(&two))),
        6 => {
            let list = |task: &crate::task::Task| {
                let has = cx.task.world.ipc.sysv.has_undo(&task.process);
                if has { process(task) } else { 0 }
            };
            Ok(order(list(&one), list(&two)))
        }
        // No block device here: nobody has an I/O context.
        5 => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}
