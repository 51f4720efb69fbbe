//! The list of network interfaces and their bridges, and notifications of changes (rtnetlink(7)).

use super::netlink::{self, Socket, Writer};
use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

// linux/rtnetlink.h and if_link.h.
const RTNLGRP_LINK: libc::c_int = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_PROP_LIST: u16 = 52;
const IFLA_ALT_IFNAME: u16 = 53;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
/// linux/veth.h.
const VETH_INFO_PEER: u16 = 1;
/// linux/if_addr.h.
const IFA_LOCAL: u16 = 2;
/// The size of `struct ifinfomsg`, in bytes.
const IFINFOMSG: usize = 16;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The interface index.
    pub index: u32,
    /// The name, such as `eth0`.
    pub name: String,
    /// Its alternative names (`ip link property`). Firewall rules know only the name.
    pub alternatives: Vec<String>,
    /// The index of the bridge, bond, team or VRF that the interface is a port of; 0 if there is none.
    pub master: u32,
    /// Whether packets arrive under this interface's own name: it is up, and neither lo nor a port of a bridge,
    /// bond or team. A port of a VRF keeps its name.
    pub receives: bool,
    /// Whether the addresses of hosts on the link are resolved (ARP, neighbour discovery).
    pub resolves: bool,
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
    let mut links = Vec::new();
    for body in &bodies {
        links.extend(link(body));
    }
    Ok(links)
}

/// The index of both ends of a cable: no other interface of a new network namespace has it.
const CABLE: u32 = 1000;

/// Connects this network namespace to `peer`, another one, by a veth pair. Both ends are called `name`, and down.
pub fn connect(name: &str, peer: &File) -> io::Result<()> {
    let header = cable(0);
    let name = [name.as_bytes(), b"\0"].concat();
    let (mut other_end, mut data) = (Writer::default(), Writer::default());
    let (mut info, mut attributes) = (Writer::default(), Writer::default());
    other_end.append(&header);
    other_end.attribute(IFLA_IFNAME, &name);
    other_end.attribute(IFLA_NET_NS_FD, &peer.as_raw_fd().to_ne_bytes());
    data.attribute(VETH_INFO_PEER, other_end.bytes());
    info.attribute(IFLA_INFO_KIND, b"veth");
    info.nest(IFLA_INFO_DATA, &data);
    attributes.attribute(IFLA_IFNAME, &name);
    attributes.nest(IFLA_LINKINFO, &info);
    change(libc::RTM_NEWLINK, &header, &attributes)
}

/// Returns the `struct ifinfomsg` of an end of the cable, with the flags to set.
fn cable(flags: libc::c_int) -> Vec<u8> {
    let flags = flags.to_ne_bytes();
    [&[0; 4], &CABLE.to_ne_bytes()[..], &flags, &flags].concat()
}

/// Sets this end of the cable up, and adds an address in a network of 256 addresses.
pub fn add_address(address: Ipv4Addr) -> io::Result<()> {
    // `struct ifaddrmsg`: family, prefix length, flags, scope and index.
    let header = [&[libc::AF_INET as u8, 24, 0, 0], &CABLE.to_ne_bytes()[..]].concat();
    let mut attributes = Writer::default();
    attributes.attribute(IFA_LOCAL, &address.octets());
    change(libc::RTM_SETLINK, &cable(libc::IFF_UP), &Writer::default())?;
    change(libc::RTM_NEWADDR, &header, &attributes)
}

fn change(kind: u16, header: &[u8], attributes: &Writer) -> io::Result<()> {
    let flags = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    Socket::open(libc::NETLINK_ROUTE)?.ask(kind, flags, header, attributes.bytes()).map(drop)
}

fn link(body: &[u8]) -> Option<Link> {
    let [_, _, _, _, i0, i1, i2, i3, f0, f1, f2, f3, ..] = *body else { return None };
    let flags = libc::c_int::from_ne_bytes([f0, f1, f2, f3]);
    let index = u32::from_ne_bytes([i0, i1, i2, i3]);
    let resolves = flags & (libc::IFF_LOOPBACK | libc::IFF_NOARP) == 0;
    let (name, alternatives) = (String::new(), Vec::new());
    let mut link = Link { index, name, alternatives, master: 0, receives: false, resolves, in_vrf: false };
    let text = |value: &[u8]| String::from_utf8_lossy(value.strip_suffix(b"\0").unwrap_or(value)).into_owned();
    for (kind, value) in netlink::attributes(body.get(IFINFOMSG..)?) {
        match kind {
            IFLA_IFNAME => link.name = text(value),
            IFLA_PROP_LIST => {
                for (kind, name) in netlink::attributes(value) {
                    if kind == IFLA_ALT_IFNAME {
                        link.alternatives.push(text(name));
                    }
                }
            }
            IFLA_MASTER => link.master = u32::from_ne_bytes(*value.first_chunk()?),
            IFLA_LINKINFO => link.in_vrf = netlink::attribute(value, IFLA_INFO_SLAVE_KIND) == b"vrf\0",
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
        let (name, alternatives) = ("lo".into(), Vec::new());
        let lo = Link { index: 1, name, alternatives, master: 0, receives: false, resolves: false, in_vrf: false };
        assert!(links.contains(&lo), "{links:?}");
    }
}
