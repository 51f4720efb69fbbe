//! Checks that a profile's config survives a round trip, and compares the counter parser with a slow but simple one.
#![no_main]

use knockknock::profile::{Counter, ProfileConfig};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        match ProfileConfig::parse(text) {
            Ok(profile_config) => {
                assert!((profile_config.knock_port == 0) == profile_config.wire.prefix().is_some());
                assert!(profile_config.ports.as_ref().is_none_or(|ports| !ports.is_empty() && !ports.contains(0)));
                assert_eq!(ProfileConfig::parse(&profile_config.to_text()), Ok(profile_config));
            }
            Err((line, why)) => assert!(line <= text.lines().count() && !why.is_empty()),
        }
    }
    let counter = Counter::parse(bytes);
    assert_eq!(counter, slow(bytes), "{:?}", String::from_utf8_lossy(bytes));
    if let Some(counter) = counter {
        assert_eq!(Counter::parse(format!("{counter:010}\n").as_bytes()), Some(counter));
    }
});

fn slow(bytes: &[u8]) -> Option<u64> {
    let first: Vec<u8> = bytes.iter().copied().take_while(|&byte| byte != b'\n').collect();
    let text = String::from_utf8(first).ok()?;
    let digits = text.trim_matches(|char: char| char.is_ascii_whitespace());
    if digits.is_empty() || digits.len() > 20 || digits.chars().any(|char| !char.is_ascii_digit()) {
        return None;
    }
    let number: u128 = digits.parse().unwrap();
    (number <= 1 << 32).then_some(number as u64)
}
