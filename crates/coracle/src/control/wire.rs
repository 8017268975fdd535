//! One message: a line of JSON, with descriptors on its first byte.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recv, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A command line and an environment fit (MAX_ARG_STRLEN and more); nobody can make the other side grow
/// without bound.
const MOST: usize = 8 << 20;

/// Standard streams; nothing sends more.
const MOST_FDS: usize = 3;

pub fn send<M: Serialize>(mut stream: &UnixStream, message: &M, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    let (first, rest) = line.split_at(1);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // A peer that has gone is an error here, not a signal.
    let sent = sendmsg(stream, &[IoSlice::new(first)], &mut control, SendFlags::NOSIGNAL)?;
    if sent != 1 {
        return Err(io::ErrorKind::WriteZero.into());
    }
    stream.write_all(rest)
}

pub fn receive<M: DeserializeOwned>(stream: &UnixStream) -> io::Result<(M, Vec<OwnedFd>)> {
    let mut first = [0_u8; 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(stream, &mut [IoSliceMut::new(&mut first)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    if got.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    let mut line = first.to_vec();
    read_line(stream, &mut line)?;
    Ok((serde_json::from_slice(&line)?, fds))
}

/// Up to the newline and not beyond it: what follows is the next message.
fn read_line(mut stream: &UnixStream, line: &mut Vec<u8>) -> io::Result<()> {
    let mut chunk = [0_u8; 4096];
    while line.last() != Some(&b'\n') {
        let (_, seen) = recv(stream, &mut chunk, RecvFlags::PEEK)?;
        let seen = chunk.get(..seen).unwrap_or_default();
        let wanted = seen.iter().position(|byte| *byte == b'\n').map_or(seen.len(), |at| at.saturating_add(1));
        let got = stream.read(chunk.get_mut(..wanted).unwrap_or_default())?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        line.extend_from_slice(chunk.get(..got).unwrap_or_default());
        if line.len() > MOST {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
    }
    Ok(())
}
