//! Programs that run, which nobody may open for writing (`deny_write_access()`, include/linux/fs.h).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Inode;
use crate::{Errno, Result};

/// How many address spaces were made from each node. A node is known by its address: who counts it keeps it.
#[derive(Default)]
pub struct Texts(Mutex<HashMap<usize, usize>>);

/// One program's claim on its file.
pub struct Text {
    texts: Arc<Texts>,
    inode: Arc<dyn Inode>,
}

fn key(inode: &Arc<dyn Inode>) -> usize {
    Arc::as_ptr(inode).cast::<()>() as usize
}

impl Texts {
    /// `inode` runs until the claim is dropped.
    pub fn claim(self: &Arc<Texts>, inode: &Arc<dyn Inode>) -> Arc<Text> {
        *self.0.lock().entry(key(inode)).or_default() += 1;
        Arc::new(Text { texts: self.clone(), inode: inode.clone() })
    }

    /// `get_write_access()`: `ETXTBSY` for what runs.
    pub fn may_write(&self, inode: &Arc<dyn Inode>) -> Result<()> {
        if self.0.lock().contains_key(&key(inode)) { Err(Errno::ETXTBSY) } else { Ok(()) }
    }
}

impl Drop for Text {
    fn drop(&mut self) {
        if let Entry::Occupied(mut claims) = self.texts.0.lock().entry(key(&self.inode)) {
            *claims.get_mut() -= 1;
            if *claims.get() == 0 {
                claims.remove();
            }
        }
    }
}
