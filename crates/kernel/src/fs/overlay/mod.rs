//! overlay: changes in memory over a tree that is never written to.
//!
//! Every name that was looked up is a [`Node`], which stands for a node of the lower tree, for one in memory, or
//! for both after a change. A directory remembers only the names that differ from the lower directory: nodes that
//! were made, moved or changed there, and names that are gone. A node keeps its device and inode number when it is
//! changed, and a lower directory that is renamed takes its lower contents along.
//!
//! Lock order: [`Shared::moves`], then a directory's names, then a node's `origin` or `upper`. The lower tree is
//! never asked with one of these held, except for `copying`.

mod changes;
mod file;
mod node;
mod save;

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::mem::{self, Budget};
use super::{FileSystem, Inode};
use crate::Result;
use crate::abi::types::Statfs;

pub use changes::{Changes, Found, Kind, Step};
pub use file::OverlayFile;
pub use node::Node;
pub use save::{Left, SaveLimits, Stop, Stopped};

/// Numbers of new nodes begin here, above those of real file systems' nodes.
const FIRST_INO: u64 = 1 << 40;

/// A lower file system with changes over it.
pub struct OverlayFs {
    lower: Arc<dyn FileSystem>,
    root: Arc<Node>,
    shared: Arc<Shared>,
}

/// What the nodes of one overlay share.
pub(crate) struct Shared {
    mem: Arc<mem::Shared>,
    budget: Arc<Budget>,
    /// Held while names move between directories.
    moves: Mutex<()>,
    /// Changed nodes with several lower names, by lower identity: all names lead to the one node.
    linked: Mutex<HashMap<(u64, u64), Arc<Node>>>,
}

impl OverlayFs {
    /// Nothing changed yet; changes may take as much as `budget` grants.
    pub fn new(lower: Arc<dyn FileSystem>, budget: Arc<Budget>) -> Result<Arc<OverlayFs>> {
        let mem = mem::Shared::new(lower.dev(), FIRST_INO, budget.clone());
        let shared = Arc::new(Shared { mem, budget, moves: Mutex::default(), linked: Mutex::default() });
        let top = lower.root();
        let (id, kind) = (top.id()?, top.kind());
        let root = Node::from_lower(&shared, top, id, kind, None);
        Ok(Arc::new(OverlayFs { lower, root, shared }))
    }
}

impl FileSystem for OverlayFs {
    fn root(&self) -> Arc<dyn Inode> {
        self.root.clone()
    }

    fn kind(&self) -> &'static str {
        "overlay"
    }

    fn source(&self) -> String {
        String::from("overlay")
    }

    fn dev(&self) -> u64 {
        self.lower.dev()
    }

    /// Room is what changes may still take; without a limit, what the lower file system has.
    fn statfs(&self) -> Result<Statfs> {
        let mut stat = match self.shared.budget.state() {
            (u64::MAX, _) => self.lower.statfs()?,
            _ => self.shared.mem.statfs(),
        };
        stat.f_type = 0x794c_7630;
        Ok(stat)
    }

    fn volatile(&self) -> bool {
        self.lower.volatile()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests;
