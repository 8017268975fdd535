//! The protocols over shared memory, in every interleaving (loom). The types are generic over their words, so it is the
//! code that guest and kernel run which is checked, without a special build.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::{self, Acquire, Relaxed, Release};

use coracle_abi::pvclock::{self, Line, Slot, Trouble};
use coracle_abi::seq::{SeqCell, Word};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, fence};
use loom::thread;

struct Loom(AtomicU64);

impl Loom {
    fn new(value: u64) -> Loom {
        Loom(AtomicU64::new(value))
    }
}

impl Word for Loom {
    fn load(&self, order: Ordering) -> u64 {
        self.0.load(order)
    }

    fn store(&self, value: u64, order: Ordering) {
        self.0.store(value, order);
    }

    fn fence(order: Ordering) {
        fence(order);
    }

    fn relax() {
        thread::yield_now();
    }
}

/// Every interleaving with at most so many preemptions.
fn model(preemptions: usize, check: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 10_000;
    builder.max_duration = Some(std::time::Duration::from_secs(20));
    builder.check(check);
}

/// The model must find a failure: a check that cannot fail proves nothing.
fn model_fails(preemptions: usize, check: impl Fn() + Send + Sync + 'static) {
    let outcome = catch_unwind(AssertUnwindSafe(|| model(preemptions, check)));
    assert!(outcome.is_err(), "no interleaving breaks what must break");
}

fn cell() -> Arc<SeqCell<Loom, 2>> {
    Arc::new(SeqCell::new(Loom::new(0), [Loom::new(0), Loom::new(0)]))
}

fn both(cell: &SeqCell<Loom, 2>) -> Option<(u64, u64)> {
    cell.try_read(|words| (words.get::<0>(), words.get::<1>()))
}

fn put(cell: &SeqCell<Loom, 2>, value: u64) {
    let writing = cell.begin();
    writing.set::<0>(value);
    writing.set::<1>(value);
    writing.finish();
}

#[test]
fn a_reader_never_sees_a_mixture() {
    model(3, || {
        let cell = cell();
        let writer = {
            let cell = cell.clone();
            thread::spawn(move || {
                put(&cell, 1);
                put(&cell, 2);
            })
        };
        let mut last = 0;
        for _ in 0..2 {
            if let Some((a, b)) = both(&cell) {
                assert_eq!(a, b);
                assert!(a >= last, "older data after newer");
                last = a;
            }
        }
        writer.join().unwrap();
        assert_eq!(both(&cell), Some((2, 2)));
    });
}

#[test]
fn two_readers_agree_on_the_order() {
    model(2, || {
        let cell = cell();
        let seen = Arc::new(AtomicU64::new(0));
        let writer = {
            let cell = cell.clone();
            thread::spawn(move || put(&cell, 1))
        };
        let reader = {
            let (cell, seen) = (cell.clone(), seen.clone());
            thread::spawn(move || {
                if let Some((value, _)) = both(&cell) {
                    seen.store(value, Release);
                }
            })
        };
        let known = seen.load(Acquire);
        if let Some((value, _)) = both(&cell) {
            assert!(value >= known, "what another reader has seen is gone");
        }
        writer.join().unwrap();
        reader.join().unwrap();
    });
}

/// A cell without its second look at the number is found out, so the model sees mixtures where there are any.
#[test]
fn without_the_second_look_there_are_mixtures() {
    model_fails(3, || {
        let cell = cell();
        let writer = {
            let cell = cell.clone();
            thread::spawn(move || put(&cell, 1))
        };
        let mut looked = (0, 0);
        let _ = cell.try_read(|words| looked = (words.get::<0>(), words.get::<1>()));
        assert_eq!(looked.0, looked.1);
        writer.join().unwrap();
    });
}

#[test]
fn a_writer_that_dies_shuts_the_cell_until_the_next() {
    model(3, || {
        let cell = cell();
        let dying = {
            let cell = cell.clone();
            thread::spawn(move || {
                let writing = cell.begin();
                writing.set::<0>(1);
                // … and no more: the second word and the even number never come.
                drop(writing);
            })
        };
        for _ in 0..2 {
            assert!(matches!(both(&cell), None | Some((0, 0))), "half of what was written");
        }
        dying.join().unwrap();
        assert_eq!(cell.read(3, |words| words.get::<0>()), None, "a reader goes its way after so many attempts");
        let next = {
            let cell = cell.clone();
            thread::spawn(move || put(&cell, 2))
        };
        assert!(matches!(both(&cell), None | Some((2, 2))));
        next.join().unwrap();
        assert_eq!(both(&cell), Some((2, 2)));
    });
}

/// A counter read after `begin` is later than that of any reader who still got the old data: without this a new,
/// slower line could show less than the old one has just shown.
#[test]
fn readers_of_old_data_read_the_counter_before_the_writer() {
    model(3, || {
        let cell = cell();
        let counter = Arc::new(AtomicU64::new(0));
        let writer = {
            let (cell, counter) = (cell.clone(), counter.clone());
            thread::spawn(move || {
                let writing = cell.begin();
                let now = counter.fetch_add(1, Ordering::AcqRel);
                writing.set::<0>(now);
                writing.set::<1>(1);
                writing.finish();
            })
        };
        let read =
            cell.try_read(|words| (counter.fetch_add(1, Ordering::AcqRel), words.get::<0>(), words.get::<1>()));
        writer.join().unwrap();
        let anchor = both(&cell).unwrap().0;
        if let Some((now, _, 0)) = read {
            assert!(now < anchor, "old data with the counter of a later time");
        }
    });
}

// pvclock. A regime is which meaning the counters have; the line of regime n only fits counters of regime n. Here a
// counter is the number of its regime, and so is a line's system time.

struct Machine {
    slots: [Slot<Loom>; 2],
    /// Per virtual CPU.
    counters: [AtomicU64; 2],
}

fn line(regime: u64, flags: u8) -> Line {
    let (tsc_to_system_mul, tsc_shift) = (0, 0);
    Line { tsc_timestamp: 0, system_time: regime, tsc_to_system_mul, tsc_shift, flags, limit: u64::MAX }
}

fn slot() -> Slot<Loom> {
    let words = [Loom::new(0), Loom::new(1), Loom::new(u64::from(pvclock::TSC_STABLE) << 40)];
    Slot::new(Loom::new(0), words, Loom::new(u64::MAX))
}

fn machine() -> Arc<Machine> {
    let slots = [slot(), slot()];
    Arc::new(Machine { slots, counters: [AtomicU64::new(1), AtomicU64::new(1)] })
}

impl Machine {
    /// A reader on virtual CPU `cpu`: the regimes of its line and of its counter. It prefers the page of virtual CPU 0.
    fn read(&self, cpu: usize) -> Option<(u64, u64)> {
        let first = self.at(0, cpu)?;
        if first.2 & pvclock::TSC_STABLE != 0 {
            return Some((first.0, first.1));
        }
        let own = self.at(cpu, cpu)?;
        Some((own.0, own.1))
    }

    /// With the counter read inside the version-checked section.
    fn at(&self, slot: usize, cpu: usize) -> Option<(u64, u64, u8)> {
        let mut counter = 0;
        let read = self.slots[slot].at_with(|| {
            counter = self.counters[cpu].load(Relaxed);
            counter
        });
        match read {
            Ok((regime, flags)) => Some((regime, counter, flags)),
            Err(Trouble::Again | Trouble::Stale | Trouble::Unstable) => None,
        }
    }

    /// All shut, virtual CPU 0 first; counters change; all opened.
    fn turn_unstable(&self) {
        let opening = pvclock::shut(&self.slots);
        for counter in &self.counters {
            counter.store(2, Relaxed);
        }
        opening.open(|_| line(2, 0));
    }

    /// Slot by slot, each virtual CPU running on as soon as its own is written.
    fn turn_unstable_naively(&self, order: [usize; 2]) {
        for cpu in order {
            let opening = pvclock::shut(&self.slots[cpu..=cpu]);
            self.counters[cpu].store(2, Relaxed);
            opening.open(|_| line(2, 0));
        }
    }
}

/// One who is moved from virtual CPU 0 to 1 between two readings (or is told by one on virtual CPU 0).
fn transition(naive: Option<[usize; 2]>) {
    let machine = machine();
    let publisher = {
        let machine = machine.clone();
        thread::spawn(move || match naive {
            None => machine.turn_unstable(),
            Some(order) => machine.turn_unstable_naively(order),
        })
    };
    let mut known = 0;
    for cpu in [0, 1] {
        if let Some((line, counter)) = machine.read(cpu) {
            assert_eq!(line, counter, "virtual CPU {cpu} uses a line that is not its counter's");
            assert!(line >= known, "the old regime after the new one was seen");
            known = line;
        }
    }
    publisher.join().unwrap();
    assert_eq!((machine.read(0), machine.read(1)), (Some((2, 2)), Some((2, 2))));
}

#[test]
fn the_stable_bit_goes_for_all_virtual_cpus_at_once() {
    model(2, || transition(None));
}

/// Virtual CPU 1 has been updated and runs under the new regime; the page of virtual CPU 0 still says stable.
#[test]
fn a_publisher_that_comes_to_virtual_cpu_0_last_fails() {
    model_fails(1, || transition(Some([1, 0])));
}

/// Virtual CPU 0 has been updated; virtual CPU 1 still reads its own, old page after it was shown the new time.
#[test]
fn a_publisher_that_comes_to_virtual_cpu_0_first_fails() {
    model_fails(1, || transition(Some([0, 1])));
}

/// The flag read outside the version-checked section goes with another line.
#[test]
fn a_reader_that_looks_at_the_flag_too_early_fails() {
    model_fails(2, || {
        let machine = machine();
        let publisher = {
            let machine = machine.clone();
            thread::spawn(move || machine.turn_unstable())
        };
        let stable = machine.slots[0].at(0).is_ok_and(|(_, flags)| flags & pvclock::TSC_STABLE != 0);
        if stable && let Some((line, _, _)) = machine.at(0, 1) {
            assert_eq!(line, 1, "an unstable page of virtual CPU 0 read by virtual CPU 1");
        }
        publisher.join().unwrap();
    });
}
