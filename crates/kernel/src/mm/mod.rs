//! What the kernel knows of a guest's address space beyond what the host does: the heap's bounds, where the
//! program's strings lie, and which file is behind which mapping.

use std::sync::Arc;

use coracle_platform::Space;
use parking_lot::Mutex;

/// One guest address space, shared by all tasks with `CLONE_VM`.
pub struct AddressSpace {
    pub space: Arc<dyn Space>,
    pub image: Mutex<Image>,
}

/// What `execve` left: `/proc/PID/{exe,cmdline,environ,auxv,stat}`.
#[derive(Clone, Default)]
pub struct Image {
    /// Path of the program as the guest names it.
    pub exe: Vec<u8>,
    /// The opened program, for `/proc/PID/exe`.
    pub exe_file: Option<Arc<crate::fd::OpenFile>>,
    /// Addresses of the argument strings: start, end.
    pub args: (u64, u64),
    /// Addresses of the environment strings: start, end.
    pub env: (u64, u64),
    /// The auxiliary vector as it was put on the stack.
    pub auxv: Vec<(u64, u64)>,
    pub code: (u64, u64),
    pub data: (u64, u64),
    /// Stack mapping and initial stack pointer.
    pub stack: (u64, u64),
    pub start_stack: u64,
    pub start_brk: u64,
    pub brk: u64,
    /// End of the reservation that brk moves in.
    pub brk_limit: u64,
    /// `PR_SET_DUMPABLE`.
    pub dumpable: u32,
}

impl AddressSpace {
    /// Nothing is known of it yet.
    pub fn new(space: Arc<dyn Space>) -> Arc<AddressSpace> {
        Arc::new(AddressSpace { space, image: Mutex::new(Image { dumpable: 1, ..Image::default() }) })
    }

    /// The copy that `fork` makes.
    pub(crate) fn forked(&self, space: Arc<dyn Space>) -> Arc<AddressSpace> {
        Arc::new(AddressSpace { space, image: Mutex::new(self.image.lock().clone()) })
    }
}
