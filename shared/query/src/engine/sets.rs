//! `and`, `or`, `unless`: which samples of two vectors stay, by labels alone.

use std::collections::HashMap;

use super::matching::signature;
use super::plan::{Matching, SetOperator};
use super::vector::{Series, drop_empty, merge_duplicates};
use crate::error::QueryError;

/// Per match group, the steps at which any series has a value.
fn presence(vector: &[Series], matching: &Matching) -> HashMap<Vec<u8>, Vec<bool>> {
    let mut groups: HashMap<Vec<u8>, Vec<bool>> = HashMap::new();
    for series in vector {
        let present = groups.entry(signature(&series.labels, matching)).or_insert_with(|| vec![false; series.values.len()]);
        for (present, value) in present.iter_mut().zip(&series.values) {
            *present |= value.is_some();
        }
    }
    groups
}

/// Keeps a series' values at the steps where its match group is (`wanted`) or is not among `others`.
fn mask(vector: &mut Vec<Series>, others: &HashMap<Vec<u8>, Vec<bool>>, matching: &Matching, wanted: bool) {
    for series in vector.iter_mut() {
        match others.get(&signature(&series.labels, matching)) {
            Some(present) => {
                for (value, present) in series.values.iter_mut().zip(present) {
                    if *present != wanted {
                        *value = None;
                    }
                }
            }
            None if wanted => series.values.fill(None),
            None => {}
        }
    }
    drop_empty(vector);
}

/// `left operator right`.
///
/// # Errors
/// Two series of one set of labels at one step, which only `or` with delayed names can make.
pub(crate) fn combine(
    operator: SetOperator,
    mut left: Vec<Series>,
    mut right: Vec<Series>,
    matching: &Matching,
) -> Result<Vec<Series>, QueryError> {
    match operator {
        SetOperator::And => mask(&mut left, &presence(&right, matching), matching, true),
        SetOperator::Unless => mask(&mut left, &presence(&right, matching), matching, false),
        SetOperator::Or => {
            mask(&mut right, &presence(&left, matching), matching, false);
            left.extend(right);
            return merge_duplicates(left);
        }
    }
    Ok(left)
}
