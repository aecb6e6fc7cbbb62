//! Tells from sysUpTime whether a device has restarted (RFC 3418).
//!
//! Two things show a restart: the value went back, or it is less than the time since it was last read. A value that went back because
//! its 32 bits were used up (497 days) is none. Where both readings fit an uninterrupted run there is no mark: a wrong mark turns a
//! whole counter into an increase, a missing one at worst understates it.

/// How far two readings may disagree with the clock, in hundredths of a second, besides 1 %.
const TOLERANCE: i64 = 1_000;

/// A step back of less than this, in hundredths of a second, is jitter of a device with several SNMP engines.
const JITTER: u32 = 100;

/// The last reading of sysUpTime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uptime {
    /// Hundredths of a second.
    pub ticks: u32,
    /// When, in milliseconds of a clock that does not jump.
    pub at_ms: i64,
}

impl Uptime {
    /// Whether the device restarted between this reading and `next`.
    #[must_use]
    pub fn restarted(&self, next: &Self) -> bool {
        let elapsed = (next.at_ms - self.at_ms).max(0) / 10;
        let tolerance = TOLERANCE + elapsed / 100;
        let (before, after) = (i64::from(self.ticks), i64::from(next.ticks));
        if after + i64::from(JITTER) >= before {
            return after + tolerance < elapsed;
        }
        let wrapped = before + elapsed - (1 << 32);
        (after - wrapped).abs() > tolerance
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_and_wraps() {
        const DAY: i64 = 86_400_000;
        for (ticks, at_ms, next, next_at_ms, restarted, why) in [
            (1_000, 0, 2_000, 10_000, false, "ten seconds later"),
            (1_000, 0, 1_000, 10_000, false, "a value the device caches"),
            (1_000, 0, 950, 10_000, false, "jitter"),
            (100_000, 0, 500, 10_000, true, "went back"),
            (4_294_967_000, 0, 704, 10_000, false, "497 days: the wrap"),
            (4_294_967_000, 0, 60_000, 10_000, true, "near the wrap, but far off what it gives"),
            (4_000_000_000, 0, 100, 10_000, true, "far from the wrap"),
            (1_000, 0, 180_000, 3_600_000, true, "higher, yet less than the hour that passed"),
            (500_000_000, 0, 500_000_100, 3_600_000, false, "a paused machine"),
            (1_000, 0, 8_641_000, DAY, false, "a day later"),
            (1_000, 10_000, 1_900, 1_000, false, "a clock that went back"),
        ] {
            let (before, after) = (Uptime { ticks, at_ms }, Uptime { ticks: next, at_ms: next_at_ms });
            assert_eq!(before.restarted(&after), restarted, "{why}");
        }
    }
}
