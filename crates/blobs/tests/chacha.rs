//! The vDSO's ChaCha20, on its own: known answers (RFC 8439), and that blocks follow each other however many are made at
//! a time.

#[path = "../../../guest/vdso/src/chacha.rs"]
#[allow(dead_code, reason = "only the stream is tried here")]
mod chacha;

fn stream(key: &[u8; 32], pairs: usize, counter: u64) -> Vec<u8> {
    let mut out = vec![0; pairs * 128];
    // SAFETY: as many bytes as are asked for, and a key.
    let next = unsafe { chacha::blocks(out.as_mut_ptr(), key.as_ptr(), pairs, counter) };
    assert_eq!(next, counter + 2 * pairs as u64);
    out
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// RFC 8439, appendix A.1, test vectors 1 and 2: blocks 0 and 1 of the zero key's stream.
#[test]
fn blocks_of_the_zero_key() {
    let out = stream(&[0; 32], 1, 0);
    assert_eq!(
        hex(&out),
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7\
         da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586\
         9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed\
         29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f"
    );
}

/// The same appendix, test vectors 3 (block 1, last byte of the key 1) and 4 (block 2, second byte of the key 0xff).
#[test]
fn blocks_of_other_keys() {
    let mut key = [0; 32];
    key[31] = 1;
    assert_eq!(
        hex(&stream(&key, 1, 1)[..64]),
        "3aeb5224ecf849929b9d828db1ced4dd832025e8018b8160b82284f3c949aa5a\
         8eca00bbb4a73bdad192b5c42f73f2fd4e273644c8b36125a64addeb006c13a0"
    );
    let mut key = [0; 32];
    key[1] = 0xff;
    assert_eq!(
        hex(&stream(&key, 1, 2)[..64]),
        "72d54dfbf12ec44b362692df94137f328fea8da73990265ec1bbbea1ae9af0ca\
         13b25aa26cb4a648cb9b9d1be65b2c0924a66c54d545ec1b7374f4872e99f096"
    );
}

#[test]
fn many_blocks_are_the_same_as_single_ones() {
    let key: [u8; 32] = std::array::from_fn(|at| (at * 7 + 3) as u8);
    // The counter has 64 bits.
    for first in [0, 1, u64::from(u32::MAX) - 3] {
        let together = stream(&key, 5, first);
        for pair in 0..5 {
            assert_eq!(together[pair * 128..][..128], stream(&key, 1, first + 2 * pair as u64), "{first} {pair}");
        }
    }
}

#[test]
fn a_key_that_is_overwritten_serves_to_the_end() {
    let mut memory = [0u8; 128];
    for (at, byte) in memory[96..].iter_mut().enumerate() {
        *byte = at as u8;
    }
    let mut key = [0; 32];
    key.copy_from_slice(&memory[96..]);
    // SAFETY: 128 bytes, with the key at their end.
    unsafe { chacha::blocks(memory.as_mut_ptr(), memory.as_ptr().add(96), 1, 0) };
    assert_eq!(memory[..], stream(&key, 1, 0));
}
