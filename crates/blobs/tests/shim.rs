//! What the fast path promises, checked on its machine code.

use coracle_blobs::{SHIM, label};
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, Register};

fn instructions(from: u64, to: u64) -> Vec<Instruction> {
    let bytes = &SHIM[from as usize..to as usize];
    Decoder::with_ip(64, bytes, from, DecoderOptions::NONE).into_iter().collect()
}

/// Lanes 1 to 3 run with the guest's vector and x87 state live and untouched.
#[test]
fn the_fast_path_uses_general_registers_only() {
    for instruction in instructions(label::FAST_ENTRY, label::LANDING) {
        for operand in 0..instruction.op_count() {
            let register = instruction.op_register(operand);
            assert!(
                register == Register::None || register.is_gpr() || register.is_segment_register(),
                "{instruction} at {:#x} touches {register:?}",
                instruction.ip()
            );
        }
    }
}

/// The fast path has no stack: it may not push, pop, call or return.
#[test]
fn the_fast_path_touches_no_stack() {
    for instruction in instructions(label::FAST_ENTRY, label::LANDING) {
        let stack = matches!(
            instruction.mnemonic(),
            Mnemonic::Push | Mnemonic::Pop | Mnemonic::Call | Mnemonic::Ret | Mnemonic::Pushfq | Mnemonic::Popfq
        );
        assert!(!stack && instruction.memory_base() != Register::RSP, "{instruction} at {:#x}", instruction.ip());
    }
}

/// Every `syscall` instruction is one that the filter has a rule for, or is trapped on purpose.
#[test]
fn every_system_call_is_accounted_for() {
    let known = [
        label::FUTEX_WAIT_FAST,
        label::FUTEX_WAKE_FAST,
        label::FUTEX_HANDLER,
        label::ORDER_FAST,
        label::ORDER_AFTER,
        label::LANE2_AFTER,
        label::LANDING,
        label::SIGRETURN_AFTER,
        label::NOTIFY_AFTER,
        label::CLONE_AFTER,
        label::DEATHSIG_AFTER,
        label::HELLO_AFTER,
        label::PORTS_AFTER,
        label::CLOSE_AFTER,
        label::SEND_AFTER,
        label::EXIT_AFTER,
        label::FREEZE_LEFT,
        label::MASK_AFTER,
    ];
    let mut all = instructions(label::FAST_ENTRY, label::SIGNAL_ENTRY);
    all.extend(instructions(label::FREEZE, label::FREEZE_END));
    all.extend(instructions(label::TRAP_ENTRY, label::TRAP_END));
    let calls = all.iter().filter(|i| i.mnemonic() == Mnemonic::Syscall);
    let found: Vec<u64> = calls.map(|i| i.next_ip()).collect();
    for after in &found {
        assert!(known.contains(after), "a syscall before {after:#x} has no rule");
    }
    assert_eq!(found.len(), known.len());
}
