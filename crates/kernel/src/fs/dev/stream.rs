//! Streams that the sandbox inherits: standard input, output and error of whoever started it.
//!
//! The host descriptors are shared with others, so they are never switched to non-blocking: they are polled first
//! and used only when ready.

use std::any::Any;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use coracle_platform::MapSource;
use parking_lot::Mutex;
use rustix::fs::{FileType, OFlags, SeekFrom};
use rustix::termios::{self, SpecialCodeIndex};

pub use super::output::OutputLimit;
use super::output::{Output, Target};
use super::terminal;
use crate::abi::ioctl::*;
use crate::abi::types::Stat;
use crate::call::Ctx;
use crate::fd::{File, Io, Mapped};
use crate::fs::Inode;
use crate::fs::host::errno;
use crate::fs::seek_regular;
use crate::mem::{Sink, Source};
use crate::wait::{Events, PollTable, host_ready};
use crate::{Errno, Result, SysResult};

/// An inherited descriptor.
pub struct HostStream {
    fd: Arc<OwnedFd>,
    kind: FileType,
    /// It is a terminal; then its device number counts.
    terminal: bool,
    rdev: u64,
    /// The node in the guest's `/dev` that stands for the terminal.
    node: OnceLock<Arc<dyn Inode>>,
    limit: Option<Arc<OutputLimit>>,
    /// A regular file that was opened for appending.
    append: bool,
    /// Where the guest's open file believes to be. The host's position, which others share and move (standard
    /// output and error often are one file), counts for sequential reads and writes.
    believed: Mutex<u64>,
    /// What the host has given and no reader has got yet, because its memory was bad.
    held: Mutex<Vec<u8>>,
}

/// `struct winsize`, `struct termios` and `struct termios2` of the kernel (asm-generic/termbits.h).
const WINSIZE: usize = 8;
const TERMIOS: usize = 36;
const TERMIOS2: usize = 44;

impl HostStream {
    /// Takes over a descriptor; also returns the access mode it has.
    pub fn new(fd: OwnedFd, limit: Option<Arc<OutputLimit>>) -> Result<(HostStream, u32)> {
        let stat = rustix::fs::fstat(&fd).map_err(errno)?;
        let flags = rustix::fs::fcntl_getfl(&fd).map_err(errno)?;
        let mode = (flags & (OFlags::RWMODE | OFlags::APPEND)).bits();
        let kind = FileType::from_raw_mode(stat.st_mode);
        let terminal = kind == FileType::CharacterDevice && termios::isatty(&fd);
        let stream = HostStream {
            fd: Arc::new(fd),
            kind,
            terminal,
            rdev: stat.st_rdev,
            node: OnceLock::new(),
            limit,
            append: kind == FileType::RegularFile && flags.contains(OFlags::APPEND),
            believed: Mutex::new(0),
            held: Mutex::default(),
        };
        let position = stream.position();
        *stream.believed.lock() = position;
        Ok((stream, mode))
    }

    /// The position that a new open file starts with: the host's own.
    pub fn position(&self) -> u64 {
        rustix::fs::seek(&self.fd, SeekFrom::Current(0)).unwrap_or(0)
    }

    fn regular(&self) -> bool {
        self.kind == FileType::RegularFile
    }

    fn output(&self) -> Output<'_> {
        Output { fd: &self.fd, append: self.append, limit: self.limit.as_deref() }
    }

    /// Writes to a regular file; the second value says that the limit let all pass. `None`: at the end.
    fn write_regular(&self, offset: Option<u64>, bytes: &[u8]) -> Result<(usize, bool)> {
        let mut whole = true;
        let mut put = |target| {
            let (count, all) = self.output().write(bytes, target)?;
            whole = all;
            Ok(count)
        };
        let count = match offset {
            None => put(Target::End)?,
            Some(offset) => self.at(offset, |at| put(at.map_or(Target::Here, Target::At)))?,
        };
        Ok((count, whole))
    }

    /// Runs `step` at the host's position if `offset` is where the guest's open file stands, else at `offset`.
    fn at(&self, offset: u64, step: impl FnOnce(Option<u64>) -> Result<usize>) -> Result<usize> {
        let mut believed = self.believed.lock();
        if *believed != offset {
            drop(believed);
            return step(Some(offset));
        }
        let count = step(None)?;
        *believed = offset.saturating_add(count as u64);
        Ok(count)
    }

    fn ready(&self, interest: Events) -> bool {
        self.regular() || !host_ready(&self.fd, interest).is_empty()
    }

    /// It is a terminal.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// The host's name for the terminal.
    pub fn terminal_name(&self) -> Option<String> {
        termios::ttyname(&self.fd, Vec::new()).ok()?.into_string().ok()
    }

    pub(super) fn set_node(&self, node: &Arc<dyn Inode>) {
        let _ = self.node.set(node.clone());
    }

    /// Writes to a regular file, at its end without an offset.
    fn fill(&self, offset: Option<u64>, from: &mut dyn Source) -> Result<usize> {
        let mut buffer = vec![0; from.remaining().min(64 << 10)];
        let mut done = 0;
        while from.remaining() > 0 {
            let count = from.take(&mut buffer)?;
            let bytes = buffer.get(..count).unwrap_or_default();
            let at = offset.map(|offset| offset.saturating_add(done as u64));
            let (written, whole) = match self.write_regular(at, bytes) {
                Err(_) if done > 0 => break,
                other => other?,
            };
            done += written;
            if let Some(limit) = self.limit.as_ref().filter(|_| !whole) {
                limit.exceed();
                return if done > 0 { Ok(done) } else { Err(Errno::EIO) };
            }
            if written < count {
                break;
            }
        }
        Ok(done)
    }

    /// Writes to anything else.
    fn send(&self, io: &Io<'_>, from: &mut dyn Source) -> Result<usize> {
        self.check_output(io)?;
        let mut buffer = vec![0; from.remaining().min(64 << 10)];
        // A pipe that is ready takes PIPE_BUF bytes without blocking; more could block this thread.
        let step = if self.kind == FileType::Fifo || self.kind == FileType::Socket { 4096 } else { buffer.len() };
        let mut done = 0;
        while from.remaining() > 0 {
            if !self.ready(Events::OUT) {
                return if done > 0 { Ok(done) } else { Err(Errno::EAGAIN) };
            }
            let count = from.take(buffer.get_mut(..step.min(from.remaining())).unwrap_or_default())?;
            let allowed = self.limit.as_ref().map_or(count as u64, |limit| limit.take(count as u64));
            let mut bytes = buffer.get(..usize::try_from(allowed).unwrap_or(count)).unwrap_or_default();
            while !bytes.is_empty() {
                let written = match rustix::io::write(&self.fd, bytes) {
                    Err(rustix::io::Errno::AGAIN) => {
                        // Somebody else made it non-blocking: wait as this thread would have.
                        let mut fds = [rustix::event::PollFd::new(&self.fd, rustix::event::PollFlags::OUT)];
                        let _ = rustix::event::poll(&mut fds, None);
                        continue;
                    }
                    other => other.map_err(errno)?,
                };
                done += written;
                bytes = bytes.get(written..).unwrap_or_default();
            }
            if let Some(limit) = self.limit.as_ref().filter(|_| allowed < count as u64) {
                limit.exceed();
                return if done > 0 { Ok(done) } else { Err(Errno::EIO) };
            }
        }
        Ok(done)
    }

    /// `VMIN` and `VTIME` of a terminal that does not wait for whole lines.
    fn min_and_time(&self) -> Option<(u8, u8)> {
        let now = self.terminal.then(|| termios::tcgetattr(&self.fd).ok()).flatten()?;
        let chars = (now.special_codes[SpecialCodeIndex::VMIN], now.special_codes[SpecialCodeIndex::VTIME]);
        (!now.local_modes.contains(termios::LocalModes::ICANON)).then_some(chars)
    }

    /// Output of background processes stops them where the terminal is set so (`TOSTOP`).
    fn check_output(&self, io: &Io<'_>) -> Result<()> {
        if !self.terminal || !terminal::in_background(io.task, self.rdev) {
            return Ok(());
        }
        let stops =
            termios::tcgetattr(&self.fd).is_ok_and(|now| now.local_modes.contains(termios::LocalModes::TOSTOP));
        if stops { terminal::before_change(io.task, self.rdev) } else { Ok(()) }
    }
}

impl File for HostStream {
    fn read(&self, io: &Io<'_>, offset: u64, into: &mut dyn Sink) -> Result<usize> {
        if self.regular() {
            return self.at(offset, |at| {
                let from = at.unwrap_or_else(|| self.position());
                let count = crate::fs::host::read_at(&self.fd, from, into)?;
                if at.is_none() {
                    rustix::fs::seek(&self.fd, SeekFrom::Start(from.saturating_add(count as u64)))
                        .map_err(errno)?;
                }
                Ok(count)
            });
        }
        if self.terminal {
            terminal::before_read(io.task, self.rdev)?;
        }
        if into.remaining() == 0 {
            return Ok(0);
        }
        let mut bytes = std::mem::take(&mut *self.held.lock());
        if bytes.is_empty() && !self.ready(Events::IN) {
            // Without VMIN and VTIME a terminal does not wait.
            return if self.min_and_time() == Some((0, 0)) { Ok(0) } else { Err(Errno::EAGAIN) };
        }
        // Not straight into its place: bytes of a pipe or a terminal cannot be read a second time.
        if bytes.is_empty() {
            bytes.resize(into.remaining().min(64 << 10), 0);
            let got = rustix::io::read(&self.fd, &mut bytes[..]).map_err(errno)?;
            bytes.truncate(got);
        }
        let want = bytes.len().min(into.remaining());
        let given = if want == 0 { Ok(0) } else { into.put_whole(bytes.get(..want).unwrap_or_default()) };
        let taken = given.as_ref().map_or(0, |count| (*count).min(want));
        if taken < bytes.len() {
            self.held.lock().splice(0..0, bytes.drain(taken..));
        }
        given
    }

    fn write(&self, io: &Io<'_>, offset: u64, from: &mut dyn Source) -> Result<usize> {
        match self.regular() {
            true => self.fill(Some(offset), from),
            false => self.send(io, from),
        }
    }

    fn append(&self, io: &Io<'_>, from: &mut dyn Source) -> Result<(usize, u64)> {
        if !self.regular() {
            return self.send(io, from).map(|count| (count, 0));
        }
        let count = self.fill(None, from)?;
        let end = self.position();
        *self.believed.lock() = end;
        Ok((count, end))
    }

    fn writes_all(&self) -> bool {
        !self.regular()
    }

    /// `VTIME` without `VMIN`: what the host's terminal would wait at most.
    fn io_timeout(&self, write: bool) -> Option<Duration> {
        let (min, time) = self.min_and_time().filter(|_| !write)?;
        (min == 0 && time > 0).then(|| Duration::from_millis(u64::from(time) * 100))
    }

    fn timeout_is_end(&self) -> bool {
        true
    }

    fn seekable(&self) -> bool {
        self.regular()
    }

    fn seek(&self, current: u64, offset: i64, whence: u32) -> Result<u64> {
        if !self.regular() {
            return Err(Errno::ESPIPE);
        }
        let size = rustix::fs::fstat(&self.fd).map_err(errno)?.st_size as u64;
        let current = if *self.believed.lock() == current { self.position() } else { current };
        let to = seek_regular(current, offset, whence, size, |at, hole| Ok(if hole { size } else { at }))?;
        rustix::fs::seek(&self.fd, SeekFrom::Start(to)).map_err(errno)?;
        *self.believed.lock() = to;
        Ok(to)
    }

    fn poll(&self, table: &mut PollTable) -> Events {
        let interest = Events::IN | Events::OUT | Events::PRI | Events::RDHUP;
        table.watch_host(&self.fd, interest);
        let held = if self.held.lock().is_empty() { Events::empty() } else { Events::IN };
        let ready = host_ready(&self.fd, interest) | held;
        let also = |from: Events, to: Events| if ready.contains(from) { to } else { Events::empty() };
        ready | also(Events::IN, Events::RDNORM) | also(Events::OUT, Events::WRNORM)
    }

    fn pollable(&self) -> bool {
        !self.regular()
    }

    fn stat(&self) -> Result<Stat> {
        if let Some(node) = self.node.get() {
            return node.stat();
        }
        crate::fs::host::statx(&self.fd, b"")
    }

    fn truncate(&self, len: u64) -> Result<()> {
        if self.regular() { self.output().truncate(len) } else { Err(Errno::EINVAL) }
    }

    fn allocate(&self, mode: u32, offset: u64, len: u64) -> Result<()> {
        if self.regular() { self.output().allocate(mode, offset, len) } else { Err(Errno::ENODEV) }
    }

    fn append_only(&self) -> bool {
        self.append
    }

    fn sync(&self, _data_only: bool) -> Result<()> {
        if self.regular() { rustix::fs::fsync(&self.fd).map_err(errno) } else { Err(Errno::EINVAL) }
    }

    fn map(&self, key: u64, writable_shared: bool) -> Result<Mapped> {
        if !self.regular() {
            return Err(Errno::ENODEV);
        }
        let file = self.output().to_map(&self.fd, writable_shared)?;
        Ok(Mapped::File(MapSource { file, key }))
    }

    fn inode(&self) -> Option<Arc<dyn Inode>> {
        self.node.get().cloned()
    }

    /// The same stream: what it was not inherited for, it cannot be opened for. Sockets cannot be opened at all
    /// (`sock_no_open()`).
    fn reopen(self: Arc<Self>, _flags: u32, within: bool) -> Result<Arc<dyn File>> {
        match (self.kind, within) {
            (FileType::Socket, _) => Err(Errno::ENXIO),
            (_, false) => Err(Errno::EACCES),
            _ => Ok(self),
        }
    }

    /// Terminals: what programs need, never what would type into the host's terminal (`TIOCSTI`).
    fn ioctl(&self, cx: &mut Ctx<'_>, command: u32, argument: u64) -> SysResult {
        if command == FIONREAD {
            let count = rustix::io::ioctl_fionread(&self.fd).map_err(errno)?;
            cx.mem().write(argument, &(count as i32))?;
            return Ok(0);
        }
        if !self.is_terminal() {
            return Err(Errno::ENOTTY);
        }
        match command {
            TCGETS | TCGETS2 => {
                let attributes = termios::tcgetattr(&self.fd).map_err(errno)?;
                let bytes = encode(&attributes);
                let size = if command == TCGETS { TERMIOS } else { TERMIOS2 };
                cx.mem().write_bytes(argument, bytes.get(..size).unwrap_or_default())?;
            }
            TCSETS | TCSETSW | TCSETSF | TCSETS2 | TCSETSW2 | TCSETSF2 => {
                terminal::before_change(&cx.task, self.rdev)?;
                let mut attributes = termios::tcgetattr(&self.fd).map_err(errno)?;
                let mut bytes = encode(&attributes);
                let speeds = matches!(command, TCSETS2 | TCSETSW2 | TCSETSF2);
                let size = if speeds { TERMIOS2 } else { TERMIOS };
                cx.mem().read_bytes(argument, bytes.get_mut(..size).unwrap_or_default())?;
                decode(&bytes, &mut attributes)?;
                let when = match command {
                    TCSETS | TCSETS2 => termios::OptionalActions::Now,
                    TCSETSW | TCSETSW2 => termios::OptionalActions::Drain,
                    _ => termios::OptionalActions::Flush,
                };
                termios::tcsetattr(&self.fd, when, &attributes).map_err(errno)?;
            }
            TIOCGWINSZ => {
                let size = termios::tcgetwinsize(&self.fd).map_err(errno)?;
                let words = [size.ws_row, size.ws_col, size.ws_xpixel, size.ws_ypixel];
                let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
                debug_assert_eq!(bytes.len(), WINSIZE);
                cx.mem().write_bytes(argument, &bytes)?;
            }
            // The size is the host's to set.
            TIOCSWINSZ => return Err(Errno::EPERM),
            TIOCGPGRP => {
                let group = terminal::foreground(&cx.task, self.rdev)?;
                cx.mem().write(argument, &group)?;
            }
            TIOCGSID => {
                let session = terminal::session(&cx.task, self.rdev)?;
                cx.mem().write(argument, &session)?;
            }
            TIOCSPGRP => {
                let group: i32 = cx.mem().read(argument)?;
                terminal::set_foreground(&cx.task, self.rdev, group)?;
            }
            TIOCSCTTY => terminal::acquire(&cx.task, self.rdev)?,
            TIOCNOTTY => terminal::give_up(&cx.task, self.rdev)?,
            TIOCGETD => cx.mem().write(argument, &0i32)?,
            _ => return Err(Errno::ENOTTY),
        }
        Ok(0)
    }

    fn description(&self) -> String {
        match self.kind {
            FileType::CharacterDevice if self.is_terminal() => String::from("/dev/tty"),
            FileType::CharacterDevice => String::from("/dev/null"),
            FileType::Socket => format!("socket:[{}]", self.stat().map_or(0, |stat| stat.st_ino)),
            // Where it is on the host is not the guest's business, and may be something else inside.
            FileType::RegularFile => format!("file:[{}]", self.stat().map_or(0, |stat| stat.st_ino)),
            _ => format!("pipe:[{}]", self.stat().map_or(0, |stat| stat.st_ino)),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The kernel's `struct termios2`: four flag words, the discipline, nineteen characters, which are `struct termios`, and
/// two speeds.
fn encode(attributes: &termios::Termios) -> [u8; TERMIOS2] {
    let mut bytes = [0; TERMIOS2];
    let words = [
        attributes.input_modes.bits(),
        attributes.output_modes.bits(),
        attributes.control_modes.bits(),
        attributes.local_modes.bits(),
    ];
    for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_ne_bytes());
    }
    for (place, index) in bytes.iter_mut().skip(17).zip(CHARACTERS) {
        *place = attributes.special_codes[index];
    }
    let speeds = [attributes.input_speed(), attributes.output_speed()];
    for (place, speed) in bytes.chunks_exact_mut(4).skip(TERMIOS / 4).zip(speeds) {
        place.copy_from_slice(&speed.to_ne_bytes());
    }
    bytes
}

fn decode(bytes: &[u8; TERMIOS2], attributes: &mut termios::Termios) -> Result<()> {
    let word = |index: usize| {
        let part = bytes.get(index * 4..index * 4 + 4).and_then(|part| part.try_into().ok());
        u32::from_ne_bytes(part.unwrap_or_default())
    };
    // The numbers first, since they change bits of the flags, too.
    attributes.set_input_speed(word(TERMIOS / 4)).map_err(errno)?;
    attributes.set_output_speed(word(TERMIOS / 4 + 1)).map_err(errno)?;
    attributes.input_modes = termios::InputModes::from_bits_retain(word(0));
    attributes.output_modes = termios::OutputModes::from_bits_retain(word(1));
    attributes.control_modes = termios::ControlModes::from_bits_retain(word(2));
    attributes.local_modes = termios::LocalModes::from_bits_retain(word(3));
    for (value, index) in bytes.iter().skip(17).zip(CHARACTERS) {
        attributes.special_codes[index] = *value;
    }
    Ok(())
}

/// `c_cc` in order of the kernel's indices.
const CHARACTERS: [SpecialCodeIndex; 17] = [
    SpecialCodeIndex::VINTR,
    SpecialCodeIndex::VQUIT,
    SpecialCodeIndex::VERASE,
    SpecialCodeIndex::VKILL,
    SpecialCodeIndex::VEOF,
    SpecialCodeIndex::VTIME,
    SpecialCodeIndex::VMIN,
    SpecialCodeIndex::VSWTC,
    SpecialCodeIndex::VSTART,
    SpecialCodeIndex::VSTOP,
    SpecialCodeIndex::VSUSP,
    SpecialCodeIndex::VEOL,
    SpecialCodeIndex::VREPRINT,
    SpecialCodeIndex::VDISCARD,
    SpecialCodeIndex::VWERASE,
    SpecialCodeIndex::VLNEXT,
    SpecialCodeIndex::VEOL2,
];
