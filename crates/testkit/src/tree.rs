//! A directory tree as plain data, so that the trees that two runs left behind can be compared.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    Directory,
    File { links: u64, content: Vec<u8> },
    Symlink(String),
    Other(&'static str),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    node: Node,
    mode: u32,
    owner: (u32, u32),
}

/// Relative path to entry. The root itself is the entry with the empty path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tree(BTreeMap<String, Entry>);

impl Tree {
    pub fn read(root: &Path) -> io::Result<Tree> {
        let mut tree = Tree::default();
        tree.add(root, String::new())?;
        Ok(tree)
    }

    fn add(&mut self, path: &Path, name: String) -> io::Result<()> {
        let meta = fs::symlink_metadata(path)?;
        let kind = meta.file_type();
        let node = if kind.is_dir() {
            for entry in fs::read_dir(path)? {
                let entry = entry?;
                let leaf = entry.file_name().to_string_lossy().into_owned();
                let child = match name.as_str() {
                    "" => leaf,
                    parent => format!("{parent}/{leaf}"),
                };
                self.add(&entry.path(), child)?;
            }
            Node::Directory
        } else if kind.is_symlink() {
            Node::Symlink(fs::read_link(path)?.to_string_lossy().into_owned())
        } else if kind.is_file() {
            Node::File { links: meta.nlink(), content: fs::read(path)? }
        } else if kind.is_fifo() {
            Node::Other("FIFO")
        } else if kind.is_socket() {
            Node::Other("socket")
        } else {
            Node::Other("device")
        };
        let entry = Entry { node, mode: meta.mode() & 0o7777, owner: (meta.uid(), meta.gid()) };
        self.0.insert(name, entry);
        Ok(())
    }

    /// Drops what a case allows to differ: contents of the named files, all below a name ending in `/`.
    pub fn forget(&mut self, may_differ: &[String]) {
        for pattern in may_differ {
            if pattern.ends_with('/') {
                self.0.retain(|path, _| !path.starts_with(pattern.as_str()));
            } else if let Some(entry) = self.0.get_mut(pattern)
                && let Node::File { content, .. } = &mut entry.node
            {
                content.clear();
            }
        }
    }

    /// One line for each entry that differs; empty if the trees are the same.
    pub fn diff(&self, other: &Tree, names: (&str, &str)) -> String {
        let mut out = String::new();
        for (path, a) in &self.0 {
            match other.0.get(path) {
                None => {
                    let _ = writeln!(out, "  {path}: {} has it, {} does not", names.0, names.1);
                }
                Some(b) if a != b => {
                    let _ = writeln!(out, "  {path}: {}", difference(a, b, names));
                }
                Some(_) => {}
            }
        }
        for path in other.0.keys().filter(|path| !self.0.contains_key(*path)) {
            let _ = writeln!(out, "  {path}: {} has it, {} does not", names.1, names.0);
        }
        out
    }
}

fn difference(a: &Entry, b: &Entry, names: (&str, &str)) -> String {
    let both = |x: String, y: String| format!("{} {x}, {} {y}", names.0, names.1);
    if a.mode != b.mode {
        return both(format!("mode {:o}", a.mode), format!("mode {:o}", b.mode));
    }
    if a.owner != b.owner {
        return both(format!("owner {:?}", a.owner), format!("owner {:?}", b.owner));
    }
    match (&a.node, &b.node) {
        (Node::File { links: x, .. }, Node::File { links: y, .. }) if x != y => {
            both(format!("{x} links"), format!("{y} links"))
        }
        (Node::File { content: x, .. }, Node::File { content: y, .. }) => {
            let at = x.iter().zip(y).take_while(|(p, q)| p == q).count();
            format!("contents differ from byte {at}: {}", both(window(x, at), window(y, at)))
        }
        (x, y) => both(kind(x), kind(y)),
    }
}

fn kind(node: &Node) -> String {
    match node {
        Node::Directory => "a directory".to_owned(),
        Node::File { .. } => "a file".to_owned(),
        Node::Symlink(to) => format!("a symlink to {to}"),
        Node::Other(what) => format!("a {what}"),
    }
}

fn window(bytes: &[u8], at: usize) -> String {
    let end = bytes.len().min(at + 40);
    let part = bytes.get(at..end).unwrap_or_default();
    format!("({} bytes) \"{}\"", bytes.len(), part.escape_ascii())
}
