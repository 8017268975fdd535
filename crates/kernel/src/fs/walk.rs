//! From a path to a place (fs/namei.c).

use bitflags::bitflags;

use super::{Access, Inode, PathRef, Target, Vfs, Who};
use crate::mem::PATH_MAX;
use crate::{Errno, Result};

/// Most symbolic links that one walk follows (`MAXSYMLINKS`).
const MAX_LINKS: u32 = 40;
/// Longest component (`NAME_MAX`).
pub const NAME_MAX: usize = 255;

bitflags! {
    /// How to walk; the `RESOLVE_*` flags have the values of `openat2(2)`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Resolve: u32 {
        const NO_XDEV = 0x01;
        const NO_MAGICLINKS = 0x02;
        const NO_SYMLINKS = 0x04;
        const BENEATH = 0x08;
        const IN_ROOT = 0x10;
        const CACHED = 0x20;
        /// Follow a symbolic link at the end.
        const FOLLOW = 0x100;
        /// Stop before the last component: only its directory must exist.
        const PARENT = 0x200;
        /// The last component may be missing.
        const MAYBE = 0x400;
        /// An empty path means the place it starts from (`AT_EMPTY_PATH`).
        const EMPTY = 0x800;
    }
}

/// The kind of a path's last component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Last {
    /// A name in `parent`.
    Name(Vec<u8>),
    Dot,
    DotDot,
    /// There is none: the path is `/` or empty.
    Root,
}

/// What a walk found.
#[derive(Clone, Debug)]
pub struct Walked {
    /// The directory of the last component.
    pub parent: PathRef,
    pub last: Last,
    /// The path ends in a slash, so a directory is meant.
    pub slash: bool,
    /// What is there; `None` if it was not asked for or does not exist.
    pub found: Option<PathRef>,
}

/// One path walk: on whose behalf, from where.
pub struct Walk<'a> {
    pub vfs: &'a Vfs,
    pub who: Who<'a>,
    /// What `/` means.
    pub root: &'a PathRef,
    /// What a relative path starts from.
    pub base: &'a PathRef,
}

/// A path that is being consumed: the caller's, and the texts of the links met in it.
struct Rest<'p> {
    outer: &'p [u8],
    links: Vec<(Vec<u8>, usize)>,
}

impl Rest<'_> {
    /// The next component, and whether it is the last of all. `None` at the end. Empty components are skipped.
    fn next(&mut self, name: &mut Vec<u8>) -> Option<bool> {
        name.clear();
        while let Some((text, at)) = self.links.last_mut() {
            let rest = text.get(*at..).unwrap_or_default();
            match split(rest) {
                Some((component, used)) => {
                    name.extend_from_slice(component);
                    *at += used;
                    break;
                }
                None => _ = self.links.pop(),
            }
        }
        if self.links.is_empty() && name.is_empty() {
            let (component, used) = split(self.outer)?;
            name.extend_from_slice(component);
            self.outer = self.outer.get(used..).unwrap_or_default();
        }
        Some(self.finished())
    }

    /// Nothing but slashes is left.
    fn finished(&self) -> bool {
        let links = self.links.iter().map(|(text, at)| text.get(*at..).unwrap_or_default());
        links.chain([self.outer]).flatten().all(|byte| *byte == b'/')
    }

    /// A slash follows.
    fn slash(&self) -> bool {
        let links = self.links.iter().map(|(text, at)| text.get(*at..).unwrap_or_default());
        links.chain([self.outer]).any(|rest| !rest.is_empty())
    }
}

/// The first component, and how many bytes up to its end.
fn split(path: &[u8]) -> Option<(&[u8], usize)> {
    let start = path.iter().position(|byte| *byte != b'/')?;
    let rest = path.get(start..)?;
    let len = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
    Some((rest.get(..len)?, start + len))
}

impl Walk<'_> {
    /// The place that `path` names, following a link at the end or not.
    pub fn find(&self, path: &[u8], how: Resolve) -> Result<PathRef> {
        self.walk(path, how)?.found.ok_or(Errno::ENOENT)
    }

    /// The directory of the last component of `path`, for calls that make or remove names.
    pub fn parent(&self, path: &[u8]) -> Result<Walked> {
        self.walk(path, Resolve::PARENT)
    }

    /// The general walk.
    pub fn walk(&self, path: &[u8], how: Resolve) -> Result<Walked> {
        if path.is_empty() {
            return if how.contains(Resolve::EMPTY) {
                let found = Some(self.base.clone());
                Ok(Walked { parent: self.base.clone(), last: Last::Root, slash: false, found })
            } else {
                Err(Errno::ENOENT)
            };
        }
        if path.len() >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let scoped = how.intersects(Resolve::BENEATH | Resolve::IN_ROOT);
        let top = if scoped { self.base } else { self.root };
        let mut at = self.base.clone();
        if path.first() == Some(&b'/') {
            if how.contains(Resolve::BENEATH) {
                return Err(Errno::EXDEV);
            }
            self.same_mount(how, &at, top)?;
            at = top.clone();
        }
        let mut rest = Rest { outer: path, links: Vec::new() };
        let mut name = Vec::with_capacity(64);
        let mut links = 0;
        loop {
            let Some(last) = rest.next(&mut name) else {
                // Only slashes, or a link whose text was only slashes.
                return Ok(Walked { parent: at.clone(), last: Last::Root, slash: true, found: Some(at) });
            };
            if !at.inode().is_dir() {
                return Err(Errno::ENOTDIR);
            }
            at.inode().permission(self.who, Access::EXEC)?;
            let slash = last && rest.slash();
            match name.as_slice() {
                b"." | b".." => {
                    let kind = if name.len() == 1 { Last::Dot } else { Last::DotDot };
                    let parent = at.clone();
                    if kind == Last::DotDot {
                        at = self.up(&at, top, how)?;
                    }
                    if last {
                        let found = (!how.contains(Resolve::PARENT)).then_some(at);
                        return Ok(Walked { parent, last: kind, slash, found });
                    }
                    continue;
                }
                name if name.len() > NAME_MAX => return Err(Errno::ENAMETOOLONG),
                _ => {}
            }
            if last && how.contains(Resolve::PARENT) {
                return Ok(Walked { parent: at, last: Last::Name(name), slash, found: None });
            }
            let child = match self.step(&at, &name, last) {
                Err(Errno::ENOENT) if last && how.contains(Resolve::MAYBE) => {
                    return Ok(Walked { parent: at, last: Last::Name(name), slash, found: None });
                }
                other => other?,
            };
            if child.inode().is_link() && (!last || slash || how.contains(Resolve::FOLLOW)) {
                links += 1;
                if links > MAX_LINKS || how.contains(Resolve::NO_SYMLINKS) {
                    return Err(Errno::ELOOP);
                }
                match child.inode().follow(self.who)? {
                    Target::Text(text) => {
                        if text.is_empty() {
                            return Err(Errno::ENOENT);
                        }
                        if text.first() == Some(&b'/') {
                            if how.contains(Resolve::BENEATH) {
                                return Err(Errno::EXDEV);
                            }
                            self.same_mount(how, &at, top)?;
                            at = top.clone();
                        }
                        rest.links.push((text, 0));
                    }
                    Target::Place(place) => {
                        // Magic links leave any scope (nd_jump_link).
                        if how.contains(Resolve::NO_MAGICLINKS) {
                            return Err(Errno::ELOOP);
                        }
                        if scoped {
                            return Err(Errno::EXDEV);
                        }
                        self.same_mount(how, &at, &place)?;
                        if last {
                            if slash && !place.inode().is_dir() {
                                return Err(Errno::ENOTDIR);
                            }
                            return Ok(Walked { parent: at, last: Last::Name(name), slash, found: Some(place) });
                        }
                        at = place;
                    }
                }
                continue;
            }
            self.same_mount(how, &at, &child)?;
            if last {
                if slash && !child.inode().is_dir() {
                    return Err(Errno::ENOTDIR);
                }
                return Ok(Walked { parent: at, last: Last::Name(name), slash, found: Some(child) });
            }
            at = child;
        }
    }

    /// One component down, across mounts.
    pub fn step(&self, at: &PathRef, name: &[u8], last: bool) -> Result<PathRef> {
        let only = |inode: &dyn Inode| self.vfs.mounts.only(&at.mount, inode);
        let dentry = at.dentry.child(name, last, at.mount.volatile, only)?;
        Ok(self.vfs.mounts.cross(PathRef { mount: at.mount.clone(), dentry }))
    }

    /// `..`: never above `top`.
    fn up(&self, at: &PathRef, top: &PathRef, how: Resolve) -> Result<PathRef> {
        if at.same(top) {
            return if how.contains(Resolve::BENEATH) { Err(Errno::EXDEV) } else { Ok(at.clone()) };
        }
        let parent = self.vfs.mounts.cross(at.parent(top));
        self.same_mount(how, at, &parent)?;
        Ok(parent)
    }

    fn same_mount(&self, how: Resolve, a: &PathRef, b: &PathRef) -> Result<()> {
        if how.contains(Resolve::NO_XDEV) && a.mount.id != b.mount.id { Err(Errno::EXDEV) } else { Ok(()) }
    }
}

/// The inode at a place as a directory, or `ENOTDIR`.
pub fn directory(place: &PathRef) -> Result<&std::sync::Arc<dyn Inode>> {
    let inode = place.inode();
    if inode.is_dir() { Ok(inode) } else { Err(Errno::ENOTDIR) }
}

#[cfg(test)]
mod tests;
