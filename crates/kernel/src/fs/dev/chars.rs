//! Character devices of memory and randomness (drivers/char/mem.c, drivers/char/random.c).

use std::any::Any;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::abi::types::Stat;
use crate::call::{Addr, Ctx};
use crate::fd::{File, Io, Mapped};
use crate::fs::Inode;
use crate::mem::{Sink, Source};
use crate::random::Pool;
use crate::{Errno, Result, SysResult};

/// Which device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Char {
    Null,
    Zero,
    Full,
    /// `/dev/random` and `/dev/urandom` are the same once the host is up.
    Random,
}

/// An open one.
pub struct CharFile {
    which: Char,
    inode: Arc<dyn Inode>,
    /// For [`Char::Random`]: what its readers share, so that no two get the same bytes. From the first read on.
    random: Mutex<Option<Box<Pool>>>,
}

impl CharFile {
    /// Opened through `inode`.
    pub fn new(which: Char, inode: Arc<dyn Inode>) -> CharFile {
        CharFile { which, inode, random: Mutex::default() }
    }
}

static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// Fills the sink with what `make` makes: the first piece in its place, where the platform has room for it.
fn pour(into: &mut dyn Sink, make: &mut dyn FnMut(&mut [u8]) -> Result<usize>) -> Result<usize> {
    let mut done = 0;
    while into.remaining() > 0 {
        match into.fill(into.remaining(), make) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done)
}

fn zeros(into: &mut dyn Sink) -> Result<usize> {
    let mut done = into.fill(into.remaining(), &mut |room| {
        room.fill(0);
        Ok(room.len())
    })?;
    while into.remaining() > 0 {
        let part = ZEROS.get(..into.remaining().min(ZEROS.len())).unwrap_or_default();
        match into.put(part) {
            Ok(count) => {
                done += count;
                if count < part.len() {
                    break;
                }
            }
            Err(_) => break,
        }
    }
    Ok(done)
}

/// Reads and forgets: what is mixed into the pool makes no difference that could be seen.
fn swallow(from: &mut dyn Source) -> Result<usize> {
    let mut done = 0;
    let mut chunk = [0; 4096];
    while from.remaining() > 0 {
        match from.take(&mut chunk) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done)
}

const RNDGETENTCNT: u32 = 0x8004_5200;
/// Bits in the pool (`POOL_BITS`).
const POOL_BITS: i32 = 256;

impl File for CharFile {
    fn read(&self, _io: &Io<'_>, _offset: u64, into: &mut dyn Sink) -> Result<usize> {
        if into.remaining() == 0 {
            return Ok(0);
        }
        match self.which {
            Char::Null => Ok(0),
            Char::Zero | Char::Full => zeros(into),
            Char::Random => pour(into, &mut |room| {
                self.random.lock().get_or_insert_default().fill(room)?;
                Ok(room.len())
            }),
        }
    }

    /// The null device does not even look at what is written.
    fn write(&self, _io: &Io<'_>, _offset: u64, from: &mut dyn Source) -> Result<usize> {
        match self.which {
            Char::Null | Char::Zero => Ok(from.remaining()),
            Char::Full => Err(Errno::ENOSPC),
            Char::Random => swallow(from),
        }
    }

    fn gives_random(&self) -> bool {
        self.which == Char::Random
    }

    fn seekable(&self) -> bool {
        true
    }

    /// `null_lseek()`, and `noop_llseek()` of random devices, which never leave the start.
    fn seeks_nowhere(&self) -> bool {
        true
    }

    fn pollable(&self) -> bool {
        self.which == Char::Random
    }

    fn stat(&self) -> Result<Stat> {
        self.inode.stat()
    }

    fn ioctl(&self, cx: &mut Ctx<'_>, command: u32, argument: u64) -> SysResult {
        match (self.which, command) {
            (Char::Random, RNDGETENTCNT) => {
                cx.mem().write(Addr(argument).0, &POOL_BITS)?;
                Ok(0)
            }
            (Char::Random, _) => Err(Errno::EINVAL),
            _ => Err(Errno::ENOTTY),
        }
    }

    fn map(&self, _key: u64, _writable_shared: bool) -> Result<Mapped> {
        if self.which == Char::Zero { Ok(Mapped::Zero) } else { Err(Errno::ENODEV) }
    }

    fn inode(&self) -> Option<Arc<dyn Inode>> {
        Some(self.inode.clone())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
