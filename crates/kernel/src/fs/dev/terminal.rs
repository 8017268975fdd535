//! The terminal that a sandbox inherits, as the controlling terminal of its first session
//! (drivers/tty/tty_jobctrl.c, ioctl_tty(2)).

use std::sync::Arc;

use super::stream::HostStream;
use super::{Driver, standard_path};
use crate::fd::{File, OpenFile};
use crate::fs::{Inode, NewNode, Opening, PathRef, S_IFCHR};
use crate::signal::{self, SIG_IGN, SigInfo, Signal};
use crate::task::{Process, Session, Task, Terminal, exit};
use crate::world::{FIRST_PID, World};
use crate::{Errno, Result};

/// Opens the inherited terminal again: the same host descriptor serves.
struct Inherited(Arc<HostStream>);

impl Driver for Inherited {
    fn open(&self, _inode: Arc<dyn Inode>, _how: &Opening<'_>) -> Result<Arc<dyn File>> {
        Ok(self.0.clone())
    }
}

/// Makes a terminal that was inherited known: a node under its name in `/dev`, owned by `owner`. Returns its place.
pub fn adopt(world: &Arc<World>, stream: &Arc<HostStream>, owner: (u32, u32)) -> Result<PathRef> {
    let rdev = stream.stat()?.st_rdev;
    let name = stream.terminal_name().unwrap_or_else(|| String::from("/dev/console"));
    let (dir, file) = name.rsplit_once('/').ok_or(Errno::ENOENT)?;
    let dir = standard_path(world, dir)?;
    let dentry = match dir.dentry.child(file.as_bytes(), true, false, |_| None) {
        Ok(dentry) => dentry,
        Err(Errno::ENOENT) => {
            let (uid, gid) = owner;
            let new = NewNode { mode: S_IFCHR | 0o620, uid, gid, rdev, target: b"" };
            let inode = dir.inode().make(file.as_bytes(), &new)?;
            dir.dentry.made(file.as_bytes(), inode)
        }
        Err(error) => return Err(error),
    };
    stream.set_node(dentry.inode());
    world.devices.register(rdev, Arc::new(Inherited(stream.clone())));
    Ok(PathRef { mount: dir.mount, dentry })
}

/// Gives the first session control of the terminal among the descriptors of its first program.
pub fn control_first(world: &Arc<World>, files: &[Arc<OpenFile>]) {
    let Some(terminal) = among(world, files, FIRST_PID) else { return };
    world.devices.set_console(terminal.rdev);
    *world.init().session().terminal.lock() = Some(terminal);
}

/// The terminal among these files as the controlling one of a new session whose leader is `pid`; not if it is
/// another session's already.
pub fn among(world: &World, files: &[Arc<OpenFile>], pid: u32) -> Option<Terminal> {
    let streams = files.iter().filter_map(|file| file.file.as_any().downcast_ref::<HostStream>());
    let rdev = streams.into_iter().find(|stream| stream.is_terminal())?.stat().ok()?.st_rdev;
    (!is_controlling(world, rdev, pid)).then_some(Terminal { rdev, foreground: pid })
}

/// A session other than `sid` has the terminal.
fn is_controlling(world: &World, rdev: u64, sid: u32) -> bool {
    let mut others = world.processes().into_iter().map(|process| process.session());
    others.any(|other| other.sid != sid && other.terminal.lock().is_some_and(|terminal| terminal.rdev == rdev))
}

/// Sends what a terminal sends to its foreground group to the one of `leader`'s session; `None` without a terminal.
/// The value says whether the leader is in that group.
pub fn signal_session(leader: &Process, number: i32) -> Option<bool> {
    let foreground = (*leader.session().terminal.lock())?.foreground;
    let signal = Signal::new(number).ok()?;
    signal::send_to_group(&leader.world, foreground, signal, SigInfo::kernel(signal));
    Some(leader.pgid() == foreground)
}

impl World {
    /// Sends what the inherited terminal would send to its foreground group; `None`
    /// without one. The value says whether the first program is in that group.
    pub fn signal_foreground(&self, number: i32) -> Option<bool> {
        let rdev = self.devices.console()?;
        let sessions = self.processes().into_iter().map(|process| process.session());
        let mut terminals = sessions.filter_map(|session| *session.terminal.lock());
        let foreground = terminals.find(|terminal| terminal.rdev == rdev)?.foreground;
        let signal = Signal::new(number).ok()?;
        signal::send_to_group(self, foreground, signal, SigInfo::kernel(signal));
        Some(self.process(FIRST_PID).is_some_and(|first| first.pgid() == foreground))
    }
}

/// The session of `task`, if `rdev` is its controlling terminal: `ENOTTY`.
fn controlled(task: &Task, rdev: u64) -> Result<(Arc<Session>, Terminal)> {
    let session = task.process.session();
    let terminal = *session.terminal.lock();
    match terminal {
        Some(terminal) if terminal.rdev == rdev => Ok((session, terminal)),
        _ => Err(Errno::ENOTTY),
    }
}

/// `__tty_check_change()`: a process in the background is stopped by `number` unless it ignores or blocks that.
/// `Ok(false)`: it is in the background, and does.
fn check(task: &Arc<Task>, rdev: u64, number: u32) -> Result<bool> {
    let Ok((_, terminal)) = controlled(task, rdev) else { return Ok(true) };
    let group = task.process.pgid();
    if terminal.foreground == group {
        return Ok(true);
    }
    let signal = Signal::new(number as i32)?;
    let ignored = task.process.signals.dispositions().get(signal).handler == SIG_IGN;
    if ignored || task.signals.blocked().has(signal) {
        return Ok(false);
    }
    if exit::is_group_orphaned(&task.world, &task.process) {
        return Err(Errno::EIO);
    }
    signal::send_to_group(&task.world, group, signal, SigInfo::kernel(signal));
    Err(Errno::ERESTARTSYS)
}

/// Before a read (`job_control()` in drivers/tty/n_tty.c): in the background `SIGTTIN`, or `EIO`.
pub fn before_read(task: &Arc<Task>, rdev: u64) -> Result<()> {
    if check(task, rdev, crate::abi::linux::SIGTTIN)? { Ok(()) } else { Err(Errno::EIO) }
}

/// Before a change of settings, or a write while `TOSTOP` is set: in the background `SIGTTOU`.
pub fn before_change(task: &Arc<Task>, rdev: u64) -> Result<()> {
    check(task, rdev, crate::abi::linux::SIGTTOU).map(drop)
}

/// The caller's group is in the background of this terminal.
pub fn in_background(task: &Task, rdev: u64) -> bool {
    controlled(task, rdev).is_ok_and(|(_, terminal)| terminal.foreground != task.process.pgid())
}

/// `TIOCGPGRP`.
pub fn foreground(task: &Task, rdev: u64) -> Result<u32> {
    controlled(task, rdev).map(|(_, terminal)| terminal.foreground)
}

/// `TIOCGSID`.
pub fn session(task: &Task, rdev: u64) -> Result<u32> {
    controlled(task, rdev).map(|(session, _)| session.sid)
}

/// `TIOCSPGRP`: only to a group of the caller's session.
pub fn set_foreground(task: &Arc<Task>, rdev: u64, group: i32) -> Result<()> {
    before_change(task, rdev)?;
    let (session, _) = controlled(task, rdev)?;
    let group = u32::try_from(group).map_err(|_| Errno::EINVAL)?;
    let member = task.world.group(group).into_iter().next().ok_or(Errno::ESRCH)?;
    if member.sid() != session.sid {
        return Err(Errno::EPERM);
    }
    if let Some(terminal) = &mut *session.terminal.lock() {
        terminal.foreground = group;
    }
    Ok(())
}

/// `TIOCSCTTY`: for a session leader without a terminal, if no other session has this one (`tiocsctty()`).
pub fn acquire(task: &Arc<Task>, rdev: u64) -> Result<()> {
    let session = task.process.session();
    if session.sid != task.pid() {
        return Err(Errno::EPERM);
    }
    let taken = is_controlling(&task.world, rdev, session.sid);
    let mut terminal = session.terminal.lock();
    match &*terminal {
        Some(terminal) if terminal.rdev == rdev => Ok(()),
        None if !taken => {
            *terminal = Some(Terminal { rdev, foreground: task.process.pgid() });
            Ok(())
        }
        _ => Err(Errno::EPERM),
    }
}

/// `TIOCNOTTY`: a leader gives the terminal up for its session, whose foreground group is hung up. What another
/// member does is forgotten: the terminal belongs to the session here, not to its processes.
pub fn give_up(task: &Arc<Task>, rdev: u64) -> Result<()> {
    let (session, terminal) = controlled(task, rdev)?;
    if session.sid == task.pid() {
        *session.terminal.lock() = None;
        for member in task.world.group(terminal.foreground) {
            signal::send_kernel(&member, crate::abi::linux::SIGHUP as i32);
            signal::send_kernel(&member, crate::abi::linux::SIGCONT as i32);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustix::fs::{Mode, OFlags};
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

    use super::*;
    use crate::abi::linux as l;
    use crate::fd::FdEntry;
    use crate::fs::mem::Budget;
    use crate::fs::mount_standard;
    use crate::task::testing::{Guest, MEMORY, world};

    const TIOCGPGRP: u64 = 0x540f;
    const TIOCSPGRP: u64 = 0x5410;

    #[test]
    fn job_control_of_the_inherited_terminal() {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let slave = rustix::fs::open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();

        let world = world();
        mount_standard(&world, &Budget::new(1 << 20)).unwrap();
        let (stream, mode) = HostStream::new(slave, None).unwrap();
        let stream = Arc::new(stream);
        let place = adopt(&world, &stream, (0, 0)).unwrap();
        assert_eq!(place.path_from(&world.vfs.mounts.root()).0, name.to_bytes());
        let rdev = stream.stat().unwrap().st_rdev;

        let mut guest = Guest::in_world(&world, 2);
        let file = OpenFile::with_path(stream, mode, Some(place));
        let entry = FdEntry { file, close_on_exec: false };
        let fd = guest.task.files().install(entry, 0, 10).unwrap() as u64;
        guest.put(MEMORY, b"/dev/tty\0".as_slice());
        let open = |guest: &mut Guest| guest.call(u64::from(l::__NR_open), &[MEMORY, u64::from(l::O_RDWR), 0]);
        let ioctl = |guest: &mut Guest, number| guest.call(u64::from(l::__NR_ioctl), &[fd, number, MEMORY + 64]);

        // Another session's terminal.
        assert_eq!(open(&mut guest), Err(Errno::ENXIO));
        assert_eq!(ioctl(&mut guest, TIOCGPGRP), Err(Errno::ENOTTY));
        *guest.task.process.session().terminal.lock() = Some(Terminal { rdev, foreground: 2 });
        assert!(open(&mut guest).is_ok());
        assert_eq!(ioctl(&mut guest, TIOCGPGRP), Ok(0));
        assert_eq!(guest.get::<u32>(MEMORY + 64), 2);
        guest.put(MEMORY + 64, &77u32);
        assert_eq!(ioctl(&mut guest, TIOCSPGRP), Err(Errno::ESRCH));
        // In the background, where nobody is left to continue the group, terminal access fails.
        *guest.task.process.session().terminal.lock() = Some(Terminal { rdev, foreground: 5 });
        assert_eq!(ioctl(&mut guest, TIOCSPGRP), Err(Errno::EIO));
        let read = guest.call(u64::from(l::__NR_read), &[fd, MEMORY, 1]);
        assert_eq!(read, Err(Errno::EIO));
    }
}
