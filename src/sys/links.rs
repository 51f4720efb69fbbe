//! The list of network interfaces and their bridges, and notifications of changes (rtnetlink(7)).

use super::netlink::{self, Socket, Writer};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

// linux/rtnetlink.h and if_link.h.
const RTNLGRP_LINK: libc::c_int = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
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
        let mut buffer = [0; 8192];
        let would_block = |error: io::Error| error.kind() == io::ErrorKind::WouldBlock;
        while !self.0.receive_now(&mut buffer).is_err_and(would_block) {}
    }
}

impl AsFd for LinkWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Returns all interfaces.
pub fn list() -> io::Result<Vec<Link>> {
    let socket = Socket::open(libc::NETLINK_ROUTE)?;
    let mut request = Writer::default();
    request.message(libc::RTM_GETLINK, (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16, 1, &[0; IFINFOMSG], |_| {});
    socket.send(request.bytes())?;
    let (mut links, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
    loop {
        for message in netlink::messages(socket.receive(&mut buffer)?) {
            match (message.kind, netlink::outcome(&message)) {
                (libc::RTM_NEWLINK, _) => links.extend(link(message.body)),
                (_, Some(outcome)) => return outcome.map(|()| links),
                (kind, None) if i32::from(kind) == libc::NLMSG_DONE => return Ok(links),
                _ => {}
            }
        }
    }
}

fn link(body: &[u8]) -> Option<Link> {
    let [_, _, _, _, i0, i1, i2, i3, ..] = *body else { return None };
    let mut link = Link { index: u32::from_ne_bytes([i0, i1, i2, i3]), name: String::new(), master: 0 };
    for (kind, value) in netlink::attributes(body.get(IFINFOMSG..)?) {
        match kind {
            IFLA_IFNAME => link.name = String::from_utf8_lossy(value).trim_end_matches('\0').to_owned(),
            IFLA_MASTER => link.master = u32::from_ne_bytes(*value.first_chunk()?),
            _ => {}
        }
    }
    Some(link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_first_and_nobodys_port() {
        let links = list().unwrap();
        assert!(links.contains(&Link { index: 1, name: "lo".into(), master: 0 }), "{links:?}");
    }
}
