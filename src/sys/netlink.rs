//! netlink(7) sockets, and the message format that all netlink families share.

use super::sockopt::set;
use super::{check, check_length, uninterrupted};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A netlink socket.
pub struct Socket(OwnedFd);

impl Socket {
    /// Opens a socket of a family, such as NETLINK_NETFILTER or NETLINK_ROUTE, and binds it. An unbound socket
    /// receives no multicast messages.
    pub fn open(family: libc::c_int) -> io::Result<Self> {
        // SAFETY: socket takes three numbers and returns a new descriptor.
        let fd = check(unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, family) })?;
        // SAFETY: `fd` was just opened and nothing else owns it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut address = unspecified();
        address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
        let size = size_of_val(&address) as libc::socklen_t;
        // SAFETY: the address is valid for reads of its size.
        check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size) })?;
        // Error replies omit the original message, so they fit into any buffer.
        let _ = set(&socket, libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, 1);
        Ok(Self(socket))
    }

    /// Joins a multicast group, whose messages the kernel sends unsolicited.
    pub fn join(&self, group: libc::c_int) -> io::Result<()> {
        set(&self.0, libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, group)
    }

    /// Sets the receive buffer to `bytes`. `net.core.rmem_max` limits it, unless the process has CAP_NET_ADMIN in the
    /// initial user namespace.
    pub fn receive_buffer(&self, bytes: libc::c_int) -> io::Result<()> {
        set(&self.0, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes)
            .or_else(|_| set(&self.0, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes))
    }

    /// Sets the send buffer to `bytes`, beyond `net.core.wmem_max` with CAP_NET_ADMIN.
    pub fn send_buffer(&self, bytes: usize) -> io::Result<()> {
        let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
        set(&self.0, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, bytes)
            .or_else(|_| set(&self.0, libc::SOL_SOCKET, libc::SO_SNDBUF, bytes))
    }

    /// Sends a request and returns the body of each message of the answer. `flags` has NLM_F_DUMP or NLM_F_ACK, so that
    /// the answer has an end.
    pub fn ask(&self, kind: u16, flags: libc::c_int, header: &[u8], attributes: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let mut request = Writer::default();
        request.message(kind, (libc::NLM_F_REQUEST | flags) as u16, 1, header, attributes);
        self.send(request.bytes())?;
        let (mut bodies, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
        loop {
            for message in messages(self.receive(&mut buffer)?) {
                match outcome(&message) {
                    Some(outcome) => return outcome.map(|()| bodies),
                    None => bodies.push(message.body.to_vec()),
                }
            }
        }
    }

    /// Sends `messages` to the kernel.
    pub fn send(&self, messages: &[u8]) -> io::Result<()> {
        // SAFETY: the pointer is valid for reads of the length given.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), messages.as_ptr().cast(), messages.len(), 0) };
        check_length(sent).map(drop)
    }

    /// Waits for a datagram from the kernel, which must fit into `buffer`. Ignores datagrams from other processes.
    pub fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
        self.receive_with(buffer, 0)
    }

    /// Receives like [`Socket::receive`], but fails with `WouldBlock` instead of waiting.
    pub fn receive_now<'a>(&self, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
        self.receive_with(buffer, libc::MSG_DONTWAIT)
    }

    /// Discards all pending datagrams.
    pub fn discard(&self) {
        while self.receive_now(&mut [0; 1]).map_or_else(|error| is_loss(&error), |_| true) {}
    }

    fn receive_with<'a>(&self, buffer: &'a mut [u8], flags: libc::c_int) -> io::Result<&'a [u8]> {
        loop {
            let mut from = unspecified();
            let mut size = size_of_val(&from) as libc::socklen_t;
            let (fd, bytes, most) = (self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len());
            let length = uninterrupted(|| {
                // SAFETY: buffer, address and size are valid for writes of the lengths given.
                check_length(unsafe { libc::recvfrom(fd, bytes, most, flags, (&raw mut from).cast(), &raw mut size) })
            })?;
            // Any process may send to a netlink socket; the kernel's port ID is 0.
            if from.nl_pid == 0 {
                return Ok(buffer.get(..length).unwrap_or_default());
            }
        }
    }
}

/// Returns whether a receive error means that datagrams were lost for lack of space. The kernel reports this once.
pub fn is_loss(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOBUFS)
}

impl From<OwnedFd> for Socket {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// An address with all fields 0.
fn unspecified() -> libc::sockaddr_nl {
    // SAFETY: all-zero bytes are a valid address.
    unsafe { std::mem::zeroed() }
}

/// A buffer to which messages and attributes are written (linux/netlink.h). Each is aligned to 4 bytes; numbers are
/// in host byte order unless the family says otherwise.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// Appends a message with its type, flags and sequence number, the family's fixed `header`, and attributes.
    pub fn message(&mut self, kind: u16, flags: u16, sequence: u32, header: &[u8], attributes: &[u8]) {
        let length = 16 + (header.len() + attributes.len()) as u32;
        self.append(&length.to_ne_bytes());
        self.append(&kind.to_ne_bytes());
        self.append(&flags.to_ne_bytes());
        self.append(&sequence.to_ne_bytes());
        self.append(&[0; 4]);
        self.append(header);
        self.append(attributes);
    }

    /// Appends an attribute with `value`.
    pub fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.append(&(value.len() as u16 + 4).to_ne_bytes());
        self.append(&kind.to_ne_bytes());
        self.append(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    /// Appends an attribute that contains others.
    pub fn nest(&mut self, kind: u16, inner: &Self) {
        self.attribute(kind | NESTED, &inner.0);
    }

    /// Appends encoded attributes or messages.
    pub fn append(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
    }

    /// The bytes written so far.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;
/// `NLA_TYPE_MASK`: removes the flags for nesting and byte order from an attribute's type.
const KIND: u16 = 0x3fff;

/// One received message.
#[derive(Clone, Copy)]
pub struct NetlinkMessage<'a> {
    /// The message type.
    pub kind: u16,
    /// The sequence number; a reply has that of its request.
    pub sequence: u32,
    /// The bytes after the netlink header.
    pub body: &'a [u8],
}

/// Iterates over the messages in a received datagram. Stops at the first malformed one.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = NetlinkMessage<'_>> {
    std::iter::from_fn(move || {
        let [l0, l1, l2, l3, k0, k1, _, _, s0, s1, s2, s3, _, _, _, _, ..] = *bytes else { return None };
        let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let body = bytes.get(16..length)?;
        bytes = bytes.get(length.checked_next_multiple_of(4)?..).unwrap_or_default();
        let (kind, sequence) = (u16::from_ne_bytes([k0, k1]), u32::from_ne_bytes([s0, s1, s2, s3]));
        Some(NetlinkMessage { kind, sequence, body })
    })
}

/// Returns the value of the first attribute of that kind; empty if it is missing.
pub fn attribute(list: &[u8], wanted: u16) -> &[u8] {
    attributes(list).find(|(kind, _)| *kind == wanted).map_or(&[], |(_, value)| value)
}

/// Iterates over the attributes in `bytes`, as (type, value). Stops at the first malformed one.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [l0, l1, k0, k1, ..] = *bytes else { return None };
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([k0, k1]) & KIND, value))
    })
}

/// Decodes an NLMSG_ERROR or NLMSG_DONE message; number 0 is an acknowledgment or the end of a list, `Ok`. `None` for
/// any other message.
pub fn outcome(message: &NetlinkMessage<'_>) -> Option<io::Result<()>> {
    let number: [u8; 4] = *message.body.first_chunk()?;
    [libc::NLMSG_ERROR, libc::NLMSG_DONE].contains(&message.kind.into()).then(|| match i32::from_ne_bytes(number) {
        0 => Ok(()),
        negative => Err(io::Error::from_raw_os_error(negative.checked_neg().unwrap_or(libc::EIO))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_values_are_read_back() {
        let (mut inner, mut body, mut writer) = (Writer::default(), Writer::default(), Writer::default());
        inner.attribute(3, &[7; 8]);
        body.attribute(1, b"abc");
        body.nest(2, &inner);
        writer.message(5, 1, 9, &[1, 2, 3, 4], body.bytes());
        writer.message(6, 0, 10, &[], &[]);
        let read: Vec<_> = messages(writer.bytes()).collect();
        let [first, second] = read[..] else { panic!("two messages") };
        assert_eq!((first.kind, first.sequence, second.kind, second.sequence), (5, 9, 6, 10));
        let inside: Vec<_> = attributes(&first.body[4..]).collect();
        assert_eq!(inside[0], (1, &b"abc"[..]));
        assert_eq!(attributes(inside[1].1).collect::<Vec<_>>(), [(3, &[7; 8][..])]);
    }

    #[test]
    fn damaged_messages_end_the_list() {
        let (mut body, mut writer) = (Writer::default(), Writer::default());
        body.attribute(1, b"abcd");
        writer.message(5, 1, 9, &[], body.bytes());
        let good = writer.bytes();
        (0..good.len()).for_each(|end| assert_eq!(messages(&good[..end]).count(), 0));
        assert_eq!(messages(&[0; 16]).count(), 0, "a length of 0");
        assert_eq!(messages(&[0xff; 16]).count(), 0, "a length beyond the end");
        assert_eq!(attributes(&[0; 8]).count(), 0);
        assert_eq!(attributes(&[0xff; 8]).count(), 0);
    }
}
