//! A client's message is the same however its bytes arrive: each shorter piece is "not all there", and
//! what follows changes nothing. Nobody can be kept waiting for more than the longest message.
#![no_main]

use knockknock::applet::proxy::socks::{self, Failure, Host, LONGEST, ParsedMessage};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    law(bytes, socks::hello);
    law(bytes, socks::request);
    if let Ok((request, _)) = socks::request(bytes) {
        if let Host::Name(name) = &request.host {
            assert!((1..=255).contains(&name.len()) && !name.contains('\0'), "{name:?}");
        }
    }
});

fn law<T: PartialEq + std::fmt::Debug>(bytes: &[u8], parse: fn(&[u8]) -> ParsedMessage<T>) {
    let whole = parse(bytes);
    match &whole {
        Ok((_, length)) => {
            assert!((1..=bytes.len().min(LONGEST)).contains(length));
            for end in 0..*length {
                assert_eq!(parse(&bytes[..end]), Err(Failure::Short), "{end} of {bytes:?}");
            }
            assert_eq!(parse(&bytes[..*length]), whole);
        }
        Err(Failure::Short) => assert!(bytes.len() < LONGEST, "{bytes:?}"),
        Err(Failure::Refused(_)) => {
            // A refusal may come before the message is whole, and stays what it is.
            assert_eq!(parse(&[bytes, b"more"].concat()), whole);
        }
    }
}
