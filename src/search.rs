//! Searches for bytes, 8 or 16 at a time, because the daemon has to keep up with the log during a flood. Also splits
//! texts and replaces in them.
//!
//! The test for a byte in a word is that of Bit Twiddling Hacks (`haszero`,
//! <https://graphics.stanford.edu/~seander/bithacks.html>).

const ONES: u64 = 0x0101_0101_0101_0101;

/// Returns the index of the first byte that `mark` marks, or the length if there is none.
///
/// `mark` gets eight bytes, the first one in the lowest bits. It must set the top bit of the first byte to mark, and of
/// no byte before it; the bytes after it do not matter.
#[inline(always)]
pub fn first(bytes: &[u8], mark: impl Fn(u64) -> u64) -> usize {
    let mut rest = bytes;
    while let Some((eight, after)) = rest.split_first_chunk() {
        let marked = mark(u64::from_le_bytes(*eight));
        if marked != 0 {
            return bytes.len() - rest.len() + marked.trailing_zeros() as usize / 8;
        }
        rest = after;
    }
    bytes.len() - rest.len() + (mark(eight(rest)).trailing_zeros() as usize / 8).min(rest.len())
}

/// Returns the first eight bytes as a number, the first byte lowest. If there are fewer, the missing ones are zero.
#[inline(always)]
pub fn eight(bytes: &[u8]) -> u64 {
    if let Some(eight) = bytes.first_chunk() {
        return u64::from_le_bytes(*eight);
    }
    bytes.iter().rev().fold(0, |eight, byte| eight << 8 | u64::from(*byte))
}

/// Marks each `byte` for [`first`].
#[inline(always)]
pub fn mark_byte(eight: u64, byte: u8) -> u64 {
    let differs = eight ^ (ONES * u64::from(byte));
    differs.wrapping_sub(ONES) & !differs & (ONES << 7)
}

/// Returns the position of the first `byte`, an ASCII character, in `haystack`.
pub fn first_byte(haystack: &[u8], byte: u8) -> Option<usize> {
    let mut rest = haystack;
    while let Some((block, after)) = rest.split_first_chunk() {
        if may_have(*block, byte) {
            let at = first(block, |eight| mark_byte(eight, byte));
            if at < block.len() {
                return Some(haystack.len() - rest.len() + at);
            }
        }
        rest = after;
    }
    let at = first(rest, |eight| mark_byte(eight, byte));
    (at < rest.len()).then(|| haystack.len() - rest.len() + at)
}

/// Returns the position of the last `byte`, an ASCII character, in `haystack`.
pub fn last_byte(haystack: &[u8], byte: u8) -> Option<usize> {
    let mut before = haystack;
    while let Some((rest, block)) = before.split_last_chunk() {
        if may_have(*block, byte) {
            if let Some(at) = block.iter().rposition(|&found| found == byte) {
                return Some(rest.len() + at);
            }
        }
        before = rest;
    }
    before.iter().rposition(|&found| found == byte)
}

/// Returns `true` if `block` contains `byte`, and perhaps also if it contains a byte that is not ASCII.
#[inline(always)]
fn may_have(block: [u8; 16], byte: u8) -> bool {
    let both = u128::from_ne_bytes(block);
    // Subtracting one sets the top bit of a zero byte, and of no other byte up to 128.
    let one = |eight: u64| (eight ^ (ONES * u64::from(byte))).wrapping_sub(ONES);
    (one(both as u64) | one((both >> 64) as u64)) & (ONES << 7) != 0
}

/// Returns whether `haystack` contains `needle`. Fast if the needle's first byte is rare.
pub fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    let Some(&start) = needle.first() else { return true };
    let mut rest = haystack;
    while let Some(found) = first_byte(rest, start).and_then(|at| rest.get(at..)) {
        if found.starts_with(needle) {
            return true;
        }
        rest = found.get(1..).unwrap_or_default();
    }
    false
}

/// Returns the texts before and after the first `separator`, which must not be empty, like `str::split_once`, whose search
/// is large.
pub fn split_once<'a>(text: &'a str, separator: &str) -> Option<(&'a str, &'a str)> {
    let mut windows = text.as_bytes().windows(separator.len());
    let at = windows.position(|found| found == separator.as_bytes())?;
    Some((text.get(..at)?, text.get(at + separator.len()..)?))
}

/// Returns the texts before and after the last `separator`, an ASCII character.
pub fn split_last(text: &str, separator: u8) -> Option<(&str, &str)> {
    let at = last_byte(text.as_bytes(), separator)?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

/// Returns `text` with `new` in place of each `old`, which must not be empty.
pub fn replace(text: &str, old: &str, new: &str) -> String {
    let (mut replaced, mut rest) = (String::new(), text);
    while let Some((before, after)) = split_once(rest, old) {
        replaced.push_str(before);
        replaced.push_str(new);
        rest = after;
    }
    replaced + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_split_at_a_separator_and_replaced() {
        assert_eq!(split_once("aé - b - c", " - "), Some(("aé", "b - c")));
        assert_eq!((split_once("ab", "abc"), split_once("", "a"), split_last("", b'a')), (None, None, None));
        assert_eq!((split_once("aab", "ab"), split_last("a:é:b", b':')), (Some(("a", "")), Some(("a:é", "b"))));
        assert_eq!(replace("\n    a\n    é\nb", "\n    ", "\n"), "\na\né\nb");
        assert_eq!(replace("aaa", "aa", "b") + &replace("", "a", "b"), "ba");
    }

    #[test]
    fn finds_the_first_and_the_last_byte() {
        assert!(contains(b"abcabc", b"ca") && !contains(b"abc", b"cab") && !contains(b"", b"x"));
        assert_eq!((first_byte(b"abc", 0), first_byte(b"", b'b'), last_byte(b"", b'b')), (None, None, None));
        let text: Vec<u8> = (0..200_u8).map(|number| number.wrapping_mul(37) % 7).collect();
        for (from, to) in (0..50).flat_map(|from| (from..text.len()).map(move |to| (from, to))) {
            let haystack = &text[from..to];
            for byte in [0, 3, 6, 7] {
                assert_eq!(first_byte(haystack, byte), haystack.iter().position(|&found| found == byte));
                assert_eq!(last_byte(haystack, byte), haystack.iter().rposition(|&found| found == byte));
            }
        }
    }
}
