//! Open files whose text is made when they are read, consistent over partial reads as `seq_file` is.

use std::any::Any;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Node;
use crate::abi::linux::{SEEK_CUR, SEEK_SET};
use crate::abi::types::Stat;
use crate::fd::{File, Io};
use crate::fs::{Inode, Opening, Who};
use crate::mem::{Sink, Source};
use crate::task::Cred;
use crate::wait::{Events, PollTable};
use crate::{Errno, Result};

/// Most bytes one write takes (`PAGE_SIZE`; proc and kernfs take no more either).
const MAX_STORE: usize = 4096;

/// A file of text.
pub struct TextFile {
    node: Arc<Node>,
    /// Permissions are those of whoever opened it.
    cred: Arc<Cred>,
    text: Mutex<Option<Arc<[u8]>>>,
    pollable: bool,
}

impl TextFile {
    /// Nothing is made up before the first read.
    pub fn open(node: Arc<Node>, how: &Opening<'_>, pollable: bool) -> Arc<dyn File> {
        Arc::new(TextFile { node, cred: Arc::new(how.who.cred.clone()), text: Mutex::default(), pollable })
    }

    fn who<'a>(&'a self, io: &'a Io<'_>) -> Who<'a> {
        Who { cred: &self.cred, task: Some(io.task) }
    }

    /// A read from the start makes a new text; others go on in the one that is there.
    fn text(&self, io: &Io<'_>, offset: u64) -> Result<Arc<[u8]>> {
        let mut text = self.text.lock();
        match &*text {
            Some(text) if offset > 0 => Ok(text.clone()),
            _ => {
                let made: Arc<[u8]> = self.node.show(self.who(io))?.into();
                *text = Some(made.clone());
                Ok(made)
            }
        }
    }
}

impl File for TextFile {
    fn read(&self, io: &Io<'_>, offset: u64, into: &mut dyn Sink) -> Result<usize> {
        let text = self.text(io, offset)?;
        let rest = usize::try_from(offset).ok().and_then(|offset| text.get(offset..)).unwrap_or_default();
        if rest.is_empty() {
            return Ok(0);
        }
        into.put(rest.get(..rest.len().min(into.remaining())).unwrap_or_default())
    }

    fn write(&self, io: &Io<'_>, _offset: u64, from: &mut dyn Source) -> Result<usize> {
        let mut text = vec![0; from.remaining().min(MAX_STORE)];
        let count = from.take(&mut text)?;
        text.truncate(count);
        self.node.store(self.who(io), &text)?;
        Ok(count)
    }

    fn seekable(&self) -> bool {
        true
    }

    /// `seq_lseek()`.
    fn seek(&self, current: u64, offset: i64, whence: u32) -> Result<u64> {
        let base = match whence {
            SEEK_SET => 0,
            SEEK_CUR => current,
            _ => return Err(Errno::EINVAL),
        };
        base.checked_add_signed(offset).filter(|at| i64::try_from(*at).is_ok()).ok_or(Errno::EINVAL)
    }

    fn poll(&self, _table: &mut PollTable) -> Events {
        if self.pollable { Events::READ } else { Events::READ | Events::WRITE }
    }

    fn pollable(&self) -> bool {
        self.pollable
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
