//! Opening FIFOs: `fifo_open()` in fs/pipe.c.

use std::sync::Arc;

use super::{Identity, Pipe, PipeEnd};
use crate::abi::linux::{O_ACCMODE, O_NONBLOCK, O_RDONLY, O_RDWR, O_WRONLY};
use crate::fd::File;
use crate::fs::Inode;
use crate::task::Task;
use crate::wait::WaitQueue;
use crate::{Errno, Result};

/// What the inode of a FIFO keeps: the pipe that all who open it share.
#[derive(Clone, Default)]
pub struct Fifo(Arc<Pipe>);

impl Fifo {
    /// Opens the FIFO that `inode` is. Waits for the other side unless `O_NONBLOCK` or `O_RDWR`:
    /// `ERESTARTSYS` when interrupted, `ENXIO` for a non-blocking writer without readers.
    pub fn open(&self, task: &Arc<Task>, flags: u32, inode: Arc<dyn Inode>) -> Result<Arc<dyn File>> {
        let pipe = &self.0;
        let nonblocking = flags & O_NONBLOCK != 0;
        let identity = Identity::Named(inode);
        match flags & O_ACCMODE {
            O_RDONLY => {
                // Seen in one glance, before this end counts: a writer that waits for it may come and go at once.
                let (then, alone) = {
                    let state = pipe.state.lock();
                    (state.writers_ever, state.writers == 0)
                };
                let mut end = PipeEnd::new(pipe.clone(), true, false, identity);
                if alone {
                    match nonblocking {
                        true => end.writers_then = Some(then),
                        false => self.wait(task, || pipe.state.lock().writers_ever != then)?,
                    }
                }
                Ok(Arc::new(end))
            }
            O_WRONLY => {
                let (then, alone) = {
                    let state = pipe.state.lock();
                    (state.readers_ever, state.readers == 0)
                };
                if nonblocking && alone {
                    return Err(Errno::ENXIO);
                }
                let end = PipeEnd::new(pipe.clone(), false, true, identity);
                if alone {
                    self.wait(task, || pipe.state.lock().readers_ever != then)?;
                }
                Ok(Arc::new(end))
            }
            O_RDWR => Ok(Arc::new(PipeEnd::new(pipe.clone(), true, true, identity))),
            _ => Err(Errno::EINVAL),
        }
    }

    fn wait(&self, task: &Arc<Task>, come: impl Fn() -> bool) -> Result<()> {
        let partner: &WaitQueue = &self.0.partner;
        task.block(None, |table| {
            table.watch(partner);
            come().then_some(())
        })
    }
}
