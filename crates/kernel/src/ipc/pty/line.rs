//! The line discipline: what happens to bytes between a terminal and its programs (termios(3),
//! drivers/tty/n_tty.c). Knows nothing of files and processes.

use std::collections::VecDeque;

use crate::abi::linux::*;
use crate::signal::Signal;

/// Size of `struct termios` as `TCGETS` copies it.
pub const TERMIOS: usize = 36;
/// Size of `struct termios2`: with the speeds as numbers behind it.
pub const TERMIOS2: usize = 44;
/// Size of the older `struct termio`: the lower half of each word, eight characters.
pub const TERMIO: usize = 18;
/// Longest line (`N_TTY_BUF_SIZE`, less one).
const MAX_LINE: usize = 4095;
/// Output that waits for the master to read it, at most.
const MAX_OUTPUT: usize = 65536;
/// `_POSIX_VDISABLE`.
const DISABLED: u8 = 0;

/// `struct termios`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Termios {
    pub input: u32,
    pub output: u32,
    pub control: u32,
    pub local: u32,
    pub line: u8,
    pub chars: [u8; 19],
    /// In bits a second.
    pub input_speed: u32,
    pub output_speed: u32,
}

/// `baud_table` in drivers/tty/tty_baudrate.c, by `CBAUD`.
const SPEEDS: [u32; 31] = [
    0, 50, 75, 110, 134, 150, 200, 300, 600, 1200, 1800, 2400, 4800, 9600, 19200, 38400, 57600, 115_200, 230_400,
    460_800, 500_000, 576_000, 921_600, 1_000_000, 1_152_000, 1_500_000, 2_000_000, 2_500_000, 3_000_000,
    3_500_000, 4_000_000,
];

/// What the bits of one direction stand for; `other` is the number beside them (tty_termios_baud_rate()).
fn speed(bits: u32, other: u32) -> u32 {
    match bits & CBAUD {
        BOTHER => other,
        bits => {
            let index = if bits & CBAUDEX != 0 { (bits & !CBAUDEX) + 15 } else { bits };
            SPEEDS.get(index as usize).copied().unwrap_or(0)
        }
    }
}

impl Default for Termios {
    /// `tty_std_termios`, without the modem (unix98_pty_init()).
    fn default() -> Termios {
        let mut chars = [0; 19];
        let defaults: [u8; 16] = [3, 28, 127, 21, 4, 0, 1, 0, 17, 19, 26, 0, 18, 15, 23, 22];
        for (place, value) in chars.iter_mut().zip(defaults) {
            *place = value;
        }
        Termios {
            input: ICRNL | IXON,
            output: OPOST | ONLCR,
            control: B38400 | CS8 | CREAD,
            local: ISIG | ICANON | ECHO | ECHOE | ECHOK | ECHOCTL | ECHOKE | IEXTEN,
            line: 0,
            chars,
            input_speed: 38400,
            output_speed: 38400,
        }
    }
}

impl Termios {
    pub fn to_bytes(self) -> Vec<u8> {
        let words = [self.input, self.output, self.control, self.local];
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        bytes.push(self.line);
        bytes.extend(self.chars);
        bytes
    }

    /// `struct termios`: numbers of speeds stay as they are (user_termios_to_kernel_termios_1()).
    pub fn with_bytes(self, bytes: &[u8; TERMIOS]) -> Termios {
        let word = |at: usize| word(bytes, at);
        let chars = bytes.get(17..).and_then(|part| part.try_into().ok()).unwrap_or_default();
        let line = bytes.get(16).copied().unwrap_or_default();
        Termios { input: word(0), output: word(4), control: word(8), local: word(12), line, chars, ..self }
    }

    /// `struct termios2`.
    pub fn to_bytes2(self) -> Vec<u8> {
        let mut bytes = self.to_bytes();
        bytes.extend([self.input_speed, self.output_speed].iter().flat_map(|speed| speed.to_ne_bytes()));
        bytes
    }

    pub fn with_bytes2(self, bytes: &[u8; TERMIOS2]) -> Termios {
        let first = bytes.first_chunk::<TERMIOS>().copied().unwrap_or([0; TERMIOS]);
        let changed = self.with_bytes(&first);
        Termios { input_speed: word(bytes, TERMIOS), output_speed: word(bytes, TERMIOS + 4), ..changed }
    }

    /// As a pseudo-terminal takes it: speeds that have names become numbers (set_termios()), and bytes have eight bits
    /// (pty_set_termios()).
    fn settled(mut self) -> Termios {
        self.output_speed = speed(self.control, self.output_speed);
        // Without bits of its own input is as fast as output (tty_termios_input_baud_rate()).
        self.input_speed = match self.control >> IBSHIFT & CBAUD {
            B0 => self.output_speed,
            bits => speed(bits, self.input_speed),
        };
        self.control = self.control & !(CSIZE | PARENB) | CS8 | CREAD;
        self
    }

    /// `^S` and `^Q` hold output, as whoever reads the other side may want to know.
    fn usual_flow(&self) -> bool {
        self.input & IXON != 0 && self.is(0o23, VSTOP) && self.is(0o21, VSTART)
    }

    /// kernel_termios_to_user_termio() in include/asm-generic/termios-base.h.
    pub fn to_termio(self) -> Vec<u8> {
        let words = [self.input, self.output, self.control, self.local];
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| (*word as u16).to_ne_bytes()).collect();
        bytes.push(self.line);
        bytes.extend(self.chars.iter().take(8));
        bytes.resize(TERMIO, 0);
        bytes
    }

    /// user_termio_to_kernel_termios(): what `termio` does not name stays.
    pub fn with_termio(mut self, bytes: &[u8; TERMIO]) -> Termios {
        let words = [&mut self.input, &mut self.output, &mut self.control, &mut self.local];
        for (word, half) in words.into_iter().zip(bytes.chunks_exact(2)) {
            let half = half.try_into().map(u16::from_ne_bytes).unwrap_or_default();
            *word = *word & 0xffff_0000 | u32::from(half);
        }
        let rest = bytes.get(8..).unwrap_or_default();
        self.line = rest.first().copied().unwrap_or_default();
        for (place, value) in self.chars.iter_mut().take(8).zip(rest.iter().skip(1)) {
            *place = *value;
        }
        self
    }

    fn is(&self, byte: u8, which: u32) -> bool {
        let special = self.chars.get(which as usize).copied().unwrap_or(DISABLED);
        special != DISABLED && special == byte
    }

    fn local(&self, flag: u32) -> bool {
        self.local & flag != 0
    }

    /// `VMIN` and `VTIME`.
    pub fn min_and_time(&self) -> (usize, u64) {
        let at = |which: u32| self.chars.get(which as usize).copied().unwrap_or_default();
        (usize::from(at(VMIN)), u64::from(at(VTIME)))
    }

    pub fn canonical(&self) -> bool {
        self.local(ICANON)
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let part = bytes.get(at..at + 4).and_then(|part| part.try_into().ok());
    u32::from_ne_bytes(part.unwrap_or_default())
}

/// Bytes on both sides of one terminal.
#[derive(Default)]
pub struct Line {
    pub termios: Termios,
    /// The line that is being edited.
    edit: Vec<u8>,
    /// Lines that can be read; an empty one is an end of file. Without canonical mode: one growing line.
    lines: VecDeque<Vec<u8>>,
    /// For the master to read.
    output: VecDeque<u8>,
    /// Output is held (`^S`).
    stopped: bool,
    /// What the master is told in packet mode: `TIOCPKT_*`.
    pub events: u8,
    /// The next byte is to be taken literally (`^V`).
    literal: bool,
    column: usize,
}

impl Line {
    /// Bytes that a reader of the terminal finds.
    pub fn readable(&self) -> usize {
        self.lines.iter().map(Vec::len).sum()
    }

    /// `poll` finds something to read (n_tty_poll()).
    pub fn is_readable(&self) -> bool {
        match self.termios.canonical() {
            true => !self.lines.is_empty(),
            false => match self.termios.min_and_time() {
                (min, 0) => self.readable() >= min.max(1),
                _ => self.readable() > 0,
            },
        }
    }

    /// Complete lines to read, in canonical mode.
    pub fn lines(&self) -> usize {
        self.lines.len()
    }

    /// `VMIN`, if a read that has `count` bytes is to wait for more of them (n_tty_read()).
    pub fn wants_more(&self, count: usize) -> bool {
        !self.termios.canonical() && count > 0 && count < self.termios.min_and_time().0
    }

    /// Holds output or lets it go on (stop_tty(), start_tty()).
    pub fn hold(&mut self, stopped: bool) {
        if self.stopped != stopped {
            self.stopped = stopped;
            let (event, opposite) =
                if stopped { (TIOCPKT_STOP, TIOCPKT_START) } else { (TIOCPKT_START, TIOCPKT_STOP) };
            self.events = self.events & !(opposite as u8) | event as u8;
        }
    }

    /// `TCIOFF` and `TCION`: the key that would hold or release what comes from the other side.
    pub fn send(&mut self, which: u32) {
        match self.termios.chars.get(which as usize) {
            Some(&DISABLED) | None => {}
            Some(byte) => self.output.push_back(*byte),
        }
    }

    /// Bytes that the master finds.
    pub fn output(&self) -> usize {
        if self.stopped { 0 } else { self.output.len() }
    }

    /// More output can be taken.
    pub fn has_room(&self) -> bool {
        !self.stopped && self.output.len() < MAX_OUTPUT
    }

    /// More input can be taken.
    pub fn accepts_input(&self) -> bool {
        self.readable() + self.edit.len() <= MAX_LINE || self.termios.canonical() && self.lines.is_empty()
    }

    /// The first bytes to read: of one line in canonical mode. `None`: nothing yet; empty: end of file.
    pub fn peek(&self, max: usize) -> Option<Vec<u8>> {
        if self.termios.canonical() && self.lines.is_empty() || !self.termios.canonical() && self.readable() == 0 {
            let (min, time) = self.termios.min_and_time();
            return (!self.termios.canonical() && min == 0 && time == 0).then(Vec::new);
        }
        if self.termios.canonical() {
            let line = self.lines.front()?;
            return Some(line.get(..max.min(line.len())).unwrap_or_default().to_vec());
        }
        Some(self.lines.iter().flatten().copied().take(max).collect())
    }

    /// Removes what was read. Zero: an end of file.
    pub fn consume(&mut self, mut count: usize) {
        if count == 0 && self.lines.front().is_some_and(Vec::is_empty) {
            self.lines.pop_front();
        }
        while count > 0 {
            let Some(first) = self.lines.front_mut() else { return };
            let part = count.min(first.len());
            first.drain(..part);
            count -= part;
            if first.is_empty() {
                self.lines.pop_front();
            }
        }
    }

    /// Takes output for the master.
    pub fn take_output(&mut self, max: usize) -> Vec<u8> {
        let count = max.min(self.output());
        self.output.iter().copied().take(count).collect()
    }

    pub fn consume_output(&mut self, count: usize) {
        self.output.drain(..count.min(self.output.len()));
    }

    /// `TCFLSH`: input, output.
    pub fn flush(&mut self, input: bool, output: bool) {
        if input {
            self.edit.clear();
            self.lines.clear();
            self.events |= TIOCPKT_FLUSHREAD as u8;
        }
        if output {
            self.output.clear();
            self.events |= TIOCPKT_FLUSHWRITE as u8;
        }
    }

    /// New settings; what was typed stays readable (n_tty_set_termios()).
    pub fn set_termios(&mut self, termios: Termios) {
        let left = self.termios.canonical() && !termios.canonical();
        let flow = self.termios.usual_flow();
        self.termios = termios.settled();
        if flow != self.termios.usual_flow() {
            let event = if flow { TIOCPKT_NOSTOP } else { TIOCPKT_DOSTOP };
            self.events = self.events & !((TIOCPKT_DOSTOP | TIOCPKT_NOSTOP) as u8) | event as u8;
        }
        if left {
            self.lines.retain(|line| !line.is_empty());
            if !self.edit.is_empty() {
                let rest = std::mem::take(&mut self.edit);
                self.lines.push_back(rest);
            }
        }
        if termios.input & IXON == 0 {
            self.hold(false);
        }
    }

    /// What a program writes (do_output_char()).
    pub fn write(&mut self, byte: u8) {
        let flags = self.termios.output;
        if flags & OPOST == 0 {
            self.output.push_back(byte);
            return;
        }
        match byte {
            b'\n' => {
                if flags & (ONLCR | ONLRET) != 0 {
                    self.column = 0;
                }
                if flags & ONLCR != 0 {
                    self.output.push_back(b'\r');
                }
            }
            b'\r' if flags & ONOCR != 0 && self.column == 0 => return,
            b'\r' => {
                self.column = 0;
                if flags & OCRNL != 0 {
                    return self.output.push_back(b'\n');
                }
            }
            b'\t' => {
                let spaces = 8 - self.column % 8;
                self.column += spaces;
                if flags & TABDLY == XTABS {
                    self.output.extend(std::iter::repeat_n(b' ', spaces));
                    return;
                }
            }
            8 => self.column = self.column.saturating_sub(1),
            0..32 | 127 => {}
            byte if byte & 0xc0 == 0x80 && self.termios.input & IUTF8 != 0 => {}
            _ => self.column += 1,
        }
        self.output.push_back(byte);
    }

    fn write_all(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write(*byte));
    }

    /// What a key sends; returns the signal that it stands for (n_tty_receive_char()).
    pub fn type_byte(&mut self, byte: u8) -> Option<Signal> {
        let termios = self.termios;
        let mut byte = if termios.input & ISTRIP != 0 { byte & 0x7f } else { byte };
        if std::mem::take(&mut self.literal) {
            self.store(byte);
            return None;
        }
        if termios.input & IXON != 0 {
            if termios.is(byte, VSTART) || termios.is(byte, VSTOP) {
                self.hold(!termios.is(byte, VSTART));
                return None;
            }
            if termios.input & IXANY != 0 {
                self.hold(false);
            }
        }
        if termios.local(ISIG)
            && let Some(signal) = self.signal_of(byte)
        {
            return Some(signal);
        }
        match byte {
            b'\r' if termios.input & IGNCR != 0 => return None,
            b'\r' if termios.input & ICRNL != 0 => byte = b'\n',
            b'\n' if termios.input & INLCR != 0 => byte = b'\r',
            _ => {}
        }
        if !termios.canonical() {
            self.echo(byte);
            match self.lines.back_mut() {
                Some(line) => line.push(byte),
                None => self.lines.push_back(vec![byte]),
            }
            return None;
        }
        self.edit_with(byte);
        None
    }

    fn signal_of(&mut self, byte: u8) -> Option<Signal> {
        let keys = [(VINTR, Signal::SIGINT), (VQUIT, Signal::SIGQUIT), (VSUSP, Signal::SIGTSTP)];
        let (_, signal) = keys.into_iter().find(|(key, _)| self.termios.is(byte, *key))?;
        if !self.termios.local(NOFLSH) {
            // Output has reached the master's side of the line by now.
            self.flush(true, false);
        }
        self.hold(false);
        self.echo(byte);
        Some(signal)
    }

    /// Canonical mode.
    fn edit_with(&mut self, byte: u8) {
        let termios = self.termios;
        let extended = termios.local(IEXTEN);
        if termios.is(byte, VERASE) {
            self.erase();
        } else if termios.is(byte, VKILL) {
            self.kill(byte);
        } else if extended && termios.is(byte, VWERASE) {
            while self.edit.last().is_some_and(|last| !is_word(*last)) {
                self.erase();
            }
            while self.edit.last().is_some_and(|last| is_word(*last)) {
                self.erase();
            }
        } else if extended && termios.is(byte, VLNEXT) {
            self.literal = true;
            if termios.local(ECHO) && termios.local(ECHOCTL) {
                self.write_all(b"^\x08");
            }
        } else if extended && termios.local(ECHO) && termios.is(byte, VREPRINT) {
            self.echo(byte);
            self.write(b'\n');
            for byte in self.edit.clone() {
                self.echo(byte);
            }
        } else if byte == b'\n' {
            if termios.local(ECHO) || termios.local(ECHONL) {
                self.write(byte);
            }
            self.edit.push(byte);
            self.finish();
        } else if termios.is(byte, VEOF) {
            self.finish();
        } else if termios.is(byte, VEOL) || (extended && termios.is(byte, VEOL2)) {
            self.echo(byte);
            self.edit.push(byte);
            self.finish();
        } else {
            self.store(byte);
        }
    }

    fn finish(&mut self) {
        let line = std::mem::take(&mut self.edit);
        self.lines.push_back(line);
    }

    fn store(&mut self, byte: u8) {
        if self.edit.len() >= MAX_LINE - 1 {
            if self.termios.input & IMAXBEL != 0 {
                self.output.push_back(7);
            }
            return;
        }
        self.echo(byte);
        self.edit.push(byte);
    }

    /// Takes the last character back, all bytes of it.
    fn erase(&mut self) {
        let Some(last) = self.edit.pop() else { return };
        if self.termios.input & IUTF8 != 0 {
            let mut byte = last;
            while byte & 0xc0 == 0x80 {
                let Some(before) = self.edit.pop() else { break };
                byte = before;
            }
        }
        if !self.termios.local(ECHO) {
            return;
        }
        if !self.termios.local(ECHOE) {
            let key = self.termios.chars.get(VERASE as usize).copied().unwrap_or_default();
            return self.echo(key);
        }
        let wide = self.termios.local(ECHOCTL) && (last < 32 || last == 127) && last != b'\t';
        for _ in 0..=usize::from(wide) {
            self.write_all(b"\x08 \x08");
        }
    }

    fn kill(&mut self, byte: u8) {
        let termios = self.termios;
        if termios.local(ECHOK) && termios.local(ECHOKE) && termios.local(ECHOE) {
            while !self.edit.is_empty() {
                self.erase();
            }
            return;
        }
        self.edit.clear();
        if termios.local(ECHO) {
            self.echo(byte);
            if termios.local(ECHOK) {
                self.write(b'\n');
            }
        }
    }

    /// echo_char(): control characters as `^X`.
    fn echo(&mut self, byte: u8) {
        if !self.termios.local(ECHO) {
            return;
        }
        if self.termios.local(ECHOCTL) && (byte < 32 || byte == 127) && byte != b'\t' && byte != b'\n' {
            self.write_all(&[b'^', byte ^ 0o100]);
        } else {
            self.write(byte);
        }
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 128
}
