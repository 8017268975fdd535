//! eventfd(2).

use std::sync::Arc;

use crate::abi::linux::{O_CLOEXEC, O_NONBLOCK, O_RDWR};
use crate::call::Ctx;
use crate::ipc::eventfd::EventFd;
use crate::ipc::glue;
use crate::{Errno, SysResult};

crate::calls! {
    284 eventfd eventfd, 1 Full;
    290 eventfd2 eventfd2, 2 Full;
}

const EFD_SEMAPHORE: u32 = 1;

fn eventfd(cx: &mut Ctx<'_>, initial: u32) -> SysResult {
    eventfd2(cx, initial, 0)
}

fn eventfd2(cx: &mut Ctx<'_>, initial: u32, flags: u32) -> SysResult {
    if flags & !(EFD_SEMAPHORE | O_CLOEXEC | O_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    let file = Arc::new(EventFd::new(u64::from(initial), flags & EFD_SEMAPHORE != 0));
    glue::install(cx, file, O_RDWR | flags & O_NONBLOCK, flags & O_CLOEXEC != 0)
}
