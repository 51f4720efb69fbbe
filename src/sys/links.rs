//! The list of network interfaces and their bridges, and notifications of changes (rtnetlink(7)).

use super::netlink::{self, Socket};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

// linux/rtnetlink.h and if_link.h.
const RTNLGRP_LINK: libc::c_int = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
/// The size of `struct ifinfomsg`, in bytes.
const IFINFOMSG: usize = 16;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The interface index.
    pub index: u32,
    /// The name, such as `eth0`.
    pub name: String,
    /// The index of the bridge, bond, team or VRF that the interface is a port of; 0 if there is none.
    pub master: u32,
    /// Whether packets arrive under this interface's own name: it is up, and neither lo nor a port of a bridge,
    /// bond or team. A port of a VRF keeps its name.
    pub receives: bool,
    /// Whether the interface is a port of a VRF.
    pub in_vrf: bool,
}

/// A subscription to changes of interfaces.
pub struct LinkWatch(Socket);

impl LinkWatch {
    /// Subscribes to the changes.
    pub fn new() -> io::Result<Self> {
        let socket = Socket::open(libc::NETLINK_ROUTE)?;
        socket.join(RTNLGRP_LINK)?;
        Ok(Self(socket))
    }

    /// Discards all pending notifications. [`list`] returns the new state.
    pub fn drain(&self) {
        self.0.discard();
    }
}

impl AsFd for LinkWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Returns all interfaces.
pub fn list() -> io::Result<Vec<Link>> {
    list_with(&Socket::open(libc::NETLINK_ROUTE)?)
}

/// Returns all interfaces, using an open routing socket.
pub(super) fn list_with(socket: &Socket) -> io::Result<Vec<Link>> {
    let bodies = socket.ask(libc::RTM_GETLINK, libc::NLM_F_DUMP, &[0; IFINFOMSG], &[])?;
    Ok(bodies.iter().filter_map(|body| link(body)).collect())
}

fn link(body: &[u8]) -> Option<Link> {
    let [_, _, _, _, i0, i1, i2, i3, f0, f1, f2, f3, ..] = *body else { return None };
    let flags = libc::c_int::from_ne_bytes([f0, f1, f2, f3]);
    let index = u32::from_ne_bytes([i0, i1, i2, i3]);
    let mut link = Link { index, name: String::new(), master: 0, receives: false, in_vrf: false };
    for (kind, value) in netlink::attributes(body.get(IFINFOMSG..)?) {
        match kind {
            IFLA_IFNAME => link.name = String::from_utf8_lossy(value).trim_end_matches('\0').to_owned(),
            IFLA_MASTER => link.master = u32::from_ne_bytes(*value.first_chunk()?),
            IFLA_LINKINFO => {
                link.in_vrf = netlink::attributes(value).any(|info| info == (IFLA_INFO_SLAVE_KIND, &b"vrf\0"[..]));
            }
            _ => {}
        }
    }
    link.receives = flags & (libc::IFF_UP | libc::IFF_LOOPBACK) == libc::IFF_UP && (link.master == 0 || link.in_vrf);
    Some(link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_first_and_has_no_master() {
        let links = list().unwrap();
        let lo = Link { index: 1, name: "lo".into(), master: 0, receives: false, in_vrf: false };
        assert!(links.contains(&lo), "{links:?}");
    }
}
