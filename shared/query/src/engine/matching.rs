//! Arithmetic and comparison between two vectors: series find each other by labels.
//!
//! Labels do not change from step to step, so match groups are formed once and each group is then worked through over
//! all steps. What Prometheus reports per step (a match group with two series on the one side) is still per step here:
//! two series of one group that never have a value together are no error.

use std::collections::HashMap;

use anemone_model::Labels;

use super::binary::Operator;
use super::plan::{Cardinality, Matching};
use super::vector::{NameRemoval, Series, merge_duplicates, with_label, without_name};
use crate::error::QueryError;

/// The labels by which a series is matched, in bytes that differ where they differ.
pub(crate) fn signature(labels: &Labels, matching: &Matching) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    if matching.on {
        for name in &matching.labels {
            out.extend_from_slice(labels.value(name).unwrap_or("").as_bytes());
            out.push(0xFF);
        }
    } else {
        matched_labels(labels, matching).write_canonical(&mut out);
    }
    out
}

/// The labels by which a series is matched.
fn matched_labels(labels: &Labels, matching: &Matching) -> Labels {
    let listed = |name: &str| matching.labels.iter().any(|l| l == name);
    if matching.on { labels.filtered(listed) } else { without_name(labels).filtered(|name| !listed(name)) }
}

/// Series of both sides with one signature.
#[derive(Default)]
struct Group {
    many: Vec<usize>,
    one: Vec<usize>,
}

/// `left operator right`, series by series.
///
/// # Errors
/// Two series of a match group at one step on a side that may have only one.
pub(crate) fn vectors(
    operator: Operator,
    left: Vec<Series>,
    right: Vec<Series>,
    matching: &Matching,
    bool_result: bool,
    names: NameRemoval,
) -> Result<Vec<Series>, QueryError> {
    let swapped = matching.cardinality == Cardinality::OneToMany;
    let (many, one) = if swapped { (right, left) } else { (left, right) };
    let mut groups: Vec<Group> = Vec::new();
    let mut places: HashMap<Vec<u8>, usize> = HashMap::new();
    let mut place = |labels: &Labels, groups: &mut Vec<Group>| {
        *places.entry(signature(labels, matching)).or_insert_with(|| {
            groups.push(Group::default());
            groups.len() - 1
        })
    };
    for (at, series) in many.iter().enumerate() {
        let group = place(&series.labels, &mut groups);
        groups[group].many.push(at);
    }
    for (at, series) in one.iter().enumerate() {
        let group = place(&series.labels, &mut groups);
        groups[group].one.push(at);
    }
    let joined = Join { operator, many: &many, one: &one, matching, bool_result, names, swapped };
    let mut results = Vec::new();
    for group in &groups {
        joined.group(group, &mut results)?;
    }
    merge_duplicates(results)
}

struct Join<'a> {
    operator: Operator,
    many: &'a [Series],
    one: &'a [Series],
    matching: &'a Matching,
    bool_result: bool,
    names: NameRemoval,
    /// The many side is the right one.
    swapped: bool,
}

impl Join<'_> {
    fn group(&self, group: &Group, results: &mut Vec<Series>) -> Result<(), QueryError> {
        let partners = self.partners(group)?;
        if group.many.is_empty() || group.one.is_empty() {
            return Ok(());
        }
        // Steps at which a result of these labels exists already; one-to-one: any result at all.
        let mut taken: HashMap<Labels, Vec<bool>> = HashMap::new();
        let to_one = self.matching.cardinality == Cardinality::OneToOne;
        for &many in &group.many {
            for &one in &group.one {
                let many_side = &self.many[many];
                let labels = self.labels(&many_side.labels, &self.one[one].labels)?;
                let key = if to_one { Labels::default() } else { labels.clone() };
                let taken = taken.entry(key).or_insert_with(|| vec![false; many_side.values.len()]);
                let mut values = vec![None; many_side.values.len()];
                let mut any = false;
                for (step, value) in many_side.values.iter().enumerate() {
                    let (Some(value), true) = (value, partners[step] == Some(one)) else { continue };
                    if std::mem::replace(&mut taken[step], true) {
                        return Err(QueryError::Execution(multiple_matches(to_one).to_owned()));
                    }
                    let Some(other) = self.one[one].values[step] else { continue };
                    let (a, b) = if self.swapped { (other, *value) } else { (*value, other) };
                    values[step] = self.operator.combine(a, b, self.bool_result);
                    any |= values[step].is_some();
                }
                if any {
                    let drop_name = self.names == NameRemoval::Delayed && self.operator.drops_name(self.bool_result);
                    results.push(Series { labels, drop_name, values });
                }
            }
        }
        Ok(())
    }

    /// Per step, the series of the one side.
    fn partners(&self, group: &Group) -> Result<Vec<Option<usize>>, QueryError> {
        let mut partners: Vec<Option<usize>> = Vec::new();
        for &one in &group.one {
            let values = &self.one[one].values;
            partners.resize(values.len(), None);
            for step in (0..values.len()).filter(|step| values[*step].is_some()) {
                match partners[step] {
                    None => partners[step] = Some(one),
                    // An empty other side is answered by an empty result before anybody looks.
                    Some(_) if !self.many.iter().any(|m| m.values[step].is_some()) => {}
                    Some(first) => return Err(self.several(first, one)),
                }
            }
        }
        Ok(partners)
    }

    fn several(&self, first: usize, second: usize) -> QueryError {
        let group = matched_labels(&self.one[first].labels, self.matching);
        let mut both = [&self.one[first].labels, &self.one[second].labels];
        both.sort();
        QueryError::Execution(format!(
            "found duplicate series for the match group {} on the {} hand-side of the operation: [{}, {}];many-to-many matching not allowed: matching labels must be unique on one side",
            braced(&group),
            if self.swapped { "left" } else { "right" },
            braced(both[0]),
            braced(both[1]),
        ))
    }

    /// Labels of a result.
    fn labels(&self, many: &Labels, one: &Labels) -> Result<Labels, QueryError> {
        let mut labels = many.clone();
        if self.names == NameRemoval::Immediate && self.operator.drops_name(self.bool_result) {
            labels = without_name(&labels);
        }
        if self.matching.cardinality == Cardinality::OneToOne {
            labels = labels.filtered(|name| self.matching.labels.iter().any(|l| l == name) == self.matching.on);
        }
        for name in &self.matching.include {
            labels = with_label(&labels, name, one.value(name).unwrap_or(""))?;
        }
        Ok(labels)
    }
}

fn multiple_matches(to_one: bool) -> &'static str {
    if to_one {
        "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)"
    } else {
        "multiple matches for labels: grouping labels must ensure unique matches"
    }
}

/// `{__name__="up", pop="ams1"}`, as Prometheus prints labels in errors.
fn braced(labels: &Labels) -> String {
    let pairs: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
    format!("{{{}}}", pairs.join(", "))
}
