//! Pseudo-terminals: pty(7), drivers/tty/pty.c, tty_jobctrl.c.
//!
//! Lock order: a terminal's state, then a session's `terminal`. Signals are sent under neither.

mod control;
mod line;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use self::line::Line;
use super::glue;
use crate::abi::linux::{O_NOCTTY, TOSTOP};
use crate::abi::types::Stat;
use crate::call::Ctx;
use crate::fd::fasync::Request;
use crate::fd::{Band, Fasync, File, Io};
use crate::fs::dev::Driver;
use crate::fs::{Inode, Opening, make_dev};
use crate::mem::{Sink, Source};
use crate::signal::{self, SigInfo, Signal};
use crate::task::{Caps, Session, Task};
use crate::wait::{Events, PollTable, WaitQueue};
use crate::world::World;
use crate::{Errno, Result, SysResult};

/// Major number of the terminals' side.
const PTS_MAJOR: u32 = 136;
/// Terminals of one sandbox at most.
const MAX_PTYS: u32 = 4096;
/// Bytes taken from a writer at a time.
const STEP: usize = 1024;

/// Numbers in use.
#[derive(Default)]
pub struct Numbers(Mutex<crate::fd::Numbers>);

/// One terminal.
pub struct Pty {
    world: Weak<World>,
    number: u32,
    /// `/dev/pts/N`.
    node: OnceLock<Arc<dyn Inode>>,
    state: Mutex<State>,
    /// Told of input for programs, of output for the master, and of room for either.
    queue: WaitQueue,
    /// Told by signal of input for programs, and of output for the master.
    async_slaves: Fasync,
    async_master: Fasync,
}

struct State {
    line: Line,
    /// Rows, columns, pixels.
    size: [u16; 4],
    locked: bool,
    /// `TIOCPKT`.
    packet: bool,
    /// `TIOCEXCL`.
    exclusive: bool,
    master_closed: bool,
    /// Open files of the terminal's side, and whether there ever were any.
    slaves: usize,
    opened: bool,
    /// Whose controlling terminal it is.
    session: Weak<Session>,
}

impl Pty {
    fn rdev(&self) -> u64 {
        make_dev(PTS_MAJOR, self.number)
    }

    /// The session that it controls, if that still has it.
    fn session(&self) -> Option<Arc<Session>> {
        let session = self.state.lock().session.upgrade()?;
        let has = session.terminal.lock().is_some_and(|terminal| terminal.rdev == self.rdev());
        has.then_some(session)
    }

    fn foreground(&self) -> Option<u32> {
        let session = self.session()?;
        let terminal = *session.terminal.lock();
        terminal.map(|terminal| terminal.foreground)
    }

    /// Who owns nothing yet becomes the foreground group's, or the caller's (__tty_fasync()).
    fn set_async(&self, list: &Fasync, request: &Request<'_>, foreground: Option<u32>) {
        if let (Some(task), true) = (request.task, request.on) {
            request.owner.set_if_none(task, foreground.is_some(), foreground.unwrap_or(task.pid()));
        }
        list.apply(request);
    }

    /// Sends to the foreground group.
    fn signal(&self, number: Signal) {
        if let (Some(world), Some(group)) = (self.world.upgrade(), self.foreground()) {
            signal::send_to_group(&world, group, number, SigInfo::kernel(number));
        }
    }

    /// Is this the caller's controlling terminal, with the caller in the background?
    fn in_background(&self, task: &Task) -> bool {
        let session = task.process.session();
        let terminal = *session.terminal.lock();
        terminal.is_some_and(|terminal| terminal.rdev == self.rdev() && terminal.foreground != task.process.pgid())
    }

    /// The background must not read, nor (`TOSTOP`, settings) write: the group is stopped, or it is `EIO` if
    /// that cannot be (job_control(), __tty_check_change()).
    fn check_foreground(&self, task: &Arc<Task>, number: Signal) -> Result<()> {
        if !self.in_background(task) {
            return Ok(());
        }
        let deaf =
            task.signals.blocked().has(number) || task.process.signals.dispositions().get(number).handler == 1;
        if deaf {
            return if number == Signal::SIGTTIN { Err(Errno::EIO) } else { Ok(()) };
        }
        if crate::task::exit::is_group_orphaned(&task.world, &task.process) {
            return Err(Errno::EIO);
        }
        signal::send_to_group(&task.world, task.process.pgid(), number, SigInfo::kernel(number));
        Err(Errno::ERESTARTSYS)
    }

    /// Becomes the caller's controlling terminal if it may without asking (tty_open_proc_set_tty()).
    fn adopt(self: &Arc<Pty>, task: &Task) {
        let session = task.process.session();
        if session.sid != task.pid() || self.session().is_some() {
            return;
        }
        let mut terminal = session.terminal.lock();
        if terminal.is_none() {
            let (rdev, foreground) = (self.rdev(), task.process.pgid());
            *terminal = Some(crate::task::Terminal { rdev, foreground });
            drop(terminal);
            self.state.lock().session = Arc::downgrade(&session);
        }
    }

    fn open_slave(
        self: &Arc<Pty>,
        how_flags: u32,
        task: &Arc<Task>,
        inode: Option<Arc<dyn Inode>>,
    ) -> Result<PtsFile> {
        {
            let mut state = self.state.lock();
            if state.locked || state.master_closed {
                return Err(Errno::EIO);
            }
            // tty_reopen()
            if state.exclusive && state.slaves > 0 && !task.cred().capable(Caps::SYS_ADMIN) {
                return Err(Errno::EBUSY);
            }
            state.slaves += 1;
            state.opened = true;
        }
        if how_flags & O_NOCTTY == 0 {
            self.adopt(task);
        }
        self.queue.wake_all();
        Ok(PtsFile { pty: self.clone(), inode })
    }
}

/// Opens `/dev/ptmx`: a new terminal (ptmx_open()).
pub fn open_master(task: &Arc<Task>) -> Result<Arc<dyn File>> {
    let world = &task.world;
    let number = {
        let mut numbers = world.ipc.ptys.0.lock();
        let number =
            u32::try_from(numbers.free(0)).ok().filter(|number| *number < MAX_PTYS).ok_or(Errno::ENOSPC)?;
        numbers.set(number as usize, true);
        number
    };
    let pty = Arc::new(Pty {
        world: Arc::downgrade(world),
        number,
        node: OnceLock::new(),
        state: Mutex::new(State {
            line: Line::default(),
            size: [0; 4],
            locked: true,
            packet: false,
            exclusive: false,
            master_closed: false,
            slaves: 0,
            opened: false,
            session: Weak::new(),
        }),
        queue: WaitQueue::new(),
        async_slaves: Fasync::default(),
        async_master: Fasync::default(),
    });
    let master = Arc::new(MasterFile { pty: pty.clone() });
    world.devices.register(pty.rdev(), Arc::new(PtsDriver(Arc::downgrade(&pty))));
    if let Some(node) = glue::make_pts_node(task, number, pty.rdev())? {
        let _ = pty.node.set(node);
    }
    Ok(master)
}

/// Opens the terminal's side by its number.
struct PtsDriver(Weak<Pty>);

impl Driver for PtsDriver {
    fn open(&self, inode: Arc<dyn Inode>, how: &Opening<'_>) -> Result<Arc<dyn File>> {
        let pty = self.0.upgrade().ok_or(Errno::EIO)?;
        let task = how.who.task.ok_or(Errno::EIO)?;
        Ok(Arc::new(pty.open_slave(how.flags, task, Some(inode))?))
    }
}

/// The side that a terminal emulator holds.
pub struct MasterFile {
    pty: Arc<Pty>,
}

impl Drop for MasterFile {
    /// The line is dropped: the terminal hangs up.
    fn drop(&mut self) {
        let pty = &self.pty;
        let session = pty.session();
        pty.state.lock().master_closed = true;
        if let Some(world) = pty.world.upgrade() {
            world.devices.remove(pty.rdev());
            glue::remove_pts_node(&world, pty.number);
            world.ipc.ptys.0.lock().set(pty.number as usize, false);
            if let Some(session) = session {
                hang_up(&world, &session);
            }
        }
        pty.queue.wake_all();
    }
}

/// tty_signal_session_leader(): leader and foreground group are told, and the session has no terminal any more.
fn hang_up(world: &Arc<World>, session: &Session) {
    let Some(terminal) = session.terminal.lock().take() else { return };
    for number in [Signal::SIGHUP, Signal::SIGCONT] {
        if let Some(leader) = world.process(session.sid) {
            let _ = signal::send_to_process(&leader, number, SigInfo::kernel(number));
        }
        if terminal.foreground != session.sid {
            signal::send_to_group(world, terminal.foreground, number, SigInfo::kernel(number));
        }
    }
}

impl File for MasterFile {
    fn read(&self, _io: &Io<'_>, _offset: u64, into: &mut dyn Sink) -> Result<usize> {
        let mut state = self.pty.state.lock();
        if state.packet && state.line.events != 0 {
            // n_tty_read(): what has happened is told by itself, once.
            let count = into.put(&[state.line.events])?;
            state.line.events = 0;
            return Ok(count);
        }
        if state.line.output() == 0 {
            return Err(if state.opened && state.slaves == 0 { Errno::EIO } else { Errno::EAGAIN });
        }
        let mut extra = 0;
        if state.packet {
            extra = into.put(&[0])?;
        }
        let bytes = state.line.take_output(into.remaining());
        let count = if bytes.is_empty() { 0 } else { into.put(&bytes)? };
        state.line.consume_output(count);
        drop(state);
        self.pty.queue.wake_all();
        Ok(count + extra)
    }

    fn write(&self, _io: &Io<'_>, _offset: u64, from: &mut dyn Source) -> Result<usize> {
        let mut done = 0;
        while from.remaining() > 0 {
            if !self.pty.state.lock().line.accepts_input() {
                return if done > 0 { Ok(done) } else { Err(Errno::EAGAIN) };
            }
            let mut buffer = [0; STEP];
            let part = buffer.get_mut(..from.remaining().min(STEP)).unwrap_or_default();
            let count = from.take(part)?;
            let mut signals = Vec::new();
            let mut state = self.pty.state.lock();
            let before = state.line.lines();
            for byte in part.iter().take(count) {
                signals.extend(state.line.type_byte(*byte));
            }
            // A line each, or what there is (n_tty_receive_handle_newline(), __receive_buf()).
            let told = match state.line.termios.canonical() {
                true => state.line.lines().saturating_sub(before),
                false => usize::from(state.line.is_readable()),
            };
            let echoed = state.line.output() > 0;
            drop(state);
            done += count;
            self.pty.queue.wake_all();
            (0..told).for_each(|_| self.pty.async_slaves.kill(Band::In));
            if echoed {
                self.pty.async_master.kill(Band::In);
            }
            signals.into_iter().for_each(|number| self.pty.signal(number));
        }
        Ok(done)
    }

    fn writes_all(&self) -> bool {
        true
    }

    fn poll(&self, table: &mut PollTable) -> Events {
        table.watch(&self.pty.queue);
        let state = self.pty.state.lock();
        let mut ready = Events::empty();
        if state.line.output() > 0 {
            ready |= Events::READ;
        }
        if state.packet && state.line.events != 0 {
            ready |= Events::READ | Events::PRI;
        }
        if state.line.accepts_input() {
            ready |= Events::WRITE;
        }
        ready.set(Events::HUP, state.opened && state.slaves == 0);
        ready
    }

    fn fasync(&self, request: &Request<'_>) -> bool {
        self.pty.set_async(&self.pty.async_master, request, None);
        true
    }

    fn stat(&self) -> Result<Stat> {
        let rdev = crate::fs::dev::PTMX;
        Ok(Stat { st_rdev: rdev, st_mode: crate::fs::S_IFCHR | 0o666, st_nlink: 1, ..glue::anon_inode_stat() })
    }

    fn ioctl(&self, cx: &mut Ctx<'_>, command: u32, argument: u64) -> SysResult {
        control::master(&self.pty, cx, command, argument)
    }

    fn description(&self) -> String {
        String::from("/dev/ptmx")
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The side that programs have as their terminal.
pub struct PtsFile {
    pty: Arc<Pty>,
    inode: Option<Arc<dyn Inode>>,
}

impl Drop for PtsFile {
    fn drop(&mut self) {
        let mut state = self.pty.state.lock();
        state.slaves = state.slaves.saturating_sub(1);
        drop(state);
        self.pty.queue.wake_all();
    }
}

impl File for PtsFile {
    fn read(&self, io: &Io<'_>, _offset: u64, into: &mut dyn Sink) -> Result<usize> {
        self.pty.check_foreground(io.task, Signal::SIGTTIN)?;
        let mut state = self.pty.state.lock();
        let Some(bytes) = state.line.peek(into.remaining()) else {
            return if state.master_closed { Ok(0) } else { Err(Errno::EAGAIN) };
        };
        let given = if bytes.is_empty() { Ok(0) } else { into.put(&bytes) };
        let count = given.as_ref().map_or(0, |count| *count);
        // What is lost with a bad address is the piece that was on its way (iterate_tty_read() in tty_io.c).
        state.line.consume(if count < bytes.len() { bytes.len().min((count / 64 + 1) * 64) } else { count });
        drop(state);
        self.pty.queue.wake_all();
        given
    }

    fn write(&self, io: &Io<'_>, _offset: u64, from: &mut dyn Source) -> Result<usize> {
        if self.pty.state.lock().line.termios.local & TOSTOP != 0 {
            self.pty.check_foreground(io.task, Signal::SIGTTOU)?;
        }
        let mut done = 0;
        while from.remaining() > 0 {
            {
                let state = self.pty.state.lock();
                if state.master_closed {
                    return Err(Errno::EIO);
                }
                if !state.line.has_room() {
                    return if done > 0 { Ok(done) } else { Err(Errno::EAGAIN) };
                }
            }
            let mut buffer = [0; STEP];
            let part = buffer.get_mut(..from.remaining().min(STEP)).unwrap_or_default();
            let count = from.take(part)?;
            let mut state = self.pty.state.lock();
            part.iter().take(count).for_each(|byte| state.line.write(*byte));
            drop(state);
            done += count;
            self.pty.queue.wake_all();
            self.pty.async_master.kill(Band::In);
        }
        Ok(done)
    }

    fn writes_all(&self) -> bool {
        true
    }

    fn timeout_is_end(&self) -> bool {
        true
    }

    /// `VTIME` without `VMIN`.
    fn io_timeout(&self, write: bool) -> Option<Duration> {
        let termios = self.pty.state.lock().line.termios;
        let (min, time) = termios.min_and_time();
        (!write && !termios.canonical() && min == 0 && time > 0).then(|| Duration::from_millis(time * 100))
    }

    /// `VMIN` and `VTIME` between bytes.
    fn reads_on(&self, count: usize) -> Option<Option<Duration>> {
        let state = self.pty.state.lock();
        let (_, time) = state.line.termios.min_and_time();
        state.line.wants_more(count).then(|| (time > 0).then(|| Duration::from_millis(time * 100)))
    }

    fn poll(&self, table: &mut PollTable) -> Events {
        table.watch(&self.pty.queue);
        let state = self.pty.state.lock();
        let mut ready = Events::empty();
        if state.line.is_readable() {
            ready |= Events::READ;
        }
        if state.line.has_room() {
            ready |= Events::WRITE;
        }
        if state.master_closed {
            ready |= Events::HUP | Events::ERR | Events::READ | Events::WRITE;
        }
        ready
    }

    fn fasync(&self, request: &Request<'_>) -> bool {
        self.pty.set_async(&self.pty.async_slaves, request, self.pty.foreground());
        true
    }

    fn stat(&self) -> Result<Stat> {
        match &self.inode {
            Some(inode) => inode.stat(),
            None => {
                let mode = crate::fs::S_IFCHR | 0o620;
                Ok(Stat { st_rdev: self.pty.rdev(), st_mode: mode, st_nlink: 1, ..glue::anon_inode_stat() })
            }
        }
    }

    fn ioctl(&self, cx: &mut Ctx<'_>, command: u32, argument: u64) -> SysResult {
        control::slave(&self.pty, cx, command, argument)
    }

    fn inode(&self) -> Option<Arc<dyn Inode>> {
        self.inode.clone()
    }

    fn description(&self) -> String {
        format!("/dev/pts/{}", self.pty.number)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
