//! Calls that make, remove and move names: mkdir, mknod, symlink, link, unlink, rmdir, rename, readlink.

use std::sync::Arc;

use super::path::{
    AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_FOLLOW, AT_SYMLINK_NOFOLLOW, Env, find_at, new_owner, path_text,
};
use crate::abi::linux::{AT_REMOVEDIR, RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT};
use crate::call::{Addr, Ctx, Fd};
use crate::fs::walk::Walked;
use crate::fs::{
    Access, Dentry, Inode, Last, NewNode, PathRef, Resolve, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT,
    S_IFREG, S_IFSOCK, inotify, perm,
};
use crate::task::Caps;
use crate::{Errno, Result, SysResult};

crate::calls! {
    82 rename rename, 2 Full;
    83 mkdir mkdir, 2 Full;
    84 rmdir rmdir, 1 Full;
    86 link link, 2 Full;
    87 unlink unlink, 1 Full;
    88 symlink symlink, 2 Full;
    89 readlink readlink, 3 Full;
    133 mknod mknod, 3 Full;
    258 mkdirat mkdirat, 3 Full;
    259 mknodat mknodat, 4 Full;
    263 unlinkat unlinkat, 3 Full;
    264 renameat renameat, 4 Full;
    265 linkat linkat, 5 Full;
    266 symlinkat symlinkat, 3 Full;
    267 readlinkat readlinkat, 4 Full;
    316 renameat2 renameat2, 5 Partial("RENAME_WHITEOUT is EINVAL, as on most file systems");
}

const CWD: Fd = Fd(AT_FDCWD);

/// `filename_create()`: the directory and the name of something that must not exist yet.
fn fresh(env: &Env, path: &[u8], directory: bool) -> Result<(PathRef, Vec<u8>)> {
    let Walked { parent, last, slash, .. } = env.walk().parent(path)?;
    let Last::Name(name) = last else { return Err(Errno::EEXIST) };
    match env.walk().step(&parent, &name, true) {
        Ok(_) => Err(Errno::EEXIST),
        Err(Errno::ENOENT) if slash && !directory => Err(Errno::ENOENT),
        Err(Errno::ENOENT) => Ok((parent, name)),
        Err(error) => Err(error),
    }
}

/// Makes a node called `name` in `parent` with the mode (masked already), owned by the caller.
pub fn make(env: &Env, parent: &PathRef, name: &[u8], mode: u32, rdev: u64, target: &[u8]) -> Result<PathRef> {
    make_with(env, parent, name, (mode, rdev, target), |directory, new| directory.make(name, new))
}

/// As `make`, by `how`.
pub(super) fn make_with(
    env: &Env,
    parent: &PathRef,
    name: &[u8],
    (mode, rdev, target): (u32, u64, &[u8]),
    how: impl FnOnce(&dyn Inode, &NewNode<'_>) -> Result<Arc<dyn Inode>>,
) -> Result<PathRef> {
    parent.mount.writable()?;
    // In /proc names are never missing, they cannot exist (its lookup fails rather than find nothing).
    if parent.dentry.deleted() || parent.mount.fs.kind() == "proc" {
        return Err(Errno::ENOENT);
    }
    parent.inode().permission(env.who(), Access::WRITE | Access::EXEC)?;
    let (gid, mode) = new_owner(env, &**parent.inode(), mode)?;
    let new = NewNode { mode, uid: env.cred.fsuid, gid, rdev, target };
    let inode = how(&**parent.inode(), &new)?;
    let directory = inode.is_dir();
    let dentry = parent.dentry.made(name, inode);
    inotify::child(env.vfs(), parent, name, inotify::IN_CREATE, directory, 0);
    Ok(PathRef { mount: parent.mount.clone(), dentry })
}

fn mkdir(cx: &mut Ctx<'_>, path: Addr, mode: u32) -> SysResult {
    mkdirat(cx, CWD, path, mode)
}

fn mkdirat(cx: &mut Ctx<'_>, dirfd: Fd, path: Addr, mode: u32) -> SysResult {
    let text = path_text(cx, path, 0)?;
    let env = Env::new(cx, dirfd.0, &text)?;
    let (parent, name) = fresh(&env, &text, true)?;
    let mode = mode & 0o1777 & !cx.task.fs().umask();
    make(&env, &parent, &name, S_IFDIR | mode, 0, b"")?;
    Ok(0)
}

fn mknod(cx: &mut Ctx<'_>, path: Addr, mode: u32, dev: u32) -> SysResult {
    mknodat(cx, CWD, path, mode, dev)
}

fn mknodat(cx: &mut Ctx<'_>, dirfd: Fd, path: Addr, mode: u32, dev: u32) -> SysResult {
    let kind = match mode & S_IFMT {
        0 => S_IFREG,
        S_IFDIR => return Err(Errno::EPERM),
        kind @ (S_IFREG | S_IFCHR | S_IFBLK | S_IFIFO | S_IFSOCK) => kind,
        _ => return Err(Errno::EINVAL),
    };
    let text = path_text(cx, path, 0)?;
    let env = Env::new(cx, dirfd.0, &text)?;
    let (parent, name) = fresh(&env, &text, false)?;
    if matches!(kind, S_IFCHR | S_IFBLK) && !env.cred.capable(Caps::MKNOD) {
        return Err(Errno::EPERM);
    }
    let mode = kind | (mode & 0o7777 & !cx.task.fs().umask());
    make(&env, &parent, &name, mode, u64::from(dev), b"")?;
    Ok(0)
}

fn symlink(cx: &mut Ctx<'_>, target: Addr, path: Addr) -> SysResult {
    symlinkat(cx, target, CWD, path)
}

fn symlinkat(cx: &mut Ctx<'_>, target: Addr, dirfd: Fd, path: Addr) -> SysResult {
    let target = path_text(cx, target, 0)?;
    let text = path_text(cx, path, 0)?;
    let env = Env::new(cx, dirfd.0, &text)?;
    let (parent, name) = fresh(&env, &text, false)?;
    make(&env, &parent, &name, S_IFLNK | 0o777, 0, &target)?;
    Ok(0)
}

fn link(cx: &mut Ctx<'_>, old: Addr, new: Addr) -> SysResult {
    linkat(cx, CWD, old, CWD, new, 0)
}

fn linkat(cx: &mut Ctx<'_>, olddir: Fd, old: Addr, newdir: Fd, new: Addr, flags: u32) -> SysResult {
    if flags & !(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let follow = if flags & AT_SYMLINK_FOLLOW != 0 { 0 } else { AT_SYMLINK_NOFOLLOW };
    let source = find_at(cx, olddir.0, old, (flags & AT_EMPTY_PATH) | follow)?;
    let text = path_text(cx, new, 0)?;
    let env = Env::new(cx, newdir.0, &text)?;
    let (parent, name) = fresh(&env, &text, false)?;
    if parent.mount.id != source.mount.id {
        return Err(Errno::EXDEV);
    }
    parent.mount.writable()?;
    parent.inode().permission(env.who(), Access::WRITE | Access::EXEC)?;
    if source.inode().is_dir() {
        return Err(Errno::EPERM);
    }
    // Unlinked files stay so, except those of O_TMPFILE.
    if source.inode().stat()?.st_nlink == 0 && !source.dentry.linkable() {
        return Err(Errno::ENOENT);
    }
    parent.inode().link(&name, source.inode())?;
    parent.dentry.made(&name, source.inode().clone());
    inotify::linked(env.vfs(), &source);
    inotify::child(env.vfs(), &parent, &name, inotify::IN_CREATE, false, 0);
    Ok(0)
}

fn unlink(cx: &mut Ctx<'_>, path: Addr) -> SysResult {
    unlinkat(cx, CWD, path, 0)
}

fn rmdir(cx: &mut Ctx<'_>, path: Addr) -> SysResult {
    unlinkat(cx, CWD, path, AT_REMOVEDIR)
}

fn unlinkat(cx: &mut Ctx<'_>, dirfd: Fd, path: Addr, flags: u32) -> SysResult {
    if flags & !AT_REMOVEDIR != 0 {
        return Err(Errno::EINVAL);
    }
    let text = path_text(cx, path, 0)?;
    let env = Env::new(cx, dirfd.0, &text)?;
    remove(&env, &text, flags & AT_REMOVEDIR != 0).map(|()| 0)
}

/// Removes a name: a directory's or, without `directory`, any other.
pub fn remove(env: &Env, path: &[u8], directory: bool) -> Result<()> {
    let Walked { parent, last, slash, .. } = env.walk().parent(path)?;
    let name = match last {
        Last::Name(name) => name,
        _ if !directory => return Err(Errno::EISDIR),
        Last::Dot => return Err(Errno::EINVAL),
        Last::DotDot => return Err(Errno::ENOTEMPTY),
        Last::Root => return Err(Errno::EBUSY),
    };
    parent.mount.writable()?;
    let child = env.walk().step(&parent, &name, true)?;
    if slash && !directory {
        return Err(if child.inode().is_dir() { Errno::EISDIR } else { Errno::ENOTDIR });
    }
    if child.mount.id != parent.mount.id {
        return Err(Errno::EBUSY);
    }
    perm::may_remove(env.who(), &**parent.inode(), &**child.inode())?;
    match (directory, child.inode().is_dir()) {
        (true, false) => return Err(Errno::ENOTDIR),
        (false, true) => return Err(Errno::EISDIR),
        (true, true) => parent.inode().rmdir(&name, child.inode())?,
        (false, false) => parent.inode().unlink(&name, child.inode())?,
    }
    parent.dentry.removed(&name);
    inotify::removed(env.vfs(), &parent, &name, &child);
    Ok(())
}

fn rename(cx: &mut Ctx<'_>, old: Addr, new: Addr) -> SysResult {
    renameat2(cx, CWD, old, CWD, new, 0)
}

fn renameat(cx: &mut Ctx<'_>, olddir: Fd, old: Addr, newdir: Fd, new: Addr) -> SysResult {
    renameat2(cx, olddir, old, newdir, new, 0)
}

/// `do_renameat2()` and `vfs_rename()`.
fn renameat2(cx: &mut Ctx<'_>, olddir: Fd, old: Addr, newdir: Fd, new: Addr, flags: u32) -> SysResult {
    let exchange = flags & RENAME_EXCHANGE != 0;
    if flags & !(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT) != 0
        || (exchange && flags & (RENAME_NOREPLACE | RENAME_WHITEOUT) != 0)
        || flags & RENAME_WHITEOUT != 0
    {
        return Err(Errno::EINVAL);
    }
    let old_text = path_text(cx, old, 0)?;
    let new_text = path_text(cx, new, 0)?;
    let old_env = Env::new(cx, olddir.0, &old_text)?;
    let from = old_env.walk().parent(&old_text)?;
    let env = Env::new(cx, newdir.0, &new_text)?;
    let to = env.walk().parent(&new_text)?;
    if from.parent.mount.id != to.parent.mount.id {
        return Err(Errno::EXDEV);
    }
    let Last::Name(old_name) = &from.last else { return Err(Errno::EBUSY) };
    let Last::Name(new_name) = &to.last else {
        return Err(if flags & RENAME_NOREPLACE != 0 { Errno::EEXIST } else { Errno::EBUSY });
    };
    from.parent.mount.writable()?;
    let _tree = env.vfs().rename.lock();
    let source = env.walk().step(&from.parent, old_name, true)?;
    let target = match env.walk().step(&to.parent, new_name, true) {
        Ok(_) if flags & RENAME_NOREPLACE != 0 => return Err(Errno::EEXIST),
        Ok(target) => Some(target),
        Err(Errno::ENOENT) if exchange => return Err(Errno::ENOENT),
        Err(Errno::ENOENT) => None,
        Err(error) => return Err(error),
    };
    let source_dir = source.inode().is_dir();
    let target_dir = target.as_ref().is_some_and(|target| target.inode().is_dir());
    if (!source_dir && (from.slash || (!exchange && to.slash))) || (exchange && !target_dir && to.slash) {
        return Err(Errno::ENOTDIR);
    }
    if source_dir && to.parent.dentry.is_below(&source.dentry) {
        return Err(Errno::EINVAL);
    }
    if let Some(target) = &target
        && target_dir
        && from.parent.dentry.is_below(&target.dentry)
    {
        return Err(if exchange { Errno::EINVAL } else { Errno::ENOTEMPTY });
    }
    if source.mount.id != from.parent.mount.id
        || target.as_ref().is_some_and(|target| target.mount.id != to.parent.mount.id)
    {
        return Err(Errno::EBUSY);
    }
    let (from_dir, to_dir) = (from.parent.inode(), to.parent.inode());
    perm::may_remove(env.who(), &**from_dir, &**source.inode())?;
    let across = !Arc::ptr_eq(&from.parent.dentry, &to.parent.dentry);
    match &target {
        None => to_dir.permission(env.who(), Access::WRITE | Access::EXEC)?,
        Some(target) => {
            perm::may_remove(env.who(), &**to_dir, &**target.inode())?;
            if !exchange && source_dir && !target_dir {
                return Err(Errno::ENOTDIR);
            }
            if !exchange && !source_dir && target_dir {
                return Err(Errno::EISDIR);
            }
            if exchange && across && target_dir {
                target.inode().permission(env.who(), Access::WRITE)?;
            }
        }
    }
    if across && source_dir {
        // Its `..` changes.
        source.inode().permission(env.who(), Access::WRITE)?;
    }
    if let Some(target) = &target
        && Arc::ptr_eq(target.inode(), source.inode())
    {
        return Ok(0);
    }
    if target.is_none() && to.parent.dentry.deleted() {
        return Err(Errno::ENOENT);
    }
    let target_inode = target.as_ref().map(PathRef::inode);
    from_dir.rename_seen((old_name, source.inode()), to_dir, (new_name, target_inode), flags)?;
    Dentry::renamed(&from.parent.dentry, old_name, &to.parent.dentry, new_name, exchange);
    inotify::moved(env.vfs(), (&from.parent, old_name), (&to.parent, new_name), &source);
    if let Some(target) = target {
        if exchange {
            inotify::moved(env.vfs(), (&to.parent, new_name), (&from.parent, old_name), &target);
        } else {
            inotify::event(env.vfs(), &target, inotify::IN_DELETE_SELF);
        }
    }
    Ok(0)
}

fn readlink(cx: &mut Ctx<'_>, path: Addr, buffer: Addr, size: i32) -> SysResult {
    readlinkat(cx, CWD, path, buffer, size)
}

fn readlinkat(cx: &mut Ctx<'_>, dirfd: Fd, path: Addr, buffer: Addr, size: i32) -> SysResult {
    let size = usize::try_from(size).ok().filter(|size| *size > 0).ok_or(Errno::EINVAL)?;
    let text = path_text(cx, path, AT_EMPTY_PATH)?;
    let env = Env::new(cx, dirfd.0, &text)?;
    if text.is_empty() && path.0 == 0 {
        return Err(Errno::EFAULT);
    }
    let place = env.find(&text, Resolve::EMPTY)?;
    if !place.inode().is_link() {
        return Err(if text.is_empty() { Errno::ENOENT } else { Errno::EINVAL });
    }
    let target = place.inode().readlink(env.who())?;
    let part = target.get(..size).unwrap_or(&target);
    cx.mem().write_bytes(buffer.0, part)?;
    Ok(part.len() as u64)
}
