//! `rate`, `increase`, `delta`, `irate`: change within a window, extrapolated to its edges as Prometheus 3 does.

use anemone_model::{Sample, Value};

use super::super::counter::increase_between;
use super::{Body, Function, Window, WindowFunction};

const fn counter(evaluate: fn(&Window<'_>) -> Option<Value>) -> WindowFunction {
    WindowFunction { running_totals: true, expects_counter: true, ..WindowFunction::new(evaluate) }
}

pub(super) const FUNCTIONS: &[Function] = &[
    Function { name: "rate", body: Body::Window(counter(rate)) },
    Function { name: "increase", body: Body::Window(counter(increase)) },
    Function { name: "delta", body: Body::Window(WindowFunction::new(delta)) },
    Function { name: "irate", body: Body::Window(WindowFunction::new(irate)) },
];

#[expect(clippy::cast_precision_loss, reason = "milliseconds below 2^53")]
fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

fn increase(window: &Window<'_>) -> Option<Value> {
    let increase = window.increases?.over(window.samples, window.bounds.first);
    extrapolated(window, increase, true).map(Value::F64)
}

fn rate(window: &Window<'_>) -> Option<Value> {
    let increase = window.increases?.over(window.samples, window.bounds.first);
    let range = seconds(window.bounds.end_ms - window.bounds.start_ms);
    // In Prometheus' order of operations, so that results round alike.
    scaled(window, increase, true, |factor| factor / range).map(Value::F64)
}

fn delta(window: &Window<'_>) -> Option<Value> {
    let (first, last) = (window.samples.first()?, window.samples.last()?);
    extrapolated(window, difference(first, last), false).map(Value::F64)
}

/// `last - first`, exact before it becomes a float.
#[expect(clippy::cast_precision_loss, reason = "the difference is exact; a delta is a float")]
fn difference(first: &Sample, last: &Sample) -> f64 {
    match (first.value, last.value) {
        (Value::U64(a), Value::U64(b)) if b >= a => (b - a) as f64,
        (Value::U64(a), Value::U64(b)) => -((a - b) as f64),
        (a, b) => b.as_f64() - a.as_f64(),
    }
}

fn extrapolated(window: &Window<'_>, change: f64, counter: bool) -> Option<f64> {
    scaled(window, change, counter, |factor| factor)
}

/// Extrapolates the change between the first and last sample to the edges of the window: to an edge less than 1.1
/// average intervals away, otherwise by half an interval; a counter never to before it was zero.
#[expect(clippy::cast_precision_loss, reason = "a count of samples")]
fn scaled(window: &Window<'_>, change: f64, counter: bool, scale: impl Fn(f64) -> f64) -> Option<f64> {
    let (first, last) = (window.samples.first()?, window.samples.last()?);
    if window.samples.len() < 2 {
        return None;
    }
    let mut to_start = seconds(first.ts_ms - window.bounds.start_ms);
    let mut to_end = seconds(window.bounds.end_ms - last.ts_ms);
    let sampled = seconds(last.ts_ms - first.ts_ms);
    let average = sampled / (window.samples.len() - 1) as f64;
    let threshold = average * 1.1;
    if to_start >= threshold {
        to_start = average / 2.0;
    }
    let head = first.value.as_f64();
    if counter && change > 0.0 && head >= 0.0 {
        to_start = to_start.min(sampled * (head / change));
    }
    if to_end >= threshold {
        to_end = average / 2.0;
    }
    Some(change * scale((sampled + to_start + to_end) / sampled))
}

fn irate(window: &Window<'_>) -> Option<Value> {
    let [.., previous, last] = window.samples else {
        return None;
    };
    let increase = increase_between(previous, last, window.width);
    Some(Value::F64(increase / seconds(last.ts_ms - previous.ts_ms)))
}
