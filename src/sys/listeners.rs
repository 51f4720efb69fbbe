//! Finds the ports on which programs listen, in /proc/net/tcp, /proc/net/udp and their files for IPv6.

use super::file;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The states of a listening TCP socket and of an unconnected UDP socket (`TCP_LISTEN` and `TCP_CLOSE` in
/// net/tcp_states.h), as written in these files.
const LISTEN: &str = "0A";
const UNCONNECTED: &str = "07";

/// Returns whether a program listens on TCP port `port`, other than on loopback addresses. If the files cannot be read,
/// the answer is no.
pub fn listens(port: u16) -> bool {
    finds(&["/proc/net/tcp", "/proc/net/tcp6"], LISTEN, port)
}

/// Returns whether a program receives from anybody on UDP port `port`, like [`listens`].
pub fn receives_udp(port: u16) -> bool {
    finds(&["/proc/net/udp", "/proc/net/udp6"], UNCONNECTED, port)
}

fn finds(paths: &[&str], state: &str, port: u16) -> bool {
    for path in paths {
        for line in file::kernel_text(path).lines() {
            if socket(line, state).is_some_and(|(address, at)| at == port && !address.to_canonical().is_loopback()) {
                return true;
            }
        }
    }
    false
}

/// Parses the line of a socket in that state into its local address and port. The columns are number, local address,
/// remote address and state; addresses and ports are hexadecimal.
fn socket(line: &str, wanted: &str) -> Option<(IpAddr, u16)> {
    let mut words = line.split_ascii_whitespace();
    let (local, state) = (words.nth(1)?, words.nth(1)?);
    let (address, port) = local.split_once(':')?;
    // Every 32 bits are a number in host byte order.
    let mut bytes = Vec::with_capacity(16);
    for at in (0..address.len()).step_by(8) {
        bytes.extend(u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    }
    let address = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(v4) => Ipv4Addr::from(v4).into(),
        Err(_) => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into(),
    };
    (state == wanted).then_some((address, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};

    #[test]
    fn a_listener_is_seen_unless_it_is_on_loopback() {
        for (address, seen) in [("0.0.0.0", true), ("::", true), ("127.0.0.1", false), ("::1", false)] {
            let listener = TcpListener::bind((address, 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            assert_eq!(listens(port), seen, "{address}");
            drop(listener);
            assert!(!listens(port));
        }
    }

    #[test]
    fn a_udp_socket_is_seen_unless_it_is_connected_or_on_loopback() {
        for (address, seen) in [("0.0.0.0", true), ("::", true), ("127.0.0.1", false), ("::1", false)] {
            let socket = UdpSocket::bind((address, 0)).unwrap();
            let port = socket.local_addr().unwrap().port();
            assert_eq!(receives_udp(port), seen, "{address}");
            socket.connect(if address.contains(':') { "[::1]:9" } else { "127.0.0.1:9" }).unwrap();
            assert!(!receives_udp(port), "{address}, connected");
        }
    }

    #[test]
    fn only_listening_sockets_count() {
        let tail = "00000000:0000 01 00000000:00000000";
        assert_eq!(socket("  sl  local_address rem_address   st tx_queue", LISTEN), None);
        assert_eq!(socket(&format!("   0: 00000000:0016 {tail}"), LISTEN), None);
        assert_eq!(socket("   0: 0000", LISTEN), None);
    }
}
