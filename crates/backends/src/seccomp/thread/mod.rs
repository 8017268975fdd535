//! One guest thread as its kernel thread sees it: requests, replies, orders.

mod birth;
mod control;
mod orders;
mod staging;
mod state;

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use coracle_abi::Errno;
use coracle_abi::port::{
    COLD, HEAT_WAYS, PORT_SIZE, PORTS_OFFSET, POSTED, REFRESH_CALL, REPLIED, TURN, action, heat_set, kind, reply,
    request, word,
};
use coracle_blobs::vdso;
use coracle_platform::{ForkError, Gone, MemoryCall, Regs, Resume, Thread, ThreadControl, Trap, Vessel};

use super::frame::{self, Place};
use super::pace::Pace;
use super::ports::Port;
use super::worker::{DEAD, Worker};
use super::zygote::Dock;
use super::{Shared, rewrite};
use control::Control;
use staging::Staging;

pub use birth::{BIRTH, NEW_WORKER_ARGS, lay_down_clone, prepare_space};

/// Where the guest thread stands.
#[derive(Clone, Copy)]
enum At {
    /// Before its first guest instruction, in the shim's `first_orders`, which it may not have reached yet.
    Start { ready: bool },
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
    /// The state word of the present request; zero before the first.
    posted: u32,
    /// Interrupts that were served.
    interrupts: u32,
    regs: Regs,
    /// `regs` were read, so they are written back.
    regs_loaded: bool,
    /// The segment bases as they were read, to see whether they are to be changed.
    bases: (u64, u64),
    /// The guest stands in a system call.
    in_call: bool,
    /// It was let go before its first `run`.
    started: bool,
    /// It carries out an order whose end was not waited for.
    owes: bool,
    /// The call is the vDSO's own, for fresh clocks.
    by_vdso: bool,
    staging: Staging,
    /// Where it waits to be told its program.
    dock: Option<Dock>,
    /// A call that has trapped here, to be learnt while the guest goes on.
    lesson: Option<(u64, u64)>,
}

impl SeccompThread {
    /// A thread that will post `READY`, whose port is `index`.
    pub fn new(shared: Arc<Shared>, worker: Arc<Worker>, index: usize, tid: u32) -> SeccompThread {
        let port = worker.ports.port(index);
        let port_interrupts = port.get32(word::INTERRUPT_DONE);
        let control = Control::new(worker.clone(), port.clone(), tid, Duration::ZERO);
        let pace = Pace::new(shared.waiting.clone(), shared.has_rdpid);
        SeccompThread {
            shared,
            worker,
            port,
            index,
            at: At::Start { ready: false },
            control,
            pace,
            posted: 0,
            interrupts: port_interrupts,
            regs: Regs { rflags: 0x202, ..Regs::default() },
            regs_loaded: true,
            bases: (0, 0),
            in_call: false,
            started: false,
            owes: false,
            by_vdso: false,
            staging: Staging::new(),
            dock: None,
            lesson: None,
        }
    }

    /// The only thread of a fresh worker, which waits for its program, or soon will.
    pub fn docked(shared: Arc<Shared>, worker: Arc<Worker>, dock: Dock) -> SeccompThread {
        let tid = worker.leader();
        SeccompThread { dock: Some(dock), ..SeccompThread::new(shared, worker, 0, tid) }
    }

    /// The worker that this thread runs in.
    pub fn worker(&self) -> &Arc<Worker> {
        &self.worker
    }

    /// A site that was shown needs no counting any longer: it is rewritten, or (`cold`) left alone for good.
    pub fn forget_heat(&self, rip: u64, cold: bool) {
        const ADDRESS: u64 = (1 << 48) - 1;
        let (first, set) = (self.worker.ports.port(0), heat_set(rip));
        let mut places = (0..HEAT_WAYS).map(|way| set + way * 8);
        if let Some(place) = places.find(|place| first.get64(*place) & ADDRESS == rip & ADDRESS) {
            first.set64(place, if cold { rip & ADDRESS | COLD << 48 } else { 0 });
        }
    }

    fn address(&self) -> u64 {
        port_address(&self.worker, self.index)
    }

    /// Waits for the next request and says what kind it is.
    fn wait(&mut self) -> Result<u32, Gone> {
        let state = self.pace.wait(&self.port, || self.worker.is_dead());
        self.arrived(state)
    }

    /// What kind of request has come with this state.
    fn arrived(&mut self, state: u32) -> Result<u32, Gone> {
        if state & TURN != POSTED || self.worker.is_dead() {
            return Err(Gone);
        }
        self.posted = state;
        Ok(state >> request::KIND_SHIFT & request::KIND_MASK)
    }

    /// Whatever was asked of the thread, it has stopped, and whoever serves it looks again before it goes on.
    /// Not for waits in between: nobody looks after those.
    fn acknowledge(&mut self) {
        self.interrupts = self.port.get32(word::INTERRUPT_ASKED);
        self.port.keep32(word::INTERRUPT_DONE, self.interrupts);
    }

    /// Replies with an action, and interrupts again if that was asked for meanwhile.
    fn reply(&mut self, what: u32) {
        let outputs = self.staging.leave();
        let state = REPLIED | what << reply::ACTION_SHIFT | outputs << reply::OUTPUTS_SHIFT;
        // A plain store, for it leaves together with that of the result; see `post` in the shim. Should it go over
        // the mark of death: `is_dead` was set before, and whoever waits looks there, too.
        self.port.state().store(state, Ordering::Release);
        fence(Ordering::SeqCst);
        self.pace.replied(&self.port);
        // After the other actions the thread comes back by itself.
        let goes_on =
            matches!(what, action::RETURN | action::CONTINUE | action::CONTINUE_BASES | action::ORDER_RETURN);
        if goes_on && self.port.get32(word::INTERRUPT_ASKED) != self.interrupts {
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

    /// As `order`, of what takes no time.
    fn order_soon(&mut self, what: u32) -> Result<u64, Gone> {
        self.reply(what);
        let state = self.pace.wait_soon(&self.port, || self.worker.is_dead());
        match self.arrived(state) {
            Ok(kind::DONE) => Ok(self.port.get64(word::RESULT)),
            Err(Gone) if self.worker.is_dead() => Err(Gone),
            _ => self.lied("did not carry out an order"),
        }
    }

    fn lied<T>(&self, how: &'static str) -> Result<T, Gone> {
        self.worker.lied(how);
        Err(Gone)
    }

    fn put_order(&self, number: u64, args: [u64; 6]) {
        put_order(&self.port, number, args);
    }

    fn next_trap(&mut self) -> Trap {
        let arrived = self.wait();
        self.acknowledge();
        match arrived.and_then(|kind| self.trap(kind)) {
            Ok(trap) => trap,
            Err(Gone) => self.died(),
        }
    }

    /// The trap that the present request is.
    fn trap(&mut self, what: u32) -> Result<Trap, Gone> {
        self.in_call = matches!(what, kind::FAST | kind::TRAP | kind::HOT_TRAP);
        self.by_vdso = false;
        match what {
            kind::FAST => {
                self.at = At::Fast;
                let trapped = self.posted & request::TRAPPED != 0;
                let call = self.call(if trapped { 4 } else { 3 });
                if let Trap::Syscall { number, args, .. } = &call {
                    self.staging.arrive(self.posted, args);
                    self.lesson = trapped.then(|| (self.port.get64(word::RETURN), *number));
                }
                Ok(call)
            }
            kind::TRAP | kind::HOT_TRAP => {
                self.arrive_in_frame()?;
                let mut trap = self.call(4);
                if self.port.get32(word::COPY_FAILED) != 0 {
                    self.port.set32(word::COPY_FAILED, 0);
                    if let Trap::Syscall { number, args, .. } = trap {
                        return Ok(Trap::Unwritten { number, args });
                    }
                }
                if let At::Frame(place) = self.at {
                    let rip = frame::rip(&self.port, place);
                    self.mark_refresh(&mut trap, rip);
                    if what == kind::HOT_TRAP {
                        rewrite::shown(self, rip, self.number())?;
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

    /// The vDSO's own call shows as the call that it stands for.
    fn mark_refresh(&mut self, trap: &mut Trap, rip: u64) {
        let site = self.worker.vdso.load(Ordering::Relaxed).wrapping_add(vdso::REFRESH_AFTER);
        if let Trap::Syscall { number, .. } = trap
            && *number == u64::from(REFRESH_CALL)
            && rip == site
        {
            *number = libc::SYS_clock_gettime as u64;
            self.by_vdso = true;
        }
    }

    /// The call's number, as the processor's register says it: 32 bits with a sign.
    fn number(&self) -> u64 {
        i64::from(self.port.get32(word::NUMBER) as i32) as u64
    }

    fn call(&self, lane: u8) -> Trap {
        Trap::Syscall { number: self.number(), args: self.port.args(), lane }
    }
}

impl Thread for SeccompThread {
    fn run(&mut self, resume: Resume<'_>) -> Trap {
        if std::mem::take(&mut self.started) {
            return self.next_trap();
        }
        if self.set_cpus().is_err() {
            return self.died();
        }
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
        if let Some((rip, number)) = self.lesson.take() {
            self.learn(rip, number);
        }
        self.next_trap()
    }

    fn start(&mut self) -> bool {
        // A host thread that is used again has nothing to make ready.
        if matches!(self.at, At::Frame(_)) {
            let what = self.store_regs();
            self.reply(what);
            self.started = true;
        }
        self.started
    }

    fn freeze(&mut self, result: u64) -> Result<&mut Regs, Gone> {
        self.freeze_for_order()?;
        self.acknowledge();
        self.load_regs();
        // The call is over: what is edited from now on, RAX included, stays.
        if std::mem::take(&mut self.in_call) {
            self.regs.rax = result;
        }
        Ok(&mut self.regs)
    }

    fn staged(&self, address: u64, into: &mut [u8]) -> bool {
        matches!(self.at, At::Fast) && self.staging.input(&self.port, address, into.len(), into)
    }

    fn staged_prefix(&self, address: u64, into: &mut [u8]) -> usize {
        if !matches!(self.at, At::Fast) {
            return 0;
        }
        let count = self.staging.available(address).min(into.len());
        if self.staging.input(&self.port, address, count, into) { count } else { 0 }
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
        if !matches!(self.at, At::Fast) || !guest {
            return None;
        }
        self.staging.room(&mut self.port, address, len)
    }

    fn stage_commit(&mut self, len: usize) {
        self.staging.commit(&self.port, len);
    }

    fn memory(&mut self, call: &MemoryCall) -> Result<Result<u64, Errno>, Gone> {
        self.order_memory(call)
    }

    fn load(&mut self, calls: &[MemoryCall]) -> Result<Result<(), Errno>, Gone> {
        self.order_batch(calls)
    }

    fn spawn_thread(&mut self, edit: &mut dyn FnMut(&mut Regs)) -> Result<Box<dyn Thread>, ForkError> {
        Ok(Box::new(self.spawn(edit)?))
    }

    fn fork(&mut self, edit: &mut dyn FnMut(&mut Regs)) -> Result<Vessel, ForkError> {
        self.fork_worker(edit)
    }

    fn compare_exchange(&mut self, address: u64, old: u32, new: u32) -> Result<Result<u32, Errno>, Gone> {
        self.order_exchange(address, old, new)
    }

    fn futex_wake(&mut self, address: u64, count: u32) -> Result<u64, Gone> {
        self.order_wake(address, count)
    }

    fn rseq(&mut self, area: u64, len: u32, flags: u32, signature: u32) -> Result<Result<u64, Errno>, Gone> {
        self.order_rseq(area, len, flags, signature)
    }

    fn farewell(&mut self, rseq: Option<(u64, u32, u32, u32)>, cleared: Option<u64>) -> Result<(), Gone> {
        self.order_farewell(rseq, cleared)
    }

    fn called_by_vdso(&self) -> bool {
        self.by_vdso
    }

    fn control(&self) -> Arc<dyn ThreadControl> {
        self.control.clone()
    }

    fn retire(self: Box<Self>) {
        self.leave();
    }
}

/// Lays down the call that an action speaks of.
fn put_order(port: &Port, number: u64, args: [u64; 6]) {
    port.set64(word::ORDER, number);
    for (index, value) in args.into_iter().enumerate() {
        port.set64(word::ORDER + 8 + index * 8, value);
    }
}

/// Where port `index` lies in the worker.
pub fn port_address(worker: &Worker, index: usize) -> u64 {
    worker.base + PORTS_OFFSET + index as u64 * PORT_SIZE
}

const _: () = assert!(DEAD & TURN != POSTED && DEAD & TURN != REPLIED);
