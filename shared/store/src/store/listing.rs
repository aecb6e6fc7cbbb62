//! Which series, label names and label values there are in a range of time.

use std::sync::Arc;

use anemone_model::Labels;
use roaring::RoaringBitmap;

use super::Store;
use super::scan::Scan;
use crate::index::SeriesRef;
use crate::matcher::Matcher;

/// A list that may have been cut off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing<T> {
    /// What was found, each once.
    pub items: Vec<T>,
    /// Whether there is more than the limit let through.
    pub truncated: bool,
    /// What is missing and why: names block and page.
    pub warnings: Vec<String>,
}

impl<T> Listing<T> {
    fn of(items: impl ExactSizeIterator<Item = T>, limit: usize, warnings: Vec<String>) -> Self {
        Self { truncated: items.len() > limit, items: items.take(limit).collect(), warnings }
    }
}

impl Store {
    /// The labels of the series that fit all `matchers` and have samples from `from_ms` to `to_ms`, both inclusive, in the order
    /// they were registered; `limit` at most.
    #[must_use]
    pub fn series(&self, matchers: &[Matcher], from_ms: i64, to_ms: i64, limit: usize) -> Listing<Labels> {
        let (present, warnings) = self.present(matchers, from_ms, to_ms);
        let index = self.index();
        let items = present.iter().take(limit).map(|s| index.labels(SeriesRef(s))).collect();
        Listing { items, truncated: present.len() > limit as u64, warnings }
    }

    /// The label names of those series, sorted.
    #[must_use]
    pub fn label_names(&self, matchers: &[Matcher], from_ms: i64, to_ms: i64, limit: usize) -> Listing<Arc<str>> {
        let (present, warnings) = self.present(matchers, from_ms, to_ms);
        Listing::of(self.index().names(Some(&present)).into_iter(), limit, warnings)
    }

    /// The values of label `name` on those series, sorted.
    #[must_use]
    pub fn label_values(&self, name: &str, matchers: &[Matcher], from_ms: i64, to_ms: i64, limit: usize) -> Listing<Arc<str>> {
        let (present, warnings) = self.present(matchers, from_ms, to_ms);
        Listing::of(self.index().values(name, Some(&present)).into_iter(), limit, warnings)
    }

    /// The series that fit and may have samples in the range. Exact to the chunk: a chunk that spans the range without a sample inside counts.
    fn present(&self, matchers: &[Matcher], from_ms: i64, to_ms: i64) -> (RoaringBitmap, Vec<String>) {
        let mut open = self.index().matching(matchers);
        let scan = Scan::new(self, self.view(), from_ms, to_ms);
        let mut present = RoaringBitmap::new();
        for (block, index) in scan.blocks() {
            if open.is_empty() {
                break;
            }
            let whole = from_ms <= block.root.first_ms && block.root.last_ms <= to_ms;
            let in_range = |s: &SeriesRef| whole || index.chunks(*s, from_ms, to_ms).next().is_some();
            let found: RoaringBitmap = index.series().filter(|s| open.contains(s.0)).filter(in_range).map(|s| s.0).collect();
            open -= &found;
            present |= found;
        }
        let view = scan.view();
        let heads = [Some(&view.live), view.frozen.as_ref().map(|f| &f.head)];
        for head in heads.into_iter().flatten() {
            let overlaps = |s: &u32| head.range(SeriesRef(*s)).is_some_and(|(first, last)| first <= to_ms && last >= from_ms);
            let found: RoaringBitmap = open.iter().filter(overlaps).collect();
            open -= &found;
            present |= found;
        }
        (present, scan.into_warnings())
    }
}
