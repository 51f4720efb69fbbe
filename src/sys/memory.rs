//! Byte search by the C library, which uses vector instructions.

/// Returns whether `haystack` contains `needle`.
pub fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    // SAFETY: both pointers are valid for reads of the lengths given, for the whole call.
    let at = unsafe { libc::memmem(haystack.as_ptr().cast(), haystack.len(), needle.as_ptr().cast(), needle.len()) };
    !at.is_null()
}

/// Returns the position of the first `byte` in `haystack`.
pub fn find_byte(haystack: &[u8], byte: u8) -> Option<usize> {
    // SAFETY: the pointer is valid for reads of the length given, for the whole call.
    let at = unsafe { libc::memchr(haystack.as_ptr().cast(), byte.into(), haystack.len()) };
    (!at.is_null()).then(|| at as usize - haystack.as_ptr() as usize)
}

/// Returns the position of the last `byte` in `haystack`. Tests eight bytes at a time; musl's memrchr tests one.
pub fn find_last_byte(haystack: &[u8], byte: u8) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let mut before = haystack;
    while let Some((rest, eight)) = before.split_last_chunk() {
        // A byte of `differs` is 0 if it equals the wanted one.
        let differs = u64::from_ne_bytes(*eight) ^ (ONES * u64::from(byte));
        if differs.wrapping_sub(ONES) & !differs & (ONES << 7) != 0 {
            break;
        }
        before = rest;
    }
    before.iter().rposition(|&found| found == byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_first_and_the_last_byte() {
        assert!(contains(b"abcabc", b"ca") && !contains(b"abc", b"cab") && !contains(b"", b"x"));
        assert_eq!(find_byte(b"abcabc", b'c'), Some(2));
        assert_eq!(find_last_byte(b"abcabc", b'b'), Some(4));
        assert_eq!(find_last_byte(b"", b'b'), None);
        let text: Vec<u8> = (0..200_u8).map(|number| number.wrapping_mul(37) % 7).collect();
        for (from, to) in (0..50).flat_map(|from| (from..text.len()).map(move |to| (from, to))) {
            let haystack = &text[from..to];
            for byte in [0, 3, 6, 7] {
                assert_eq!(find_last_byte(haystack, byte), haystack.iter().rposition(|&found| found == byte));
            }
        }
    }
}
