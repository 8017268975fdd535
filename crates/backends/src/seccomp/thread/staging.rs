//! Bytes that travel with a request or its reply, through the port's staging areas.

use coracle_abi::port::{OUT_MAX, STAGE_IN_SIZE, STAGE_OUT_SIZE, STAGE_SHORT_SIZE, request, word};

use coracle_platform::Space;

use super::super::ports::Port;
use super::super::worker::Worker;

/// What one call staged. Empty while the thread stands anywhere but in a call by the fast path.
pub(super) struct Staging {
    /// Guest address and length of the input. It is copied when it is asked for: like any guest memory it may be
    /// another one the next time.
    input: (u64, usize),
    /// Outputs that travel with the reply: guest address, offset in the port and length.
    outs: Vec<(u64, usize, usize)>,
    /// Bytes used of the large area.
    out_bytes: usize,
    /// What `room` promised and `commit` will take.
    room: (u64, usize, usize),
}

impl Staging {
    pub fn new() -> Staging {
        Staging { input: (0, 0), outs: Vec::with_capacity(OUT_MAX), out_bytes: 0, room: (0, 0, 0) }
    }

    /// What came with a request, as its state word says.
    pub fn arrive(&mut self, posted: u32, args: &[u64; 6]) {
        let len = (posted >> request::LENGTH_SHIFT) as usize;
        let start = args[usize::from(posted & request::STAGED_SECOND != 0)];
        self.input = (start, len.min(STAGE_IN_SIZE));
    }

    /// How many staged bytes there are from `address` on.
    pub fn available(&self, address: u64) -> usize {
        let (start, len) = self.input;
        address.checked_sub(start).and_then(|at| len.checked_sub(usize::try_from(at).ok()?)).unwrap_or(0)
    }

    /// Copies `len` staged bytes from `address` on to the front of `into`, if there are so many.
    pub fn input(&self, port: &Port, address: u64, len: usize, into: &mut [u8]) -> bool {
        match into.get_mut(..len) {
            Some(piece) if len > 0 && len <= self.available(address) => {
                port.read(word::STAGE_IN + (address - self.input.0) as usize, piece);
                true
            }
            _ => false,
        }
    }

    /// Room for `len` bytes of output at a guest address.
    pub fn room<'a>(&mut self, port: &'a mut Port, address: u64, len: usize) -> Option<&'a mut [u8]> {
        let offset = if self.outs.is_empty() && len <= STAGE_SHORT_SIZE {
            word::STAGE_SHORT
        } else if self.outs.len() < OUT_MAX && len <= STAGE_OUT_SIZE - self.out_bytes {
            word::STAGE_OUT + self.out_bytes
        } else {
            return None;
        };
        self.room = (address, offset, len);
        Some(port.room(offset, len))
    }

    /// The first `len` bytes of the last room are to be copied out.
    pub fn commit(&mut self, port: &Port, len: usize) {
        let (address, offset, room) = std::mem::take(&mut self.room);
        let len = len.min(room);
        let entry = word::OUT - self.outs.len() * 16;
        port.set64(entry, address);
        port.set32(entry + 8, offset as u32);
        port.set32(entry + 12, len as u32);
        self.outs.push((address, offset, len));
        if offset >= word::STAGE_OUT {
            self.out_bytes += len.next_multiple_of(8);
        }
    }

    /// The outputs leave with a reply; how many there are.
    pub fn leave(&mut self) -> u32 {
        let count = self.outs.len() as u32;
        self.outs.clear();
        self.out_bytes = 0;
        count
    }

    /// Writes outputs now that were to travel with the reply. A bad address is the guest's loss.
    pub fn flush(&mut self, port: &Port, worker: &Worker) {
        for (address, offset, len) in self.outs.drain(..) {
            let mut bytes = vec![0; len];
            port.read(offset, &mut bytes);
            worker.write(address, &bytes);
        }
        self.out_bytes = 0;
    }
}
