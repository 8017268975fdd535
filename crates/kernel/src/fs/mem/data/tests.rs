//! Files in memory against arrays of bytes, full disks, holes.

use super::*;
use crate::mem::{SliceSource, VecSink};
use proptest::prelude::*;

fn read_all(data: &Data) -> Vec<u8> {
    let mut sink = VecSink { bytes: Vec::new(), limit: 1 << 24 };
    data.read(0, &mut sink).unwrap();
    sink.bytes
}

#[derive(Clone, Debug)]
enum Op {
    Write(u64, Vec<u8>),
    Truncate(u64),
    Punch(u64, u64),
    Reserve(u64, u64),
    Promote,
}

fn op() -> impl Strategy<Value = Op> {
    let at = 0u64..40_000;
    prop_oneof![
        (at.clone(), proptest::collection::vec(any::<u8>(), 0..9000)).prop_map(|(a, b)| Op::Write(a, b)),
        at.clone().prop_map(Op::Truncate),
        (at.clone(), 1u64..20_000).prop_map(|(a, l)| Op::Punch(a, l)),
        (at, 1u64..20_000).prop_map(|(a, l)| Op::Reserve(a, l)),
        Just(Op::Promote),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever is done to it, in pages or in a memfd, it reads like an array of bytes.
    #[test]
    fn behaves_like_a_byte_array(ops in proptest::collection::vec(op(), 1..20)) {
        let budget = Budget::new(u64::MAX);
        let data = Data::new(budget.clone());
        let mut model: Vec<u8> = Vec::new();
        for op in ops {
            match op {
                Op::Write(at, bytes) => {
                    data.write(at, &mut SliceSource(&bytes)).unwrap();
                    if !bytes.is_empty() {
                        let end = at as usize + bytes.len();
                        if model.len() < end { model.resize(end, 0); }
                        model[at as usize..end].copy_from_slice(&bytes);
                    }
                }
                Op::Truncate(len) => { data.truncate(len).unwrap(); model.resize(len as usize, 0); }
                Op::Punch(at, len) => {
                    data.allocate(3, at, len).unwrap();
                    let end = ((at + len) as usize).min(model.len());
                    if (at as usize) < end { model[at as usize..end].fill(0); }
                }
                Op::Reserve(at, len) => {
                    data.allocate(0, at, len).unwrap();
                    let end = (at + len) as usize;
                    if model.len() < end { model.resize(end, 0); }
                }
                Op::Promote => { data.host(true).unwrap(); }
            }
            prop_assert_eq!(read_all(&data), model.clone());
        }
        drop(data);
        prop_assert_eq!(budget.state().1, 0);
    }
}

#[test]
fn a_full_disk_takes_what_fits() {
    let data = Data::new(Budget::new(2 * PAGE_SIZE));
    let bytes = vec![7; 3 * PAGE];
    assert_eq!(data.write(0, &mut SliceSource(&bytes)), Ok(2 * PAGE));
    assert_eq!(data.write(2 * PAGE_SIZE, &mut SliceSource(&bytes)), Err(Errno::ENOSPC));
    data.truncate(0).unwrap();
    assert_eq!(data.write(0, &mut SliceSource(&bytes)), Ok(2 * PAGE));
}

#[test]
fn holes_are_found() {
    let data = Data::new(Budget::new(u64::MAX));
    data.write(3 * PAGE_SIZE, &mut SliceSource(b"x")).unwrap();
    for _ in 0..2 {
        assert_eq!(data.seek_data(0, false), Ok(3 * PAGE_SIZE));
        assert_eq!(data.seek_data(0, true), Ok(0));
        assert_eq!(data.seek_data(3 * PAGE_SIZE, true), Ok(3 * PAGE_SIZE + 1));
        assert_eq!(data.seek_data(3 * PAGE_SIZE + 1, false), Err(Errno::ENXIO));
        data.host(true).unwrap();
    }
}
