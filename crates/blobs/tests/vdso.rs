//! What makes the vDSO's image a vDSO, checked on its bytes.

use std::collections::{BTreeMap, BTreeSet};

use coracle_abi::port::{REFRESH_CALL, VDSO_SIZE};
use coracle_blobs::{VDSO, vdso};
use gimli::{
    BaseAddresses, CfaRule, EhFrame, LittleEndian, Register as Dwarf, RegisterRule, UnwindContext, UnwindSection,
};
use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind,
    Register,
};
use object::elf;
use object::read::elf::{Dyn, ElfFile64, FileHeader, ProgramHeader};
use object::{LittleEndian as Little, Object, ObjectSection, ObjectSymbol, SymbolKind};

const NAMES: [&str; 6] = ["clock_gettime", "gettimeofday", "time", "getcpu", "clock_getres", "getrandom"];

fn file() -> ElfFile64<'static, Little> {
    ElfFile64::parse(VDSO).unwrap()
}

fn section(name: &str) -> (u64, &'static [u8]) {
    let file = file();
    let section = file.section_by_name(name).unwrap_or_else(|| panic!("no section {name}"));
    let range = section.file_range().unwrap();
    (section.address(), &VDSO[range.0 as usize..][..range.1 as usize])
}

/// One segment to load, which can be read and executed; nothing in it is state, and nothing depends on its address.
#[test]
fn one_segment_without_state_or_relocations() {
    assert!(VDSO.len() as u64 <= VDSO_SIZE);
    let file = file();
    let (header, endian) = (file.elf_header(), file.endian());
    assert_eq!(header.e_type(endian), elf::ET_DYN);
    let segments = header.program_headers(endian, VDSO).unwrap();
    let kinds: Vec<(u32, u32)> = segments.iter().map(|one| (one.p_type(endian), one.p_flags(endian))).collect();
    assert_eq!(
        kinds,
        [
            (elf::PT_LOAD, elf::PF_R | elf::PF_X),
            (elf::PT_DYNAMIC, elf::PF_R),
            (elf::PT_NOTE, elf::PF_R),
            (elf::PT_GNU_EH_FRAME, elf::PF_R)
        ]
    );
    let load = &segments[0];
    assert_eq!((load.p_offset(endian), load.p_vaddr(endian)), (0, 0));
    assert_eq!(load.p_filesz(endian), load.p_memsz(endian));
    for section in file.sections() {
        let name = section.name().unwrap();
        assert!(!name.starts_with(".rel"), "{name}");
        let state = [".data", ".bss", ".got", ".tdata", ".tbss", ".plt"].iter().any(|word| name.starts_with(word));
        assert!(!state || section.size() == 0, "{name}");
    }
}

/// What loaders look for: glibc both hashes, versions and the name; musl the old hash.
#[test]
fn the_dynamic_section_is_that_of_linux() {
    let (_, bytes) = section(".dynamic");
    let (entries, _) =
        object::pod::slice_from_bytes::<elf::Dyn64<Little>>(bytes, bytes.len() / size_of::<elf::Dyn64<Little>>())
            .unwrap();
    let tags: Vec<u32> = entries.iter().map(|one| one.tag32(Little).unwrap()).collect();
    for tag in [elf::DT_HASH, elf::DT_GNU_HASH, elf::DT_SYMTAB, elf::DT_STRTAB, elf::DT_VERSYM, elf::DT_VERDEF] {
        assert!(tags.contains(&tag), "{tag:#x}");
    }
    for tag in
        [elf::DT_RELA, elf::DT_REL, elf::DT_JMPREL, elf::DT_TEXTREL, elf::DT_NEEDED, elf::DT_INIT, elf::DT_RUNPATH]
    {
        assert!(!tags.contains(&tag), "{tag:#x}");
    }
    let name = entries.iter().find(|one| one.tag32(Little) == Some(elf::DT_SONAME)).unwrap();
    let (_, strings) = section(".dynstr");
    assert!(strings[name.d_val.get(Little) as usize..].starts_with(b"linux-vdso.so.1\0"));
    let (_, versions) = section(".gnu.version_d");
    assert!(!versions.is_empty() && strings.windows(11).any(|name| name == b"\0LINUX_2.6\0"));
}

/// The names of Linux's vDSO: a global one and a weak alias each, functions with sizes, of one version.
#[test]
fn the_symbols_are_those_of_linux() {
    let file = file();
    let symbols: BTreeMap<&str, _> =
        file.dynamic_symbols().map(|symbol| (symbol.name().unwrap(), symbol)).collect();
    for name in NAMES {
        let strong = &symbols[format!("__vdso_{name}").as_str()];
        let weak = &symbols[name];
        assert_eq!((strong.kind(), weak.kind()), (SymbolKind::Text, SymbolKind::Text), "{name}");
        assert!(!strong.is_weak() && weak.is_weak(), "{name}");
        assert!(strong.size() != 0, "{name}");
        assert_eq!((strong.address(), strong.size()), (weak.address(), weak.size()), "{name}");
    }
    assert_eq!(symbols.len(), 2 * NAMES.len() + 1, "{:?}", symbols.keys());
    assert!(symbols.contains_key("LINUX_2.6"));
    // All but the null symbol are of version 2, the only one besides the file's own.
    let (_, versions) = section(".gnu.version");
    assert!(versions.chunks(2).skip(1).all(|version| version == [2, 0]));
}

/// The kernel's version, to be filled in, and a build id.
#[test]
fn the_notes_are_those_of_linux() {
    let (at, notes) = section(".note");
    let version = (vdso::VERSION - at) as usize;
    assert_eq!(notes[version - 20..version], *b"\x06\0\0\0\x04\0\0\0\0\0\0\0Linux\0\0\0");
    assert_eq!(notes[version..version + 4], [0; 4]);
    assert!(notes.windows(16).any(|note| note == b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0"));
}

fn instructions() -> BTreeMap<u64, Instruction> {
    let (at, text) = section(".text");
    Decoder::with_ip(64, text, at, DecoderOptions::NONE).into_iter().map(|one| (one.ip(), one)).collect()
}

/// The kernel knows the one instruction that may ask for fresh clocks by its place.
#[test]
fn the_refreshing_call_is_where_it_is_said_to_be() {
    let all = instructions();
    let call = all.values().find(|one| one.next_ip() == vdso::REFRESH_AFTER).unwrap();
    assert_eq!(call.mnemonic(), Mnemonic::Syscall);
    let number = all.values().find(|one| one.next_ip() == call.ip()).unwrap();
    assert_eq!((number.mnemonic(), number.immediate32()), (Mnemonic::Mov, REFRESH_CALL));
}

/// Functions of time use one vector register, to store zeros: callers that keep something in another without saving it,
/// as they may with Linux's, find it as it was. What random bytes use they wipe.
#[test]
fn vector_registers_are_left_alone_or_wiped() {
    let (all, file) = (instructions(), file());
    let functions: Vec<_> = file.dynamic_symbols().filter(|symbol| symbol.kind() == SymbolKind::Text).collect();
    let random = functions.iter().find(|symbol| symbol.name() == Ok("getrandom")).unwrap();
    let random = random.address()..random.address() + random.size();
    // The stream that random bytes are made of lies before them all.
    let first = functions.iter().map(|symbol| symbol.address()).min().unwrap();
    let mut factory = InstructionInfoFactory::new();
    let mut wiped = Vec::new();
    for one in all.values() {
        let used = factory.info(one).used_registers().iter().map(|used| used.register());
        for register in used.filter(|register| register.is_vector_register()) {
            if random.contains(&one.ip()) {
                let wipes = one.mnemonic() == Mnemonic::Pxor && one.op0_register() == one.op1_register();
                wiped.extend(wipes.then_some(register));
            } else if one.ip() >= first {
                assert_eq!(register, Register::XMM0, "{one} at {:#x}", one.ip());
            }
        }
    }
    wiped.sort_unstable();
    wiped.dedup();
    assert_eq!(wiped.len(), 16, "{wiped:?}");
}

/// What is on the stack: how far above RSP the caller's frame begins, and where, relative to that, registers were
/// saved that have been changed; of those that have not, or were taken back, there may be copies.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct View {
    cfa: i64,
    saved: BTreeMap<u16, i64>,
    copies: BTreeMap<u16, i64>,
}

/// Numbers of the registers that a function must preserve (System V ABI, figure 3.36).
fn dwarf(register: Register) -> Option<u16> {
    match register {
        Register::RBX => Some(3),
        Register::RBP => Some(6),
        Register::R12 => Some(12),
        Register::R13 => Some(13),
        Register::R14 => Some(14),
        Register::R15 => Some(15),
        _ => None,
    }
}

/// What the unwind table says at `ip`.
fn table(frames: &EhFrame<gimli::EndianSlice<'static, LittleEndian>>, bases: &BaseAddresses, ip: u64) -> View {
    let mut context = UnwindContext::new();
    let find = |section: &EhFrame<_>, bases: &BaseAddresses, offset| section.cie_from_offset(bases, offset);
    let row = frames
        .unwind_info_for_address(bases, &mut context, ip, find)
        .unwrap_or_else(|error| panic!("{ip:#x} has no unwind information: {error}"));
    let CfaRule::RegisterAndOffset { register: Dwarf(7), offset: cfa } = *row.cfa() else {
        panic!("{ip:#x}: not relative to RSP: {:?}", row.cfa())
    };
    let mut saved = BTreeMap::new();
    for (register, rule) in row.registers() {
        match rule {
            RegisterRule::Offset(at) => _ = saved.insert(register.0, *at),
            other => panic!("{ip:#x}: {register:?} {other:?}"),
        }
    }
    assert_eq!(saved.remove(&16), Some(-8), "{ip:#x}: the return address");
    View { cfa, saved, copies: BTreeMap::new() }
}

/// The table names every register that is saved, and none that is not there.
fn agree(said: &View, truth: &View) -> bool {
    said.cfa == truth.cfa
        && truth.saved.iter().all(|(register, at)| said.saved.get(register) == Some(at))
        && said
            .saved
            .iter()
            .all(|entry| [&truth.saved, &truth.copies].iter().any(|known| known.get(entry.0) == Some(entry.1)))
}

/// Follows every path through every function and compares, before each instruction, what is on the stack with what
/// the unwind table says.
#[test]
fn the_unwind_table_is_right_at_every_instruction() {
    let file = file();
    let (frame_at, frame_bytes) = section(".eh_frame");
    let (text_at, _) = section(".text");
    let bases = BaseAddresses::default().set_eh_frame(frame_at).set_text(text_at);
    let frames = EhFrame::new(frame_bytes, LittleEndian);
    let all = instructions();
    let mut starts: Vec<u64> = file
        .dynamic_symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Text)
        .map(|symbol| symbol.address())
        .collect();
    let mut factory = InstructionInfoFactory::new();
    let mut seen: BTreeSet<(u64, View)> = BTreeSet::new();
    let mut syscalls = 0;
    while let Some(start) = starts.pop() {
        let mut paths = vec![(start, View { cfa: 8, saved: BTreeMap::new(), copies: BTreeMap::new() })];
        while let Some((ip, view)) = paths.pop() {
            if !seen.insert((ip, view.clone())) {
                continue;
            }
            let one = all.get(&ip).unwrap_or_else(|| panic!("{ip:#x} is inside an instruction"));
            let said = table(&frames, &bases, ip);
            assert!(agree(&said, &view), "{ip:#x} {one}: the table says {said:x?}, but it is {view:x?}");
            let mut next = view.clone();
            next.cfa -= i64::from(one.stack_pointer_increment());
            match one.mnemonic() {
                Mnemonic::Syscall => syscalls += 1,
                Mnemonic::Push => {
                    if let Some(register) = dwarf(one.op0_register()) {
                        next.copies.entry(register).or_insert(-next.cfa);
                    }
                }
                Mnemonic::Pop => {
                    if let Some((register, at)) =
                        dwarf(one.op0_register()).and_then(|register| next.saved.remove_entry(&register))
                    {
                        assert_eq!(at, -view.cfa, "{ip:#x} {one}");
                        next.copies.insert(register, at);
                    }
                }
                Mnemonic::Add | Mnemonic::Sub if one.op0_register() == Register::RSP => {
                    let by = one.immediate(1) as i64;
                    next.cfa += if one.mnemonic() == Mnemonic::Sub { by } else { -by };
                }
                _ => {
                    // Nothing else moves the stack pointer, and no frame pointer is in use.
                    let info = factory.info(one);
                    let moves = info.used_registers().iter().any(|used| {
                        used.register() == Register::RSP
                            && matches!(used.access(), OpAccess::Write | OpAccess::ReadWrite)
                    });
                    let known = matches!(one.flow_control(), FlowControl::Call | FlowControl::Return);
                    assert!(!moves || known, "{one}");
                    for used in info.used_registers() {
                        let writes =
                            !matches!(used.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess);
                        let Some(register) = dwarf(used.register().full_register()).filter(|_| writes) else {
                            continue;
                        };
                        match next.copies.remove(&register) {
                            Some(at) => _ = next.saved.insert(register, at),
                            None => assert!(next.saved.contains_key(&register), "{ip:#x} {one} loses a register"),
                        }
                    }
                }
            }
            let near =
                |one: &Instruction| matches!(one.op0_kind(), OpKind::NearBranch64).then(|| one.near_branch64());
            match one.flow_control() {
                FlowControl::Next => paths.push((one.next_ip(), next)),
                FlowControl::ConditionalBranch => {
                    paths.push((near(one).unwrap(), next.clone()));
                    paths.push((one.next_ip(), next));
                }
                FlowControl::UnconditionalBranch => paths.push((near(one).unwrap(), next)),
                FlowControl::Call if one.mnemonic() == Mnemonic::Call => {
                    starts.push(near(one).expect("a call to a function of the image"));
                    // The callee has taken the return address off again.
                    paths.push((one.next_ip(), view));
                }
                // By way of the shim, which comes back behind the `syscall` that follows.
                FlowControl::IndirectBranch => {
                    let call = &all[&one.next_ip()];
                    assert_eq!(call.mnemonic(), Mnemonic::Syscall, "{one} at {ip:#x}");
                    paths.push((call.ip(), next));
                }
                FlowControl::Call => paths.push((one.next_ip(), next)),
                FlowControl::Return => assert_eq!(view.cfa, 8, "{ip:#x} returns with something on the stack"),
                FlowControl::Exception => {}
                other => panic!("{one} at {ip:#x}: {other:?}"),
            }
        }
    }
    assert!(seen.len() > 100 && syscalls > 1, "{} instructions, {syscalls} calls", seen.len());
}
