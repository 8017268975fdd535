//! Orders that a thread carries out in its worker: memory, guarded exchange, wakes, rseq.

use std::sync::atomic::Ordering;

use coracle_abi::Errno;
use coracle_abi::port::{BATCH_MAX, CALL_SIZE, CPU_SET_SIZE, VDSO_SIZE, action, kind, word};
use coracle_platform::{Gone, MapSource, MemoryCall, Space};

use super::super::notify::Expected;
use super::super::plan::{FROM, SYSCALL};
use super::super::texts::Text;
use super::{At, SeccompThread};

/// Descriptors a worker may hold for mapping before the oldest uses are forgotten.
const FILES_MAX: usize = 64;
/// The number that the first file of a batch has in the worker. 0 is the filter's listener there.
const FIRST_FILE: u32 = 3;

impl SeccompThread {
    /// Every thread of the worker has executed a serialising instruction when this returns.
    pub fn synchronise_cores(&mut self) -> Result<(), Gone> {
        const REGISTER: u64 = 64;
        const SYNC_CORE: u64 = 32;
        for command in [REGISTER, SYNC_CORE] {
            self.put_order(libc::SYS_membarrier as u64, [command, 0, 0, 0, 0, 0]);
            self.order(action::ORDER)?;
        }
        Ok(())
    }

    /// Has the thread confine itself to CPUs, if it is to.
    pub(super) fn set_cpus(&mut self) -> Result<(), Gone> {
        let Some(bits) = self.control.take_cpus() else { return Ok(()) };
        self.freeze_for_order()?;
        let set = self.shared.cpus.address(&bits, self.worker.base);
        self.put_order(libc::SYS_sched_setaffinity as u64, [0, CPU_SET_SIZE as u64, set, 0, 0, 0]);
        if let Err(errno) = Errno::check(self.order(action::ORDER)?) {
            log::warn!("a thread's CPUs are recorded, but not enforced: {errno}");
        }
        Ok(())
    }

    pub(super) fn order_memory(&mut self, call: &MemoryCall) -> Result<Result<u64, Errno>, Gone> {
        self.freeze_for_order()?;
        let text = self.find_text(call);
        self.order_text(call, text)
    }

    /// What the sandbox knows of the text that a call maps.
    fn find_text(&self, call: &MemoryCall) -> Option<Text> {
        let text = self.shared.texts.find(call)?;
        Some(if self.worker.sites.lock().is_exact() { text.plain() } else { text })
    }

    fn order_text(&mut self, call: &MemoryCall, text: Option<Text>) -> Result<Result<u64, Errno>, Gone> {
        self.freeze_for_order()?;
        self.forget_sites(call);
        self.note_vdso(call);
        if let Some(text) = &text
            && let Some(result) = self.map_shared(call, text)?
        {
            self.worker.sites.lock().add(text.clone());
            return Ok(Ok(result));
        }
        let (number, args) = encode(call);
        let result = match call {
            MemoryCall::MapFile { file, .. } => self.map_file(args, file)?,
            _ => {
                self.put_order(number, args);
                self.order(action::ORDER)?
            }
        };
        if let Some(text) = text {
            self.worker.sites.lock().add(text.plain());
        }
        Ok(Errno::check(result))
    }

    /// Maps the sandbox's own form of a text; `None` if there is none, or no place for its trampolines.
    fn map_shared(&mut self, call: &MemoryCall, text: &Text) -> Result<Option<u64>, Gone> {
        let Some(calls) = text.calls(call).filter(|_| !self.worker.sites.lock().is_full()) else {
            return Ok(None);
        };
        let mut last = None;
        for call in &calls {
            let (_, args) = encode(call);
            let MemoryCall::MapFile { address, ref file, .. } = *call else { return Ok(None) };
            if self.map_file(args, file)? != address {
                return Ok(None);
            }
            last = Some(address);
        }
        Ok(last)
    }

    /// A call has trapped here: whoever maps the file later need not learn it again.
    pub fn learn(&self, rip: u64, number: u64) {
        let site = rip.wrapping_sub(2);
        let Some((key, offset)) = self.worker.sites.lock().in_file(site) else { return };
        if self.shared.texts.knows(&key, offset) {
            return;
        }
        let mut bytes = [0; FROM];
        if self.worker.read(site, &mut bytes) == FROM && bytes.starts_with(&SYSCALL) {
            self.shared.texts.learn(key, offset, number, bytes);
        }
    }

    pub(super) fn resume_with_memory(&mut self, call: &MemoryCall) -> Result<u32, Gone> {
        let (number, mut args) = encode(call);
        let mut text = None;
        if let MemoryCall::MapFile { file, .. } = call {
            text = self.find_text(call);
            match self.held(file).filter(|_| text.as_ref().is_none_or(|text| !text.is_shared())) {
                Some(held) => args[4] = held as u64,
                None => {
                    let result = self.order_text(call, text)?;
                    let value = result.unwrap_or_else(Errno::to_ret);
                    if self.regs_loaded {
                        self.regs.rax = value;
                        return Ok(self.store_regs());
                    }
                    self.leave_site();
                    self.port.set64(word::RESULT, value);
                    return Ok(action::RETURN);
                }
            }
        }
        self.forget_sites(call);
        if let Some(text) = text {
            self.worker.sites.lock().add(text);
        }
        self.leave_site();
        self.put_order(number, args);
        Ok(action::ORDER_RETURN)
    }

    /// Calls for a docked worker travel with the files that they name; any other makes them one by one.
    pub(super) fn order_batch(&mut self, calls: &[MemoryCall]) -> Result<Result<(), Errno>, Gone> {
        let mut files = sources(calls);
        let dock = self.dock.take_if(|_| calls.len() + files.len() <= BATCH_MAX);
        let Some(dock) = dock else {
            for call in calls {
                if let Err(errno) = self.order_memory(call)? {
                    return Ok(Err(errno));
                }
            }
            files.iter().for_each(|source| self.worker.forget_file(source.key));
            return Ok(Ok(()));
        };
        let (shared, texts) = self.with_shared_texts(calls);
        let mut calls = calls;
        let fits = shared.len() + sources(&shared).len() <= BATCH_MAX;
        if fits {
            files = sources(&shared);
            calls = &shared;
        }
        {
            let mut sites = self.worker.sites.lock();
            texts.into_iter().for_each(|text| sites.add(if fits { text } else { text.plain() }));
        }
        let number = |source: &MapSource| files.iter().position(|known| known.key == source.key);
        for (index, call) in calls.iter().enumerate() {
            self.note_vdso(call);
            let (name, mut args) = encode(call);
            if let MemoryCall::MapFile { file, .. } = call
                && let Some(at) = number(file)
            {
                args[4] = u64::from(FIRST_FILE) + at as u64;
            }
            self.put_batch(index, name, args);
        }
        for at in 0..files.len() {
            let close = [u64::from(FIRST_FILE) + at as u64, 0, 0, 0, 0, 0];
            self.put_batch(calls.len() + at, libc::SYS_close as u64, close);
        }
        self.port.set32(word::BATCH_COUNT, (calls.len() + files.len()) as u32);
        let files: Vec<_> = files.iter().map(|source| source.file.clone()).collect();
        let docked = dock.arrive(&self.shared)?;
        self.pace.announce(&self.port);
        if !self.shared.notifier.undock(docked, &files, FIRST_FILE) {
            return Err(Gone);
        }
        match self.wait()? {
            kind::READY => {
                self.at = At::Start { ready: true };
                self.pace.program_begins();
                Ok(Errno::check(self.port.get64(word::RESULT)).map(|_| ()))
            }
            _ => self.lied("did not get ready"),
        }
    }

    /// The same calls with shared text where there is some, and all text that they map. The address space is
    /// empty but for them.
    fn with_shared_texts(&self, calls: &[MemoryCall]) -> (Vec<MemoryCall>, Vec<Text>) {
        let mut taken: Vec<(u64, u64)> = calls.iter().map(range).collect();
        let (mut all, mut texts) = (Vec::with_capacity(calls.len() + 4), Vec::new());
        for call in calls {
            let text = self.shared.texts.find(call);
            let shared = text.as_ref().and_then(|text| text.calls(call)).filter(|[area, _]| {
                let (start, len) = range(area);
                taken.iter().all(|(other, size)| start >= other.saturating_add(*size) || *other >= start + len)
            });
            match shared {
                Some(pair) => {
                    taken.push(range(&pair[0]));
                    all.extend(pair);
                    texts.extend(text);
                }
                None => {
                    all.push(call.clone());
                    texts.extend(text.map(Text::plain));
                }
            }
        }
        (all, texts)
    }

    fn put_batch(&self, index: usize, number: u64, args: [u64; 6]) {
        let at = word::BATCH + index * CALL_SIZE;
        self.port.set64(at, number);
        for (index, value) in args.into_iter().enumerate() {
            self.port.set64(at + 8 + index * 8, value);
        }
    }

    pub(super) fn order_exchange(&mut self, address: u64, old: u32, new: u32) -> Result<Result<u32, Errno>, Gone> {
        if !address.is_multiple_of(4) || address >= self.worker.base {
            return Ok(Err(Errno::EFAULT));
        }
        self.freeze_for_order()?;
        for (index, value) in [address, u64::from(old), u64::from(new)].into_iter().enumerate() {
            self.port.set64(word::GUARDED + index * 8, value);
        }
        Ok(Errno::check(self.order(action::EXCHANGE)?).map(|value| value as u32))
    }

    /// Its end is not waited for.
    pub(super) fn order_farewell(
        &mut self,
        rseq: Option<(u64, u32, u32, u32)>,
        cleared: Option<u64>,
    ) -> Result<(), Gone> {
        self.freeze_for_order()?;
        match rseq {
            Some((area, len, flags, signature)) => {
                let args = [area, u64::from(len), u64::from(flags), u64::from(signature), 0, 0];
                self.put_order(libc::SYS_rseq as u64, args);
            }
            None => self.put_order(0, [0; 6]),
        }
        let cleared = cleared.filter(|address| *address < self.worker.base).unwrap_or(0);
        self.port.set64(word::GUARDED, cleared);
        self.reply(action::FAREWELL);
        self.owes = true;
        Ok(())
    }

    pub(super) fn order_wake(&mut self, address: u64, count: u32) -> Result<u64, Gone> {
        self.freeze_for_order()?;
        // Both forms: the waiter may have used either (a shared waiter of private memory included).
        let mut woken = 0;
        for operation in [libc::FUTEX_WAKE, libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG] {
            let left = u64::from(count).saturating_sub(woken);
            self.put_order(libc::SYS_futex as u64, [address, operation as u64, left, 0, 0, 0]);
            woken += Errno::check(self.order(action::ORDER)?).unwrap_or(0);
            if woken >= u64::from(count) {
                break;
            }
        }
        Ok(woken)
    }

    pub(super) fn order_rseq(
        &mut self,
        area: u64,
        len: u32,
        flags: u32,
        signature: u32,
    ) -> Result<Result<u64, Errno>, Gone> {
        if area >= self.worker.base {
            // No address of the guest's, as the kernel's own addresses are none on Linux: the order of kernel/rseq.c.
            let right = flags == 0 && len >= 32 && area.is_multiple_of(32);
            return Ok(Err(if right { Errno::EFAULT } else { Errno::EINVAL }));
        }
        self.freeze_for_order()?;
        let args = [area, u64::from(len), u64::from(flags), u64::from(signature), 0, 0];
        self.put_order(libc::SYS_rseq as u64, args);
        Ok(Errno::check(self.order(action::ORDER)?))
    }

    /// The number under which the worker holds a file, if it does.
    fn held(&self, source: &MapSource) -> Option<i32> {
        self.worker.files.lock().numbers.get(&source.key).copied()
    }

    /// Lets the next order close what is no longer needed.
    fn close_one(&self) {
        let mut files = self.worker.files.lock();
        if files.numbers.len() > FILES_MAX
            && let Some(key) = files.numbers.keys().next().copied()
            && let Some(number) = files.numbers.remove(&key)
        {
            files.close.push(number);
        }
        let number = files.close.pop().map_or(0, |number| number as u32 + 1);
        self.port.set32(word::CLOSE, number);
    }

    /// Has the worker map a file that it may have to get first.
    fn map_file(&mut self, args: [u64; 6], source: &MapSource) -> Result<u64, Gone> {
        let mut args = args;
        if let Some(number) = self.held(source) {
            args[4] = number as u64;
            self.put_order(libc::SYS_mmap as u64, args);
            return self.order(action::ORDER);
        }
        self.close_one();
        self.put_order(libc::SYS_mmap as u64, args);
        let tid = self.control.tid();
        let child = self.worker.child();
        let slot = self.shared.notifier.expect(child, tid, Expected::Descriptor(source.file.clone()));
        let result = self.order(action::NOTIFY_ORDER);
        match slot.get() {
            Some(number) => _ = self.worker.files.lock().numbers.insert(source.key, number),
            None => self.shared.notifier.forget(self.worker.child(), tid),
        }
        result
    }

    /// A program's loader moves the vDSO's image from where new workers have it.
    fn note_vdso(&self, call: &MemoryCall) {
        if let MemoryCall::Remap { old, new, .. } = call
            && *old == self.worker.base - VDSO_SIZE
        {
            self.worker.vdso.store(*new, Ordering::Relaxed);
        }
    }

    /// New text: what was known of the call sites there is void.
    fn forget_sites(&self, call: &MemoryCall) {
        if let MemoryCall::MapFile { address, len, prot: 4.., .. } = call {
            self.worker.sites.lock().forget(*address, *len);
        }
    }
}

/// What a call maps at a fixed place.
fn range(call: &MemoryCall) -> (u64, u64) {
    match *call {
        MemoryCall::MapAnonymous { address, len, .. } | MemoryCall::MapFile { address, len, .. } => (address, len),
        MemoryCall::Remap { new, new_len, .. } => (new, new_len),
        _ => (0, 0),
    }
}

/// The different files among the calls.
fn sources(calls: &[MemoryCall]) -> Vec<MapSource> {
    let mut files: Vec<MapSource> = Vec::new();
    for call in calls {
        if let MemoryCall::MapFile { file, .. } = call
            && files.iter().all(|known| known.key != file.key)
        {
            files.push(file.clone());
        }
    }
    files
}

fn encode(call: &MemoryCall) -> (u64, [u64; 6]) {
    let none = u64::MAX;
    let (number, args) = match *call {
        MemoryCall::MapAnonymous { address, len, prot, flags } => {
            (libc::SYS_mmap, [address, len, prot.into(), u64::from(flags | libc::MAP_ANONYMOUS as u32), none, 0])
        }
        MemoryCall::MapFile { address, len, prot, flags, offset, .. } => {
            (libc::SYS_mmap, [address, len, prot.into(), flags.into(), none, offset])
        }
        MemoryCall::Unmap { address, len } => (libc::SYS_munmap, [address, len, 0, 0, 0, 0]),
        MemoryCall::Protect { address, len, prot } => (libc::SYS_mprotect, [address, len, prot.into(), 0, 0, 0]),
        MemoryCall::Advise { address, len, advice } => (libc::SYS_madvise, [address, len, advice.into(), 0, 0, 0]),
        MemoryCall::Remap { old, old_len, new_len, flags, new } => {
            (libc::SYS_mremap, [old, old_len, new_len, flags.into(), new, 0])
        }
        MemoryCall::Sync { address, len, flags } => (libc::SYS_msync, [address, len, flags.into(), 0, 0, 0]),
    };
    (number as u64, args)
}
