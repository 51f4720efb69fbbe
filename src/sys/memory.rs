//! Searching bytes as fast as the C library can.

/// Where `byte` first stands in `haystack`.
pub fn find_byte(haystack: &[u8], byte: u8) -> Option<usize> {
    // SAFETY: the pointer is valid for reads of the length given, for the whole call.
    let at = unsafe { libc::memchr(haystack.as_ptr().cast(), byte.into(), haystack.len()) };
    (!at.is_null()).then(|| at as usize - haystack.as_ptr() as usize)
}

/// Where `byte` last stands in `haystack`.
pub fn find_last_byte(haystack: &[u8], byte: u8) -> Option<usize> {
    // SAFETY: the pointer is valid for reads of the length given, for the whole call.
    let at = unsafe { libc::memrchr(haystack.as_ptr().cast(), byte.into(), haystack.len()) };
    (!at.is_null()).then(|| at as usize - haystack.as_ptr() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn found_where_it_stands() {
        assert_eq!(find_byte(b"abcabc", b'c'), Some(2));
        assert_eq!(find_last_byte(b"abcabc", b'b'), Some(4));
        assert_eq!(find_last_byte(b"", b'b'), None);
    }
}
