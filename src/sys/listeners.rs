//! Finds listening ports in /proc/net/tcp and /proc/net/tcp6.

use super::file;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The state of a listening socket (`TCP_LISTEN` in net/tcp_states.h), as written in these files.
const LISTEN: &str = "0A";

/// Returns whether a program listens on TCP port `port`, other than on loopback addresses. If the files cannot be read,
/// the answer is no.
pub fn listens(port: u16) -> bool {
    for path in &["/proc/net/tcp", "/proc/net/tcp6"] {
        for line in file::kernel_text(path).lines() {
            if listener(line).is_some_and(|(address, at)| at == port && !address.to_canonical().is_loopback()) {
                return true;
            }
        }
    }
    false
}

/// Parses a line of a listening socket into its local address and port.
fn listener(line: &str) -> Option<(IpAddr, u16)> {
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
    (state == LISTEN).then_some((address, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

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
    fn only_listening_sockets_count() {
        let tail = "00000000:0000 01 00000000:00000000";
        assert_eq!(listener("  sl  local_address rem_address   st tx_queue"), None);
        assert_eq!(listener(&format!("   0: 00000000:0016 {tail}")), None);
        assert_eq!(listener("   0: 0000"), None);
    }
}
