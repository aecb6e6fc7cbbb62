//! Compaction: several blocks become one. The new one is durable before the old ones go, so a crash costs room, never samples.

use std::collections::BTreeSet;
use std::sync::Arc;

use anemone_model::Sample;
use roaring::RoaringBitmap;

use super::plan::{BlockFacts, Merge, next_merge};
use super::scan::Scan;
use super::{PageCache, Store, View, lock};
use crate::backend::BlockId;
use crate::block::root::Root;
use crate::cache::Cache;
use crate::error::StoreError;
use crate::head::Head;
use crate::index::SeriesRef;

/// Decoded pages kept while merging, so that the store's cache stays with what queries use.
const PAGES_BYTES: usize = 16 << 20;

/// What a compaction did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compaction {
    /// Merges made.
    pub merges: usize,
    /// Blocks that went into them.
    pub blocks: usize,
    /// Bytes before and after.
    pub bytes: (u64, u64),
    /// Blocks left as they are because they could not be read whole.
    pub warnings: Vec<String>,
}

impl Store {
    /// Merges the blocks of each of [`crate::StoreOptions::compact_spans_ms`] as far as that is worth it. Damaged blocks are left alone.
    ///
    /// # Errors
    /// A block could not be written; merges made before stay.
    pub fn compact(&self) -> Result<Compaction, StoreError> {
        let _alone = lock(&self.maintenance);
        self.sweep_damaged();
        let mut compaction = Compaction::default();
        let mut left_alone: BTreeSet<BlockId> = lock(&self.damaged_pages).iter().map(|(block, _)| *block).collect();
        loop {
            let view = self.view();
            let candidates = view.blocks.iter().filter(|b| b.root.samples > 0 && !left_alone.contains(&b.id));
            let facts: Vec<_> = candidates
                .map(|b| BlockFacts { id: b.id, first_ms: b.root.first_ms, last_ms: b.root.last_ms, bytes: b.bytes, level: b.root.level })
                .collect();
            let Some(merge) = next_merge(&facts, &self.options.compact_spans_ms, self.options.compact_at) else { break };
            match self.merge(&view, &merge, &mut compaction) {
                Ok(()) => {}
                Err(MergeError::Source(warnings)) => {
                    compaction.warnings.extend(warnings);
                    left_alone.extend(&merge.blocks);
                }
                Err(MergeError::Store(error)) => return Err(error),
            }
        }
        Ok(compaction)
    }

    fn merge(&self, view: &View, merge: &Merge, compaction: &mut Compaction) -> Result<(), MergeError> {
        let blocks: Vec<_> = view.blocks.iter().filter(|b| merge.blocks.contains(&b.id)).map(Arc::clone).collect();
        let root = Root {
            level: merge.level,
            priority: blocks.iter().map(|b| b.root.priority).min().unwrap_or(0),
            covered: blocks.iter().map(|b| b.root.covered).max().unwrap_or(0),
            ..Root::default()
        };
        let before = blocks.iter().map(|b| b.bytes).sum::<u64>();
        let sources = Arc::new(View { live: Arc::new(Head::new()), frozen: None, blocks });
        let pages: PageCache = Cache::new(PAGES_BYTES);
        let mut scan = Scan::new(self, Arc::clone(&sources), i64::MIN, i64::MAX).with_pages(&pages);
        if scan.blocks().len() < merge.blocks.len() {
            return Err(MergeError::Source(scan.into_warnings()));
        }
        let already = scan.warnings().len();
        let mut present = RoaringBitmap::new();
        scan.blocks().iter().for_each(|(_, index)| present.extend(index.series().map(|s| s.0)));
        let metrics: Vec<_> = self.index().by_metric().into_iter().map(|metric| metric & &present).collect();
        let mut series = metrics.iter().enumerate().flat_map(|(metric, all)| all.iter().map(move |s| (metric, SeriesRef(s))));
        let mut next = |samples: &mut Vec<Sample>| {
            for (metric, series) in series.by_ref() {
                scan.read_sealed(series, samples);
                if scan.warnings().len() > already {
                    return Err(StoreError::corrupt(BlockId(0), None, "a source is damaged"));
                }
                if !samples.is_empty() {
                    return Ok(Some((metric, series)));
                }
            }
            Ok(None)
        };
        let written = self.write_block(root, &mut next);
        if scan.warnings().len() > already {
            return Err(MergeError::Source(scan.into_warnings()));
        }
        let written = written.map_err(MergeError::Store)?;
        compaction.merges += 1;
        compaction.blocks += merge.blocks.len();
        compaction.bytes.0 += before;
        compaction.bytes.1 += written.bytes;
        drop((scan, sources));
        self.exchange(&merge.blocks, Some(written));
        Ok(())
    }
}

/// Why a merge was not made.
enum MergeError {
    /// A block to be merged is damaged: what about it.
    Source(Vec<String>),
    Store(StoreError),
}
