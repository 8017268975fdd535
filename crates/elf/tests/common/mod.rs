//! Small ELF files made by hand, and what the host's kernel does with a file.
#![allow(dead_code, reason = "each test target uses its part")]

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub const BASE: u64 = 0x40_0000;
pub const PT_LOAD: u32 = 1;
pub const PT_INTERP: u32 = 3;
pub const CODE_OFFSET: usize = 0x200;
pub const FILE_SIZE: usize = 0x300;

/// Writes everything between `argv[0]` and `envp[0]` to standard output and exits with 0.
const CODE: &[u8] = &[
    0x48, 0x8b, 0x04, 0x24, // mov rax, [rsp]
    0x48, 0x8b, 0x74, 0x24, 0x08, // mov rsi, [rsp + 8]
    0x48, 0x8b, 0x54, 0xc4, 0x10, // mov rdx, [rsp + rax * 8 + 16]
    0x48, 0x29, 0xf2, // sub rdx, rsi
    0xbf, 1, 0, 0, 0, // mov edi, 1
    0x89, 0xf8, // mov eax, edi
    0x0f, 0x05, // syscall
    0xb8, 60, 0, 0, 0, // mov eax, 60
    0x31, 0xff, // xor edi, edi
    0x0f, 0x05, // syscall
];

#[derive(Clone, Copy)]
pub struct Phdr {
    pub p_type: u32,
    pub flags: u32,
    pub offset: u64,
    pub vaddr: u64,
    pub filesz: u64,
    pub memsz: u64,
    pub align: u64,
}

/// The segment that holds the whole file, readable and executable.
pub fn text(base: u64) -> Phdr {
    let size = FILE_SIZE as u64;
    Phdr { p_type: PT_LOAD, flags: 5, offset: 0, vaddr: base, filesz: size, memsz: size, align: 0x1000 }
}

pub fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// A program of `FILE_SIZE` bytes with these headers; the code lies at `CODE_OFFSET`.
pub fn elf(e_type: u16, base: u64, phdrs: &[Phdr]) -> Vec<u8> {
    let mut bytes = vec![0; FILE_SIZE];
    put(&mut bytes, 0, b"\x7fELF\x02\x01\x01");
    put(&mut bytes, 16, &e_type.to_le_bytes());
    put(&mut bytes, 18, &62u16.to_le_bytes());
    put(&mut bytes, 20, &1u32.to_le_bytes());
    put(&mut bytes, 24, &(base + CODE_OFFSET as u64).to_le_bytes());
    put(&mut bytes, 32, &64u64.to_le_bytes());
    put(&mut bytes, 52, &64u16.to_le_bytes());
    put(&mut bytes, 54, &56u16.to_le_bytes());
    put(&mut bytes, 56, &(phdrs.len() as u16).to_le_bytes());
    for (index, phdr) in phdrs.iter().enumerate() {
        let at = 64 + index * 56;
        put(&mut bytes, at, &phdr.p_type.to_le_bytes());
        put(&mut bytes, at + 4, &phdr.flags.to_le_bytes());
        for (field, value) in
            [phdr.offset, phdr.vaddr, phdr.vaddr, phdr.filesz, phdr.memsz, phdr.align].into_iter().enumerate()
        {
            put(&mut bytes, at + 8 + field * 8, &value.to_le_bytes());
        }
    }
    put(&mut bytes, CODE_OFFSET, CODE);
    bytes
}

/// A program that runs.
pub fn good() -> Vec<u8> {
    elf(2, BASE, &[text(BASE)])
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Ran, with this output.
    Output(Vec<u8>),
    Errno(i32),
    /// `execve` did not come back.
    Killed,
}

pub fn install(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    let _ = fs::remove_file(&path);
    fs::write(&path, bytes).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Runs a file on the host with `argv` and one variable.
pub fn run_native(path: &Path, argv0: &str, args: &[&str]) -> Outcome {
    for _ in 0..100 {
        let mut command = Command::new(path);
        command.arg0(argv0).args(args).env_clear().env("A", "B").stdin(Stdio::null()).stderr(Stdio::null());
        match command.output() {
            // Another test's child may hold our file open for writing for a moment.
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            Err(error) => return Outcome::Errno(error.raw_os_error().unwrap()),
            Ok(output) if output.status.signal().is_some() => return Outcome::Killed,
            Ok(output) => return Outcome::Output(output.stdout),
        }
    }
    panic!("{} stays busy", path.display());
}
