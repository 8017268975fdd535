//! How threads and workers come to be, and end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use coracle_abi::Errno;
use coracle_abi::port::{MAGIC, PORT_SIZE, PORTS_OFFSET, POSTED, REPLIED, action, kind, request, word};
use coracle_blobs::label;
use coracle_platform::{Death, ForkError, Gone, Regs, Space, Trap, Vessel};

use super::super::notify::Expected;
use super::super::pace::CPU_UNKNOWN;
use super::super::ports::{Port, Ports};
use super::super::worker::{Parked, Worker};
use super::super::{Shared, frame, table};
use super::control::Control;
use super::{At, SeccompThread, port_address, put_order};

/// How long a new worker may take to announce itself, and a dead one to be reaped.
pub const BIRTH: Duration = Duration::from_secs(10);
/// How a worker is cloned: the kernel process is its parent too.
const NEW_WORKER: u64 = (libc::CLONE_PARENT | libc::SIGCHLD) as u64;
pub const NEW_WORKER_ARGS: [u64; 5] = [NEW_WORKER, 0, 0, 0, 0];

impl SeccompThread {
    pub(super) fn spawn(&mut self, edit: &mut dyn FnMut(&mut Regs)) -> Result<SeccompThread, ForkError> {
        self.freeze_for_order()?;
        let mut child = match self.worker.unpark() {
            Some(parked) => SeccompThread::again(self.shared.clone(), self.worker.clone(), parked),
            None => self.clone_thread()?,
        };
        self.worker.threads.fetch_add(1, Ordering::SeqCst);
        self.load_regs();
        child.regs = self.regs.clone();
        edit(&mut child.regs);
        Ok(child)
    }

    /// A guest thread in the host thread of one that has ended. It stands in the handler of its last request.
    fn again(shared: Arc<Shared>, worker: Arc<Worker>, parked: Parked) -> SeccompThread {
        let Parked { index, tid, place, used } = parked;
        let port = worker.ports.port(index);
        for offset in [word::LANE1, word::LANE2, word::LANE3, word::LANE4, word::STAGED, word::SITE] {
            port.set64(offset, 0);
        }
        port.set32(word::FORCE_TRAP, 0);
        table::no_random(&port);
        // What was asked of the thread that has ended is not asked of this one.
        port.set32(word::INTERRUPT_DONE, port.get32(word::INTERRUPT_ASKED));
        SeccompThread {
            at: At::Frame(place),
            control: Control::new(worker.clone(), port, tid, used),
            // No bases that it could have: they are to be set.
            bases: (u64::MAX, u64::MAX),
            ..SeccompThread::new(shared, worker, index, tid)
        }
    }

    /// A new host thread.
    fn clone_thread(&mut self) -> Result<SeccompThread, ForkError> {
        self.worker.count_threads()?;
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
        let args = [flags as u64, address + PORT_SIZE - 64, 0, tid_word, 0];
        self.worker.host_threads.fetch_add(1, Ordering::SeqCst);
        let result = self.clone_host(args, Expected::CloneThread(args), 0)?;
        let tid = match Errno::check(result) {
            Ok(tid) => tid as u32,
            Err(errno) => {
                self.worker.host_threads.fetch_sub(1, Ordering::SeqCst);
                self.worker.give_port(index);
                return Err(ForkError::Refused(errno));
            }
        };
        // The number went through memory that the guest can write: it must at least be one of its own threads.
        if !self.worker.hold().is_some_and(|held| held.has_thread(tid)) {
            self.worker.give_port(index);
            self.worker.lied("named a thread that is not its own");
            return Err(ForkError::Gone);
        }
        Ok(SeccompThread::new(self.shared.clone(), self.worker.clone(), index, tid))
    }

    pub(super) fn fork_worker(&mut self, edit: &mut dyn FnMut(&mut Regs)) -> Result<Vessel, ForkError> {
        self.freeze_for_order()?;
        let ports = Ports::new().map_err(|_| ForkError::Refused(Errno::ENOMEM))?;
        let worker = self.clone_worker(ports)?;
        *worker.files.lock() = self.worker.files.lock().clone();
        *worker.sites.lock() = self.worker.sites.lock().clone();
        let mut child = SeccompThread::new(self.shared.clone(), worker.clone(), self.index, worker.leader());
        self.load_regs();
        child.regs = self.regs.clone();
        edit(&mut child.regs);
        Ok(Vessel { space: worker, thread: Box::new(child) })
    }

    /// Clones this worker into a new one with `ports`, which starts at `first_orders`.
    fn clone_worker(&mut self, ports: Arc<Ports>) -> Result<Arc<Worker>, ForkError> {
        let base = self.worker.base;
        let port = ports.port(self.index);
        prepare_port(&port, port_address(&self.worker, self.index), base, &self.shared, true);
        let cookie = self.shared.cookie();
        let slot = self.shared.notifier.expect_newborn(cookie, ports.clone());
        let result =
            self.clone_host(NEW_WORKER_ARGS, Expected::CloneWorker(NEW_WORKER_ARGS, cookie, None), cookie);
        let refused = result.map(Errno::check).map(Result::err);
        if let Ok(None) = refused {
            slot.wait(BIRTH);
        }
        // What has not announced itself by now never does.
        self.shared.notifier.forget_newborn(cookie);
        let child = slot.get().ok_or(match refused {
            Ok(Some(errno)) => ForkError::Refused(errno),
            _ => ForkError::Gone,
        })?;
        let worker = Worker::new(child, base, ports, self.index, self.worker.vvar.clone());
        worker.vdso.store(self.worker.vdso.load(Ordering::Relaxed), Ordering::Relaxed);
        self.shared.children.adopt(&worker);
        Ok(worker)
    }

    /// The zygote: orders a clone, once the last one is done, and does not wait.
    pub fn begin_clone(&mut self, cookie: u64) -> Result<(), Gone> {
        match self.wait()? {
            kind::READY | kind::DONE => {}
            _ => return self.lied("did not carry out an order"),
        }
        lay_down_clone(&self.port, cookie);
        let expected = Expected::CloneWorker(NEW_WORKER_ARGS, cookie, None);
        self.shared.notifier.expect(self.worker.child(), self.control.tid(), expected);
        self.reply(action::CLONE);
        Ok(())
    }

    /// The zygote: the host's refusal of the clone, if that is what came of it.
    pub fn clone_refused(&self) -> Option<Errno> {
        let done = self.port.state().load(Ordering::SeqCst) == POSTED | kind::DONE << request::KIND_SHIFT;
        Errno::check(self.port.get64(word::RESULT)).err().filter(|_| done)
    }

    /// Has the guest's thread clone as `expected` of it; what comes back is its word.
    fn clone_host(&mut self, args: [u64; 5], expected: Expected, cookie: u64) -> Result<u64, Gone> {
        let [flags, stack, parent_tid, child_tid, tls] = args;
        self.put_order(libc::SYS_clone as u64, [flags, stack, parent_tid, child_tid, tls, 0]);
        self.port.set64(word::COOKIE, cookie);
        let tid = self.control.tid();
        self.shared.notifier.expect(self.worker.child(), tid, expected);
        let result = self.order_soon(action::CLONE);
        self.shared.notifier.forget(self.worker.child(), tid);
        result
    }

    pub(super) fn died(&self) -> Trap {
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

    pub(super) fn leave(mut self) {
        if self.worker.threads.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.worker.kill();
            return;
        }
        // The leader's host thread stays, asleep: without it the host would refuse to look into the worker.
        if self.control.tid() == self.worker.leader() {
            return;
        }
        if self.freeze_for_order().is_ok() {
            let used = self.control.end();
            if let At::Frame(place) = self.at
                && self.worker.park(Parked { index: self.index, tid: self.control.tid(), place, used })
            {
                return;
            }
            self.worker.host_threads.fetch_sub(1, Ordering::SeqCst);
            self.reply(action::EXIT);
            self.worker.give_port(self.index);
        }
    }
}

/// Makes the ports of a new address space ready; `docks`: it waits for a program.
pub fn prepare_space(ports: &Arc<Ports>, base: u64, shared: &Shared, docks: bool) {
    let port = ports.port(0);
    prepare_port(&port, base + PORTS_OFFSET, base, shared, true);
    port.set32(word::DOCK, docks.into());
}

/// Puts the order for a clone into a port. The first worker carries it out unasked.
pub fn lay_down_clone(port: &Port, cookie: u64) {
    let [flags, stack, parent_tid, child_tid, tls] = NEW_WORKER_ARGS;
    put_order(port, libc::SYS_clone as u64, [flags, stack, parent_tid, child_tid, tls, 0]);
    port.set64(word::COOKIE, cookie);
}

/// Makes a port ready for a thread that starts in the shim with `first_orders`.
fn prepare_port(port: &Port, address: u64, base: u64, shared: &Shared, own_process: bool) {
    port.write(0, &[0; word::TABLE]);
    port.set32(word::STATE, REPLIED);
    port.set32(word::MAGIC, MAGIC);
    port.set64(word::SELF, address);
    port.set32(word::GUEST_CPU, CPU_UNKNOWN);
    port.set32(word::HAS_RDPID, u32::from(shared.has_rdpid));
    port.set64(word::XSAVE_FEATURES, shared.xstate.0);
    port.set32(word::XSAVE_SIZE, shared.xstate.1);
    table::fill(port, base, true, false);
    table::no_random(port);
    let mut regs = Regs {
        rip: base + label::FIRST_ORDERS,
        rsp: address + PORT_SIZE - if own_process { 64 } else { 128 },
        rflags: 0x202,
        ..Regs::default()
    };
    let start = frame::create(port, address, &mut regs, true);
    port.set64(word::START_FRAME, start);
}
