//! Addresses of `AF_UNIX`: in the file system, abstract, or none (unix(7)).

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::UnixSocket;
use super::rights::InFlight;
use crate::abi::net::AF_UNIX;
use crate::wait::WaitQueue;
use crate::{Errno, Result};

/// Longest address, family included (`sizeof(struct sockaddr_un)`).
const MAX: usize = 110;

/// What an address says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// Only a family: bind to a name of the kernel's choice.
    Unnamed,
    /// In the file system, without the zero byte.
    Path(Vec<u8>),
    /// Behind a leading zero byte, of any bytes.
    Abstract(Vec<u8>),
}

impl Name {
    /// unix_validate_addr() and unix_mkname_bsd().
    pub fn parse(address: &[u8]) -> Result<Name> {
        let family = address.get(..2).ok_or(Errno::EINVAL)?;
        if address.len() > MAX || family != (AF_UNIX as u16).to_ne_bytes() {
            return Err(Errno::EINVAL);
        }
        let rest = address.get(2..).unwrap_or_default();
        Ok(match rest.split_first() {
            None => Name::Unnamed,
            Some((0, name)) => Name::Abstract(name.to_vec()),
            Some(_) => Name::Path(rest.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()),
        })
    }

    /// As `getsockname` shows it.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = (AF_UNIX as u16).to_ne_bytes().to_vec();
        match self {
            Name::Unnamed => {}
            Name::Path(path) => {
                bytes.extend_from_slice(path);
                bytes.push(0);
            }
            Name::Abstract(name) => {
                bytes.push(0);
                bytes.extend_from_slice(name);
            }
        }
        bytes
    }
}

/// What all `AF_UNIX` sockets of a sandbox share.
#[derive(Default)]
pub struct Space {
    names: Mutex<Names>,
    /// Told when a datagram was read or a connection accepted: whoever waits for room at a receiver that it is
    /// not connected to.
    pub room: WaitQueue,
    pub in_flight: Arc<InFlight>,
}

#[derive(Default)]
struct Names {
    bound: HashMap<Vec<u8>, Weak<UnixSocket>>,
    /// Where the search for a free name goes on.
    next: u32,
}

impl Space {
    /// Takes an abstract name, or `EADDRINUSE`.
    pub fn bind(&self, name: &[u8], socket: &Weak<UnixSocket>) -> Result<()> {
        let mut names = self.names.lock();
        if names.bound.contains_key(name) {
            return Err(Errno::EADDRINUSE);
        }
        names.bound.insert(name.to_vec(), socket.clone());
        Ok(())
    }

    /// Takes a free name of five hexadecimal digits (unix_autobind()).
    pub fn autobind(&self, socket: &Weak<UnixSocket>) -> Result<Vec<u8>> {
        let mut names = self.names.lock();
        for _ in 0..=0xf_ffffu32 {
            names.next = (names.next + 1) & 0xf_ffff;
            let name = format!("{:05x}", names.next).into_bytes();
            if !names.bound.contains_key(&name) {
                names.bound.insert(name.clone(), socket.clone());
                return Ok(name);
            }
        }
        Err(Errno::ENOSPC)
    }

    /// Gives a name back.
    pub fn unbind(&self, name: &[u8]) {
        self.names.lock().bound.remove(name);
    }

    /// Who has an abstract name, or `ECONNREFUSED`.
    pub fn find(&self, name: &[u8]) -> Result<Arc<UnixSocket>> {
        self.names.lock().bound.get(name).and_then(Weak::upgrade).ok_or(Errno::ECONNREFUSED)
    }

    /// Abstract names in use, for `/proc/net/unix`.
    pub fn list(&self) -> Vec<Vec<u8>> {
        self.names.lock().bound.keys().cloned().collect()
    }
}
