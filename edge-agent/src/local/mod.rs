//! The local store: what the PoP answers queries from, also while it is cut off.
//!
//! An [`anemone_store::Store`] whose blocks live in the local database (sled). Samples come in as they are pushed, before they are
//! sealed into a batch. What is not in a sealed block is replayed from the spool after a restart; so is what a damaged database held,
//! as far as the spool still reaches. The only part of the agent that names sled.

mod blocks;
mod database;
mod memories;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anemone_model::{Sample, SeriesDef};
use anemone_store::{SealReason, SeriesRef, Store, StoreError, StoreOptions};
use serde::Serialize;

use crate::clock;
use crate::config::LocalBounds;
use crate::spool::Spool;

pub use blocks::SledBlocks;
pub use database::{Database, DatabaseError};
pub use memories::Memories;

/// Most series the local store holds.
const SERIES_MAX: u32 = 16_000_000;
/// How often bounds are looked at.
const TICK: Duration = Duration::from_secs(1);
/// How often blocks are merged and old ones dropped.
const HOUSEKEEPING_EVERY: Duration = Duration::from_secs(60);
/// Pause after a seal that failed.
const SEAL_RETRY: Duration = Duration::from_secs(10);
/// Memory of unsealed samples, in units of the bound, past which a store that cannot seal takes no more.
const HEAD_FACTOR: u64 = 4;

/// Why there is no local store.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The database cannot be had, not even a new one.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The store over it cannot be opened.
    #[error("local store: {0}")]
    Store(#[from] StoreError),
}

/// The local store and its upkeep.
#[derive(Debug)]
pub struct LocalStore {
    store: Arc<Store>,
    database: Arc<Database>,
    memories: Memories,
    bounds: LocalBounds,
    set_aside: Option<(PathBuf, String)>,
    full: AtomicBool,
    /// Whether the spool has been replayed: until then no mark of the spool holds.
    caught_up: AtomicBool,
    closing: AtomicBool,
    refused_samples: AtomicU64,
    refused_series: AtomicU64,
    seal_failures: AtomicU64,
    dropped_blocks: AtomicU64,
    last_seal: Mutex<Option<Instant>>,
}

/// What the local store holds and has counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LocalStatus {
    /// Series known.
    pub series: u32,
    /// Samples in memory, replayed from the spool after a crash.
    pub head_samples: u64,
    /// Their memory in bytes.
    pub head_bytes: u64,
    /// Sealed blocks.
    pub blocks: usize,
    /// Their bytes.
    pub block_bytes: u64,
    /// Bytes of the database on disk.
    pub disk_bytes: u64,
    /// Blocks set aside as damaged, and why.
    pub quarantined: Vec<String>,
    /// Where a damaged database was put at this start, and why.
    pub set_aside: Option<(String, String)>,
    /// Samples not taken because sealing fails and memory is used up.
    pub refused_samples: u64,
    /// Series not taken.
    pub refused_series: u64,
    /// Samples refused as too old or too far in the future.
    pub refused_times: u64,
    /// Seals that failed.
    pub seal_failures: u64,
    /// Blocks dropped by retention.
    pub dropped_blocks: u64,
}

impl LocalStore {
    /// Opens the store in `dir`; a damaged database is set aside and a new one begun.
    ///
    /// # Errors
    /// Not even a new one can be had.
    pub fn open(dir: &Path, bounds: LocalBounds) -> Result<Self, LocalError> {
        let opened = Database::open(dir)?;
        let database = Arc::new(opened.database);
        let memories = Memories::new(Arc::clone(&database));
        let blocks = SledBlocks::open(Arc::clone(&database))?;
        let options = StoreOptions {
            max_series: SERIES_MAX,
            retention_ms: Some(millis(bounds.retention)),
            page_cache_bytes: 32 << 20,
            index_cache_bytes: 64 << 20,
            ..StoreOptions::default()
        };
        let store = Arc::new(Store::open(Arc::new(blocks), options)?);
        store.note_now(clock::now_ms());
        Ok(Self {
            store,
            database,
            memories,
            bounds,
            set_aside: opened.set_aside,
            full: AtomicBool::new(false),
            caught_up: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            refused_samples: AtomicU64::new(0),
            refused_series: AtomicU64::new(0),
            seal_failures: AtomicU64::new(0),
            dropped_blocks: AtomicU64::new(0),
            last_seal: Mutex::new(None),
        })
    }

    /// The store, for queries.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// What is remembered of devices.
    #[must_use]
    pub fn memories(&self) -> &Memories {
        &self.memories
    }

    /// The store's name of a series; nothing where it is refused, which is counted.
    pub fn register(&self, def: &SeriesDef) -> Option<SeriesRef> {
        match self.store.register(def) {
            Ok(series) => Some(series),
            Err(error) => {
                if self.refused_series.fetch_add(1, Ordering::Relaxed) == 0 {
                    tracing::error!(%error, "the local store refuses a series; later ones are only counted");
                }
                None
            }
        }
    }

    /// Takes a sample; it is found by queries at once.
    pub fn append(&self, series: SeriesRef, sample: Sample) {
        if self.full.load(Ordering::Relaxed) {
            self.refused_samples.fetch_add(1, Ordering::Relaxed);
        } else {
            self.store.append(series, sample);
        }
    }

    /// Takes in what the spool holds and no block covers.
    pub fn replay(&self, spool: &Spool) {
        let started = Instant::now();
        let replayed = spool.replay(|def| self.register(def), |series, sample| self.append(series, sample));
        self.caught_up.store(true, Ordering::Release);
        let (batches, samples) = (replayed.batches, replayed.samples);
        tracing::info!(batches, samples, took = ?started.elapsed(), "local store caught up from the spool");
        if replayed.unreadable + replayed.undefined > 0 {
            let (unreadable, undefined) = (replayed.unreadable, replayed.undefined);
            tracing::error!(
                unreadable,
                undefined,
                "batches of the spool are damaged or samples have lost their definition: the local store lacks them"
            );
        }
    }

    /// Seals, merges and drops blocks on schedule until [`LocalStore::close`]; seals once more then. Blocks.
    pub fn run_upkeep(&self, spool: &Spool) {
        let mut kept_house = Instant::now();
        *self.last_seal() = Some(Instant::now());
        let mut retry_at = Instant::now();
        while !self.closing.load(Ordering::Acquire) {
            std::thread::park_timeout(TICK);
            self.store.note_now(clock::now_ms());
            let head_bytes = self.store.stats().head_bytes;
            let due = self.last_seal().is_none_or(|at| at.elapsed() >= self.bounds.seal_every);
            let large = head_bytes > self.bounds.head_bytes.0;
            if (due || large)
                && Instant::now() >= retry_at
                && !self.seal(spool, if large { SealReason::Size } else { SealReason::Interval })
            {
                retry_at = Instant::now() + SEAL_RETRY;
            }
            self.bound_memory();
            if kept_house.elapsed() >= HOUSEKEEPING_EVERY {
                kept_house = Instant::now();
                self.keep_house();
            }
        }
        self.seal(spool, SealReason::Shutdown);
    }

    /// Ends the upkeep after a last seal.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }

    fn last_seal(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.last_seal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seals what is in memory and tells the spool what it need not keep for it. False if the database refused.
    pub fn seal(&self, spool: &Spool, reason: SealReason) -> bool {
        if self.caught_up.load(Ordering::Acquire) {
            self.store.note_applied(spool.store_mark());
        }
        match self.store.seal(reason) {
            Ok(summary) => {
                *self.last_seal() = Some(Instant::now());
                spool.store_covers(summary.covered);
                true
            }
            Err(error) => {
                self.seal_failures.fetch_add(1, Ordering::Relaxed);
                tracing::error!(%error, "the local store cannot seal; samples stay in memory and in the spool");
                if let Err(error) = self.database.revive() {
                    tracing::error!(%error, "the local database does not open again; queries lack its blocks until it does");
                }
                false
            }
        }
    }

    fn bound_memory(&self) {
        let full = self.store.stats().head_bytes > self.bounds.head_bytes.0.saturating_mul(HEAD_FACTOR);
        if full && !self.full.swap(true, Ordering::AcqRel) {
            tracing::error!("the local store is out of memory because it cannot seal: it takes no more samples; shipping goes on");
        } else if !full {
            self.full.store(false, Ordering::Release);
        }
    }

    fn keep_house(&self) {
        let before = clock::now_ms().saturating_sub(millis(self.bounds.retention));
        let dropped = self.store.drop_before(before).and_then(|aged| {
            self.store.compact()?;
            Ok(aged.blocks + self.store.shrink_to(self.bounds.max_bytes.0)?.blocks)
        });
        match dropped {
            Ok(blocks) => {
                self.dropped_blocks.fetch_add(blocks as u64, Ordering::Relaxed);
            }
            Err(error) => tracing::warn!(%error, "upkeep of the local store failed; it is tried again"),
        }
    }

    /// What it holds and has counted.
    #[must_use]
    pub fn status(&self) -> LocalStatus {
        let stats = self.store.stats();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LocalStatus {
            series: stats.series,
            head_samples: stats.head_samples,
            head_bytes: stats.head_bytes,
            blocks: stats.blocks,
            block_bytes: stats.block_bytes,
            disk_bytes: self.database.disk_bytes(),
            quarantined: stats.quarantined.iter().map(|block| format!("{}: {}", block.block, block.reason)).collect(),
            set_aside: self.set_aside.as_ref().map(|(path, why)| (path.display().to_string(), why.clone())),
            refused_samples: count(&self.refused_samples),
            refused_series: count(&self.refused_series),
            refused_times: stats.refused_too_old + stats.refused_too_new,
            seal_failures: count(&self.seal_failures),
            dropped_blocks: count(&self.dropped_blocks),
        }
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
