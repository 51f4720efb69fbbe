//! A connection that is established at this end only: the server's firewall drops its ACKs, since the
//! opening is gone. Another connection from the same address has used it, or its time was up.

use crate::error::Error;
use crate::sys::tcp;
use std::net::TcpStream;
use std::time::Duration;

/// When a refusal shows: the server retransmits its SYN/ACK after 1 and after 3 seconds.
pub const REFUSAL_SHOWS: Duration = Duration::from_millis(3500);

/// The error of a connection that the server's firewall has refused, [`REFUSAL_SHOWS`] after it was made.
pub fn refusal(stream: &TcpStream) -> Option<Error> {
    tcp::is_ignored(stream).then(|| {
        let address = stream.peer_addr().map_or_else(|_| "the server".to_owned(), |address| address.to_string());
        Error::refused(format!("cannot connect to {address}: the opening was gone before the handshake ended"))
            .advise("try again; another connection from this network may have used it")
    })
}
