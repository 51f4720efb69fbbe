//! Checks that a SOCKS message is parsed the same however its bytes arrive: every prefix is incomplete, and the bytes
//! after it change nothing. The parser never waits for more than the longest message.
#![no_main]

use knockknock::applet::proxy::socks::{self, Failure, Hello, Host, LONGEST, ParsedMessage};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    law(bytes, socks::hello);
    law(bytes, socks::request);
    if let Ok((Hello::Request(request), _)) = socks::request(bytes) {
        if let Host::Name(name) = &request.host {
            assert!((1..=255).contains(&name.len()) && !name.contains('\0'), "{name:?}");
        }
    }
});

fn law(bytes: &[u8], parse: fn(&[u8]) -> ParsedMessage) {
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
            // A message may be refused before it is complete; further bytes do not change the refusal.
            assert_eq!(parse(&[bytes, b"more"].concat()), whole);
        }
    }
}
