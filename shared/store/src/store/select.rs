//! Selecting samples.

use std::ops::ControlFlow;
use std::sync::Arc;

use anemone_model::{Sample, SeriesDef};

use super::Store;
use super::scan::Scan;
use crate::index::SeriesRef;
use crate::matcher::Matcher;

/// A series and its samples in the range asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct SelectedSeries {
    /// Labels, kind and width.
    pub def: Arc<SeriesDef>,
    /// In order of time, each time once; at least one.
    pub samples: Vec<Sample>,
}

/// The answer to a [`Store::select`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selection {
    /// Series with samples in the range, in the order they were registered.
    pub series: Vec<SelectedSeries>,
    /// What is missing and why: names block and page.
    pub warnings: Vec<String>,
}

impl Store {
    /// The samples from `from_ms` to `to_ms`, both inclusive, of the series that fit all `matchers`.
    #[must_use]
    pub fn select(&self, matchers: &[Matcher], from_ms: i64, to_ms: i64) -> Selection {
        let mut series = Vec::new();
        let warnings = self.for_each_series(matchers, from_ms, to_ms, |def, samples| {
            series.push(SelectedSeries { def: Arc::clone(def), samples: samples.to_vec() });
            ControlFlow::Continue(())
        });
        Selection { series, warnings }
    }

    /// As [`Store::select`], one series at a time, until `f` breaks off; only one series' samples are in memory. Returns the warnings.
    pub fn for_each_series(
        &self,
        matchers: &[Matcher],
        from_ms: i64,
        to_ms: i64,
        mut f: impl FnMut(&Arc<SeriesDef>, &[Sample]) -> ControlFlow<()>,
    ) -> Vec<String> {
        let fitting = self.index().matching(matchers);
        let mut scan = Scan::new(self, self.view(), from_ms, to_ms);
        let mut samples = Vec::new();
        for series in fitting.iter().map(SeriesRef) {
            scan.read(series, &mut samples);
            if samples.is_empty() {
                continue;
            }
            let def = Arc::new(self.index().def(series));
            if f(&def, &samples).is_break() {
                break;
            }
        }
        scan.into_warnings()
    }
}
