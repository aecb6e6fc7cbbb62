//! From the root's value to a result in Prometheus' shapes.

use anemone_model::{Labels, Value};

use super::eval::Evaluator;
use super::plan::Node;
use super::select::windows;
use super::vector::{Evaluated, Series, drop_empty, finish_names};
use crate::error::QueryError;

/// One sample of an instant vector.
#[derive(Clone, Debug, PartialEq)]
pub struct VectorSample {
    /// Its labels.
    pub labels: Labels,
    /// Its value.
    pub value: Value,
}

/// One series of a matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct MatrixSeries {
    /// Its labels.
    pub labels: Labels,
    /// Times in milliseconds, ascending, with their values; at least one.
    pub points: Vec<(i64, Value)>,
}

/// What a query is worth.
#[derive(Clone, Debug, PartialEq)]
pub enum QueryResult {
    /// A number at an instant.
    Scalar {
        /// When, in milliseconds.
        time_ms: i64,
        /// The number.
        value: f64,
    },
    /// A string at an instant.
    Text {
        /// When, in milliseconds.
        time_ms: i64,
        /// The string.
        text: String,
    },
    /// An instant vector.
    Vector {
        /// When, in milliseconds.
        time_ms: i64,
        /// In order of labels, or as `sort` and `topk` made it.
        samples: Vec<VectorSample>,
    },
    /// Series over a range, in order of labels.
    Matrix(Vec<MatrixSeries>),
}

/// A result and what is to be said about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The result.
    pub result: QueryResult,
    /// What is missing, and questionable use of the language.
    pub warnings: Vec<String>,
    /// What else is worth knowing.
    pub infos: Vec<String>,
}

/// Evaluates the evaluator's plan.
pub(super) fn answer(evaluator: &Evaluator<'_>) -> Result<Answer, QueryError> {
    let steps = evaluator.steps;
    let time_ms = steps.start_ms;
    let result = match &evaluator.plan.root {
        Node::Range(id) => QueryResult::Matrix(raw(evaluator, *id)),
        root => match evaluator.node(root)? {
            Evaluated::Scalar(values) if evaluator.instant => QueryResult::Scalar { time_ms, value: values[0] },
            Evaluated::Scalar(values) => {
                let points = steps.times().zip(values.into_iter().map(Value::F64)).collect();
                QueryResult::Matrix(vec![MatrixSeries { labels: Labels::default(), points }])
            }
            Evaluated::Text(text) => QueryResult::Text { time_ms, text },
            Evaluated::Vector(vector) => {
                let mut vector = finish_names(vector)?;
                drop_empty(&mut vector);
                if evaluator.instant { QueryResult::Vector { time_ms, samples: samples(vector) } } else { matrix(evaluator, vector) }
            }
        },
    };
    let annotations = evaluator.annotations.take();
    Ok(Answer { result, warnings: annotations.warnings, infos: annotations.infos })
}

fn samples(vector: Vec<Series>) -> Vec<VectorSample> {
    let one = |series: Series| Some(VectorSample { labels: series.labels, value: series.values[0]? });
    vector.into_iter().filter_map(one).collect()
}

fn matrix(evaluator: &Evaluator<'_>, vector: Vec<Series>) -> QueryResult {
    let one = |series: Series| {
        let points = evaluator.steps.times().zip(series.values).filter_map(|(time, value)| Some((time, value?))).collect();
        MatrixSeries { labels: series.labels, points }
    };
    let mut matrix: Vec<MatrixSeries> = vector.into_iter().map(one).collect();
    matrix.sort_by(|a, b| a.labels.cmp(&b.labels));
    QueryResult::Matrix(matrix)
}

/// The samples of a range selector as they are.
fn raw(evaluator: &Evaluator<'_>, id: usize) -> Vec<MatrixSeries> {
    let selector = &evaluator.plan.selectors[id];
    let series = evaluator.fetched[id].iter().filter_map(|series| {
        let window = windows(&series.samples, selector, evaluator.steps).next()?;
        let points: Vec<_> = series.samples[window.first..window.end].iter().map(|s| (s.ts_ms, s.value)).collect();
        (!points.is_empty()).then(|| MatrixSeries { labels: series.labels.clone(), points })
    });
    series.collect()
}
