//! A sealed block that can be read: its root is held, its index and pages are fetched when asked for.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use anemone_model::SeriesDef;

use super::index::BlockIndex;
use super::page::DecodedPage;
use super::root::Root;
use super::writer::INDEX_MAX;
use super::{PageKind, unframe};
use crate::backend::{BlockId, BlockStore};
use crate::error::StoreError;
use crate::index::SeriesRef;

/// Blocks that are no longer wanted but still listed, because something reads them.
pub(crate) type Leaving = Arc<Mutex<BTreeSet<BlockId>>>;

/// A sealed block in use. A block that is no longer wanted is deleted when its last user lets it go.
#[derive(Debug)]
pub(crate) struct SealedBlock {
    place: Arc<dyn BlockStore>,
    pub(crate) id: BlockId,
    pub(crate) root: Root,
    pub(crate) bytes: u64,
    unwanted: AtomicBool,
    leaving: Leaving,
    /// Why it can no longer be used, once that is known.
    damage: OnceLock<String>,
}

impl SealedBlock {
    /// Opens a block by its root.
    pub(crate) fn open(place: &Arc<dyn BlockStore>, id: BlockId, leaving: &Leaving) -> Result<Self, StoreError> {
        let pages = place.page_count(id)?;
        let number = pages.checked_sub(1).ok_or_else(|| StoreError::corrupt(id, None, "it has no pages"))?;
        let payload = unframe(id, number, PageKind::Root, &place.read_page(id, number)?)?;
        let root = Root::decode(id, number, &payload)?;
        if u64::from(root.data_pages) + u64::from(root.index_pages) + 1 != u64::from(pages) {
            return Err(StoreError::corrupt(id, number, format!("the root does not account for {pages} pages")));
        }
        let bytes = place.bytes(id)?;
        let (place, leaving) = (Arc::clone(place), Arc::clone(leaving));
        Ok(Self { place, id, root, bytes, unwanted: AtomicBool::new(false), leaving, damage: OnceLock::new() })
    }

    /// Reads the index; `resolve` as in [`BlockIndex::parse`].
    pub(crate) fn read_index(&self, resolve: impl FnMut(&SeriesDef) -> Option<SeriesRef>) -> Result<BlockIndex, StoreError> {
        let first = self.root.data_pages;
        let bad = |what: &str| StoreError::corrupt(self.id, first, format!("index: {what}"));
        let mut packed = Vec::new();
        for number in first..first + self.root.index_pages {
            packed.extend_from_slice(&unframe(self.id, number, PageKind::Index, &self.place.read_page(self.id, number)?)?);
        }
        let raw_len = usize::try_from(self.root.index_bytes).ok().filter(|n| *n <= INDEX_MAX).ok_or_else(|| bad("too large"))?;
        let raw = zstd::bulk::decompress(&packed, raw_len).map_err(|e| bad(&e.to_string()))?;
        let index = BlockIndex::parse(&raw, (self.root.first_ms, self.root.last_ms), resolve).map_err(bad)?;
        if index.counts() != (self.root.chunks as usize, self.root.data_pages as usize) {
            return Err(bad("not as many chunks or pages as the root says"));
        }
        Ok(index)
    }

    /// Reads and decodes a data page that has `chunks` chunks.
    pub(crate) fn read_page(&self, number: u32, chunks: Option<usize>) -> Result<DecodedPage, StoreError> {
        let payload = unframe(self.id, number, PageKind::Data, &self.place.read_page(self.id, number)?)?;
        let page = DecodedPage::decode(&payload).map_err(|what| StoreError::corrupt(self.id, number, what))?;
        if chunks != Some(page.chunks()) {
            return Err(StoreError::corrupt(self.id, number, "not as many chunks as the index says"));
        }
        Ok(page)
    }

    /// Whether the block has times from `from_ms` to `to_ms`, both inclusive.
    pub(crate) fn overlaps(&self, from_ms: i64, to_ms: i64) -> bool {
        self.root.samples > 0 && self.root.first_ms <= to_ms && self.root.last_ms >= from_ms
    }

    /// Has it deleted when nothing uses it any more.
    pub(crate) fn discard(&self) {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner).insert(self.id);
        self.unwanted.store(true, Ordering::Release);
    }

    /// Notes why it cannot be used.
    pub(crate) fn condemn(&self, reason: String) {
        if self.damage.set(reason).is_ok() {
            tracing::error!(block = %self.id, reason = self.damage(), "damaged block");
        }
    }

    /// Why it cannot be used.
    pub(crate) fn damage(&self) -> Option<&str> {
        self.damage.get().map(String::as_str)
    }
}

impl Drop for SealedBlock {
    fn drop(&mut self) {
        if !self.unwanted.load(Ordering::Acquire) {
            return;
        }
        match self.place.delete(self.id) {
            Ok(()) => {
                self.leaving.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
            }
            Err(error) => tracing::warn!(block = %self.id, %error, "a block that is no longer wanted could not be deleted"),
        }
    }
}
