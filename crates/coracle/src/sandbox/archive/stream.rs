//! Entries of a tar stream, one after another (tar(5)). Whoever made the stream is not trusted: nothing of it is held but the
//! entry at hand, whose names and extensions have bounds.

use std::io::{self, Read};

use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};

const BLOCK: u64 = 512;
/// Longest path and link text (`PATH_MAX`), and extension header.
const PATH_MAX: u64 = 4096;
const LONGEST_EXTENSION: u64 = 1 << 20;
/// Most pieces of a sparse file.
const MOST_PIECES: usize = 1 << 18;

/// Why a stream cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("it is not a tar file; give a directory or a tar file, plain or gzip")]
    NoTar,
    #[error("it is no tar file from some place on ({0})")]
    Broken(&'static str),
    #[error("{0} in it is longer than {1} bytes")]
    TooLong(&'static str, u64),
    #[error("sparse files of the pax format in it are not read; `tar --format=gnu` writes others")]
    PaxSparse,
    #[error("a sparse file in it has more than {MOST_PIECES} pieces")]
    TooManyPieces,
    /// More was read than anything that fits can take.
    #[error("it goes on and on")]
    Endless,
    #[error(transparent)]
    Host(#[from] io::Error),
}

/// What a header and its extensions say.
#[derive(Debug)]
pub struct Entry {
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    pub kind: EntryType,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: i64,
    /// Of the contents, holes included.
    pub size: u64,
    /// Offset and length of what follows in the stream.
    pieces: Vec<(u64, u64)>,
}

/// A stream.
pub struct Entries<R> {
    from: R,
    /// Bytes that may still be read.
    room: u64,
    /// Bytes of the entry at hand that were not read, up to the next header.
    left: u64,
    first: bool,
}

/// What extensions say of the entry that follows them.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<i64>,
}

impl<R: Read> Entries<R> {
    /// At most `most` bytes are read.
    pub fn new(from: R, most: u64) -> Entries<R> {
        Entries { from, room: most, left: 0, first: true }
    }

    /// The next entry, past what was not read of the one before.
    pub fn next(&mut self) -> Result<Option<Entry>, Problem> {
        let mut extensions = Extensions::default();
        loop {
            let Some(header) = self.header()? else { return Ok(None) };
            let kind = header.entry_type();
            let size = header.entry_size().map_err(|_| Problem::Broken("a size"))?;
            match kind {
                EntryType::GNULongName => extensions.path = Some(self.text("a path", size)?),
                EntryType::GNULongLink => extensions.link = Some(self.text("the target of a link", size)?),
                EntryType::XHeader => {
                    extensions.add(&self.extension("an extension header", size, LONGEST_EXTENSION)?)?
                }
                // Defaults of an archive, which nobody needs here.
                EntryType::XGlobalHeader => self.begin(size)?,
                _ => return self.entry(&header, kind, size, extensions).map(Some),
            }
        }
    }

    /// Hands the contents of the entry at hand to `take`, piece by piece with its offset.
    pub fn contents(
        &mut self,
        entry: &Entry,
        mut take: impl FnMut(u64, &[u8]) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        let mut buffer = vec![0; 256 << 10];
        for (offset, len) in &entry.pieces {
            let (mut at, mut left) = (*offset, *len);
            while left > 0 {
                let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                let part = buffer.get_mut(..want).unwrap_or_default();
                self.fill(part)?;
                self.left = self.left.saturating_sub(want as u64);
                take(at, part)?;
                at += want as u64;
                left -= want as u64;
            }
        }
        Ok(())
    }

    fn header(&mut self) -> Result<Option<Header>, Problem> {
        self.skip()?;
        let mut header = Header::new_old();
        let first = std::mem::take(&mut self.first);
        match self.fill_or_end(header.as_mut_bytes()) {
            Ok(false) => {}
            Ok(true) if !first => return Ok(None),
            // The first header tells what kind of file this is.
            Ok(true) | Err(Problem::Broken(_)) if first => return Err(Problem::NoTar),
            other => _ = other?,
        }
        let bytes = header.as_bytes();
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let sum =
            |range: std::ops::Range<usize>| bytes.get(range).into_iter().flatten().map(|byte| u32::from(*byte));
        let sum: u32 = sum(0..148).chain(sum(156..512)).sum::<u32>() + 8 * u32::from(b' ');
        match header.cksum().is_ok_and(|told| told == sum) {
            true => Ok(Some(header)),
            false if first => Err(Problem::NoTar),
            false => Err(Problem::Broken("a header")),
        }
    }

    fn entry(
        &mut self,
        header: &Header,
        kind: EntryType,
        size: u64,
        extensions: Extensions,
    ) -> Result<Entry, Problem> {
        let size = extensions.size.unwrap_or(size);
        let id = |told: Option<u64>, header: io::Result<u64>| {
            told.or(header.ok()).and_then(|id| u32::try_from(id).ok()).unwrap_or(0)
        };
        let mtime = header.mtime().ok().and_then(|time| i64::try_from(time).ok());
        let link = || header.link_name_bytes().map(|link| link.into_owned());
        let mut entry = Entry {
            path: extensions.path.unwrap_or_else(|| header.path_bytes().into_owned()),
            link: extensions.link.or_else(link).unwrap_or_default(),
            kind,
            mode: header.mode().map_err(|_| Problem::Broken("a mode"))? & 0o7777,
            uid: id(extensions.uid, header.uid()),
            gid: id(extensions.gid, header.gid()),
            mtime: extensions.mtime.or(mtime).unwrap_or(0),
            size,
            pieces: vec![(0, size)],
        };
        if entry.path.len() as u64 >= PATH_MAX {
            return Err(Problem::TooLong("a path", PATH_MAX - 1));
        }
        if entry.link.len() as u64 >= PATH_MAX {
            return Err(Problem::TooLong("the target of a link", PATH_MAX - 1));
        }
        if kind == EntryType::GNUSparse {
            self.sparse(header, &mut entry)?;
        }
        self.begin(size)?;
        Ok(entry)
    }

    /// The map of a sparse file goes on in blocks of its own behind the header.
    fn sparse(&mut self, header: &Header, entry: &mut Entry) -> Result<(), Problem> {
        let gnu = header.as_gnu().ok_or(Problem::Broken("a sparse file"))?;
        let stored = entry.size;
        entry.pieces.clear();
        entry.size = gnu.real_size().map_err(|_| Problem::Broken("a size"))?;
        gnu.sparse.iter().try_for_each(|piece| entry.add_piece(piece))?;
        let mut more = gnu.is_extended();
        while more {
            let mut block = GnuExtSparseHeader::new();
            self.fill(block.as_mut_bytes())?;
            block.sparse().iter().try_for_each(|piece| entry.add_piece(piece))?;
            more = block.is_extended();
        }
        let told = entry.pieces.iter().try_fold(0u64, |sum, (_, len)| sum.checked_add(*len));
        if told == Some(stored) { Ok(()) } else { Err(Problem::Broken("a sparse file")) }
    }

    /// So many bytes follow, and what fills the last block.
    fn begin(&mut self, size: u64) -> Result<(), Problem> {
        self.left = size.checked_next_multiple_of(BLOCK).ok_or(Problem::Broken("a size"))?;
        Ok(())
    }

    /// The contents of an extension.
    fn extension(&mut self, what: &'static str, size: u64, most: u64) -> Result<Vec<u8>, Problem> {
        if size > most {
            return Err(Problem::TooLong(what, most));
        }
        self.begin(size)?;
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        self.fill(&mut bytes)?;
        self.left -= size;
        Ok(bytes)
    }

    /// A text with a zero byte behind it.
    fn text(&mut self, what: &'static str, size: u64) -> Result<Vec<u8>, Problem> {
        let mut text = self.extension(what, size, PATH_MAX)?;
        let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
        text.truncate(end);
        Ok(text)
    }

    fn skip(&mut self) -> Result<(), Problem> {
        let mut buffer = [0; 32 << 10];
        while self.left > 0 {
            let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
            self.fill(buffer.get_mut(..want).unwrap_or_default())?;
            self.left -= want as u64;
        }
        Ok(())
    }

    fn fill(&mut self, into: &mut [u8]) -> Result<(), Problem> {
        if !into.is_empty() && self.fill_or_end(into)? { Err(Problem::Broken("it ends early")) } else { Ok(()) }
    }

    /// `true` if there is nothing any more.
    fn fill_or_end(&mut self, into: &mut [u8]) -> Result<bool, Problem> {
        self.room = self.room.checked_sub(into.len() as u64).ok_or(Problem::Endless)?;
        let mut done = 0;
        while let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.from.read(rest) {
                Ok(0) if done == 0 => return Ok(true),
                Ok(0) => return Err(Problem::Broken("it ends early")),
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(false)
    }
}

impl Entry {
    fn add_piece(&mut self, piece: &GnuSparseHeader) -> Result<(), Problem> {
        if piece.is_empty() {
            return Ok(());
        }
        let broken = |_| Problem::Broken("a sparse file");
        let (offset, len) = (piece.offset().map_err(broken)?, piece.length().map_err(broken)?);
        let behind = self.pieces.last().map_or(0, |(offset, len)| offset + len);
        let end = offset.checked_add(len).filter(|end| *end <= self.size);
        if offset < behind || end.is_none() {
            return Err(Problem::Broken("a sparse file"));
        }
        if self.pieces.len() >= MOST_PIECES {
            return Err(Problem::TooManyPieces);
        }
        self.pieces.push((offset, len));
        Ok(())
    }
}

impl Extensions {
    /// Records of a pax header: length, blank, key, `=`, value, newline.
    fn add(&mut self, mut records: &[u8]) -> Result<(), Problem> {
        let broken = || Problem::Broken("an extension header");
        // What fills the last block is no record.
        while records.first().is_some_and(|byte| *byte != 0) {
            let blank = records.iter().position(|byte| *byte == b' ').ok_or_else(broken)?;
            let len: usize = number(records.get(..blank).unwrap_or_default()).ok_or_else(broken)?;
            let record = records.get(blank + 1..len).ok_or_else(broken)?.strip_suffix(b"\n").ok_or_else(broken)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(broken)?;
            let (key, value) =
                (record.get(..equals).unwrap_or_default(), record.get(equals + 1..).unwrap_or_default());
            self.set(key, value)?;
            records = records.get(len..).unwrap_or_default();
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), Problem> {
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(number(value).ok_or(Problem::Broken("a size"))?),
            b"uid" => self.uid = number(value),
            b"gid" => self.gid = number(value),
            // Seconds, with a fraction that is left out.
            b"mtime" => self.mtime = number(value.split(|byte| *byte == b'.').next().unwrap_or_default()),
            key if key.starts_with(b"GNU.sparse.") => return Err(Problem::PaxSparse),
            _ => {}
        }
        Ok(())
    }
}

fn number<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}
