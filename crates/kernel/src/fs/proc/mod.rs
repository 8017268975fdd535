//! `/proc` (proc(5)).
//!
//! The tables are in the order of Linux's (fs/proc/base.c, fs/proc/root.c). Files about a process are in
//! [`pid`] and its neighbours, those about the sandbox as a whole in [`system`], [`sysctl`] and [`net`].

mod access;
mod counters;
mod cpuinfo;
mod fds;
mod limits;
mod load;
mod map_files;
mod maps;
mod meminfo;
mod memory;
mod namespaces;
mod net;
mod pid;
mod shared;
mod sockets;
mod stat;
mod status;
mod sysctl;
mod sysctl_net;
mod system;
mod sysvipc;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::sync::Arc;

pub use access::may_read;
pub use cpuinfo::{Cpu, cpus};
pub use load::{cpu_time, running};
pub use meminfo::{Memory, memory};
pub use shared::Shared;
pub use status::{cpu_list, cpu_mask};

use super::synth::{About, Entry, Mounted, Names, Node, Rules, What};
use super::{Access, FileSystem, S_IFDIR, Target, Who, make_dev};
use crate::fd::OpenFile;
use crate::task::{Process, Task};
use crate::world::World;
use crate::{Errno, Result};

/// `PROC_SUPER_MAGIC`.
const MAGIC: i64 = 0x9fa0;

static RULES: Rules = Rules {
    kind: "proc",
    magic: MAGIC,
    dev: make_dev(0, 64),
    volatile: true,
    owner: access::owner,
    permission,
    block_size: 4096,
};

/// The `/proc` of `world`.
pub fn new(world: &Arc<World>) -> Arc<dyn FileSystem> {
    Mounted::new(world, &RULES, &TOP)
}

static TOP: Entry =
    Entry { name: "", mode: 0o555, what: What::Varying(&[LINKS, system::ENTRIES, sysctl::TOP], PIDS) };

const LINKS: &[Entry] = &[
    Entry { name: "self", mode: 0o777, what: What::Link(self_link) },
    Entry { name: "thread-self", mode: 0o777, what: What::Link(thread_self_link) },
    Entry { name: "mounts", mode: 0o777, what: What::Link(|_, _| Ok(Target::Text(b"self/mounts".to_vec()))) },
    Entry { name: "net", mode: 0o777, what: What::Link(|_, _| Ok(Target::Text(b"self/net".to_vec()))) },
];

const PIDS: Names = Names { list: list_pids, find: find_pid, kind: S_IFDIR };

fn list_pids(about: &About) -> Result<Vec<String>> {
    Ok(about.world.processes().iter().map(|process| process.pid.to_string()).collect())
}

/// The process that an open `/proc/PID` is about (`tgid_pidfd_to_pid()`).
pub fn process_of(file: &OpenFile) -> Option<Arc<Process>> {
    let place = file.path.as_ref()?;
    let inode: &dyn Any = &**place.inode();
    let node = inode.downcast_ref::<Node>().filter(|node| std::ptr::eq(node.entry, &pid::DIR))?;
    node.about().ok()?.process
}

/// A number as Linux takes it for a name: no sign, no leading zero (`name_to_int()`, fs/proc/util.c).
fn number(name: &str) -> Option<u32> {
    let plain = name.bytes().all(|byte| byte.is_ascii_digit()) && (name == "0" || !name.starts_with('0'));
    if plain { name.parse().ok() } else { None }
}

/// Threads other than leaders are found, too, though not listed (`proc_pid_lookup()`).
fn find_pid(about: &About, name: &str) -> Result<(About, &'static Entry)> {
    let number = number(name).ok_or(Errno::ENOENT)?;
    let process = match about.world.process(number) {
        Some(process) => process,
        None => about.world.task(number).ok_or(Errno::ENOENT)?.process.clone(),
    };
    Ok((About::process(&process), &pid::DIR))
}

/// Empty for readers that are no task of this sandbox, as in Linux for those of other pid namespaces.
fn self_link(_about: &About, who: Who<'_>) -> Result<Target> {
    let task = who.task.ok_or(Errno::ENOENT)?;
    Ok(Target::Text(task.pid().to_string().into_bytes()))
}

fn thread_self_link(_about: &About, who: Who<'_>) -> Result<Target> {
    let task = who.task.ok_or(Errno::ENOENT)?;
    Ok(Target::Text(format!("{}/task/{}", task.pid(), task.tid()).into_bytes()))
}

fn permission(node: &Node, who: Who<'_>, access: Access) -> Option<Result<()>> {
    let about = match node.about() {
        Ok(about) => about,
        Err(error) => return Some(Err(error)),
    };
    if about.process.is_none() {
        sysctl::permission(node, who, access)
    } else {
        (node.entry.name == "fd").then(|| fds::permission(&about, node, who, access))
    }
}

/// Text with a line feed.
fn line(text: impl std::fmt::Display) -> Result<Vec<u8>> {
    Ok(format!("{text}\n").into_bytes())
}

/// `process` and `task` of what is told, for the many texts that need both: a zombie has no thread left.
fn subject(about: &About) -> Result<(Arc<Process>, Option<Arc<Task>>)> {
    let process = about.live()?.clone();
    if about.task.is_some() {
        return about.thread().map(|task| (process, Some(task)));
    }
    let task = process.any_task();
    Ok((process, task))
}
