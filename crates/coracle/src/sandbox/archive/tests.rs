use std::io::Write;

use coracle_kernel::abi::types::Stat;
use coracle_kernel::fs::Who;
use coracle_kernel::mem::VecSink;
use coracle_kernel::task::Cred;
use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, Header};

use super::*;

const MIB: u64 = 1 << 20;

fn file(path: &str, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_path(path).unwrap();
    header.set_size(size);
    header.set_mode(0o640);
    header.set_mtime(1234);
    header.set_uid(7);
    header.set_gid(8);
    header.set_cksum();
    header
}

fn of_kind(kind: EntryType, path: &str, link: &str) -> Header {
    let mut header = file(path, 0);
    header.set_entry_type(kind);
    if !link.is_empty() {
        header.set_link_name(link).unwrap();
    }
    header.set_cksum();
    header
}

/// Headers and what follows each, as they come, gzip.
fn packed(parts: &[(&Header, &[u8])]) -> tempfile::NamedTempFile {
    packed_by(|out| {
        for (header, contents) in parts {
            out.write_all(header.as_bytes())?;
            out.write_all(contents)?;
            out.write_all(&vec![0; contents.len().next_multiple_of(512) - contents.len()])?;
        }
        Ok(())
    })
}

fn packed_by(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> tempfile::NamedTempFile {
    let archive = tempfile::NamedTempFile::new().unwrap();
    let mut out = GzEncoder::new(archive.as_file(), Compression::fast());
    write(&mut out).unwrap();
    out.finish().unwrap();
    archive
}

fn zeros(out: &mut dyn Write, count: u64) -> io::Result<()> {
    let block = vec![0; 1 << 20];
    for _ in 0..count / MIB {
        out.write_all(&block)?;
    }
    Ok(())
}

type Unpacked = Result<(Arc<dyn FileSystem>, u64), String>;

fn unpacked(archive: &tempfile::NamedTempFile, most: u64) -> Unpacked {
    let budget = Budget::new(u64::MAX);
    let limit = Limit { bytes: most, of: "--disk" };
    let fs = unpack(archive.path(), &budget, limit);
    // Whatever became of it, no more was ever taken, but for the step that went beyond.
    assert!(budget.state().1 <= most + 2 * MIB, "{} bytes", budget.state().1);
    fs.map(|fs| (fs, budget.state().1)).map_err(|failure| failure.to_string())
}

fn find(fs: &Arc<dyn FileSystem>, path: &str) -> Result<Arc<dyn Inode>, Errno> {
    path.split('/').try_fold(fs.root(), |at, name| at.lookup(name.as_bytes()))
}

fn contents(fs: &Arc<dyn FileSystem>, path: &str) -> Vec<u8> {
    let node = downcast(&find(fs, path).unwrap()).unwrap();
    let mut sink = VecSink { bytes: Vec::new(), limit: 1 << 20 };
    node.data().unwrap().read(0, &mut sink).unwrap();
    sink.bytes
}

const LIMIT: &str = "it does not fit: it unpacks to more than 16777216 bytes (--disk)";

fn does_not_fit(archive: &tempfile::NamedTempFile) {
    let begun = Instant::now();
    assert_eq!(unpacked(archive, 16 * MIB).err().as_deref(), Some(LIMIT));
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[test]
fn what_is_in_it_is_there() {
    let long = format!("long/{}/{}", "d".repeat(200), "f".repeat(255));
    let archive = packed_by(|out| {
        let mut builder = Builder::new(out);
        builder.append_data(&mut file("x", 5), "a/file", &b"hello"[..])?;
        builder.append_data(&mut file("x", 3), &long, &b"far"[..])?;
        builder.append(&of_kind(EntryType::Directory, "empty", ""), io::empty())?;
        builder.append(&of_kind(EntryType::Symlink, "link", "a/file"), io::empty())?;
        builder.append(&of_kind(EntryType::Link, "b", "./a/file"), io::empty())?;
        builder.append(&of_kind(EntryType::Char, "dev/null", ""), io::empty())?;
        builder.append_data(&mut file("x", 4), "a/late", &b"late"[..])?;
        // The last of its name counts, whatever the first was.
        builder.append(&of_kind(EntryType::Symlink, "a/late", "nowhere"), io::empty())?;
        builder.finish()
    });
    let (fs, _) = unpacked(&archive, MIB).unwrap();
    assert_eq!((contents(&fs, "a/file"), contents(&fs, &long)), (b"hello".to_vec(), b"far".to_vec()));
    let Stat { st_mode, st_uid, st_gid, st_mtime, st_nlink, st_ino, .. } =
        find(&fs, "a/file").unwrap().stat().unwrap();
    assert_eq!((st_mode, st_uid, st_gid, st_mtime, st_nlink), (S_IFREG | 0o640, 7, 8, 1234, 2));
    assert_eq!(find(&fs, "b").unwrap().stat().unwrap().st_ino, st_ino);
    let cred = Cred::new(0, 0, Vec::new());
    let read = |path| find(&fs, path).unwrap().readlink(Who { cred: &cred, task: None }).unwrap();
    assert_eq!((read("link"), read("a/late")), (b"a/file".to_vec(), b"nowhere".to_vec()));
    assert!(find(&fs, "empty").unwrap().is_dir());
    assert_eq!(find(&fs, "dev/null").err(), Some(Errno::ENOENT));
}

#[test]
fn extensions_of_the_pax_format_count() {
    // Each begins with its own length.
    let record = |text: &&str| {
        let told = |len: &usize| format!("{len} {text}\n");
        let len = (text.len()..).find(|len| told(len).len() == *len).unwrap();
        told(&len).into_bytes()
    };
    let all = ["path=some/where/f", "uid=70000", "mtime=99.5", "size=4", "SCHILY.xattr.user.x=a\nb"];
    let records: Vec<u8> = all.iter().flat_map(record).collect();
    let mut pax = file("pax", records.len() as u64);
    pax.set_entry_type(EntryType::XHeader);
    pax.set_cksum();
    let archive = packed(&[(&pax, &records), (&file("short", 0), b"four"), (&file("next", 1), b"n")]);
    let (fs, _) = unpacked(&archive, MIB).unwrap();
    let stat = find(&fs, "some/where/f").unwrap().stat().unwrap();
    assert_eq!((stat.st_size, stat.st_uid, stat.st_mtime), (4, 70_000, 99));
    assert_eq!((contents(&fs, "some/where/f"), contents(&fs, "next")), (b"four".to_vec(), b"n".to_vec()));
}

/// A sparse file whose pieces are these, in the format of GNU tar.
fn sparse(pieces: &[(u64, u64)], real: u64) -> (Header, Vec<u8>) {
    let mut header = file("sparse", pieces.iter().map(|(_, len)| len).sum());
    header.set_entry_type(EntryType::GNUSparse);
    let octal = |number: u64| format!("{number:011o}\0").into_bytes();
    let numbers = |piece: &(u64, u64)| [octal(piece.0), octal(piece.1)].concat();
    let (first, more) = pieces.split_at(pieces.len().min(4));
    let gnu = header.as_gnu_mut().unwrap();
    gnu.realsize.copy_from_slice(&octal(real));
    for (place, piece) in gnu.sparse.iter_mut().zip(first) {
        place.offset.copy_from_slice(&octal(piece.0));
        place.numbytes.copy_from_slice(&octal(piece.1));
    }
    gnu.isextended = [u8::from(!more.is_empty())];
    header.set_cksum();
    let mut map = Vec::new();
    let count = more.chunks(21).count();
    for (number, chunk) in more.chunks(21).enumerate() {
        let mut block: Vec<u8> = chunk.iter().flat_map(numbers).collect();
        block.resize(504, 0);
        block.push(u8::from(number + 1 < count));
        block.resize(512, 0);
        map.extend(block);
    }
    (header, map)
}

#[test]
fn sparse_files_take_what_they_contain() {
    let pieces: Vec<_> = (0..50).map(|n| (n * 100 * MIB, 512)).collect();
    let (header, map) = sparse(&pieces, 6000 * MIB);
    let data = [map, vec![1; 50 * 512]].concat();
    let archive = packed(&[(&header, &data), (&file("next", 1), b"n")]);
    let (fs, used) = unpacked(&archive, MIB).unwrap();
    let node = find(&fs, "sparse").unwrap();
    assert_eq!(node.stat().unwrap().st_size as u64, 6000 * MIB);
    assert!(used < 300_000, "{used}");
    assert_eq!(
        (contents(&fs, "next"), contents(&fs, "sparse")[511..514].to_vec()),
        (b"n".to_vec(), vec![1, 0, 0])
    );
}

#[test]
fn contents_that_do_not_fit() {
    let archive = packed_by(|out| {
        out.write_all(file("zeros", 1024 * MIB).as_bytes())?;
        zeros(out, 1024 * MIB)
    });
    assert!(archive.as_file().metadata().unwrap().len() < 8 * MIB);
    does_not_fit(&archive);
}

#[test]
fn names_that_do_not_fit() {
    for kind in [EntryType::Regular, EntryType::Directory, EntryType::Symlink] {
        let archive = packed_by(|out| {
            (0..100_000).try_for_each(|n| out.write_all(of_kind(kind, &format!("n{n}"), "x").as_bytes()))
        });
        does_not_fit(&archive);
    }
    // Names of one file, and directories that nobody names by themselves.
    let archive = packed_by(|out| {
        out.write_all(file("f", 0).as_bytes())?;
        (0..100_000).try_for_each(|n| out.write_all(of_kind(EntryType::Link, &format!("n{n}"), "f").as_bytes()))
    });
    does_not_fit(&archive);
    let archive = packed_by(|out| {
        (0..4000).try_for_each(|n| out.write_all(file(&format!("{n}/{}", "d/".repeat(40) + "f"), 0).as_bytes()))
    });
    does_not_fit(&archive);
}

#[test]
fn what_is_replaced_for_ever_or_says_nothing() {
    let archive = packed_by(|out| {
        for _ in 0..300 {
            out.write_all(file("again", MIB).as_bytes())?;
            zeros(out, MIB)?;
        }
        Ok(())
    });
    does_not_fit(&archive);
    let archive = packed_by(|out| {
        let device = of_kind(EntryType::Char, "d", "");
        (0..400_000).try_for_each(|_| out.write_all(device.as_bytes()))
    });
    does_not_fit(&archive);
    let archive = packed_by(|out| {
        let mut global = file("g", 1024 * MIB);
        global.set_entry_type(EntryType::XGlobalHeader);
        global.set_cksum();
        out.write_all(global.as_bytes())?;
        zeros(out, 1024 * MIB)
    });
    does_not_fit(&archive);
}

#[test]
fn extensions_have_bounds() {
    for (kind, told) in [
        (EntryType::GNULongName, "a path in it is longer than 4096 bytes"),
        (EntryType::GNULongLink, "the target of a link in it is longer than 4096 bytes"),
        (EntryType::XHeader, "an extension header in it is longer than 1048576 bytes"),
    ] {
        let mut header = file("x", 1 << 33);
        header.set_entry_type(kind);
        header.set_cksum();
        let archive = packed_by(|out| {
            out.write_all(header.as_bytes())?;
            zeros(out, 256 * MIB)
        });
        assert_eq!(unpacked(&archive, MIB).err().as_deref(), Some(told));
    }
    let pieces: Vec<_> = (0..300_000).map(|n| (n * 512, 0)).collect();
    let (header, map) = sparse(&pieces, 1 << 30);
    let told = "a sparse file in it has more than 262144 pieces";
    assert_eq!(unpacked(&packed(&[(&header, &map)]), MIB).err().as_deref(), Some(told));
}

#[test]
fn nothing_leads_out_or_round() {
    let told = |parts: &[(&Header, &[u8])]| unpacked(&packed(parts), MIB).err();
    // The library refuses to make one with dots.
    let mut out = file("xx/f", 0);
    out.as_old_mut().name[..2].copy_from_slice(b"..");
    out.set_cksum();
    assert_eq!(told(&[(&out, b"")]).as_deref(), Some("a path in it leads out of it"));
    let directory = of_kind(EntryType::Directory, "d", "");
    let round = of_kind(EntryType::Link, "d/d", "d");
    assert!(told(&[(&directory, b""), (&round, b"")]).unwrap().starts_with("d/d in it cannot be made: EPERM"));
    let away = of_kind(EntryType::Symlink, "l", "/");
    assert!(told(&[(&away, b""), (&file("l/f", 0), b"")]).unwrap().contains("ENOTDIR"));
    let itself = of_kind(EntryType::Link, "f", "f");
    assert!(told(&[(&itself, b"")]).unwrap().contains("ENOENT"));
    assert_eq!(told(&[(&file("f", 0), b""), (&itself, b"")]), None);
    let escape = file("\u{1b}[2Jd/f", 0);
    let inside = file("\u{1b}[2Jd/f/g", 0);
    let said = told(&[(&escape, b""), (&inside, b"")]).unwrap();
    assert!(said.starts_with("\\033[2Jd/f/g in it"), "{said}");
}

#[test]
fn names_have_the_lengths_of_names() {
    let archive = packed_by(|out| {
        let mut builder = Builder::new(out);
        builder.append_data(&mut file("x", 0), "n".repeat(256), io::empty())?;
        builder.finish()
    });
    assert!(unpacked(&archive, MIB).err().unwrap().ends_with("cannot be made: ENAMETOOLONG"));
}

#[test]
fn what_is_no_archive_is_called_so() {
    for bytes in [&b""[..], b"short", &[7; 4096]] {
        let archive = tempfile::NamedTempFile::new().unwrap();
        archive.as_file().write_all(bytes).unwrap();
        let told = "it is not a tar file; give a directory or a tar file, plain or gzip";
        assert_eq!(unpacked(&archive, MIB).err().as_deref(), Some(told));
    }
    let early = packed_by(|out| out.write_all(file("f", MIB).as_bytes()));
    let told = unpacked(&early, 16 * MIB).err().unwrap();
    assert!(told.contains("ends early"), "{told}");
    let ended = packed_by(|out| {
        out.write_all(file("f", 0).as_bytes())?;
        out.write_all(&[0; 512])?;
        out.write_all(&[1; 512])
    });
    assert_eq!(unpacked(&ended, MIB).map(|_| ()), Ok(()), "a block of zeros ends it");
    let broken = packed_by(|out| {
        out.write_all(file("f", 0).as_bytes())?;
        out.write_all(&[1; 512])
    });
    assert_eq!(unpacked(&broken, MIB).err().as_deref(), Some("it is no tar file from some place on (a header)"));
}

#[test]
fn long_work_is_told_of_on_a_terminal_and_leaves_nothing_there() {
    let mut told = Vec::new();
    let mut watched = Watched::new(io::repeat(0), Some(&mut told), Path::new("/x\n.tar"));
    let mut buffer = vec![0; MIB as usize];
    watched.read_exact(&mut buffer).unwrap();
    assert!(!watched.told);
    watched.next = Instant::now();
    watched.read_exact(&mut buffer).unwrap();
    watched.read_exact(&mut buffer).unwrap();
    drop(watched);
    let expected = "\r\u{1b}[Kcoracle: unpacking /x\\n.tar: 2 MiB\r\u{1b}[K";
    assert_eq!(String::from_utf8(told).unwrap(), expected);
    let mut silent = Watched::new(io::repeat(0), None::<Vec<u8>>, Path::new("x"));
    silent.next = Instant::now();
    silent.read_exact(&mut buffer).unwrap();
    assert!(!silent.told);
}
