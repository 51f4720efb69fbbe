//! The system's resolver, getaddrinfo(3).

use crate::error::failure;
use std::ffi::{CStr, CString};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::{io, mem, ptr};

/// Returns all addresses of `host`, with `port`.
pub fn addresses(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let host = CString::new(host)?;
    // SAFETY: an `addrinfo` may be zero: no flags, any family and any protocol.
    let mut hints: libc::addrinfo = unsafe { mem::zeroed() };
    // Otherwise each address is listed once for each kind of socket.
    hints.ai_socktype = libc::SOCK_STREAM;
    let mut list = ptr::null_mut();
    // SAFETY: the name ends with a null byte, the hints are valid for reads, and the pointer for writes.
    let failed = unsafe { libc::getaddrinfo(host.as_ptr(), ptr::null(), &raw const hints, &raw mut list) };
    if failed == libc::EAI_SYSTEM {
        return Err(io::Error::last_os_error());
    }
    if failed != 0 {
        // SAFETY: the returned text is constant and ends with a null byte.
        let why = unsafe { CStr::from_ptr(libc::gai_strerror(failed)) };
        return Err(failure(why.to_string_lossy()));
    }
    let (mut addresses, mut next) = (Vec::new(), list);
    // SAFETY: a valid list, which ends with a null pointer. An address has the structure of its family.
    unsafe {
        while let Some(entry) = next.as_ref() {
            match entry.ai_family {
                libc::AF_INET => {
                    let v4 = entry.ai_addr.cast::<libc::sockaddr_in>().read();
                    addresses.push((Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes()), port).into());
                }
                libc::AF_INET6 => {
                    let v6 = entry.ai_addr.cast::<libc::sockaddr_in6>().read();
                    let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                    addresses.push(SocketAddrV6::new(ip, port, 0, v6.sin6_scope_id).into());
                }
                _ => {}
            }
            next = entry.ai_next;
        }
        libc::freeaddrinfo(list);
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_resolved_with_their_scope() {
        for literal in ["192.0.2.7:22", "[2001:db8::7]:22", "[fe80::1%1]:22"] {
            let wanted: SocketAddr = literal.parse().unwrap();
            let host = literal.trim_end_matches(":22").trim_matches(['[', ']']);
            assert_eq!(addresses(host, 22).unwrap(), [wanted]);
        }
        assert!(!addresses("no such host", 22).unwrap_err().to_string().is_empty());
    }
}
