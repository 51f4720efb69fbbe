//! TCP socket operations for which std would block or lacks the option.

use super::check;
#[cfg(test)]
use super::check_length;
use super::sockaddr::{Address, family};
use super::sockopt::set;
use crate::error::Error;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Starts a non-blocking connect to `to`, from the address of `from` if given. The stream becomes writable when the
/// connection is established or has failed.
///
/// The kernel delays the ACK that completes the handshake, by at most 0.2 s, until [`complete`] sends it.
pub fn connect(to: SocketAddr, from: Option<SocketAddr>) -> io::Result<TcpStream> {
    let socket = socket(libc::SOCK_STREAM, to, from)?;
    set(&socket, libc::IPPROTO_TCP, libc::TCP_QUICKACK, 0)?;
    begin(&socket, to)?;
    Ok(socket.into())
}

/// Sends the ACK that [`connect`] has delayed.
pub fn complete(stream: &TcpStream) -> io::Result<()> {
    set(stream, libc::IPPROTO_TCP, libc::TCP_QUICKACK, 1)
}

/// Returns the error of a connection that [`connect`] has started, if it has failed.
pub fn failure(stream: &TcpStream) -> io::Result<()> {
    match stream.take_error()? {
        // ICMPv6 codes such as "administratively prohibited" become EACCES. Those of ICMP become EHOSTUNREACH.
        Some(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(io::Error::new(error.kind(), Error::refused("rejected by a firewall or router")))
        }
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Listens on `address` with a non-blocking socket. The backlog is as long as the system allows, `net.core.somaxconn`
/// (std sets 128).
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket(libc::SOCK_STREAM, address, None)?;
    set(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    bind(&socket, address)?;
    // SAFETY: listen takes two numbers.
    check(unsafe { libc::listen(socket.as_raw_fd(), libc::c_int::MAX) })?;
    Ok(socket.into())
}

/// Creates a non-blocking socket of a type such as SOCK_STREAM for a connection to `to`, bound to the address of `from`
/// if given. The port of `from` is ignored.
pub(super) fn socket(kind: libc::c_int, to: SocketAddr, from: Option<SocketAddr>) -> io::Result<OwnedFd> {
    let kind = kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: socket takes three numbers and returns a new descriptor.
    let fd = check(unsafe { libc::socket(family(to), kind, 0) })?;
    // SAFETY: `fd` was just opened and nothing else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    if let Some(mut from) = from {
        from.set_port(0);
        // Lets connect() choose the port, as it does for any other connection. A kernel without this option chooses it
        // in bind().
        let _ = set(&socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1);
        bind(&socket, from)?;
    }
    Ok(socket)
}

fn bind(socket: &OwnedFd, address: SocketAddr) -> io::Result<()> {
    let address = Address::from(address);
    let (name, size) = address.parts();
    // SAFETY: the address is valid for reads of the size given.
    check(unsafe { libc::bind(socket.as_raw_fd(), name, size) }).map(drop)
}

/// Starts the connect of a non-blocking socket; EINPROGRESS is success.
pub(super) fn begin(socket: &OwnedFd, to: SocketAddr) -> io::Result<()> {
    let to = Address::from(to);
    let (name, size) = to.parts();
    // SAFETY: the address is valid for reads of the size given.
    match check(unsafe { libc::connect(socket.as_raw_fd(), name, size) }) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(()),
    }
}

/// Makes closing the stream send an RST (SO_LINGER with 0 s), so that the peer does not mistake a failure for the
/// regular end of the data.
pub fn reset(stream: &TcpStream) -> io::Result<()> {
    set(stream, libc::SOL_SOCKET, libc::SO_LINGER, libc::linger { l_onoff: 1, l_linger: 0 })
}

/// Turns on TCP keepalive, with the system's intervals, to detect a peer that has vanished.
pub fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    set(stream, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)
}

/// Delivers urgent bytes in the normal stream (SO_OOBINLINE).
pub fn inline_urgent(stream: &TcpStream) -> io::Result<()> {
    set(stream, libc::SOL_SOCKET, libc::SO_OOBINLINE, 1)
}

/// Sends one urgent byte (MSG_OOB).
#[cfg(test)]
pub fn send_urgent(stream: &TcpStream, byte: u8) -> io::Result<()> {
    // SAFETY: the byte is valid for reads.
    check_length(unsafe { libc::send(stream.as_raw_fd(), (&raw const byte).cast(), 1, libc::MSG_OOB) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn the_server_sees_no_connection_before_it_is_completed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let stream = connect(listener.local_addr().unwrap(), None).unwrap();
        assert!(stream.peer_addr().is_ok(), "it is established at this end");
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        complete(&stream).unwrap();
        assert!(listener.accept().is_ok());
    }

    #[test]
    fn connects_from_the_given_address_and_resets() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let from = SocketAddr::from(([127, 0, 0, 9], 1));
        let stream = connect(listener.local_addr().unwrap(), Some(from)).unwrap();
        let (mut accepted, peer) = listener.accept().unwrap();
        assert_eq!(peer.ip(), from.ip());
        assert_ne!(peer.port(), from.port());
        keep_alive(&stream).unwrap();
        reset(&stream).unwrap();
        drop(stream);
        assert_eq!(accepted.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}
