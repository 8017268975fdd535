//! The coarse clocks: read without the counter, hence only right while somebody writes them every tick.
//!
//! That is done by a thread that ends by itself a second later. Readers who find nobody at it get along with the fine
//! clocks; one in some hundred of their calls asks for the thread ([`starts_ticking`]). So a program in a loop over
//! `time()` pays a call per second, one that asks now and then pays nothing, and an idle world does not tick.
//!
//! [`starts_ticking`]: coracle_abi::vvar::starts_ticking

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use coracle_abi::seq::Writing;
use coracle_abi::vvar::word;

use super::NSEC_PER_SEC;
use super::clocks::{Clocks, nanos, seconds};

/// How long the clocks are kept going for one call.
const SPELL: i64 = NSEC_PER_SEC;

pub(super) type Cell<'a> = Writing<'a, AtomicU64, { word::COUNT }>;

/// Writes both clocks.
pub(super) fn put(cell: &Cell<'_>, mono: i64, real: i64) {
    cell.set::<{ word::COARSE_MONO_SEC }>(seconds(mono));
    cell.set::<{ word::COARSE_MONO_NSEC }>(nanos(mono));
    cell.set::<{ word::COARSE_REAL_SEC }>(seconds(real));
    cell.set::<{ word::COARSE_REAL_NSEC }>(nanos(real));
    cell.set::<{ word::COARSE_VALID }>(1);
}

/// Keeps the coarse clocks going for a while.
pub fn start_ticking(clocks: &Arc<Clocks>) {
    {
        let mut state = clocks.state.lock();
        if state.ticking {
            return;
        }
        state.ticking = true;
        clocks.refresh(&mut state);
    }
    let (weak, tick) = (Arc::downgrade(clocks), clocks.tick());
    let pause = Duration::from_nanos(tick.unsigned_abs());
    let run = move || {
        for _ in 0..SPELL / tick {
            std::thread::sleep(pause);
            let Some(clocks) = weak.upgrade() else { return };
            let mut state = clocks.state.lock();
            if !state.ticking {
                return;
            }
            clocks.refresh(&mut state);
        }
        if let Some(clocks) = weak.upgrade() {
            clocks.stop_ticking(&mut clocks.state.lock());
        }
    };
    if let Err(error) = std::thread::Builder::new().name("ticks".into()).stack_size(128 << 10).spawn(run) {
        log::error!("no thread for the coarse clocks: {error}");
        clocks.stop_ticking(&mut clocks.state.lock());
    }
}
