//! A map from session numbers. The proxy counts them itself, so no client can choose numbers whose hashes collide, and
//! a multiplication is enough of a hash.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Values by session number.
pub type ById<T> = HashMap<u64, T, BuildHasherDefault<IdHasher>>;

/// Hashes a session number.
#[derive(Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write_u64(&mut self, id: u64) {
        // 2^64 divided by the golden ratio: neighbours end up far apart, in the upper bits too.
        self.0 = id.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    /// Never called: a session number is a `u64`.
    fn write(&mut self, _: &[u8]) {}

    fn finish(&self) -> u64 {
        self.0
    }
}
