//! A set of sequences as disjoint intervals: what has been applied of one spool epoch.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Disjoint, non-adjacent half-open intervals of sequences.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntervalSet {
    /// Start to end (exclusive).
    intervals: BTreeMap<u64, u64>,
}

impl IntervalSet {
    /// Adds `from..to`, merging with what it touches.
    pub fn insert(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        let (mut start, mut end) = (from, to);
        let touched: Vec<u64> = self.intervals.range(..=to).rev().take_while(|(_, e)| **e >= from).map(|(s, _)| *s).collect();
        for s in touched {
            let e = self.intervals.remove(&s).expect("key was just read");
            start = start.min(s);
            end = end.max(e);
        }
        self.intervals.insert(start, end);
    }

    /// Whether the whole of `from..to` is in the set.
    #[must_use]
    pub fn contains(&self, from: u64, to: u64) -> bool {
        self.intervals.range(..=from).next_back().is_some_and(|(_, end)| *end >= to)
    }

    /// The end of the first interval: for spools, which begin at sequence 1, everything below it is applied. 0 when empty.
    #[must_use]
    pub fn applied_below(&self) -> u64 {
        self.intervals.values().next().copied().unwrap_or(0)
    }

    /// How many intervals there are.
    #[must_use]
    pub fn pieces(&self) -> usize {
        self.intervals.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn behaves_as_a_set_of_numbers(ranges in proptest::collection::vec((1_u64..60, 0_u64..8), 0..40), from in 1_u64..70, length in 1_u64..6) {
            let (mut set, mut model) = (IntervalSet::default(), BTreeSet::new());
            for (start, length) in ranges {
                set.insert(start, start + length);
                model.extend(start..start + length);
            }
            let to = from + length;
            prop_assert_eq!(set.contains(from, to), (from..to).all(|n| model.contains(&n)));
            let gaps = model.iter().filter(|n| !model.contains(&(*n + 1))).count();
            prop_assert_eq!(set.pieces(), gaps);
            let below = model.iter().find(|n| !model.contains(&(*n + 1))).map_or(0, |n| n + 1);
            prop_assert_eq!(set.applied_below(), below);
        }
    }
}
