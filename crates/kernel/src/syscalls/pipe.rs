//! pipe(2).

use crate::abi::linux::{O_CLOEXEC, O_RDONLY, O_WRONLY};
use crate::call::{Addr, Ctx};
use crate::fd::OpenFile;
use crate::ipc::{glue, pipe};
use crate::{Errno, SysResult};

crate::calls! {
    22 pipe pipe, 1 Full;
    293 pipe2 pipe2, 2 Full;
}

fn pipe(cx: &mut Ctx<'_>, fds: Addr) -> SysResult {
    pipe2(cx, fds, 0)
}

fn pipe2(cx: &mut Ctx<'_>, fds: Addr, flags: u32) -> SysResult {
    if flags & !(O_CLOEXEC | pipe::PIPE2_FLAGS) != 0 {
        return Err(Errno::EINVAL);
    }
    let (reader, writer) = pipe::pipe(&cx.task);
    let (close_on_exec, flags) = (flags & O_CLOEXEC != 0, flags & !O_CLOEXEC);
    let reader = OpenFile::new(reader, O_RDONLY | flags);
    let writer = OpenFile::new(writer, O_WRONLY | flags);
    glue::install_pair(cx, fds, [reader, writer], close_on_exec)
}
