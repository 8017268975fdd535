//! Nothing panics on any bytes, and what is accepted is sound.

mod common;

use common::{elf, text};
use coracle_elf::{
    ARG_MAX, ArgError, ArgSpace, AuxInputs, ElfError, Image, InitialStack, LoadPlan, MAX_ARG_STRLEN, Op,
    Placement, Script, StackInputs, TASK_SIZE,
};
use proptest::collection::vec;
use proptest::prelude::*;

fn check(plan: &LoadPlan) {
    assert!(plan.span.start <= plan.span.end && plan.span.end <= TASK_SIZE);
    assert!(plan.entry < TASK_SIZE && plan.brk == plan.span.end);
    for op in &plan.ops {
        let range = op.range();
        assert!(
            range.start < range.end && plan.span.start <= range.start && range.end <= plan.span.end,
            "{op:x?}"
        );
        match *op {
            Op::MapFile { addr, len, offset, .. } => assert_eq!((addr | len | offset) % 4096, 0),
            Op::MapAnon { addr, len, .. } => assert_eq!((addr | len) % 4096, 0),
            Op::Zero { addr, len } => assert_eq!(((addr + len) % 4096, len < 4096), (0, true)),
        }
    }
}

fn exercise(head: &[u8], file: &[u8], base: u64) {
    let _ = Script::parse(head);
    for image in [Image::parse(head, file), Image::parse_interpreter(head, file)] {
        match image {
            Ok(image) => {
                let _ = image.is_truncated(file.len() as u64);
                if let Ok(plan) = image.plan(base) {
                    check(&plan);
                }
                if let Some(base) = image.placement().pick(0x1_0000, TASK_SIZE, base) {
                    match image.plan(base) {
                        Ok(plan) => check(&plan),
                        // What was picked has room; an entry outside of the image may still be nowhere.
                        Err(error) => assert_eq!(error, ElfError::Entry),
                    }
                }
            }
            Err(error) => {
                assert!(error.errno() > 0 && !error.to_string().contains('\n'));
            }
        }
    }
}

/// Numbers near the edges that matter.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        0u64..0x3000,
        (0u64..0x3000).prop_map(|offset| TASK_SIZE - 0x1800 + offset),
        (0u64..0x3000).prop_map(|offset| u64::MAX - offset),
        (0u64..64).prop_map(|bit| 1 << bit),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(bytes in vec(any::<u8>(), 0..600), cut in 0usize..600, base in word()) {
        exercise(&bytes[..cut.min(bytes.len())], &bytes, base);
        let mut elf = bytes.clone();
        elf.splice(..elf.len().min(4), *b"\x7fELF");
        exercise(&elf, &elf, base);
        let mut script = bytes;
        script.splice(..script.len().min(2), *b"#!");
        exercise(&script, &script, base);
    }

    #[test]
    fn damaged_programs(
        e_type in 2u16..4,
        fields in vec((0usize..4, 0usize..6, word()), 0..8),
        header in vec((16usize..64, any::<u8>()), 0..3),
        base in word(),
    ) {
        let mut bytes = elf(e_type, 0, &[text(0), text(0x1000), text(0x2000), text(0x8000)]);
        for (phdr, field, value) in fields {
            common::put(&mut bytes, 64 + phdr * 56 + 8 + field * 8, &value.to_le_bytes());
        }
        for (at, byte) in header {
            common::put(&mut bytes, at, &[byte]);
        }
        exercise(&bytes[..64], &bytes, base);
    }

    #[test]
    fn placements(start in word(), end in word(), random in any::<u64>(), size in word(), bit in 12u32..64) {
        let align = 1u64 << bit;
        if let Some(base) = (Placement::Anywhere { size, align }).pick(start, end, random) {
            prop_assert!(base >= start && base % align == 0 && base.checked_add(size).unwrap() <= end);
        }
    }

    #[test]
    fn stacks(
        argv in vec(vec(1u8.., 0..40), 0..8),
        envp in vec(vec(1u8.., 0..40), 0..8),
        execfn in vec(1u8.., 0..40),
        gap in any::<u64>(),
        vdso in any::<Option<u64>>(),
        rseq in any::<Option<(u64, u64)>>(),
        random in any::<[u8; 16]>(),
    ) {
        let aux = AuxInputs { sysinfo_ehdr: vdso, rseq, random, ..AuxInputs::default() };
        let top = 0x7fff_0000_0000;
        let inputs = StackInputs { argv: &argv, envp: &envp, execfn: &execfn, aux, top, gap, rlimit_stack: 8 << 20 };
        let stack = InitialStack::build(&inputs).unwrap();
        prop_assert_eq!(stack.sp % 16, 0);
        prop_assert_eq!(stack.sp + stack.bytes.len() as u64, top);
        let at = |addr: u64| &stack.bytes[(addr - stack.sp) as usize..];
        let word = |addr: u64| u64::from_le_bytes(at(addr)[..8].try_into().unwrap());
        let string = |addr: u64| at(addr).split(|byte| *byte == 0).next().unwrap().to_vec();
        let argc = word(stack.sp);
        let list = |start: u64| (0..).map(|i| word(start + i * 8)).take_while(|p| *p != 0).map(string).collect::<Vec<_>>();
        let expected = if argv.is_empty() { vec![vec![]] } else { argv };
        prop_assert_eq!(argc, expected.len() as u64);
        prop_assert_eq!(list(stack.sp + 8), expected);
        prop_assert_eq!(list(stack.sp + 8 * (argc + 2)), envp);
        let aux = |key: u64| (0..).map(|i| stack.auxv.start + i * 16).find(|a| word(*a) == key).map(|a| word(a + 8));
        prop_assert_eq!(string(aux(31).unwrap()), execfn);
        prop_assert_eq!(string(aux(15).unwrap()), b"x86_64");
        prop_assert_eq!(&at(aux(25).unwrap())[..16], random);
        prop_assert_eq!(word(stack.auxv.end - 16), 0);
        prop_assert_eq!(word(top - 8), 0);
    }
}

#[test]
fn limits() {
    // fs/exec_test.c: a tiny stack still gets ARG_MAX, a huge one no more than 6 MiB.
    assert_eq!(ArgSpace::new(0, 0, 0).unwrap().left(), ARG_MAX - 8);
    assert_eq!(ArgSpace::new(1, 0, 0).unwrap().left(), ARG_MAX - 8);
    assert_eq!(ArgSpace::new(2, 3, 4 * (ARG_MAX + 4096)).unwrap().left(), ARG_MAX + 4096 - 40);
    assert_eq!(ArgSpace::new(1, 1, u64::MAX).unwrap().left(), (6 << 20) - 16);
    assert_eq!(ArgSpace::new(usize::MAX, usize::MAX, u64::MAX).unwrap_err(), ArgError::TooLarge);
    assert_eq!(ArgSpace::new(ARG_MAX as usize / 8, 0, 0).unwrap_err(), ArgError::TooLarge);

    let mut space = ArgSpace::new(1, 0, u64::MAX).unwrap();
    assert_eq!(space.charge(MAX_ARG_STRLEN - 1), Ok(()));
    assert_eq!(space.charge(MAX_ARG_STRLEN), Err(ArgError::StringTooLong));
    assert_eq!(space.charge(usize::MAX).unwrap_err().errno(), 7);
    let mut space = ArgSpace::new(0, 0, 0).unwrap();
    assert_eq!(space.charge(ARG_MAX as usize - 9), Ok(()));
    assert_eq!((space.left(), space.charge(0)), (0, Err(ArgError::TooLarge)));
}

#[test]
fn stacks_without_room() {
    let empty: &[&[u8]] = &[];
    let build = |top, argv: &[&[u8]]| {
        let aux = AuxInputs::default();
        InitialStack::build(&StackInputs { argv, envp: empty, execfn: b"", aux, top, gap: 0, rlimit_stack: 0 })
    };
    assert_eq!(build(0, empty), Err(ArgError::NoRoom));
    assert_eq!(build(4097, empty), Err(ArgError::NoRoom));
    assert_eq!(build(1 << 47, empty), Err(ArgError::NoRoom));
    assert_eq!(build(4096, &[&[b'x'; 5000]]), Err(ArgError::NoRoom));
    assert_eq!(build(4096, &[b"a\0b"]), Err(ArgError::Nul));
    assert_eq!(build(4096, empty).unwrap().bytes[..8], 1u64.to_le_bytes());
}
