//! Bytes that travel with a request or its reply, through the port's staging areas.

use coracle_abi::port::{OUT_MAX, STAGE_IN_SIZE, STAGE_OUT_SIZE, word};

use coracle_platform::Space;

use super::super::ports::Port;
use super::super::worker::Worker;

/// What one call staged. Empty while the thread stands anywhere but in a call by the fast path.
pub(super) struct Staging {
    /// Guest address of the input, and the copy that is looked at.
    input: (u64, Vec<u8>),
    /// Outputs that travel with the reply: guest address, offset and length in the staging area.
    outs: Vec<(u64, usize, usize)>,
    out_bytes: usize,
    /// What `room` promised and `commit` will take.
    room: (u64, usize),
}

impl Staging {
    pub fn new() -> Staging {
        Staging { input: (0, Vec::new()), outs: Vec::with_capacity(OUT_MAX), out_bytes: 0, room: (0, 0) }
    }

    /// Copies what came with a request.
    pub fn arrive(&mut self, port: &Port) {
        let len = (port.get32(word::IN_LENGTH) as usize).min(STAGE_IN_SIZE);
        self.input.0 = port.get64(word::IN_ADDRESS);
        self.input.1.resize(len, 0);
        if len > 0 {
            port.read(word::STAGE_IN, &mut self.input.1);
        }
    }

    /// The staged bytes from `address` on.
    pub fn input(&self, address: u64) -> &[u8] {
        let (start, bytes) = &self.input;
        address.checked_sub(*start).and_then(|at| bytes.get(usize::try_from(at).ok()?..)).unwrap_or_default()
    }

    /// Room for `len` bytes of output at a guest address.
    pub fn room<'a>(&mut self, port: &'a mut Port, address: u64, len: usize) -> Option<&'a mut [u8]> {
        if self.outs.len() >= OUT_MAX || len > STAGE_OUT_SIZE - self.out_bytes {
            return None;
        }
        self.room = (address, len);
        Some(port.room(word::STAGE_OUT + self.out_bytes, len))
    }

    /// The first `len` bytes of the last room are to be copied out.
    pub fn commit(&mut self, port: &Port, len: usize) {
        let (address, room) = std::mem::take(&mut self.room);
        let len = len.min(room);
        let entry = word::OUT + self.outs.len() * 16;
        port.set64(entry, address);
        port.set32(entry + 8, (word::STAGE_OUT + self.out_bytes) as u32);
        port.set32(entry + 12, len as u32);
        self.outs.push((address, self.out_bytes, len));
        self.out_bytes += len.next_multiple_of(8);
    }

    /// The outputs leave with a reply.
    pub fn leave(&mut self, port: &Port) {
        port.set32(word::OUT_COUNT, self.outs.len() as u32);
        self.outs.clear();
        self.out_bytes = 0;
    }

    /// Writes outputs now that were to travel with the reply. A bad address is the guest's loss.
    pub fn flush(&mut self, port: &Port, worker: &Worker) {
        let mut bytes = vec![0; self.out_bytes];
        port.read(word::STAGE_OUT, &mut bytes);
        for (address, at, len) in self.outs.drain(..) {
            worker.write(address, bytes.get(at..at + len).unwrap_or_default());
        }
        self.out_bytes = 0;
    }
}
