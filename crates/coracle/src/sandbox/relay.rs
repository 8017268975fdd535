//! Signals that this process gets for the guest: from the terminal, from `kill`, from a shell's job control.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, OnceLock, Weak};
use std::thread;

use coracle_kernel::task::Process;
use coracle_kernel::world::World;
use coracle_platform::inherit;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcsetattr};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::iterator::backend::{Handle, SignalDelivery};
use signal_hook::iterator::exfiltrator::SignalOnly;

use crate::control::Beside;

/// The signals that are passed on.
pub const LIST: [i32; 9] = [SIGINT, SIGQUIT, SIGTERM, SIGHUP, SIGTSTP, SIGCONT, SIGWINCH, SIGUSR1, SIGUSR2];

/// The terminal's settings as they were, restored at the end whatever the guest did to them.
pub struct Terminal(Option<Termios>);

impl Terminal {
    pub fn save() -> Terminal {
        let input = std::io::stdin();
        Terminal(isatty(input.as_fd()).then(|| tcgetattr(input.as_fd()).ok()).flatten())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(settings) = &self.0 {
            let _ = tcsetattr(std::io::stdin().as_fd(), OptionalActions::Now, settings);
        }
    }
}

/// Stops this process, as the shell expects of the job that it sees.
pub fn stop() {
    let _ = signal_hook::low_level::raise(signal_hook::consts::SIGSTOP);
}

/// Passes signals on until it is dropped.
pub struct Relay(Option<Handle>);

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(handle) = &self.0 {
            handle.close();
        }
    }
}

/// Whom signals are for, once it runs.
pub type Target = Arc<OnceLock<(Weak<World>, Weak<Process>)>>;

/// From the terminal they go to the foreground process group, or to all of the guest where there is none; others
/// to its first program. Until that runs, they do to this process what they do to any. Somebody must look after what
/// is returned.
pub fn begin(target: &Target) -> Option<Beside> {
    let target = target.clone();
    let pass = move |signal| match target.get() {
        Some((world, first)) => pass(world, first, signal),
        None if inherit::ignores(signal) => {}
        None => _ = signal_hook::low_level::emulate_default_handler(signal),
    };
    let (fd, mut delivery) = arriving().inspect_err(unheard).ok()?;
    let act = move || {
        delivery.pending().for_each(&pass);
        true
    };
    Some(Beside { fd, act: Box::new(act) })
}

/// Hands every signal that this process gets for the guest to `pass`, on a thread of its own.
pub fn forward(pass: impl Fn(i32) + Send + 'static) -> Relay {
    let Ok((fd, mut delivery)) = arriving().inspect_err(unheard) else { return Relay(None) };
    let handle = delivery.handle();
    let beside = Beside {
        fd,
        act: Box::new(move || {
            delivery.pending().for_each(&pass);
            !delivery.handle().is_closed()
        }),
    };
    Relay(alone(beside).then_some(handle))
}

/// Serves it on a thread of its own.
pub fn alone(beside: Beside) -> bool {
    let serving = thread::Builder::new().name("signals".into()).stack_size(128 << 10).spawn(|| beside.serve());
    serving.inspect_err(unheard).is_ok()
}

fn unheard(error: &io::Error) {
    log::warn!("signals will not be passed on: {error}");
}

/// Signals as they come, and what can be read when there are some.
fn arriving() -> io::Result<(OwnedFd, SignalDelivery<UnixStream, SignalOnly>)> {
    let (read, write) = UnixStream::pair()?;
    let fd = read.as_fd().try_clone_to_owned()?;
    Ok((fd, SignalDelivery::with_pipe(read, write, SignalOnly, LIST)?))
}

fn pass(world: &Weak<World>, first: &Weak<Process>, signal: i32) {
    let (Some(world), Some(first)) = (world.upgrade(), first.upgrade()) else { return };
    match signal {
        SIGINT | SIGQUIT | SIGWINCH | SIGCONT => {
            if world.signal_foreground(signal).is_none() {
                world.signal_all(signal);
            }
        }
        SIGTSTP => {
            // A job of a shell inside stops alone.
            match world.signal_foreground(signal) {
                Some(false) => return,
                Some(true) => {}
                None => world.signal_all(signal),
            }
            drop((world, first));
            // The shell that ignores this for its children does not wait for one to stop.
            if !inherit::ignores(SIGTSTP) {
                stop();
            }
        }
        _ => world.signal_tree(&first, signal),
    }
}
