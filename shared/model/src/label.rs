//! Labels: the sorted name=value pairs that, with the metric name, are a series.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The label that holds the metric name, as in Prometheus' data model.
pub const METRIC_NAME: &str = "__name__";

/// Most labels a series may have, the metric name among them.
pub const LABELS_MAX: usize = 64;
/// Longest label name, in bytes.
pub const LABEL_NAME_MAX: usize = 256;
/// Longest label value, in bytes.
pub const LABEL_VALUE_MAX: usize = 2048;

/// One label: name, value.
pub type Label = (Arc<str>, Arc<str>);

/// A sorted set of labels with unique names; the metric name is the label [`METRIC_NAME`].
///
/// An empty value is the same as an absent label and is never kept.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<Label>", into = "Vec<Label>")]
pub struct Labels(Vec<Label>);

/// Why pairs are not a valid set of labels.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelsError {
    /// A name twice.
    #[error("label {0:?} is given twice")]
    Duplicate(String),
    /// More than [`LABELS_MAX`].
    #[error("{0} labels are more than the limit of {LABELS_MAX}")]
    TooMany(usize),
    /// A name that is empty or longer than [`LABEL_NAME_MAX`].
    #[error("label name {0:?} is empty or longer than {LABEL_NAME_MAX} bytes")]
    Name(String),
    /// A value longer than [`LABEL_VALUE_MAX`].
    #[error("the value of label {0:?} has {1} bytes, more than the limit of {LABEL_VALUE_MAX}")]
    Value(String, usize),
}

impl Labels {
    /// Sorts and checks `pairs`; pairs with an empty value are left out.
    ///
    /// # Errors
    /// A name given twice, too many labels, or a name or value over its limit.
    pub fn new<N: Into<Arc<str>>, V: Into<Arc<str>>>(pairs: impl IntoIterator<Item = (N, V)>) -> Result<Self, LabelsError> {
        let mut labels: Vec<Label> = pairs.into_iter().map(|(n, v)| (n.into(), v.into())).filter(|(_, v): &Label| !v.is_empty()).collect();
        labels.sort();
        if labels.len() > LABELS_MAX {
            return Err(LabelsError::TooMany(labels.len()));
        }
        for (at, (name, value)) in labels.iter().enumerate() {
            if name.is_empty() || name.len() > LABEL_NAME_MAX {
                return Err(LabelsError::Name(name.to_string()));
            }
            if value.len() > LABEL_VALUE_MAX {
                return Err(LabelsError::Value(name.to_string(), value.len()));
            }
            if at > 0 && labels[at - 1].0 == *name {
                return Err(LabelsError::Duplicate(name.to_string()));
            }
        }
        Ok(Self(labels))
    }

    /// The value of `name`, if present.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        self.0.binary_search_by(|(n, _)| (**n).cmp(name)).ok().map(|at| &*self.0[at].1)
    }

    /// The metric name, or "" where there is none.
    #[must_use]
    pub fn metric(&self) -> &str {
        self.value(METRIC_NAME).unwrap_or("")
    }

    /// The labels in order of name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> + Clone {
        self.0.iter().map(|(n, v)| (&**n, &**v))
    }

    /// The labels as shared pairs, in order of name.
    #[must_use]
    pub fn as_pairs(&self) -> &[Label] {
        &self.0
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A copy with only the labels for which `keep` says so.
    #[must_use]
    pub fn filtered(&self, keep: impl Fn(&str) -> bool) -> Self {
        Self(self.0.iter().filter(|(n, _)| keep(n)).cloned().collect())
    }

    /// Appends the canonical form: `name 0xFF value 0xFF` per label in order; 0xFF cannot occur in UTF-8.
    pub fn write_canonical(&self, out: &mut Vec<u8>) {
        for (name, value) in &self.0 {
            out.extend_from_slice(name.as_bytes());
            out.push(0xFF);
            out.extend_from_slice(value.as_bytes());
            out.push(0xFF);
        }
    }
}

impl TryFrom<Vec<Label>> for Labels {
    type Error = LabelsError;

    fn try_from(pairs: Vec<Label>) -> Result<Self, LabelsError> {
        Self::new(pairs)
    }
}

impl From<Labels> for Vec<Label> {
    fn from(labels: Labels) -> Self {
        labels.0
    }
}

impl fmt::Display for Labels {
    /// `metric{name="value",...}` with Prometheus' escaping of `\`, `"` and line feed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.metric())?;
        f.write_str("{")?;
        for (at, (name, value)) in self.iter().filter(|(n, _)| *n != METRIC_NAME).enumerate() {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            write!(f, "{}{name}=\"{value}\"", if at > 0 { "," } else { "" })?;
        }
        f.write_str("}")
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_sorted_and_empty_values_absent() {
        let labels = Labels::new([("pop", "ams1"), (METRIC_NAME, "up"), ("a", ""), ("device", "sw\"1")]).unwrap();
        assert_eq!(labels.to_string(), "up{device=\"sw\\\"1\",pop=\"ams1\"}");
        assert_eq!(labels.value("pop"), Some("ams1"));
        assert_eq!(labels.value("a"), None);
    }

    #[test]
    fn bad_labels_are_named() {
        assert_eq!(Labels::new([("a", "1"), ("a", "2")]), Err(LabelsError::Duplicate("a".into())));
        assert_eq!(Labels::new([("", "1")]), Err(LabelsError::Name(String::new())));
        assert_eq!(Labels::new([("a".to_owned(), "x".repeat(3000))]), Err(LabelsError::Value("a".into(), 3000)));
        assert_eq!(Labels::new((0..65).map(|n| (format!("l{n}"), "x"))), Err(LabelsError::TooMany(65)));
    }
}
