//! Reading series from everything there is: blocks, the frozen head, the live head, merged by time.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use anemone_model::Sample;

use super::{PageCache, Store, View, lock};
use crate::backend::BlockId;
use crate::block::index::BlockIndex;
use crate::block::page::DecodedPage;
use crate::block::reader::SealedBlock;
use crate::error::StoreError;
use crate::index::SeriesRef;

/// One reading of the store over a range of time. Later changes of the store do not reach it, but for samples appended to the live head.
pub(super) struct Scan<'a> {
    store: &'a Store,
    pages: &'a PageCache,
    view: Arc<View>,
    blocks: Vec<(Arc<SealedBlock>, Arc<BlockIndex>)>,
    from_ms: i64,
    to_ms: i64,
    unreadable: HashSet<(BlockId, u32)>,
    warnings: BTreeSet<String>,
}

/// Puts samples from several sources in order; of several at one time the first stays.
fn settle(samples: &mut Vec<Sample>) {
    if samples.windows(2).any(|w| w[0].ts_ms >= w[1].ts_ms) {
        samples.sort_by_key(|s| s.ts_ms);
        samples.dedup_by_key(|s| s.ts_ms);
    }
}

impl<'a> Scan<'a> {
    /// A reading of `blocks` and the heads of `view`, with both bounds inclusive.
    pub(super) fn new(store: &'a Store, view: Arc<View>, from_ms: i64, to_ms: i64) -> Self {
        let mut scan = Self {
            store,
            pages: &store.pages,
            view,
            blocks: Vec::new(),
            from_ms,
            to_ms,
            unreadable: HashSet::new(),
            warnings: BTreeSet::new(),
        };
        for unused in lock(&store.quarantined).iter().filter(|q| q.range_ms.is_none_or(|(first, last)| first <= to_ms && last >= from_ms)) {
            if unused.range_ms.is_some() || unused.reason != super::EARLIER {
                scan.warnings.insert(format!("block {} is not used and its samples are missing: {}", unused.block, unused.reason));
            }
        }
        let view = Arc::clone(&scan.view);
        for block in view.blocks.iter().filter(|b| b.overlaps(from_ms, to_ms)) {
            scan.open(block);
        }
        scan
    }

    /// The same with pages kept elsewhere than in the store's cache.
    pub(super) fn with_pages(self, pages: &'a PageCache) -> Self {
        Self { pages, ..self }
    }

    fn open(&mut self, block: &Arc<SealedBlock>) {
        let opened = match block.damage() {
            Some(reason) => Err(reason.to_owned()),
            None => self.store.index_of(block).map_err(|error| {
                let reason = error.to_string();
                if error.is_corrupt() {
                    block.condemn(reason.clone());
                }
                reason
            }),
        };
        match opened {
            Ok(index) => self.blocks.push((Arc::clone(block), index)),
            Err(reason) => {
                self.warnings.insert(format!("block {} is not used and its samples are missing: {reason}", block.id));
            }
        }
    }

    /// The blocks that are read.
    pub(super) fn blocks(&self) -> &[(Arc<SealedBlock>, Arc<BlockIndex>)] {
        &self.blocks
    }

    /// The view that is read.
    pub(super) fn view(&self) -> &View {
        &self.view
    }

    /// Replaces `out` by the series' samples.
    pub(super) fn read(&mut self, series: SeriesRef, out: &mut Vec<Sample>) {
        out.clear();
        self.read_blocks(series, out);
        if let Some(frozen) = &self.view.frozen {
            frozen.head.read_into(series, self.from_ms, self.to_ms, out);
        }
        self.view.live.read_into(series, self.from_ms, self.to_ms, out);
        settle(out);
    }

    /// Replaces `out` by the series' samples in blocks.
    pub(super) fn read_sealed(&mut self, series: SeriesRef, out: &mut Vec<Sample>) {
        out.clear();
        self.read_blocks(series, out);
        settle(out);
    }

    fn read_blocks(&mut self, series: SeriesRef, out: &mut Vec<Sample>) {
        let Self { store, pages, blocks, from_ms, to_ms, unreadable, warnings, .. } = self;
        for (block, index) in blocks {
            for place in index.chunks(series, *from_ms, *to_ms) {
                let key = (block.id, place.page);
                if unreadable.contains(&key) {
                    continue;
                }
                match page_of(pages, block, index, place.page) {
                    Ok(page) => page.read_into(place.slot, *from_ms, *to_ms, out),
                    Err(error) => {
                        unreadable.insert(key);
                        warnings.insert(format!("{error}; the samples in it are missing"));
                        if error.is_corrupt() && lock(&store.damaged_pages).insert(key) {
                            tracing::error!(%error, "damaged page");
                        }
                    }
                }
            }
        }
    }

    /// What could not be read.
    pub(super) fn into_warnings(self) -> Vec<String> {
        self.warnings.into_iter().collect()
    }

    /// What could not be read, so far.
    pub(super) fn warnings(&self) -> &BTreeSet<String> {
        &self.warnings
    }
}

fn page_of(pages: &PageCache, block: &SealedBlock, index: &BlockIndex, page: u32) -> Result<Arc<DecodedPage>, StoreError> {
    let key = (block.id, page);
    if let Some(decoded) = pages.lookup(key) {
        return Ok(decoded);
    }
    let decoded = Arc::new(block.read_page(page, index.chunks_of_page(page))?);
    pages.keep(key, Arc::clone(&decoded), decoded.bytes());
    Ok(decoded)
}
