//! The zygote: the process from which workers are cloned. The first worker makes it, by cloning itself once it is
//! confined.
//!
//! On the way to the first program nobody is woken who could have been awake: the thread that needs the first worker has
//! executed it, looks after it between its own steps (`attend`), and answers its notifications until it is docked.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coracle_abi::Errno;
use coracle_abi::port::word;
use coracle_platform::{Death, ForkError, Gone, PlatformError, VvarMemory, Waiting, startup};
use parking_lot::Mutex;

use super::child::Child;
use super::notify::{Docked, Expected, Notifier, Slot};
use super::ports::Ports;
use super::thread::{BIRTH, NEW_WORKER_ARGS, SeccompThread, lay_down_clone, prepare_space};
use super::vvar::Vvar;
use super::worker::Worker;
use super::{Shared, launch};

/// The first worker, the zygote, and what all workers share.
pub struct Started {
    pub shared: Arc<Shared>,
    vvar: Arc<VvarMemory>,
    first: Mutex<Option<First>>,
    zygote: Mutex<Zygote>,
    /// Why the first worker, once executed, never came to be.
    failure: Arc<Mutex<Option<PlatformError>>>,
}

/// How long processes that were killed may take to be gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is done with the pid of the first worker before it runs on; all others descend from it.
pub type Born = Box<dyn FnOnce(i32)>;

fn host(what: &'static str) -> impl Fn(std::io::Error) -> PlatformError {
    move |source| PlatformError::Host { what, source }
}

/// Executes the first worker, and does not wait for it. Workers die with the calling thread (PR_SET_PDEATHSIG follows
/// the thread).
pub fn start(waiting: Arc<Waiting>, born: Option<Born>) -> Result<Started, PlatformError> {
    launch::require()?;
    let no_data = host("cannot make the vDSO's data");
    let no_ports = host("cannot make ports");
    let memory = VvarMemory::new().map_err(&no_data)?;
    let base = launch::choose_base();
    let shared = Arc::new(Shared::new(waiting, base, &memory).map_err(host("cannot watch workers"))?);
    let ports = Ports::new().map_err(&no_ports)?;
    prepare_space(&ports, base, &shared, true);
    launch::put_filter(&ports.port(0), base);
    let birth = Birth::<Arc<Child>>::new(&shared, base).map_err(&no_ports)?;
    lay_down_clone(&ports.port(0), birth.cookie);
    let program = launch::program(base).map_err(host("cannot make the first worker's program"))?;
    let vvar = Arc::new(Vvar::new(memory.clone(), base, &program).map_err(&no_data)?);
    startup::step("filter and first worker's program built");

    let no_worker = host("cannot start the first worker");
    let (child, socket) = launch::execute(&program, &ports, &vvar).map_err(&no_worker)?;
    let child = Arc::new(child);
    drop(program);
    startup::step("first worker executed");
    // It cannot clone itself before somebody answers it.
    if let Some(born) = born {
        born(child.number());
    }

    shared.children.found(&child);
    shared.children.announce(&child).ok_or_else(|| no_worker(std::io::ErrorKind::Other.into()))?;
    let worker = Worker::new(child.clone(), base, ports, 0, vvar.clone());
    shared.children.adopt(&worker);
    let dock = Arc::<Slot<Docked>>::default();
    let expected = Expected::CloneWorker(NEW_WORKER_ARGS, birth.cookie, Some(dock.clone()));
    shared.notifier.expect(&child, child.number() as u32, expected);
    let zygote = Zygote { base, vvar, birth, notifier: shared.notifier.clone(), thread: None, coming: None };
    let failure = Arc::<Mutex<Option<PlatformError>>>::default();
    let first = Mutex::new(Some(First { worker, socket, dock, failure: failure.clone() }));
    Ok(Started { shared, vvar: memory, first, zygote: Mutex::new(zygote), failure })
}

impl Started {
    /// What the vDSO reads.
    pub fn vvar(&self) -> Arc<VvarMemory> {
        self.vvar.clone()
    }

    /// Why the first worker did not arrive. Told once.
    pub fn failure(&self) -> Option<PlatformError> {
        self.failure.lock().take()
    }

    /// Answers the first worker if it waits for that; `true` once it is confined.
    pub fn attend(&self) -> bool {
        self.first.lock().as_ref().is_none_or(|first| first.attend(&self.shared))
    }

    /// Starts the thread that learns of the death of workers, if there is none yet.
    pub fn reap(&self) -> Result<(), PlatformError> {
        self.shared.reap().map_err(host("cannot start a thread"))
    }

    /// Kills every process of the sandbox, and waits until none is left.
    pub fn end(&self) {
        self.shared.children.close(PATIENCE);
    }

    /// A fresh worker. The first is there by itself, or on its way; all others are cloned from the zygote.
    pub fn take(&self) -> Result<(Arc<Worker>, Dock), ForkError> {
        if let Some(first) = self.first.lock().take() {
            return Ok((first.worker.clone(), Dock::Coming(first)));
        }
        let mut zygote = self.zygote.lock();
        let (worker, docked) = zygote.take(&self.shared)?;
        // Most sandboxes run one program only. This one executes others: the next worker is made ahead.
        if let Err(error) = zygote.order(&self.shared) {
            // Whoever needs it tries again, and reports.
            log::debug!("no worker could be cloned ahead: {error}");
        }
        Ok((worker, Dock::There(docked)))
    }
}

/// Where a worker waits for its program.
pub enum Dock {
    There(Docked),
    Coming(First),
}

impl Dock {
    /// Waits for it.
    pub fn arrive(self, shared: &Arc<Shared>) -> Result<Docked, Gone> {
        match self {
            Dock::There(docked) => Ok(docked),
            Dock::Coming(first) => first.meet(shared).map_err(|error| {
                *first.failure.lock() = Some(error);
                Gone
            }),
        }
    }
}

/// The first worker on its way to its dock.
pub struct First {
    worker: Arc<Worker>,
    /// Where the listener of the filter comes from.
    socket: OwnedFd,
    dock: Arc<Slot<Docked>>,
    failure: Arc<Mutex<Option<PlatformError>>>,
}

impl First {
    /// Answers it if it waits for that; `true` once it is confined.
    fn attend(&self, shared: &Shared) -> bool {
        let notifier = &shared.notifier;
        // Should it not open, whoever needs the worker meets the same, and reports.
        if !notifier.is_open() && (!launch::is_confined(&self.worker) || self.open(shared).is_err()) {
            return false;
        }
        if self.dock.get().is_none() {
            notifier.answer_waiting();
        }
        true
    }

    /// Takes the listener over, and learns who guards the sandbox.
    fn open(&self, shared: &Shared) -> Result<(), PlatformError> {
        let listener = launch::listener(&self.worker, &self.socket, &shared.waiting)?;
        // No guest has run yet: the port says the truth.
        let unguarded = host("cannot start the process that guards the sandbox");
        let guardian = Errno::check(self.worker.ports.port(0).get64(word::GUARDIAN))
            .map_err(|errno| unguarded(std::io::Error::from_raw_os_error(errno.raw())))?;
        let guardian = Child::prove(guardian as i32).map_err(|error| unguarded(error.into()))?;
        shared.children.guarded_by(Arc::new(guardian)).map_err(unguarded)?;
        shared.notifier.open(listener, shared.waiting.allowed());
        Ok(())
    }

    /// Answers it until it is docked.
    fn meet(&self, shared: &Shared) -> Result<Docked, PlatformError> {
        let notifier = &shared.notifier;
        if self.dock.get().is_none() {
            // Should it die on the way.
            shared.reap().map_err(host("cannot start a thread"))?;
        }
        if !notifier.is_open() {
            self.open(shared)?;
        }
        startup::step("first worker confined");
        let until = Instant::now() + BIRTH;
        let docked = loop {
            if let Some(docked) = self.dock.get() {
                break docked;
            }
            if !notifier.answer_next(until, &shared.waiting) {
                let refused = Errno::check(self.worker.ports.port(0).get64(word::RESULT)).err();
                return Err(match refused.filter(|_| self.worker.death().is_some()) {
                    Some(errno) => PlatformError::Host {
                        what: "cannot clone a worker",
                        source: std::io::Error::from_raw_os_error(errno.raw()),
                    },
                    None => PlatformError::Died(self.worker.death().unwrap_or(Death::Killed)),
                });
            }
        };
        startup::step("first worker docked");
        Ok(docked)
    }
}

/// An address space that has been ordered and will announce itself; `T` is what it says.
struct Birth<T> {
    cookie: u64,
    ports: Arc<Ports>,
    slot: Arc<Slot<T>>,
}

impl Birth<Arc<Child>> {
    /// One that will be ready for orders.
    fn new(shared: &Shared, base: u64) -> std::io::Result<Self> {
        let (ports, cookie) = (Ports::new()?, shared.cookie());
        prepare_space(&ports, base, shared, false);
        let slot = shared.notifier.expect_newborn(cookie, ports.clone());
        Ok(Birth { cookie, ports, slot })
    }
}

impl Birth<Docked> {
    /// One that will dock itself until its program is known.
    fn new(shared: &Shared, base: u64) -> std::io::Result<Birth<Docked>> {
        let (ports, cookie) = (Ports::new()?, shared.cookie());
        prepare_space(&ports, base, shared, true);
        let slot = shared.notifier.expect_docked(cookie, ports.clone());
        Ok(Birth { cookie, ports, slot })
    }
}

/// The process that workers are cloned from. It can be one clone ahead.
pub struct Zygote {
    base: u64,
    vvar: Arc<Vvar>,
    birth: Birth<Arc<Child>>,
    notifier: Arc<Notifier>,
    /// Once it was needed.
    thread: Option<SeccompThread>,
    coming: Option<Birth<Docked>>,
}

impl Zygote {
    /// Its thread.
    fn thread(&mut self, shared: &Arc<Shared>) -> Result<&mut SeccompThread, ForkError> {
        if self.thread.is_none() {
            self.notifier.serve();
            let child = self.birth.slot.wait(BIRTH).ok_or(ForkError::Gone)?;
            let tid = child.number() as u32;
            let worker = Worker::new(child, self.base, self.birth.ports.clone(), 0, self.vvar.clone());
            shared.children.adopt(&worker);
            self.thread = Some(SeccompThread::new(shared.clone(), worker, 0, tid));
        }
        self.thread.as_mut().ok_or(ForkError::Gone)
    }

    /// Orders a clone, unless there is one; does not wait for it.
    fn order(&mut self, shared: &Arc<Shared>) -> Result<(), ForkError> {
        if self.coming.is_some() {
            return Ok(());
        }
        let refused = |_| ForkError::Refused(Errno::ENOMEM);
        let coming = Birth::<Docked>::new(shared, self.base).map_err(refused)?;
        if let Err(Gone) = self.thread(shared)?.begin_clone(coming.cookie) {
            shared.notifier.forget_newborn(coming.cookie);
            return Err(ForkError::Gone);
        }
        self.coming = Some(coming);
        Ok(())
    }

    fn take(&mut self, shared: &Arc<Shared>) -> Result<(Arc<Worker>, Docked), ForkError> {
        self.order(shared)?;
        let coming = self.coming.take().ok_or(ForkError::Gone)?;
        let thread = self.thread(shared)?;
        let docked = arrival(&coming.slot, thread.worker(), || thread.clone_refused());
        shared.notifier.forget_newborn(coming.cookie);
        let docked = docked?;
        let worker = Worker::new(docked.child().clone(), self.base, coming.ports, 0, self.vvar.clone());
        shared.children.adopt(&worker);
        Ok((worker, docked))
    }
}

/// Waits for a worker that docks itself. It may be that the host has `refused` the clone, or that `parent` is gone.
fn arrival(
    slot: &Slot<Docked>,
    parent: &Worker,
    refused: impl Fn() -> Option<Errno>,
) -> Result<Docked, ForkError> {
    let until = Instant::now() + BIRTH;
    loop {
        if let Some(docked) = slot.wait(Duration::from_millis(2)) {
            return Ok(docked);
        }
        if let Some(errno) = refused() {
            return Err(ForkError::Refused(errno));
        }
        if parent.death().is_some() || until <= Instant::now() {
            return Err(ForkError::Gone);
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.end();
    }
}
