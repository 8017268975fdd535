//! The clocks over simulated hours: a counter and a host whose clocks are what a test makes of them.
//!
//! Each test reads as guests read (from the page) and as the kernel does, and checks what is promised: no reader ever
//! sees time go back, nobody is behind what the host has timed, nobody is far ahead.

use std::sync::Arc;

use coracle_abi::vvar::{Fine, Vvar, mode, seed};
use coracle_platform::VvarMemory;
use parking_lot::Mutex;
use proptest::prelude::*;

use super::clocks::{Choice, Clocks, Offsets};
use super::host::{Kind, Source};

/// A machine in true nanoseconds since its start. Every look at it takes a while.
#[derive(Clone, Debug)]
struct Machine {
    /// True time, in units of 2^-16 ns.
    time: u128,
    /// Counter at the last change of its speed, and when that was.
    counter: u64,
    counter_since: u128,
    /// Cycles per second.
    hertz: u64,
    /// The host's MONOTONIC, likewise, and how fast it runs in parts per billion beside true time.
    mono: i64,
    mono_since: u128,
    rate: i64,
    real_offset: i64,
    boot_offset: i64,
    tai: i64,
    fit: bool,
}

const UNIT: u128 = 1 << 16;
const SECOND: u128 = 1_000_000_000 * UNIT;

impl Machine {
    fn new(hertz: u64) -> Machine {
        Machine {
            time: 0,
            counter: 1 << 40,
            counter_since: 0,
            hertz,
            mono: 1_000_000_000_000,
            mono_since: 0,
            rate: 0,
            real_offset: 1_700_000_000_123_456_789,
            boot_offset: 0,
            tai: 37,
            fit: true,
        }
    }

    fn pass(&mut self, ns: u64) {
        self.time += u128::from(ns) * UNIT;
    }

    fn counter(&self) -> u64 {
        self.counter + ((self.time - self.counter_since) * u128::from(self.hertz) / SECOND) as u64
    }

    fn mono(&self) -> i64 {
        let true_ns = (self.time - self.mono_since) / UNIT;
        self.mono + (true_ns as i128 * (1_000_000_000 + i128::from(self.rate)) / 1_000_000_000) as i64
    }

    /// The host's clock bends.
    fn bend(&mut self, rate: i64) {
        (self.mono, self.mono_since) = (self.mono(), self.time);
        self.rate = rate;
    }

    fn set_counter(&mut self, counter: u64, hertz: u64) {
        (self.counter, self.counter_since, self.hertz) = (counter, self.time, hertz);
    }

    fn now(&self, kind: Kind) -> i64 {
        let tick = 4_000_000;
        match kind {
            Kind::Monotonic => self.mono(),
            Kind::MonotonicCoarse => self.mono() / tick * tick,
            Kind::Realtime => self.mono() + self.real_offset,
            Kind::RealtimeCoarse => self.mono() / tick * tick + self.real_offset,
            Kind::Boottime => self.mono() + self.boot_offset,
            Kind::Tai => self.mono() + self.real_offset + self.tai * 1_000_000_000,
            Kind::Raw => (self.time / UNIT) as i64 + 77,
        }
    }
}

#[derive(Clone)]
struct Simulated(Arc<Mutex<Machine>>);

impl Source for Simulated {
    fn cycles(&self) -> u64 {
        let mut machine = self.0.lock();
        machine.pass(7);
        let counter = machine.counter();
        machine.pass(4);
        counter
    }

    fn now(&self, kind: Kind) -> i64 {
        let mut machine = self.0.lock();
        machine.pass(9);
        let now = machine.now(kind);
        machine.pass(6);
        now
    }

    fn tick(&self) -> i64 {
        4_000_000
    }

    fn is_fit(&self) -> bool {
        self.0.lock().fit
    }
}

/// A world's clocks on a simulated machine, and what was seen of them.
struct Trial {
    machine: Simulated,
    clocks: Arc<Clocks>,
    memory: Arc<VvarMemory>,
    last: i64,
    worst_lag: i64,
    worst_lead: i64,
    calls: u64,
}

impl Trial {
    fn new(hertz: u64, choice: Choice) -> Trial {
        let machine = Simulated(Arc::new(Mutex::new(Machine::new(hertz))));
        let memory = VvarMemory::new().unwrap();
        let clocks =
            Arc::new(Clocks::new(Some(memory.clone()), Box::new(machine.clone()), choice, Offsets::default()));
        machine.0.lock().pass(1_500_000);
        Trial { machine, clocks, memory, last: 0, worst_lag: 0, worst_lead: 0, calls: 0 }
    }

    fn page(&self) -> &Vvar {
        self.memory.page()
    }

    /// What a guest does: the vDSO, else its system call.
    fn guest(&mut self, fine: Fine, kind: Kind) -> i64 {
        if let Some(moment) = self.page().fine(fine, 4, || self.machine.cycles()) {
            return moment.sec * 1_000_000_000 + i64::from(moment.nsec);
        }
        self.calls += 1;
        self.clocks.asked_by_vdso();
        self.clocks.now(kind)
    }

    /// Reads MONOTONIC both ways and checks order and distance.
    fn check(&mut self) {
        let by_call = self.clocks.now(Kind::Monotonic);
        assert!(by_call >= self.last, "the system call shows {} less than before", self.last - by_call);
        let before = self.machine.0.lock().mono();
        let now = self.guest(Fine::Monotonic, Kind::Monotonic);
        let after = self.machine.0.lock().mono();
        assert!(now >= by_call, "the vDSO shows {} less than the system call", by_call - now);
        self.last = now;
        self.worst_lag = self.worst_lag.max(before - now);
        self.worst_lead = self.worst_lead.max(now - after);
    }

    fn pass(&self, ns: u64) {
        self.machine.0.lock().pass(ns);
    }
}

#[test]
fn the_first_call_of_the_vdso_starts_the_clocks_and_no_other() {
    let mut trial = Trial::new(2_445_432_000, Choice::Auto);
    let host = trial.machine.0.lock().mono();
    assert!(trial.clocks.now(Kind::Monotonic) >= host);
    assert_eq!(trial.page().seed.load(std::sync::atomic::Ordering::Relaxed), seed::EMPTY, "a plain call does not");
    assert_eq!(trial.page().fine(Fine::Monotonic, 4, || trial.machine.cycles()), None);
    trial.check();
    assert_eq!(trial.page().seed.load(std::sync::atomic::Ordering::Relaxed), seed::READY);
    assert!(trial.page().fine(Fine::Monotonic, 4, || trial.machine.cycles()).is_some());
    trial.check();
    assert_eq!(trial.calls, 1);
}

#[test]
fn a_counter_that_is_not_fit_is_not_used() {
    let mut trial = Trial::new(2_445_432_000, Choice::Auto);
    trial.machine.0.lock().fit = false;
    trial.check();
    assert_eq!(
        trial.page().clocks.try_read(|words| words.get::<{ coracle_abi::vvar::word::MODE }>()),
        Some(mode::NONE)
    );
    let host = trial.machine.0.lock().mono();
    assert!((trial.clocks.now(Kind::Monotonic) - host).abs() < 1000);
}

#[test]
fn all_clocks_are_the_hosts_but_for_the_offsets() {
    for choice in [Choice::Tsc, Choice::Pvclock] {
        let machine = Simulated(Arc::new(Mutex::new(Machine::new(1_000_000_000))));
        machine.0.lock().boot_offset = 5_000_000_123;
        let memory = VvarMemory::new().unwrap();
        let offsets = Offsets { monotonic: -7_000_000_001, boottime: 3_000_000_000 };
        let clocks = Arc::new(Clocks::new(Some(memory.clone()), Box::new(machine.clone()), choice, offsets));
        machine.0.lock().pass(1_000_000);
        clocks.asked_by_vdso();
        for _ in 0..2 {
            for (fine, kind, offset) in [
                (Fine::Monotonic, Kind::Monotonic, offsets.monotonic),
                (Fine::Raw, Kind::Raw, offsets.monotonic),
                (Fine::Boottime, Kind::Boottime, offsets.boottime),
                (Fine::Realtime, Kind::Realtime, 0),
                (Fine::Tai, Kind::Tai, 0),
            ] {
                let host = machine.0.lock().now(kind) + offset;
                let near = |ns: i64| (ns - host).abs() < 20_000;
                assert!(near(clocks.now(kind)), "{choice:?} {kind:?}: {} beside {host}", clocks.now(kind));
                match memory.page().fine(fine, 4, || machine.cycles()) {
                    Some(moment) => assert!(near(moment.sec * 1_000_000_000 + i64::from(moment.nsec)), "{kind:?}"),
                    None => assert_eq!((choice, kind), (Choice::Pvclock, Kind::Raw)),
                }
            }
            machine.0.lock().pass(200_000_000);
            clocks.now(Kind::Monotonic);
        }
    }
}

#[test]
fn nothing_of_a_long_rest_remains() {
    let mut trial = Trial::new(3_000_000_000, Choice::Auto);
    for _ in 0..100 {
        trial.check();
        trial.pass(3_600_000_000_000);
    }
    assert!(trial.worst_lag <= 0, "{}", trial.worst_lag);
    assert!(trial.worst_lead < 200, "{}", trial.worst_lead);
}

#[test]
fn reading_all_the_time_costs_few_calls() {
    let mut trial = Trial::new(2_445_432_000, Choice::Auto);
    for _ in 0..100_000 {
        trial.check();
        trial.pass(20_000);
    }
    // Two seconds; a horizon is up to 32 ms.
    assert!(trial.calls < 120, "{}", trial.calls);
    assert!(trial.worst_lag <= 0, "{}", trial.worst_lag);
    assert!(trial.worst_lead < 200, "{}", trial.worst_lead);
}

#[test]
fn real_time_follows_the_hosts_steps() {
    let mut trial = Trial::new(2_445_432_000, Choice::Auto);
    for step in [3_600_000_000_000_i64, -7_200_000_000_000, 1_500_000_000] {
        trial.check();
        trial.machine.0.lock().real_offset += step;
        trial.pass(100_000_000);
        trial.check();
        let host = trial.machine.0.lock().now(Kind::Realtime);
        let ours = trial.guest(Fine::Realtime, Kind::Realtime);
        assert!((ours - host).abs() < 1000, "{}", ours - host);
    }
}

#[test]
fn coarse_clocks_never_pass_the_hosts_nor_go_back() {
    let trial = Trial::new(2_445_432_000, Choice::Auto);
    trial.clocks.asked_by_vdso();
    let mut last = 0;
    for round in 0..2000 {
        match round % 100 {
            30 => trial.clocks.state.lock().ticking = true,
            31..60 => trial.clocks.refresh(&mut trial.clocks.state.lock()),
            60 => trial.clocks.stop_ticking(&mut trial.clocks.state.lock()),
            _ => {}
        }
        trial.clocks.now(Kind::Monotonic);
        let page = trial.page().coarse(false, 4, || trial.machine.cycles()).unwrap();
        let ns = page.sec * 1_000_000_000 + i64::from(page.nsec);
        let host = trial.machine.0.lock().now(Kind::MonotonicCoarse);
        assert!(ns >= last && ns <= host + 100, "{round}: {} {}", ns - last, ns - host);
        let call = trial.clocks.now(Kind::MonotonicCoarse);
        assert!(call >= ns);
        last = call;
        trial.pass(1_234_567);
    }
}

/// Things that happen to a machine.
#[derive(Clone, Debug)]
enum Event {
    /// Readings, with so many nanoseconds in between.
    Read(u32, u32),
    /// Nobody reads.
    Rest(u64),
    /// NTP: parts per billion.
    Bend(i64),
    /// `settimeofday`.
    Step(i64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => (1..200u32, 20..2_000_000u32).prop_map(|(count, gap)| Event::Read(count, gap)),
        1 => (1_000_000..7_200_000_000_000u64).prop_map(Event::Rest),
        2 => (-500_000..500_000i64).prop_map(Event::Bend),
        1 => (-10_000_000_000_000..10_000_000_000_000i64).prop_map(Event::Step),
    ];
    proptest::collection::vec(event, 1..60)
}

fn play(trial: &mut Trial, events: &[Event]) {
    for event in events {
        match event {
            Event::Read(count, gap) => {
                for _ in 0..*count {
                    trial.check();
                    trial.pass(u64::from(*gap));
                }
            }
            Event::Rest(ns) => trial.pass(*ns),
            Event::Bend(rate) => trial.machine.0.lock().bend(*rate),
            Event::Step(step) => trial.machine.0.lock().real_offset += step,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Hours of drift, pauses and steps: in order for every reader, and at most one horizon's worth of the sharpest
    /// bend away from the host.
    #[test]
    fn hours_of_drift(
        events in events(),
        hertz in 1_000_000_000..6_000_000_000u64,
        choice in prop_oneof![Just(Choice::Tsc), Just(Choice::Pvclock)],
    ) {
        let mut trial = Trial::new(hertz, choice);
        play(&mut trial, &events);
        // From +500 to -500 ppm within 32 ms, and the gap between two readings.
        prop_assert!(trial.worst_lag <= 33_000, "lags by {}", trial.worst_lag);
        prop_assert!(trial.worst_lead <= 34_000, "leads by {}", trial.worst_lead);
    }

    /// A discipline as gentle as NTP's in ordinary life: nobody is behind the host at all.
    #[test]
    fn hours_of_gentle_drift(rates in proptest::collection::vec((-100_000..100_000i64, -200..200i64), 1..8)) {
        let mut trial = Trial::new(2_445_432_000, Choice::Auto);
        for (gap, change) in rates {
            let rate = trial.machine.0.lock().rate;
            trial.machine.0.lock().bend((rate + change).clamp(-400_000, 400_000));
            for _ in 0..2_000 {
                trial.check();
                trial.pass(gap.unsigned_abs() * 100);
            }
        }
        prop_assert!(trial.worst_lag <= 0, "lags by {}", trial.worst_lag);
        prop_assert!(trial.worst_lead < 300, "leads by {}", trial.worst_lead);
    }

    /// A counter that jumps or changes its speed: time stays in order, and in the end it is given up.
    #[test]
    fn a_counter_gone_mad(
        jumps in proptest::collection::vec((-50_000_000_000i64..50_000_000_000, 1_000_000_000..4_000_000_000u64), 1..8),
        events in events(),
    ) {
        let mut trial = Trial::new(2_445_432_000, Choice::Auto);
        for (jump, hertz) in jumps {
            play(&mut trial, &events);
            let mut machine = trial.machine.0.lock();
            let counter = machine.counter().saturating_add_signed(jump);
            machine.set_counter(counter, hertz);
        }
        play(&mut trial, &events);
        trial.pass(1_000_000_000);
        // However wrong it went, it is the host's time again, or still ahead by what it has shown.
        for _ in 0..10 {
            trial.check();
            trial.pass(100_000_000);
        }
        let host = trial.machine.0.lock().mono();
        prop_assert!(trial.last <= host + 60_000_000_000);
        prop_assert!(trial.last >= host - 200_000_000);
    }
}
