//! Functions that change labels.

use anemone_model::METRIC_NAME;

use super::super::eval::Evaluator;
use super::super::plan::Node;
use super::super::vector::{Evaluated, merge_duplicates, with_label};
use super::{Body, Function};
use crate::error::QueryError;

pub(super) const FUNCTIONS: &[Function] = &[Function { name: "label_replace", body: Body::Special(label_replace) }];

/// `label_replace(v, destination, replacement, source, pattern)`: where the pattern fits all of the source label's
/// value, the destination becomes the replacement with its `$1`, `$name` expanded.
fn label_replace(evaluator: &Evaluator<'_>, arguments: &[Node]) -> Result<Evaluated, QueryError> {
    let [vector, destination, replacement, source, pattern] = arguments else {
        return Err(QueryError::Execution("label_replace() needs five arguments".into()));
    };
    let destination = evaluator.text(destination)?;
    let (replacement, source, pattern) = (evaluator.text(replacement)?, evaluator.text(source)?, evaluator.text(pattern)?);
    let regex = regex::RegexBuilder::new(&format!("^(?s:{pattern})$"))
        .size_limit(1 << 20)
        .build()
        .map_err(|e| QueryError::Execution(format!("invalid regular expression in label_replace(): {pattern}: {e}")))?;
    if destination.is_empty() {
        return Err(QueryError::Execution("invalid destination label name in label_replace(): the name is empty".into()));
    }
    let mut vector = evaluator.vector(vector)?;
    for series in &mut vector {
        let value = series.labels.value(source).unwrap_or("").to_owned();
        let Some(captures) = regex.captures(&value) else { continue };
        let mut expanded = String::new();
        captures.expand(replacement, &mut expanded);
        series.labels = with_label(&series.labels, destination, &expanded)?;
        if destination == METRIC_NAME {
            series.drop_name = false;
        }
    }
    merge_duplicates(vector).map(Evaluated::Vector)
}
