//! From path arguments to places, and open(2).

use std::any::Any;
use std::sync::Arc;

use crate::abi::linux::*;
use crate::abi::types::{OpenHow, Stat};
use crate::call::{Addr, Ctx, Fd};
use crate::fd::{FdEntry, File, OpenFile};
use crate::fs::anon::FileInode;
use crate::fs::walk::Walked;
use crate::fs::{
    Access, Inode, Last, Made, MountFlags, NewNode, Opening, PathRef, Resolve, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO,
    S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK, SetAttr, SetTime, Vfs, Walk, Who, inotify, perm,
};
use crate::ipc::pipe::Fifo;
use crate::task::{Cred, Task};
use crate::{Errno, Result, SysResult};

crate::calls! {
    2 open open, 3 Full;
    85 creat creat, 2 Full;
    257 openat openat, 4 Full;
    437 openat2 openat2, 4 Full;
}

pub const AT_FDCWD: i32 = -100;
pub const AT_SYMLINK_NOFOLLOW: u32 = 0x100;
pub const AT_SYMLINK_FOLLOW: u32 = 0x400;
pub const AT_EMPTY_PATH: u32 = 0x1000;
const TMPFILE_BIT: u32 = 0o20_000_000;

/// Where a walk starts and on whose behalf.
pub struct Env {
    task: Arc<Task>,
    pub cred: Arc<Cred>,
    pub root: PathRef,
    pub base: PathRef,
}

impl Env {
    /// For a path relative to `dirfd`. `EBADF`; `ENOTDIR` comes from the walk.
    pub fn new(cx: &Ctx<'_>, dirfd: i32, path: &[u8]) -> Result<Env> {
        Env::of(&cx.task, dirfd, path)
    }

    /// As `new`, for a task.
    pub fn of(task: &Arc<Task>, dirfd: i32, path: &[u8]) -> Result<Env> {
        let (root, cwd) = task.fs().places();
        let base = if path.first() == Some(&b'/') || dirfd == AT_FDCWD {
            cwd
        } else {
            place_of(task, &task.files().get(dirfd)?)
        };
        Ok(Env { task: task.clone(), cred: task.cred(), root, base })
    }

    /// The same with other credentials.
    pub fn with_cred(self, cred: Arc<Cred>) -> Env {
        Env { cred, ..self }
    }

    pub fn who(&self) -> Who<'_> {
        Who { cred: &self.cred, task: Some(&self.task) }
    }

    pub fn vfs(&self) -> &Vfs {
        &self.task.world.vfs
    }

    pub fn walk(&self) -> Walk<'_> {
        Walk { vfs: self.vfs(), who: self.who(), root: &self.root, base: &self.base }
    }

    /// The place that `path` names.
    pub fn find(&self, path: &[u8], how: Resolve) -> Result<PathRef> {
        self.walk().find(path, how)
    }
}

/// The place an open file was opened at; files without one are dressed as a node in no tree.
pub fn place_of(task: &Arc<Task>, open: &Arc<OpenFile>) -> PathRef {
    match &open.path {
        Some(path) => path.clone(),
        None => {
            let name = open.file.description();
            task.world.vfs.mounts.nowhere(FileInode::new(open.clone()), name.as_bytes())
        }
    }
}

/// `getname_flags()`, then the walk: the place of a path argument of an `*at` call. `AT_SYMLINK_NOFOLLOW` and
/// `AT_EMPTY_PATH` count.
pub fn find_at(cx: &mut Ctx<'_>, dirfd: i32, path: Addr, flags: u32) -> Result<PathRef> {
    let text = path_text(cx, path, flags)?;
    let env = Env::new(cx, dirfd, &text)?;
    env.find(&text, resolve_flags(flags))
}

/// The path's text. A null pointer with `AT_EMPTY_PATH` is an empty path (since Linux 6.11).
pub fn path_text(cx: &mut Ctx<'_>, path: Addr, flags: u32) -> Result<Vec<u8>> {
    if path.0 == 0 && flags & AT_EMPTY_PATH != 0 {
        return Ok(Vec::new());
    }
    let text = cx.mem().read_path(path.0)?;
    if text.is_empty() && flags & AT_EMPTY_PATH == 0 { Err(Errno::ENOENT) } else { Ok(text) }
}

/// `AT_*` as `Resolve`.
pub fn resolve_flags(flags: u32) -> Resolve {
    let mut how = Resolve::empty();
    how.set(Resolve::FOLLOW, flags & AT_SYMLINK_NOFOLLOW == 0);
    how.set(Resolve::EMPTY, flags & AT_EMPTY_PATH != 0);
    how
}

/// What `O_PATH` yields: a place and nothing more.
pub struct PathFile {
    inode: Arc<dyn Inode>,
    /// Keeps the node in sight, whatever becomes of its name.
    _pin: Option<Arc<dyn Any + Send + Sync>>,
}

impl File for PathFile {
    fn stat(&self) -> Result<Stat> {
        self.inode.stat()
    }

    fn inode(&self) -> Option<Arc<dyn Inode>> {
        Some(self.inode.clone())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn open(cx: &mut Ctx<'_>, path: Addr, flags: u32, mode: u32) -> SysResult {
    openat(cx, Fd(AT_FDCWD), path, flags, mode)
}

fn creat(cx: &mut Ctx<'_>, path: Addr, mode: u32) -> SysResult {
    openat(cx, Fd(AT_FDCWD), path, O_CREAT | O_WRONLY | O_TRUNC, mode)
}

/// `VALID_OPEN_FLAGS`.
const VALID: u32 = O_ACCMODE
    | O_CREAT
    | O_EXCL
    | O_NOCTTY
    | O_TRUNC
    | O_APPEND
    | O_NONBLOCK
    | O_SYNC
    | O_DSYNC
    | FASYNC
    | O_DIRECT
    | O_LARGEFILE
    | O_DIRECTORY
    | O_NOFOLLOW
    | O_NOATIME
    | O_CLOEXEC
    | O_PATH
    | TMPFILE_BIT;
/// Set in every open file of a 64-bit process.
pub const O_LARGEFILE: u32 = 0o100_000;

fn openat(cx: &mut Ctx<'_>, dirfd: Fd, path: Addr, flags: u32, mode: u32) -> SysResult {
    // openat(2) ignores what it does not know, and the mode where nothing is made (build_open_how()).
    let mut flags = flags & VALID;
    if flags & O_PATH != 0 {
        flags &= O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    }
    let mode = if flags & (O_CREAT | TMPFILE_BIT) != 0 { mode & 0o7777 } else { 0 };
    check_flags(flags)?;
    let text = cx.mem().read_path(path.0)?;
    let file = open_text(cx, dirfd.0, &text, flags, mode, Resolve::empty())?;
    install(cx, file, flags)
}

fn openat2(cx: &mut Ctx<'_>, dirfd: Fd, path: Addr, how: Addr, size: u64) -> SysResult {
    let how: OpenHow = read_extensible(cx, how, size)?;
    let flags = u32::try_from(how.flags).map_err(|_| Errno::EINVAL)?;
    let resolve = u32::try_from(how.resolve).ok().and_then(Resolve::from_bits).ok_or(Errno::EINVAL)?;
    if flags & !VALID != 0 || how.resolve & !0x3f != 0 || resolve.contains(Resolve::BENEATH | Resolve::IN_ROOT) {
        return Err(Errno::EINVAL);
    }
    let makes = flags & (O_CREAT | TMPFILE_BIT) != 0;
    if how.mode & !0o7777 != 0 || (how.mode != 0 && !makes) {
        return Err(Errno::EINVAL);
    }
    if flags & O_PATH != 0 && flags & !(O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) != 0 {
        return Err(Errno::EINVAL);
    }
    check_flags(flags)?;
    if resolve.contains(Resolve::CACHED) {
        // What is cached is not known in advance; callers fall back (openat2(2)).
        return Err(if flags & (O_TRUNC | O_CREAT | TMPFILE_BIT) != 0 { Errno::EINVAL } else { Errno::EAGAIN });
    }
    let text = cx.mem().read_path(path.0)?;
    let file = open_text(cx, dirfd.0, &text, flags, how.mode as u32, resolve)?;
    install(cx, file, flags)
}

/// `copy_struct_from_user()` for `struct open_how`: bytes beyond what is known must be zero.
fn read_extensible(cx: &mut Ctx<'_>, address: Addr, size: u64) -> Result<OpenHow> {
    let known = size_of::<OpenHow>() as u64;
    if size < known {
        return Err(Errno::EINVAL);
    }
    if size > 4096 {
        return Err(Errno::E2BIG);
    }
    let mut rest = vec![0u8; (size - known) as usize];
    cx.mem().read_bytes(address.plus(known), &mut rest)?;
    if rest.iter().any(|byte| *byte != 0) {
        return Err(Errno::E2BIG);
    }
    cx.mem().read(address.0)
}

/// The rest of `build_open_flags()`.
fn check_flags(flags: u32) -> Result<()> {
    let tmpfile = flags & TMPFILE_BIT != 0;
    let writes = flags & O_ACCMODE != O_RDONLY;
    if tmpfile && (flags & O_DIRECTORY == 0 || !writes || flags & O_CREAT != 0) {
        return Err(Errno::EINVAL);
    }
    if flags & (O_CREAT | O_DIRECTORY) == O_CREAT | O_DIRECTORY { Err(Errno::EINVAL) } else { Ok(()) }
}

fn install(cx: &Ctx<'_>, file: Arc<OpenFile>, flags: u32) -> SysResult {
    let entry = FdEntry { file, close_on_exec: flags & O_CLOEXEC != 0 };
    let fd = cx.task.files().install(entry, 0, cx.task.nofile())?;
    Ok(fd as u64)
}

/// Opens `path` for the calling task.
fn open_text(
    cx: &Ctx<'_>,
    dirfd: i32,
    path: &[u8],
    flags: u32,
    mode: u32,
    resolve: Resolve,
) -> Result<Arc<OpenFile>> {
    // With a scope, absolute paths too start at the descriptor.
    let scoped = resolve.intersects(Resolve::BENEATH | Resolve::IN_ROOT);
    let env = Env::new(cx, dirfd, if scoped { b"." } else { path })?;
    let umask = cx.task.fs().umask();
    open_in(&env, path, flags, mode & !umask, resolve)
}

/// Opens `path` in `env`; `flags` are checked, `mode` is masked.
pub fn open_in(env: &Env, path: &[u8], flags: u32, mode: u32, resolve: Resolve) -> Result<Arc<OpenFile>> {
    if flags & TMPFILE_BIT != 0 {
        return open_unnamed(env, path, flags, mode, resolve);
    }
    let creates = flags & O_CREAT != 0;
    let exclusive = creates && flags & O_EXCL != 0;
    let mut how = resolve;
    how.set(Resolve::FOLLOW, flags & O_NOFOLLOW == 0 && !exclusive);
    how.set(Resolve::MAYBE, creates);
    // A name that appears between the walk and the making is opened at the next turn.
    for _ in 0..8 {
        let walked = env.walk().walk(path, how)?;
        if creates
            && (walked.slash || walked.last != Last::Name(Vec::new()) && !matches!(walked.last, Last::Name(_)))
        {
            return Err(Errno::EISDIR);
        }
        match &walked.found {
            Some(place) => {
                if exclusive {
                    return Err(Errno::EEXIST);
                }
                return open_place(env, place, flags);
            }
            None => match create(env, &walked, S_IFREG | mode, flags) {
                Ok((place, file)) => return finish_open(env, &place, flags, true, file),
                Err(Errno::EEXIST) if !exclusive => continue,
                Err(error) => return Err(error),
            },
        }
    }
    Err(Errno::EEXIST)
}

/// A file, where it was opened already by being made.
type MaybeOpen = Option<Arc<dyn File>>;

/// Makes a file where `walked` found none; permissions are checked here.
fn create(env: &Env, walked: &Walked, mode: u32, flags: u32) -> Result<(PathRef, MaybeOpen)> {
    let Last::Name(name) = &walked.last else { return Err(Errno::EISDIR) };
    let mut file = None;
    let place = super::names::make_with(env, &walked.parent, name, (mode, 0, b""), |directory, new| {
        let made = directory.create(name, new, flags)?;
        file = made.file;
        Ok(made.inode)
    })?;
    Ok((place, file))
}

/// Group and mode of a new node in `parent` (`inode_init_owner()`, fs/inode.c).
pub fn new_owner(env: &Env, parent: &dyn Inode, mode: u32) -> Result<(u32, u32)> {
    let (parent_mode, _, parent_gid) = parent.access_info()?;
    if parent_mode & 0o2000 == 0 {
        return Ok((env.cred.fsgid, mode));
    }
    let mode = if mode & S_IFMT == S_IFDIR { mode | 0o2000 } else { mode };
    Ok((parent_gid, mode))
}

fn open_unnamed(env: &Env, path: &[u8], flags: u32, mode: u32, resolve: Resolve) -> Result<Arc<OpenFile>> {
    let dir = env.find(path, resolve | Resolve::FOLLOW)?;
    if !dir.inode().is_dir() {
        return Err(Errno::ENOTDIR);
    }
    dir.mount.writable()?;
    dir.inode().permission(env.who(), Access::WRITE | Access::EXEC)?;
    let (gid, mode) = new_owner(env, &**dir.inode(), S_IFREG | mode)?;
    let new = NewNode { mode, uid: env.cred.fsuid, gid, rdev: 0, target: b"" };
    let Made { inode, file } = dir.inode().create_unnamed(&new, flags & !(TMPFILE_BIT | O_DIRECTORY))?;
    let (_, ino) = inode.id()?;
    let dentry = dir.dentry.unnamed(format!("#{ino}").as_bytes(), inode, flags & O_EXCL == 0);
    let place = PathRef { mount: dir.mount, dentry };
    finish_open(env, &place, flags & !(TMPFILE_BIT | O_DIRECTORY), true, file)
}

/// Opens what is at `place`.
pub fn open_place(env: &Env, place: &PathRef, flags: u32) -> Result<Arc<OpenFile>> {
    finish_open(env, place, flags, false, None)
}

/// `do_open()` and `may_open()` (fs/namei.c). `made`: the node is new, and its mode does not count yet; perhaps it was
/// opened by being made.
fn finish_open(env: &Env, place: &PathRef, flags: u32, made: bool, file: MaybeOpen) -> Result<Arc<OpenFile>> {
    let inode = place.inode();
    let kind = inode.kind();
    if flags & O_DIRECTORY != 0 && kind != S_IFDIR {
        return Err(Errno::ENOTDIR);
    }
    if flags & O_PATH != 0 {
        let file = Arc::new(PathFile { inode: inode.clone(), _pin: inode.pin()? });
        return Ok(OpenFile::with_path(file, flags & !O_CLOEXEC, Some(place.clone())));
    }
    let mut access = match flags & O_ACCMODE {
        O_RDONLY => Access::READ,
        O_WRONLY => Access::WRITE,
        _ => Access::READ | Access::WRITE,
    };
    if flags & O_TRUNC != 0 {
        access |= Access::WRITE;
    }
    let writes = access.contains(Access::WRITE);
    match kind {
        S_IFLNK => return Err(Errno::ELOOP),
        S_IFDIR if writes || flags & O_CREAT != 0 => return Err(Errno::EISDIR),
        S_IFCHR | S_IFBLK if place.mount.flags().contains(MountFlags::NODEV) => return Err(Errno::EACCES),
        S_IFREG if writes => place.mount.writable()?,
        _ => {}
    }
    if !made {
        inode.permission(env.who(), access)?;
    }
    if flags & O_NOATIME != 0 {
        let (_, uid, _) = inode.access_info()?;
        if !perm::owns(&env.cred, uid) {
            return Err(Errno::EPERM);
        }
    }
    if writes && kind == S_IFREG {
        env.vfs().texts.may_write(inode)?;
    }
    let file = match (file, kind) {
        (Some(file), _) => file,
        (None, S_IFSOCK) if inode.slot().is_some() => return Err(Errno::ENXIO),
        (None, S_IFIFO) if inode.slot().is_some() => {
            let fifo = inode.slot().and_then(|slot| slot.get_or_init(|| Arc::new(Fifo::default())));
            fifo.ok_or(Errno::ENXIO)?.open(&env.task, flags, inode.clone())?
        }
        (None, _) => inode.clone().open(&Opening { who: env.who(), flags, path: place })?,
    };
    let truncates = flags & O_TRUNC != 0 && !made && kind == S_IFREG;
    if truncates {
        inode.set_attr(&SetAttr { size: Some(0), mtime: Some(SetTime::Now), ..SetAttr::default() })?;
    }
    let kept = (flags & !(O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_CLOEXEC)) | O_LARGEFILE;
    let open = OpenFile::with_path(file, kept, Some(place.clone()));
    inotify::opened(&env.task, place, &open);
    if truncates {
        inotify::event(env.vfs(), place, inotify::IN_MODIFY);
    }
    Ok(open)
}
