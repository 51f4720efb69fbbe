//! Checks that an invitation which is read is written as the same line. Lets the search get past the checksum.
#![no_main]

use knockknock::profile::Invitation;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    // As it is, and with the checksum that it should have.
    for line in [text.to_owned(), format!("{text}:{:08x}", crc32(bytes))] {
        let Some(invitation) = Invitation::decode(&line) else { continue };
        assert_eq!(*invitation.encode(), line);
        assert!(Invitation::decode(&line[..line.len() - 1]).is_none());
        assert!(Invitation::decode(&format!("{line}{line}")).is_none());
    }
});

/// A slow but simple CRC-32: the remainder of a division, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        for bit in 0..8 {
            let differs = (crc ^ u32::from(byte >> bit)) & 1 == 1;
            crc = (crc >> 1) ^ if differs { 0xedb8_8320 } else { 0 };
        }
    }
    !crc
}
