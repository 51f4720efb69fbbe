//! Compares the parser of /dev/kmsg records, which accepts only records of the kernel itself, with a simple one.
#![no_main]

use knockknock::klog;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|record: &[u8]| {
    assert_eq!(klog::kmsg::line(record), slow(record), "{:?}", String::from_utf8_lossy(record));
});

fn slow(record: &[u8]) -> Option<&[u8]> {
    let semicolon = record.iter().position(|&byte| byte == b';')?;
    let comma = record[..semicolon].iter().position(|&byte| byte == b',').unwrap_or(semicolon);
    let priority = &record[..comma];
    if priority.is_empty() || !priority.iter().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // Facility 0, the kernel's: the number is 0 to 7, with any number of leading zeros.
    let zeros = priority.iter().take_while(|&&digit| digit == b'0').count();
    if !matches!(priority[zeros..], [] | [b'1'..=b'7']) {
        return None;
    }
    let text = &record[semicolon + 1..];
    let end = text.iter().position(|&byte| byte == b'\n').unwrap_or(text.len());
    Some(&text[..end])
}
