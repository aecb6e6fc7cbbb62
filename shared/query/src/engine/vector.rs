//! Intermediate results: series over all steps at once, and the rules about names and duplicates.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use anemone_model::{Labels, METRIC_NAME, Value};

use crate::error::QueryError;

/// Prometheus' text for two results with one set of labels.
pub(crate) const DUPLICATE: &str = "vector cannot contain metrics with the same labelset";

/// When an operation that changes a value's meaning takes the metric name away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NameRemoval {
    /// At once; what Prometheus 3 does.
    #[default]
    Immediate,
    /// At the end of the query; Prometheus' flag `promql-delayed-name-removal`.
    Delayed,
}

/// One value per step; `None` where the series has none.
pub(crate) type Column = Vec<Option<Value>>;

/// One series of an instant vector, over all steps.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    pub(crate) labels: Labels,
    /// The name is to be taken away at the end ([`NameRemoval::Delayed`] only).
    pub(crate) drop_name: bool,
    pub(crate) values: Column,
}

/// What an expression is worth.
#[derive(Debug)]
pub(crate) enum Evaluated {
    /// A number per step.
    Scalar(Vec<f64>),
    /// A string.
    Text(String),
    /// An instant vector per step.
    Vector(Vec<Series>),
}

/// `labels` without the metric name.
pub(crate) fn without_name(labels: &Labels) -> Labels {
    labels.filtered(|name| name != METRIC_NAME)
}

/// `labels` with `name` set to `value`; an empty value removes it.
pub(crate) fn with_label(labels: &Labels, name: &str, value: &str) -> Result<Labels, QueryError> {
    let others = labels.iter().filter(|(n, _)| *n != name);
    Labels::new(others.chain([(name, value)])).map_err(|e| QueryError::Execution(e.to_string()))
}

/// Takes the names away, now or marked for later, and merges what became one series.
pub(crate) fn drop_names(mut series: Vec<Series>, when: NameRemoval) -> Result<Vec<Series>, QueryError> {
    if when == NameRemoval::Delayed {
        for one in &mut series {
            one.drop_name = true;
        }
        return Ok(series);
    }
    // Series that differ, but not in the name, differ without it as well.
    let same_name = series.windows(2).all(|pair| pair[0].labels.metric() == pair[1].labels.metric());
    for one in &mut series {
        one.labels = without_name(&one.labels);
    }
    if same_name { Ok(series) } else { merge_duplicates(series) }
}

/// Takes away the names that are marked, at the end of a query.
pub(crate) fn finish_names(mut series: Vec<Series>) -> Result<Vec<Series>, QueryError> {
    if !series.iter().any(|s| s.drop_name) {
        return Ok(series);
    }
    for one in series.iter_mut().filter(|s| s.drop_name) {
        one.labels = without_name(&one.labels);
    }
    merge_duplicates(series)
}

/// Merges series with the same labels that never have a value at the same step.
///
/// # Errors
/// Two values at one step.
pub(crate) fn merge_duplicates(series: Vec<Series>) -> Result<Vec<Series>, QueryError> {
    let mut merged: Vec<Series> = Vec::with_capacity(series.len());
    let mut places: HashMap<Labels, usize> = HashMap::with_capacity(series.len());
    for one in series {
        match places.entry(one.labels.clone()) {
            Entry::Vacant(place) => {
                place.insert(merged.len());
                merged.push(one);
            }
            Entry::Occupied(place) => {
                let first = &mut merged[*place.get()];
                first.drop_name |= one.drop_name;
                for (to, from) in first.values.iter_mut().zip(one.values) {
                    match (&to, from) {
                        (Some(_), Some(_)) => return Err(QueryError::Execution(DUPLICATE.into())),
                        (None, Some(_)) => *to = from,
                        (_, None) => {}
                    }
                }
            }
        }
    }
    Ok(merged)
}

/// Leaves out series without any value.
pub(crate) fn drop_empty(series: &mut Vec<Series>) {
    series.retain(|s| s.values.iter().any(Option::is_some));
}

/// Order of values; integers compare exactly, NaN is below everything.
pub(crate) fn compare(a: Value, b: Value) -> std::cmp::Ordering {
    match (a, b) {
        (Value::U64(a), Value::U64(b)) => a.cmp(&b),
        _ => {
            let (a, b) = (a.as_f64(), b.as_f64());
            a.partial_cmp(&b).unwrap_or_else(|| b.is_nan().cmp(&a.is_nan()))
        }
    }
}
