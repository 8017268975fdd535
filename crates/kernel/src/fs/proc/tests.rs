//! `/proc`, `/sys` and `/dev` as a guest reads them, on the mock platform.

use std::sync::Arc;

use crate::abi::linux as l;
use crate::abi::types::Stat;
use crate::fs::mem::Budget;
use crate::fs::mount_standard;
use crate::task::Cred;
use crate::task::testing::{Guest, MEMORY, world};
use crate::world::World;
use crate::{Errno, Result, SysResult};

const PATH: u64 = MEMORY;
const BUFFER: u64 = MEMORY + 8192;

fn furnished() -> Arc<World> {
    let world = world();
    mount_standard(&world, &Budget::new(1 << 20)).unwrap();
    world
}

fn guest() -> Guest {
    Guest::in_world(&furnished(), 2)
}

fn put_path(guest: &Guest, path: &str) {
    let mut bytes = path.as_bytes().to_vec();
    bytes.push(0);
    guest.put(PATH, bytes.as_slice());
}

fn open(guest: &mut Guest, path: &str, flags: u32) -> Result<u64> {
    put_path(guest, path);
    guest.call(u64::from(l::__NR_open), &[PATH, u64::from(flags), 0])
}

fn read_fd(guest: &mut Guest, fd: u64, count: usize) -> Result<Vec<u8>> {
    let got = guest.call(u64::from(l::__NR_read), &[fd, BUFFER, count as u64])?;
    Ok((0..got).map(|at| guest.get::<u8>(BUFFER + at)).collect())
}

fn read(guest: &mut Guest, path: &str) -> Result<String> {
    let fd = open(guest, path, l::O_RDONLY)?;
    let mut text = Vec::new();
    loop {
        let part = read_fd(guest, fd, 4096)?;
        if part.is_empty() {
            break;
        }
        text.extend(part);
    }
    guest.call(u64::from(l::__NR_close), &[fd])?;
    Ok(String::from_utf8(text).unwrap())
}

fn write(guest: &mut Guest, path: &str, text: &str) -> SysResult {
    let fd = open(guest, path, l::O_WRONLY)?;
    guest.put(BUFFER, text.as_bytes());
    let result = guest.call(u64::from(l::__NR_write), &[fd, BUFFER, text.len() as u64]);
    guest.call(u64::from(l::__NR_close), &[fd])?;
    result
}

fn readlink(guest: &mut Guest, path: &str) -> Result<String> {
    put_path(guest, path);
    let count = guest.call(u64::from(l::__NR_readlink), &[PATH, BUFFER, 4096])?;
    Ok((0..count).map(|at| char::from(guest.get::<u8>(BUFFER + at))).collect())
}

#[test]
fn a_process_tells_of_itself() {
    let mut guest = guest();
    assert_eq!(readlink(&mut guest, "/proc/self").unwrap(), "2");
    assert_eq!(readlink(&mut guest, "/proc/thread-self").unwrap(), "2/task/2");
    assert_eq!(readlink(&mut guest, "/proc/self/cwd").unwrap(), "/");
    let stat = read(&mut guest, "/proc/self/stat").unwrap();
    assert!(stat.starts_with("2 (test) "), "{stat}");
    assert_eq!(stat.split(' ').count(), 52);
    assert_eq!(stat, read(&mut guest, "/proc/2/task/2/stat").unwrap());
    assert_eq!(read(&mut guest, "/proc/self/statm").unwrap().split(' ').count(), 7);
    let status = read(&mut guest, "/proc/thread-self/status").unwrap();
    for line in ["Name:\ttest\n", "Pid:\t2\n", "Uid:\t0\t0\t0\t0\n", "Cpus_allowed_list:\t0\n", "Threads:\t1\n"] {
        assert!(status.contains(line), "{line} is missing in {status}");
    }
    let maps = read(&mut guest, "/proc/self/maps").unwrap();
    assert!(maps.starts_with("00100000-00101000 rw-p 00000000 00:00 0 \n"), "{maps}");
    assert_eq!(read(&mut guest, "/proc/self/cgroup").unwrap(), "0::/\n");
    assert_eq!(read(&mut guest, "/proc/99/stat"), Err(Errno::ENOENT));
    assert_eq!(read(&mut guest, "/proc/02/stat"), Err(Errno::ENOENT));
}

#[test]
fn partial_reads_see_one_text() {
    let mut guest = guest();
    let fd = open(&mut guest, "/proc/self/status", l::O_RDONLY).unwrap();
    let mut text = read_fd(&mut guest, fd, 6).unwrap();
    guest.task.set_comm(b"renamed");
    while let Ok(part) = read_fd(&mut guest, fd, 7)
        && !part.is_empty()
    {
        text.extend(part);
    }
    assert!(text.starts_with(b"Name:\ttest\nUmask:"));
    guest.call(u64::from(l::__NR_lseek), &[fd, 0, 0]).unwrap();
    assert_eq!(read_fd(&mut guest, fd, 13).unwrap(), b"Name:\trenamed");
}

#[test]
fn names_and_adjustments_can_be_written() {
    let mut guest = guest();
    assert_eq!(write(&mut guest, "/proc/self/comm", "a name that is too long\n"), Ok(24));
    assert_eq!(read(&mut guest, "/proc/self/comm").unwrap(), "a name that is \n");
    assert_eq!(write(&mut guest, "/proc/self/oom_score_adj", "300\n"), Ok(4));
    assert_eq!(read(&mut guest, "/proc/self/oom_score_adj").unwrap(), "300\n");
    assert_eq!(read(&mut guest, "/proc/self/oom_adj").unwrap(), "5\n");
    assert_eq!(write(&mut guest, "/proc/self/oom_score_adj", "1001"), Err(Errno::EINVAL));
    assert_eq!(write(&mut guest, "/proc/sys/kernel/hostname", "vessel\n"), Ok(7));
    assert_eq!(read(&mut guest, "/proc/sys/kernel/hostname").unwrap(), "vessel\n");
    // Root, too, may not set what is the host's.
    assert_eq!(write(&mut guest, "/proc/sys/vm/swappiness", "1"), Err(Errno::EACCES));
}

#[test]
fn others_see_what_is_public() {
    let world = furnished();
    let root = Guest::in_world(&world, 2);
    let mut other = Guest::in_world(&world, 3);
    other.task.set_cred(Cred::new(1000, 1000, Vec::new()));
    assert!(read(&mut other, "/proc/2/status").is_ok());
    assert_eq!(read(&mut other, "/proc/2/environ"), Err(Errno::EACCES));
    assert_eq!(read(&mut other, "/proc/2/maps"), Err(Errno::EACCES));
    assert_eq!(readlink(&mut other, "/proc/2/exe"), Err(Errno::EACCES));
    assert_eq!(open(&mut other, "/proc/2/fd", l::O_RDONLY), Err(Errno::EACCES));
    assert_eq!(open(&mut other, "/proc/2/mem", l::O_RDONLY), Err(Errno::EACCES));
    assert!(read(&mut other, "/proc/3/environ").is_ok());
    assert!(open(&mut other, "/proc/self/fd", l::O_RDONLY).is_ok());
    assert_eq!(write(&mut other, "/proc/2/comm", "x"), Err(Errno::EACCES));
    drop(root);
}

#[test]
fn descriptors_are_links() {
    let mut guest = guest();
    let fd = open(&mut guest, "/dev/null", l::O_RDWR | l::O_CLOEXEC).unwrap();
    assert_eq!(readlink(&mut guest, &format!("/proc/self/fd/{fd}")).unwrap(), "/dev/null");
    let info = read(&mut guest, &format!("/proc/self/fdinfo/{fd}")).unwrap();
    assert!(info.starts_with("pos:\t0\nflags:\t02100002\nmnt_id:\t"), "{info}");
    assert_eq!(readlink(&mut guest, "/proc/self/fd/77"), Err(Errno::ENOENT));
    let again = open(&mut guest, &format!("/dev/fd/{fd}"), l::O_RDONLY).unwrap();
    assert_eq!(readlink(&mut guest, &format!("/proc/self/fd/{again}")).unwrap(), "/dev/null");
}

#[test]
fn the_size_is_what_was_granted() {
    let mut guest = guest();
    let meminfo = read(&mut guest, "/proc/meminfo").unwrap();
    assert!(meminfo.starts_with("MemTotal:        1048576 kB\n"), "{meminfo}");
    assert!(
        read(&mut guest, "/sys/devices/system/node/node0/meminfo")
            .unwrap()
            .contains("MemTotal:        1048576 kB")
    );
    assert_eq!(read(&mut guest, "/sys/devices/system/cpu/online").unwrap(), "0\n");
    assert_eq!(read(&mut guest, "/sys/devices/system/cpu/cpu0/online").unwrap(), "1\n");
    assert_eq!(read(&mut guest, "/sys/devices/system/cpu/cpu1/online"), Err(Errno::ENOENT));
    assert_eq!(read(&mut guest, "/sys/fs/cgroup/cpu.max").unwrap(), "100000 100000\n");
    assert_eq!(read(&mut guest, "/sys/fs/cgroup/memory.max").unwrap(), "max\n");
    assert_eq!(read(&mut guest, "/sys/fs/cgroup/pids.current").unwrap(), "1\n");
    assert_eq!(read(&mut guest, "/sys/fs/cgroup/cgroup.procs").unwrap(), "2\n");
    let stat = read(&mut guest, "/proc/stat").unwrap();
    assert_eq!(stat.lines().filter(|line| line.starts_with("cpu")).count(), 2);
    let mounts = read(&mut guest, "/proc/mounts").unwrap();
    assert!(mounts.contains("proc /proc proc rw,nosuid,nodev,noexec,relatime 0 0\n"), "{mounts}");
    assert!(mounts.contains("cgroup2 /sys/fs/cgroup cgroup2 "), "{mounts}");
}

#[test]
fn devices_do_what_they_are_for() {
    let mut guest = guest();
    let zero = open(&mut guest, "/dev/zero", l::O_RDWR).unwrap();
    guest.put(BUFFER, [1u8; 64].as_slice());
    assert_eq!(read_fd(&mut guest, zero, 64).unwrap(), [0; 64]);
    assert_eq!(guest.call(u64::from(l::__NR_read), &[zero, BUFFER, 200_000]), Ok(200_000));
    let null = open(&mut guest, "/dev/null", l::O_RDWR).unwrap();
    assert_eq!(read_fd(&mut guest, null, 64).unwrap(), []);
    assert_eq!(guest.call(u64::from(l::__NR_write), &[null, BUFFER, 64]), Ok(64));
    assert_eq!(write(&mut guest, "/dev/full", "x"), Err(Errno::ENOSPC));
    let random = open(&mut guest, "/dev/urandom", l::O_RDONLY).unwrap();
    assert_ne!(read_fd(&mut guest, random, 32).unwrap(), read_fd(&mut guest, random, 32).unwrap());
    assert_eq!(open(&mut guest, "/dev/tty", l::O_RDWR), Err(Errno::ENXIO));
    put_path(&guest, "/dev/urandom");
    guest.call(u64::from(l::__NR_stat), &[PATH, BUFFER]).unwrap();
    let stat: Stat = guest.get(BUFFER);
    assert_eq!((stat.st_mode, stat.st_rdev), (0o020_666, crate::fs::make_dev(1, 9)));
}

#[test]
fn memory_can_be_read_and_poked() {
    let mut guest = guest();
    // The mock's limit on file sizes is small.
    guest.task.process.rlimits.lock()[l::RLIMIT_FSIZE as usize].cur = u64::MAX;
    guest.put(BUFFER + 4096, b"secret".as_slice());
    let fd = open(&mut guest, "/proc/self/mem", l::O_RDWR).unwrap();
    let count = guest.call(u64::from(l::__NR_pread64), &[fd, BUFFER, 6, BUFFER + 4096]).unwrap();
    assert_eq!((count, guest.get::<[u8; 6]>(BUFFER)), (6, *b"secret"));
    assert_eq!(guest.call(u64::from(l::__NR_pread64), &[fd, BUFFER, 6, 4096]), Err(Errno::EIO));
    guest.put(BUFFER, b"public".as_slice());
    assert_eq!(guest.call(u64::from(l::__NR_pwrite64), &[fd, BUFFER, 6, BUFFER + 4096]), Ok(6));
    assert_eq!(guest.get::<[u8; 6]>(BUFFER + 4096), *b"public");
}
