//! Bytes that a guest shaped, as people may see them: they cannot steer a terminal, begin a line, or pass for something
//! else that is said.

use std::fmt;

/// A name or path, escaped as `ls -b` does: `\n`, `\033`, `\ `, `\\`. Beyond what ls does, characters that a terminal shows
/// as nothing or that turn the direction of a line are escaped, too.
pub struct Name<'a>(pub &'a [u8]);

/// A name or path in a message, of which only beginning and end are shown if it is long.
pub struct Short<'a>(pub &'a [u8]);

/// A message that may quote a guest: blanks and backslashes stay.
pub struct Text<'a>(pub &'a str);

/// So much of a long name is shown, in bytes.
const HEAD: usize = 160;
const TAIL: usize = 80;

/// Adds `name` as [`Name`] shows it.
pub fn push(out: &mut Vec<u8>, name: &[u8]) {
    each(name, true, |piece| {
        match piece {
            Piece::Plain(text) => out.extend_from_slice(text.as_bytes()),
            Piece::Escape(letter) => out.extend_from_slice(&[b'\\', letter]),
            Piece::Octal(byte) => out.extend_from_slice(format!("\\{byte:03o}").as_bytes()),
        }
        Ok(())
    })
    .unwrap_or_default();
}

enum Piece<'a> {
    Plain(&'a str),
    Escape(u8),
    Octal(u8),
}

fn each<'a>(bytes: &'a [u8], name: bool, mut tell: impl FnMut(Piece<'a>) -> fmt::Result) -> fmt::Result {
    for chunk in bytes.utf8_chunks() {
        let mut rest = chunk.valid();
        while let Some(odd) = rest.find(|c| !is_plain(c) || name && matches!(c, ' ' | '\\')) {
            let (plain, from) = rest.split_at(odd);
            tell(Piece::Plain(plain))?;
            let len = from.chars().next().map_or(from.len(), char::len_utf8);
            let (odd, later) = from.split_at(len);
            for byte in odd.bytes() {
                tell(escape(byte))?;
            }
            rest = later;
        }
        tell(Piece::Plain(rest))?;
        for byte in chunk.invalid() {
            tell(Piece::Octal(*byte))?;
        }
    }
    Ok(())
}

/// A terminal shows it as itself and does nothing else.
pub fn is_plain(c: char) -> bool {
    match c {
        ' ' => true,
        _ if c.is_ascii() => c.is_ascii_graphic(),
        // Behind a letter, so that what is put over one counts as printable.
        _ => !c.is_whitespace() && String::from_iter(['a', c]).escape_debug().count() == 2,
    }
}

fn escape(byte: u8) -> Piece<'static> {
    match byte {
        b' ' | b'\\' => Piece::Escape(byte),
        7 => Piece::Escape(b'a'),
        8 => Piece::Escape(b'b'),
        9 => Piece::Escape(b't'),
        10 => Piece::Escape(b'n'),
        11 => Piece::Escape(b'v'),
        12 => Piece::Escape(b'f'),
        13 => Piece::Escape(b'r'),
        _ => Piece::Octal(byte),
    }
}

fn show(bytes: &[u8], name: bool, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    each(bytes, name, |piece| match piece {
        Piece::Plain(text) => f.write_str(text),
        Piece::Escape(letter) => write!(f, "\\{}", char::from(letter)),
        Piece::Octal(byte) => write!(f, "\\{byte:03o}"),
    })
}

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(self.0, true, f)
    }
}

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tail = self.0.len().saturating_sub(TAIL);
        match (self.0.get(..HEAD), self.0.get(tail..)) {
            (Some(head), Some(end)) if tail > HEAD => write!(f, "{}…{}", Name(head), Name(end)),
            _ => show(self.0, true, f),
        }
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(self.0.as_bytes(), false, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_ls_shows_them() {
        for (name, shown) in [
            (&b"plain-1"[..], "plain-1"),
            (b"a b\\c", "a\\ b\\\\c"),
            (b"x\nD /etc/passwd", "x\\nD\\ /etc/passwd"),
            (b"\x1b]0;owned\x07", "\\033]0;owned\\a"),
            (b"\t\x08\x0b\x0c\r\x7f\x00", "\\t\\b\\v\\f\\r\\177\\000"),
            ("é€e\u{301}".as_bytes(), "é€e\u{301}"),
            (b"\x80\xff", "\\200\\377"),
            // CSI of one byte in eight, as UTF-8; right-to-left override; nothing; a blank that is none.
            ("\u{9b}31m".as_bytes(), "\\302\\23331m"),
            ("\u{202e}".as_bytes(), "\\342\\200\\256"),
            ("\u{200b}".as_bytes(), "\\342\\200\\213"),
            ("\u{a0}\u{2028}".as_bytes(), "\\302\\240\\342\\200\\250"),
        ] {
            let mut pushed = Vec::new();
            push(&mut pushed, name);
            assert_eq!((Name(name).to_string(), pushed), (shown.to_owned(), shown.as_bytes().to_vec()));
        }
    }

    #[test]
    fn messages_keep_their_blanks() {
        assert_eq!(Text("no such \"x\\n\" é\n\u{1b}[2J").to_string(), "no such \"x\\n\" é\\n\\033[2J");
    }

    #[test]
    fn of_long_names_the_ends_are_shown() {
        let name = [vec![b'a'; 500], vec![b'\n'; 500]].concat();
        assert_eq!(Short(&name).to_string(), format!("{}…{}", "a".repeat(HEAD), "\\n".repeat(TAIL)));
        let name = vec![b'a'; HEAD + TAIL];
        assert_eq!(Short(&name).to_string().len(), HEAD + TAIL);
    }
}
