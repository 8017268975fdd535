//! Options of `SOL_SOCKET` that every socket has (socket(7), net/core/sock.c).

use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use super::{Ancillary, Kind, Socket};
use crate::abi::net::*;
use crate::abi::types::Timeval;
use crate::call::Ctx;
use crate::task::Caps;
use crate::{Errno, Result};

/// `net.core.wmem_default`, `rmem_default`, and their `_max`.
pub const DEFAULT_BUFFER: usize = 212_992;
const MAX_BUFFER: usize = 212_992;
/// `SOCK_MIN_SNDBUF`, `SOCK_MIN_RCVBUF`.
const MIN_SEND: usize = 4608;
const MIN_RECEIVE: usize = 2304;

#[derive(Clone, Debug)]
struct Values {
    send_buffer: usize,
    receive_buffer: usize,
    send_timeout: Option<Duration>,
    receive_timeout: Option<Duration>,
    linger: Option<u32>,
    low_water: i32,
    priority: i32,
    mark: i32,
    /// The one of `SO_TIMESTAMP*` that is on.
    stamp: u32,
    /// Switches, by name.
    on: u64,
    pass_cred: bool,
}

/// The options of one socket.
pub struct Options(Mutex<Values>);

impl Default for Options {
    fn default() -> Options {
        Options(Mutex::new(Values {
            send_buffer: DEFAULT_BUFFER,
            receive_buffer: DEFAULT_BUFFER,
            send_timeout: None,
            receive_timeout: None,
            linger: None,
            low_water: 1,
            priority: 0,
            mark: 0,
            stamp: 0,
            on: 0,
            pass_cred: false,
        }))
    }
}

/// Options that are switches and only recorded.
const SWITCHES: &[u32] = &[
    SO_DEBUG,
    SO_REUSEADDR,
    SO_REUSEPORT,
    SO_DONTROUTE,
    SO_BROADCAST,
    SO_KEEPALIVE,
    SO_OOBINLINE,
    SO_RXQ_OVFL,
    SO_WIFI_STATUS,
    SO_NOFCS,
    SO_LOCK_FILTER,
    SO_ZEROCOPY,
    SO_SELECT_ERR_QUEUE,
    SO_PASSSEC,
    SO_BSDCOMPAT,
];

impl Options {
    /// How long a read or write waits at most.
    pub fn timeout(&self, write: bool) -> Option<Duration> {
        let values = self.0.lock();
        if write { values.send_timeout } else { values.receive_timeout }
    }

    /// `SO_PASSCRED`.
    pub fn pass_cred(&self) -> bool {
        self.0.lock().pass_cred
    }

    /// A switch is on.
    pub fn is_on(&self, name: u32) -> bool {
        name < 64 && self.0.lock().on & 1 << name != 0
    }

    /// Somebody wants to know when packets come.
    pub fn stamps(&self) -> bool {
        self.0.lock().stamp != 0
    }

    /// When a packet came, as was asked for (__sock_recv_timestamp()).
    pub fn stamp(&self, came: Option<SystemTime>) -> Option<Ancillary> {
        let kind = self.0.lock().stamp;
        if kind == 0 {
            return None;
        }
        let since =
            came.unwrap_or_else(SystemTime::now).duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let part = match kind {
            SO_TIMESTAMP_OLD | SO_TIMESTAMP_NEW => since.subsec_micros(),
            _ => since.subsec_nanos(),
        };
        let data = [since.as_secs().to_ne_bytes(), u64::from(part).to_ne_bytes()].concat();
        Some(Ancillary { level: SOL_SOCKET, kind, data })
    }

    /// `SO_RCVBUF` as counted.
    pub fn receive_buffer(&self) -> usize {
        self.0.lock().receive_buffer
    }

    /// Sizes of the buffers for sending and receiving that the program has chosen, if it has: where it has not,
    /// Linux finds them out by itself.
    pub fn chosen_buffers(&self) -> (Option<usize>, Option<usize>) {
        let values = self.0.lock();
        let chosen = |size: usize| (size != DEFAULT_BUFFER).then_some(size);
        (chosen(values.send_buffer), chosen(values.receive_buffer))
    }

    /// `SO_SNDBUF` as counted.
    pub fn send_buffer(&self) -> usize {
        self.0.lock().send_buffer
    }

    /// `SO_LINGER` with time zero: close resets.
    pub fn resets_on_close(&self) -> bool {
        self.0.lock().linger == Some(0)
    }

    /// `SO_RCVLOWAT`.
    pub fn low_water(&self) -> usize {
        usize::try_from(self.0.lock().low_water).unwrap_or(1)
    }

    /// What an accepted socket inherits.
    pub fn inherit(&self) -> Options {
        Options(Mutex::new(self.0.lock().clone()))
    }
}

/// sk_getsockopt().
pub fn get(socket: &dyn Socket, name: u32) -> Result<Vec<u8>> {
    let options = socket.options();
    let values = options.0.lock().clone();
    let word = |value: i64| Ok((value as i32).to_ne_bytes().to_vec());
    match name {
        SO_TYPE => word(i64::from(socket.kind().number())),
        SO_DOMAIN => word(i64::from(socket.domain())),
        SO_PROTOCOL => word(i64::from(socket.protocol())),
        SO_ERROR => word(i64::from(socket.take_error().map_or(0, Errno::raw))),
        SO_SNDBUF | SO_SNDBUFFORCE => word(values.send_buffer as i64),
        SO_RCVBUF | SO_RCVBUFFORCE => word(values.receive_buffer as i64),
        SO_ACCEPTCONN => word(i64::from(socket.listening())),
        SO_PASSCRED => word(i64::from(values.pass_cred)),
        SO_PRIORITY => word(i64::from(values.priority)),
        SO_MARK => word(i64::from(values.mark)),
        SO_RCVLOWAT => word(i64::from(values.low_water)),
        SO_SNDLOWAT => word(1),
        SO_NO_CHECK | SO_BUSY_POLL | SO_INCOMING_CPU | SO_PEEK_OFF => {
            word(if matches!(name, SO_INCOMING_CPU | SO_PEEK_OFF) { -1 } else { 0 })
        }
        SO_TIMESTAMP_OLD | SO_TIMESTAMPNS_OLD | SO_TIMESTAMP_NEW | SO_TIMESTAMPNS_NEW => {
            word(i64::from(values.stamp == name))
        }
        SO_LINGER => {
            let (on, seconds) = values.linger.map_or((0, 0), |seconds| (1u32, seconds));
            Ok([on.to_ne_bytes(), seconds.to_ne_bytes()].concat())
        }
        SO_RCVTIMEO_OLD | SO_SNDTIMEO_OLD | SO_RCVTIMEO_NEW | SO_SNDTIMEO_NEW => {
            let write = matches!(name, SO_SNDTIMEO_OLD | SO_SNDTIMEO_NEW);
            let time = if write { values.send_timeout } else { values.receive_timeout }.unwrap_or_default();
            let seconds = time.as_secs() as i64;
            Ok([seconds.to_ne_bytes(), i64::from(time.subsec_micros()).to_ne_bytes()].concat())
        }
        _ if SWITCHES.contains(&name) => word(i64::from(options.is_on(name))),
        _ => match socket.get_option(SOL_SOCKET, name) {
            Err(Errno::EOPNOTSUPP) => Err(Errno::ENOPROTOOPT),
            other => other,
        },
    }
}

/// sk_setsockopt().
pub fn set(cx: &mut Ctx<'_>, socket: &dyn Socket, name: u32, value: &[u8]) -> Result<()> {
    let options = socket.options();
    match name {
        SO_RCVTIMEO_OLD | SO_SNDTIMEO_OLD | SO_RCVTIMEO_NEW | SO_SNDTIMEO_NEW => {
            let timeout = timeout(value)?;
            let mut values = options.0.lock();
            match name {
                SO_RCVTIMEO_OLD | SO_RCVTIMEO_NEW => values.receive_timeout = timeout,
                _ => values.send_timeout = timeout,
            }
            return Ok(());
        }
        _ => {}
    }
    let number = word(value, 0).ok_or(Errno::EINVAL)?;
    match name {
        SO_TYPE | SO_PROTOCOL | SO_DOMAIN | SO_ERROR | SO_ACCEPTCONN => return Err(Errno::ENOPROTOOPT),
        SO_SNDBUF | SO_SNDBUFFORCE => {
            let size = size(cx, name == SO_SNDBUFFORCE, number, MIN_SEND)?;
            options.0.lock().send_buffer = size;
            // Whoever keeps accounts is told.
            let _ = socket.set_option(cx, SOL_SOCKET, SO_SNDBUF, &(size as u64).to_ne_bytes());
        }
        SO_RCVBUF | SO_RCVBUFFORCE => {
            options.0.lock().receive_buffer = size(cx, name == SO_RCVBUFFORCE, number, MIN_RECEIVE)?;
        }
        SO_LINGER => {
            let seconds = word(value, 4).ok_or(Errno::EINVAL)?;
            options.0.lock().linger = (number != 0).then_some(seconds.unsigned_abs());
        }
        // One replaces the other (sock_set_timestamp()).
        SO_TIMESTAMP_OLD | SO_TIMESTAMPNS_OLD | SO_TIMESTAMP_NEW | SO_TIMESTAMPNS_NEW => {
            options.0.lock().stamp = if number != 0 { name } else { 0 };
        }
        SO_PASSCRED => match socket.domain() {
            AF_UNIX | AF_NETLINK => options.0.lock().pass_cred = number != 0,
            _ => return Err(Errno::EOPNOTSUPP),
        },
        SO_PRIORITY => {
            if !(0..=6).contains(&number) && !cx.task.cred().capable(Caps::NET_ADMIN) {
                return Err(Errno::EPERM);
            }
            options.0.lock().priority = number;
        }
        SO_MARK => {
            if !cx.task.cred().capable(Caps::NET_ADMIN) {
                return Err(Errno::EPERM);
            }
            options.0.lock().mark = number;
        }
        SO_RCVLOWAT => options.0.lock().low_water = if number < 0 { i32::MAX } else { number.max(1) },
        SO_SNDLOWAT => return Err(Errno::ENOPROTOOPT),
        SO_NO_CHECK | SO_BUSY_POLL | SO_INCOMING_CPU | SO_PEEK_OFF => {}
        SO_BINDTODEVICE if value.starts_with(b"lo\0") || value == b"lo" || value.is_empty() => {}
        SO_BINDTODEVICE => return Err(Errno::ENODEV),
        SO_REUSEPORT if socket.domain() == AF_UNIX => return Err(Errno::EOPNOTSUPP),
        _ if SWITCHES.contains(&name) && name < 64 => {
            let mut values = options.0.lock();
            values.on = if number != 0 { values.on | 1 << name } else { values.on & !(1 << name) };
        }
        _ => {
            return match socket.set_option(cx, SOL_SOCKET, name, value) {
                Err(Errno::EOPNOTSUPP) => Err(Errno::ENOPROTOOPT),
                other => other,
            };
        }
    }
    Ok(())
}

/// An `int` at `at`.
pub fn word(value: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_ne_bytes(value.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// The kernel doubles what it is asked for, for its own overhead.
fn size(cx: &Ctx<'_>, force: bool, number: i32, least: usize) -> Result<usize> {
    if force && !cx.task.cred().capable(Caps::NET_ADMIN) {
        return Err(Errno::EPERM);
    }
    let number = if force { number.max(0) as usize } else { (number as u32 as usize).min(MAX_BUFFER) };
    Ok(number.min(i32::MAX as usize / 2).saturating_mul(2).max(least))
}

/// sock_set_timeout(): zero means none.
fn timeout(value: &[u8]) -> Result<Option<Duration>> {
    let field = |at: usize| Some(i64::from_ne_bytes(value.get(at..at + 8)?.try_into().ok()?));
    let (Some(tv_sec), Some(tv_usec)) = (field(0), field(8)) else { return Err(Errno::EINVAL) };
    let time = Timeval { tv_sec, tv_usec };
    if !(0..1_000_000).contains(&time.tv_usec) {
        return Err(Errno::EDOM);
    }
    if time.tv_sec < 0 {
        return Ok(Some(Duration::ZERO));
    }
    let time = Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000);
    Ok((!time.is_zero()).then_some(time))
}

/// Types that keep connections.
pub fn connected_kind(kind: Kind) -> bool {
    matches!(kind, Kind::Stream | Kind::SeqPacket)
}
