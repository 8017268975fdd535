//! Builds guest/shim with the stable compiler and the system linker, checks that the result is one segment of
//! position-independent code without state, and exports its bytes and the offsets of its labels.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use object::{Object, ObjectSection, ObjectSymbol};

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let shim = root.join("guest/shim");
    println!("cargo::rerun-if-changed={}", shim.display());
    println!("cargo::rerun-if-changed={}", root.join("crates/abi/src/port.rs").display());

    let object = out.join("shim.o");
    run(Command::new(env::var_os("RUSTC").unwrap_or("rustc".into()))
        .args(["--edition", "2024", "--crate-name", "shim", "--crate-type", "lib", "--emit", "obj"])
        .args(["-C", "panic=abort", "-C", "opt-level=2", "-C", "relocation-model=pic"])
        .args(["-C", "debuginfo=0", "-C", "overflow-checks=no"])
        .arg("-o")
        .arg(&object)
        .arg(shim.join("src/lib.rs")));
    let linked = out.join("shim.elf");
    run(Command::new("ld")
        .args(["-pie", "--no-dynamic-linker", "--no-undefined", "-z", "max-page-size=4096", "-z", "noexecstack"])
        .args(["--no-warnings", "-e", "_start", "-T"])
        .arg(shim.join("shim.ld"))
        .arg("-o")
        .arg(&linked)
        .arg(&object));
    export(&fs::read(&linked).expect("the linker's output"), &out);
}

fn export(elf: &[u8], out: &Path) {
    let file = object::File::parse(elf).expect("an ELF file");
    for section in file.sections() {
        let name = section.name().unwrap_or("?");
        let stateful = name.starts_with(".data") || name.starts_with(".bss") || name.starts_with(".got");
        assert!(!(stateful && section.size() > 0), "the shim has state: section {name} is not empty");
        assert!(!(name.starts_with(".rela") && section.size() > 0), "the shim has relocations ({name})");
    }
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
