//! Aggregations over the samples of a window.

use anemone_model::Value;

use super::super::fold::{Average, Fold, Largest, Smallest, Total};
use super::{Body, Function, Window, WindowFunction};

pub(super) const FUNCTIONS: &[Function] = &[
    Function { name: "avg_over_time", body: Body::Window(WindowFunction::new(folded::<Average>)) },
    Function { name: "min_over_time", body: Body::Window(WindowFunction::new(folded::<Smallest>)) },
    Function { name: "max_over_time", body: Body::Window(WindowFunction::new(folded::<Largest>)) },
    Function { name: "sum_over_time", body: Body::Window(WindowFunction::new(folded::<Total>)) },
    Function { name: "count_over_time", body: Body::Window(WindowFunction::new(count)) },
    Function { name: "last_over_time", body: Body::Window(WindowFunction { keeps_name: true, ..WindowFunction::new(last) }) },
];

#[expect(clippy::unnecessary_wraps, reason = "the shape of a window function")]
fn folded<F: Fold>(window: &Window<'_>) -> Option<Value> {
    let mut fold = F::default();
    window.samples.iter().for_each(|sample| fold.add(sample.value));
    Some(fold.finish())
}

#[expect(clippy::unnecessary_wraps, reason = "the shape of a window function")]
fn count(window: &Window<'_>) -> Option<Value> {
    Some(Value::U64(window.samples.len() as u64))
}

fn last(window: &Window<'_>) -> Option<Value> {
    window.samples.last().map(|sample| sample.value)
}
