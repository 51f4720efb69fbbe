//! TCP connections, where std would wait or cannot say it.

use super::check;
#[cfg(test)]
use super::check_length;
use super::sockaddr::{Address, family};
use super::sockopt::set;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Begins to connect to `to`, from `from`'s address where one is given, and does not wait. The stream
/// is writable when the connection is there or has failed.
///
/// The kernel delays the ACK that completes the handshake, by at most 0.2 s, until [`complete`] sends it.
pub fn connect(to: SocketAddr, from: Option<SocketAddr>) -> io::Result<TcpStream> {
    let socket = socket(to, from)?;
    set(&socket, libc::IPPROTO_TCP, libc::TCP_QUICKACK, 0)?;
    begin(&socket, to)?;
    Ok(socket.into())
}

/// Sends the ACK that [`connect`] has delayed.
pub fn complete(stream: &TcpStream) -> io::Result<()> {
    set(stream, libc::IPPROTO_TCP, libc::TCP_QUICKACK, 1)
}

/// A socket for a connection to `to`, from `from`'s address where one is given, that does not wait.
pub(super) fn socket(to: SocketAddr, from: Option<SocketAddr>) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: socket takes three numbers and returns a new descriptor.
    let fd = check(unsafe { libc::socket(family(to), kind, 0) })?;
    // SAFETY: `fd` was just opened and is owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    if let Some(mut from) = from {
        from.set_port(0);
        // The port is chosen by connect, as for any connection; a kernel that cannot chooses it here.
        let _ = set(&socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1);
        let from = Address::from(from);
        let (name, size) = from.parts();
        // SAFETY: the address is valid for reads of the size given.
        check(unsafe { libc::bind(socket.as_raw_fd(), name, size) })?;
    }
    Ok(socket)
}

/// Begins the connection.
pub(super) fn begin(socket: &OwnedFd, to: SocketAddr) -> io::Result<()> {
    let to = Address::from(to);
    let (name, size) = to.parts();
    // SAFETY: the address is valid for reads of the size given.
    match check(unsafe { libc::connect(socket.as_raw_fd(), name, size) }) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(()),
    }
}

/// Has the kernel hold as many connections that are not accepted yet as it would (std asks for 128).
pub fn hold_all(listener: &TcpListener) -> io::Result<()> {
    // SAFETY: listen takes two numbers.
    check(unsafe { libc::listen(listener.as_raw_fd(), libc::c_int::MAX) }).map(drop)
}

/// Has the connection closed with an RST: the other side is not to take what it got for all there is.
pub fn reset(stream: &TcpStream) -> io::Result<()> {
    set(stream, libc::SOL_SOCKET, libc::SO_LINGER, libc::linger { l_onoff: 1, l_linger: 0 })
}

/// Has the kernel find out, in its own time, when the other side is gone without a word.
pub fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    set(stream, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)
}

/// Has urgent bytes read with all others, in their order.
pub fn keep_urgent(stream: &TcpStream) -> io::Result<()> {
    set(stream, libc::SOL_SOCKET, libc::SO_OOBINLINE, 1)
}

/// Sends one byte as an urgent one.
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
    fn connects_from_where_it_is_told_and_resets() {
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
