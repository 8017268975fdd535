//! The thread that looks after what comes from outside while a program runs: signals, and those who ask for the sandbox.
//! It makes all that ready, and puts up the wall that all threads stand behind, beside the first thread's own work.

use std::cell::Cell;
use std::io;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, OnceLock};

use coracle_backends::confine;
use coracle_backends::seccomp::SeccompPlatform;
use coracle_platform::{Platform, Waiting, child, startup};

use super::relay::{self, Target};
use crate::Error;
use crate::control::{Handler, Place, Server};

/// What the first thread knows of it.
pub struct Attendant {
    /// Whom signals are for.
    pub target: Target,
    /// Who answers.
    pub handler: Arc<OnceLock<Arc<dyn Handler>>>,
    platform: Arc<SeccompPlatform>,
    /// What the thread is to do, until it is there.
    job: Option<Box<dyn FnOnce() + Send>>,
    ready: Receiver<(Option<Server>, Result<(), Error>)>,
}

impl Attendant {
    /// One that has not begun yet. `close` puts the wall up.
    pub fn new(
        platform: Arc<SeccompPlatform>,
        place: Option<Place>,
        close: impl FnOnce() -> Result<(), Error> + Send + 'static,
    ) -> Attendant {
        let (target, handler) = (Target::default(), Arc::<OnceLock<_>>::default());
        let (done, ready) = sync_channel(1);
        let own = (target.clone(), handler.clone(), platform.clone());
        let job = move || {
            let (target, handler, platform) = own;
            platform.waiting().anywhere();
            let signals = relay::begin(&target);
            let server = place.and_then(|place| Server::open(place).inspect_err(unreachable).ok());
            let (server, service) = server.unzip();
            startup::step("reachable for signals, ps, kill and exec");
            let closed = close();
            startup::step("kernel process confined to its host calls");
            let _ = done.send((server, closed));
            // Without it the death of a worker would go unnoticed; who waits for one tries again, and reports.
            if let Err(error) = platform.reap() {
                log::warn!("{error}");
            }
            drop(platform);
            confine::settle();
            match (service, signals) {
                (Some(service), signals) => service.run(&handler, signals),
                (None, Some(signals)) => signals.serve(),
                (None, None) => {}
            }
        };
        Attendant { target, handler, platform, job: Some(Box::new(job)), ready }
    }

    /// To be called between the steps of the first thread: answers the first worker, and begins once that is ready, and
    /// its processor free.
    pub fn look(&mut self) -> Result<(), Error> {
        if self.platform.attend() { self.begin() } else { Ok(()) }
    }

    fn begin(&mut self) -> Result<(), Error> {
        let Some(job) = self.job.take() else { return Ok(()) };
        let spawned = std::thread::Builder::new().name("control".into()).stack_size(128 << 10).spawn(job);
        let thread = spawned.map_err(|source| Error::Host { what: "cannot start a thread", source })?;
        self.platform.waiting().place_beside(&thread);
        // The first thread is not to be disturbed by them.
        child::leave_signals(&relay::LIST);
        Ok(())
    }

    /// Waits until all is ready. Dropping the server ends the service.
    pub fn wait(&mut self, waiting: &Waiting) -> Result<Option<Server>, Error> {
        self.platform.attend();
        self.begin()?;
        let gone = |_| Error::Confine { reason: "the thread that confines the kernel process is gone".into() };
        let seen = Cell::new(None);
        waiting.look(|| self.ready.try_recv().is_ok_and(|ready| seen.replace(Some(ready)).is_none()));
        let (server, closed) = seen.take().map_or_else(|| self.ready.recv().map_err(gone), Ok)?;
        closed.map(|()| server)
    }
}

/// Nobody will find the sandbox.
pub fn unreachable(error: &io::Error) {
    log::warn!("coracle ps, kill and exec will not find this sandbox: {error}");
}
