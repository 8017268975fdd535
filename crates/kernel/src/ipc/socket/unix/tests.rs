//! Descriptor passing and what it must not leak; streams; datagrams.

use std::sync::Arc;

use super::UnixSocket;
use crate::Errno;
use crate::fd::OpenFile;
use crate::ipc::glue;
use crate::ipc::socket::{Incoming, Kind, Outgoing, SocketFile};
use crate::mem::{SliceSource, VecSink};
use crate::task::testing::{Guest, MEMORY};
use crate::wait::{Events, PollTable};

fn pair(guest: &Guest, kind: Kind) -> [Arc<OpenFile>; 2] {
    let task = &guest.task;
    UnixSocket::pair(&task.world.ipc.unix, kind, glue::ucred(task))
        .map(|socket| OpenFile::new(Arc::new(SocketFile::new(task, socket)), 2))
}

fn send(guest: &Guest, to: &OpenFile, bytes: &[u8], files: Vec<Arc<OpenFile>>) -> crate::Result<usize> {
    SocketFile::of(to).unwrap().socket.send(&mut Outgoing {
        control: Vec::new(),
        source: &mut SliceSource(bytes),
        address: None,
        flags: 0,
        files,
        cred: glue::ucred(&guest.task),
        task: &guest.task,
    })
}

fn recv(from: &OpenFile, limit: usize, flags: u32) -> crate::Result<(Vec<u8>, Vec<Arc<OpenFile>>)> {
    let mut sink = VecSink { bytes: Vec::new(), limit };
    let mut message = Incoming::new(&mut sink, flags);
    SocketFile::of(from).unwrap().socket.recv(&mut message)?;
    let files = std::mem::take(&mut message.files);
    Ok((sink.bytes, files))
}

#[test]
fn a_stream_takes_what_linux_takes() {
    let guest = Guest::new();
    // Measured on Linux 6.18 with the default buffer: writes until EAGAIN, by size.
    for (size, count) in [(1, 278), (192, 278), (193, 167), (1000, 93), (4000, 44), (5000, 34), (10000, 17)] {
        let [one, two] = pair(&guest, Kind::Stream);
        let data = vec![b'x'; size];
        let sent = (0..10_000).take_while(|_| send(&guest, &one, &data, vec![]).is_ok()).count();
        assert_eq!(sent, count, "writes of {size}");
        let poll = |file: &OpenFile| file.file.poll(&mut PollTable::check());
        assert!(!poll(&one).contains(Events::OUT));
        let mut drained = 0;
        while !poll(&one).contains(Events::OUT) {
            drained += recv(&two, size, 0).unwrap().0.len();
        }
        assert!(drained * 4 >= size * count * 2);
    }
}

#[test]
fn streams_join_bytes_and_packets_do_not() {
    let guest = Guest::new();
    let [one, two] = pair(&guest, Kind::Stream);
    send(&guest, &one, b"ab", vec![]).unwrap();
    send(&guest, &one, b"cd", vec![]).unwrap();
    assert_eq!(recv(&two, 10, crate::abi::net::MSG_PEEK).unwrap().0, b"abcd");
    assert_eq!(recv(&two, 3, 0).unwrap().0, b"abc");
    assert_eq!(recv(&two, 3, 0).unwrap().0, b"d");
    let [one, two] = pair(&guest, Kind::SeqPacket);
    send(&guest, &one, b"ab", vec![]).unwrap();
    send(&guest, &one, b"cd", vec![]).unwrap();
    assert_eq!(recv(&two, 1, 0).unwrap().0, b"a");
    assert_eq!(recv(&two, 10, 0).unwrap().0, b"cd");
    assert_eq!(recv(&two, 10, 0).map(drop), Err(Errno::EAGAIN));
    drop(one);
    assert_eq!(recv(&two, 10, 0).unwrap().0, b"");
}

#[test]
fn files_stop_a_stream_read_and_arrive_once() {
    let guest = Guest::new();
    let [one, two] = pair(&guest, Kind::Stream);
    let [passed, _other] = pair(&guest, Kind::Stream);
    let key = passed.key;
    send(&guest, &one, b"12", vec![passed]).unwrap();
    send(&guest, &one, b"34", vec![]).unwrap();
    let (bytes, files) = recv(&two, 10, 0).unwrap();
    assert_eq!((bytes.as_slice(), files[0].key), (b"12".as_slice(), key));
    assert!(guest.task.world.ipc.unix.in_flight.is_empty());
    assert_eq!(recv(&two, 10, 0).unwrap().0, b"34");
}

#[test]
fn sockets_sent_into_themselves_are_collected() {
    let guest = Guest::new();
    let in_flight = &guest.task.world.ipc.unix.in_flight;
    for _ in 0..3000 {
        let [one, two] = pair(&guest, Kind::Stream);
        send(&guest, &one, b"x", vec![two.clone()]).unwrap();
        send(&guest, &two, b"x", vec![one.clone()]).unwrap();
        drop((one, two));
    }
    assert!(in_flight.len() <= 300, "{} sockets in flight", in_flight.len());
    in_flight.collect();
    assert_eq!(in_flight.len(), 0);
}

#[test]
fn a_chain_of_queues_is_let_go_without_a_deep_stack() {
    let guest = Guest::new();
    let [mut one, mut two] = pair(&guest, Kind::Stream);
    for _ in 0..20_000 {
        let [outer, other] = pair(&guest, Kind::Stream);
        send(&guest, &outer, b"x", vec![one, two]).unwrap();
        (one, two) = (outer, other);
    }
    let in_flight = &guest.task.world.ipc.unix.in_flight;
    assert_eq!(in_flight.len(), 40_000);
    // As small as the stack of a thread that serves a guest.
    let letting_go = std::thread::Builder::new().stack_size(128 << 10).spawn(move || drop((one, two)));
    letting_go.unwrap().join().unwrap();
    assert_eq!(in_flight.len(), 0);
}

#[test]
fn what_can_still_be_received_is_not_collected() {
    let guest = Guest::new();
    let [keep, other] = pair(&guest, Kind::Stream);
    let [one, two] = pair(&guest, Kind::Stream);
    // `two` waits in its own peer's queue, and that peer in a queue that can be read.
    send(&guest, &one, b"x", vec![two.clone()]).unwrap();
    send(&guest, &keep, b"x", vec![one, two]).unwrap();
    guest.task.world.ipc.unix.in_flight.collect();
    let (_, files) = recv(&other, 1, 0).unwrap();
    assert_eq!(recv(&files[1], 1, 0).unwrap().1.len(), 1);
}

#[test]
fn datagram_senders_wait_for_a_slow_receiver() {
    let mut guest = Guest::new();
    const SOCKET: u64 = 41;
    let server = guest.call(SOCKET, &[1, 2, 0]).unwrap();
    let client = guest.call(SOCKET, &[1, 2, 0]).unwrap();
    guest.put(MEMORY, b"\x01\x00\x00name");
    guest.call(49, &[server, MEMORY, 7]).unwrap();
    guest.call(42, &[client, MEMORY, 7]).unwrap();
    // One more than max_dgram_qlen, as on Linux.
    let nonblocking = u64::from(crate::abi::net::MSG_DONTWAIT);
    let sent = (0..100).take_while(|_| guest.call(44, &[client, MEMORY, 3, nonblocking]).is_ok()).count();
    assert_eq!(sent, 11);
}

#[test]
fn connections_by_path_and_by_name() {
    let mut guest = Guest::new();
    for address in [b"\x01\x00\x00abstract".as_slice(), b"\x01\x00/socket".as_slice()] {
        let len = address.len() as u64;
        guest.put(MEMORY, address);
        let client = guest.call(41, &[1, 1, 0]).unwrap();
        assert!(guest.call(42, &[client, MEMORY, len]).is_err());
        let server = guest.call(41, &[1, 1, 0]).unwrap();
        guest.call(49, &[server, MEMORY, len]).unwrap();
        assert_eq!(guest.call(42, &[client, MEMORY, len]), Err(Errno::ECONNREFUSED));
        let second = guest.call(41, &[1, 1, 0]).unwrap();
        assert_eq!(guest.call(49, &[second, MEMORY, len]), Err(Errno::EADDRINUSE));
        guest.call(50, &[server, 5]).unwrap();
        guest.call(42, &[client, MEMORY, len]).unwrap();
        let accepted = guest.call(43, &[server, 0, 0]).unwrap();
        guest.put(MEMORY + 4096, b"hello");
        assert_eq!(guest.call(44, &[client, MEMORY + 4096, 5, 0]), Ok(5));
        assert_eq!(guest.call(45, &[accepted, MEMORY + 8192, 100, 0]), Ok(5));
        assert_eq!(guest.get::<[u8; 5]>(MEMORY + 8192), *b"hello");
        // The credentials are those of the connection.
        guest.put(MEMORY + 100, &12u32);
        guest.call(55, &[accepted, 1, 17, MEMORY + 200, MEMORY + 100]).unwrap();
        assert_eq!(guest.get::<[u32; 3]>(MEMORY + 200), [2, 0, 0]);
    }
}

#[test]
fn a_receiver_with_a_bad_buffer_loses_nothing() {
    let mut guest = Guest::new();
    guest.call(53, &[1, 1, 0, MEMORY]).unwrap();
    let [one, two] = guest.get::<[u32; 2]>(MEMORY).map(u64::from);
    guest.put(MEMORY, b"data");
    guest.call(44, &[one, MEMORY, 4, 0]).unwrap();
    assert_eq!(guest.call(45, &[two, 8, 4, 0]), Err(Errno::EFAULT));
    assert_eq!(guest.call(45, &[two, MEMORY + 64, 4, 0]), Ok(4));
    assert_eq!(guest.get::<[u8; 4]>(MEMORY + 64), *b"data");
}
