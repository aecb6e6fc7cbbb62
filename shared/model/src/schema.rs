//! The canonical metric schema, read from `schema.toml` at compile time.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

use crate::series::MetricKind;

/// One canonical metric.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metric {
    /// Its name, with the unit last.
    pub name: String,
    /// What its values mean.
    pub kind: MetricKind,
    /// The unit of its values.
    pub unit: String,
    /// The labels each of its series carries.
    pub labels: Vec<String>,
    /// One sentence for people.
    pub description: String,
    /// OpenConfig path of the same thing, if there is one.
    #[serde(default)]
    pub openconfig: Option<String>,
    /// MIB objects it is read from, best first.
    #[serde(default)]
    pub mib: Vec<String>,
    /// For states: names of the numbers.
    #[serde(default)]
    pub states: BTreeMap<String, u64>,
}

/// All canonical metrics, in the order of the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schema {
    metric: Vec<Metric>,
}

static BUILT_IN: LazyLock<Schema> =
    LazyLock::new(|| toml::from_str(include_str!("../schema.toml")).expect("schema.toml is compiled in and tested"));

impl Schema {
    /// The schema this build knows.
    #[must_use]
    pub fn built_in() -> &'static Self {
        &BUILT_IN
    }

    /// The metric of this name.
    #[must_use]
    pub fn metric(&self, name: &str) -> Option<&Metric> {
        self.metric.iter().find(|m| m.name == name)
    }

    /// All metrics.
    #[must_use]
    pub fn metrics(&self) -> &[Metric] {
        &self.metric
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_complete_and_unique() {
        let schema = Schema::built_in();
        for (at, metric) in schema.metrics().iter().enumerate() {
            assert!(!metric.description.is_empty() && metric.description.ends_with('.'), "{}", metric.name);
            assert!(metric.labels.iter().any(|l| l == "device"), "{}", metric.name);
            assert_eq!(metric.kind == MetricKind::State, !metric.states.is_empty(), "{}", metric.name);
            assert!(schema.metrics()[..at].iter().all(|m| m.name != metric.name), "{} is twice", metric.name);
        }
        assert_eq!(schema.metric("if_oper_status").unwrap().states["lowerLayerDown"], 7);
    }
}
