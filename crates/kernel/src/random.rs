//! Random bytes without a host call each: ChaCha20 seeded by the host, with fast key erasure.
//!
//! As Linux's own `crng_fast_key_erasure()` (drivers/char/random.c): each stretch of key stream begins with the key
//! of the next one, so that whoever reads this memory later cannot tell what was given out before; what was given
//! out is wiped at once. Two pools never share a key: there is no copy of a pool, a fork of a guest included.

use std::sync::Arc;

use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher};
use coracle_platform::{RANDOM_SIZE, ThreadControl};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::fd::{FdTable, OpenFile};
use crate::{Errno, Result};

const KEY: usize = 32;
/// Bytes made at a time.
const STOCK: usize = 4096;
/// Bytes given out before the host is asked for a new key (Linux asks its pool at least once a minute).
const RESEED: usize = 1 << 20;

/// A source of random bytes that belongs to one open file (or one thread).
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Pool {
    key: [u8; KEY],
    stock: [u8; STOCK],
    /// Bytes at the end of `stock` that nobody had yet.
    left: usize,
    /// Bytes until the next key from the host; 0 before the first.
    trusted: usize,
}

impl Default for Pool {
    fn default() -> Pool {
        Pool { key: [0; KEY], stock: [0; STOCK], left: 0, trusted: 0 }
    }
}

impl Pool {
    /// Fills `into`. `EIO`: the host gave no seed, and nothing was given out.
    pub fn fill(&mut self, into: &mut [u8]) -> Result<()> {
        if self.trusted < into.len() || self.trusted == 0 {
            seed(&mut self.key)?;
            self.stock.zeroize();
            self.left = 0;
            self.trusted = RESEED.max(into.len());
        }
        self.trusted -= into.len();
        if into.len() > STOCK {
            expand(&mut self.key, into);
            return Ok(());
        }
        if into.len() > self.left {
            expand(&mut self.key, &mut self.stock);
            self.left = STOCK;
        }
        let at = STOCK - self.left;
        let Some(given) = self.stock.get_mut(at..at + into.len()) else { return Err(Errno::EIO) };
        into.copy_from_slice(given);
        given.zeroize();
        self.left -= into.len();
        Ok(())
    }
}

/// A thread's own source: for its calls that want a few bytes, and for what it gives out by itself.
#[derive(Default)]
pub struct Supply {
    calls: u32,
    pool: Option<Box<Pool>>,
}

impl Supply {
    /// Who asks once, as most programs do when they start, has a host call; who asks again gets a source.
    fn asked_again(&mut self) -> bool {
        let again = self.calls > 0;
        self.calls = self.calls.saturating_add(1);
        again
    }

    /// Bytes for a call of the thread, and some for its next ones.
    pub fn serve(&mut self, control: &dyn ThreadControl, into: &mut [u8]) -> Result<()> {
        if !self.asked_again() {
            return seed(into);
        }
        self.pool.get_or_insert_default().fill(into)?;
        self.give(control);
        Ok(())
    }

    /// The thread has read from the open `file` by its descriptor `fd`, and may answer such reads itself.
    pub fn has_read(&mut self, fd: i32, file: &Arc<OpenFile>, files: &FdTable, control: &Arc<dyn ThreadControl>) {
        if self.asked_again() {
            files.lend(fd, file, control);
            self.give(&**control);
        }
    }

    /// Fills up what the thread gives out by itself.
    fn give(&mut self, control: &dyn ThreadControl) {
        if !control.wants_random() {
            return;
        }
        let mut bytes = [0; RANDOM_SIZE];
        // Without a seed it goes on asking, and is told.
        if self.pool.get_or_insert_default().fill(&mut bytes).is_ok() {
            control.give_random(&bytes);
        }
        bytes.zeroize();
    }
}

/// Replaces the key by the first bytes of its own stream, and `into` by the rest.
fn expand(key: &mut [u8; KEY], into: &mut [u8]) {
    let mut stream = ChaCha20::new((&*key).into(), &[0; 12].into());
    key.fill(0);
    stream.apply_keystream(key);
    into.fill(0);
    stream.apply_keystream(into);
}

fn seed(key: &mut [u8]) -> Result<()> {
    crate::world::random_bytes(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8439, appendix A.1, test vectors 1 and 2: blocks 0 and 1 of the zero key's stream.
    #[test]
    fn the_stream_is_chacha20() {
        let mut key = [0; KEY];
        let mut out = [0; 96];
        expand(&mut key, &mut out);
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hex(&key), "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7");
        assert_eq!(hex(&out[..32]), "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586");
        assert_eq!(
            hex(&out[32..]),
            "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed\
             29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f"
        );
    }

    #[test]
    fn nothing_given_out_stays() {
        let mut pool = Pool::default();
        let mut given = [0; 100];
        pool.fill(&mut given).unwrap();
        let key = pool.key;
        assert_eq!(pool.left, STOCK - 100);
        assert!(pool.stock[..100].iter().all(|byte| *byte == 0));
        assert!(!pool.stock.windows(16).any(|window| given.windows(16).any(|piece| piece == window)));
        let mut all = vec![0; STOCK + 1];
        pool.fill(&mut all).unwrap();
        assert_ne!(pool.key, key, "the key that made them is gone");
    }

    #[test]
    fn no_bytes_come_twice() {
        let mut seen = std::collections::HashSet::new();
        let mut pools: Vec<Pool> = (0..4).map(|_| Pool::default()).collect();
        for round in 0..20_000_usize {
            let mut word = [0; 16];
            let pool = &mut pools[round % 4];
            pool.fill(&mut word).unwrap();
            assert!(seen.insert(word));
            if round % 100 == 0 {
                pool.fill(&mut vec![0; round % 9000]).unwrap();
            }
        }
    }

    #[test]
    fn the_host_is_asked_again() {
        let mut pool = Pool::default();
        pool.fill(&mut [0; 1]).unwrap();
        assert_eq!(pool.trusted, RESEED - 1);
        pool.fill(&mut vec![0; RESEED]).unwrap();
        assert_eq!(pool.trusted, 0);
    }
}
