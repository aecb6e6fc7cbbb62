//! The spool: sealed batches by sequence, on disk from their sealing until the hub has them and a sealed local block covers them.
//!
//! ```text
//! <dir>/log/                     the segmented log; index = sequence, the first is 1; metas: epoch, progress, dictionary starts
//! <dir>/gaps.cbor                gap batches that stand for sequences given up
//! <dir>/dictionary-<seq>.defs    definitions of batches already purged
//!
//!  first                acked_below            durable         next
//!    |--- the hub has it ---|--- to be shipped ---|--- flushing ---|   + parts in memory without a sequence
//! ```
//! Promises: a sequence is given once, at the append; what was flushed is shipped or accounted for by a gap batch, whatever breaks.
//! Trims by acknowledgement and coverage, or by size, and then a gap takes the place of what the hub has not got.
//! Refuses nothing while the disk refuses: parts wait in memory up to a bound, and the oldest give way to a gap record.

mod dictionary;
mod error;
mod gaps;
mod open;
mod pending;
mod reading;
mod trim;
mod writer;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anemone_log::Log;
use anemone_model::AgentId;
use anemone_wire::gap::GapRecord;
use bytes::Bytes;
use serde::Serialize;

use crate::config::SpoolBounds;

pub use error::SpoolError;
pub use gaps::Gap;
pub use open::SpoolReport;
pub use pending::Part;
pub use reading::Outgoing;
pub use writer::WriterEnd;

use dictionary::Dictionaries;
use gaps::Gaps;
use pending::Pending;

/// The spool. Its methods may be called from any thread; those that say so block on the disk.
#[derive(Debug)]
pub struct Spool {
    log: Log,
    agent: AgentId,
    epoch: u64,
    /// Added to sequences to make marks of the local store, which must rise from epoch to epoch.
    base: u64,
    bounds: SpoolBounds,
    dictionaries: Dictionaries,
    state: Mutex<State>,
    pending: Mutex<Pending>,
    wake: Condvar,
    generation_wanted: AtomicU64,
    counters: Counters,
}

#[derive(Debug)]
struct State {
    acked_below: u64,
    /// Sequences below are in sealed blocks of the local store.
    covered_below: u64,
    gaps: Gaps,
    /// First sequences of the dictionaries, in order.
    starts: Vec<u64>,
    /// The batcher's dictionary that the last of `starts` belongs to; `None` before the first append.
    generation: Option<u64>,
    /// Batches sealed anew with the definitions that the hub lacked.
    amended: BTreeMap<u64, Bytes>,
    dropped_batches: u64,
    saved_progress: (u64, u64),
    saved_at: Option<Instant>,
    oldest_unacknowledged: Option<(u64, i64)>,
    oldest_sought_at: Option<Instant>,
    trim_failing: bool,
    closing: bool,
}

#[derive(Debug, Default)]
struct Counters {
    appended: AtomicU64,
    write_failures: AtomicU64,
    unwritable: AtomicU64,
    corrupt: AtomicU64,
    given_up: AtomicU64,
    amended: AtomicU64,
    forced_early: AtomicU64,
}

impl Counters {
    fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

/// What a spool holds and has counted; every drop is among the counters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SpoolStatus {
    /// Its epoch; in JSON as 16 hexadecimal digits, since it does not fit a JavaScript number.
    #[serde(serialize_with = "hexadecimal")]
    pub epoch: u64,
    /// First sequence held.
    pub first: u64,
    /// The sequence that the next batch gets.
    pub next: u64,
    /// Everything below is on disk.
    pub durable_below: u64,
    /// Everything below is applied at the hub.
    pub acked_below: u64,
    /// Everything below is in sealed blocks of the local store.
    pub covered_below: u64,
    /// Bytes in use.
    pub bytes: u64,
    /// Most bytes it may use.
    pub bytes_max: u64,
    /// Bytes that the hub has not got, to the segment.
    pub unacknowledged_bytes: u64,
    /// When the oldest batch that the hub has not got was sealed, in milliseconds since 1970 UTC.
    pub oldest_unacknowledged_ms: Option<i64>,
    /// Parts in memory that wait for the disk.
    pub waiting_parts: usize,
    /// Their bytes.
    pub waiting_bytes: usize,
    /// Gaps that the hub has not got yet.
    pub gaps: Vec<GapSummary>,
    /// Batches appended since the start.
    pub appended: u64,
    /// Writes that the disk refused.
    pub write_failures: u64,
    /// Batches dropped for the size bound since the epoch began.
    pub dropped_batches: u64,
    /// Parts dropped from memory because the disk refused.
    pub dropped_parts: u64,
    /// Samples in them.
    pub dropped_part_samples: u64,
    /// Parts that could not be made a batch.
    pub unwritable: u64,
    /// Records that could not be read back.
    pub corrupt_records: u64,
    /// Batches given up because the hub will not take them.
    pub given_up: u64,
    /// Batches sealed anew with definitions.
    pub amended: u64,
    /// Segments purged for their size before a local block covered them.
    pub purged_uncovered: u64,
}

/// A gap for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GapSummary {
    /// First sequence.
    pub from_sequence: u64,
    /// How many.
    pub sequences: u64,
    /// How many samples, as far as known.
    pub samples: u64,
    /// Time of the first sample, in milliseconds since 1970 UTC.
    pub from_ms: Option<i64>,
    /// Time of the last.
    pub to_ms: Option<i64>,
    /// Why, in words.
    pub reason: &'static str,
}

impl From<&GapRecord> for GapSummary {
    fn from(record: &GapRecord) -> Self {
        let GapRecord { from_sequence, sequences, from_ms, to_ms, samples, reason } = *record;
        Self { from_sequence, sequences, samples, from_ms, to_ms, reason: reason.describe() }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn hexadecimal<S: serde::Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{number:016x}"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Spool {
    /// Its epoch.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The sequence that the next batch gets.
    #[must_use]
    pub fn next_sequence(&self) -> u64 {
        self.log.next_index()
    }

    /// The first sequence that is held or accounted for and not known to be applied.
    #[must_use]
    pub fn acked_below(&self) -> u64 {
        lock(&self.state).acked_below
    }

    /// Follows the end of what is on disk: everything below may be shipped.
    #[must_use]
    pub fn subscribe_durable(&self) -> tokio::sync::watch::Receiver<u64> {
        self.log.subscribe_durable()
    }

    /// The mark for the local store once everything flushed so far is in it. What is not flushed does not count: after a power cut its
    /// sequences are given again.
    #[must_use]
    pub fn store_mark(&self) -> u64 {
        self.base + self.log.durable_index().saturating_sub(1)
    }

    /// The local store has everything up to its mark in sealed blocks.
    pub fn store_covers(&self, mark: u64) {
        let below = mark.saturating_sub(self.base) + 1;
        let mut state = lock(&self.state);
        state.covered_below = state.covered_below.max(below.min(self.log.next_index()));
        drop(state);
        self.wake.notify_all();
    }

    /// The hub has applied everything below.
    pub fn acknowledge(&self, below: u64) {
        let mut state = lock(&self.state);
        let below = below.min(self.log.durable_index());
        if below <= state.acked_below {
            return;
        }
        state.acked_below = below;
        state.amended = state.amended.split_off(&below);
        // The sidecar on disk follows with the next saving; until then it would only be shipped once more.
        state.gaps.acknowledge(below);
        drop(state);
        self.wake.notify_all();
    }

    /// Hands a part over for writing. Past the bound in memory the oldest part gives way; gives how many samples that cost.
    pub fn enqueue(&self, part: Part) -> u64 {
        let dropped = lock(&self.pending).push(part);
        self.wake.notify_all();
        dropped
    }

    /// The number of the dictionary that the batcher should be at; when it grows, everything is to be defined anew.
    #[must_use]
    pub fn generation_wanted(&self) -> u64 {
        self.generation_wanted.load(Ordering::Acquire)
    }

    /// Waits until nothing is in memory any more, or `deadline`. Gives what is left: parts and samples would be lost.
    pub fn drain(&self, deadline: Instant) -> usize {
        let mut pending = lock(&self.pending);
        loop {
            let (waiting, _) = pending.waiting();
            let written = self.log.durable_index() >= self.log.next_index();
            let left = deadline.saturating_duration_since(Instant::now());
            if (pending.is_empty() && written) || left.is_zero() {
                return waiting;
            }
            pending = self.wake.wait_timeout(pending, left.min(Duration::from_millis(20))).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// What it holds and has counted.
    #[must_use]
    pub fn status(&self) -> SpoolStatus {
        let (stats, segments) = (self.log.stats(), self.log.segments());
        let ((waiting_parts, waiting_bytes), (dropped_parts, dropped_part_samples)) = {
            let pending = lock(&self.pending);
            (pending.waiting(), pending.dropped())
        };
        let state = lock(&self.state);
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        // It is looked at now and then only; meanwhile an older one may be named, never a newer one.
        let oldest = state.oldest_unacknowledged.filter(|_| state.acked_below < self.log.durable_index());
        SpoolStatus {
            epoch: self.epoch,
            first: self.log.first_index(),
            next: self.log.next_index(),
            durable_below: self.log.durable_index(),
            acked_below: state.acked_below,
            covered_below: state.covered_below,
            bytes: stats.live_bytes,
            bytes_max: self.bounds.max_bytes.0,
            unacknowledged_bytes: segments.iter().map(|segment| part_above(segment, state.acked_below)).sum(),
            oldest_unacknowledged_ms: oldest.map(|(_, sealed_at_ms)| sealed_at_ms),
            waiting_parts,
            waiting_bytes,
            gaps: state.gaps.iter().map(|gap| GapSummary::from(&gap.record)).collect(),
            appended: count(&self.counters.appended),
            write_failures: count(&self.counters.write_failures),
            dropped_batches: state.dropped_batches,
            dropped_parts,
            dropped_part_samples,
            unwritable: count(&self.counters.unwritable),
            corrupt_records: count(&self.counters.corrupt),
            given_up: count(&self.counters.given_up),
            amended: count(&self.counters.amended),
            purged_uncovered: count(&self.counters.forced_early),
        }
    }
}

/// The bytes of a segment that belong to sequences from `sequence` on, by proportion.
fn part_above(segment: &anemone_log::SegmentSummary, sequence: u64) -> u64 {
    let all = segment.next.saturating_sub(segment.first);
    let above = segment.next.saturating_sub(sequence.max(segment.first));
    segment.bytes.saturating_mul(above).checked_div(all).unwrap_or(0)
}

#[cfg(test)]
mod tests;
