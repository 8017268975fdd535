//! The loopback interface, for `ioctl` (netdevice(7)) and netlink.

use std::net::Ipv4Addr;

use super::address::Endpoint;
use crate::abi::net::AF_INET;
use crate::call::Ctx;
use crate::{Errno, Result, SysResult};

pub const NAME: &[u8] = b"lo";
pub const INDEX: u32 = 1;
pub const MTU: u32 = 65536;
/// `ARPHRD_LOOPBACK`.
pub const HARDWARE: u16 = 772;
/// `IFF_UP | IFF_LOOPBACK | IFF_RUNNING`.
pub const FLAGS: u32 = 0x49;
/// `IFF_LOWER_UP`, which only netlink shows.
pub const LOWER_UP: u32 = 0x10000;

const SIOCGIFNAME: u32 = 0x8910;
const SIOCGIFCONF: u32 = 0x8912;
const SIOCGIFFLAGS: u32 = 0x8913;
const SIOCGIFADDR: u32 = 0x8915;
const SIOCGIFBRDADDR: u32 = 0x8919;
const SIOCGIFNETMASK: u32 = 0x891b;
const SIOCGIFMETRIC: u32 = 0x891d;
const SIOCGIFMTU: u32 = 0x8921;
const SIOCGIFHWADDR: u32 = 0x8927;
const SIOCGIFINDEX: u32 = 0x8933;
const SIOCGIFTXQLEN: u32 = 0x8942;
/// Size of `struct ifreq`, and of the name at its beginning.
const IFREQ: usize = 40;
const IFNAMSIZ: usize = 16;

/// dev_ioctl() for a host with only this interface.
pub fn ioctl(cx: &mut Ctx<'_>, command: u32, at: u64) -> SysResult {
    let address = |ip: Ipv4Addr| Endpoint { ip: ip.into(), port: 0 }.to_bytes(AF_INET);
    let value: Vec<u8> = match command {
        SIOCGIFCONF => return configuration(cx, at),
        SIOCGIFNAME => return name_of(cx, at),
        SIOCGIFFLAGS => (FLAGS as u16).to_ne_bytes().to_vec(),
        SIOCGIFADDR => address(Ipv4Addr::LOCALHOST),
        SIOCGIFNETMASK => address(Ipv4Addr::new(255, 0, 0, 0)),
        SIOCGIFBRDADDR => address(Ipv4Addr::UNSPECIFIED),
        SIOCGIFMETRIC => vec![0; 4],
        SIOCGIFMTU => MTU.to_ne_bytes().to_vec(),
        SIOCGIFINDEX => INDEX.to_ne_bytes().to_vec(),
        SIOCGIFTXQLEN => 1000u32.to_ne_bytes().to_vec(),
        SIOCGIFHWADDR => [HARDWARE.to_ne_bytes().as_slice(), &[0; 14]].concat(),
        _ => return Err(Errno::ENOTTY),
    };
    let name: [u8; IFNAMSIZ] = cx.mem().read(at)?;
    if name.split(|byte| *byte == 0).next() != Some(NAME) {
        return Err(Errno::ENODEV);
    }
    cx.mem().write_bytes(at.wrapping_add(IFNAMSIZ as u64), &value)?;
    Ok(0)
}

fn request() -> Vec<u8> {
    let mut bytes = NAME.to_vec();
    bytes.resize(IFNAMSIZ, 0);
    bytes.extend(Endpoint { ip: Ipv4Addr::LOCALHOST.into(), port: 0 }.to_bytes(AF_INET));
    bytes.resize(IFREQ, 0);
    bytes
}

/// `struct ifconf`: length, address of a list of `struct ifreq`.
fn configuration(cx: &mut Ctx<'_>, at: u64) -> SysResult {
    let room: i32 = cx.mem().read(at)?;
    let list: u64 = cx.mem().read(at.wrapping_add(8))?;
    let len = if list == 0 {
        IFREQ
    } else if room >= IFREQ as i32 {
        cx.mem().write_bytes(list, &request())?;
        IFREQ
    } else {
        0
    };
    cx.mem().write(at, &(len as i32))?;
    Ok(0)
}

fn name_of(cx: &mut Ctx<'_>, at: u64) -> SysResult {
    let index: u32 = cx.mem().read(at.wrapping_add(IFNAMSIZ as u64))?;
    if index != INDEX {
        return Err(Errno::ENODEV);
    }
    let written: Result<()> = cx.mem().write_bytes(at, request().get(..IFNAMSIZ).unwrap_or_default());
    written.map(|()| 0)
}
