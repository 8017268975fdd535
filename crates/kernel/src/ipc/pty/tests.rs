//! The line discipline by itself.

use super::line::Line;
use crate::abi::linux::{ECHO, ICANON, ISIG, VMIN};
use crate::signal::Signal;

fn typed(line: &mut Line, bytes: &[u8]) -> Vec<Signal> {
    bytes.iter().filter_map(|byte| line.type_byte(*byte)).collect()
}

fn shown(line: &mut Line) -> Vec<u8> {
    let bytes = line.take_output(1 << 16);
    line.consume_output(bytes.len());
    bytes
}

fn read(line: &mut Line, max: usize) -> Option<Vec<u8>> {
    let bytes = line.peek(max)?;
    line.consume(bytes.len());
    Some(bytes)
}

#[test]
fn lines_are_edited_echoed_and_read_one_by_one() {
    let mut line = Line::default();
    typed(&mut line, b"helo\x7flo\rnext");
    assert_eq!(shown(&mut line), b"helo\x08 \x08lo\r\nnext");
    assert_eq!(read(&mut line, 3).unwrap(), b"hel");
    assert_eq!(read(&mut line, 100).unwrap(), b"lo\n");
    assert_eq!(read(&mut line, 100), None);
    typed(&mut line, b"\x17x\n");
    assert_eq!(read(&mut line, 100).unwrap(), b"x\n");
}

#[test]
fn end_of_file_ends_a_line_and_alone_reads_as_nothing() {
    let mut line = Line::default();
    typed(&mut line, b"ab\x04\x04");
    assert_eq!(read(&mut line, 100).unwrap(), b"ab");
    assert_eq!(read(&mut line, 100).unwrap(), b"");
    assert_eq!(read(&mut line, 100), None);
}

#[test]
fn keys_become_signals() {
    let mut line = Line::default();
    assert_eq!(typed(&mut line, b"junk\x03"), [Signal::SIGINT]);
    assert_eq!(shown(&mut line), b"junk^C");
    assert_eq!(typed(&mut line, b"\x1a\x1c"), [Signal::SIGTSTP, Signal::SIGQUIT]);
    typed(&mut line, b"\x16\x03\n");
    assert_eq!(read(&mut line, 100).unwrap(), b"\x03\n");
}

#[test]
fn raw_mode_passes_everything() {
    let mut line = Line::default();
    let mut termios = line.termios;
    termios.local &= !(ICANON | ECHO | ISIG);
    termios.chars[VMIN as usize] = 2;
    line.set_termios(termios);
    assert_eq!(read(&mut line, 100), None);
    typed(&mut line, b"\x03");
    assert!(!line.is_readable() && line.wants_more(1));
    typed(&mut line, b"\x04");
    assert!(line.is_readable() && !line.wants_more(2));
    assert_eq!(read(&mut line, 100).unwrap(), b"\x03\x04");
    assert_eq!(shown(&mut line), b"");
}

#[test]
fn output_is_held_and_let_go() {
    let mut line = Line::default();
    typed(&mut line, b"\x13");
    line.write(b'x');
    assert_eq!(line.output(), 0);
    typed(&mut line, b"\x11");
    assert_eq!(shown(&mut line), b"x");
}
