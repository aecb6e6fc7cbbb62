//! What a device was found to bear in one answer.

/// How many varbinds one request may ask a device for: learnt, not configured.
///
/// Starts at what fits a datagram, halves when the device says tooBig or stays silent, ends at one (GetNext), and recovers by
/// doubling at each inventory, so that one bad minute of a network does not slow a device down for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    varbinds: u16,
}

/// Most varbinds asked for at once. About 50 Counter64 of ifXTable fill a datagram of 1472 bytes.
pub const VARBINDS_MAX: u16 = 100;

/// Most varbinds a walk asks for at once: it reads texts as well, so fewer fit than of counters.
pub const WALK_VARBINDS_MAX: usize = 50;

/// Most repetitions of a walk whose end is not known: what overshoots the table is wasted.
pub const WALK_REPETITIONS_MAX: u32 = 25;

/// Fewest repetitions a walk wants before it asks for more columns at once instead.
pub const WALK_REPETITIONS_MIN: u32 = 10;

impl Default for Limits {
    fn default() -> Self {
        Self { varbinds: VARBINDS_MAX }
    }
}

impl Limits {
    /// A limit learnt earlier.
    #[must_use]
    pub fn remembered(varbinds: u16) -> Self {
        Self { varbinds: varbinds.clamp(1, VARBINDS_MAX) }
    }

    /// Most varbinds to ask for, 1 or more.
    #[must_use]
    pub fn varbinds(&self) -> usize {
        usize::from(self.varbinds)
    }

    /// `asked` varbinds were too many. `false` if fewer than one cannot be asked for.
    pub fn shrink(&mut self, asked: usize) -> bool {
        let halved = (asked.min(self.varbinds()) / 2).max(1);
        self.varbinds = u16::try_from(halved).unwrap_or(VARBINDS_MAX);
        asked > 1
    }

    /// The device gave only `given` of what it was asked for.
    pub fn observe(&mut self, given: usize) {
        self.varbinds = self.varbinds.min(u16::try_from(given.max(1)).unwrap_or(VARBINDS_MAX));
    }

    /// Tries more again.
    pub fn relax(&mut self) {
        self.varbinds = (self.varbinds * 2).min(VARBINDS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_down_to_get_next_and_recovers() {
        let mut limits = Limits::default();
        let mut seen = Vec::new();
        while limits.shrink(limits.varbinds()) {
            seen.push(limits.varbinds());
        }
        assert_eq!(seen, [50, 25, 12, 6, 3, 1]);
        limits.relax();
        assert_eq!(limits.varbinds(), 2);
        limits.observe(0);
        assert_eq!(limits.varbinds(), 1);
        assert_eq!(Limits::remembered(0).varbinds(), 1);
        assert_eq!(Limits::remembered(60_000), Limits::default());
    }
}
