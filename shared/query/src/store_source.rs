//! The local store as a [`Source`].
//!
//! The store's calls block, so they run on tokio's blocking pool, a bounded number at once; callers wait for a place.
//! A call whose caller left stops at the next series. Overflow policy: none here, the number of callers is bounded by
//! whoever admits queries.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anemone_model::{Labels, Sample, SeriesDef};
use anemone_store::Store;
use anemone_store::matcher::Matcher;
use async_trait::async_trait;
use tokio::sync::Semaphore;

use crate::error::QueryError;
use crate::source::{Found, Limits, SelectRequest, Selection, SeriesRequest, SeriesSamples, Source};

/// How many calls of the store run at once unless said otherwise.
pub const READERS_DEFAULT: usize = 4;

/// Answers from an [`anemone_store::Store`].
pub struct StoreSource {
    store: Arc<Store>,
    readers: Arc<Semaphore>,
}

impl StoreSource {
    /// A source over `store`, with at most `readers` calls at once (at least 1).
    #[must_use]
    pub fn new(store: Arc<Store>, readers: usize) -> Self {
        Self { store, readers: Arc::new(Semaphore::new(readers.clamp(1, Semaphore::MAX_PERMITS))) }
    }

    /// Runs `read` on the blocking pool. The place is given back when the read ends, not when its caller leaves.
    async fn blocking<T: Send + 'static>(&self, read: impl FnOnce(&Store, &AtomicBool) -> T + Send + 'static) -> Result<T, QueryError> {
        let failed = |reason: String| QueryError::Source { source_name: "store".into(), reason };
        let place = Arc::clone(&self.readers).acquire_owned().await.map_err(|e| failed(e.to_string()))?;
        let left = LeftOnDrop(Arc::new(AtomicBool::new(false)));
        let (store, abandoned) = (Arc::clone(&self.store), Arc::clone(&left.0));
        let read = tokio::task::spawn_blocking(move || {
            let _place = place;
            read(&store, &abandoned)
        });
        read.await.map_err(|e| failed(e.to_string()))
    }

    /// One listing per selector (one for everything where there is none), joined. More than the limit is an error: a
    /// list cut off without a word would read as complete.
    async fn listed<T, L>(&self, request: &SeriesRequest, limits: &Limits, list: L) -> Result<Found<T>, QueryError>
    where
        T: Ord + Send + 'static,
        L: Fn(&Store, &[Matcher], i64, i64, usize) -> (Vec<T>, Vec<String>) + Send + 'static,
    {
        let (SeriesRequest { selectors, from_ms, to_ms }, limits) = (request.clone(), *limits);
        let read = move |store: &Store, abandoned: &AtomicBool| {
            let everything = [Vec::new()];
            let selectors = if selectors.is_empty() { &everything[..] } else { &selectors };
            let (mut items, mut warnings) = (BTreeSet::new(), BTreeSet::new());
            for selector in selectors {
                if abandoned.load(Ordering::Relaxed) {
                    return Err(QueryError::Canceled);
                }
                let (listed, said) = list(store, selector, from_ms, to_ms, limits.series.saturating_add(1));
                items.extend(listed);
                warnings.extend(said);
                limits.check(items.len(), 0)?;
            }
            Ok(Found { items: items.into_iter().collect(), warnings: warnings.into_iter().collect(), infos: Vec::new() })
        };
        self.blocking(read).await?
    }
}

/// Tells a read that nobody waits for it any more.
struct LeftOnDrop(Arc<AtomicBool>);

impl Drop for LeftOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Reads series by series and stops as soon as a limit is passed.
fn read(store: &Store, request: &SelectRequest, limits: Limits, abandoned: &AtomicBool) -> Result<Selection, QueryError> {
    let mut selection = Selection::default();
    let mut count = 0;
    let mut refused = None;
    let keep = |def: &Arc<SeriesDef>, samples: &[Sample]| {
        count += samples.len();
        let checked = limits.check(selection.series.len() + 1, count);
        let checked = if abandoned.load(Ordering::Relaxed) { Err(QueryError::Canceled) } else { checked };
        if let Err(error) = checked {
            refused = Some(error);
            return ControlFlow::Break(());
        }
        selection.series.push(SeriesSamples { labels: def.labels.clone(), kind: def.kind, width: def.width, samples: samples.to_vec() });
        ControlFlow::Continue(())
    };
    let warnings = store.for_each_series(&request.matchers, request.from_ms, request.to_ms, keep);
    selection.warnings = warnings;
    refused.map_or(Ok(selection), Err)
}

#[async_trait]
impl Source for StoreSource {
    async fn select(&self, request: &SelectRequest, limits: &Limits) -> Result<Selection, QueryError> {
        let (request, limits) = (request.clone(), *limits);
        self.blocking(move |store, abandoned| read(store, &request, limits, abandoned)).await?
    }

    async fn series(&self, request: &SeriesRequest, limits: &Limits) -> Result<Found<Labels>, QueryError> {
        let list = |store: &Store, matchers: &[Matcher], from, to, limit| {
            let listing = store.series(matchers, from, to, limit);
            (listing.items, listing.warnings)
        };
        self.listed(request, limits, list).await
    }

    async fn label_names(&self, request: &SeriesRequest, limits: &Limits) -> Result<Found<String>, QueryError> {
        let list = |store: &Store, matchers: &[Matcher], from, to, limit| {
            let listing = store.label_names(matchers, from, to, limit);
            (listing.items.iter().map(|name| name.to_string()).collect(), listing.warnings)
        };
        self.listed(request, limits, list).await
    }

    async fn label_values(&self, name: &str, request: &SeriesRequest, limits: &Limits) -> Result<Found<String>, QueryError> {
        let name = name.to_owned();
        let list = move |store: &Store, matchers: &[Matcher], from, to, limit| {
            let listing = store.label_values(&name, matchers, from, to, limit);
            (listing.items.iter().map(|value| value.to_string()).collect(), listing.warnings)
        };
        self.listed(request, limits, list).await
    }
}
