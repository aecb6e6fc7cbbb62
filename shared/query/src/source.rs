//! Where samples come from: the [`Source`] trait, and the wrapper that adds warnings to any source.
//!
//! A source answers from whatever it holds and says in `warnings` what it does not hold. An empty answer with a
//! warning is an answer; an error is for a source that cannot answer at all.

use std::sync::Arc;

use anemone_model::{CounterWidth, Labels, MetricKind, Sample};
use anemone_store::matcher::Matcher;
use async_trait::async_trait;

use crate::error::{Bound, QueryError};

/// Samples wanted of the series that all of `matchers` fit.
#[derive(Clone, Debug)]
pub struct SelectRequest {
    /// All must fit.
    pub matchers: Vec<Matcher>,
    /// First millisecond wanted, inclusive.
    pub from_ms: i64,
    /// Last millisecond wanted, inclusive.
    pub to_ms: i64,
    /// The step of a range query: a hint for the choice of a tier, never a promise to be resampled.
    pub step_ms: Option<i64>,
}

/// Series, label names or label values wanted.
#[derive(Clone, Debug)]
pub struct SeriesRequest {
    /// Each set is one selector; a series is wanted when any set fits. No sets at all: every series.
    pub selectors: Vec<Vec<Matcher>>,
    /// First millisecond wanted, inclusive.
    pub from_ms: i64,
    /// Last millisecond wanted, inclusive.
    pub to_ms: i64,
}

/// What one call of a source may return at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Series (for [`Source::label_names`] and [`Source::label_values`]: entries).
    pub series: usize,
    /// Samples over all series.
    pub samples: usize,
}

impl Limits {
    /// Refuses what exceeds the limits.
    ///
    /// # Errors
    /// [`QueryError::Limit`] naming the bound.
    pub fn check(&self, series: usize, samples: usize) -> Result<(), QueryError> {
        if series > self.series {
            return Err(QueryError::Limit { bound: Bound::Series, limit: self.series });
        }
        if samples > self.samples {
            return Err(QueryError::Limit { bound: Bound::Samples, limit: self.samples });
        }
        Ok(())
    }
}

/// One series' samples in the requested range.
#[derive(Clone, Debug, PartialEq)]
pub struct SeriesSamples {
    /// All labels, the metric name among them.
    pub labels: Labels,
    /// What the values mean.
    pub kind: MetricKind,
    /// Width of the device's counter.
    pub width: CounterWidth,
    /// In order of time, each time once; staleness markers included.
    pub samples: Vec<Sample>,
}

/// The answer to a [`SelectRequest`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selection {
    /// Series with at least one sample in the range, in any order, each once.
    pub series: Vec<SeriesSamples>,
    /// What is missing and why.
    pub warnings: Vec<String>,
    /// What else is worth knowing, such as the tier used.
    pub infos: Vec<String>,
}

/// The answer to a [`SeriesRequest`].
#[derive(Clone, Debug, PartialEq)]
pub struct Found<T> {
    /// What was found, each once, in any order.
    pub items: Vec<T>,
    /// What is missing and why.
    pub warnings: Vec<String>,
    /// What else is worth knowing.
    pub infos: Vec<String>,
}

impl<T> Default for Found<T> {
    fn default() -> Self {
        Self { items: Vec::new(), warnings: Vec::new(), infos: Vec::new() }
    }
}

/// Something that holds series.
#[async_trait]
pub trait Source: Send + Sync {
    /// Samples of the series that fit.
    ///
    /// # Errors
    /// [`QueryError::Limit`] where more than `limits` would be returned; [`QueryError::Source`] where nothing can be said.
    async fn select(&self, request: &SelectRequest, limits: &Limits) -> Result<Selection, QueryError>;

    /// Labels of the series that fit and have samples in the range.
    ///
    /// # Errors
    /// As [`Source::select`].
    async fn series(&self, request: &SeriesRequest, limits: &Limits) -> Result<Found<Labels>, QueryError>;

    /// Label names of the series that fit.
    ///
    /// # Errors
    /// As [`Source::select`].
    async fn label_names(&self, request: &SeriesRequest, limits: &Limits) -> Result<Found<String>, QueryError>;

    /// Values that the label `name` has on the series that fit.
    ///
    /// # Errors
    /// As [`Source::select`].
    async fn label_values(&self, name: &str, request: &SeriesRequest, limits: &Limits) -> Result<Found<String>, QueryError>;
}

/// Says what an answer should be annotated with, whether or not it has any series.
///
/// A hub implements this to warn of PoPs that are dark. It sees every request's selectors and range, so it can stay
/// silent where a PoP cannot matter, such as for `{pop="nyc1"}` while `ams1` is dark.
pub trait Annotate: Send + Sync {
    /// Warnings for a request over `[from_ms, to_ms]`. `selectors` is one set of matchers per selector, one set for a
    /// [`Source::select`]; empty means every series.
    fn warnings(&self, selectors: &[Vec<Matcher>], from_ms: i64, to_ms: i64) -> Vec<String>;
}

impl<F: Fn(&[Vec<Matcher>], i64, i64) -> Vec<String> + Send + Sync> Annotate for F {
    fn warnings(&self, selectors: &[Vec<Matcher>], from_ms: i64, to_ms: i64) -> Vec<String> {
        self(selectors, from_ms, to_ms)
    }
}

/// A source whose answers carry an [`Annotate`]'s warnings as well.
pub struct AnnotatedSource {
    inner: Arc<dyn Source>,
    annotate: Arc<dyn Annotate>,
}

impl AnnotatedSource {
    /// Wraps `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn Source>, annotate: Arc<dyn Annotate>) -> Self {
        Self { inner, annotate }
    }

    fn annotated<T>(&self, mut found: Found<T>, request: &SeriesRequest) -> Found<T> {
        found.warnings.extend(self.annotate.warnings(&request.selectors, request.from_ms, request.to_ms));
        found
    }
}

#[async_trait]
impl Source for AnnotatedSource {
    async fn select(&self, request: &SelectRequest, limits: &Limits) -> Result<Selection, QueryError> {
        let mut selection = self.inner.select(request, limits).await?;
        let selectors = [request.matchers.clone()];
        selection.warnings.extend(self.annotate.warnings(&selectors, request.from_ms, request.to_ms));
        Ok(selection)
    }

    async fn series(&self, request: &SeriesRequest, limits: &Limits) -> Result<Found<Labels>, QueryError> {
        Ok(self.annotated(self.inner.series(request, limits).await?, request))
    }

    async fn label_names(&self, request: &SeriesRequest, limits: &Limits) -> Result<Found<String>, QueryError> {
        Ok(self.annotated(self.inner.label_names(request, limits).await?, request))
    }

    async fn label_values(&self, name: &str, request: &SeriesRequest, limits: &Limits) -> Result<Found<String>, QueryError> {
        Ok(self.annotated(self.inner.label_values(name, request, limits).await?, request))
    }
}
