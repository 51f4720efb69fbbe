//! A hash table of codes that stores no codes. A lookup returns the places that may hold the code; the caller
//! computes the code of each place again and compares.
//!
//! Every place has one word and so has every bucket. The places of a bucket form a chain, which ends with
//! the bucket's own number; so a place can be taken out without its hash, from anywhere in the chain.
//! A word is a link (21 bits) and, above it, a fingerprint (11 bits): in a place 11 bits of its hash, in a
//! bucket one bit for each of its places, so that most hashes without a place need no second look.

/// The most places that a table can have.
pub const MAX_PLACES: usize = 1 << 20;

/// A link to a place is its number; a link to a bucket has this bit too.
const BUCKET: u32 = 1 << 20;
const LINK_BITS: u32 = 21;
const LINK: u32 = (1 << LINK_BITS) - 1;

/// How many places share a bucket on average: 5 bytes for each place in all. More would save little memory
/// and cost longer chains.
const PLACES_IN_A_BUCKET: usize = 4;

/// The table.
pub(super) struct CodeTable {
    buckets: Box<[u32]>,
    /// An empty place links to itself.
    places: Box<[u32]>,
}

#[allow(clippy::indexing_slicing, reason = "links and buckets are made here, below the lengths of their lists")]
impl CodeTable {
    /// A table of `places` empty places, not more than [`MAX_PLACES`].
    pub fn new(places: usize) -> Self {
        debug_assert!(places <= MAX_PLACES);
        Self {
            buckets: (0..places.div_ceil(PLACES_IN_A_BUCKET) as u32).map(|bucket| BUCKET | bucket).collect(),
            places: (0..places as u32).collect(),
        }
    }

    /// Fills an empty place with a code that has this hash.
    pub fn insert(&mut self, place: u32, hash: u64) {
        debug_assert!(self.is_empty(place));
        let bucket = self.bucket(hash);
        let head = self.buckets[bucket];
        self.places[place as usize] = fingerprint(hash) << LINK_BITS | head & LINK;
        self.buckets[bucket] = head & !LINK | filter_bit(fingerprint(hash)) | place;
    }

    /// Empties a place.
    pub fn remove(&mut self, place: u32) {
        if self.is_empty(place) {
            return;
        }
        let after = self.link(place);
        let mut end = after;
        while end & BUCKET == 0 {
            end = self.link(end);
        }
        let bucket = (end & !BUCKET) as usize;
        // The chain once more, from its start: without this place, and for a new filter.
        let mut filter = 0;
        let mut before = None;
        let mut at = self.buckets[bucket] & LINK;
        while at & BUCKET == 0 {
            if at != place {
                filter |= filter_bit(self.places[at as usize] >> LINK_BITS);
                before = Some(at);
                at = self.link(at);
                continue;
            }
            match before {
                Some(before) => self.places[before as usize] = self.places[before as usize] & !LINK | after,
                None => self.buckets[bucket] = after,
            }
            at = after;
        }
        self.buckets[bucket] = filter | self.buckets[bucket] & LINK;
        self.places[place as usize] = place;
    }

    /// The places that may have a code with this hash: few others have the same fingerprint.
    pub fn candidates(&self, hash: u64) -> impl Iterator<Item = u32> {
        let wanted = fingerprint(hash);
        let head = self.buckets.get(self.bucket(hash)).copied().unwrap_or(BUCKET);
        let mut at = if head & filter_bit(wanted) == 0 { BUCKET } else { head & LINK };
        std::iter::from_fn(move || {
            while at & BUCKET == 0 {
                let (place, word) = (at, self.places[at as usize]);
                at = word & LINK;
                if word >> LINK_BITS == wanted {
                    return Some(place);
                }
            }
            None
        })
    }

    fn is_empty(&self, place: u32) -> bool {
        self.link(place) == place
    }

    fn link(&self, place: u32) -> u32 {
        self.places[place as usize] & LINK
    }

    /// The upper half of the hash, brought into the range of the buckets.
    fn bucket(&self, hash: u64) -> usize {
        (((hash >> 32) * self.buckets.len() as u64) >> 32) as usize
    }
}

/// 11 bits of the lower half of a hash.
fn fingerprint(hash: u64) -> u32 {
    hash as u32 >> LINK_BITS
}

/// One of the 11 bits above a bucket's link.
fn filter_bit(fingerprint: u32) -> u32 {
    1 << (LINK_BITS + fingerprint * (32 - LINK_BITS) / (1 << (32 - LINK_BITS)))
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
    fn what_is_in_the_table_is_found_and_nothing_that_was_taken_out() {
        let (mut table, mut filled, mut seed) = (CodeTable::new(500), HashMap::new(), 1);
        for _ in 0..20_000 {
            let place = (random(&mut seed) % 500) as u32;
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
        assert!(foreign < 1000, "{foreign} candidates for hashes that are not there");
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
    }
}
