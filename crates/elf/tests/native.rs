//! The host's kernel as the oracle: the same files are run on it and judged here.

mod common;

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use common::{BASE, CODE_OFFSET, FILE_SIZE, Outcome, PT_INTERP, Phdr, elf, good, install, put, text};
use coracle_elf::{ArgSpace, ElfError, Image, MAX_ARG_STRLEN, Op, PAGE_SIZE, ProgramPlan, Script};

fn judge(bytes: &[u8], interp: Option<&[u8]>) -> Outcome {
    let verdict = || {
        let head = &bytes[..bytes.len().min(256)];
        let exe = Image::parse(head, bytes)?;
        let interp = match (&exe.interp, interp) {
            (Some(_), Some(bytes)) => Some(Image::parse_interpreter(&bytes[..bytes.len().min(256)], bytes)?),
            // The empty path is the current directory, which is no file.
            (Some(_), None) => return Ok(Outcome::Errno(13)),
            _ => None,
        };
        ProgramPlan::new(&exe, 0x5555_5555_0000, interp.as_ref().map(|image| (image, 0x7fff_0000_0000)))?;
        Ok(Outcome::Output(b"a\0b\0".to_vec()))
    };
    verdict().unwrap_or_else(|error: ElfError| {
        let line = error.to_string();
        assert!(!line.is_empty() && !line.contains('\n'), "{line:?}");
        if error.is_past_no_return() { Outcome::Killed } else { Outcome::Errno(error.errno()) }
    })
}

fn native(dir: &Path, bytes: &[u8]) -> Outcome {
    common::run_native(&install(dir, "program", bytes), "a", &["b"])
}

type Case = (&'static str, Vec<u8>);

fn patched(name: &'static str, at: usize, value: &[u8]) -> Case {
    let mut bytes = good();
    put(&mut bytes, at, value);
    (name, bytes)
}

fn with(name: &'static str, e_type: u16, base: u64, phdrs: &[Phdr]) -> Case {
    (name, elf(e_type, base, phdrs))
}

fn header_cases() -> Vec<Case> {
    let mut big_endian = good();
    put(&mut big_endian, 5, &[2]);
    put(&mut big_endian, 18, &[0, 22]);
    vec![
        ("good", good()),
        ("empty", vec![]),
        ("magic only", b"\x7fELF".to_vec()),
        ("63 bytes", good()[..63].to_vec()),
        ("no phdrs in file", good()[..64].to_vec()),
        ("half a phdr", good()[..100].to_vec()),
        patched("magic", 0, b"\x7fELG"),
        patched("class is not looked at", 4, &[0]),
        patched("32-bit class with a 64-bit rest", 4, &[1]),
        patched("byte order is not looked at", 5, &[9]),
        patched("ident version is not looked at", 6, &[0]),
        patched("version is not looked at", 20, &[0, 0, 0, 0]),
        patched("ehsize is not looked at", 52, &[0, 0]),
        ("s390x", big_endian),
        patched("aarch64", 18, &183u16.to_le_bytes()),
        patched("ET_NONE", 16, &[0]),
        patched("ET_REL", 16, &[1]),
        patched("ET_CORE", 16, &[4]),
        patched("phentsize 0", 54, &[0]),
        patched("phentsize 57", 54, &[57]),
        patched("phnum 0", 56, &[0]),
        patched("phnum 2 with zeros", 56, &[2]),
        patched("phnum 1170 short", 56, &1170u16.to_le_bytes()),
        patched("phnum 1171", 56, &1171u16.to_le_bytes()),
        patched("phoff beyond", 32, &0x10_0000u64.to_le_bytes()),
        patched("phoff negative", 32, &u64::MAX.to_le_bytes()),
        patched("entry in kernel space", 24, &u64::MAX.to_le_bytes()),
        patched("entry at the end of user space", 24, &0x7fff_ffff_f000u64.to_le_bytes()),
        patched("PT_NULL only", 64, &[0]),
    ]
}

fn segment_cases() -> Vec<Case> {
    let text_at = text;
    let load = |change: fn(&mut Phdr)| {
        let mut second = Phdr { flags: 6, vaddr: BASE + 0x1_0000, ..text(BASE) };
        change(&mut second);
        elf(2, BASE, &[text(BASE), second])
    };
    vec![
        ("two segments", load(|_| ())),
        ("filesz > memsz", load(|phdr| phdr.filesz = phdr.memsz + 1)),
        ("memsz huge", load(|phdr| phdr.memsz = u64::MAX)),
        ("vaddr huge", load(|phdr| phdr.vaddr = 0xffff_ffff_ffff_0000)),
        ("vaddr + memsz just beyond", load(|phdr| (phdr.vaddr, phdr.memsz) = (0x7fff_ffff_e000, 0x1001))),
        ("incongruent", load(|phdr| phdr.offset = 8)),
        ("incongruent, nothing from the file", load(|phdr| (phdr.offset, phdr.filesz) = (8, 0))),
        ("offset impossible", load(|phdr| phdr.offset = 0xffff_ffff_ffff_f000)),
        ("offset negative", load(|phdr| phdr.offset = 0x8000_0000_0000_0000)),
        ("offset beyond the file", load(|phdr| phdr.offset = 0x10_0000)),
        ("bss", load(|phdr| phdr.memsz = 0x5000)),
        ("bss in a read-only segment", load(|phdr| (phdr.flags, phdr.memsz) = (4, 0x5000))),
        ("empty segment", load(|phdr| (phdr.filesz, phdr.memsz) = (0, 0))),
        ("align not a power of two", load(|phdr| phdr.align = 3)),
        ("overlap", load(|phdr| (phdr.vaddr, phdr.flags) = (BASE, 5))),
        with("static pie", 3, 0, &[text_at(0)]),
        with("static pie linked high", 3, BASE, &[text_at(BASE)]),
        with("static pie, 2 MiB", 3, 0, &[Phdr { align: 0x20_0000, ..text(0) }]),
        with("pie, huge span", 3, 0, &[text(0), Phdr { vaddr: 0x7fff_fff0_0000, ..text(0) }]),
    ]
}

#[test]
fn programs_are_judged_as_by_linux() {
    let dir = tempfile::tempdir().unwrap();
    let mut wrong = vec![];
    for (name, bytes) in header_cases().into_iter().chain(segment_cases()) {
        let (host, here) = (native(dir.path(), &bytes), judge(&bytes, None));
        if host != here {
            wrong.push(format!("{name}: host {host:?}, here {here:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A program whose interpreter's path lies at 0x100, `path` including its NUL.
fn dynamic(e_type: u16, path: &[u8]) -> Vec<u8> {
    let base = if e_type == 2 { BASE } else { 0 };
    let interp = Phdr { p_type: PT_INTERP, offset: 0x100, filesz: path.len() as u64, ..text(base) };
    let mut bytes = elf(e_type, base, &[interp, text(base)]);
    assert!(path.len() <= CODE_OFFSET - 0x100);
    put(&mut bytes, 0x100, path);
    bytes
}

#[test]
fn interpreters_are_judged_as_by_linux() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ld");
    let mut c_path = path.as_os_str().as_bytes().to_vec();
    c_path.push(0);
    let pie = elf(3, 0, &[text(0)]);
    let mut cases = vec![("pie", pie.clone())];
    for (name, at, value) in [
        ("magic", 0, &b"#"[..]),
        ("machine", 18, &[183, 0]),
        ("type", 16, &[1, 0]),
        ("phentsize", 54, &[0, 0]),
        ("phnum", 56, &[0, 0]),
        ("phoff", 33, &[1, 1, 1]),
        ("entry", 24, &[0xff; 8]),
        ("no load", 64, &[0]),
        ("filesz > memsz", 64 + 32, &[0xff]),
        ("vaddr", 64 + 16, &[0, 0, 0, 0, 0, 0, 0, 0xff]),
    ] {
        let mut bytes = pie.clone();
        put(&mut bytes, at, value);
        cases.push((name, bytes));
    }
    cases.push(("fixed", elf(2, 2 * BASE, &[text(2 * BASE)])));
    cases.push(("short", pie[..63].to_vec()));
    cases.push(("empty", vec![]));
    cases.push(("script", [b"#!/bin/sh\n".to_vec(), vec![b'#'; 100]].concat()));

    let mut wrong = vec![];
    for e_type in [2, 3] {
        let program = dynamic(e_type, &c_path);
        for (name, interp) in &cases {
            install(dir.path(), "ld", interp);
            let (host, here) = (native(dir.path(), &program), judge(&program, Some(interp)));
            if host != here {
                wrong.push(format!("{e_type} {name}: host {host:?}, here {here:?}"));
            }
        }
    }
    install(dir.path(), "ld", &pie);
    let mut odd = vec![
        ("nul inside", dynamic(2, &[&c_path[..], b"junk\0"].concat())),
        ("no nul", dynamic(2, &c_path[..c_path.len() - 1])),
        ("one byte", dynamic(2, b"\0")),
        ("empty path", dynamic(2, b"\0\0")),
    ];
    for (name, field, value) in [
        ("too long", 32, 4097u64),
        ("beyond the end", 8, 0x10_0000),
        ("partly beyond the end", 8, FILE_SIZE as u64 - 1),
        ("impossible", 8, u64::MAX),
        ("wraps", 8, i64::MAX as u64),
    ] {
        let mut bytes = dynamic(2, &c_path);
        put(&mut bytes, 64 + field, &value.to_le_bytes());
        odd.push((name, bytes));
    }
    for (name, program) in odd {
        let interp = Some(&pie[..]).filter(|_| name != "empty path");
        let (host, here) = (native(dir.path(), &program), judge(&program, interp));
        if host != here {
            wrong.push(format!("{name}: host {host:?}, here {here:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn scripts_are_read_as_by_linux() {
    // A short directory: paths must stay below Linux's 256 bytes even after padding.
    let dir = tempfile::Builder::new().prefix("s").tempdir_in("/tmp").unwrap();
    let dump = install(dir.path(), "d", &good()).into_os_string().into_string().unwrap();
    let (blank, x) = (" ".repeat(600), "x".repeat(600));
    let room = |len: usize, rest: usize| len - rest - dump.len();
    let mut cases: Vec<String> = [
        "#!@\n",
        "#!@",
        "#! \t @\t \n",
        "#!@ one\n",
        "#!@ \tone two\t three  \t\n",
        "#!@ one",
        "#!@ ",
        "#!@ \n",
        "#!@\0junk\n",
        "#!@ one\0two\n",
        "#!@ \0two\n",
        "#!@\r\n",
        "#!",
        "#!\n",
        "#! \n",
        "#!\0",
        "#",
        "\n#!@",
        " #!@",
        "#!/nonexistent/x\n",
    ]
    .map(str::to_owned)
    .to_vec();
    cases.extend([252, 253, 254, 255, 600].map(|count| format!("#!{}", &blank[..count])));
    cases.extend([format!("#!@ {x}\n"), format!("#!@{blank}x\n")]);
    for len in 250..260 {
        // The path, or the argument, ends at `len`; then nothing, a newline, a blank.
        for end in ["", "\n", " ", " x", " x\n", "\0"] {
            cases.push(format!("#!{}@{end}", "/".repeat(room(len, 2))));
            cases.push(format!("#!@ {}{end}", &x[..room(len, 3)]));
            cases.push(format!("#!@{}{end}", &blank[..room(len, 2)]));
        }
    }
    let mut wrong = vec![];
    for text in cases {
        let bytes = text.replace('@', &dump).into_bytes();
        let path = install(dir.path(), "script", &bytes);
        let host = common::run_native(&path, "a", &["b"]);
        let argv = [b"a".to_vec(), b"b".to_vec()];
        let here = match Script::parse(&bytes) {
            Err(error) => Outcome::Errno(error.errno()),
            // The current directory, which is no file.
            Ok(script) if script.interp.is_empty() => Outcome::Errno(13),
            Ok(script) if !script.interp.ends_with(dump.as_bytes()) => Outcome::Errno(2),
            Ok(script) => {
                let argv = script.argv(path.as_os_str().as_bytes(), &argv);
                Outcome::Output(argv.into_iter().flat_map(|word| [word, vec![0]].concat()).collect())
            }
        };
        if host != here {
            wrong.push(format!("{:?}: host {host:?}, here {here:?}", String::from_utf8_lossy(&bytes)));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn real_programs_are_planned_soundly() {
    let mut seen = 0;
    for path in ["/bin/true", "/bin/sh", "/usr/bin/python3.11", "/usr/bin/perl", "/lib64/ld-linux-x86-64.so.2"] {
        let Ok(bytes) = fs::read(path) else { continue };
        let image = Image::parse(&bytes[..PAGE_SIZE as usize], &bytes[..]).unwrap();
        assert!(!image.is_truncated(bytes.len() as u64), "{path}");
        assert!(image.is_truncated(bytes.len() as u64 / 4), "{path}");
        assert!(!image.exec_stack, "{path}");
        let plan = image.plan(0x5555_5555_4000).unwrap();
        assert!(plan.ops.iter().any(|op| matches!(op, Op::MapFile { prot: 5, .. })), "{path}");
        assert!(plan.code.contains(&plan.entry), "{path}");
        assert_eq!(plan.phdr, plan.bias + if plan.bias == 0 { BASE + 64 } else { 64 }, "{path}");
        if path.contains("ld-linux") {
            assert_eq!(image.interp, None);
        } else {
            assert_eq!(image.interp.as_deref(), Some(&b"/lib64/ld-linux-x86-64.so.2"[..]), "{path}");
        }
        seen += 1;
    }
    assert!(seen >= 3);
}

/// Soft `RLIMIT_STACK` of this process, which its children inherit.
fn stack_limit() -> u64 {
    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max stack size")).unwrap();
    line.split_whitespace().nth(3).unwrap().parse().unwrap_or(u64::MAX)
}

#[test]
fn arguments_are_limited_as_by_linux() {
    let dir = tempfile::tempdir().unwrap();
    let path = install(dir.path(), "program", &good());
    let run = |args: &[&str]| common::run_native(&path, "a", args);
    // Fill the budget to the last byte, then go one further.
    let long = "x".repeat(100_000);
    let count = 1 + (6 << 20) / long.len();
    let fill = |count: usize| {
        let mut space = ArgSpace::new(2 + count, 1, stack_limit()).ok()?;
        let strings = [path.as_os_str().len(), "A=B".len(), "a".len()];
        let long = std::iter::repeat_n(long.len(), count);
        strings.into_iter().chain(long).try_for_each(|len| space.charge(len)).ok()?;
        usize::try_from(space.left()).ok()?.checked_sub(1).filter(|rest| *rest < 100_000)
    };
    let (count, rest) = (1..count).find_map(|count| Some((count, fill(count)?))).unwrap();
    let mut args = vec![long.as_str(); count];
    args.push(&long[..rest]);
    assert!(matches!(run(&args), Outcome::Output(_)));
    args.pop();
    let more = "x".repeat(rest + 1);
    args.push(&more);
    assert_eq!(run(&args), Outcome::Errno(7));

    let longest = "x".repeat(MAX_ARG_STRLEN);
    assert!(matches!(run(&[&longest[1..]]), Outcome::Output(_)));
    assert_eq!(run(&[&longest]), Outcome::Errno(7));
}

#[test]
fn messages_say_what_is_wrong() {
    let say = |change: &[(usize, &[u8])]| {
        let mut bytes = good();
        change.iter().for_each(|(at, value)| put(&mut bytes, *at, value));
        Image::parse(&bytes, &bytes[..]).unwrap_err().to_string()
    };
    assert_eq!(say(&[(0, b"MZ")]), "not an ELF file");
    assert_eq!(say(&[(18, &[183])]), "built for aarch64, this host is x86-64");
    assert_eq!(say(&[(4, &[1]), (18, &[3])]), "built for i386, this host is x86-64");
    assert_eq!(say(&[(4, &[2, 2]), (18, &[0, 22])]), "built for s390x, this host is x86-64");
    assert_eq!(say(&[(4, &[1]), (54, &[0])]), "built for x32 (x86-64 with 32-bit pointers), this host is x86-64");
    assert_eq!(say(&[(16, &[1])]), "not a program: this ELF file is an object file, yet to be linked");
    let good = good();
    let cut = Image::parse(&good[..40], &good[..40]).unwrap_err();
    assert_eq!(cut.to_string(), "truncated: the file ends inside its ELF header (40 of 64 bytes)");
    let inner = Image::parse_interpreter(b"#!/bin/sh\n", &b"#!/bin/sh\n"[..]).unwrap_err();
    assert_eq!((inner.to_string().starts_with("bad interpreter: truncated"), inner.errno()), (true, 5));
}
