//! Pipes as objects and through calls.

use proptest::prelude::*;

use super::ring::{PAGE, Ring};
use crate::Errno;
use crate::mem::{SliceSource, VecSink};
use crate::task::testing::{Guest, MEMORY};
use crate::wait::{Events, PollTable};

fn sink(limit: usize) -> VecSink {
    VecSink { bytes: Vec::new(), limit }
}

#[test]
fn a_full_ring_takes_nothing_and_loses_nothing() {
    let mut ring = Ring::default();
    let page = [7u8; PAGE];
    for _ in 0..16 {
        assert_eq!(ring.write(&mut SliceSource(&page), false), Ok(PAGE));
    }
    assert_eq!(ring.write(&mut SliceSource(b"x"), false), Err(Errno::EAGAIN));
    let mut out = sink(1 << 20);
    assert_eq!(ring.read(&mut out), Some(Ok(16 * PAGE)));
    assert!(ring.read(&mut out).is_none());
}

#[test]
fn packets_keep_their_borders() {
    let mut ring = Ring::default();
    ring.write(&mut SliceSource(b"first"), true).unwrap();
    ring.write(&mut SliceSource(b"second"), true).unwrap();
    let mut out = sink(3);
    assert_eq!(ring.read(&mut out), Some(Ok(3)));
    let mut out = sink(100);
    ring.read(&mut out).unwrap().unwrap();
    assert_eq!(out.bytes, b"second");
}

proptest! {
    /// Any sequence of writes and reads behaves as one queue of bytes; small writes are whole or refused.
    #[test]
    fn a_ring_is_a_queue(steps in prop::collection::vec((any::<bool>(), 0usize..9000), 1..200)) {
        let mut ring = Ring::default();
        let mut model = std::collections::VecDeque::new();
        let mut next = 0u8;
        for (write, len) in steps {
            if write {
                let data: Vec<u8> = (0..len).map(|_| { next = next.wrapping_add(1); next }).collect();
                match ring.write(&mut SliceSource(&data), false) {
                    Ok(count) => {
                        prop_assert!(count == len || len > PAGE);
                        model.extend(&data[..count]);
                    }
                    Err(error) => prop_assert_eq!(error, Errno::EAGAIN),
                }
            } else {
                let mut out = sink(len);
                let count = ring.read(&mut out).map_or(0, |result| result.unwrap());
                let expected: Vec<u8> = model.drain(..count).collect();
                prop_assert!(count == len || model.is_empty());
                prop_assert_eq!(out.bytes, expected);
            }
            prop_assert_eq!(ring.len(), model.len());
            prop_assert!(ring.len() <= ring.capacity());
        }
    }

    /// Splicing and teeing keep order and obey the target's capacity.
    #[test]
    fn transfers_keep_bytes(len in 1usize..70_000, parts in prop::collection::vec(1usize..20_000, 1..8)) {
        let data: Vec<u8> = (0..len).map(|at| at as u8).collect();
        let (mut from, mut to) = (Ring::default(), Ring::default());
        let count = from.write(&mut SliceSource(&data), false).unwrap();
        let mut moved = 0;
        for part in parts {
            let copied = from.copy_to(&mut Ring::default(), part);
            let now = from.move_to(&mut to, part);
            prop_assert_eq!(copied, now.max(copied).min(copied));
            moved += now;
        }
        prop_assert_eq!(from.len() + moved, count);
        let mut out = sink(1 << 20);
        if let Some(result) = to.read(&mut out) { result.unwrap(); }
        prop_assert_eq!(&out.bytes[..], &data[..moved]);
    }
}

#[test]
fn the_ends_tell_each_other() {
    let guest = Guest::new();
    let (reader, writer) = super::pipe(&guest.task);
    use crate::fd::File;
    let mut look = PollTable::check();
    assert_eq!(reader.poll(&mut look), Events::empty());
    assert_eq!(writer.poll(&mut look), Events::WRITE);
    drop(writer);
    assert_eq!(reader.poll(&mut look), Events::HUP);
    let (reader, writer) = super::pipe(&guest.task);
    drop(reader);
    assert_eq!(writer.poll(&mut look), Events::WRITE | Events::ERR);
}

#[test]
fn pipe2_refuses_unknown_flags_and_bad_addresses_leave_no_descriptor() {
    let mut guest = Guest::new();
    assert_eq!(guest.call(293, &[MEMORY, 1]), Err(Errno::EINVAL));
    assert_eq!(guest.call(293, &[8, 0]), Err(Errno::EFAULT));
    assert_eq!(guest.task.files().list().len(), 0);
    guest.call(293, &[MEMORY, 0o2000000]).unwrap();
    assert_eq!(guest.get::<[i32; 2]>(MEMORY), [0, 1]);
    assert!(guest.task.files().entry(1).unwrap().close_on_exec);
}
