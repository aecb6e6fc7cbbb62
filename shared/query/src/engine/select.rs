//! Samples of a selector at steps: the latest within the lookback, or the windows of a range.
//!
//! Both are open on the left: a sample exactly a lookback or a range before the step is outside (Prometheus 3).
//! Indices only move forward while the steps do.

use anemone_model::Sample;

use super::plan::{Selector, Steps};
use super::vector::Column;
use crate::source::SeriesSamples;

/// What [`at_steps`] takes from the sample found.
pub(crate) type Pick = fn(&Sample) -> anemone_model::Value;

/// The value at each step; a staleness marker ends the series.
pub(crate) fn at_steps(series: &SeriesSamples, selector: &Selector, steps: Steps, lookback_ms: i64, pick: Pick) -> Column {
    let mut next = 0;
    let samples = &series.samples;
    let mut latest = |reference: i64| {
        while samples.get(next).is_some_and(|s| s.ts_ms <= reference) {
            next += 1;
        }
        let sample = samples[..next].last()?;
        (sample.ts_ms > reference.saturating_sub(lookback_ms) && !sample.value.is_stale()).then(|| pick(sample))
    };
    if let Some(at) = selector.at_ms {
        return vec![latest(selector.reference(at)); steps.count];
    }
    steps.times().map(|time| latest(selector.reference(time))).collect()
}

/// One step's window into a series' samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Excluded.
    pub(crate) start_ms: i64,
    /// Included.
    pub(crate) end_ms: i64,
    /// Index of the first sample inside.
    pub(crate) first: usize,
    /// Index after the last sample inside.
    pub(crate) end: usize,
}

/// The windows of a range over `samples`, one per step.
pub(crate) fn windows(samples: &[Sample], selector: &Selector, steps: Steps) -> impl Iterator<Item = Bounds> {
    let range = selector.range_ms.unwrap_or(0);
    let (mut first, mut end) = (0, 0);
    steps.times().map(move |time| {
        let end_ms = selector.reference(time);
        let start_ms = end_ms.saturating_sub(range);
        while samples.get(end).is_some_and(|s| s.ts_ms <= end_ms) {
            end += 1;
        }
        while first < end && samples[first].ts_ms <= start_ms {
            first += 1;
        }
        Bounds { start_ms, end_ms, first, end }
    })
}

#[cfg(test)]
mod tests {
    use anemone_model::{CounterWidth, Labels, MetricKind, Value};

    use super::*;

    fn selector(range_ms: Option<i64>, at_ms: Option<i64>, offset_ms: i64) -> Selector {
        Selector { matchers: Vec::new(), at_ms, offset_ms, range_ms }
    }

    fn series(samples: &[(i64, f64)]) -> SeriesSamples {
        let samples = samples.iter().map(|(t, v)| Sample::new(*t, Value::F64(*v))).collect();
        SeriesSamples { labels: Labels::default(), kind: MetricKind::Gauge, width: CounterWidth::Unknown, samples }
    }

    #[test]
    fn lookback_is_open_on_the_left_and_stale_ends() {
        let mut one = series(&[(0, 1.0), (100, 2.0), (200, 0.0)]);
        one.samples[2].value = Value::stale();
        let steps = Steps { start_ms: -50, step_ms: 50, count: 7 };
        let picked = at_steps(&one, &selector(None, None, 0), steps, 100, |s| s.value);
        let expected = [None, Some(1.0), Some(1.0), Some(2.0), Some(2.0), None, None];
        assert_eq!(picked, expected.map(|v| v.map(Value::F64)));
        one.samples.truncate(2);
        let gone = at_steps(&one, &selector(None, None, 0), Steps { start_ms: 199, step_ms: 1, count: 2 }, 100, |s| s.value);
        assert_eq!(gone, [Some(Value::F64(2.0)), None]);
    }

    #[test]
    fn at_and_offset_move_the_reference() {
        let one = series(&[(0, 1.0), (100, 2.0)]);
        let steps = Steps { start_ms: 1000, step_ms: 1000, count: 2 };
        let fixed = at_steps(&one, &selector(None, Some(150), 60), steps, 100, |s| s.value);
        assert_eq!(fixed, [Some(Value::F64(1.0)); 2]);
        let ahead = at_steps(&one, &selector(None, None, -50), Steps { start_ms: 50, step_ms: 1, count: 1 }, 100, |s| s.value);
        assert_eq!(ahead, [Some(Value::F64(2.0))]);
    }

    #[test]
    fn windows_are_open_on_the_left() {
        let one = series(&[(0, 1.0), (10, 2.0), (20, 3.0), (30, 4.0)]);
        let found: Vec<_> = windows(&one.samples, &selector(Some(20), None, 0), Steps { start_ms: 20, step_ms: 10, count: 3 }).collect();
        let expected = [(0, 20, 1, 3), (10, 30, 2, 4), (20, 40, 3, 4)];
        assert_eq!(found, expected.map(|(start_ms, end_ms, first, end)| Bounds { start_ms, end_ms, first, end }));
    }
}
