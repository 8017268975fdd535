//! Triggering, one-shot items, nesting, removal.

use std::sync::Arc;

use parking_lot::Mutex;

use super::{EPOLLET, EPOLLEXCLUSIVE, EPOLLONESHOT, Epoll, Event};
use crate::Errno;
use crate::fd::{File, OpenFile};
use crate::ipc::eventfd::EventFd;
use crate::ipc::quota::Quota;
use crate::wait::{Events, PollTable};

const IN: u32 = Events::IN.bits();

struct Bench {
    epoll: Arc<Epoll>,
    counter: Arc<EventFd>,
    file: Arc<OpenFile>,
    nesting: Mutex<()>,
}

fn bench() -> Bench {
    let counter = Arc::new(EventFd::new(0, false));
    let file = OpenFile::new(counter.clone(), 2);
    Bench { epoll: unlimited(), counter, file, nesting: Mutex::default() }
}

impl Bench {
    fn add(&self, events: u32) {
        self.epoll.add(&self.nesting, 5, &self.file, Event { events, data: 42 }).unwrap();
    }
}

#[test]
fn level_triggered_items_report_as_long_as_they_are_ready() {
    let bench = bench();
    bench.add(IN);
    assert_eq!(bench.epoll.collect(8).events, []);
    bench.counter.signal(1);
    for _ in 0..3 {
        assert_eq!(bench.epoll.collect(8).events, [Event { events: IN, data: 42 }]);
    }
}

#[test]
fn edge_triggered_items_report_each_wake_once() {
    let bench = bench();
    bench.add(IN | EPOLLET);
    bench.counter.signal(1);
    assert_eq!(bench.epoll.collect(8).events.len(), 1);
    assert_eq!(bench.epoll.collect(8).events.len(), 0);
    bench.counter.signal(1);
    assert_eq!(bench.epoll.collect(8).events.len(), 1);
    assert_eq!(bench.epoll.collect(8).events.len(), 0);
}

#[test]
fn one_shot_items_wait_to_be_armed_again() {
    let bench = bench();
    bench.add(IN | EPOLLONESHOT);
    bench.counter.signal(1);
    assert_eq!(bench.epoll.collect(8).events.len(), 1);
    bench.counter.signal(1);
    assert_eq!(bench.epoll.collect(8).events.len(), 0);
    bench.epoll.modify(5, &bench.file, Event { events: IN | EPOLLONESHOT, data: 1 }).unwrap();
    assert_eq!(bench.epoll.collect(8).events, [Event { events: IN, data: 1 }]);
}

#[test]
fn add_modify_and_delete_follow_the_manual() {
    let bench = bench();
    let event = Event { events: IN, data: 0 };
    assert_eq!(bench.epoll.modify(5, &bench.file, event), Err(Errno::ENOENT));
    assert_eq!(bench.epoll.delete(5, &bench.file), Err(Errno::ENOENT));
    bench.add(IN);
    assert_eq!(bench.epoll.add(&bench.nesting, 5, &bench.file, event), Err(Errno::EEXIST));
    // The same file under another number is another item.
    bench.epoll.add(&bench.nesting, 6, &bench.file, event).unwrap();
    let exclusive = Event { events: IN | EPOLLEXCLUSIVE, data: 0 };
    assert_eq!(bench.epoll.modify(5, &bench.file, exclusive), Err(Errno::EINVAL));
    bench.epoll.delete(5, &bench.file).unwrap();
    bench.epoll.delete(6, &bench.file).unwrap();
    bench.counter.signal(1);
    assert_eq!(bench.epoll.collect(8).events, []);
}

#[test]
fn the_end_of_a_file_is_the_end_of_its_items() {
    let Bench { epoll, counter, file, nesting } = bench();
    epoll.add(&nesting, 5, &file, Event { events: IN, data: 0 }).unwrap();
    counter.signal(1);
    drop(file);
    assert_eq!(epoll.list(), []);
    assert_eq!(epoll.collect(8).events, []);
}

#[test]
fn removed_ready_items_say_nothing_and_are_swept() {
    let bench = bench();
    bench.counter.signal(1);
    let event = |fd: i32| Event { events: IN, data: fd as u64 };
    for fd in 0..1000 {
        bench.epoll.add(&bench.nesting, fd, &bench.file, event(fd)).unwrap();
    }
    for fd in 0..999 {
        bench.epoll.delete(fd, &bench.file).unwrap();
        let (list, items) = (bench.epoll.ready.lock().len(), bench.epoll.items.lock().len());
        assert!(list <= 2 * items + 1, "{list} queued of {items}");
    }
    // One that comes and goes leaves no trail.
    for _ in 0..1000 {
        bench.epoll.add(&bench.nesting, 0, &bench.file, event(0)).unwrap();
        bench.epoll.delete(0, &bench.file).unwrap();
        assert!(bench.epoll.ready.lock().len() <= 3);
    }
    assert_eq!(bench.epoll.collect(8).events, [event(999)]);
}

#[test]
fn nested_epolls_are_ready_when_an_item_is() {
    let bench = bench();
    bench.add(IN);
    let inner = OpenFile::new(bench.epoll.clone(), 2);
    let outer = unlimited();
    outer.add(&bench.nesting, 7, &inner, Event { events: IN, data: 7 }).unwrap();
    assert_eq!(outer.poll(&mut PollTable::check()), Events::empty());
    bench.counter.signal(1);
    assert_eq!(outer.poll(&mut PollTable::check()), Events::READ);
    assert_eq!(outer.collect(8).events, [Event { events: IN, data: 7 }]);
}

/// One whose items nobody counts.
fn unlimited() -> Arc<Epoll> {
    Epoll::new(&Arc::default(), u64::MAX)
}

#[test]
fn watches_are_counted() {
    let bench = bench();
    let (quota, event) = (Arc::new(Quota::default()), Event { events: IN, data: 0 });
    let (one, other) = (Epoll::new(&quota, 3), Epoll::new(&quota, 3));
    let add = |epoll: &Arc<Epoll>, fd| epoll.add(&bench.nesting, fd, &bench.file, event);
    assert_eq!([add(&one, 1), add(&one, 2), add(&other, 1)], [Ok(()); 3]);
    assert_eq!(add(&other, 2), Err(Errno::ENOSPC));
    one.delete(2, &bench.file).unwrap();
    assert_eq!((add(&other, 2), quota.used()), (Ok(()), 3));
    drop(one);
    assert_eq!(quota.used(), 2);
    drop(bench.file);
    assert_eq!(quota.used(), 0);
}

#[test]
fn loops_and_long_chains_are_refused() {
    let nesting = Mutex::new(());
    let event = Event { events: IN, data: 0 };
    let epolls: Vec<_> = (0..8).map(|_| unlimited()).collect();
    let files: Vec<_> = epolls.iter().map(|epoll| OpenFile::new(epoll.clone(), 2)).collect();
    // As the host does it: the fifth link of a chain is one too many.
    for at in 0..4 {
        epolls[at + 1].add(&nesting, 9, &files[at], event).unwrap();
    }
    assert_eq!(epolls[5].add(&nesting, 9, &files[4], event), Err(Errno::ELOOP));
    assert_eq!(epolls[0].add(&nesting, 9, &files[2], event), Err(Errno::ELOOP));
    assert_eq!(epolls[0].add(&nesting, 9, &files[0], event), Err(Errno::EINVAL));
}

/// A wake goes every way up, so there are not too many; looking for them takes no longer than there are links.
#[test]
fn wide_nests_are_refused_and_looked_through_once() {
    let nesting = Mutex::new(());
    let event = Event { events: IN, data: 0 };
    let layer = || -> Vec<_> { (0..150).map(|_| unlimited()).collect() };
    let layers = [layer(), layer(), layer(), layer()];
    let mut refused = 0;
    for (upper, lower) in layers.iter().skip(1).zip(&layers) {
        let files: Vec<_> = lower.iter().map(|epoll| OpenFile::new(epoll.clone(), 2)).collect();
        for epoll in upper.iter().take(20) {
            for (fd, file) in (0..).zip(&files) {
                match epoll.add(&nesting, fd, file, event) {
                    Ok(()) => {}
                    Err(error) => {
                        assert_eq!(error, Errno::EINVAL);
                        assert!(!epoll.list().iter().any(|(item, _)| *item == fd));
                        refused += 1;
                    }
                }
            }
        }
        files.into_iter().for_each(std::mem::forget);
    }
    assert!(refused > 0);
}

#[test]
fn host_descriptors_are_watched_through_the_host() {
    struct HostPipe(Arc<std::os::fd::OwnedFd>);
    impl File for HostPipe {
        fn poll(&self, table: &mut PollTable) -> Events {
            table.watch_host(&self.0, Events::IN);
            crate::wait::host_ready(&self.0, Events::IN)
        }
        fn stat(&self) -> crate::Result<crate::abi::types::Stat> {
            Ok(Default::default())
        }
        fn as_any(&self) -> &dyn std::any::Any {
            self
        }
    }
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let file = OpenFile::new(Arc::new(HostPipe(Arc::new(reader))), 0);
    let epoll = unlimited();
    epoll.add(&Mutex::default(), 3, &file, Event { events: IN | EPOLLET, data: 1 }).unwrap();
    assert_eq!(epoll.collect(8).events.len(), 0);
    rustix::io::write(&writer, b"x").unwrap();
    assert_eq!(epoll.collect(8).events.len(), 1);
    assert_eq!(epoll.collect(8).events.len(), 0);
    drop(file);
    assert_eq!(epoll.list(), []);
}
