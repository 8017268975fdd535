//! The kernel process of an embedding program: that program again, taken over before its `main`.
//!
//! A program with threads can neither be forked safely nor be confined later on, so the kernel needs a fresh
//! process; executing `/proc/self/exe` needs no second file to be installed and found.

use std::io::BufReader;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Weak};

use coracle_platform::child;

use super::protocol::{Failure, MARK, NAME, Order, Report, hear, line, say};
use crate::control::Handler;
use crate::sandbox::{self, Listener, Live};
use crate::{Config, Error, Outcome};

coracle_platform::before_main!(BEFORE_MAIN, begin);

/// Whoever calls this has the code above linked in.
pub fn linked() {
    std::hint::black_box(&BEFORE_MAIN);
}

fn begin() {
    if let Some(socket) = marked() {
        child::ignore_broken_pipes();
        child::exit_at_once(if serve(socket).is_ok() { 0 } else { 125 });
    }
}

/// The socket's number, if this process was started to be a kernel.
fn marked() -> Option<RawFd> {
    let mut args = std::env::args_os();
    let name = args.next()?;
    (name == NAME).then(|| args.next()?.to_str()?.strip_prefix(MARK)?.parse().ok())?
}

fn serve(socket: RawFd) -> std::io::Result<()> {
    let stream = Arc::new(UnixStream::from(child::inherited(socket)?));
    let mut orders = BufReader::new(stream.try_clone()?);
    let Some(config) = hear::<Config>(&mut orders)? else { return Ok(()) };
    let result = config.validate().map_err(Error::from).and_then(|()| {
        let listener = Listener { fd: stream.as_raw_fd(), words: last_report };
        sandbox::run(&config, Some(listener), true, |live| {
            let live = Arc::downgrade(live);
            let listening = std::thread::Builder::new().name("orders".into()).spawn(move || obey(orders, &live));
            if let Err(error) = listening {
                log::warn!("the embedding program cannot steer this sandbox: {error}");
            }
            // Whoever does not listen any more has also closed the other direction, which `obey` sees.
            let _ = say(&stream, &Report::Started);
        })
    });
    let report = match result {
        Ok(outcome) => Report::Ended(outcome),
        Err(error) => Report::Failed(Failure::from(error)),
    };
    say(&stream, &report)
}

/// What is said of a run that leaves no time to say it.
fn last_report(outcome: &Outcome) -> Vec<u8> {
    line(&Report::Ended(outcome.clone())).unwrap_or_default()
}

fn obey(mut orders: BufReader<UnixStream>, live: &Weak<Live>) {
    loop {
        let order = hear(&mut orders).unwrap_or_default();
        let Some(live) = live.upgrade() else { return };
        match order {
            // A signal that there is not has been refused on the other side.
            Some(Order::Signal(signal)) => drop(live.kill(signal)),
            Some(Order::Detach) => return,
            None => return live.end(),
        }
    }
}
