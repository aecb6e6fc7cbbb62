//! Aggregations: series into groups, groups into values.

use std::collections::HashMap;

use anemone_model::{Labels, METRIC_NAME, Value};

use super::fold::{Average, Count, Fold, Group, Largest, Smallest, Total, Variance, fold};
use super::plan::{Aggregation, Grouping};
use super::vector::{Column, Series, compare, drop_empty};
use crate::error::QueryError;

/// Series that are aggregated into one.
struct Members {
    labels: Labels,
    drop_name: bool,
    series: Vec<usize>,
}

fn group(vector: &[Series], grouping: &Grouping) -> Vec<Members> {
    let mut groups: Vec<Members> = Vec::new();
    let mut places: HashMap<Labels, usize> = HashMap::new();
    for (at, series) in vector.iter().enumerate() {
        let labels = match grouping {
            Grouping::By(names) if names.is_empty() => Labels::default(),
            Grouping::By(names) => series.labels.filtered(|label| names.iter().any(|n| n == label)),
            Grouping::Without(names) => series.labels.filtered(|label| label != METRIC_NAME && !names.iter().any(|n| n == label)),
        };
        let place = *places.entry(labels).or_insert_with_key(|labels| {
            groups.push(Members { labels: labels.clone(), drop_name: false, series: Vec::new() });
            groups.len() - 1
        });
        groups[place].series.push(at);
        groups[place].drop_name |= series.drop_name;
    }
    groups
}

/// Aggregates `vector` over `steps` steps. `parameter` holds `k` or the quantile per step.
///
/// # Errors
/// A `k` that is not a number or too large.
pub(crate) fn aggregate(
    operator: Aggregation,
    vector: Vec<Series>,
    parameter: &[f64],
    grouping: &Grouping,
    steps: usize,
) -> Result<Vec<Series>, QueryError> {
    let groups = group(&vector, grouping);
    match operator {
        Aggregation::Topk => ranked(vector, &groups, parameter, true),
        Aggregation::Bottomk => ranked(vector, &groups, parameter, false),
        _ => {
            let aggregated = groups.into_iter().map(|members| {
                let values = values(operator, &vector, &members.series, parameter, steps);
                Series { labels: members.labels, drop_name: members.drop_name, values }
            });
            Ok(aggregated.collect())
        }
    }
}

fn values(operator: Aggregation, vector: &[Series], members: &[usize], parameter: &[f64], steps: usize) -> Column {
    fn folded<F: Fold>(vector: &[Series], members: &[usize], steps: usize) -> Column {
        fold::<F>(members.iter().map(|at| vector[*at].values.as_slice()), steps)
    }
    match operator {
        Aggregation::Sum => folded::<Total>(vector, members, steps),
        Aggregation::Count => folded::<Count>(vector, members, steps),
        Aggregation::Max => folded::<Largest>(vector, members, steps),
        Aggregation::Min => folded::<Smallest>(vector, members, steps),
        Aggregation::Avg => folded::<Average>(vector, members, steps),
        Aggregation::Group => folded::<Group>(vector, members, steps),
        Aggregation::Stdvar => folded::<Variance<false>>(vector, members, steps),
        Aggregation::Stddev => folded::<Variance<true>>(vector, members, steps),
        Aggregation::Quantile | Aggregation::Topk | Aggregation::Bottomk => (0..steps)
            .map(|step| {
                let mut present: Vec<f64> = members.iter().filter_map(|at| vector[*at].values[step]).map(Value::as_f64).collect();
                (!present.is_empty()).then(|| Value::F64(quantile(parameter[step], &mut present)))
            })
            .collect(),
    }
}

/// The `q`-quantile of `values` with linear interpolation; NaN sorts lowest. Infinite for `q` outside 0 to 1.
pub(crate) fn quantile(q: f64, values: &mut [f64]) -> f64 {
    if values.is_empty() || q.is_nan() {
        return f64::NAN;
    }
    if !(0.0..=1.0).contains(&q) {
        return if q < 0.0 { f64::NEG_INFINITY } else { f64::INFINITY };
    }
    values.sort_by(|a, b| compare(Value::F64(*a), Value::F64(*b)));
    #[expect(clippy::cast_precision_loss, reason = "a count of series")]
    let rank = q * (values.len() - 1) as f64;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the number of values")]
    let lower = rank.floor() as usize;
    let upper = (lower + 1).min(values.len() - 1);
    let weight = rank - rank.floor();
    values[lower] * (1.0 - weight) + values[upper] * weight
}

/// `topk` and `bottomk`: the members keep their labels, and their values where they are among the `k`.
fn ranked(mut vector: Vec<Series>, groups: &[Members], parameter: &[f64], largest: bool) -> Result<Vec<Series>, QueryError> {
    let mut order: Vec<usize> = Vec::with_capacity(vector.len());
    for members in groups {
        let mut ranked = members.series.clone();
        for (step, k) in parameter.iter().enumerate() {
            let k = count(*k)?;
            ranked.clone_from(&members.series);
            ranked.retain(|at| vector[*at].values[step].is_some());
            // NaN ranks last either way; of equals the first stay.
            let rank = |a: &usize, b: &usize| {
                let value = |at: usize| vector[at].values[step].unwrap_or(Value::F64(f64::NAN));
                let (x, y) = (value(*a), value(*b));
                let nan = x.as_f64().is_nan().cmp(&y.as_f64().is_nan());
                nan.then_with(|| if largest { compare(y, x) } else { compare(x, y) }).then(a.cmp(b))
            };
            if k > 0 && k < ranked.len() {
                ranked.select_nth_unstable_by(k - 1, rank);
            }
            let kept = k.min(ranked.len());
            ranked[..kept].sort_unstable_by(rank);
            for out in ranked.drain(kept..) {
                vector[out].values[step] = None;
            }
        }
        // The order of an instant query's result; a range query's is by labels anyway.
        let rest = members.series.iter().copied().filter(|at| !ranked.contains(at));
        order.extend(ranked.iter().copied());
        if parameter.len() > 1 {
            order.extend(rest);
        }
    }
    let mut slots: Vec<Option<Series>> = vector.into_iter().map(Some).collect();
    let mut kept: Vec<Series> = order.into_iter().filter_map(|at| slots[at].take()).collect();
    drop_empty(&mut kept);
    Ok(kept)
}

fn count(k: f64) -> Result<usize, QueryError> {
    if k.is_nan() {
        return Err(QueryError::Execution("Parameter value is NaN".into()));
    }
    if !(-9.2e18..9.2e18).contains(&k) {
        return Err(QueryError::Execution(format!("Scalar value {} overflows int64", Value::F64(k))));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above; a count below one is none")]
    Ok(k.max(0.0) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_interpolate() {
        for (q, values, expected) in [
            (0.5, vec![0.0, 1.0], 0.5),
            (0.75, vec![4.0, 0.0, 1.0], 2.5),
            (0.0, vec![3.0], 3.0),
            (-0.1, vec![3.0], f64::NEG_INFINITY),
            (1.1, vec![3.0], f64::INFINITY),
        ] {
            assert_eq!(quantile(q, &mut values.clone()), expected, "{q} of {values:?}");
        }
        assert!(quantile(f64::NAN, &mut [1.0]).is_nan());
        assert!(quantile(0.0, &mut [1.0, f64::NAN]).is_nan());
    }
}
