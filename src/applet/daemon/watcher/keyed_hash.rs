//! A fast hash that cannot be predicted without its secret. It distributes sources over accounts and codes over
//! buckets, so it only has to withstand guessing, not cryptanalysis.

/// Multiplies to 128 bits and XORs the halves.
pub(super) fn keyed_hash(secret: u64, value: u64) -> u64 {
    /// 2^64 divided by the golden ratio: an odd number whose bits follow no pattern.
    const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
    let product = u128::from(value ^ secret) * u128::from(secret.rotate_left(32) ^ MULTIPLIER | 1);
    (product >> 64) as u64 ^ product as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How evenly `values` fall into 64 classes by 6 bits of their hashes: the sum of squares over what
    /// chance gives, about 1.
    fn evenness(secret: u64, shift: u32, values: impl Iterator<Item = u64>) -> f64 {
        let mut classes = [0_u32; 64];
        values.for_each(|value| classes[(keyed_hash(secret, value) >> shift) as usize % 64] += 1);
        let expected = f64::from(classes.iter().sum::<u32>()) / 64.0;
        classes.iter().map(|&class| (f64::from(class) - expected).powi(2) / expected).sum::<f64>() / 63.0
    }

    #[test]
    fn neighbouring_values_are_spread_evenly() {
        for secret in [0, 1, 0x0123_4567_89ab_cdef, u64::MAX] {
            for shift in [0, 21, 32, 58] {
                let evenness = evenness(secret, shift, 0..100_000);
                assert!(evenness < 2.0, "secret {secret:#x}, bits from {shift} on: {evenness}");
            }
        }
    }

    #[test]
    fn another_secret_gives_another_hash() {
        let (one, other) = (0x1b87_2f3e_90aa_5c64, 0x8d05_e6c3_7714_2fb9);
        let same = (0..64_000).filter(|&value| keyed_hash(one, value) % 64 == keyed_hash(other, value) % 64).count();
        assert!((800..1200).contains(&same), "{same} of 64,000");
    }
}
