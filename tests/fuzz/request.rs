//! Checks that the opener accepts only valid requests, each in its one encoding.
#![no_main]

use knockknock::applet::daemon::ipc::OpenRequest;
use libfuzzer_sys::fuzz_target;
use std::net::IpAddr;

fuzz_target!(|bytes: &[u8]| {
    let read = OpenRequest::from_bytes(bytes);
    assert_eq!(read.is_some(), slow(bytes), "{bytes:?}");
    if let Some(request) = read {
        assert_eq!(request.to_bytes(), bytes);
        assert!(request.port() >= 1 && (1..=900).contains(&request.seconds()));
        let address = request.source();
        assert!(!address.is_unspecified() && !address.is_loopback() && !address.is_multicast());
    }
});

fn slow(bytes: &[u8]) -> bool {
    if bytes.len() != 24 || bytes[0] != 1 || bytes[6] != 0 || bytes[7] != 0 {
        return false;
    }
    let port = u16::from(bytes[2]) << 8 | u16::from(bytes[3]);
    let seconds = u16::from(bytes[4]) << 8 | u16::from(bytes[5]);
    if port == 0 || seconds == 0 || seconds > 15 * 60 {
        return false;
    }
    match bytes[1] {
        // Not 0/8, 127/8, 224/4, 240/4.
        4 => bytes[12..].iter().all(|&byte| byte == 0) && !matches!(bytes[8], 0 | 127 | 224..),
        // Not ff00::/8, ::, ::1, ::ffff:0:0/96.
        6 => {
            let address: [u8; 16] = bytes[8..].try_into().unwrap();
            let mapped = address[..10] == [0; 10] && address[10..12] == [255, 255];
            let address = IpAddr::from(address);
            bytes[8] != 255 && !mapped && !address.is_unspecified() && !address.is_loopback()
        }
        _ => false,
    }
}
