//! Which blocks to merge. Pure: facts in, a choice out.

use std::collections::{BTreeMap, BTreeSet};

use crate::backend::BlockId;

/// Late samples of a span are still expected for this long after its end.
const LATE_MS: i64 = 3_600_000;

/// What the choice depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockFacts {
    pub(super) id: BlockId,
    pub(super) first_ms: i64,
    pub(super) last_ms: i64,
    pub(super) bytes: u64,
    pub(super) level: u16,
}

/// Blocks to merge into one, two at least.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Merge {
    pub(super) blocks: BTreeSet<BlockId>,
    pub(super) level: u16,
}

/// The next merge worth its cost. A span that has passed becomes one block, the widest span first, unless what would join is little and few; of
/// the smallest span, while it lasts, freshly sealed blocks are merged when there are `at_once`. Every merge leaves fewer blocks.
pub(super) fn next_merge(blocks: &[BlockFacts], spans_ms: &[i64], at_once: usize) -> Option<Merge> {
    let newest = blocks.iter().map(|b| b.last_ms).max()?;
    let at_once = at_once.max(2);
    for (number, &span) in spans_ms.iter().enumerate().filter(|(_, span)| **span > 0).rev() {
        let mut windows: BTreeMap<i64, Vec<&BlockFacts>> = BTreeMap::new();
        for block in blocks.iter().filter(|b| b.first_ms.div_euclid(span) == b.last_ms.div_euclid(span)) {
            windows.entry(block.first_ms.div_euclid(span)).or_default().push(block);
        }
        let level = number as u16 + 1;
        for (window, mut inside) in windows {
            let passed = newest >= (window + 1).saturating_mul(span).saturating_add(LATE_MS);
            if passed {
                let total: u64 = inside.iter().map(|b| b.bytes).sum();
                let largest = inside.iter().map(|b| b.bytes).max().unwrap_or(0);
                if inside.len() < 2 || (inside.len() < at_once && (total - largest) * 4 < largest) {
                    continue;
                }
            } else {
                inside.retain(|b| b.level == 0);
                if number > 0 || inside.len() < at_once {
                    continue;
                }
            }
            return Some(Merge { blocks: inside.iter().map(|b| b.id).collect(), level });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;
    const SPANS: [i64; 2] = [2 * HOUR, 24 * HOUR];

    /// (id, from hour, to hour, bytes, level)
    fn check(blocks: &[(u64, i64, i64, u64, u16)], expected: Option<(&[u64], u16)>) {
        let facts: Vec<_> = blocks
            .iter()
            .map(|&(id, from, to, bytes, level)| BlockFacts { id: BlockId(id), first_ms: from * HOUR, last_ms: to * HOUR, bytes, level })
            .collect();
        let expected = expected.map(|(ids, level)| Merge { blocks: ids.iter().map(|id| BlockId(*id)).collect(), level });
        assert_eq!(next_merge(&facts, &SPANS, 4), expected, "{blocks:?}");
    }

    #[test]
    fn merges_are_chosen_by_span_size_and_number() {
        check(&[], None);
        check(&[(1, 0, 1, 10, 0), (2, 0, 1, 10, 0), (3, 0, 1, 10, 0)], None);
        check(&[(1, 0, 1, 10, 0), (2, 0, 1, 10, 0), (3, 0, 1, 10, 0), (4, 0, 1, 10, 0)], Some((&[1, 2, 3, 4], 1)));
        check(&[(1, 0, 1, 10, 1), (2, 0, 1, 10, 0), (3, 0, 1, 10, 0), (4, 0, 1, 10, 0)], None);
        check(&[(1, 0, 1, 40, 1), (2, 0, 1, 10, 0), (3, 2, 3, 10, 0)], Some((&[1, 2], 1)));
        check(&[(1, 0, 1, 41, 1), (2, 0, 1, 10, 0), (3, 2, 3, 10, 0)], None);
        check(&[(1, 0, 1, 40, 1), (2, 2, 3, 40, 1), (3, 26, 26, 1, 0)], Some((&[1, 2], 2)));
        check(&[(1, 0, 1, 40, 1), (2, 2, 3, 40, 1), (3, 24, 24, 1, 0)], None);
        check(&[(1, 0, 23, 4000, 2), (2, 0, 1, 1, 0), (3, 49, 49, 1, 0)], None);
        check(&[(1, 0, 23, 4000, 2), (2, 0, 1, 1, 0), (4, 1, 2, 1, 0), (5, 3, 3, 1, 0), (3, 49, 49, 1, 0)], Some((&[1, 2, 4, 5], 2)));
        check(&[(1, 1, 30, 10, 0), (2, 1, 30, 10, 0), (3, 99, 99, 1, 0)], None);
    }
}
