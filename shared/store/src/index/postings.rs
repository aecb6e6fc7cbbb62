//! Which series have a label, and how matchers are answered from that.

use std::sync::Arc;

use roaring::RoaringBitmap;

use super::{Pair, SeriesIndex};
use crate::matcher::{MatchOp, Matcher};

/// The series that have a label; most labels of a flood have one.
#[derive(Debug)]
pub(super) enum Postings {
    One(u32),
    Many(RoaringBitmap),
}

impl Default for Postings {
    fn default() -> Self {
        Self::Many(RoaringBitmap::new())
    }
}

impl Postings {
    pub(super) fn insert(&mut self, series: u32) {
        match self {
            Self::Many(all) if all.is_empty() => *self = Self::One(series),
            Self::Many(all) => {
                all.insert(series);
            }
            Self::One(first) => *self = Self::Many([*first, series].into_iter().collect()),
        }
    }

    fn add_to(&self, union: &mut RoaringBitmap) {
        match self {
            Self::One(series) => {
                union.insert(*series);
            }
            Self::Many(all) => *union |= all,
        }
    }

    fn to_bitmap(&self) -> RoaringBitmap {
        let mut all = RoaringBitmap::new();
        self.add_to(&mut all);
        all
    }

    fn meets(&self, series: &RoaringBitmap) -> bool {
        match self {
            Self::One(one) => series.contains(*one),
            Self::Many(all) => !all.is_disjoint(series),
        }
    }
}

impl SeriesIndex {
    /// The series that fit all matchers.
    pub(crate) fn matching(&self, matchers: &[Matcher]) -> RoaringBitmap {
        // A matcher that an absent label fits cannot choose series by their labels; it can only rule some out.
        let (excluding, choosing): (Vec<_>, Vec<_>) = matchers.iter().partition(|m| m.matches(""));
        let mut chosen: Option<RoaringBitmap> = None;
        for matcher in choosing {
            let fitting = self.with_value(matcher, true);
            chosen = Some(match chosen {
                Some(all) => all & fitting,
                None => fitting,
            });
            if chosen.as_ref().is_some_and(RoaringBitmap::is_empty) {
                return RoaringBitmap::new();
            }
        }
        let mut chosen = chosen.unwrap_or_else(|| self.all());
        for matcher in excluding {
            chosen -= self.with_value(matcher, false);
        }
        chosen
    }

    /// Every series.
    pub(crate) fn all(&self) -> RoaringBitmap {
        let mut all = RoaringBitmap::new();
        all.insert_range(0..self.len());
        all
    }

    /// The series that have the matcher's label with a value for which it says `fits`.
    fn with_value(&self, matcher: &Matcher, fits: bool) -> RoaringBitmap {
        let mut union = RoaringBitmap::new();
        let Some(name) = self.string(&matcher.name) else { return union };
        let only_one = matches!((matcher.op, fits), (MatchOp::Equal, true) | (MatchOp::NotEqual, false));
        if only_one {
            let pair = self.string(&matcher.value).and_then(|value| self.pair(Pair { name, value }));
            return pair.map_or(union, |p| self.postings[p as usize].to_bitmap());
        }
        for &pair in self.pairs_of.get(&name).into_iter().flatten() {
            if matcher.matches(self.text(self.pairs[pair as usize].value)) == fits {
                self.postings[pair as usize].add_to(&mut union);
            }
        }
        union
    }

    /// The values of a label among `series`, sorted; among all series where none are given.
    pub(crate) fn values(&self, name: &str, series: Option<&RoaringBitmap>) -> Vec<Arc<str>> {
        let pairs = self.string(name).and_then(|n| self.pairs_of.get(&n)).map_or(&[][..], Vec::as_slice);
        let kept = pairs.iter().filter(|p| series.is_none_or(|s| self.postings[**p as usize].meets(s)));
        let mut values: Vec<_> = kept.map(|p| Arc::clone(self.text(self.pairs[*p as usize].value))).collect();
        values.sort_unstable();
        values
    }

    /// The label names among `series`, sorted; of all series where none are given.
    pub(crate) fn names(&self, series: Option<&RoaringBitmap>) -> Vec<Arc<str>> {
        let met = |pairs: &[u32]| series.is_none_or(|s| pairs.iter().any(|p| self.postings[*p as usize].meets(s)));
        let mut names: Vec<_> = self.pairs_of.iter().filter(|(_, pairs)| met(pairs)).map(|(n, _)| Arc::clone(self.text(*n))).collect();
        names.sort_unstable();
        names
    }

    /// All series, split by metric in order of the metrics' names; those without one come last.
    pub(crate) fn by_metric(&self) -> Vec<RoaringBitmap> {
        let mut rest = self.all();
        let pairs = self.metric_name().and_then(|n| self.pairs_of.get(&n)).map_or(&[][..], Vec::as_slice);
        let mut sorted: Vec<u32> = pairs.to_vec();
        sorted.sort_unstable_by_key(|p| self.text(self.pairs[*p as usize].value));
        let mut split = Vec::with_capacity(sorted.len() + 1);
        for pair in sorted {
            let series = self.postings[pair as usize].to_bitmap();
            rest -= &series;
            split.push(series);
        }
        split.push(rest);
        split
    }
}
