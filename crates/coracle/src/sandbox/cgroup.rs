//! `--memory` as a wall of the host's: a control group (cgroups(7)) that holds the workers and nothing else.
//!
//! The first worker is put into it before it runs anything, and all others are its descendants. The kernel process stays
//! outside: guests' files in memory are its own, and are counted by sampling (`kernel/src/task/memory_watch.rs`), which
//! goes on as without a group. So the group is there for who fills memory faster than one can look.
//!
//! What is needed later is opened here, before the kernel process is confined; then it may only remove the group.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, openat, unlinkat};
use rustix::process::{Pid, Signal, kill_process};

/// Above what guests are granted: workers' page tables, ports and shim are charged to the group, and are not theirs.
const OWN: u64 = 8 << 20;
/// Names of groups begin so; the pid of the kernel process follows.
const PREFIX: &str = "coracle-";
/// A directory, for what is done in it.
const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// How long workers may take to be gone.
const PATIENCE: Duration = Duration::from_secs(2);

/// The group of a sandbox.
pub struct Group {
    parent: PathBuf,
    /// The same, opened.
    directory: OwnedFd,
    name: String,
    version: u8,
    members: File,
    /// Counts who was killed for want of memory.
    events: File,
}

impl Group {
    /// A group below this process's own one. It limits memory to `limit`, and says why it cannot.
    pub fn make(limit: u64) -> Result<Group, String> {
        let own =
            fs::read_to_string("/proc/self/cgroup").map_err(|error| format!("/proc/self/cgroup: {error}"))?;
        let mounts = fs::read_to_string("/proc/self/mountinfo")
            .map_err(|error| format!("/proc/self/mountinfo: {error}"))?;
        let (version, parent) = parent(&own, &mounts).ok_or("no memory controller is mounted")?;
        sweep(&parent);
        let made = Group::make_below(&parent, version, limit);
        made.map_err(|error| format!("version {version}, {}: {error}", parent.display()))
    }

    fn make_below(parent: &Path, version: u8, limit: u64) -> io::Result<Group> {
        let directory = rustix::fs::open(parent, DIRECTORY, Mode::empty())?;
        let name = format!("{PREFIX}{}", std::process::id());
        mkdirat(&directory, &name, Mode::from_raw_mode(0o755))?;
        let limited = Group::limit(&directory, &name, version, limit.saturating_add(OWN));
        match limited {
            Ok((members, events)) => {
                Ok(Group { parent: parent.to_owned(), directory, name, version, members, events })
            }
            Err(error) => {
                let _ = unlinkat(&directory, &name, AtFlags::REMOVEDIR);
                Err(error)
            }
        }
    }

    /// Sets the limit; swapping does not get around it, where the host counts that.
    fn limit(parent: &OwnedFd, name: &str, version: u8, limit: u64) -> io::Result<(File, File)> {
        let group = openat(parent, name, DIRECTORY, Mode::empty())?;
        let open = |file: &str, flags: OFlags| {
            openat(&group, file, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty()).map(File::from)
        };
        let set = |file: &str, value: u64| open(file, OFlags::WRONLY)?.write_all(value.to_string().as_bytes());
        let events = if version == 1 {
            set("memory.limit_in_bytes", limit)?;
            let _ = set("memory.memsw.limit_in_bytes", limit);
            "memory.oom_control"
        } else {
            match set("memory.max", limit) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(io::Error::other("the memory controller is not delegated"));
                }
                other => other?,
            }
            let _ = set("memory.swap.max", 0);
            "memory.events"
        };
        Ok((open("cgroup.procs", OFlags::RDWR)?, open(events, OFlags::RDONLY)?))
    }

    /// The group that this one is in, and which version of cgroups that is.
    pub fn parent(&self) -> (u8, &Path) {
        (self.version, &self.parent)
    }

    /// Moves a process in, and whatever it makes from now on.
    pub fn take_in(&self, pid: i32) -> io::Result<()> {
        (&self.members).write_all(pid.to_string().as_bytes())
    }

    /// How many processes the host has ended so far for want of memory.
    pub fn killed(&self) -> u64 {
        let mut text = [0; 1024];
        let count = self.events.read_at(&mut text, 0).unwrap_or(0);
        let text = String::from_utf8_lossy(text.get(..count).unwrap_or_default());
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
    }

    fn kill_members(&self) {
        let mut text = [0; 4096];
        let count = self.members.read_at(&mut text, 0).unwrap_or(0);
        let text = String::from_utf8_lossy(text.get(..count).unwrap_or_default());
        for pid in text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

impl Group {
    /// Ends who is left in it and removes it.
    pub fn end(&self) {
        let until = Instant::now() + PATIENCE;
        while let Err(error) = unlinkat(&self.directory, &self.name, AtFlags::REMOVEDIR) {
            if error != rustix::io::Errno::BUSY || until < Instant::now() {
                log::warn!("the control group {}/{} stays: {error}", self.parent.display(), self.name);
                return;
            }
            self.kill_members();
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Ends a group when it goes out of scope.
pub struct Ending(pub Option<Arc<Group>>);

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(group) = &self.0 {
            group.end();
        }
    }
}

/// Removes groups of kernel processes that were killed.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse::<u32>().ok());
        if let Some(pid) = pid
            && !Path::new("/proc").join(pid.to_string()).exists()
        {
            // Nobody is in it any more, or it stays.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// Version and directory of the group that counts this process's memory: its line of `/proc/self/cgroup`, below the
/// mount of its hierarchy in `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
fn parent(own: &str, mounts: &str) -> Option<(u8, PathBuf)> {
    let lines = own.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':');
        Some((fields.next()?, fields.next()?, fields.next()?))
    });
    let mut unified = None;
    for (number, controllers, path) in lines {
        if controllers.split(',').any(|controller| controller == "memory") {
            let counts = |options: &str| options.split(',').any(|option| option == "memory");
            return Some((1, place(path, mounts, "cgroup", counts)?));
        }
        if number == "0" {
            unified = place(path, mounts, "cgroup2", |_| true).map(|place| (2, place));
        }
    }
    unified
}

fn place(path: &str, mounts: &str, kind: &str, fits: impl Fn(&str) -> bool) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let (root, point) = (mount.next()?, mount.next()?);
        let mut file_system = file_system.split(' ');
        if file_system.next()? != kind || !fits(file_system.nth(1)?) {
            return None;
        }
        let below = Path::new(path).strip_prefix(root).ok()?;
        Some(Path::new(point).join(below))
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_group_that_counts_memory() {
        let mounts = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
            36 31 0:33 / /sys/fs/cgroup/devices rw,relatime - cgroup cgroup rw,devices\n\
            41 31 0:38 /box /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";
        let first = parent("5:memory:/a\n4:cpu,cpuacct:/b\n0::/box/c", mounts);
        assert_eq!(first, Some((1, PathBuf::from("/sys/fs/cgroup/memory/a"))));
        let second = parent("0::/box/c", mounts);
        assert_eq!(second, Some((2, PathBuf::from("/sys/fs/cgroup/unified/c"))));
        // Not below what is mounted here.
        assert_eq!(parent("0::/elsewhere", mounts), None);
        assert_eq!(parent("", mounts), None);
    }

    #[test]
    fn who_is_in_it_is_ended_by_the_host() {
        let group = match Group::make(32 << 20) {
            Ok(group) => group,
            Err(why) => return println!("nothing to test: {why}"),
        };
        let path = group.parent.join(&group.name);
        let mut greedy = Command::new("sh");
        greedy.args(["-c", "read go; exec tail /dev/zero"]).stdin(Stdio::piped());
        let mut greedy = greedy.spawn().unwrap();
        group.take_in(greedy.id() as i32).unwrap();
        assert_eq!(group.killed(), 0);
        greedy.stdin.take().unwrap().write_all(b"go\n").unwrap();
        assert_eq!(greedy.wait().unwrap().signal(), Some(9));
        assert_eq!(group.killed(), 1);
        group.end();
        assert!(!path.exists());
    }
}
