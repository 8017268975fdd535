//! What is read out of a process's memory: `cmdline`, `environ`, `auxv`, `mem`.

use std::any::Any;
use std::sync::{Arc, Weak};

use super::{About, access};
use crate::abi::linux::{SEEK_CUR, SEEK_SET};
use crate::abi::types::Stat;
use crate::fd::{File, Io};
use crate::fs::synth::Node;
use crate::fs::{Inode, Opening, Who};
use crate::mem::{Sink, Source};
use crate::mm::AddressSpace;
use crate::{Errno, Result};

/// Most bytes that are read of arguments or environment, which have no bound of their own once a program moves
/// them about with prctl.
const MAX_STRINGS: u64 = 4 << 20;

fn bytes(mm: &AddressSpace, range: (u64, u64)) -> Vec<u8> {
    let len = range.1.saturating_sub(range.0).min(MAX_STRINGS);
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    let count = mm.space.read(range.0, &mut bytes);
    bytes.truncate(count);
    bytes
}

/// `get_mm_cmdline()`: a program that has written over the end of its arguments (setproctitle) shows what goes
/// on in the environment.
pub fn show_cmdline(about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    let Some(mm) = about.live()?.mm() else { return Ok(Vec::new()) };
    let (args, env) = {
        let image = mm.image.lock();
        (image.args, image.env)
    };
    if args.1 <= args.0 {
        return Ok(Vec::new());
    }
    let mut text = bytes(&mm, args);
    if text.last() == Some(&0) || env.0 != args.1 {
        return Ok(text);
    }
    text.extend(bytes(&mm, env));
    let end = text.iter().position(|byte| *byte == 0).map_or(text.len(), |at| at + 1);
    text.truncate(end);
    Ok(text)
}

/// Only for those who may trace the process: `EACCES`.
fn readable(about: &About, who: Who<'_>) -> Result<Option<Arc<AddressSpace>>> {
    let process = about.live()?;
    access::may_read(who, process).map_err(|_| Errno::EACCES)?;
    Ok(process.mm())
}

/// `/proc/PID/environ`.
pub fn show_environ(about: &About, who: Who<'_>) -> Result<Vec<u8>> {
    let Some(mm) = readable(about, who)? else { return Ok(Vec::new()) };
    let env = mm.image.lock().env;
    Ok(bytes(&mm, env))
}

/// `/proc/PID/auxv`, with the `AT_NULL` at its end.
pub fn show_auxv(about: &About, who: Who<'_>) -> Result<Vec<u8>> {
    let Some(mm) = readable(about, who)? else { return Ok(Vec::new()) };
    let mut auxv = mm.image.lock().auxv.clone();
    if auxv.last().is_none_or(|(kind, _)| *kind != 0) {
        auxv.push((0, 0));
    }
    Ok(auxv.iter().flat_map(|(kind, value)| [kind.to_ne_bytes(), value.to_ne_bytes()].concat()).collect())
}

/// `/proc/PID/mem`.
struct MemFile {
    /// A process that goes on to another program or ends leaves nothing to be read: reads give 0.
    mm: Weak<AddressSpace>,
    node: Arc<Node>,
}

/// One read or write moves this much at a time.
const CHUNK: usize = 64 << 10;

/// Opening takes the right to trace the process: `EACCES`. A zombie has no memory: reads of it give nothing.
pub fn open_mem(node: Arc<Node>, how: &Opening<'_>) -> Result<Arc<dyn File>> {
    let mm = readable(&node.about()?, how.who)?;
    Ok(Arc::new(MemFile { mm: mm.as_ref().map(Arc::downgrade).unwrap_or_default(), node }))
}

impl File for MemFile {
    /// `EIO` where nothing is mapped (`mem_rw()`).
    fn read(&self, _io: &Io<'_>, offset: u64, into: &mut dyn Sink) -> Result<usize> {
        let Some(mm) = self.mm.upgrade() else { return Ok(0) };
        let mut done = 0;
        while into.remaining() > 0 {
            let mut buffer = vec![0; into.remaining().min(CHUNK)];
            let count = mm.space.read(offset.wrapping_add(done as u64), &mut buffer);
            buffer.truncate(count);
            if count == 0 {
                return if done == 0 { Err(Errno::EIO) } else { Ok(done) };
            }
            done += into.put(&buffer)?;
        }
        Ok(done)
    }

    /// Past page protections, as a debugger does (`FOLL_FORCE`).
    fn write(&self, _io: &Io<'_>, offset: u64, from: &mut dyn Source) -> Result<usize> {
        let Some(mm) = self.mm.upgrade() else { return Ok(0) };
        let mut done = 0;
        while from.remaining() > 0 {
            let mut buffer = vec![0; from.remaining().min(CHUNK)];
            let count = from.take(&mut buffer)?;
            buffer.truncate(count);
            let written = mm.space.poke(offset.wrapping_add(done as u64), &buffer);
            if written == 0 {
                return if done == 0 { Err(Errno::EIO) } else { Ok(done) };
            }
            done += written;
            if written < count {
                break;
            }
        }
        Ok(done)
    }

    fn seekable(&self) -> bool {
        true
    }

    fn seek(&self, current: u64, offset: i64, whence: u32) -> Result<u64> {
        seek(current, offset, whence)
    }

    fn pollable(&self) -> bool {
        false
    }

    fn stat(&self) -> Result<Stat> {
        self.node.stat()
    }

    fn inode(&self) -> Option<Arc<dyn Inode>> {
        Some(self.node.clone())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Addresses may be negative as numbers (`mem_lseek()`).
pub fn seek(current: u64, offset: i64, whence: u32) -> Result<u64> {
    match whence {
        SEEK_SET => Ok(offset as u64),
        SEEK_CUR => Ok(current.wrapping_add_signed(offset)),
        _ => Err(Errno::EINVAL),
    }
}
