//! What `ioctl` does to terminals: ioctl_tty(2), drivers/tty/tty_io.c, tty_ioctl.c, tty_jobctrl.c.

use std::sync::Arc;

use super::line::{TERMIO, TERMIOS, TERMIOS2, Termios};
use super::{Pty, hang_up};
use crate::abi::ioctl::*;
use crate::abi::linux::{CLOCAL, O_ACCMODE, O_CLOEXEC, O_NONBLOCK, VSTART, VSTOP};
use crate::call::Ctx;
use crate::ipc::glue;
use crate::signal::Signal;
use crate::task::{Caps, Terminal};
use crate::{Errno, Result, SysResult};

/// On the master's side.
pub(super) fn master(pty: &Arc<Pty>, cx: &mut Ctx<'_>, command: u32, argument: u64) -> SysResult {
    match command {
        TIOCGPTN => cx.mem().write(argument, &pty.number)?,
        TIOCSPTLCK => {
            let locked: i32 = cx.mem().read(argument)?;
            pty.state.lock().locked = locked != 0;
        }
        TIOCGPTLCK => {
            let locked = i32::from(pty.state.lock().locked);
            cx.mem().write(argument, &locked)?;
        }
        TIOCGPTPEER => {
            let flags = argument as u32;
            let slave = Arc::new(pty.open_slave(flags, &cx.task.clone(), pty.node.get().cloned())?);
            let open = flags & (O_ACCMODE | O_NONBLOCK);
            return glue::install(cx, slave, open, flags & O_CLOEXEC != 0);
        }
        TIOCPKT => {
            let on: i32 = cx.mem().read(argument)?;
            let mut state = pty.state.lock();
            if on != 0 && !state.packet {
                state.line.events = 0;
            }
            state.packet = on != 0;
        }
        TIOCGPKT => {
            let on = i32::from(pty.state.lock().packet);
            cx.mem().write(argument, &on)?;
        }
        // pty_signal()
        TIOCSIG => match Signal::new(argument as i32) {
            Ok(number @ (Signal::SIGINT | Signal::SIGQUIT | Signal::SIGTSTP)) => pty.signal(number),
            _ => return Err(Errno::EINVAL),
        },
        // Nothing waits on this side: what is written has reached the other at once.
        TIOCOUTQ => cx.mem().write(argument, &0i32)?,
        TIOCINQ => {
            let count = pty.state.lock().line.output();
            cx.mem().write(argument, &(count as i32))?;
        }
        TIOCGPGRP => {
            let group = pty.foreground().unwrap_or(0);
            cx.mem().write(argument, &group)?;
        }
        TIOCGSID => {
            let session = pty.session().ok_or(Errno::ENOTTY)?;
            cx.mem().write(argument, &session.sid)?;
        }
        _ => return either(pty, cx, command, argument),
    }
    Ok(0)
}

/// On the terminal's side.
pub(super) fn slave(pty: &Arc<Pty>, cx: &mut Ctx<'_>, command: u32, argument: u64) -> SysResult {
    if pty.state.lock().master_closed {
        return Err(Errno::EIO);
    }
    match command {
        TIOCINQ => {
            let count = pty.state.lock().line.readable();
            cx.mem().write(argument, &(count as i32))?;
        }
        TIOCOUTQ => {
            let count = pty.state.lock().line.output();
            cx.mem().write(argument, &(count as i32))?;
        }
        TIOCGPGRP => {
            let group = own_terminal(pty, cx)?.foreground;
            cx.mem().write(argument, &group)?;
        }
        TIOCSPGRP => set_foreground(pty, cx, argument)?,
        TIOCGSID => {
            own_terminal(pty, cx)?;
            let session = cx.task.process.sid();
            cx.mem().write(argument, &session)?;
        }
        TIOCSCTTY => take_terminal(pty, cx, argument)?,
        TIOCNOTTY => give_terminal_up(pty, cx)?,
        _ => return either(pty, cx, command, argument),
    }
    Ok(0)
}

/// Settings in one of their forms, after the input is flushed if it is to be (set_termios(), drivers/tty/tty_ioctl.c).
fn set<const SIZE: usize>(
    pty: &Arc<Pty>,
    cx: &mut Ctx<'_>,
    argument: u64,
    flush: bool,
    change: impl FnOnce(Termios, &[u8; SIZE]) -> Termios,
) -> Result<()> {
    pty.check_foreground(&cx.task.clone(), Signal::SIGTTOU)?;
    let bytes: [u8; SIZE] = cx.mem().read(argument)?;
    let mut state = pty.state.lock();
    if flush {
        state.line.flush(true, false);
    }
    let changed = change(state.line.termios, &bytes);
    state.line.set_termios(changed);
    drop(state);
    pty.queue.wake_all();
    Ok(())
}

fn either(pty: &Arc<Pty>, cx: &mut Ctx<'_>, command: u32, argument: u64) -> SysResult {
    match command {
        TCGETS => {
            let bytes = pty.state.lock().line.termios.to_bytes();
            cx.mem().write_bytes(argument, &bytes)?;
        }
        TCSETS | TCSETSW | TCSETSF => {
            set(pty, cx, argument, command == TCSETSF, |old, bytes: &[u8; TERMIOS]| old.with_bytes(bytes))?;
        }
        TCGETS2 => {
            let bytes = pty.state.lock().line.termios.to_bytes2();
            cx.mem().write_bytes(argument, &bytes)?;
        }
        TCSETS2 | TCSETSW2 | TCSETSF2 => {
            set(pty, cx, argument, command == TCSETSF2, |old, bytes: &[u8; TERMIOS2]| old.with_bytes2(bytes))?;
        }
        TCGETA => {
            let bytes = pty.state.lock().line.termios.to_termio();
            cx.mem().write_bytes(argument, &bytes)?;
        }
        TCSETA | TCSETAW | TCSETAF => {
            set(pty, cx, argument, command == TCSETAF, |old, bytes: &[u8; TERMIO]| old.with_termio(bytes))?;
        }
        // Nothing is locked.
        TIOCGLCKTRMIOS => cx.mem().write_bytes(argument, &[0; TERMIOS])?,
        TIOCGWINSZ => {
            let size = pty.state.lock().size;
            cx.mem().write(argument, &size)?;
        }
        TIOCSWINSZ => {
            let size: [u16; 4] = cx.mem().read(argument)?;
            let old = std::mem::replace(&mut pty.state.lock().size, size);
            if old != size {
                pty.signal(Signal::SIGWINCH);
            }
        }
        TCFLSH => {
            pty.check_foreground(&cx.task.clone(), Signal::SIGTTOU)?;
            let (input, output) = match argument {
                0 => (true, false),
                1 => (false, true),
                2 => (true, true),
                _ => return Err(Errno::EINVAL),
            };
            pty.state.lock().line.flush(input, output);
            pty.queue.wake_all();
        }
        TCXONC => {
            pty.check_foreground(&cx.task.clone(), Signal::SIGTTOU)?;
            let mut state = pty.state.lock();
            match argument {
                0 => state.line.hold(true),
                1 => state.line.hold(false),
                2 => state.line.send(VSTOP),
                3 => state.line.send(VSTART),
                _ => return Err(Errno::EINVAL),
            }
            drop(state);
            pty.queue.wake_all();
        }
        TIOCEXCL => pty.state.lock().exclusive = true,
        TIOCNXCL => pty.state.lock().exclusive = false,
        TIOCGEXCL => {
            let exclusive = i32::from(pty.state.lock().exclusive);
            cx.mem().write(argument, &exclusive)?;
        }
        TIOCGDEV => cx.mem().write(argument, &(pty.rdev() as u32))?,
        // N_TTY is the only discipline.
        TIOCGETD => cx.mem().write(argument, &0i32)?,
        TIOCSETD => {
            let discipline: i32 = cx.mem().read(argument)?;
            if discipline != 0 {
                return Err(Errno::EINVAL);
            }
        }
        TIOCGSOFTCAR => {
            let local = i32::from(pty.state.lock().line.termios.control & CLOCAL != 0);
            cx.mem().write(argument, &local)?;
        }
        TIOCSSOFTCAR => {
            let local: i32 = cx.mem().read(argument)?;
            let control = &mut pty.state.lock().line.termios.control;
            *control = if local != 0 { *control | CLOCAL } else { *control & !CLOCAL };
        }
        // Output is never on its way, and breaks mean nothing.
        TCSBRK | TCSBRKP | TIOCSBRK | TIOCCBRK => {}
        _ => return Err(Errno::ENOTTY),
    }
    Ok(0)
}

/// The caller's controlling terminal, if this is it; else `ENOTTY`.
fn own_terminal(pty: &Pty, cx: &Ctx<'_>) -> Result<Terminal> {
    let session = cx.task.process.session();
    let terminal = *session.terminal.lock();
    terminal.filter(|terminal| terminal.rdev == pty.rdev()).ok_or(Errno::ENOTTY)
}

/// tiocspgrp().
fn set_foreground(pty: &Pty, cx: &mut Ctx<'_>, argument: u64) -> Result<()> {
    pty.check_foreground(&cx.task.clone(), Signal::SIGTTOU)?;
    own_terminal(pty, cx)?;
    let group: i32 = cx.mem().read(argument)?;
    let group = u32::try_from(group).map_err(|_| Errno::EINVAL)?;
    let members = cx.task.world.group(group);
    let member = members.first().ok_or(Errno::ESRCH)?;
    let session = cx.task.process.session();
    if member.sid() != session.sid {
        return Err(Errno::EPERM);
    }
    if let Some(terminal) = session.terminal.lock().as_mut() {
        terminal.foreground = group;
    }
    Ok(())
}

/// tiocsctty(): a session leader without a terminal takes one that nobody has, or, as root, by force.
fn take_terminal(pty: &Arc<Pty>, cx: &Ctx<'_>, force: u64) -> Result<()> {
    let session = cx.task.process.session();
    let leads = session.sid == cx.task.pid();
    let holder = pty.session();
    if leads && holder.as_ref().is_some_and(|holder| Arc::ptr_eq(holder, &session)) {
        return Ok(());
    }
    if !leads || session.terminal.lock().is_some() {
        return Err(Errno::EPERM);
    }
    if let Some(holder) = holder {
        if force != 1 || !cx.task.cred().capable(Caps::SYS_ADMIN) {
            return Err(Errno::EPERM);
        }
        *holder.terminal.lock() = None;
    }
    let (rdev, foreground) = (pty.rdev(), cx.task.process.pgid());
    *session.terminal.lock() = Some(Terminal { rdev, foreground });
    pty.state.lock().session = Arc::downgrade(&session);
    Ok(())
}

/// disassociate_ctty(): the leader takes it from the whole session.
fn give_terminal_up(pty: &Pty, cx: &Ctx<'_>) -> Result<()> {
    own_terminal(pty, cx)?;
    let session = cx.task.process.session();
    if session.sid == cx.task.pid() {
        hang_up(&cx.task.world, &session);
    }
    Ok(())
}
