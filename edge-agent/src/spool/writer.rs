//! The writer: gives parts their sequence, appends them, and keeps the spool in bounds. One thread; the only one that appends.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use anemone_log::LogError;
use anemone_wire::batch::BatchHeader;
use tokio::runtime::Handle;

use super::error::SpoolError;
use super::open::{Progress, meta, save};
use super::pending::Part;
use super::{Counters, Spool, lock};
use crate::clock;

/// How long to wait after the disk refused.
const RETRY: Duration = Duration::from_millis(500);
/// How often the spool looks at its bounds while nothing happens.
const IDLE: Duration = Duration::from_secs(1);
/// How often progress is saved while it changes.
const SAVE_EVERY: Duration = Duration::from_secs(5);
/// Most dictionary starts remembered, so that they fit a meta record.
const STARTS_MAX: usize = 1_000;

/// Why the writer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriterEnd {
    /// Everything handed over is on disk.
    Drained,
    /// It was told to end while the disk refused.
    Abandoned,
    /// The log below it is gone without having been closed: its own writer has failed.
    LogGone,
}

impl Spool {
    /// Writes what is handed over until [`Spool::close`]. Blocks; futures of the log are driven with `runtime`.
    pub fn run_writer(&self, runtime: &Handle) -> WriterEnd {
        let mut failing = false;
        loop {
            let Some(part) = self.next_part() else {
                self.maintain(runtime);
                if self.is_closing() && lock(&self.pending).is_empty() {
                    self.save_progress(runtime, true);
                    return WriterEnd::Drained;
                }
                continue;
            };
            match runtime.block_on(self.append(&part)) {
                Ok(()) => {
                    lock(&self.pending).settled();
                    Counters::add(&self.counters.appended, 1);
                    if std::mem::take(&mut failing) {
                        tracing::info!("the spool's disk takes writes again");
                    }
                }
                Err(error) if is_about_the_part(&error) => self.give_up_part(part, &error),
                Err(SpoolError::Log(LogError::Closed { .. })) => return WriterEnd::LogGone,
                Err(error) => {
                    Counters::add(&self.counters.write_failures, 1);
                    if !std::mem::replace(&mut failing, true) {
                        tracing::error!(%error, "the spool's disk refuses writes; batches wait in memory");
                    }
                    lock(&self.pending).put_back(part);
                    if self.is_closing() {
                        return WriterEnd::Abandoned;
                    }
                    self.maintain(runtime);
                    self.pause(RETRY);
                }
            }
            self.maintain(runtime);
        }
    }

    /// Tells the writer to end once everything is written.
    pub fn close(&self) {
        lock(&self.state).closing = true;
        self.wake.notify_all();
    }

    /// Lets go of the directory after the writer has ended; further writes are refused.
    pub async fn release(&self) {
        self.log.clone().close().await;
    }

    fn is_closing(&self) -> bool {
        lock(&self.state).closing
    }

    fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        let mut pending = lock(&self.pending);
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            if self.is_closing() {
                return;
            }
            pending = self.wake.wait_timeout(pending, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The next part, or nothing after a while or when something else is to be seen to.
    fn next_part(&self) -> Option<Part> {
        let mut pending = lock(&self.pending);
        if pending.is_empty() && !self.is_closing() {
            pending = self.wake.wait_timeout(pending, IDLE).unwrap_or_else(PoisonError::into_inner).0;
        }
        match pending.next(self.log.next_index()) {
            Ok(part) => part,
            Err(error) => {
                Counters::add(&self.counters.unwritable, 1);
                tracing::error!(%error, "what was left of dropped batches does not encode and is lost");
                None
            }
        }
    }

    fn give_up_part(&self, part: Part, error: &SpoolError) {
        Counters::add(&self.counters.unwritable, 1);
        tracing::error!(%error, samples = part.samples, "a batch cannot be written and is given up");
        let mut pending = lock(&self.pending);
        pending.settled();
        // What stands for dropped parts is not dropped a second time, or it would come back for ever.
        if part.samples > 0 {
            pending.drop_part(part);
        }
    }

    /// Gives the part its identity and appends it; it is on disk on return.
    async fn append(&self, part: &Part) -> Result<(), SpoolError> {
        let sequence = self.log.next_index();
        let dictionary = self.dictionary_for(part.generation, sequence).await?;
        let header =
            BatchHeader { agent: self.agent.clone(), epoch: self.epoch, sequence, covers: 1, dictionary, sealed_at_ms: clock::now_ms() };
        let sections = part.sections.clone();
        self.log.append_built(move |index| sections.seal(&BatchHeader { sequence: index, ..header }).map_err(|e| e.to_string())).await?;
        Ok(())
    }

    /// The first sequence of the dictionary that parts of this generation belong to. A new one is on record before its first batch.
    async fn dictionary_for(&self, generation: u64, sequence: u64) -> Result<u64, SpoolError> {
        let starts = {
            let state = lock(&self.state);
            if state.generation == Some(generation) {
                return Ok(state.starts.last().copied().unwrap_or(sequence));
            }
            let first = self.log.first_index().min(state.acked_below);
            let mut starts = state.starts.clone();
            while starts.len() > STARTS_MAX || starts.get(1).is_some_and(|next| *next <= first) {
                starts.remove(0);
            }
            if starts.last() != Some(&sequence) {
                starts.push(sequence);
            }
            starts
        };
        save(&self.log, meta::STARTS, &starts).await?;
        let mut state = lock(&self.state);
        state.starts = starts;
        state.generation = Some(generation);
        Ok(sequence)
    }

    /// Saves how far the hub is, if that changed and it is time, or `now`.
    pub(super) fn save_progress(&self, runtime: &Handle, now: bool) {
        let progress = {
            let state = lock(&self.state);
            let current = (state.acked_below, state.dropped_batches);
            let due = state.saved_at.is_none_or(|at| at.elapsed() >= SAVE_EVERY);
            if current == state.saved_progress || !(due || now) {
                return;
            }
            Progress { acked_below: current.0, dropped_batches: current.1 }
        };
        let saved = runtime.block_on(save(&self.log, meta::PROGRESS, &progress));
        let mut state = lock(&self.state);
        state.saved_at = Some(Instant::now());
        let saved = saved.and_then(|()| state.gaps.save_if_changed());
        match saved {
            Ok(()) => state.saved_progress = (progress.acked_below, progress.dropped_batches),
            Err(error) => {
                Counters::add(&self.counters.write_failures, 1);
                tracing::debug!(%error, "the spool's progress is not saved; after a restart some batches are shipped twice");
            }
        }
    }
}

/// Whether trying again cannot help, since it is the part that is wrong.
fn is_about_the_part(error: &SpoolError) -> bool {
    matches!(error, SpoolError::Wire(_) | SpoolError::Log(LogError::Build { .. } | LogError::TooLarge { .. }))
}
