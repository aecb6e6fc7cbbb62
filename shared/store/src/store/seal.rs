//! Sealing: the head becomes immutable blocks, one for each window of two hours that has samples.
//!
//! The live head is frozen and goes on being read until its blocks are in place. Only the last block of a seal carries the caller's
//! mark, so that a crash between two of them covers nothing too much; what is replayed then is merged when read. If a block
//! cannot be written the frozen head stays, and the next seal tries again.

use std::ops::RangeInclusive;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use anemone_model::Sample;

use super::{Frozen, Store, View, lock};
use crate::backend::BlockId;
use crate::block::reader::SealedBlock;
use crate::block::root::Root;
use crate::block::writer::{BlockPages, Next};
use crate::error::StoreError;
use crate::head::Head;
use crate::index::SeriesRef;
use crate::options::WINDOW_MS;

/// Most blocks of one seal; samples scattered over more windows share wider ones.
const BLOCKS_MAX: usize = 32;

/// Why the head is sealed; goes to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealReason {
    /// It is time.
    Interval,
    /// The head takes too much memory, or the log too much room.
    Size,
    /// A snapshot needs everything in blocks.
    Snapshot,
    /// The process ends.
    Shutdown,
}

/// What a seal wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SealSummary {
    /// The blocks, in the order written; one without samples may be among them, to carry the mark.
    pub blocks: Vec<BlockId>,
    /// Series in the blocks, those in two counted twice.
    pub series: u64,
    /// Samples written.
    pub samples: u64,
    /// Bytes written.
    pub bytes: u64,
    /// See [`Store::covered`].
    pub covered: u64,
}

impl Store {
    /// Seals everything in the head.
    ///
    /// # Errors
    /// A block could not be written. Nothing is lost, everything stays readable, and the next seal tries again.
    pub fn seal(&self, reason: SealReason) -> Result<SealSummary, StoreError> {
        let _alone = lock(&self.maintenance);
        self.sweep_damaged();
        let mut summary = SealSummary::default();
        let left_over = self.view().frozen.clone();
        let applied = self.applied.load(Ordering::Acquire);
        if let Some(frozen) = left_over {
            self.seal_frozen(&frozen, &mut summary)?;
        }
        match self.freeze(applied) {
            Some(frozen) => self.seal_frozen(&frozen, &mut summary)?,
            None if applied > self.covered() => {
                let marker = self.write_block(Root { covered: applied, ..Root::default() }, &mut |_| Ok(None))?;
                self.install(vec![marker], &mut summary);
            }
            None => {}
        }
        summary.covered = self.covered();
        tracing::debug!(?reason, blocks = summary.blocks.len(), samples = summary.samples, bytes = summary.bytes, "head sealed");
        Ok(summary)
    }

    /// Puts an empty head in front of the live one; none where there is nothing in it. `applied` was read before.
    fn freeze(&self, applied: u64) -> Option<Arc<Frozen>> {
        // Appends hold the view for reading, so none is under way while it is swapped, and later ones go to the new head.
        let mut current = self.view.write().unwrap_or_else(PoisonError::into_inner);
        if current.live.size().samples == 0 {
            return None;
        }
        let frozen = Arc::new(Frozen { head: Arc::clone(&current.live), applied });
        *current = Arc::new(View { live: Arc::new(Head::new()), frozen: Some(Arc::clone(&frozen)), blocks: current.blocks.clone() });
        Some(frozen)
    }

    fn seal_frozen(&self, frozen: &Frozen, summary: &mut SealSummary) -> Result<(), StoreError> {
        let metrics = self.index().by_metric();
        let windows = windows(&frozen.head);
        let mut written = Vec::with_capacity(windows.len());
        for (at, window) in windows.iter().enumerate() {
            let covered = if at + 1 == windows.len() { frozen.applied } else { 0 };
            let mut series = metrics.iter().enumerate().flat_map(|(metric, all)| all.iter().map(move |s| (metric, SeriesRef(s))));
            let mut next = |samples: &mut Vec<Sample>| {
                Ok(series.by_ref().find(|(_, s)| {
                    frozen.head.read_into(*s, *window.start(), *window.end(), samples);
                    !samples.is_empty()
                }))
            };
            match self.write_block(Root { covered, ..Root::default() }, &mut next) {
                Ok(block) => written.push(block),
                Err(error) => {
                    written.iter().for_each(SealedBlock::discard);
                    return Err(error);
                }
            }
        }
        self.install(written, summary);
        Ok(())
    }

    /// Writes a block; `root` brings its level and mark, and its priority where that is not its own id.
    pub(super) fn write_block(&self, root: Root, next: &mut Next<'_>) -> Result<SealedBlock, StoreError> {
        let id = self.place.next_id();
        let priority = if root.priority == 0 { id.0 } else { root.priority };
        let mut pages = BlockPages::new(id, Root { priority, ..root }, &self.index, next);
        self.place.write(id, &mut pages)?;
        let written = pages.root();
        let block = SealedBlock::open(&self.place, id, &self.leaving)?;
        if block.root != written {
            return Err(StoreError::corrupt(id, block.root.data_pages, "reads back other than it was written"));
        }
        Ok(block)
    }

    /// Puts a seal's blocks in the place of the frozen head.
    fn install(&self, written: Vec<SealedBlock>, summary: &mut SealSummary) {
        let covered = written.iter().map(|b| b.root.covered).max().unwrap_or(0);
        for block in &written {
            summary.blocks.push(block.id);
            summary.series += u64::from(block.root.series);
            summary.samples += block.root.samples;
            summary.bytes += block.bytes;
        }
        self.replace_view(|view| {
            view.frozen = None;
            discard_markers(view, covered);
            view.blocks.extend(written.into_iter().map(Arc::new));
        });
        self.covered.fetch_max(covered, Ordering::AcqRel);
    }
}

/// Takes blocks out that only carried a mark, once a mark as high is in another block.
pub(super) fn discard_markers(view: &mut View, covered: u64) {
    view.blocks.retain(|b| {
        let superseded = b.root.samples == 0 && b.root.covered <= covered;
        if superseded {
            b.discard();
        }
        !superseded
    });
}

/// The ranges of time that get a block each.
fn windows(head: &Head) -> Vec<RangeInclusive<i64>> {
    let mut width = WINDOW_MS;
    let mut numbers = head.windows(width);
    while numbers.len() > BLOCKS_MAX {
        width *= 2;
        numbers = numbers.into_iter().map(|n| n.div_euclid(2)).collect();
    }
    numbers.into_iter().map(|n| n * width..=n * width + width - 1).collect()
}
