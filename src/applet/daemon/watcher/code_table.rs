//! A hash table of codes that does not store the codes. A lookup returns the places that may hold the code. The caller
//! recomputes the code of each place and compares.
//!
//! Each place and each bucket is one word. The places of a bucket form a chain that ends with the bucket itself, so a
//! place can be removed from the middle of a chain without its hash. A word is a link and, above it, a mark. In a small
//! table a word has three bytes. A place's mark is a fingerprint: some bits of its hash.
//!
//! Most lookups of an absent hash end at one of two filters, which have a bit for each place of a bucket. The first
//! filter is a byte of its own, because the bytes of all buckets fit into a processor's cache, as the words of a large
//! table do not. The second one is the mark of the bucket's word.

/// The maximum number of places that a table can have.
pub const MAX_PLACES: usize = 1 << 20;

/// A table of up to [`MAX_PLACES`] codes.
pub(super) struct CodeTable {
    /// The words of the places, then those of the buckets, little-endian, and one more byte because four are read at
    /// once. An empty place and a bucket without places link to themselves.
    words: Box<[u8]>,
    /// The first filters of the buckets.
    filters: Box<[u8]>,
    places: usize,
    layout: Layout,
}

/// The layout of a word.
#[derive(Clone, Copy)]
struct Layout {
    /// The average number of places for each bucket. A larger number would save little memory and lengthen the chains.
    chain: usize,
    bytes: usize,
    link_bits: u32,
    mark_bits: u32,
}

/// For up to 2^16 places and buckets: less than four bytes for each place.
const SMALL: Layout = Layout { chain: 5, bytes: 3, link_bits: 16, mark_bits: 8 };
/// For larger tables: shorter chains, six and a half bytes for each place.
const LARGE: Layout = Layout { chain: 2, bytes: 4, link_bits: 21, mark_bits: 11 };

#[allow(clippy::indexing_slicing, reason = "links are made here, and are numbers of places and buckets")]
impl CodeTable {
    /// Creates a table of `places` empty places, at most [`MAX_PLACES`].
    pub fn new(places: usize) -> Self {
        debug_assert!(places <= MAX_PLACES);
        let small = places + places / SMALL.chain < 1 << SMALL.link_bits;
        Self::with(places, if small { SMALL } else { LARGE })
    }

    fn with(places: usize, layout: Layout) -> Self {
        // At least one, so that every hash has a bucket.
        let buckets = places / layout.chain + 1;
        let words = places + buckets;
        let filters = vec![0; buckets].into();
        let mut table = Self { words: vec![0; words * layout.bytes + 1].into(), filters, places, layout };
        (0..words).for_each(|at| table.set(at, at, 0));
        table
    }

    /// Fills an empty place with the hash of a code.
    pub fn insert(&mut self, place: usize, hash: u64) {
        debug_assert!(self.link(place) == place);
        let (bucket, fingerprint) = (self.bucket(hash), self.fingerprint(hash));
        let (first, second) = self.filter_bits(fingerprint);
        let start = self.places + bucket;
        let (link, filter) = self.word(start);
        self.set(place, link, fingerprint);
        self.set(start, place, filter | second);
        self.filters[bucket] |= first;
    }

    /// Empties a place.
    pub fn remove(&mut self, place: usize) {
        let after = self.link(place);
        if after == place {
            return;
        }
        let mut start = after;
        while start < self.places {
            start = self.link(start);
        }
        // Walk the chain from its start, to unlink the place and recompute the filters.
        let (mut before, mut filters) = (start, (0, 0));
        let mut at = self.link(start);
        while at < self.places {
            let (next, fingerprint) = self.word(at);
            if at == place {
                self.set(before, after, self.word(before).1);
            } else {
                let (first, second) = self.filter_bits(fingerprint);
                filters = (filters.0 | first, filters.1 | second);
                before = at;
            }
            at = next;
        }
        self.filters[start - self.places] = filters.0;
        self.set(start, self.link(start), filters.1);
        self.set(place, place, 0);
    }

    /// Returns the places that may hold a code with this hash; few others have the same fingerprint.
    pub fn candidates(&self, hash: u64) -> impl Iterator<Item = usize> {
        let (bucket, wanted) = (self.bucket(hash), self.fingerprint(hash));
        let (first, second) = self.filter_bits(wanted);
        let mut at = self.places;
        if self.filters[bucket] & first != 0 {
            let (link, filter) = self.word(self.places + bucket);
            if filter & second != 0 {
                at = link;
            }
        }
        std::iter::from_fn(move || {
            while at < self.places {
                let (place, (after, fingerprint)) = (at, self.word(at));
                at = after;
                if fingerprint == wanted {
                    return Some(place);
                }
            }
            None
        })
    }

    /// Returns the link and the mark of a word.
    fn word(&self, at: usize) -> (usize, u32) {
        let Layout { bytes, link_bits, mark_bits, .. } = self.layout;
        let word = self.words[at * bytes..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        let bits = |number: u32| (1 << number) - 1;
        ((word & bits(link_bits)) as usize, word >> link_bits & bits(mark_bits))
    }

    fn link(&self, at: usize) -> usize {
        self.word(at).0
    }

    fn set(&mut self, at: usize, link: usize, mark: u32) {
        let word = (mark << self.layout.link_bits | link as u32).to_le_bytes();
        let bytes = self.layout.bytes;
        self.words[at * bytes..][..bytes].copy_from_slice(&word[..bytes]);
    }

    /// Maps the upper half of the hash to a bucket.
    fn bucket(&self, hash: u64) -> usize {
        (((hash >> 32) * self.filters.len() as u64) >> 32) as usize
    }

    /// Returns the top bits of the lower half of the hash.
    fn fingerprint(&self, hash: u64) -> u32 {
        hash as u32 >> (32 - self.layout.mark_bits)
    }

    /// Returns a fingerprint's bits in the two filters, by its highest and its lowest three bits.
    fn filter_bits(&self, fingerprint: u32) -> (u8, u32) {
        (1 << (fingerprint >> (self.layout.mark_bits - 3)), 1 << (fingerprint & 7))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    /// A number without a pattern (SplitMix64).
    fn random(seed: &mut u64) -> u64 {
        *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    #[test]
    fn inserted_codes_are_found_and_removed_ones_are_not() {
        for layout in [SMALL, LARGE] {
            check(CodeTable::with(500, layout));
        }
    }

    fn check(mut table: CodeTable) {
        let (mut filled, mut seed) = (HashMap::new(), 1);
        for _ in 0..20_000 {
            let place = (random(&mut seed) % 500) as usize;
            if let Some(hash) = filled.remove(&place) {
                table.remove(place);
                assert!(table.candidates(hash).all(|found| found != place));
            } else {
                // Every other hash is one of few, so that some are the same.
                let hash = random(&mut seed);
                let hash = if hash % 2 == 0 { hash } else { (hash % 64) << 40 };
                table.insert(place, hash);
                filled.insert(place, hash);
            }
        }
        for (place, hash) in &filled {
            assert_eq!(table.candidates(*hash).filter(|found| found == place).count(), 1);
        }
        let foreign = (0..100_000).map(|_| table.candidates(random(&mut seed)).count()).sum::<usize>();
        assert!(foreign < 2500, "{foreign} candidates for hashes that are not there");
        for place in 0..500 {
            table.remove(place);
        }
        assert!(filled.values().all(|&hash| table.candidates(hash).next().is_none()));
    }

    #[test]
    fn a_full_table_and_an_empty_one() {
        let (mut table, mut seed) = (CodeTable::new(MAX_PLACES), 2);
        let hashes: Vec<u64> = (0..MAX_PLACES).map(|_| random(&mut seed)).collect();
        for (place, &hash) in (0..).zip(&hashes) {
            table.insert(place, hash);
        }
        for (place, &hash) in (0..).zip(&hashes).step_by(1001) {
            assert!(table.candidates(hash).any(|found| found == place));
        }
        assert_eq!(CodeTable::new(0).candidates(7).count(), 0);
        assert_eq!([54_612, 54_613, 54_614].map(|places| CodeTable::new(places).layout.bytes), [3, 3, 4]);
    }
}
