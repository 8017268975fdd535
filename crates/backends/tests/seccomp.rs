//! The platform by itself: machine code in a worker, traps here.

use std::io::Write;

use coracle_abi::port::HOT;
use coracle_backends::seccomp::SeccompPlatform;
use coracle_platform::*;

const CODE: u64 = 0x40_0000;
const STACK: u64 = 0x50_0000;

/// A worker with `code` mapped and ready to run.
fn vessel(platform: &SeccompPlatform, code: &[u8]) -> Vessel {
    let mut vessel = platform.spawn().unwrap();
    for (address, prot) in [(CODE, 7), (STACK, 3)] {
        let call = MemoryCall::MapAnonymous { address, len: 0x1_0000, prot, flags: 0x12 };
        assert_eq!(vessel.thread.memory(&call).unwrap(), Ok(address));
    }
    assert_eq!(vessel.space.write(CODE, code), code.len());
    let regs = vessel.thread.freeze(0).unwrap();
    regs.rip = CODE;
    regs.rsp = STACK + 0x8000;
    regs.rbx = 0x1234;
    vessel
}

/// A worker with `code` mapped from a file, whose sites may be rewritten.
fn vessel_of_file(platform: &SeccompPlatform, code: &[u8]) -> Vessel {
    let mut file = std::fs::File::from(rustix::fs::memfd_create("text", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
    file.write_all(code).unwrap();
    let mut vessel = platform.spawn().unwrap();
    let file = MapSource { file: std::sync::Arc::new(file.into()), key: 1 };
    let call = MemoryCall::MapFile { address: CODE, len: 0x1000, prot: 5, flags: 0x12, file, offset: 0 };
    assert_eq!(vessel.thread.memory(&call).unwrap(), Ok(CODE));
    vessel
}

#[test]
fn a_call_is_trapped_and_answered() {
    let platform = SeccompPlatform::start().unwrap();
    // mov $0x2a,%eax; mov $7,%edi; syscall; mov %rax,%rdi; mov $0x3c,%eax; syscall
    let code = b"\xb8\x2a\0\0\0\xbf\x07\0\0\0\x0f\x05\x48\x89\xc7\xb8\x3c\0\0\0\x0f\x05";
    let mut vessel = vessel(&platform, code);
    let trap = vessel.thread.run(Resume::Continue);
    assert!(matches!(trap, Trap::Syscall { number: 0x2a, args: [7, ..], lane: 4 }), "{trap:?}");
    let trap = vessel.thread.run(Resume::Return(99));
    assert!(matches!(trap, Trap::Syscall { number: 0x3c, args: [99, ..], lane: 4 }), "{trap:?}");
    let regs = vessel.thread.freeze(5).unwrap();
    assert_eq!((regs.rax, regs.rbx, regs.rip), (5, 0x1234, CODE + 22));
    vessel.space.kill();
    assert_eq!(vessel.thread.run(Resume::Continue), Trap::Died(Death::Killed));
}

#[test]
fn a_fault_says_where_and_why() {
    let platform = SeccompPlatform::start().unwrap();
    let mut vessel = vessel(&platform, b"\x8b\x04\x25\x10\x00\x00\x00"); // mov 0x10,%eax
    let trap = vessel.thread.run(Resume::Continue);
    let expected = Fault { signal: 11, code: 1, address: 0x10, trap_number: 14, error_code: 4 };
    assert_eq!(trap, Trap::Fault(expected));
}

#[test]
fn a_fork_has_its_own_memory() {
    let platform = SeccompPlatform::start().unwrap();
    // mov $57,%eax; syscall; mov %rax,(%rsp); mov $1,%eax; syscall; ud2
    let mut vessel = vessel(&platform, b"\xb8\x39\0\0\0\x0f\x05\x48\x89\x04\x24\xb8\x01\0\0\0\x0f\x05\x0f\x0b");
    assert!(matches!(vessel.thread.run(Resume::Continue), Trap::Syscall { number: 57, .. }));
    let mut child = vessel.thread.fork(&mut |regs| regs.rax = 0).unwrap();
    assert!(matches!(vessel.thread.run(Resume::Return(42)), Trap::Syscall { number: 1, .. }));
    assert!(matches!(child.thread.run(Resume::Continue), Trap::Syscall { number: 1, .. }));
    let word = |space: &dyn Space| {
        let mut bytes = [0; 8];
        assert_eq!(space.read(STACK + 0x8000, &mut bytes), 8);
        u64::from_le_bytes(bytes)
    };
    assert_eq!((word(&*vessel.space), word(&*child.space)), (42, 0));
}

#[test]
fn threads_share_memory_and_are_interrupted() {
    let platform = SeccompPlatform::start().unwrap();
    let mut vessel = vessel(&platform, b"\xb8\x39\0\0\0\x0f\x05\xeb\xfe"); // mov; syscall; jmp .
    assert!(matches!(vessel.thread.run(Resume::Continue), Trap::Syscall { number: 57, .. }));
    let mut other = vessel.thread.spawn_thread(&mut |regs| regs.rsp = STACK + 0x4000).unwrap();
    let control = other.control();
    let loops = std::thread::spawn(move || other.run(Resume::Continue));
    for _ in 0..100 {
        std::thread::sleep(std::time::Duration::from_millis(1));
        control.interrupt();
        if loops.is_finished() {
            break;
        }
    }
    assert_eq!(loops.join().unwrap(), Trap::Interrupted { call: None });
    vessel.space.kill();
}

#[test]
fn the_host_is_out_of_reach() {
    let platform = SeccompPlatform::start().unwrap();
    // Every call number from here, by a plain instruction: mov %ebx,%eax; syscall; inc %ebx; jmp
    let mut vessel = vessel(&platform, b"\x31\xdb\x89\xd8\x0f\x05\xff\xc3\xeb\xf8");
    let mut seen = std::collections::BTreeSet::new();
    let mut trap = vessel.thread.run(Resume::Continue);
    loop {
        match trap {
            Trap::Syscall { number: 600.., .. } => break,
            Trap::Syscall { number, .. } => _ = seen.insert(number),
            // uretprobe and uprobe bypass the filter and come back as ENOSYS by way of a fault.
            Trap::Interrupted { call: None } => {}
            other => panic!("{other:?}"),
        }
        trap = if let Trap::Syscall { .. } = trap {
            vessel.thread.run(Resume::Return(0))
        } else {
            vessel.thread.run(Resume::Continue)
        };
    }
    // What the thread answers itself (lane 1) or may ask of the host for its own memory (lane 2).
    let own = [10, 11, 24, 25, 27, 28, 39, 96, 102, 104, 107, 108, 110, 186, 201, 228, 309, 334];
    let unseen: Vec<u64> = (0..600).filter(|number| !seen.contains(number)).collect();
    let expected: Vec<u64> =
        unseen.iter().copied().filter(|n| own.contains(n) || matches!(n, 202 | 324 | 335 | 336)).collect();
    assert_eq!(unseen, expected);
    vessel.space.kill();
}

#[test]
fn a_hot_site_is_rewritten_and_means_the_same() {
    let platform = SeccompPlatform::start().unwrap();
    // again: mov $140,%eax; syscall; mov %rax,%rdi; add $1,%rdi; jmp again
    let code = b"\xb8\x8c\0\0\0\x0f\x05\x48\x89\xc7\x48\x83\xc7\x01\xeb\xf0";
    let mut vessel = vessel_of_file(&platform, code);
    let regs = vessel.thread.freeze(0).unwrap();
    regs.rip = CODE;
    regs.rdi = 6;
    let mut trap = vessel.thread.run(Resume::Continue);
    let mut lanes = Vec::new();
    for round in 0..HOT + 8 {
        let Trap::Syscall { number: 140, args, lane } = trap else { panic!("{round}: {trap:?}") };
        assert_eq!(args[0], 6 + round);
        lanes.push(lane);
        if round == HOT + 6 {
            // In the middle of the fast path, the program's own address is what is seen.
            let regs = vessel.thread.freeze(args[0]).unwrap();
            assert_eq!(regs.rip, CODE + 7);
            assert_eq!(regs.rflags & 0x8d5, 0x4 & regs.rflags);
            trap = vessel.thread.run(Resume::Continue);
        } else {
            trap = vessel.thread.run(Resume::Return(args[0]));
        }
    }
    let want: Vec<u8> = (0..HOT + 8).map(|round| if round <= HOT { 4 } else { 3 }).collect();
    assert_eq!(lanes, want);
    let foreign = |mapping: &&coracle_platform::Mapping| mapping.special.is_none() && mapping.start != CODE;
    assert!(!vessel.space.mappings().iter().any(|mapping| foreign(&mapping)), "{:?}", vessel.space.mappings());
    // A jump behind the `syscall` that is no longer there.
    let regs = vessel.thread.freeze(0).unwrap();
    regs.rip = CODE + 7;
    regs.rax = 77;
    let trap = vessel.thread.run(Resume::Continue);
    assert!(matches!(trap, Trap::Syscall { number: 140, args: [78, ..], .. }), "{trap:?}");
}

#[test]
fn threads_count_traps_together() {
    let platform = SeccompPlatform::start().unwrap();
    // mov $140,%eax; syscall; mov %rax,%rdi; jmp .
    let code = b"\xb8\x8c\0\0\0\x0f\x05\x48\x89\xc7\xeb\xfe";
    let mut vessel = vessel_of_file(&platform, code);
    vessel.thread.freeze(0).unwrap().rip = CODE;
    let mut lanes = Vec::new();
    let mut arrived = |thread: &mut dyn Thread| match thread.run(Resume::Continue) {
        Trap::Syscall { number: 140, lane, .. } => lanes.push(lane),
        other => panic!("{other:?}"),
    };
    arrived(&mut *vessel.thread);
    // All of them stay, so each has a port that nobody had before.
    let mut threads = Vec::new();
    for _ in 0..HOT + 4 {
        let mut thread = vessel.thread.spawn_thread(&mut |regs| regs.rip = CODE).unwrap();
        arrived(&mut *thread);
        threads.push(thread);
    }
    let want: Vec<u8> = (0..HOT + 5).map(|round| if round <= HOT { 4 } else { 3 }).collect();
    assert_eq!(lanes, want);
    vessel.space.kill();
}

#[test]
fn a_site_with_nothing_behind_it_is_rewritten_at_its_mov() {
    let platform = SeccompPlatform::start().unwrap();
    // nops; again: call f; mov %rax,%rdi; jmp again; … f: mov $140,%eax; syscall; ret
    let mut code = vec![0x90; 64];
    code.extend_from_slice(b"\xe8\x3b\0\0\0\x48\x89\xc7\xeb\xf6");
    code.resize(128, 0x90);
    code.extend_from_slice(b"\xb8\x8c\0\0\0\x0f\x05\xc3");
    let mut file = std::fs::File::from(rustix::fs::memfd_create("text", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
    file.write_all(&code).unwrap();
    let mut vessel = platform.spawn().unwrap();
    let file = MapSource { file: std::sync::Arc::new(file.into()), key: 1 };
    let text = MemoryCall::MapFile { address: CODE, len: 0x1000, prot: 5, flags: 0x12, file, offset: 0 };
    let stack = MemoryCall::MapAnonymous { address: STACK, len: 0x1_0000, prot: 3, flags: 0x12 };
    for call in [text, stack] {
        vessel.thread.memory(&call).unwrap().unwrap();
    }
    let regs = vessel.thread.freeze(0).unwrap();
    (regs.rip, regs.rsp, regs.rdi) = (CODE, STACK + 0x8000, 6);
    let mut trap = vessel.thread.run(Resume::Continue);
    let mut lanes = Vec::new();
    for round in 0..HOT + 6 {
        let Trap::Syscall { number: 140, args, lane } = trap else { panic!("{round}: {trap:?}") };
        assert_eq!(args[0], 6 + round);
        lanes.push(lane);
        if round == HOT + 4 {
            assert_eq!(vessel.thread.freeze(args[0] + 1).unwrap().rip, CODE + 128 + 7);
            trap = vessel.thread.run(Resume::Continue);
        } else {
            trap = vessel.thread.run(Resume::Return(args[0] + 1));
        }
    }
    let want: Vec<u8> = (0..HOT + 6).map(|round| if round <= HOT { 4 } else { 3 }).collect();
    assert_eq!(lanes, want);
    vessel.space.kill();
}
