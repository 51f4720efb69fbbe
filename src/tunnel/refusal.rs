//! Detects connections that are established only on this side: the opening is gone, so the server's firewall drops
//! their ACKs. Another connection from the same address has used the opening, or it has expired.

use crate::error::Error;
use crate::sys::tcp;
use std::net::TcpStream;
use std::time::Duration;

/// How long it takes to detect a refusal: the server retransmits its SYN/ACK after 1 and after 3 seconds.
pub const REFUSAL_SHOWS: Duration = Duration::from_millis(3500);

/// Returns the error of a connection that the server's firewall has refused, [`REFUSAL_SHOWS`] after it was made.
pub fn refusal(stream: &TcpStream) -> Option<Error> {
    tcp::is_ignored(stream).then(|| {
        let address = stream.peer_addr().map_or_else(|_| "the server".to_owned(), |address| address.to_string());
        Error::refused(format!("cannot connect to {address}: the opening was gone before the handshake ended"))
            .advise("try again; another connection from this network may have used it")
    })
}
