//! A timer: a clock, a moment on it, perhaps an interval, and what to do then.
//!
//! An interval timer does not go on by itself: whoever takes note of the expiry (takes the signal, reads the
//! timerfd) has it go on with [`Alarm::forward`], which counts what was missed. So a tiny interval costs nobody
//! anything, as on Linux.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::Clock;
use super::wheel::Ticket;
use crate::world::World;

type Action = Box<dyn Fn() + Send + Sync>;

/// A timer.
pub struct Alarm {
    world: Weak<World>,
    pub clock: Clock,
    /// Run on the wheel's thread, without locks held.
    action: Action,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Moment of the next expiry, or of the last if `expired`.
    deadline: i64,
    interval: i64,
    armed: bool,
    /// Ran out; waits for `forward`.
    expired: bool,
    ticket: Option<Ticket>,
}

impl Alarm {
    /// A timer that is not armed.
    pub fn new(world: &Arc<World>, clock: Clock, action: impl Fn() + Send + Sync + 'static) -> Arc<Alarm> {
        let world = Arc::downgrade(world);
        Arc::new(Alarm { world, clock, action: Box::new(action), state: Mutex::default() })
    }

    /// Arms it for `value` (nanoseconds, from now unless `absolute`; 0 disarms). Returns what `get` would have.
    pub fn set(self: &Arc<Self>, value: i64, interval: i64, absolute: bool) -> (i64, i64) {
        let mut state = self.state.lock();
        let now = self.clock.now();
        let old = state.remaining(now);
        self.unhook(&mut state);
        *state = State::default();
        if value != 0 {
            state.deadline = if absolute { value } else { now.saturating_add(value) };
            state.interval = interval;
            state.armed = true;
            self.hook(&mut state, now);
        }
        old
    }

    /// Nanoseconds to the next expiry (0: disarmed) and the interval.
    pub fn get(&self) -> (i64, i64) {
        self.state.lock().remaining(self.clock.now())
    }

    /// Lets an interval timer that ran out go on; returns how many expiries were missed since.
    pub fn forward(self: &Arc<Self>) -> i64 {
        let mut state = self.state.lock();
        if !state.expired || state.interval <= 0 {
            return 0;
        }
        let now = self.clock.now();
        let late = now.saturating_sub(state.deadline).max(0);
        let missed = late / state.interval;
        let steps = missed.saturating_add(1).saturating_mul(state.interval);
        state.deadline = state.deadline.saturating_add(steps);
        state.expired = false;
        state.armed = true;
        self.hook(&mut state, now);
        missed
    }

    /// As `forward`, for an expiry that nobody took note of; not before `pause` nanoseconds have passed.
    pub fn skip(self: &Arc<Self>, pause: i64) {
        let mut state = self.state.lock();
        if state.expired && state.interval > 0 {
            let now = self.clock.now();
            state.deadline = state.deadline.saturating_add(state.interval).max(now.saturating_add(pause));
            state.expired = false;
            state.armed = true;
            self.hook(&mut state, now);
        }
    }

    fn hook(self: &Arc<Self>, state: &mut State, now: i64) {
        let Some(world) = self.world.upgrade() else { return };
        let left = state.deadline.saturating_sub(now);
        // A moment too far away to express never comes.
        state.ticket = self.clock.look_after(left).map(|at| world.timers.arm(at, self));
    }

    fn unhook(&self, state: &mut State) {
        if let (Some(ticket), Some(world)) = (state.ticket.take(), self.world.upgrade()) {
            world.timers.disarm(ticket);
        }
    }

    /// The wheel's moment has come; the clock's may not have (CPU time, a clock set back).
    pub(super) fn look(self: &Arc<Self>) {
        {
            let mut state = self.state.lock();
            if !state.armed {
                return;
            }
            let now = self.clock.now();
            if now < state.deadline {
                self.hook(&mut state, now);
                return;
            }
            state.ticket = None;
            state.armed = false;
            state.expired = true;
        }
        (self.action)();
    }
}

impl Drop for Alarm {
    /// Its place on the wheel does not wait for the moment, which may be far off.
    fn drop(&mut self) {
        if let (Some(ticket), Some(world)) = (self.state.get_mut().ticket.take(), self.world.upgrade()) {
            world.timers.disarm(ticket);
        }
    }
}

impl State {
    fn remaining(&self, now: i64) -> (i64, i64) {
        if self.armed {
            // Armed is never zero (`timer_gettime()`).
            (self.deadline.saturating_sub(now).max(1), self.interval)
        } else if self.expired && self.interval > 0 {
            let late = now.saturating_sub(self.deadline).max(0);
            (self.interval - late % self.interval, self.interval)
        } else {
            (0, self.interval)
        }
    }
}
