//! pidfds (pidfd_open(2)).

use std::any::Any;
use std::sync::{Arc, OnceLock};

use super::Process;
use crate::abi::linux::{O_NONBLOCK, O_RDWR};
use crate::abi::types::Stat;
use crate::fd::{File, OpenFile};
use crate::wait::{Events, PollTable};
use crate::{Errno, Result};

/// A descriptor of a process. Readable once it has ended.
pub struct PidFd {
    /// Unset only while `clone` is at work.
    process: OnceLock<Arc<Process>>,
}

impl PidFd {
    /// For a process that `clone` is about to make.
    pub(super) fn coming() -> (Arc<PidFd>, Arc<OpenFile>) {
        let file = Arc::new(PidFd { process: OnceLock::new() });
        (file.clone(), OpenFile::new(file, O_RDWR))
    }

    pub(super) fn set(&self, process: &Arc<Process>) {
        let _ = self.process.set(process.clone());
    }

    /// An open pidfd of `process`.
    pub fn open(process: &Arc<Process>, nonblocking: bool) -> Arc<OpenFile> {
        let (file, _) = PidFd::coming();
        file.set(process);
        OpenFile::new(file, O_RDWR | if nonblocking { O_NONBLOCK } else { 0 })
    }

    /// The process; `ESRCH` once it has been waited for.
    pub fn process(&self) -> Result<Arc<Process>> {
        let process = self.process.get().ok_or(Errno::ESRCH)?;
        if process.is_reaped() { Err(Errno::ESRCH) } else { Ok(process.clone()) }
    }

    /// The process behind an open file, `EBADF` if it is no pidfd.
    pub fn of(file: &OpenFile) -> Result<&PidFd> {
        file.file.as_any().downcast_ref().ok_or(Errno::EBADF)
    }

    /// Its pid for `/proc/self/fdinfo`: -1 once it has been waited for.
    pub fn pid(&self) -> i64 {
        self.process().map_or(-1, |process| i64::from(process.pid))
    }
}

impl File for PidFd {
    /// `pidfd_poll()`.
    fn poll(&self, table: &mut PollTable) -> Events {
        let Some(process) = self.process.get() else { return Events::empty() };
        table.watch(&process.exit_queue);
        if process.is_reaped() {
            Events::READ | Events::HUP
        } else if process.is_zombie() {
            Events::READ
        } else {
            Events::empty()
        }
    }

    fn stat(&self) -> Result<Stat> {
        Ok(Stat { st_mode: 0o600, st_nlink: 1, st_blksize: 4096, ..Stat::default() })
    }

    fn fdinfo(&self, text: &mut String) {
        let pid = self.pid();
        text.push_str(&format!("Pid:\t{pid}\nNSpid:\t{pid}\n"));
    }

    fn description(&self) -> String {
        String::from("anon_inode:[pidfd]")
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
