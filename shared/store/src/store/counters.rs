//! What the store counts, and the range of times it accepts.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use super::{QuarantinedBlock, Store, lock};
use crate::head::{Appended, Refusal, TIME_LIMIT_MS};

#[derive(Debug)]
pub(super) struct Counters {
    oldest: AtomicI64,
    newest: AtomicI64,
    appended: AtomicU64,
    duplicates: AtomicU64,
    conflicts: AtomicU64,
    too_old: AtomicU64,
    too_new: AtomicU64,
    unknown_series: AtomicU64,
}

impl Default for Counters {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            oldest: AtomicI64::new(-TIME_LIMIT_MS),
            newest: AtomicI64::new(TIME_LIMIT_MS),
            appended: zero(),
            duplicates: zero(),
            conflicts: zero(),
            too_old: zero(),
            too_new: zero(),
            unknown_series: zero(),
        }
    }
}

impl Counters {
    /// Oldest and newest time accepted, inclusive.
    pub(super) fn accepted(&self) -> (i64, i64) {
        (self.oldest.load(Ordering::Relaxed), self.newest.load(Ordering::Relaxed))
    }

    pub(super) fn accept(&self, oldest: i64, newest: i64) {
        self.oldest.store(oldest.max(-TIME_LIMIT_MS), Ordering::Relaxed);
        self.newest.store(newest.min(TIME_LIMIT_MS), Ordering::Relaxed);
    }

    pub(super) fn count(&self, outcome: Appended) {
        let counter = match outcome {
            Appended::New => &self.appended,
            Appended::Duplicate => &self.duplicates,
            Appended::Conflict => &self.conflicts,
            Appended::Refused(Refusal::TooOld) => &self.too_old,
            Appended::Refused(Refusal::TooNew) => &self.too_new,
            Appended::Refused(Refusal::UnknownSeries) => &self.unknown_series,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// The state of a store in numbers; counters begin at 0 in each process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Series known.
    pub series: u32,
    /// Samples not in blocks yet.
    pub head_samples: u64,
    /// Memory of the head, in bytes, without the index.
    pub head_bytes: u64,
    /// Blocks in use.
    pub blocks: usize,
    /// Bytes of the blocks in use.
    pub block_bytes: u64,
    /// Samples in the blocks in use; those in two blocks count twice.
    pub block_samples: u64,
    /// Samples taken into the head.
    pub appended: u64,
    /// Samples dropped because the head had the same.
    pub duplicates: u64,
    /// Samples dropped because the head had another value at their time.
    pub conflicts: u64,
    /// Samples refused as older than the retention.
    pub refused_too_old: u64,
    /// Samples refused as too far in the future.
    pub refused_too_new: u64,
    /// Samples refused because nobody registered their series.
    pub refused_unknown_series: u64,
    /// Blocks that are not used, each with its reason.
    pub quarantined: Vec<QuarantinedBlock>,
    /// Damaged pages in blocks that are otherwise in use.
    pub damaged_pages: usize,
    /// See [`Store::covered`].
    pub covered: u64,
    /// Memory of decoded pages and of block indexes, in bytes.
    pub cache_bytes: usize,
}

impl Store {
    /// The state in numbers.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let (view, counters) = (self.view(), &self.counters);
        let heads = [Some(&*view.live), view.frozen.as_deref().map(|f| &*f.head)].into_iter().flatten().map(crate::head::Head::size);
        let (head_samples, head_bytes) = heads.fold((0, 0), |(s, b), size| (s + size.samples, b + size.bytes));
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            series: self.series_count(),
            head_samples,
            head_bytes,
            blocks: view.blocks.len(),
            block_bytes: view.blocks.iter().map(|b| b.bytes).sum(),
            block_samples: view.blocks.iter().map(|b| b.root.samples).sum(),
            appended: load(&counters.appended),
            duplicates: load(&counters.duplicates),
            conflicts: load(&counters.conflicts),
            refused_too_old: load(&counters.too_old),
            refused_too_new: load(&counters.too_new),
            refused_unknown_series: load(&counters.unknown_series),
            quarantined: lock(&self.quarantined).clone(),
            damaged_pages: lock(&self.damaged_pages).len(),
            covered: self.covered(),
            cache_bytes: self.pages.bytes() + self.indexes.bytes(),
        }
    }
}
