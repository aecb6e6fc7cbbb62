//! Makes a block's pages from series and their samples, one page at a time, so that a block never has to fit in memory.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock};

use anemone_model::Sample;
use bytes::Bytes;

use super::index::IndexBuilder;
use super::page::{PageBuilder, split_into_chunks};
use super::root::Root;
use super::{PAYLOAD_MAX, PageKind, frame};
use crate::backend::BlockId;
use crate::error::StoreError;
use crate::index::{Pair, SeriesIndex, SeriesRef};

/// Largest index before compression.
pub(crate) const INDEX_MAX: usize = 1 << 30;
const ZSTD_LEVEL: i32 = 3;
/// A page with fewer samples takes the next metric's chunks as well.
const SMALL_PAGE_SAMPLES: usize = 512;

/// A series and the number of its metric; its samples are put into the buffer given, in order of time, each time once, at least one.
pub(crate) type Next<'a> = dyn FnMut(&mut Vec<Sample>) -> Result<Option<(usize, SeriesRef)>, StoreError> + 'a;

/// An iterator over the pages of a block.
pub(crate) struct BlockPages<'a> {
    id: BlockId,
    series_index: &'a RwLock<SeriesIndex>,
    next: &'a mut Next<'a>,
    buffer: Vec<Sample>,
    metric: usize,
    page: PageBuilder,
    index: IndexBuilder,
    root: Root,
    pages: u32,
    ready: VecDeque<Bytes>,
    ended: bool,
}

impl<'a> BlockPages<'a> {
    /// Pages of block `id` with what `next` gives, series of one metric together. `root` brings level, priority and the covered mark.
    pub(crate) fn new(id: BlockId, root: Root, series_index: &'a RwLock<SeriesIndex>, next: &'a mut Next<'a>) -> Self {
        let root = Root { first_ms: i64::MAX, last_ms: i64::MIN, ..root };
        Self {
            id,
            series_index,
            next,
            buffer: Vec::new(),
            metric: 0,
            page: PageBuilder::default(),
            index: IndexBuilder::default(),
            root,
            pages: 0,
            ready: VecDeque::new(),
            ended: false,
        }
    }

    /// What was written; complete once the iterator has ended.
    pub(crate) fn root(&self) -> Root {
        self.root
    }

    fn push_page(&mut self, kind: PageKind, payload: &[u8]) {
        self.ready.push_back(frame(self.pages, kind, payload));
        self.pages += 1;
    }

    fn finish_data_page(&mut self) {
        if self.page.chunks() > 0 {
            self.index.page(self.page.chunks());
            let payload = self.page.finish();
            self.push_page(PageKind::Data, &payload);
        }
    }

    /// Takes one series; false when there are no more.
    fn take_series(&mut self) -> Result<bool, StoreError> {
        self.buffer.clear();
        let Some((metric, series)) = (self.next)(&mut self.buffer)? else { return Ok(false) };
        if metric != self.metric && self.page.samples() >= SMALL_PAGE_SAMPLES {
            self.finish_data_page();
        }
        self.metric = metric;
        {
            let known = self.series_index.read().unwrap_or_else(PoisonError::into_inner);
            let pairs: Vec<Pair> = known.pairs_of_series(series).collect();
            self.index.series(pairs.into_iter(), known.kind(series), |s| Arc::clone(known.text(s)));
        }
        let samples = std::mem::take(&mut self.buffer);
        for chunk in split_into_chunks(&samples) {
            let (Some(first), Some(last)) = (chunk.first(), chunk.last()) else { continue };
            if !self.page.has_room(chunk) {
                self.finish_data_page();
            }
            self.page.push(chunk);
            self.index.chunk(first.ts_ms, last.ts_ms);
            self.root.first_ms = self.root.first_ms.min(first.ts_ms);
            self.root.last_ms = self.root.last_ms.max(last.ts_ms);
        }
        self.root.samples += samples.len() as u64;
        self.buffer = samples;
        Ok(true)
    }

    /// The index and the root.
    fn finish(&mut self) -> Result<(), StoreError> {
        self.finish_data_page();
        let too_large = |what: String| StoreError::TooLarge { block: self.id, what };
        (self.root.series, self.root.chunks, self.root.data_pages) = self.index.counts();
        let raw = self.index.finish();
        if raw.len() > INDEX_MAX {
            return Err(too_large(format!("its index has {} bytes, more than {INDEX_MAX}", raw.len())));
        }
        let packed = zstd::bulk::compress(&raw, ZSTD_LEVEL).map_err(|e| too_large(format!("its index does not compress: {e}")))?;
        self.root.index_bytes = raw.len() as u64;
        self.root.packed_index_bytes = packed.len() as u64;
        self.root.index_pages = packed.len().div_ceil(PAYLOAD_MAX) as u32;
        for part in packed.chunks(PAYLOAD_MAX) {
            self.push_page(PageKind::Index, part);
        }
        if self.root.samples == 0 {
            (self.root.first_ms, self.root.last_ms) = (0, 0);
        }
        let root = self.root.encode();
        self.push_page(PageKind::Root, &root);
        Ok(())
    }
}

impl Iterator for BlockPages<'_> {
    type Item = Result<Bytes, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(page) = self.ready.pop_front() {
                return Some(Ok(page));
            }
            if self.ended {
                return None;
            }
            let step = self.take_series().and_then(|more| if more { Ok(false) } else { self.finish().map(|()| true) });
            match step {
                Ok(ended) => self.ended = ended,
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error));
                }
            }
        }
    }
}
