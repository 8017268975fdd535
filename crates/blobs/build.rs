//! Builds guest/shim and guest/vdso with the stable compiler and the system linker, checks that each is one segment
//! of position-independent code without state, and exports the bytes and the offsets of what has to be known.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

#[path = "../abi/src/port.rs"]
#[allow(dead_code)]
mod port;

use object::{Object, ObjectSection, ObjectSymbol};
use port::{REFRESH_CALL, VDSO_SIZE, VVAR_SIZE};

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    println!("cargo::rerun-if-changed={}", root.join("guest").display());
    println!("cargo::rerun-if-changed={}", root.join("crates/abi/src").display());
    shim(&root.join("guest/shim"), &out);
    vdso(&root.join("guest/vdso"), &out);
}

/// One object of a crate without dependencies.
fn compile(name: &str, source: &Path, out: &Path) -> PathBuf {
    let object = out.join(format!("{name}.o"));
    run(Command::new(env::var_os("RUSTC").unwrap_or("rustc".into()))
        .args(["--edition", "2024", "--crate-name", name, "--crate-type", "lib", "--emit", "obj"])
        .args(["-C", "panic=abort", "-C", "opt-level=2", "-C", "relocation-model=pic", "-C", "codegen-units=1"])
        .args(["-C", "debuginfo=0", "-C", "overflow-checks=no", "-C", "force-unwind-tables=yes"])
        .args(["-C", "jump-tables=no"])
        .arg("-o")
        .arg(&object)
        .arg(source.join("src/lib.rs")));
    object
}

fn shim(source: &Path, out: &Path) {
    let object = compile("shim", source, out);
    let linked = out.join("shim.elf");
    run(Command::new("ld")
        .args(["-pie", "--no-dynamic-linker", "--no-undefined", "-z", "max-page-size=4096", "-z", "noexecstack"])
        .args(["--no-warnings", "-e", "_start", "-T"])
        .arg(source.join("shim.ld"))
        .arg("-o")
        .arg(&linked)
        .arg(&object));
    export_shim(&fs::read(&linked).expect("the linker's output"), out);
}

/// Links the vDSO as Linux does (arch/x86/entry/vdso/Makefile).
fn vdso(source: &Path, out: &Path) {
    let object = compile("vdso", source, out);
    let linked = out.join("vdso.so");
    run(Command::new("ld")
        .args([
            "-shared",
            "-Bsymbolic",
            "--no-undefined",
            "--hash-style=both",
            "--build-id=sha1",
            "--eh-frame-hdr",
        ])
        .args(["-soname", "linux-vdso.so.1", "-z", "max-page-size=4096", "-z", "noexecstack", "-z", "now"])
        .args(["--strip-all", "--no-warnings"])
        .arg(format!("--defsym=VVAR_SIZE={VVAR_SIZE:#x}"))
        .arg("-T")
        .arg(source.join("vdso.ld"))
        .arg("-o")
        .arg(&linked)
        .arg(&object));
    export_vdso(&fs::read(&linked).expect("the linker's output"), out);
}

fn export_vdso(elf: &[u8], out: &Path) {
    let file = object::File::parse(elf).expect("an ELF file");
    refuse_state("vDSO", &file);
    assert!(elf.len() as u64 <= VDSO_SIZE, "the vDSO has outgrown its {VDSO_SIZE:#x} bytes: {:#x}", elf.len());
    let note = file.section_by_name(".note").expect(".note");
    let bytes = note.data().expect("the bytes of .note");
    // Owner "Linux", type 0: twelve bytes of sizes and type, eight of name, then the version.
    let owner = bytes.windows(6).position(|name| name == b"Linux\0").expect("the note of the version");
    let version = note.address() as usize + owner + 8;
    assert_eq!(elf[version..version + 4], [0; 4], "the version is filled in when a sandbox starts");
    // `mov $REFRESH_CALL, %eax; syscall` stands in one place.
    let [n0, n1, n2, n3] = REFRESH_CALL.to_le_bytes();
    let pattern = [0xb8, n0, n1, n2, n3, 0x0f, 0x05];
    let text = file.section_by_name(".text").expect(".text");
    let code = text.data().expect("the bytes of .text");
    let sites: Vec<usize> = (0..code.len()).filter(|at| code[*at..].starts_with(&pattern)).collect();
    let [site] = sites[..] else { panic!("the call that refreshes the clocks stands in {} places", sites.len()) };
    let refresh = text.address() + (site + pattern.len()) as u64;
    fs::write(out.join("vdso.bin"), elf).expect("OUT_DIR is writable");
    let constants = format!(
        "/// Offset of `LINUX_VERSION_CODE` in its note.\npub const VERSION: u64 = {version:#x};\n\
         /// Offset behind the `syscall` by which it asks for fresh clocks.\npub const REFRESH_AFTER: u64 = {refresh:#x};\n"
    );
    fs::write(out.join("vdso.rs"), constants).expect("OUT_DIR is writable");
}

/// Position-independent, stateless: what lies in memory once serves at any address.
fn refuse_state(what: &str, file: &object::File<'_>) {
    for section in file.sections() {
        let name = section.name().unwrap_or("?");
        let stateful = name.starts_with(".data") || name.starts_with(".bss") || name.starts_with(".got");
        assert!(!(stateful && section.size() > 0), "the {what} has state: section {name} is not empty");
        assert!(!(name.starts_with(".rela") && section.size() > 0), "the {what} has relocations ({name})");
    }
}

fn export_shim(elf: &[u8], out: &Path) {
    let file = object::File::parse(elf).expect("an ELF file");
    refuse_state("shim", &file);
    let text = file.section_by_name(".text").expect(".text");
    assert_eq!(text.address(), 0, "the shim is linked at 0");
    let bytes = text.data().expect("the bytes of .text");
    assert!(bytes.len() <= 0x1_0000, "the shim has outgrown its 64 KiB");
    fs::write(out.join("shim.bin"), bytes).expect("OUT_DIR is writable");

    let mut labels = String::new();
    let mut symbols: Vec<_> = file.symbols().filter(|symbol| symbol.section_index().is_some()).collect();
    symbols.sort_by_key(|symbol| symbol.address());
    for symbol in symbols {
        let name = symbol.name().unwrap_or_default();
        let plain = !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        if plain && !name.starts_with("_R") && !name.starts_with("_ZN") {
            let constant = name.trim_start_matches('_').to_uppercase();
            labels += &format!("/// Offset of `{name}`.\npub const {constant}: u64 = {:#x};\n", symbol.address());
        }
    }
    fs::write(out.join("labels.rs"), labels).expect("OUT_DIR is writable");
}

fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}
