//! One guest thread as its kernel thread sees it: requests, replies, orders.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::time::Duration;

use coracle_abi::Errno;
use coracle_abi::port::{
    COLD, HEAT_SLOTS, HOT, INTERRUPT_SIGNAL, MAGIC, OUT_MAX, PORT_SIZE, PORTS_OFFSET, POSTED, REPLIED,
    STAGE_IN_SIZE, STAGE_OUT_SIZE, action, kind, word,
};
use coracle_blobs::label;
use coracle_platform::{
    Death, Fault, ForkError, Gone, Identity, LaneCounts, MapSource, MemoryCall, Regs, Resume, Space, Thread,
    ThreadControl, Trap, Vessel,
};

use super::frame::{self, Place};
use super::notify::Expected;
use super::pace::Pace;
use super::ports::Port;
use super::table;
use super::worker::{DEAD, Worker};
use super::{Shared, rewrite};

/// Descriptors a worker may hold for mapping before the oldest uses are forgotten.
const FILES_MAX: usize = 64;
/// How long a new worker may take to announce itself.
const BIRTH: Duration = Duration::from_secs(10);

/// Where the guest thread stands.
#[derive(Clone, Copy)]
enum At {
    /// Before its first guest instruction, in the shim's `first_orders`.
    Start,
    /// In a system call by the fast path.
    Fast,
    /// In a handler, with a frame.
    Frame(Place),
}

/// One guest thread in the kernel's hands.
pub struct SeccompThread {
    shared: Arc<Shared>,
    worker: Arc<Worker>,
    port: Port,
    index: usize,
    at: At,
    control: Arc<Control>,
    pace: Pace,
    regs: Regs,
    /// `regs` were read, so they are written back.
    regs_loaded: bool,
    /// The segment bases as they were read, to see whether they are to be changed.
    bases: (u64, u64),
    /// The guest stands in a system call.
    in_call: bool,
    /// Outputs that travel with the reply: guest address, offset and length in the staging area.
    outs: Vec<(u64, usize, usize)>,
    out_bytes: usize,
    /// Staged input: address, and the copy that is looked at.
    staged: (u64, Vec<u8>),
    room: (u64, usize),
}

/// What others may do to the thread.
pub struct Control {
    worker: Arc<Worker>,
    port: Port,
    tid: AtomicU32,
}

impl SeccompThread {
    /// A thread that will post `READY`, whose port is `index`.
    pub fn new(shared: Arc<Shared>, worker: Arc<Worker>, index: usize, tid: u32) -> SeccompThread {
        let port = worker.ports.port(index);
        let control = Arc::new(Control { worker: worker.clone(), port: port.clone(), tid: AtomicU32::new(tid) });
        SeccompThread {
            shared,
            worker,
            port,
            index,
            at: At::Start,
            control,
            pace: Pace::default(),
            regs: Regs { rflags: 0x202, ..Regs::default() },
            regs_loaded: true,
            bases: (0, 0),
            in_call: false,
            outs: Vec::with_capacity(OUT_MAX),
            out_bytes: 0,
            staged: (0, Vec::new()),
            room: (0, 0),
        }
    }

    /// The zygote's thread, which has posted `READY` and carries out orders from then on.
    pub fn zygote(shared: Arc<Shared>, worker: Arc<Worker>) -> SeccompThread {
        let tid = worker.pid as u32;
        SeccompThread::new(shared, worker, 0, tid)
    }

    /// Waits for the zygote's first request; returns the result that came along.
    pub fn first_result(worker: &Arc<Worker>) -> Result<u64, Gone> {
        let port = worker.ports.port(0);
        Pace::default().wait(&port, || worker.death().is_some());
        if worker.death().is_some() {
            return Err(Gone);
        }
        Ok(port.get64(word::RESULT))
    }

    /// The worker that this thread runs in.
    pub fn worker(&self) -> &Arc<Worker> {
        &self.worker
    }

    /// The thread need not show this site again.
    pub fn mark_cold(&self, rip: u64) {
        self.port.set64(word::HEAT + heat_slot(rip), rip | COLD << 48);
    }

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

    fn address(&self) -> u64 {
        port_address(&self.worker, self.index)
    }

    /// Waits for the next request and says what kind it is.
    fn wait(&mut self) -> Result<u32, Gone> {
        self.pace.wait(&self.port, || self.worker.death().is_some());
        if self.port.state().load(Ordering::SeqCst) != POSTED || self.worker.death().is_some() {
            return Err(Gone);
        }
        // Whatever was asked of the thread, it has stopped now.
        self.port.set32(word::INTERRUPT_DONE, self.port.get32(word::INTERRUPT_ASKED));
        Ok(self.port.get32(word::KIND))
    }

    /// Replies with an action, and interrupts again if that was asked for meanwhile.
    fn reply(&mut self, what: u32) {
        self.port.set32(word::OUT_COUNT, self.outs.len() as u32);
        self.outs.clear();
        self.out_bytes = 0;
        self.port.set32(word::ACTION, what);
        self.pace.replying(&self.port);
        // Not over the mark of death.
        let _ = self.port.state().compare_exchange(POSTED, REPLIED, Ordering::SeqCst, Ordering::SeqCst);
        if self.port.get32(word::GUEST_SLEEPS) != 0 {
            wake_word(self.port.state());
        }
        if self.port.get32(word::INTERRUPT_ASKED) != self.port.get32(word::INTERRUPT_DONE) {
            self.control.signal();
        }
    }

    /// One order to the thread while it is in a handler (or at its start): action, then the result.
    fn order(&mut self, what: u32) -> Result<u64, Gone> {
        self.reply(what);
        match self.wait()? {
            kind::DONE => Ok(self.port.get64(word::RESULT)),
            _ => self.lied("did not carry out an order"),
        }
    }

    fn lied<T>(&self, how: &'static str) -> Result<T, Gone> {
        self.worker.lied(how);
        Err(Gone)
    }

    fn put_order(&self, number: u64, args: [u64; 6]) {
        self.port.set64(word::ORDER, number);
        for (index, value) in args.into_iter().enumerate() {
            self.port.set64(word::ORDER + 8 + index * 8, value);
        }
    }

    /// Makes sure there is a frame (or that the thread is at its start). Only handlers take all orders.
    fn enter_handler(&mut self) -> Result<(), Gone> {
        if !matches!(self.at, At::Fast) {
            return Ok(());
        }
        self.flush();
        // If the site is rewritten by another thread just now, the call comes by the fast path once more.
        for _ in 0..3 {
            self.reply(action::TRAP);
            match self.wait()? {
                kind::TRAP => return self.arrive_in_frame(),
                kind::FAST => {}
                _ => break,
            }
        }
        self.lied("did not come back by trap")
    }

    /// Writes outputs now that were to travel with the reply. A bad address is the guest's loss.
    fn flush(&mut self) {
        let mut bytes = vec![0; self.out_bytes];
        self.port.read(word::STAGE_OUT, &mut bytes);
        for (address, at, len) in self.outs.drain(..) {
            self.worker.write(address, bytes.get(at..at + len).unwrap_or_default());
        }
        self.out_bytes = 0;
    }

    fn arrive_in_frame(&mut self) -> Result<(), Gone> {
        match frame::locate(&self.port, self.address()) {
            Some(place) => {
                self.at = At::Frame(place);
                self.regs_loaded = false;
                Ok(())
            }
            None => self.lied("named no frame"),
        }
    }

    /// A thread that trapped at a site which was rewritten meanwhile goes on in the trampoline.
    fn leave_site(&self) {
        if let At::Frame(place) = self.at {
            let rip = frame::rip(&self.port, place);
            let goes_on = self.worker.sites.lock().to_trampoline(rip);
            if goes_on != rip {
                frame::set_rip(&self.port, place, goes_on);
            }
        }
    }

    fn load_regs(&mut self) {
        if self.regs_loaded {
            return;
        }
        if let At::Frame(place) = self.at {
            self.regs = frame::read(&self.port, place);
            self.regs.fs_base = self.port.get64(word::FS_BASE);
            let gs = self.port.get64(word::GS_BASE);
            self.regs.gs_base = if gs == self.address() { 0 } else { gs };
            self.bases = (self.regs.fs_base, self.regs.gs_base);
            self.regs.rip = self.worker.sites.lock().to_site(self.regs.rip);
        }
        self.regs_loaded = true;
    }

    /// Puts the registers in their place and says by which action the thread takes them.
    fn store_regs(&mut self) -> u32 {
        if !self.regs_loaded {
            return action::CONTINUE;
        }
        let mut regs = self.regs.clone();
        let gs = if regs.gs_base == 0 { self.address() } else { regs.gs_base };
        match self.at {
            At::Frame(place) => {
                regs.rip = self.worker.sites.lock().to_trampoline(regs.rip);
                frame::write(&self.port, self.address(), place, &mut regs);
                if self.bases == (regs.fs_base, regs.gs_base) {
                    return action::CONTINUE;
                }
            }
            _ => {
                let start = frame::create(&self.port, self.address(), &mut regs, false);
                self.port.set64(word::START_FRAME, start);
            }
        }
        self.port.set64(word::FS_BASE, regs.fs_base);
        self.port.set64(word::GS_BASE, gs);
        action::CONTINUE_BASES
    }

    /// The trap that the present request is.
    fn trap(&mut self, what: u32) -> Result<Trap, Gone> {
        self.in_call = matches!(what, kind::FAST | kind::TRAP);
        match what {
            kind::FAST => {
                self.at = At::Fast;
                let len = (self.port.get32(word::IN_LENGTH) as usize).min(STAGE_IN_SIZE);
                self.staged.0 = self.port.get64(word::IN_ADDRESS);
                self.staged.1.resize(len, 0);
                if len > 0 {
                    self.port.read(word::STAGE_IN, &mut self.staged.1);
                }
                // Trapped, and sent on through the fast path by the handler.
                let trapped = self.port.get64(word::SITE) == self.port.get64(word::RETURN);
                if trapped {
                    self.port.set64(word::SITE, 0);
                    self.port.set64(word::LANE3, self.port.get64(word::LANE3).wrapping_sub(1));
                }
                Ok(self.call(if trapped { 4 } else { 3 }))
            }
            kind::TRAP => {
                self.arrive_in_frame()?;
                let trap = self.call(4);
                if let At::Frame(place) = self.at {
                    let rip = frame::rip(&self.port, place);
                    if self.port.get64(word::HEAT + heat_slot(rip)) == rip | HOT << 48 {
                        let number = self.port.get64(word::NUMBER);
                        rewrite::shown(self, rip, number)?;
                    }
                }
                Ok(trap)
            }
            kind::FAULT => {
                self.arrive_in_frame()?;
                self.fault()
            }
            kind::INTERRUPT => {
                self.arrive_in_frame()?;
                let call = self.port.get32(word::INTERRUPTED_CALL).checked_sub(1);
                Ok(Trap::Interrupted { call: call.map(u64::from) })
            }
            _ => self.lied("posted an unknown kind of request"),
        }
    }

    fn call(&self, lane: u8) -> Trap {
        let mut args = [0; 6];
        for (index, argument) in args.iter_mut().enumerate() {
            *argument = self.port.get64(word::ARGS + index * 8);
        }
        Trap::Syscall { number: self.port.get64(word::NUMBER), args, lane }
    }

    fn fault(&mut self) -> Result<Trap, Gone> {
        let At::Frame(place) = self.at else { return self.lied("faulted without a frame") };
        let signal = self.port.get32(word::SIGNAL) as i32;
        let info = self.port.get64(word::INFO).wrapping_sub(self.address());
        if !Port::contains(info, 128) || !info.is_multiple_of(8) {
            return self.lied("faulted without a siginfo");
        }
        let code = self.port.get32(info as usize + 8) as i32;
        let address = self.port.get64(info as usize + 16);
        let (trap_number, error_code, _) = frame::exception(&self.port, place);
        self.load_regs();
        // A jump behind a `syscall` that is no longer there, or into one that is being replaced.
        if (signal == libc::SIGILL || signal == libc::SIGTRAP)
            && let Some(goes_on) = self.worker.sites.lock().inside(self.regs.rip)
        {
            self.regs.rip = goes_on;
            return Ok(Trap::Interrupted { call: None });
        }
        // Calls 335 and 336 (uretprobe, uprobe) bypass the filter: the host raises SIGILL behind the instruction.
        let mut before = [0; 2];
        if signal == libc::SIGILL
            && self.worker.read(self.regs.rip.wrapping_sub(2), &mut before) == 2
            && before == [0x0f, 0x05]
        {
            self.regs.rax = Errno::ENOSYS.to_ret();
            return Ok(Trap::Interrupted { call: None });
        }
        if !(1..=64).contains(&signal) {
            return self.lied("faulted with no signal");
        }
        Ok(Trap::Fault(Fault { signal, code, address, trap_number, error_code }))
    }

    fn died(&self) -> Trap {
        let patience = std::time::Instant::now();
        loop {
            if let Some(death) = self.worker.death() {
                return Trap::Died(death);
            }
            if patience.elapsed() > BIRTH {
                return Trap::Died(Death::Lied("does not die"));
            }
            self.worker.kill();
            std::thread::sleep(Duration::from_millis(1));
        }
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
        let tid = self.control.tid.load(Ordering::Relaxed);
        let slot = self.shared.notifier.expect(tid, Expected::Descriptor(source.file.clone()));
        let result = self.order(action::NOTIFY_ORDER);
        match slot.get() {
            Some(number) => _ = self.worker.files.lock().numbers.insert(source.key, number),
            None => self.shared.notifier.forget(tid),
        }
        result
    }

    /// Clones as ordered; `result` is the host's.
    fn clone_host(&mut self, flags: u64, stack: u64, child_tid: u64, cookie: u64) -> Result<u64, Gone> {
        self.put_order(libc::SYS_clone as u64, [flags, stack, 0, child_tid, 0, 0]);
        self.port.set64(word::COOKIE, cookie);
        let tid = self.control.tid.load(Ordering::Relaxed);
        self.shared.notifier.expect(tid, Expected::Clone([flags, stack, 0, child_tid, 0]));
        let result = self.order(action::CLONE);
        self.shared.notifier.forget(tid);
        result
    }

    /// Clones this worker (or the zygote) into a new one with `ports`, which starts at `first_orders`.
    pub fn clone_worker(&mut self, ports: Arc<super::ports::Ports>) -> Result<Arc<Worker>, ForkError> {
        let base = self.worker.base;
        let port = ports.port(self.index);
        prepare_port(&port, port_address(&self.worker, self.index), base, &self.shared, true);
        let cookie = self.shared.cookie();
        let slot = self.shared.notifier.expect_newborn(cookie, ports.clone());
        // Dying between here and the reaper's list would go unnoticed: the reaper keeps what it does not know.
        let result = self.clone_host((libc::CLONE_PARENT | libc::SIGCHLD) as u64, 0, 0, cookie);
        let pid = match result.map(Errno::check) {
            Ok(Ok(_)) => slot.wait(BIRTH),
            Ok(Err(errno)) => {
                self.shared.notifier.forget_newborn(cookie);
                return Err(ForkError::Refused(errno));
            }
            Err(Gone) => slot.get(),
        };
        self.shared.notifier.forget_newborn(cookie);
        let Some(pid) = pid else { return Err(ForkError::Gone) };
        let worker = Worker::new(pid, base, ports, self.index);
        self.shared.reaper.adopt(&worker);
        Ok(worker)
    }
}

impl Thread for SeccompThread {
    fn run(&mut self, resume: Resume<'_>) -> Trap {
        let what = match resume {
            Resume::Return(value) => {
                if self.regs_loaded && matches!(self.at, At::Frame(_)) {
                    self.regs.rax = value;
                    self.store_regs()
                } else {
                    self.leave_site();
                    self.port.set64(word::RESULT, value);
                    action::RETURN
                }
            }
            Resume::Continue => {
                if self.freeze_for_order().is_err() {
                    return self.died();
                }
                self.store_regs()
            }
            Resume::Memory(call) => match self.resume_with_memory(call) {
                Ok(what) => what,
                Err(Gone) => return self.died(),
            },
        };
        self.reply(what);
        let arrived = self.wait();
        match arrived.and_then(|kind| self.trap(kind)) {
            Ok(trap) => trap,
            Err(Gone) => self.died(),
        }
    }

    fn freeze(&mut self, result: u64) -> Result<&mut Regs, Gone> {
        self.freeze_for_order()?;
        self.load_regs();
        // The call is over: what is edited from now on, RAX included, stays.
        if std::mem::take(&mut self.in_call) {
            self.regs.rax = result;
        }
        Ok(&mut self.regs)
    }

    fn staged(&self, address: u64, into: &mut [u8]) -> bool {
        let (start, bytes) = &self.staged;
        let piece = address.checked_sub(*start).and_then(|at| bytes.get(at as usize..)?.get(..into.len()));
        match piece {
            Some(piece) if matches!(self.at, At::Fast) => {
                into.copy_from_slice(piece);
                true
            }
            _ => false,
        }
    }

    fn staged_prefix(&self, address: u64, into: &mut [u8]) -> usize {
        let (start, bytes) = &self.staged;
        if !matches!(self.at, At::Fast) {
            return 0;
        }
        let rest = address.checked_sub(*start).and_then(|at| bytes.get(at as usize..)).unwrap_or_default();
        let count = rest.len().min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        count
    }

    fn stage_out(&mut self, address: u64, from: &[u8]) -> bool {
        match self.stage_room(address, from.len()) {
            Some(room) => {
                room.copy_from_slice(from);
                self.stage_commit(from.len());
                true
            }
            None => false,
        }
    }

    fn stage_room(&mut self, address: u64, len: usize) -> Option<&mut [u8]> {
        let guest = address.checked_add(len as u64).is_some_and(|end| end <= self.worker.base);
        let fits = self.outs.len() < OUT_MAX && len <= STAGE_OUT_SIZE - self.out_bytes;
        if !matches!(self.at, At::Fast) || !guest || !fits {
            return None;
        }
        self.room = (address, len);
        Some(self.port.room(word::STAGE_OUT + self.out_bytes, len))
    }

    fn stage_commit(&mut self, len: usize) {
        let len = len.min(self.room.1);
        let entry = word::OUT + self.outs.len() * 16;
        self.port.set64(entry, self.room.0);
        self.port.set32(entry + 8, (word::STAGE_OUT + self.out_bytes) as u32);
        self.port.set32(entry + 12, len as u32);
        self.outs.push((self.room.0, self.out_bytes, len));
        self.out_bytes += len.next_multiple_of(8);
        self.room = (0, 0);
    }

    fn memory(&mut self, call: &MemoryCall) -> Result<Result<u64, Errno>, Gone> {
        self.freeze_for_order()?;
        self.forget_sites(call);
        let (number, args) = encode(call);
        let result = match call {
            MemoryCall::MapFile { file, .. } => self.map_file(args, file)?,
            _ => {
                self.put_order(number, args);
                self.order(action::ORDER)?
            }
        };
        Ok(Errno::check(result))
    }

    fn spawn_thread(&mut self, edit: &mut dyn FnMut(&mut Regs)) -> Result<Box<dyn Thread>, ForkError> {
        self.freeze_for_order()?;
        let index = self.worker.take_port().ok_or(ForkError::Refused(Errno::EAGAIN))?;
        let port = self.worker.ports.port(index);
        let address = port_address(&self.worker, index);
        prepare_port(&port, address, self.worker.base, &self.shared, false);
        let flags = libc::CLONE_VM
            | libc::CLONE_FS
            | libc::CLONE_FILES
            | libc::CLONE_SIGHAND
            | libc::CLONE_THREAD
            | libc::CLONE_SYSVSEM
            | libc::CLONE_CHILD_SETTID
            | libc::CLONE_CHILD_CLEARTID;
        let tid_word = address + word::HOST_TID as u64;
        let tid = match Errno::check(self.clone_host(flags as u64, address + PORT_SIZE - 64, tid_word, 0)?) {
            Ok(tid) => tid as u32,
            Err(errno) => {
                self.worker.give_port(index);
                return Err(ForkError::Refused(errno));
            }
        };
        // The number went through memory that the guest can write: it must at least be one of its own threads.
        // SAFETY: signal 0 only checks.
        if unsafe { libc::syscall(libc::SYS_tgkill, self.worker.pid, tid, 0) } != 0 {
            self.worker.give_port(index);
            self.worker.lied("named a thread that is not its own");
            return Err(ForkError::Gone);
        }
        self.worker.threads.fetch_add(1, Ordering::SeqCst);
        let mut child = SeccompThread::new(self.shared.clone(), self.worker.clone(), index, tid);
        self.load_regs();
        child.regs = self.regs.clone();
        edit(&mut child.regs);
        Ok(Box::new(child))
    }

    fn fork(&mut self, edit: &mut dyn FnMut(&mut Regs)) -> Result<Vessel, ForkError> {
        self.freeze_for_order()?;
        let ports = super::ports::Ports::new().map_err(|_| ForkError::Refused(Errno::ENOMEM))?;
        let worker = self.clone_worker(ports)?;
        *worker.files.lock() = self.worker.files.lock().clone();
        *worker.sites.lock() = self.worker.sites.lock().clone();
        let mut child = SeccompThread::new(self.shared.clone(), worker.clone(), self.index, worker.pid as u32);
        self.load_regs();
        child.regs = self.regs.clone();
        edit(&mut child.regs);
        Ok(Vessel { space: worker, thread: Box::new(child) })
    }

    fn compare_exchange(&mut self, address: u64, old: u32, new: u32) -> Result<Result<u32, Errno>, Gone> {
        if !address.is_multiple_of(4) || address >= self.worker.base {
            return Ok(Err(Errno::EFAULT));
        }
        self.freeze_for_order()?;
        for (index, value) in [address, u64::from(old), u64::from(new)].into_iter().enumerate() {
            self.port.set64(word::GUARDED + index * 8, value);
        }
        Ok(Errno::check(self.order(action::EXCHANGE)?).map(|value| value as u32))
    }

    fn futex_wake(&mut self, address: u64, count: u32) -> Result<u64, Gone> {
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

    fn rseq(&mut self, area: u64, len: u32, flags: u32, signature: u32) -> Result<Result<u64, Errno>, Gone> {
        self.freeze_for_order()?;
        let args = [area, u64::from(len), u64::from(flags), u64::from(signature), 0, 0];
        self.put_order(libc::SYS_rseq as u64, args);
        Ok(Errno::check(self.order(action::ORDER)?))
    }

    fn control(&self) -> Arc<dyn ThreadControl> {
        self.control.clone()
    }

    fn retire(mut self: Box<Self>) {
        if self.worker.threads.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.worker.kill();
            return;
        }
        // The leader's host thread stays, asleep: without it the host would refuse to look into the worker.
        if self.control.tid.load(Ordering::Relaxed) == self.worker.pid as u32 {
            return;
        }
        if self.freeze_for_order().is_ok() {
            self.reply(action::EXIT);
            self.worker.give_port(self.index);
        }
    }
}

impl SeccompThread {
    /// Gets to where orders can be given: in a frame, or at the start.
    fn freeze_for_order(&mut self) -> Result<(), Gone> {
        if matches!(self.at, At::Start) && self.port.get32(word::KIND) == 0 {
            return match self.wait()? {
                kind::READY => Ok(()),
                _ => self.lied("did not get ready"),
            };
        }
        self.enter_handler()
    }

    fn resume_with_memory(&mut self, call: &MemoryCall) -> Result<u32, Gone> {
        let (number, mut args) = encode(call);
        if let MemoryCall::MapFile { file, .. } = call {
            match self.held(file) {
                Some(held) => args[4] = held as u64,
                None => {
                    let result = self.memory(call)?;
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
        self.leave_site();
        self.put_order(number, args);
        Ok(action::ORDER_RETURN)
    }

    /// New text: what was known of the call sites there is void.
    fn forget_sites(&self, call: &MemoryCall) {
        if let MemoryCall::MapFile { address, len, prot: 4.., .. } = call {
            self.worker.sites.lock().forget(*address, *len);
        }
    }
}

impl Control {
    /// What the host says of the thread (proc_pid_stat(5)).
    fn stat_text(&self) -> String {
        let tid = self.tid.load(Ordering::Relaxed);
        std::fs::read_to_string(format!("/proc/{}/task/{tid}/stat", self.worker.pid)).unwrap_or_default()
    }

    /// Time on a CPU (Documentation/scheduler/sched-stats.rst), where the host counts it.
    fn run_time(&self) -> Option<Duration> {
        let tid = self.tid.load(Ordering::Relaxed);
        let text = std::fs::read_to_string(format!("/proc/{}/task/{tid}/schedstat", self.worker.pid)).ok()?;
        text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
    }

    fn signal(&self) {
        let tid = self.tid.load(Ordering::Relaxed);
        if self.worker.death().is_none() {
            // SAFETY: a plain system call; the pid is not reused before the reaper has marked the worker dead.
            unsafe { libc::syscall(libc::SYS_tgkill, self.worker.pid, tid, INTERRUPT_SIGNAL) };
        }
    }
}

impl ThreadControl for Control {
    fn interrupt(&self) {
        self.port.atomic(word::INTERRUPT_ASKED).fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if self.port.state().load(Ordering::SeqCst) != POSTED {
            self.signal();
        }
    }

    fn publish(&self, identity: &Identity) {
        for (offset, value) in [
            (word::PID, identity.pid),
            (word::TID, identity.tid),
            (word::PPID, identity.ppid),
            (word::UID, identity.uid),
            (word::EUID, identity.euid),
            (word::GID, identity.gid),
            (word::EGID, identity.egid),
        ] {
            self.port.set32(offset, value);
        }
        table::fill(&self.port, self.worker.base, identity.short_cuts);
    }

    fn cpu_time(&self) -> (Duration, Duration) {
        let text = self.stat_text();
        let fields: Vec<&str> =
            text.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
        let ticks = |index: usize| fields.get(index).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        let (user, system) = (ticks(11), ticks(12));
        // The sum is known to the nanosecond, its parts only as samples (cputime_adjust() in kernel/sched/cputime.c).
        let Some(total) = self.run_time() else {
            return (Duration::from_millis(user * 10), Duration::from_millis(system * 10));
        };
        let share = if user + system == 0 { 1.0 } else { user as f64 / (user + system) as f64 };
        let user = total.mul_f64(share).min(total);
        (user, total - user)
    }

    fn asleep(&self) -> bool {
        // While the kernel serves it, the thread waits for the answer: that is work.
        let waits = self.port.state().load(Ordering::SeqCst) == POSTED;
        let text = self.stat_text();
        let state = text.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
        !waits && matches!(state, Some('S' | 'D'))
    }

    fn set_affinity(&self, cpus: &[usize]) -> Result<(), Errno> {
        let mut set = rustix::thread::CpuSet::new();
        for cpu in cpus.iter().filter(|cpu| **cpu < rustix::thread::CpuSet::MAX_CPU) {
            set.set(*cpu);
        }
        let tid = rustix::thread::Pid::from_raw(self.tid.load(Ordering::Relaxed) as i32);
        rustix::thread::sched_setaffinity(tid, &set).map_err(|error| Errno::from_raw(error.raw_os_error()))
    }

    fn last_cpu(&self) -> usize {
        self.port.get32(word::GUEST_CPU) as usize
    }

    fn lanes(&self) -> LaneCounts {
        let count = |offset| self.port.get64(offset);
        LaneCounts {
            lane1: count(word::LANE1),
            lane2: count(word::LANE2),
            lane3: count(word::LANE3),
            lane4: count(word::LANE4),
            bytes_staged: count(word::STAGED),
        }
    }
}

/// Offset of the slot that counts traps before `rip`.
fn heat_slot(rip: u64) -> usize {
    ((rip >> 1) % HEAT_SLOTS) as usize * 8
}

/// Where port `index` lies in the worker.
pub fn port_address(worker: &Worker, index: usize) -> u64 {
    worker.base + PORTS_OFFSET + index as u64 * PORT_SIZE
}

/// Makes a port ready for a thread that starts in the shim with `first_orders`.
pub fn prepare_port(port: &Port, address: u64, base: u64, shared: &Shared, own_process: bool) {
    port.write(0, &[0; word::TABLE]);
    port.set32(word::STATE, REPLIED);
    port.set32(word::MAGIC, MAGIC);
    port.set64(word::SELF, address);
    port.set32(word::HAS_RDPID, u32::from(shared.has_rdpid));
    table::fill(port, base, true);
    let mut regs = Regs {
        rip: base + label::FIRST_ORDERS,
        rsp: address + PORT_SIZE - if own_process { 64 } else { 128 },
        rflags: 0x202,
        ..Regs::default()
    };
    let start = frame::create(port, address, &mut regs, true);
    port.set64(word::START_FRAME, start);
}

/// Wakes whoever sleeps on a word.
pub fn wake_word(futex: &AtomicU32) {
    // SAFETY: the word is mapped as long as it is borrowed.
    unsafe { libc::syscall(libc::SYS_futex, futex.as_ptr(), libc::FUTEX_WAKE, i32::MAX, 0, 0, 0) };
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

const _: () = assert!(DEAD != POSTED && DEAD != REPLIED);
