//! Reproducible chance: everything random in this crate comes from a seed, so a failed run can be repeated.

/// A small generator for decisions of chance; reproducible by its seed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// True in this share of cases.
    pub(crate) fn hit(&mut self, share: f64) -> bool {
        share > 0.0 && (self.next() >> 11) as f64 / (1_u64 << 53) as f64 <= share
    }

    /// A number in `0..=most`.
    pub(crate) fn up_to(&mut self, most: u32) -> u32 {
        (self.next() % (u64::from(most) + 1)) as u32
    }
}

/// A good bijective mixing of 64 bits (the finaliser of SplitMix64).
pub(crate) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

/// A hash of a name, for seeds (FNV-1a, then mixed).
pub(crate) fn hash(name: &str) -> u64 {
    mix(name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, octet| (hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3)))
}
