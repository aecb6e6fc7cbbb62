//! Functions of time, between scalars and vectors, of presence and of order.

use std::collections::{BTreeMap, BTreeSet};

use anemone_model::{Labels, METRIC_NAME, Value};
use anemone_store::matcher::MatchOp;

use super::super::eval::Evaluator;
use super::super::plan::Node;
use super::super::vector::{Evaluated, Series, compare};
use super::{Body, Function};
use crate::error::QueryError;

pub(super) const FUNCTIONS: &[Function] = &[
    Function { name: "time", body: Body::Special(|evaluator, _| Ok(Evaluated::Scalar(times(evaluator)))) },
    Function { name: "vector", body: Body::Special(vector) },
    Function { name: "scalar", body: Body::Special(scalar) },
    Function { name: "timestamp", body: Body::Special(timestamp) },
    Function { name: "absent", body: Body::Special(absent) },
    Function { name: "sort", body: Body::Special(|evaluator, arguments| sorted(evaluator, arguments, false)) },
    Function { name: "sort_desc", body: Body::Special(|evaluator, arguments| sorted(evaluator, arguments, true)) },
];

#[expect(clippy::cast_precision_loss, reason = "milliseconds below 2^53")]
fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

fn times(evaluator: &Evaluator<'_>) -> Vec<f64> {
    evaluator.steps.times().map(seconds).collect()
}

fn first(arguments: &[Node]) -> Result<&Node, QueryError> {
    arguments.first().ok_or_else(|| QueryError::Execution("a function misses its argument".into()))
}

fn vector(evaluator: &Evaluator<'_>, arguments: &[Node]) -> Result<Evaluated, QueryError> {
    let values = evaluator.scalar(first(arguments)?)?.into_iter().map(|v| Some(Value::F64(v))).collect();
    Ok(Evaluated::Vector(vec![Series { labels: Labels::default(), drop_name: false, values }]))
}

/// The one value of a step, or NaN where there is none or more than one.
fn scalar(evaluator: &Evaluator<'_>, arguments: &[Node]) -> Result<Evaluated, QueryError> {
    let vector = evaluator.vector(first(arguments)?)?;
    let at_step = |step: usize| {
        let mut present = vector.iter().filter_map(|series| series.values[step]);
        match (present.next(), present.next()) {
            (Some(only), None) => only.as_f64(),
            _ => f64::NAN,
        }
    };
    Ok(Evaluated::Scalar((0..evaluator.steps.count).map(at_step).collect()))
}

/// When the sample was taken, for a selector; the time of evaluation for anything else.
fn timestamp(evaluator: &Evaluator<'_>, arguments: &[Node]) -> Result<Evaluated, QueryError> {
    let argument = first(arguments)?;
    if let Node::Instant(id) = argument {
        let taken = evaluator.instant(*id, |sample| Value::F64(seconds(sample.ts_ms)))?;
        return evaluator.renamed(taken, true);
    }
    let mut vector = evaluator.vector(argument)?;
    let times = times(evaluator);
    for series in &mut vector {
        for (value, time) in series.values.iter_mut().zip(&times) {
            *value = value.map(|_| Value::F64(*time));
        }
    }
    evaluator.renamed(vector, true)
}

/// 1 at the steps where there is nothing, with the labels that a selector's `=` matchers fix.
fn absent(evaluator: &Evaluator<'_>, arguments: &[Node]) -> Result<Evaluated, QueryError> {
    let argument = first(arguments)?;
    let vector = evaluator.vector(argument)?;
    let at_step = |step: usize| vector.iter().all(|series| series.values[step].is_none()).then_some(Value::F64(1.0));
    let values = (0..evaluator.steps.count).map(at_step).collect();
    let mut fixed: BTreeMap<&str, &str> = BTreeMap::new();
    if let Node::Instant(id) = argument {
        let mut seen = BTreeSet::new();
        for matcher in evaluator.plan.selectors[*id].matchers.iter().filter(|m| m.name != METRIC_NAME) {
            // As Prometheus: a second matcher of any kind for the label unfixes it.
            if matcher.op == MatchOp::Equal && seen.insert(matcher.name.as_str()) {
                fixed.insert(&matcher.name, &matcher.value);
            } else {
                fixed.remove(matcher.name.as_str());
            }
        }
    }
    let labels = Labels::new(fixed).map_err(|e| QueryError::Execution(e.to_string()))?;
    evaluator.renamed(vec![Series { labels, drop_name: false, values }], false)
}

/// By value, NaN last; in a range query the order is by labels whatever one does.
fn sorted(evaluator: &Evaluator<'_>, arguments: &[Node], descending: bool) -> Result<Evaluated, QueryError> {
    let mut vector = evaluator.vector(first(arguments)?)?;
    if !evaluator.instant {
        evaluator.warn(String::from("PromQL warning: sort is ineffective for range queries since results are always ordered by labels"));
        return Ok(Evaluated::Vector(vector));
    }
    let value = |series: &Series| series.values[0].unwrap_or(Value::F64(f64::NAN));
    vector.sort_by(|a, b| {
        let (a, b) = (value(a), value(b));
        let nan = a.as_f64().is_nan().cmp(&b.as_f64().is_nan());
        nan.then_with(|| if descending { compare(b, a) } else { compare(a, b) })
    });
    Ok(Evaluated::Vector(vector))
}
