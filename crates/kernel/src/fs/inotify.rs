//! inotify(7): placeholder of the hooks; see `event`.

use std::sync::Arc;

use super::{PathRef, Vfs};
use crate::fd::OpenFile;
use crate::task::Task;

pub const IN_MODIFY: u32 = 0x2;
pub const IN_ATTRIB: u32 = 0x4;
pub const IN_MOVED_FROM: u32 = 0x40;
pub const IN_MOVED_TO: u32 = 0x80;
pub const IN_CREATE: u32 = 0x100;
pub const IN_DELETE: u32 = 0x200;
pub const IN_DELETE_SELF: u32 = 0x400;
pub const IN_MOVE_SELF: u32 = 0x800;

/// Something happened to the node at `place`.
pub fn event(_vfs: &Vfs, _place: &PathRef, _mask: u32) {}

/// Something happened to `name` in the directory at `parent`.
pub fn child(_vfs: &Vfs, _parent: &PathRef, _name: &[u8], _mask: u32, _directory: bool, _cookie: u32) {}

/// A name was renamed.
pub fn moved(_vfs: &Vfs, _from: (&PathRef, &[u8]), _to: (&PathRef, &[u8]), _node: &PathRef) {}

/// A file was opened; its closing will be told too.
pub fn opened(_task: &Arc<Task>, _place: &PathRef, _open: &Arc<OpenFile>) {}

/// An open file was written to.
pub fn modified(_vfs: &Vfs, _open: &Arc<OpenFile>) {}
