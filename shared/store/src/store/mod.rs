//! The store: head in front of blocks, behind one door.
//!
//! Readers and the writer see a *view*: the live head, at most one frozen head on its way into blocks, and the blocks. It is replaced as a
//! whole, so a reader that holds one misses nothing and needs no lock while it reads. Sealing, compaction and retention exclude each
//! other; none of them stops appends for longer than it takes to swap the view.

mod compact;
mod counters;
mod listing;
mod plan;
mod retention;
mod scan;
mod seal;
mod select;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use anemone_model::{Sample, SeriesDef};

pub use compact::Compaction;
pub use counters::Stats;
pub use listing::Listing;
pub use retention::Dropped;
pub use seal::{SealReason, SealSummary};
pub use select::{SelectedSeries, Selection};

use crate::backend::{BlockId, BlockStore};
use crate::block::index::BlockIndex;
use crate::block::page::DecodedPage;
use crate::block::reader::{Leaving, SealedBlock};
use crate::cache::Cache;
use crate::error::StoreError;
use crate::head::{Appended, Head, Refusal};
use crate::index::{SeriesIndex, SeriesRef};
use crate::options::StoreOptions;
use counters::Counters;

/// The reason on record for blocks set aside before this process began.
const EARLIER: &str = "set aside in an earlier life of the process";

/// Decoded pages by block and page number.
type PageCache = Cache<(BlockId, u32), DecodedPage>;

/// A store of series and their samples. See the crate for what it promises.
///
/// [`Store::append`] and [`Store::note_applied`] may be called from several threads; the mark is right as long as every append it stands
/// for has returned before it is noted.
#[derive(Debug)]
pub struct Store {
    options: StoreOptions,
    place: Arc<dyn BlockStore>,
    index: RwLock<SeriesIndex>,
    /// Number of series, readable without the index' lock.
    series: AtomicU32,
    view: RwLock<Arc<View>>,
    leaving: Leaving,
    /// Held by whoever changes blocks.
    maintenance: Mutex<()>,
    applied: AtomicU64,
    covered: AtomicU64,
    counters: Counters,
    pages: PageCache,
    indexes: Cache<BlockId, BlockIndex>,
    quarantined: Mutex<Vec<QuarantinedBlock>>,
    /// Data pages that turned out to be damaged, in blocks that are otherwise in use.
    damaged_pages: Mutex<BTreeSet<(BlockId, u32)>>,
}

/// Everything there is to read at one moment.
#[derive(Clone, Debug)]
struct View {
    live: Arc<Head>,
    frozen: Option<Arc<Frozen>>,
    /// By priority: of two values at one time the first counts.
    blocks: Vec<Arc<SealedBlock>>,
}

/// A head that takes no more samples.
#[derive(Debug)]
struct Frozen {
    head: Arc<Head>,
    /// The caller's mark: everything up to it is in here or in blocks.
    applied: u64,
}

/// A block that is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuarantinedBlock {
    /// Which.
    pub block: BlockId,
    /// Why: names page and damage where known.
    pub reason: String,
    /// First and last sample time, where its root could be read; milliseconds.
    pub range_ms: Option<(i64, i64)>,
}

/// The sealed blocks of one moment; their files stay as they are until this is dropped.
#[derive(Debug)]
pub struct SealedSnapshot {
    /// What the blocks cover: see [`Store::covered`].
    pub covered: u64,
    /// Each block and its size in bytes.
    pub blocks: Vec<(BlockId, u64)>,
    _view: Arc<View>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// Opens the blocks in `place`. Damaged ones are set aside and reported in [`Stats::quarantined`].
    ///
    /// # Errors
    /// The place cannot be listed at all.
    pub fn open(place: Arc<dyn BlockStore>, options: StoreOptions) -> Result<Self, StoreError> {
        let store = Self {
            place,
            index: RwLock::default(),
            series: AtomicU32::new(0),
            view: RwLock::new(Arc::new(View { live: Arc::new(Head::new()), frozen: None, blocks: Vec::new() })),
            leaving: Leaving::default(),
            maintenance: Mutex::new(()),
            applied: AtomicU64::new(0),
            covered: AtomicU64::new(0),
            counters: Counters::default(),
            pages: Cache::new(options.page_cache_bytes),
            indexes: Cache::new(options.index_cache_bytes),
            quarantined: Mutex::new(Vec::new()),
            damaged_pages: Mutex::new(BTreeSet::new()),
            options,
        };
        let earlier = store.place.quarantined()?.into_iter();
        let earlier = earlier.map(|block| QuarantinedBlock { block, reason: EARLIER.to_owned(), range_ms: None });
        lock(&store.quarantined).extend(earlier);
        store.reload()?;
        Ok(store)
    }

    /// The series with these labels, added if it is new. The kind and width given last count.
    ///
    /// # Errors
    /// [`StoreError::Collision`] with another series, or [`StoreError::SeriesLimit`].
    pub fn register(&self, def: &SeriesDef) -> Result<SeriesRef, StoreError> {
        self.register_within(def, self.options.max_series)
    }

    fn register_within(&self, def: &SeriesDef, limit: u32) -> Result<SeriesRef, StoreError> {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        let registered = index.register(def, limit);
        self.series.store(index.len(), Ordering::Release);
        registered
    }

    /// Number of series.
    #[must_use]
    pub fn series_count(&self) -> u32 {
        self.series.load(Ordering::Acquire)
    }

    /// The definition of a series, where there is one.
    #[must_use]
    pub fn definition(&self, series: SeriesRef) -> Option<SeriesDef> {
        (series.0 < self.series_count()).then(|| self.index().def(series))
    }

    /// Takes a sample into the head. Duplicates are seen against the head only; against blocks they are merged when read.
    pub fn append(&self, series: SeriesRef, sample: Sample) -> Appended {
        let outcome = match self.refusal(series, sample.ts_ms) {
            Some(refusal) => Appended::Refused(refusal),
            None => self.view.read().unwrap_or_else(PoisonError::into_inner).live.append(series, sample),
        };
        self.counters.count(outcome);
        outcome
    }

    fn refusal(&self, series: SeriesRef, ts_ms: i64) -> Option<Refusal> {
        let (oldest, newest) = self.counters.accepted();
        if series.0 >= self.series_count() {
            Some(Refusal::UnknownSeries)
        } else if ts_ms < oldest {
            Some(Refusal::TooOld)
        } else if ts_ms > newest {
            Some(Refusal::TooNew)
        } else {
            None
        }
    }

    /// Tells the store the time, in ms since 1970: what [`StoreOptions::retention_ms`] and [`StoreOptions::future_ms`] are measured from. A store that
    /// is never told (a replicated one, which must not depend on a clock) accepts every sensible time.
    pub fn note_now(&self, now_ms: i64) {
        let oldest = self.options.retention_ms.map_or(i64::MIN, |age| now_ms.saturating_sub(age));
        self.counters.accept(oldest, now_ms.saturating_add(self.options.future_ms));
    }

    /// Notes that every append up to `mark` of the caller's log has returned. Marks only rise; 0 means nothing.
    pub fn note_applied(&self, mark: u64) {
        self.applied.fetch_max(mark, Ordering::AcqRel);
    }

    /// The mark up to which everything is in sealed blocks, durably: the caller's log may be trimmed up to it, and after a restart is
    /// replayed from behind it.
    #[must_use]
    pub fn covered(&self) -> u64 {
        self.covered.load(Ordering::Acquire)
    }

    /// The sealed blocks as they are now. Their files or pages stay until the snapshot is dropped.
    #[must_use]
    pub fn snapshot(&self) -> SealedSnapshot {
        let _alone = lock(&self.maintenance);
        let view = self.view();
        let blocks = view.blocks.iter().map(|b| (b.id, b.bytes)).collect();
        SealedSnapshot { covered: self.covered(), blocks, _view: view }
    }

    fn index(&self) -> RwLockReadGuard<'_, SeriesIndex> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts another view in place. Only by the holder of `maintenance`, since the new one is made from the old.
    fn replace_view(&self, change: impl FnOnce(&mut View)) {
        let mut current = self.view.write().unwrap_or_else(PoisonError::into_inner);
        let mut view = View::clone(&current);
        change(&mut view);
        view.blocks.sort_by_key(|b| (b.root.priority, b.id));
        let before = std::mem::replace(&mut *current, Arc::new(view));
        drop(current);
        // Blocks that are let go may be deleted here: not under the lock.
        drop(before);
    }

    /// A block's index, from the cache or read anew.
    fn index_of(&self, block: &SealedBlock) -> Result<Arc<BlockIndex>, StoreError> {
        if let Some(index) = self.indexes.lookup(block.id) {
            return Ok(index);
        }
        let index = block.read_index(|def| {
            let known = self.index().find(&def.labels);
            known.or_else(|| match self.register_within(def, u32::MAX - 1) {
                Ok(series) => Some(series),
                Err(error) => {
                    tracing::error!(block = %block.id, %error, "a series of a block cannot be used");
                    None
                }
            })
        })?;
        let index = Arc::new(index);
        self.indexes.keep(block.id, Arc::clone(&index), index.bytes());
        Ok(index)
    }

    /// Opens a block and makes its series known; none where it cannot be used, which is then on record.
    fn admit(&self, id: BlockId) -> Option<Arc<SealedBlock>> {
        let opened = SealedBlock::open(&self.place, id, &self.leaving);
        let range_ms = opened.as_ref().ok().map(|b| (b.root.first_ms, b.root.last_ms));
        match opened.and_then(|block| self.index_of(&block).map(|_| Arc::new(block))) {
            Ok(block) => Some(block),
            Err(error) => {
                self.set_aside(id, &error, range_ms);
                None
            }
        }
    }

    /// Records that a block is not used; where its bytes are bad it is moved out of the way too.
    fn set_aside(&self, block: BlockId, error: &StoreError, range_ms: Option<(i64, i64)>) {
        let reason = error.to_string();
        tracing::error!(%block, reason, "block not used");
        if error.is_corrupt()
            && let Err(error) = self.place.quarantine(block, &reason)
        {
            tracing::error!(%block, %error, "a damaged block could not be moved out of the way");
        }
        let mut quarantined = lock(&self.quarantined);
        quarantined.retain(|q| q.block != block);
        quarantined.push(QuarantinedBlock { block, reason, range_ms });
    }

    /// Moves blocks that readers found damaged out of the view. By the holder of `maintenance`.
    fn sweep_damaged(&self) {
        let view = self.view();
        let damaged: Vec<_> = view.blocks.iter().filter_map(|b| b.damage().map(|reason| (Arc::clone(b), reason.to_owned()))).collect();
        if damaged.is_empty() {
            return;
        }
        self.replace_view(|v| v.blocks.retain(|b| b.damage().is_none()));
        for (block, reason) in damaged {
            let error = StoreError::corrupt(block.id, block.root.data_pages, reason);
            self.set_aside(block.id, &error, Some((block.root.first_ms, block.root.last_ms)));
        }
    }
}
