//! When to seal the state machine and how far to purge the log: decided on bytes, no clock, no I/O.

/// What is known about the log. Indices are exclusive ends: `applied` 7 means entries 0 to 6 are applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogUse {
    /// First index still in the log.
    pub(crate) purged: u64,
    pub(crate) sealed: u64,
    pub(crate) applied: u64,
    pub(crate) end: u64,
    pub(crate) bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Wait,
    Seal,
    /// Purge up to and including this index.
    Purge(u64),
}

/// The next step for a log that should hold at most `limit` bytes. A tail of a quarter of that is kept; nothing is done that
/// would free less than another quarter.
pub(crate) fn next_step(log: LogUse, limit: u64) -> Step {
    let entries = log.end.saturating_sub(log.purged);
    if entries == 0 {
        return Step::Wait;
    }
    let bytes_of = |count: u64| u128::from(log.bytes) * u128::from(count) / u128::from(entries);
    let worthwhile = |count: u64| bytes_of(count) >= u128::from(limit / 4).max(1);
    let tail = u128::from(limit / 4) * u128::from(entries) / u128::from(log.bytes.max(1));
    let tail_start = log.end.saturating_sub(u64::try_from(tail).unwrap_or(u64::MAX));
    let purge_below = log.sealed.min(tail_start);
    if log.bytes >= limit / 2 && worthwhile(purge_below.saturating_sub(log.purged)) {
        return Step::Purge(purge_below - 1);
    }
    if log.bytes >= limit && worthwhile(log.applied.saturating_sub(log.sealed)) {
        return Step::Seal;
    }
    Step::Wait
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seals_when_over_the_limit_and_keeps_a_tail() {
        let log = |purged, sealed, applied, end, bytes| LogUse { purged, sealed, applied, end, bytes };
        // 1000 bytes an entry, limit 100,000 bytes.
        let cases = [
            ("empty", log(5, 5, 5, 5, 0), Step::Wait),
            ("below the limit", log(0, 0, 99, 99, 99_000), Step::Wait),
            ("over, all unsealed", log(0, 0, 120, 120, 120_000), Step::Seal),
            ("over, nothing applied", log(0, 0, 0, 120, 120_000), Step::Wait),
            ("sealed: all but the tail goes", log(0, 120, 120, 120, 120_000), Step::Purge(94)),
            ("sealed only in part", log(0, 40, 120, 120, 120_000), Step::Purge(39)),
            ("after the purge", log(95, 120, 120, 120, 25_000), Step::Wait),
            ("growing again", log(95, 120, 140, 140, 45_000), Step::Wait),
            ("the tail has moved on", log(95, 120, 145, 145, 50_000), Step::Purge(119)),
            ("over, little to purge", log(100, 120, 205, 205, 105_000), Step::Seal),
            ("not worth it", log(0, 10, 20, 130, 130_000), Step::Wait),
        ];
        for (name, log, expected) in cases {
            assert_eq!(next_step(log, 100_000), expected, "{name}");
        }
    }

    #[test]
    fn never_purges_what_is_not_sealed_and_always_ends() {
        for limit in [1, 10, 1000] {
            for bytes in [0, 1, 10, 5000] {
                for sealed in 0..8 {
                    if let Step::Purge(upto) = next_step(LogUse { purged: 0, sealed, applied: 8, end: 9, bytes }, limit) {
                        assert!(upto < sealed);
                    }
                }
            }
        }
    }
}
