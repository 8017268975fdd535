//! The thread that watches what is armed. It starts with the first timer and sleeps while there is none.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::Alarm;

/// One per world.
#[derive(Default)]
pub struct Wheel(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    next: u64,
    armed: BTreeMap<(Instant, u64), Weak<Alarm>>,
    running: bool,
    over: bool,
}

/// A place on the wheel.
pub(super) type Ticket = (Instant, u64);

impl Wheel {
    /// Has `alarm` looked at when `at` has come.
    pub(super) fn arm(&self, at: Instant, alarm: &Arc<Alarm>) -> Ticket {
        let mut state = self.0.state.lock();
        let ticket = (at, state.next);
        state.next += 1;
        state.armed.insert(ticket, Arc::downgrade(alarm));
        if !state.running {
            state.running = self.start();
        }
        if state.armed.first_key_value().is_some_and(|(first, _)| *first == ticket) {
            self.0.changed.notify_one();
        }
        ticket
    }

    /// No longer.
    pub(super) fn disarm(&self, ticket: Ticket) {
        self.0.state.lock().armed.remove(&ticket);
    }

    fn start(&self) -> bool {
        let shared = self.0.clone();
        let started = std::thread::Builder::new().name("timers".into()).spawn(move || run(&shared));
        if let Err(error) = &started {
            log::error!("no thread for timers: {error}");
        }
        started.is_ok()
    }
}

impl Drop for Wheel {
    fn drop(&mut self) {
        self.0.state.lock().over = true;
        self.0.changed.notify_one();
    }
}

fn run(shared: &Shared) {
    let mut state = shared.state.lock();
    while !state.over {
        let Some(first) = state.armed.first_entry() else {
            shared.changed.wait(&mut state);
            continue;
        };
        let (at, _) = *first.key();
        if at > Instant::now() {
            let _ = shared.changed.wait_until(&mut state, at);
            continue;
        }
        let alarm = first.remove().upgrade();
        drop(state);
        if let Some(alarm) = alarm {
            alarm.look();
        }
        state = shared.state.lock();
    }
}
