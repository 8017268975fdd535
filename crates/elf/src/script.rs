//! The `#!` line, byte for byte as Linux's `fs/binfmt_script.c` reads it.

use thiserror::Error;

use crate::BINPRM_BUF_SIZE;

/// A script's interpreter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// Path of the interpreter as written: relative ones count from the current directory. An empty
    /// one is the current directory, hence EACCES.
    pub interp: Vec<u8>,
    /// The one argument: the rest of the line, inner blanks included.
    pub arg: Option<Vec<u8>>,
}

/// Why a file is not a script. ENOEXEC in every case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NotScript {
    /// Does not start with `#!`.
    #[error("not a script: no #! at its start")]
    Magic,
    /// Nothing but blanks after `#!`.
    #[error("the script's first line names no interpreter")]
    NoInterpreter,
    /// The path does not end within what Linux looks at.
    #[error("the path of the script's interpreter is too long (more than 253 bytes)")]
    Truncated,
}

impl NotScript {
    /// The errno of `execve(2)`: ENOEXEC.
    pub fn errno(&self) -> i32 {
        8
    }
}

impl Script {
    /// Reads the line from the first bytes of a file; no more than [`BINPRM_BUF_SIZE`] count.
    pub fn parse(head: &[u8]) -> Result<Self, NotScript> {
        let buf = Buf::new(head);
        if !head.starts_with(b"#!") {
            return Err(NotScript::Magic);
        }
        let mut end = match buf.newline() {
            Some(newline) => newline,
            None => {
                // No newline in reach: the argument may be cut, the path may not.
                let name = buf.next_non_spacetab(2, LAST).ok_or(NotScript::NoInterpreter)?;
                buf.next_terminator(name, LAST).ok_or(NotScript::Truncated)?;
                LAST
            }
        };
        while end > 2 && spacetab(buf.at(end - 1)) {
            end -= 1;
        }
        let name = buf.next_non_spacetab(2, end).filter(|name| *name != end).ok_or(NotScript::NoInterpreter)?;
        let separator = buf.next_terminator(name, end);
        let arg = separator.filter(|at| buf.at(*at) != 0).and_then(|at| buf.next_non_spacetab(at, end));
        Ok(Self {
            interp: buf.c_string(name, separator.unwrap_or(end)),
            arg: arg.map(|arg| buf.c_string(arg, end)),
        })
    }

    /// The interpreter's argument vector: its path, its argument, the script's path, and what followed the
    /// script's own `argv[0]`.
    pub fn argv(&self, script: &[u8], argv: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut words = vec![self.interp.clone()];
        words.extend(self.arg.clone());
        words.push(script.to_vec());
        words.extend(argv.iter().skip(1).cloned());
        words
    }
}

const LAST: usize = BINPRM_BUF_SIZE - 1;

fn spacetab(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

/// The start of the file, filled up with zeros (`prepare_binprm()`). Bounds are inclusive, as in the source.
struct Buf([u8; BINPRM_BUF_SIZE]);

impl Buf {
    fn new(head: &[u8]) -> Self {
        let mut buf = [0; BINPRM_BUF_SIZE];
        buf.iter_mut().zip(head).for_each(|(to, from)| *to = *from);
        Self(buf)
    }

    fn at(&self, index: usize) -> u8 {
        self.0.get(index).copied().unwrap_or(0)
    }

    /// `strnchr()`: a NUL ends the search.
    fn newline(&self) -> Option<usize> {
        let at = self.0.iter().position(|byte| *byte == b'\n' || *byte == 0)?;
        (self.at(at) == b'\n').then_some(at)
    }

    fn next_non_spacetab(&self, first: usize, last: usize) -> Option<usize> {
        (first..=last).find(|at| !spacetab(self.at(*at)))
    }

    fn next_terminator(&self, first: usize, last: usize) -> Option<usize> {
        (first..=last).find(|at| spacetab(self.at(*at)) || self.at(*at) == 0)
    }

    fn c_string(&self, start: usize, end: usize) -> Vec<u8> {
        (start..end).map(|at| self.at(at)).take_while(|byte| *byte != 0).collect()
    }
}
