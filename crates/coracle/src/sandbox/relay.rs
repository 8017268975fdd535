//! Signals that this process gets for the guest: from the terminal, from `kill`, from a shell's job control.

use std::os::fd::AsFd;
use std::sync::{Arc, Weak};
use std::thread;

use coracle_kernel::task::Process;
use coracle_kernel::world::World;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcsetattr};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::iterator::{Handle, Signals};

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

/// From the terminal they go to the foreground process group, or to all of the guest where there is none; others
/// to its first program.
pub fn start(world: &Arc<World>, first: &Arc<Process>) -> Relay {
    let (world, first) = (Arc::downgrade(world), Arc::downgrade(first));
    forward(move |signal| pass(&world, &first, signal))
}

/// Hands every signal that this process gets for the guest to `pass`.
pub fn forward(pass: impl Fn(i32) + Send + 'static) -> Relay {
    let list = [SIGINT, SIGQUIT, SIGTERM, SIGHUP, SIGTSTP, SIGCONT, SIGWINCH, SIGUSR1, SIGUSR2];
    let Ok(mut signals) = Signals::new(list) else {
        log::warn!("signals will not be passed on: no handler can be installed");
        return Relay(None);
    };
    let handle = signals.handle();
    let passing = thread::Builder::new().name("signals".into()).stack_size(128 << 10).spawn(move || {
        for signal in &mut signals {
            pass(signal);
        }
    });
    Relay(passing.is_ok().then_some(handle))
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
            stop();
        }
        _ => world.signal_tree(&first, signal),
    }
}
