//! Keeping the spool in bounds: whole segments are purged, by acknowledgement and coverage, or by size.

use std::ops::Range;
use std::time::{Duration, Instant};

use anemone_wire::batch::{Batch, BatchHeader};
use anemone_wire::gap::GapReason;
use tokio::runtime::Handle;

use super::error::SpoolError;
use super::gaps::{self, Gap};
use super::{Counters, Spool, lock};

/// How often the oldest unacknowledged batch is looked at.
const OLDEST_EVERY: Duration = Duration::from_millis(900);

impl Spool {
    /// Sees to the bounds and to what is saved now and then. On the writer's thread.
    pub(super) fn maintain(&self, runtime: &Handle) {
        self.save_progress(runtime, false);
        self.note_oldest();
        let mut failed = self.trim(runtime).err();
        while failed.is_none() && self.is_over_bound() {
            match self.drop_oldest_segment(runtime) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => failed = Some(error),
            }
        }
        let failing = failed.is_some();
        let before = std::mem::replace(&mut lock(&self.state).trim_failing, failing);
        if let Some(error) = failed {
            Counters::add(&self.counters.write_failures, 1);
            if !before {
                tracing::error!(%error, "the spool cannot be trimmed now; it is tried again");
            }
        }
    }

    fn is_over_bound(&self) -> bool {
        // The open segment takes its whole size on disk from its beginning.
        self.log.stats().live_bytes > self.bounds.max_bytes.0.saturating_sub(self.bounds.segment_bytes.0)
    }

    /// The sequences of the oldest segment that is complete, if there is one.
    fn oldest_segment(&self) -> Option<Range<u64>> {
        let segments = self.log.segments();
        let oldest = segments.first().filter(|_| segments.len() > 1)?;
        Some(self.log.first_index()..oldest.next)
    }

    /// Purges segments that both the hub and the local blocks have.
    fn trim(&self, runtime: &Handle) -> Result<(), SpoolError> {
        while let Some(segment) = self.oldest_segment() {
            let held_from = {
                let state = lock(&self.state);
                state.acked_below.min(state.covered_below)
            };
            if segment.end > held_from {
                break;
            }
            self.purge(runtime, segment)?;
        }
        Ok(())
    }

    /// Purges the oldest segment whoever still wants it; gaps take the place of what the hub has not got. False if there is none.
    fn drop_oldest_segment(&self, runtime: &Handle) -> Result<bool, SpoolError> {
        let Some(segment) = self.oldest_segment() else { return Ok(false) };
        let acked_below = {
            let state = lock(&self.state);
            if segment.end > state.covered_below {
                Counters::add(&self.counters.forced_early, 1);
            }
            state.acked_below
        };
        let lost = acked_below.max(segment.start)..segment.end;
        let gaps: Vec<Gap> = lost.clone().filter_map(|sequence| self.gap_for(sequence)).collect();
        if !gaps.is_empty() {
            let (count, samples) = (gaps.len() as u64, gaps.iter().map(|gap| gap.record.samples).sum::<u64>());
            let mut state = lock(&self.state);
            let below = state.acked_below;
            state.gaps.add(gaps.into_iter().filter(|gap| gap.header.sequence >= below).collect())?;
            state.dropped_batches += count;
            drop(state);
            tracing::error!(from = lost.start, to = lost.end, samples, "the spool is full: the oldest batches give way to a gap record");
        }
        self.purge(runtime, segment)?;
        Ok(true)
    }

    /// The gap that takes the place of the batch at `sequence`, unless one does already.
    fn gap_for(&self, sequence: u64) -> Option<Gap> {
        let state = lock(&self.state);
        if state.gaps.covering(sequence).is_some() {
            return None;
        }
        let header: BatchHeader = self.header(&state, sequence, 1);
        drop(state);
        let batch = self.log.read(sequence).ok().flatten().and_then(|record| Batch::decode(record).ok());
        Some(match batch {
            Some(batch) => gaps::of_batch(&batch, GapReason::SpoolFull),
            None => gaps::unknown(header, GapReason::SpoolCorrupt),
        })
    }

    /// Keeps the definitions of a segment, records how far the hub is, and lets go of it.
    fn purge(&self, runtime: &Handle, segment: Range<u64>) -> Result<(), SpoolError> {
        self.save_progress(runtime, true);
        for sequence in segment.clone() {
            let batch = self.log.read(sequence).ok().flatten().and_then(|record| Batch::decode(record).ok());
            let Some(batch) = batch else { continue };
            if let Err(error) = self.dictionaries.keep(&batch.header, batch.definitions().unwrap_or_default()) {
                // Space must come back above all; definitions serve replays of the local store and amendments only.
                tracing::warn!(%error, sequence, "series definitions of a purged batch are not kept");
            }
        }
        runtime.block_on(self.log.purge_prefix(segment.end))?;
        let starts = lock(&self.state).starts.clone();
        self.dictionaries.prune(&starts, segment.end);
        Ok(())
    }

    /// Finds out when the oldest batch that the hub has not got was sealed.
    fn note_oldest(&self) {
        let sequence = {
            let mut state = lock(&self.state);
            let known = state.oldest_unacknowledged.is_some_and(|(known, _)| known == state.acked_below);
            if known || state.oldest_sought_at.is_some_and(|at| at.elapsed() < OLDEST_EVERY) {
                return;
            }
            state.oldest_sought_at = Some(Instant::now());
            state.acked_below
        };
        let record = self.log.read(sequence).ok().flatten();
        let header = record.and_then(|record| BatchHeader::peek(&record).ok());
        lock(&self.state).oldest_unacknowledged = header.map(|header| (sequence, header.sealed_at_ms));
    }
}
