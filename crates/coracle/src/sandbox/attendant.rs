//! The thread that looks after what comes from outside while a program runs: signals, and those who ask for the sandbox.
//! It makes all that ready beside the first thread's own work.

use std::cell::Cell;
use std::io;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, OnceLock};

use coracle_backends::confine;
use coracle_backends::seccomp::SeccompPlatform;
use coracle_platform::{Platform, child, startup};

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
    ready: Receiver<Option<Server>>,
}

impl Attendant {
    /// One that has not begun yet.
    pub fn new(platform: Arc<SeccompPlatform>, place: Option<Place>) -> Attendant {
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
            let _ = done.send(server);
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

    /// To be called between the steps of the first thread: answers the first worker, and begins once that is confined.
    /// Sooner it would take the processor that the worker makes itself ready on.
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
    pub fn wait(&mut self) -> Result<Option<Server>, Error> {
        self.platform.attend();
        self.begin()?;
        let waiting = self.platform.waiting();
        let seen = Cell::new(None);
        waiting.look(|| self.ready.try_recv().is_ok_and(|ready| seen.replace(Some(ready)).is_none()));
        Ok(seen.take().unwrap_or_else(|| self.ready.recv().ok().flatten()))
    }
}

/// Nobody will find the sandbox.
pub fn unreachable(error: &io::Error) {
    log::warn!("coracle ps, kill and exec will not find this sandbox: {error}");
}
